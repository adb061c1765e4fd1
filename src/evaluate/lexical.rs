//! Scores that need neither a judge nor a model: each is a pure function of texts and of typed options.
//!
//! Every score is a finite number from 0 to 1 and better when higher; `None` says that the metric doesn't apply, as
//! when the reference is blank. Two identical texts with content score 1 in each of them, in any language.

pub mod bleu;
pub mod chrf;
pub mod exact_match;
pub mod id_context;
pub(super) mod inputs;
mod ngrams;
pub mod porter;
pub mod quoted_spans;
pub mod rouge;
pub mod similarities;
pub mod string_presence;
pub mod string_similarity;
pub mod text_context;
pub mod token_f1;
mod tokens;

use std::sync::Arc;

pub use inputs::{Pair, Retrieval};
pub use tokens::Tokenization;

use super::{
    cancellation::{Cancellation, Cancelled},
    definition::Definition,
    finding::{Computation, Finding, Found},
    pool::Length,
    sample::{Context, Field, Sample},
    score::Estimate,
    steps::Steps,
    text::Language,
};

/// The definition that metrics of response and reference share.
const PAIR: Definition = Definition { needs: &[Field::Response, Field::Reference], ..Definition::LEXICAL };

/// The texts of a sample, and their language.
struct SampleTexts<'a> {
    sample: &'a Sample,
    language: Language,
}

impl SampleTexts<'_> {
    fn pair(&self) -> Pair<'_> {
        Pair { response: &self.sample.response, reference: &self.sample.reference }
    }

    /// The score of both lists of contexts, of which `part` is compared.
    fn retrieval(
        &self,
        part: impl Fn(&Context) -> &str,
        score: impl Fn(Retrieval<'_>) -> Option<f64>,
    ) -> Option<f64> {
        let retrieved: Vec<&str> = self.sample.retrieved_contexts.iter().map(&part).collect();
        let reference: Vec<&str> = self.sample.reference_contexts.iter().map(&part).collect();
        score(Retrieval { retrieved: &retrieved, reference: &reference })
    }
}

/// The computation of a metric that compares texts; without a score there is nothing to compare.
fn compare(
    steps: &Steps<'_>,
    length: Length,
    score: impl FnOnce(&SampleTexts<'_>, Cancellation<'_>) -> Result<Option<f64>, Cancelled> + Send + 'static,
) -> Found {
    compare_or("there is nothing to compare", steps, length, score)
}

/// The computation of a metric that compares texts; `nothing` is the reason where there is no score.
fn compare_or(
    nothing: &'static str,
    steps: &Steps<'_>,
    length: Length,
    score: impl FnOnce(&SampleTexts<'_>, Cancellation<'_>) -> Result<Option<f64>, Cancelled> + Send + 'static,
) -> Found {
    let language = steps.analysis()?.language;
    let sample = Arc::clone(&steps.sample);
    let work = Computation::sliced(move |cancellation| {
        let score = score(&SampleTexts { sample: &sample, language }, cancellation)?;
        Ok(Finding::of(score.map_or(Estimate::NotApplicable(nothing), Estimate::Exact), ""))
    });
    Ok(Computation { length, ..work })
}
