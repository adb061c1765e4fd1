//! Steps of an evaluation that need the judge, the embedding model or long comparisons. Each is taken once, and
//! its product is shared. A step begins as soon as the products that it needs are there.

mod ask;
mod attribute;
mod compare;
mod each;
mod vectors;
mod verify;

use std::{collections::BTreeMap, sync::Arc};

use futures::future::join;
use serde_json::json;
use tokio::sync::{OnceCell, SemaphorePermit};

use super::{
    EvaluatorState,
    cancellation::{Cancellation, Cancelled},
    lexical::similarities::Similarities,
    pool::{Length, PoolTicket},
    prompts::Template,
    replies::{ClaimsReply, EntitiesReply},
    result::Failure,
    sample::{Fields, Sample, TextAnalysis},
    text::Language,
};
use crate::{
    deadline::Deadline,
    judge::{Call, Cost, Judge},
};

pub(super) use ask::{JudgeQuestion, ReasonedVerdict, at_most, part};
pub(super) use each::Each;
pub(super) use vectors::{EmbeddedTexts, Sentences, VECTOR_UNITS};
pub(super) use verify::{ClaimRow, ClaimTable};

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

/// A step that asks the judge. Metrics that share one pay for it once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SharedStep {
    Claims(Side),
    ByContexts(Side),
    ByOther(Side),
    Usefulness(Side),
    EntitiesOfReference,
    EntitiesOfContexts,
    /// A step of one metric alone.
    Own,
}

/// Costs of the judge, by the steps that a metric took.
#[derive(Clone, Default)]
pub struct Ledger(BTreeMap<SharedStep, Cost>);

impl Ledger {
    /// A ledger with one step.
    fn of(step: SharedStep, cost: Cost) -> Ledger {
        Ledger([(step, cost)].into())
    }

    /// The product of a step. Its costs and those of the steps before it are entered.
    pub(super) fn take<T>(&mut self, taken: Taken<T>) -> Result<Arc<T>, Failure> {
        self.0.extend(taken.ledger.0);
        taken.product
    }

    /// Enters the cost of a question that no other metric shares.
    pub(super) fn enter(&mut self, cost: Cost) {
        *self.0.entry(SharedStep::Own).or_default() += cost;
    }

    /// The sum over the steps.
    pub(super) fn total(self) -> Cost {
        let mut total = Cost::default();
        self.0.into_values().for_each(|cost| total += cost);
        total
    }
}

/// The product of a step, and the costs of the step and of those before it.
pub(super) struct Taken<T> {
    pub product: Result<Arc<T>, Failure>,
    pub ledger: Ledger,
}

impl<T> Taken<T> {
    /// A failed step that asked nothing.
    fn failed(failure: Failure) -> Taken<T> {
        Taken { product: Err(failure), ledger: Ledger::default() }
    }
}

impl<T> Clone for Taken<T> {
    fn clone(&self) -> Taken<T> {
        Taken { product: self.product.clone(), ledger: self.ledger.clone() }
    }
}

type PaidStep<T> = OnceCell<Taken<T>>;

/// Something for the response and something for the reference.
#[derive(Default)]
struct PerSide<T> {
    response: T,
    reference: T,
}

impl<T> PerSide<T> {
    fn of(&self, side: Side) -> &T {
        match side {
            Side::Response => &self.response,
            Side::Reference => &self.reference,
        }
    }
}

/// Verdicts on each of several things, in their order; none where the judge gave none.
pub(super) type ReasonedVerdicts = Vec<Option<ReasonedVerdict<bool>>>;

/// A step that asks no judge, and so costs nothing.
type FreeStep<T> = OnceCell<Result<Arc<T>, Failure>>;

/// The steps of one sample: questions to the judge, vectors and comparisons that metrics share. Each is taken at most
/// once, as soon as what it needs is there.
pub struct Steps<'a> {
    pub(super) shared: &'a EvaluatorState,
    pub(super) sample: Arc<Sample>,
    /// The fields that the sample has, or why that is not known.
    fields: Result<Fields, Failure>,
    /// The language of the sample and its refusals, or why they are not known.
    analysis: Result<TextAnalysis, Failure>,
    request: JudgeRequest,
    ticket: PoolTicket,
    claims: PerSide<PaidStep<Vec<String>>>,
    by_contexts: PerSide<PaidStep<ClaimTable>>,
    by_other: PerSide<PaidStep<ClaimTable>>,
    useful: PerSide<PaidStep<ReasonedVerdicts>>,
    reference_entities: PaidStep<Vec<String>>,
    context_entities: PaidStep<Vec<String>>,
    /// Tables of similarity, one for each measure.
    similarities: [FreeStep<Similarities>; 4],
    sentences: FreeStep<Sentences>,
    context_rows: FreeStep<EmbeddedTexts>,
    answer_rows: FreeStep<EmbeddedTexts>,
    embedding: OnceCell<vectors::Embedding>,
    /// The memory permit for the vectors of the sentences, acquired before they are computed.
    vector_memory: OnceCell<SemaphorePermit<'a>>,
}

/// The judge of a task and the call that it is asked with.
pub(super) struct JudgeRequest {
    /// None where no judge is configured.
    pub judge: Option<Judge>,
    pub call: Call,
    /// The language of the judge's reasons; None for that of the sample.
    pub reason_language: Option<Language>,
}

