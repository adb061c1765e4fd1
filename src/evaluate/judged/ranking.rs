//! Ranking: an order of candidates, best first. It has no score.
//!
//! Source: RAGAS, ranking metrics.

use std::{collections::HashMap, ops::RangeInclusive};

use serde_json::json;

use super::votes::{Votes, own_parts};
use crate::{
    evaluate::{
        definition::Definition,
        finding::{Computation, Finding, Found},
        metric::MetricType,
        options::OptionReader,
        prompts::Template,
        replies::OrderReply,
        sample::Sample,
        score::Estimate,
        steps::{JudgeQuestion, Ledger, Steps, part},
    },
    judge::Part,
    proto::metric_selection::Options,
};

/// The number of candidates of one ranking.
const CANDIDATES: RangeInclusive<usize> = 2..=26;

/// The order that the judge gives.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ranking {
    /// Instruction to the judge.
    pub instruction: String,
    /// Empty for the retrieved contexts.
    pub candidates: Vec<String>,
}

impl MetricType for Ranking {
    const DEFINITION: &Definition = &Definition {
        name: "ranking",
        higher_is_better: None,
        judge_calls: 1,
        options_field: "ranking",
        in_groups: false,
        formula: "the candidates in the order that the judge gives, best first; there is no score",
        source: "RAGAS, RankingMetric",
        differs: "An order that misses a candidate or repeats one is unreadable.",
        ..Definition::JUDGED
    };

    fn read(options: Options, reader: &mut OptionReader<'_>) -> Option<Ranking> {
        let Options::Ranking(options) = options else { return None };
        reader.text("ranking.instruction", &options.instruction);
        if options.candidates.is_empty() {
            let contexts = reader.sample().retrieved_contexts.len();
            reader.count("ranking.candidates, or sample.retrieved_contexts", contexts, CANDIDATES);
        } else {
            reader.count("ranking.candidates", options.candidates.len(), CANDIDATES);
        }
        for (index, candidate) in options.candidates.iter().enumerate().take(*CANDIDATES.end()) {
            reader.text(&format!("ranking.candidates[{index}]"), candidate);
        }
        Some(Ranking { instruction: options.instruction, candidates: options.candidates })
    }

    fn required_options() -> Option<Options> {
        Some(Options::Ranking(Default::default()))
    }

    async fn find(&self, steps: &Steps<'_>, ledger: &mut Ledger) -> Found {
        let count = match self.candidates.is_empty() {
            true => steps.sample.retrieved_contexts.len(),
            false => self.candidates.len(),
        };
        if count < 2 {
            let nothing = Estimate::NotApplicable("there are less than two candidates");
            return Ok(Computation::done(Finding::of(nothing, "")));
        }
        let candidates = self.candidates.clone();
        let parts = steps.derive(move |sample| ranking_parts(sample, &candidates)).await?;
        let question =
            JudgeQuestion::new(Template::Ranking).fill("instruction", &self.instruction).parts(parts);
        // Judges drop the letter.
        let named = |index: usize| [(candidate_id(index), index), ((index + 1).to_string(), index)];
        let indices: HashMap<String, usize> = (0..count).flat_map(named).collect();
        let read = move |reply: OrderReply| {
            let mut is_missing = vec![true; count];
            let mut first_time = |index: &usize| std::mem::replace(&mut is_missing[*index], false);
            // An order that is longer repeats something.
            let given = reply.order.iter().take(count + 1);
            let order: Vec<usize> =
                given.filter_map(|id| indices.get(id.as_str()).copied()).filter(&mut first_time).collect();
            if order.len() == count && reply.order.len() == count {
                Ok((order, reply.reason))
            } else {
                Err("the order lacks or repeats a candidate".to_owned())
            }
        };
        let mut votes = Votes::ask(steps, ledger, question, 1, read).await?;
        let ranking = votes.given.swap_remove(0);
        Ok(Computation::of(move || Finding {
            ranking,
            judged: 1,
            submitted: 1,
            reason: votes.reasons.join(" "),
            ..Finding::default()
        }))
    }
}

fn candidate_id(index: usize) -> String {
    format!("c{}", index + 1)
}

/// The candidates, or the retrieved contexts where there are none, and the sample's own texts.
fn ranking_parts(sample: &Sample, candidates: &[String]) -> Vec<Part> {
    let contexts = sample.retrieved_contexts.iter().map(|context| context.text.as_str());
    let texts: Vec<&str> = match candidates.is_empty() {
        true => contexts.collect(),
        false => candidates.iter().map(String::as_str).collect(),
    };
    let items = texts.iter().enumerate();
    let items = items.map(|(index, text)| json!({"id": candidate_id(index), "text": text}));
    std::iter::once(part("candidates", items.collect())).chain(own_parts(sample)).collect()
}
