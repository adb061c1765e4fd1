//! What metrics need of the judge and of the embedding model: each step is taken once, by whoever comes first, and
//! its product is shared. A step begins as soon as the products that it needs are there.

mod ask;
mod attribute;
mod each;
mod verify;

use std::{collections::BTreeMap, sync::Arc};

use serde_json::json;
use tokio::sync::OnceCell;

use super::{
    Shared,
    prompts::Template,
    result::Failure,
    sample::{Reading, Sample},
    text::Language,
    vector::cosine,
    verdicts,
};
use crate::{
    embed::{EmbedError, InputOptions, Vector, VectorEncoding, VectorOptions},
    judge::{Call, Cost, Judge},
    model::Truncation,
};

pub(super) use ask::{Answer, Question};
pub(super) use each::Each;
pub(super) use verify::{Row, Table};

/// A text of the sample that makes claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    Response,
    Reference,
}

/// What was asked of the judge: metrics that share it name it the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Claims(Side),
    ByContexts(Side),
    ByOther(Side),
    Usefulness(Side),
    EntitiesOfReference,
    EntitiesOfContexts,
    /// Of one selection alone, by its index.
    Own(usize),
}

/// What the judge cost, by step.
pub(super) type Bill = BTreeMap<Step, Cost>;

/// The product of a step, and what it and all before it cost.
pub(super) struct Taken<T> {
    pub product: Result<Arc<T>, Failure>,
    pub bill: Bill,
}

impl<T> Clone for Taken<T> {
    fn clone(&self) -> Taken<T> {
        Taken { product: self.product.clone(), bill: self.bill.clone() }
    }
}

type Memo<T> = OnceCell<Taken<T>>;

/// Something for the response and something for the reference.
#[derive(Default)]
struct Both<T> {
    response: T,
    reference: T,
}

impl<T> Both<T> {
    fn of(&self, side: Side) -> &T {
        match side {
            Side::Response => &self.response,
            Side::Reference => &self.reference,
        }
    }
}

/// Verdicts on each of several things, in their order; none where the judge gave none.
pub(super) type Answers = Vec<Option<Answer<bool>>>;

pub(super) struct Steps<'a> {
    pub shared: &'a Shared,
    pub sample: Arc<Sample>,
    pub reading: Reading,
    /// Of the judge's reasons.
    pub reason_language: Language,
    pub judge: Option<Judge>,
    pub call: Call,
    claims: Both<Memo<Vec<String>>>,
    by_contexts: Both<Memo<Table>>,
    by_other: Both<Memo<Table>>,
    useful: Both<Memo<Answers>>,
    reference_entities: Memo<Vec<String>>,
    context_entities: Memo<Vec<String>>,
    embedding_model: OnceCell<String>,
}

impl<'a> Steps<'a> {
    pub fn new(
        shared: &'a Shared,
        sample: Arc<Sample>,
        reading: Reading,
        judge: Option<Judge>,
        call: Call,
        reason_language: Option<Language>,
    ) -> Steps<'a> {
        Steps {
            shared,
            sample,
            reading,
            reason_language: reason_language.unwrap_or(reading.language),
            judge,
            call,
            claims: Both::default(),
            by_contexts: Both::default(),
            by_other: Both::default(),
            useful: Both::default(),
            reference_entities: Memo::default(),
            context_entities: Memo::default(),
            embedding_model: OnceCell::new(),
        }
    }

    /// The id of the model that made vectors, where any were made.
    pub fn embedding_model(&self) -> Option<String> {
        self.embedding_model.get().cloned()
    }

    pub fn text_of(&self, side: Side) -> &str {
        match side {
            Side::Response => &self.sample.response,
            Side::Reference => &self.sample.reference,
        }
    }

    /// The claims that a text makes; none of a refusal.
    pub async fn claims(&self, side: Side) -> Taken<Vec<String>> {
        let take = || async {
            let source = self.text_of(side);
            let refuses = match side {
                Side::Response => self.reading.response_refuses,
                Side::Reference => self.reading.reference_refuses,
            };
            if refuses {
                return Taken { product: Ok(Arc::default()), bill: Bill::new() };
            }
            let question = Question::new(Template::Claims)
                .part("question", json!(self.sample.user_input))
                .part("text", json!(source));
            let (claims, cost) = self.ask::<verdicts::Claims>(question).await;
            let said = |claims: verdicts::Claims| {
                let claims = claims.claims.0.into_iter().filter(|claim| !claim.trim().is_empty());
                Arc::new(claims.collect())
            };
            Taken { product: claims.map(said), bill: Bill::from([(Step::Claims(side), cost)]) }
        };
        self.claims.of(side).get_or_init(take).await.clone()
    }

    pub async fn reference_entities(&self) -> Taken<Vec<String>> {
        let take = || self.entities(Step::EntitiesOfReference, self.sample.reference.clone());
        self.reference_entities.get_or_init(take).await.clone()
    }

    pub async fn context_entities(&self) -> Taken<Vec<String>> {
        let take = || {
            let contexts = self.sample.retrieved_contexts.iter();
            let texts: Vec<&str> = contexts.map(|context| context.text.as_str()).collect();
            self.entities(Step::EntitiesOfContexts, texts.join("\n"))
        };
        self.context_entities.get_or_init(take).await.clone()
    }

    async fn entities(&self, step: Step, of: String) -> Taken<Vec<String>> {
        let question = Question::new(Template::Entities).part("text", json!(of));
        let (entities, cost) = self.ask::<verdicts::Entities>(question).await;
        let product = entities.map(|entities| Arc::new(entities.entities.0));
        Taken { product, bill: Bill::from([(step, cost)]) }
    }

    /// Their vectors, of unit length, and whether one of them was cut at its end to fit the model.
    pub async fn vectors(&self, texts: Vec<String>) -> Result<(Vec<Vec<f32>>, bool), Failure> {
        let failed = |error: EmbedError| Failure::Embed(Arc::new(error));
        let engine = self.shared.embedder.ready().map_err(failed)?;
        let model = engine.model();
        // Fails where another metric was first.
        let _ = self.embedding_model.set(model.id.clone());
        let prompt = model.default_prompt_name.as_ref().and_then(|name| model.prompts.get(name));
        let options = InputOptions {
            prompt: prompt.map(String::as_str).unwrap_or_default().into(),
            truncation: Truncation::End,
            vector: VectorOptions {
                dimensions: model.dimensions,
                normalize: true,
                encoding: VectorEncoding::Float32Values,
            },
        };
        let flow = engine.flow();
        let embed = |text| engine.embed_in_stream(flow, text, options.clone(), self.call.deadline);
        let embedded = futures::future::try_join_all(texts.into_iter().map(embed)).await.map_err(failed)?;
        let truncated = embedded.iter().any(|input| input.truncated);
        let vectors = embedded.into_iter().map(|input| match input.vector {
            Vector::Values(values) => Ok(values),
            Vector::Bytes(_) | Vector::Int8 { .. } => Err(Failure::Defect),
        });
        Ok((vectors.collect::<Result<_, _>>()?, truncated))
    }

    /// The cosine of response and reference, and whether one of them was cut.
    pub async fn similarity(&self) -> Result<(f64, bool), Failure> {
        let texts = vec![self.sample.response.clone(), self.sample.reference.clone()];
        let (vectors, truncated) = self.vectors(texts).await?;
        Ok((cosine(&vectors[0], &vectors[1]), truncated))
    }
}
