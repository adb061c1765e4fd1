//! Metrics that ask the judge: the arithmetic over its verdicts.

pub mod answer_accuracy;
pub mod answer_correctness;
pub mod answer_relevancy;
pub mod aspect_critic;
mod claims;
pub mod context_entity_recall;
pub mod context_precision;
pub mod context_recall;
pub mod context_relevance;
pub mod discrete;
pub mod factual_correctness;
pub mod faithfulness;
pub mod hallucination;
pub mod noise_sensitivity;
pub mod numeric;
pub mod ranking;
mod ratings;
pub mod refusal;
pub mod response_groundedness;
pub mod rubrics;
pub mod simple_criteria;
pub mod summary_score;
mod votes;
