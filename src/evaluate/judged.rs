//! Metrics that ask the judge: the arithmetic over its verdicts.

pub mod answer_accuracy;
pub mod answer_correctness;
pub mod answer_relevancy;
pub mod aspect_critic;
pub mod context_entity_recall;
pub mod context_precision;
pub mod context_recall;
pub mod context_relevance;
pub mod custom;
pub mod factual_correctness;
pub mod faithfulness;
pub mod hallucination;
pub mod noise_sensitivity;
pub mod ratings;
pub mod refusal;
pub mod response_groundedness;
pub mod rubrics;
pub mod simple_criteria;
pub mod summary_score;
pub mod votes;
