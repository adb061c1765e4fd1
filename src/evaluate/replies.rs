//! The replies of the judge: one response schema for each prompt.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::judge::{
    Verdict,
    lenient::{Id, Rating, TextList, Yes, text},
};

#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct ClaimsReply {
    pub claims: TextList,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct VerificationReply {
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
pub(super) struct UsefulnessReply {
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
pub(super) struct QuestionReply {
    pub question: String,
    pub noncommittal: Yes,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct EntitiesReply {
    pub entities: TextList,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct AccuracyReply {
    #[serde(default, deserialize_with = "text")]
    pub reason: String,
    pub rating: Rating,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct RelevanceReply {
    #[serde(default, deserialize_with = "text")]
    pub reason: String,
    pub rating: Rating,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct KeyphrasesReply {
    pub keyphrases: TextList,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct SummaryQuestionsReply {
    pub questions: TextList,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct SummaryAnswersReply {
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
pub(super) struct AspectReply {
    #[serde(default, deserialize_with = "text")]
    pub reason: String,
    pub verdict: Yes,
}

/// The reply of simple_criteria and the rubrics, whose scales come from the caller.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct GradeReply {
    #[serde(default, deserialize_with = "text")]
    pub reason: String,
    pub score: Rating,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct ValueReply {
    #[serde(default, deserialize_with = "text")]
    pub reason: String,
    pub value: String,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct NumberReply {
    #[serde(default, deserialize_with = "text")]
    pub reason: String,
    pub value: f64,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct OrderReply {
    #[serde(default, deserialize_with = "text")]
    pub reason: String,
    pub order: Vec<Id>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct RefusalReply {
    #[serde(default, deserialize_with = "text")]
    pub reason: String,
    pub refusal: Yes,
}

impl Verdict for ClaimsReply {
    const NAME: &'static str = "claims";
    const VERSION: u32 = 1;
}

impl Verdict for VerificationReply {
    const NAME: &'static str = "verification";
    const VERSION: u32 = 1;
}

impl Verdict for UsefulnessReply {
    const NAME: &'static str = "usefulness";
    const VERSION: u32 = 1;
}

impl Verdict for QuestionReply {
    const NAME: &'static str = "question";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        not_blank("question", &self.question)
    }
}

impl Verdict for EntitiesReply {
    const NAME: &'static str = "entities";
    const VERSION: u32 = 1;
}

impl Verdict for AccuracyReply {
    const NAME: &'static str = "accuracy";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        one_of(self.rating, &[0, 2, 4])
    }
}

impl Verdict for RelevanceReply {
    const NAME: &'static str = "relevance";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        one_of(self.rating, &[0, 1, 2])
    }
}

impl Verdict for KeyphrasesReply {
    const NAME: &'static str = "keyphrases";
    const VERSION: u32 = 1;
}

impl Verdict for SummaryQuestionsReply {
    const NAME: &'static str = "summary_questions";
    const VERSION: u32 = 1;
}

impl Verdict for SummaryAnswersReply {
    const NAME: &'static str = "summary_answers";
    const VERSION: u32 = 1;
}

impl Verdict for AspectReply {
    const NAME: &'static str = "aspect";
    const VERSION: u32 = 1;
}

impl Verdict for GradeReply {
    const NAME: &'static str = "graded";
    const VERSION: u32 = 1;
}

impl Verdict for ValueReply {
    const NAME: &'static str = "chosen";
    const VERSION: u32 = 1;
}

impl Verdict for NumberReply {
    const NAME: &'static str = "measured";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        if self.value.is_finite() { Ok(()) } else { Err("value must be a number".to_owned()) }
    }
}

impl Verdict for OrderReply {
    const NAME: &'static str = "ranked";
    const VERSION: u32 = 1;
}

impl Verdict for RefusalReply {
    const NAME: &'static str = "refusal";
    const VERSION: u32 = 1;
}

fn one_of(rating: Rating, scale: &[i64]) -> Result<(), String> {
    if scale.contains(&rating.0) { Ok(()) } else { Err(format!("rating must be one of {scale:?}")) }
}

fn not_blank(key: &str, text: &str) -> Result<(), String> {
    if text.trim().is_empty() { Err(format!("{key} must not be empty")) } else { Ok(()) }
}
