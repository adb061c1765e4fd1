//! Samples: the answers that are scored.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::{
    cancellation::{Cancellation, Cancelled},
    text::{self, Language},
};

/// One answer with its question and contexts. An empty text counts as unset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// The caller's own.
    pub id: String,
    /// The question of the user.
    pub user_input: String,
    /// The answer to score.
    pub response: String,
    /// Best first.
    pub retrieved_contexts: Vec<Context>,
    /// The expected answer.
    pub reference: String,
    /// The contexts that should have been retrieved.
    pub reference_contexts: Vec<Context>,
    /// The meaning of each score, for instance_rubrics.
    pub rubrics: BTreeMap<i32, String>,
    /// The language that the caller gives; None to detect it.
    pub language: Option<Language>,
}

/// A retrieved or expected context.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Context {
    /// Text of the context.
    #[serde(default)]
    pub text: String,
    /// Identifier of the context in the caller's data.
    #[serde(default)]
    pub id: String,
}

/// The analysis of a sample's texts that precedes every metric.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TextAnalysis {
    pub language: Language,
    /// Whether the response declines to answer.
    pub response_refuses: bool,
    pub reference_refuses: bool,
}

impl TextAnalysis {
    pub fn of(sample: &Sample, cancellation: Cancellation<'_>) -> Result<TextAnalysis, Cancelled> {
        let language = sample.detect_language();
        cancellation.check()?;
        Ok(TextAnalysis {
            language,
            response_refuses: text::is_refusal(&sample.response),
            reference_refuses: text::is_refusal(&sample.reference),
        })
    }
}

/// Fields that a sample has. Made once, as blank texts are read to their end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fields(BTreeSet<Field>);

impl Fields {
    pub fn of(sample: &Sample) -> Fields {
        Fields(Field::ALL.into_iter().filter(|field| sample.has(*field)).collect())
    }

    pub fn has(&self, field: Field) -> bool {
        self.0.contains(&field)
    }
}

/// A field of a sample, as its path in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// `user_input`.
    UserInput,
    /// `response`.
    Response,
    /// `retrieved_contexts`.
    RetrievedContexts,
    /// Ids of all `retrieved_contexts`.
    RetrievedContextIds,
    /// `reference`.
    Reference,
    /// `reference_contexts`.
    ReferenceContexts,
    /// Ids of all `reference_contexts`.
    ReferenceContextIds,
    /// `rubrics`.
    Rubrics,
}

impl Field {
    const ALL: [Field; 8] = [
        Field::UserInput,
        Field::Response,
        Field::RetrievedContexts,
        Field::RetrievedContextIds,
        Field::Reference,
        Field::ReferenceContexts,
        Field::ReferenceContextIds,
        Field::Rubrics,
    ];

    /// The name of the field in `Sample`; ids belong to their contexts.
    pub fn name(self) -> &'static str {
        match self {
            Field::UserInput => "user_input",
            Field::Response => "response",
            Field::RetrievedContexts => "retrieved_contexts",
            Field::RetrievedContextIds => "retrieved_contexts.id",
            Field::Reference => "reference",
            Field::ReferenceContexts => "reference_contexts",
            Field::ReferenceContextIds => "reference_contexts.id",
            Field::Rubrics => "rubrics",
        }
    }
}

impl Sample {
    /// Whether the field is set.
    pub fn has(&self, field: Field) -> bool {
        let texts = |contexts: &[Context]| contexts.iter().any(|context| !is_blank(&context.text));
        let ids = |contexts: &[Context]| {
            !contexts.is_empty() && contexts.iter().all(|context| !context.id.is_empty())
        };
        match field {
            Field::UserInput => !is_blank(&self.user_input),
            Field::Response => !is_blank(&self.response),
            Field::RetrievedContexts => texts(&self.retrieved_contexts),
            Field::RetrievedContextIds => ids(&self.retrieved_contexts),
            Field::Reference => !is_blank(&self.reference),
            Field::ReferenceContexts => texts(&self.reference_contexts),
            Field::ReferenceContextIds => ids(&self.reference_contexts),
            Field::Rubrics => self.rubrics.len() >= 2,
        }
    }

    /// The caller's word, or what most of the sample's own text is in.
    pub fn detect_language(&self) -> Language {
        let detect = || {
            let own = [&self.response, &self.user_input, &self.reference];
            own.into_iter().find(|text| !is_blank(text)).map_or(Language::Other, |text| text::detect(text))
        };
        self.language.unwrap_or_else(detect)
    }

    /// The retrieved contexts, one after another.
    pub(super) fn joined_contexts(&self) -> String {
        joined(&self.retrieved_contexts)
    }

    /// UTF-8 bytes of all texts.
    pub fn bytes(&self) -> usize {
        let contexts = self.retrieved_contexts.iter().chain(&self.reference_contexts);
        let rubrics = self.rubrics.values().map(String::len);
        let own = [&self.user_input, &self.response, &self.reference].map(|text| text.len());
        own.iter().sum::<usize>()
            + contexts.map(|context| context.text.len()).sum::<usize>()
            + rubrics.sum::<usize>()
    }
}

/// Each context on lines of its own.
pub(super) fn joined(contexts: &[Context]) -> String {
    let texts: Vec<&str> = contexts.iter().map(|context| context.text.as_str()).collect();
    texts.join("\n")
}

fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}
