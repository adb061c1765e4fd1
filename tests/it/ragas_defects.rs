//! What is known to be wrong in RAGAS, and must not be so here: one test for each defect.

mod answers;
mod requests;
mod verdicts;

use assay::evaluate::sample::Sample;
use serde_json::Value;

use crate::support::{
    evaluator::{Bench, sample},
    judge::{Asked, comparing},
};

const FACTS: [&str; 4] = ["Snow is black", "Grass is green", "The sky is blue", "Snow is white"];

fn bench() -> Bench {
    let bench = Bench::start();
    bench.judge.set_brain(comparing(&FACTS));
    bench
}

/// Two of three claims are supported by the contexts, one of them by the reference too.
fn told_sample() -> Sample {
    sample(
        "The sky is blue. Grass is green. Snow is black.",
        &["Look up: The sky is blue.", "Nothing to see.", "Grass is green, they say."],
        "The sky is blue. Snow is white.",
    )
}

/// Ids of one part of a request.
fn ids(asked: &Asked, part: &str) -> Vec<String> {
    let items = asked.part(part).as_array().into_iter().flatten();
    items.filter_map(|item| Some(item["id"].as_str()?.to_owned())).collect()
}

/// Without the verdict on one id.
fn forget(mut answer: Value, id: &str) -> Value {
    if let Some(verdicts) = answer["verdicts"].as_array_mut() {
        verdicts.retain(|verdict| verdict["id"] != id);
    }
    answer
}
