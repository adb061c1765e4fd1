//! Scores that need neither a judge nor a model: each is a pure function of texts and of typed options.
//!
//! Every score is a finite number from 0 to 1 and better when higher; `None` says that the metric doesn't apply, as
//! when the reference is blank. Two identical texts with content score 1 in each of them, in any language.

pub mod bleu;
pub mod chrf;
pub mod definitions;
pub mod exact_match;
pub mod id_context;
mod ngrams;
pub mod porter;
pub mod quoted_spans;
pub mod rouge;
pub mod string_presence;
pub mod string_similarity;
pub mod text_context;
pub mod token_f1;
mod tokens;

pub use tokens::Tokens;

/// A response and what it is compared with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair<'a> {
    /// What was answered.
    pub response: &'a str,
    /// What should have been answered.
    pub reference: &'a str,
}

/// What was retrieved, best first, and what should have been: texts or ids.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retrieval<'a> {
    /// What was retrieved, in rank order.
    pub retrieved: &'a [&'a str],
    /// What should have been retrieved.
    pub reference: &'a [&'a str],
}
