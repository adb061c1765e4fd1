//! EmbeddingService: unary calls, and the stream that keeps a bounded number of inputs in flight.

use std::{collections::VecDeque, panic::AssertUnwindSafe, time::Duration};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status, Streaming};

use super::{
    Limits, convert,
    layer::Call,
    reorder::{Reorder, Ticket},
    status,
};
use crate::{
    deadline::Deadline,
    embed::{Embedder, Engine, Flow},
    proto::{
        EmbedRequest, EmbedResponse, EmbedStreamRequest, EmbedStreamResponse, Embedding, TokenizeRequest,
        TokenizeResponse, embed_stream_response::Result as ItemResult,
        embedding_service_server::EmbeddingService,
    },
};

pub(super) struct Embeddings {
    pub embedder: Embedder,
    pub limits: Limits,
    /// From here on idle streams are ended.
    pub closing: CancellationToken,
    /// Owns the tasks of open streams.
    pub streams: TaskTracker,
}

type Answer = Result<EmbedStreamResponse, Status>;

#[tonic::async_trait]
impl EmbeddingService for Embeddings {
    async fn embed(&self, request: Request<EmbedRequest>) -> Result<Response<EmbedResponse>, Status> {
        let (call, deadline) = self.unary(&request);
        let engine = engine(&self.embedder, call, deadline).await?;
        let (texts, options) = convert::embed(request.into_inner(), &self.limits, engine.model())?;
        let dimensions = options.vector.dimensions;
        let embedded = engine.embed(texts, options, deadline).await;
        let embedded = embedded.map_err(|error| status::of_embed(error, input_path))?;
        Ok(Response::new(convert::embed_response(embedded, dimensions, engine.model())))
    }

    type EmbedStreamStream = ReceiverStream<Answer>;

