//! EmbeddingService: unary calls, and streams whose inputs are computed concurrently.

use futures::{FutureExt, StreamExt, stream::BoxStream};
use prost::Message as _;
use tonic::{Request, Response, Status, Streaming};

use super::{
    Limits,
    convert::{cut_id, embedding as convert},
    layer::CallContext,
    reorder::{ReorderBuffer, ReorderTicket},
    status,
    stream::{self, ResponseStream, StreamHandler, StreamSettings},
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

/// Encoded size of an embedding without its values, in bytes.
const EMBEDDING_BYTES: usize = 32;

/// Handler of EmbeddingService.
pub(super) struct EmbeddingHandler {
    pub embedder: Embedder,
    pub limits: Limits,
    pub stream_settings: StreamSettings,
}

#[tonic::async_trait]
impl EmbeddingService for EmbeddingHandler {
    async fn embed(&self, request: Request<EmbedRequest>) -> Result<Response<EmbedResponse>, Status> {
        let (call, deadline) = self.unary(&request);
        let engine = engine(&self.embedder, call.waits_for_ready, deadline).await?;
        let (texts, options) = convert::embed(request.into_inner(), &self.limits, engine.model())?;
        let dimensions = options.vector.dimensions;
        call.memory.take_response(texts.len() * (dimensions * size_of::<f32>() + EMBEDDING_BYTES)).await;
        let embedded = engine.embed(texts, options, deadline).await;
        let embedded = embedded.map_err(|error| status::from_embed_error(&error, input_path))?;
        Ok(Response::new(convert::embed_response(embedded, dimensions, engine.model())))
    }

    type EmbedStreamStream = ResponseStream<EmbedStreamResponse>;

    async fn embed_stream(
        &self,
        request: Request<Streaming<EmbedStreamRequest>>,
    ) -> Result<Response<Self::EmbedStreamStream>, Status> {
        let call = CallContext::of_request(&request);
        let handler = EmbedStream {
            embedder: self.embedder.clone(),
            limits: self.limits.clone(),
            deadline: call.deadline,
            waits_for_ready: call.waits_for_ready,
            flow: None,
            reorder: ReorderBuffer::new(),
        };
        let responses = stream::open(handler, request.into_inner(), &call, &self.stream_settings);
        Ok(Response::new(responses))
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
        let results = results.map_err(|error| status::from_embed_error(&error, input_path))?;
        let response = convert::tokenize_response(results, max_tokens);
        call.memory.take_response(response.encoded_len()).await;
        Ok(Response::new(response))
    }
}

impl EmbeddingHandler {
    /// The context and the deadline of a unary call.
    fn unary<T>(&self, request: &Request<T>) -> (CallContext, Deadline) {
        let call = CallContext::of_request(request);
        let deadline = call.deadline.unwrap_or_else(|| Deadline::after(self.limits.default_deadline));
        (call, deadline)
    }
}

/// The engine of a ready model. If `waits` is set, waits for the model until `deadline`.
async fn engine(embedder: &Embedder, waits: bool, deadline: Deadline) -> Result<&Engine, Status> {
    let engine = match embedder.ready() {
        Err(_) if waits => embedder.wait_until_ready(deadline).await,
        engine => engine,
    };
    engine.map_err(|error| {
        if waits && deadline.has_passed() {
            status::deadline_exceeded()
        } else {
            status::from_embed_error(&error, input_path)
        }
    })
}

fn input_path(index: usize) -> String {
    format!("inputs[{index}]")
}

/// One open EmbedStream call. Responses with the same id are sent in the order of their inputs.
struct EmbedStream {
    embedder: Embedder,
    limits: Limits,
    /// Deadline of the whole stream, if the client set one.
    deadline: Option<Deadline>,
    waits_for_ready: bool,
    /// Scheduling flow of the stream. Set by the first input after the model is ready.
    flow: Option<Flow>,
    reorder: ReorderBuffer<ItemResult>,
}

impl StreamHandler for EmbedStream {
    type Message = EmbedStreamRequest;
    type Step = (ReorderTicket, ItemResult);
    type Response = EmbedStreamResponse;

    fn begin(&mut self, item: EmbedStreamRequest) -> BoxStream<'static, Self::Step> {
        let ticket = self.reorder.add(cut_id(&item.id));
        self.flow = self.flow.or_else(|| self.embedder.ready().ok().map(Engine::stream_flow));
        let work = StreamInputWork {
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

    fn responses(&mut self, (ticket, result): Self::Step) -> Vec<EmbedStreamResponse> {
        let leaving = self.reorder.finish(ticket, result).into_iter();
        leaving.map(|(id, result)| EmbedStreamResponse { id, result: Some(result) }).collect()
    }

    fn in_flight(&self) -> usize {
        self.reorder.pending()
    }

    fn summary(&mut self) -> Option<EmbedStreamResponse> {
        None
    }
}

/// Context to embed one input of a stream.
struct StreamInputWork {
    embedder: Embedder,
    limits: Limits,
    deadline: Deadline,
    waits_for_ready: bool,
    flow: Option<Flow>,
}

impl StreamInputWork {
    async fn embed(&self, item: EmbedStreamRequest) -> Result<Embedding, Status> {
        let engine = engine(&self.embedder, self.waits_for_ready, self.deadline).await?;
        let (text, options) = convert::stream_item(item, &self.limits, engine.model())?;
        let flow = self.flow.unwrap_or_else(|| engine.stream_flow());
        let embedded = engine.embed_in_stream(flow, text, options, self.deadline).await;
        embedded.map(convert::embedding).map_err(|error| status::from_embed_error(&error, |_| "input".into()))
    }
}
