//! What metrics need of the judge and of the embedding model: each step is taken once, by whoever comes first, and
//! its product is shared. A step begins as soon as the products that it needs are there.

mod ask;
mod attribute;
mod compare;
mod each;
mod vectors;
mod verify;

use std::{collections::BTreeMap, sync::Arc};

use serde_json::json;
use tokio::sync::{OnceCell, SemaphorePermit};

use super::{
    Shared,
    lexical::text_context::Similarities,
    pool::{Length, Ticket},
    progress::{Progress, Stopped},
    prompts::Template,
    result::Failure,
    sample::{Reading, Sample},
    text::Language,
    verdicts,
};
use crate::{
    deadline::Deadline,
    judge::{Call, Cost, Judge},
};

pub(super) use ask::{Answer, Question, at_most, part};
pub(super) use each::Each;
pub(super) use vectors::{Rowed, Sentences, VECTOR_UNITS};
pub(super) use verify::{Row, Table};

/// Questions to the judge, of one step, that are in flight at one time.
const QUESTIONS_AT_ONCE: usize = 8;

/// A text of the sample that makes claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    Response,
    Reference,
}

impl Side {
    pub fn text(self, sample: &Sample) -> &str {
        match self {
            Side::Response => &sample.response,
            Side::Reference => &sample.reference,
        }
    }
}

/// The judge of a sample, and the call that asks it.
pub(super) struct Asked {
    pub judge: Option<Judge>,
    pub call: Call,
    /// Language of the judge's reasons; None for the sample's.
    pub reason_language: Option<Language>,
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

/// A step that asks no judge, and so costs nothing.
type Free<T> = OnceCell<Result<Arc<T>, Failure>>;

pub(super) struct Steps<'a> {
    pub shared: &'a Shared,
    pub sample: Arc<Sample>,
    /// Why it is missing, where it is.
    pub reading: Result<Reading, Failure>,
    /// Language of the judge's reasons; None for the sample's.
    pub reason_language: Option<Language>,
    pub judge: Option<Judge>,
    pub call: Call,
    ticket: Ticket,
    claims: Both<Memo<Vec<String>>>,
    by_contexts: Both<Memo<Table>>,
    by_other: Both<Memo<Table>>,
    useful: Both<Memo<Answers>>,
    reference_entities: Memo<Vec<String>>,
    context_entities: Memo<Vec<String>>,
    /// Tables of similarity, one for each measure.
    similarities: [Free<Similarities>; 4],
    sentences: Free<Sentences>,
    context_rows: Free<Rowed>,
    answer_rows: Free<Rowed>,
    embedding: OnceCell<vectors::Embedding>,
    /// Taken before the sentences' vectors are made, and held as long as they are.
    vector_memory: OnceCell<SemaphorePermit<'a>>,
}

impl<'a> Steps<'a> {
    /// Computations end at `answer_by`, judge and model at the deadline of the call.
    pub fn new(
        shared: &'a Shared,
        sample: Arc<Sample>,
        reading: Result<Reading, Failure>,
        asked: Asked,
        answer_by: Deadline,
    ) -> Steps<'a> {
        let Asked { judge, call, reason_language } = asked;
        Steps {
            shared,
            sample,
            reading,
            reason_language,
            judge,
            ticket: Ticket { caller: call.caller, deadline: answer_by },
            call,
            claims: Both::default(),
            by_contexts: Both::default(),
            by_other: Both::default(),
            useful: Both::default(),
            reference_entities: Memo::default(),
            context_entities: Memo::default(),
            similarities: Default::default(),
            sentences: Free::default(),
            context_rows: Free::default(),
            answer_rows: Free::default(),
            embedding: OnceCell::new(),
            vector_memory: OnceCell::new(),
        }
    }

    /// Computes on the threads for it.
    ///
    /// # Errors
    /// [`Failure::DeadlineExceeded`]; [`Failure::Defect`] if the work panics.
    pub async fn compute<T: Send + 'static>(
        &self,
        length: Length,
        work: impl FnOnce(Progress<'_>) -> Result<T, Stopped> + Send + 'static,
    ) -> Result<T, Failure> {
        self.shared.pool.run(self.ticket, length, work).await
    }

    /// As [`Steps::compute`], from the sample, whose texts are long.
    pub async fn derive<T: Send + 'static>(
        &self,
        make: impl FnOnce(&Sample) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let sample = Arc::clone(&self.sample);
        self.compute(Length::Short, move |_| Ok(make(&sample))).await
    }

    /// The language of the sample, as far as it is known.
    pub fn language(&self) -> Language {
        self.reading.as_ref().map_or(Language::default(), |reading| reading.language)
    }

    pub fn text_of(&self, side: Side) -> &str {
        side.text(&self.sample)
    }

    /// The claims that a text makes; none of a refusal.
    pub async fn claims(&self, side: Side) -> Taken<Vec<String>> {
        let take = || async {
            let refuses = self.reading.as_ref().map(|reading| match side {
                Side::Response => reading.response_refuses,
                Side::Reference => reading.reference_refuses,
            });
            match refuses {
                Ok(true) => return Taken { product: Ok(Arc::default()), bill: Bill::new() },
                Ok(false) => {}
                Err(failure) => return Taken { product: Err(failure.clone()), bill: Bill::new() },
            }
            let question = Question::new(Template::Claims)
                .part("question", json!(self.sample.user_input))
                .part("text", json!(self.text_of(side)));
            let (claims, cost) = self.ask::<verdicts::Claims>(question).await;
            let said = |claims: verdicts::Claims| {
                let claims = at_most("claims", claims.claims.0)?.into_iter();
                Ok(Arc::new(claims.filter(|claim| !claim.trim().is_empty()).collect()))
            };
            Taken { product: claims.and_then(said), bill: Bill::from([(Step::Claims(side), cost)]) }
        };
        self.claims.of(side).get_or_init(take).await.clone()
    }

    pub async fn reference_entities(&self) -> Taken<Vec<String>> {
        let take = || self.entities(Step::EntitiesOfReference, |sample| json!(sample.reference));
        self.reference_entities.get_or_init(take).await.clone()
    }

    pub async fn context_entities(&self) -> Taken<Vec<String>> {
        let take = || self.entities(Step::EntitiesOfContexts, |sample| json!(sample.joined_contexts()));
        self.context_entities.get_or_init(take).await.clone()
    }

    async fn entities(&self, step: Step, of: fn(&Sample) -> serde_json::Value) -> Taken<Vec<String>> {
        let text = match self.derive(of).await {
            Ok(text) => text,
            Err(failure) => return Taken { product: Err(failure), bill: Bill::new() },
        };
        let question = Question::new(Template::Entities).part("text", text);
        let (entities, cost) = self.ask::<verdicts::Entities>(question).await;
        let product = entities.and_then(|entities| at_most("entities", entities.entities.0).map(Arc::new));
        Taken { product, bill: Bill::from([(step, cost)]) }
    }
}
