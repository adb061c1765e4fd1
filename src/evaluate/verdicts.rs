//! The forms of the judge's answers.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::judge::{
    Verdict,
    lenient::{Id, Rating, Texts, Yes, text},
};

#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct Claims {
    pub claims: Texts,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct Verification {
    pub verdicts: Vec<ClaimVerdict>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct ClaimVerdict {
    pub id: Id,
    #[serde(default, deserialize_with = "text")]
    pub reason: String,
    #[serde(default, deserialize_with = "text")]
    pub quote: String,
    #[serde(default)]
    pub sources: Vec<Id>,
    pub supported: Yes,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct Usefulness {
    pub verdicts: Vec<ContextVerdict>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct ContextVerdict {
    pub id: Id,
    #[serde(default, deserialize_with = "text")]
    pub reason: String,
    pub useful: Yes,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct Question {
    pub question: String,
    pub noncommittal: Yes,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct Entities {
    pub entities: Texts,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct Accuracy {
    #[serde(default, deserialize_with = "text")]
    pub reason: String,
    pub rating: Rating,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct Relevance {
    #[serde(default, deserialize_with = "text")]
    pub reason: String,
    pub rating: Rating,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct Keyphrases {
    pub keyphrases: Texts,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct SummaryQuestions {
    pub questions: Texts,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct SummaryAnswers {
    pub verdicts: Vec<SummaryAnswer>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct SummaryAnswer {
    pub id: Id,
    #[serde(default, deserialize_with = "text")]
    pub reason: String,
    pub answered: Yes,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct Aspect {
    #[serde(default, deserialize_with = "text")]
    pub reason: String,
    pub verdict: Yes,
}

/// For simple_criteria and the rubrics, whose scales are the caller's.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct Graded {
    #[serde(default, deserialize_with = "text")]
    pub reason: String,
    pub score: Rating,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct Chosen {
    #[serde(default, deserialize_with = "text")]
    pub reason: String,
    pub value: String,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct Measured {
    #[serde(default, deserialize_with = "text")]
    pub reason: String,
    pub value: f64,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct Ranked {
    #[serde(default, deserialize_with = "text")]
    pub reason: String,
    pub order: Vec<Id>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct Refusal {
    #[serde(default, deserialize_with = "text")]
    pub reason: String,
    pub refusal: Yes,
}

impl Verdict for Claims {
    const NAME: &'static str = "claims";
    const VERSION: u32 = 1;
}

impl Verdict for Verification {
    const NAME: &'static str = "verification";
    const VERSION: u32 = 1;
}

impl Verdict for Usefulness {
    const NAME: &'static str = "usefulness";
    const VERSION: u32 = 1;
}

impl Verdict for Question {
    const NAME: &'static str = "question";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        not_blank("question", &self.question)
    }
}

impl Verdict for Entities {
    const NAME: &'static str = "entities";
    const VERSION: u32 = 1;
}

impl Verdict for Accuracy {
    const NAME: &'static str = "accuracy";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        one_of(self.rating, &[0, 2, 4])
    }
}

impl Verdict for Relevance {
    const NAME: &'static str = "relevance";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        one_of(self.rating, &[0, 1, 2])
    }
}

impl Verdict for Keyphrases {
    const NAME: &'static str = "keyphrases";
    const VERSION: u32 = 1;
}

impl Verdict for SummaryQuestions {
    const NAME: &'static str = "summary_questions";
    const VERSION: u32 = 1;
}

impl Verdict for SummaryAnswers {
    const NAME: &'static str = "summary_answers";
    const VERSION: u32 = 1;
}

impl Verdict for Aspect {
    const NAME: &'static str = "aspect";
    const VERSION: u32 = 1;
}

impl Verdict for Graded {
    const NAME: &'static str = "graded";
    const VERSION: u32 = 1;
}

impl Verdict for Chosen {
    const NAME: &'static str = "chosen";
    const VERSION: u32 = 1;
}

impl Verdict for Measured {
    const NAME: &'static str = "measured";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        if self.value.is_finite() { Ok(()) } else { Err("value must be a number".to_owned()) }
    }
}

impl Verdict for Ranked {
    const NAME: &'static str = "ranked";
    const VERSION: u32 = 1;
}

impl Verdict for Refusal {
    const NAME: &'static str = "refusal";
    const VERSION: u32 = 1;
}

fn one_of(rating: Rating, scale: &[i64]) -> Result<(), String> {
    if scale.contains(&rating.0) { Ok(()) } else { Err(format!("rating must be one of {scale:?}")) }
}

fn not_blank(key: &str, text: &str) -> Result<(), String> {
    if text.trim().is_empty() { Err(format!("{key} must not be empty")) } else { Ok(()) }
}
