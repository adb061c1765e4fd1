//! Progress of a run: a bar on a terminal, otherwise a log line every 30 seconds.

use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressStyle};

use super::row::status_name;
use crate::{
    evaluate::{Evaluation, result::Status},
    judge::{Budget, Cost},
};

/// Interval between log lines.
const LOG_EVERY: Duration = Duration::from_secs(30);

/// Progress of a run.
pub(super) struct EvaluationProgress {
    bar: ProgressBar,
    /// Number of lines; `None` if they cannot be counted in advance.
    total: Option<u64>,
    budget: Budget,
    logged: Instant,
    pub counts: LineCounts,
}

/// Numbers of processed lines.
#[derive(Debug, Default)]
pub(super) struct LineCounts {
    pub done: u64,
    /// Rows kept from an earlier run.
    pub kept: u64,
    /// Rows of an earlier run whose line or settings have changed.
    pub changed: u64,
    /// Failed metrics by status.
    failures: Vec<(Status, u64)>,
}

impl EvaluationProgress {
    pub fn new(bar: ProgressBar, total: Option<u64>, budget: Budget) -> EvaluationProgress {
        EvaluationProgress { bar, total, budget, logged: Instant::now(), counts: LineCounts::default() }
    }

    /// Starts to count samples, after the model is ready.
    pub fn begin(&mut self) {
        let template = match self.total {
            Some(total) => {
                self.bar.set_length(total);
                "{spinner} {wide_bar:.cyan/dim} {human_pos}/{human_len} samples, {per_sec}, {eta} left\n  {msg}"
            }
            None => "{spinner} {human_pos} samples, {per_sec}, {elapsed}\n  {msg}",
        };
        self.bar.set_style(ProgressStyle::with_template(template).expect("the template is valid"));
        self.bar.reset();
        self.logged = Instant::now();
    }

    /// LineCounts the failed metrics of a sample.
    pub fn count_failures(&mut self, evaluation: &Evaluation) {
        for result in evaluation.results.iter().filter(|result| super::row::is_failure(result.status)) {
            match self.counts.failures.iter_mut().find(|(status, _)| *status == result.status) {
                Some((_, count)) => *count += 1,
                None => self.counts.failures.push((result.status, 1)),
            }
        }
    }

    /// LineCounts a processed line.
    pub fn count_line(&mut self) {
        self.counts.done += 1;
        self.bar.set_position(self.counts.done);
    }

    /// Redraws the bar, or logs a line if one is due.
    pub fn show(&mut self) {
        let spent = self.budget.spent();
        self.bar.set_message(message(&spent, &self.counts));
        if self.bar.is_hidden() && self.logged.elapsed() >= LOG_EVERY {
            self.logged = Instant::now();
            let LineCounts { done, kept, .. } = self.counts;
            let failed: u64 = self.counts.failures.iter().map(|(_, count)| count).sum();
            let (calls, usd) = (spent.calls, spent.usd);
            tracing::info!(done, total = self.total, kept, failed, judge_calls = calls, usd, "evaluating");
        }
    }

    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn message(spent: &Cost, counts: &LineCounts) -> String {
    let mut parts = Vec::new();
    if counts.kept > 0 {
        parts.push(format!("{} kept", HumanCount(counts.kept)));
    }
    if spent.calls > 0 || spent.cache_hits > 0 {
        let tokens = spent.prompt_tokens + spent.completion_tokens;
        parts.push(format!("judge: {} calls, {} tokens", HumanCount(spent.calls.into()), HumanCount(tokens)));
    }
    parts.extend(spent.usd.map(|usd| format!("${usd:.4}")));
    let failures = counts.failures.iter();
    parts.extend(failures.map(|(status, count)| format!("{} {}", status_name(*status), HumanCount(*count))));
    parts.join(" · ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_has_only_nonzero_numbers() {
        assert_eq!(message(&Cost::default(), &LineCounts::default()), "");
        let spent = Cost { calls: 1234, prompt_tokens: 5000, usd: Some(0.02), ..Cost::default() };
        let counts = LineCounts { kept: 3, failures: vec![(Status::Deadline, 2)], ..LineCounts::default() };
        let expected = "3 kept · judge: 1,234 calls, 5,000 tokens · $0.0200 · DEADLINE 2";
        assert_eq!(message(&spent, &counts), expected);
    }
}
