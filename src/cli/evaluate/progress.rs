//! How far a run is: a bar on a terminal, a line of the log now and then elsewhere.

use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressStyle};

use super::row::status_name;
use crate::{
    evaluate::{Evaluation, result::Status},
    judge::{Budget, Cost},
};

/// Between lines of the log.
const LOG_EVERY: Duration = Duration::from_secs(30);

pub(super) struct Progress {
    bar: ProgressBar,
    /// None where lines can't be counted before they are read.
    total: Option<u64>,
    budget: Budget,
    logged: Instant,
    pub counts: Counts,
}

/// Lines by what became of them.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub done: u64,
    /// From an earlier run.
    pub kept: u64,
    /// Of an earlier run, but of another text or under other settings.
    pub changed: u64,
    /// Metrics by how they failed.
    failures: Vec<(Status, u64)>,
}

impl Progress {
    pub fn new(bar: ProgressBar, total: Option<u64>, budget: Budget) -> Progress {
        Progress { bar, total, budget, logged: Instant::now(), counts: Counts::default() }
    }

    /// The model is there; from now on, samples are counted.
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

    pub fn scored(&mut self, evaluation: &Evaluation) {
        for result in evaluation.results.iter().filter(|result| super::row::is_failure(result.status)) {
            match self.counts.failures.iter_mut().find(|(status, _)| *status == result.status) {
                Some((_, count)) => *count += 1,
                None => self.counts.failures.push((result.status, 1)),
            }
        }
    }

    pub fn done(&mut self) {
        self.counts.done += 1;
        self.bar.set_position(self.counts.done);
    }

    /// To be called often.
    pub fn show(&mut self) {
        let spent = self.budget.spent();
        self.bar.set_message(message(&spent, &self.counts));
        if self.bar.is_hidden() && self.logged.elapsed() >= LOG_EVERY {
            self.logged = Instant::now();
            let Counts { done, kept, .. } = self.counts;
            let failed: u64 = self.counts.failures.iter().map(|(_, count)| count).sum();
            let (calls, usd) = (spent.calls, spent.usd);
            tracing::info!(done, total = self.total, kept, failed, judge_calls = calls, usd, "evaluating");
        }
    }

    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn message(spent: &Cost, counts: &Counts) -> String {
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
    fn the_message_tells_what_there_is_to_tell() {
        assert_eq!(message(&Cost::default(), &Counts::default()), "");
        let spent = Cost { calls: 1234, prompt_tokens: 5000, usd: Some(0.02), ..Cost::default() };
        let counts = Counts { kept: 3, failures: vec![(Status::Deadline, 2)], ..Counts::default() };
        let expected = "3 kept · judge: 1,234 calls, 5,000 tokens · $0.0200 · DEADLINE 2";
        assert_eq!(message(&spent, &counts), expected);
    }
}
