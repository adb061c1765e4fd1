//! EmbeddingService: unary calls, and the stream of inputs that are computed side by side.

use futures::{FutureExt, StreamExt, stream::BoxStream};
use prost::Message as _;
use tonic::{Request, Response, Status, Streaming};

use super::{
    Limits,
    convert::{cut_id, embedding as convert},
    layer::Call,
    reorder::{Reorder, Ticket},
    status,
    stream::{self, Answers, Exchange, Terms},
};
use crate::{
    deadline::Deadline,
    embed::{Embedder, Engine, Flow},
    proto::{
        EmbedRequest, EmbedResponse, EmbedStreamRequest, EmbedStreamResponse, Embedding, TokenizeRequest,
        TokenizeResponse, embed_stream_response::Result as ItemResult,
        embedding_service_server::EmbeddingService,
    },
    trace::Scope,
};

/// Bytes of an embedding in an answer, beside its numbers.
const EMBEDDING_BYTES: usize = 32;

pub(super) struct Embeddings {
    pub embedder: Embedder,
    pub limits: Limits,
    pub terms: Terms,
}

#[tonic::async_trait]
impl EmbeddingService for Embeddings {
    async fn embed(&self, request: Request<EmbedRequest>) -> Result<Response<EmbedResponse>, Status> {
        let (call, deadline) = self.unary(&request);
        let engine = engine(&self.embedder, call.waits_for_ready, deadline).await?;
        let (texts, options) = convert::embed(request.into_inner(), &self.limits, engine.model())?;
        let dimensions = options.vector.dimensions;
        call.memory.take_answer(texts.len() * (dimensions * size_of::<f32>() + EMBEDDING_BYTES)).await;
        let embedded = engine.embed(texts, options, deadline).await;
        let embedded = embedded.map_err(|error| status::of_embed(&error, input_path))?;
        Ok(Response::new(convert::embed_response(embedded, dimensions, engine.model())))
    }

    type EmbedStreamStream = Answers<EmbedStreamResponse>;

    async fn embed_stream(
        &self,
        request: Request<Streaming<EmbedStreamRequest>>,
    ) -> Result<Response<Self::EmbedStreamStream>, Status> {
        let call = Call::of_request(&request);
        let exchange = EmbedStream {
            embedder: self.embedder.clone(),
            limits: self.limits.clone(),
            deadline: call.deadline,
            waits_for_ready: call.waits_for_ready,
            flow: None,
            reorder: Reorder::new(),
        };
        let answers = stream::open(exchange, request.into_inner(), &call, &self.terms);
        Ok(Response::new(answers))
    }

    async fn tokenize(
        &self,
        request: Request<TokenizeRequest>,
    ) -> Result<Response<TokenizeResponse>, Status> {
        let (call, deadline) = self.unary(&request);
        let engine = engine(&self.embedder, call.waits_for_ready, deadline).await?;
        let (texts, prompt) = convert::tokenize(request.into_inner(), &self.limits, engine.model())?;
        let max_tokens = engine.model().max_tokens;
        let convert = move |tokens| convert::tokenized_input(tokens, max_tokens);
        let results = engine.tokenize(texts, prompt, deadline, convert).await;
        let results = results.map_err(|error| status::of_embed(&error, input_path))?;
        let response = convert::tokenize_response(results, max_tokens);
        call.memory.take_answer(response.encoded_len()).await;
        Ok(Response::new(response))
    }
}

impl Embeddings {
    /// The call, with its deadline or the default one.
    fn unary<T>(&self, request: &Request<T>) -> (Call, Deadline) {
        let call = Call::of_request(request);
        let deadline = call.deadline.unwrap_or_else(|| Deadline::after(self.limits.default_deadline));
        (call, deadline)
    }
}

async fn engine(embedder: &Embedder, waits: bool, deadline: Deadline) -> Result<&Engine, Status> {
    let engine = match embedder.ready() {
        Err(_) if waits => embedder.wait_until_ready(deadline).await,
        engine => engine,
    };
    engine.map_err(|error| {
        if waits && deadline.has_passed() {
            status::deadline_exceeded()
        } else {
            status::of_embed(&error, input_path)
        }
    })
}

fn input_path(index: usize) -> String {
    format!("inputs[{index}]")
}

/// One open stream; answers with the same id leave in the order of their inputs.
struct EmbedStream {
    embedder: Embedder,
    limits: Limits,
    /// The caller's, of the whole stream.
    deadline: Option<Deadline>,
    waits_for_ready: bool,
    /// Set by the first input that finds a model.
    flow: Option<Flow>,
    reorder: Reorder<ItemResult>,
}

impl Exchange for EmbedStream {
    type Message = EmbedStreamRequest;
    type Step = (Ticket, ItemResult);
    type Answer = EmbedStreamResponse;

    fn begin(&mut self, item: EmbedStreamRequest) -> BoxStream<'static, Self::Step> {
        let ticket = self.reorder.add(cut_id(&item.id));
        self.flow = self.flow.or_else(|| self.embedder.ready().ok().map(Engine::stream_flow));
        let work = Work {
            embedder: self.embedder.clone(),
            limits: self.limits.clone(),
            deadline: self.deadline.unwrap_or_else(|| Deadline::after(self.limits.default_deadline)),
            waits_for_ready: self.waits_for_ready,
            flow: self.flow,
        };
        let span = Scope::current().child(|| "input");
        let result = async move {
            let result = span.scope().around(work.embed(item)).await;
            span.end_with(&result, status::name);
            let result =
                result.map_or_else(|e| ItemResult::Error(status::to_item(&e)), ItemResult::Embedding);
            (ticket, result)
        };
        result.into_stream().boxed()
    }

    fn answers(&mut self, (ticket, result): Self::Step) -> Vec<EmbedStreamResponse> {
        let leaving = self.reorder.finish(ticket, result).into_iter();
        leaving.map(|(id, result)| EmbedStreamResponse { id, result: Some(result) }).collect()
    }

    fn unanswered(&self) -> usize {
        self.reorder.pending()
    }

    fn summary(&mut self) -> Option<EmbedStreamResponse> {
        None
    }
}

/// What one input of a stream needs.
struct Work {
    embedder: Embedder,
    limits: Limits,
    deadline: Deadline,
    waits_for_ready: bool,
    flow: Option<Flow>,
}

impl Work {
    async fn embed(&self, item: EmbedStreamRequest) -> Result<Embedding, Status> {
        let engine = engine(&self.embedder, self.waits_for_ready, self.deadline).await?;
        let (text, options) = convert::stream_item(item, &self.limits, engine.model())?;
        let flow = self.flow.unwrap_or_else(|| engine.stream_flow());
        let embedded = engine.embed_in_stream(flow, text, options, self.deadline).await;
        embedded.map(convert::embedding).map_err(|error| status::of_embed(&error, |_| "input".into()))
    }
}