    async fn embed_stream(
        &self,
        request: Request<Streaming<EmbedStreamRequest>>,
    ) -> Result<Response<Self::EmbedStreamStream>, Status> {
        // One answer may wait for the transport; the others wait as unanswered inputs, which are bounded.
        let (answers, receiver) = mpsc::channel(1);
        let call = Call::of_request(&request);
        let stream = EmbedStream {
            embedder: self.embedder.clone(),
            limits: self.limits.clone(),
            call,
            flow: None,
            closing: self.closing.clone(),
            answers: answers.clone(),
            reorder: Reorder::new(),
            in_flight: FuturesUnordered::new(),
            unsent: VecDeque::new(),
        };
        self.streams.spawn(async move {
            let run = AssertUnwindSafe(stream.run(request.into_inner())).catch_unwind();
            let end = run.await.unwrap_or_else(|_| {
                tracing::error!("the task of a stream panicked; the stream is ended with INTERNAL");
                Err(status::internal())
            });
            if let Err(status) = end {
                // A caller that left needs no status.
                let _ = answers.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn tokenize(
        &self,
        request: Request<TokenizeRequest>,
    ) -> Result<Response<TokenizeResponse>, Status> {
        let (call, deadline) = self.unary(&request);
        let engine = engine(&self.embedder, call, deadline).await?;
        let (texts, prompt) = convert::tokenize(request.into_inner(), &self.limits, engine.model())?;
        let tokens = engine.tokenize(texts, prompt, deadline).await;
        let tokens = tokens.map_err(|error| status::of_embed(error, input_path))?;
        Ok(Response::new(convert::tokenize_response(tokens, engine.model().max_tokens)))
    }
}

impl Embeddings {
    fn unary<T>(&self, request: &Request<T>) -> (Call, Deadline) {
        let call = Call::of_request(request);
        (call, call.deadline.unwrap_or_else(|| Deadline::after(self.limits.default_deadline)))
    }
}

async fn engine(embedder: &Embedder, call: Call, deadline: Deadline) -> Result<&Engine, Status> {
    let engine = match embedder.ready() {
        Err(_) if call.waits_for_ready => embedder.wait_until_ready(deadline).await,
        engine => engine,
    };
    engine.map_err(|error| {
        if call.waits_for_ready && deadline.has_passed() {
            status::deadline_exceeded()
        } else {
            status::of_embed(error, input_path)
        }
    })
}

fn input_path(index: usize) -> String {
    format!("inputs[{index}]")
}

/// One open stream. Its inputs are computed side by side; dropping it drops their work.
struct EmbedStream {
    embedder: Embedder,
    limits: Limits,
    call: Call,
    /// Set by the first input that finds a model.
    flow: Option<Flow>,
    closing: CancellationToken,
    answers: mpsc::Sender<Answer>,
    reorder: Reorder<ItemResult>,
    // Invariant: polled at all times, as an input that nobody polls may hold a place in the queue.
    in_flight: FuturesUnordered<BoxFuture<'static, (Ticket, ItemResult)>>,
    /// Answers that wait for the caller to read.
    unsent: VecDeque<EmbedStreamResponse>,
}

/// How long a stream may be silent while the server shuts down.
const LAST_SILENCE: Duration = Duration::from_millis(500);

impl EmbedStream {
    /// Ends when all inputs are answered, or with the status that ends the stream.
    async fn run(self, incoming: Streaming<EmbedStreamRequest>) -> Result<(), Status> {
        let (deadline, answers) = (self.call.deadline, self.answers.clone());
        let passed = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.instant().into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            end = self.pump(incoming) => end,
            () = passed => Err(status::deadline_exceeded()),
            // The caller left.
            () = answers.closed() => Ok(()),
        }
    }

    async fn pump(mut self, mut incoming: Streaming<EmbedStreamRequest>) -> Result<(), Status> {
        let (closing, answers) = (self.closing.clone(), self.answers.clone());
        let mut open = true;
        while open || !self.in_flight.is_empty() || !self.unsent.is_empty() {
            let has_room = self.reorder.pending() + self.unsent.len() < self.limits.stream_inputs;
            let silence = async {
                closing.cancelled().await;
                tokio::time::sleep(LAST_SILENCE).await;
            };
            tokio::select! {
                Some((ticket, result)) = self.in_flight.next() => self.answer(ticket, result),
                place = answers.reserve(), if !self.unsent.is_empty() => match (place, self.unsent.pop_front()) {
                    (Ok(place), Some(answer)) => place.send(Ok(answer)),
                    // The caller left.
                    _ => return Ok(()),
                },
                message = incoming.message(), if open && has_room => match message.map_err(readable)? {
                    Some(item) => self.begin(item),
                    None => open = false,
                },
                () = silence, if self.in_flight.is_empty() && self.unsent.is_empty() => return Err(status::draining()),
            }
        }
        Ok(())
    }

    fn begin(&mut self, item: EmbedStreamRequest) {
        // An id that is too long is cut for its answer, which tells so.
        let id = item.id[..item.id.floor_char_boundary(convert::ID_BYTES)].to_owned();
        let ticket = self.reorder.add(id);
        let deadline = self.call.deadline.unwrap_or_else(|| Deadline::after(self.limits.default_deadline));
        let flow = self.flow.or_else(|| self.embedder.ready().ok().map(Engine::flow));
        self.flow = flow;
        let (embedder, limits, call) = (self.embedder.clone(), self.limits.clone(), self.call);
        self.in_flight.push(Box::pin(async move {
            let result = embed_item(&embedder, &limits, call, flow, item, deadline).await;
            let result =
                result.map_or_else(|e| ItemResult::Error(status::to_item(&e)), ItemResult::Embedding);
            (ticket, result)
        }));
    }

    fn answer(&mut self, ticket: Ticket, result: ItemResult) {
        let leaving = self.reorder.finish(ticket, result).into_iter();
        self.unsent.extend(leaving.map(|(id, result)| EmbedStreamResponse { id, result: Some(result) }));
    }
}

async fn embed_item(
    embedder: &Embedder,
    limits: &Limits,
    call: Call,
    flow: Option<Flow>,
    item: EmbedStreamRequest,
    deadline: Deadline,
) -> Result<Embedding, Status> {
    let engine = engine(embedder, call, deadline).await?;
    let (text, options) = convert::stream_item(item, limits, engine.model())?;
    let flow = flow.unwrap_or_else(|| engine.flow());
    let embedded = engine.embed_in_stream(flow, text, options, deadline).await;
    embedded.map(convert::embedding).map_err(|error| status::of_embed(error, |_| "input".into()))
}

/// tonic's own status for a message that it could not take may mislead.
fn readable(status: Status) -> Status {
    status::corrected(&status).unwrap_or(status)
}