impl<'a> Steps<'a> {
    /// Analyses the sample. Computations end at `answer_by`, judge and model at the deadline of the request.
    pub(super) async fn begin(
        shared: &'a EvaluatorState,
        sample: Arc<Sample>,
        request: JudgeRequest,
        answer_by: Deadline,
    ) -> Steps<'a> {
        let ticket = PoolTicket { caller: request.call.caller, deadline: answer_by };
        // It leaves the reactor, as texts are long and the first one compiles the patterns of refusals.
        let (for_fields, for_analysis) = (Arc::clone(&sample), Arc::clone(&sample));
        let (fields, analysis) = join(
            shared.pool.run(ticket, Length::Short, move |_| Ok(Fields::of(&for_fields))),
            shared.pool.run(ticket, Length::Short, move |cancellation| {
                TextAnalysis::of(&for_analysis, cancellation)
            }),
        )
        .await;
        Steps::new(shared, sample, (fields, analysis), request, answer_by)
    }

    pub(super) fn new(
        shared: &'a EvaluatorState,
        sample: Arc<Sample>,
        (fields, analysis): (Result<Fields, Failure>, Result<TextAnalysis, Failure>),
        request: JudgeRequest,
        answer_by: Deadline,
    ) -> Steps<'a> {
        Steps {
            shared,
            sample,
            fields,
            analysis,
            ticket: PoolTicket { caller: request.call.caller, deadline: answer_by },
            request,
            claims: PerSide::default(),
            by_contexts: PerSide::default(),
            by_other: PerSide::default(),
            useful: PerSide::default(),
            reference_entities: PaidStep::default(),
            context_entities: PaidStep::default(),
            similarities: Default::default(),
            sentences: FreeStep::default(),
            context_rows: FreeStep::default(),
            answer_rows: FreeStep::default(),
            embedding: OnceCell::new(),
            vector_memory: OnceCell::new(),
        }
    }

    /// The deadline of the whole evaluation.
    pub(super) fn answer_by(&self) -> Deadline {
        self.ticket.deadline
    }

    #[cfg(test)]
    pub(super) fn set_answer_by(&mut self, deadline: Deadline) {
        self.ticket.deadline = deadline;
    }

    /// The costs of all answers of the judge so far.
    pub(super) fn spent(&self) -> Cost {
        self.request.call.budget.spent()
    }

    /// The fields that the sample has.
    ///
    /// # Errors
    /// If they could not be found out.
    pub(super) fn fields(&self) -> Result<&Fields, Failure> {
        self.fields.as_ref().map_err(Clone::clone)
    }

    /// The language of the sample and whether its texts are refusals.
    ///
    /// # Errors
    /// If they could not be found out.
    pub(super) fn analysis(&self) -> Result<&TextAnalysis, Failure> {
        self.analysis.as_ref().map_err(Clone::clone)
    }

    /// Computes on the threads that compute metrics.
    ///
    /// # Errors
    /// [`Failure::DeadlineExceeded`]; [`Failure::Defect`] if the work panics.
    pub(super) async fn compute<T: Send + 'static>(
        &self,
        length: Length,
        work: impl FnOnce(Cancellation<'_>) -> Result<T, Cancelled> + Send + 'static,
    ) -> Result<T, Failure> {
        self.shared.pool.run(self.ticket, length, work).await
    }

    /// Derives a value from the sample on those threads, as its texts may be long; see [`Steps::compute`].
    pub(super) async fn derive<T: Send + 'static>(
        &self,
        make: impl FnOnce(&Sample) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let sample = Arc::clone(&self.sample);
        self.compute(Length::Short, move |_| Ok(make(&sample))).await
    }

    /// The language of the sample, as far as it is known.
    pub(super) fn language(&self) -> Language {
        self.analysis.as_ref().map_or(Language::default(), |analysis| analysis.language)
    }

    pub(super) fn text_of(&self, side: Side) -> &str {
        side.text(&self.sample)
    }

    /// The claims that a text makes; none of a refusal.
    pub(super) async fn claims(&self, side: Side) -> Taken<Vec<String>> {
        let take = || async {
            let refuses = self.analysis().map(|analysis| match side {
                Side::Response => analysis.response_refuses,
                Side::Reference => analysis.reference_refuses,
            });
            match refuses {
                Ok(true) => return Taken { product: Ok(Arc::default()), ledger: Ledger::default() },
                Ok(false) => {}
                Err(failure) => return Taken::failed(failure),
            }
            let question = JudgeQuestion::new(Template::Claims)
                .part("question", json!(self.sample.user_input))
                .part("text", json!(self.text_of(side)));
            let (claims, cost) = self.ask::<ClaimsReply>(question).await;
            let not_blank = |reply: ClaimsReply| {
                let claims = at_most("claims", reply.claims.0)?.into_iter();
                Ok(Arc::new(claims.filter(|claim| !claim.trim().is_empty()).collect()))
            };
            Taken { product: claims.and_then(not_blank), ledger: Ledger::of(SharedStep::Claims(side), cost) }
        };
        self.claims.of(side).get_or_init(take).await.clone()
    }

    pub(super) async fn reference_entities(&self) -> Taken<Vec<String>> {
        let take = || self.entities(SharedStep::EntitiesOfReference, |sample| json!(sample.reference));
        self.reference_entities.get_or_init(take).await.clone()
    }

    pub(super) async fn context_entities(&self) -> Taken<Vec<String>> {
        let take = || self.entities(SharedStep::EntitiesOfContexts, |sample| json!(sample.joined_contexts()));
        self.context_entities.get_or_init(take).await.clone()
    }

    async fn entities(&self, step: SharedStep, of: fn(&Sample) -> serde_json::Value) -> Taken<Vec<String>> {
        let text = match self.derive(of).await {
            Ok(text) => text,
            Err(failure) => return Taken::failed(failure),
        };
        let question = JudgeQuestion::new(Template::Entities).part("text", text);
        let (entities, cost) = self.ask::<EntitiesReply>(question).await;
        let product = entities.and_then(|entities| at_most("entities", entities.entities.0).map(Arc::new));
        Taken { product, ledger: Ledger::of(step, cost) }
    }
}
