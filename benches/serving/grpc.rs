//! The same texts through the release binary, over gRPC on the loopback interface.

use std::path::Path;

use assay::proto::{
    EmbedOptions, EmbedRequest, GetServerInfoRequest, TokenizeRequest, Truncation, server_service_client,
};
use bytes::Bytes;
use prost::Message;
use tonic_health::pb::HealthCheckRequest;

use super::{
    Error,
    h2_client::{Call, Client},
    load::{Answered, Seen, Window, closed, one_after_another, open},
    server::{Server, connect, start},
    workload::Workload,
};

/// Callers per connection, below the stream limit of the server.
const CALLERS_A_CONNECTION: usize = 64;

/// A server with prepared calls.
pub struct Served {
    pub server: Server,
    clients: Vec<Client>,
}

/// Lag of the event loop of the server since its start, in milliseconds.
#[derive(Clone, Copy)]
pub struct Lag {
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub worst_ms: f64,
}

/// The decoded part of an EmbedResponse; vectors are not decoded.
#[derive(Clone, PartialEq, Message)]
struct Glance {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    embeddings: Vec<Bytes>,
    #[prost(uint64, tag = "5")]
    total_tokens: u64,
}

impl Served {
    pub async fn start(binary: &Path, model: &Path, settings: &[String]) -> Result<Served, Error> {
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        Ok(Served { server: start(binary, model, &settings).await?, clients: Vec::new() })
    }

    /// One text per call, from `callers` callers.
    pub async fn one_by_one(
        &mut self,
        workload: &Workload,
        callers: usize,
        window: Window,
    ) -> Result<Seen, Error> {
        let calls = self.prepared(workload.texts.chunks(1), callers).await?;
        let call = async |number: usize| self.embed(&calls, number).await;
        Ok(if callers == 1 {
            one_after_another(window, call).await
        } else {
            closed(callers, window, call).await
        })
    }

    /// One text per call, at `rate` calls per second.
    pub async fn at_rate(&mut self, workload: &Workload, rate: f64, window: Window) -> Result<Seen, Error> {
        let calls = self.prepared(workload.texts.chunks(1), CALLERS_A_CONNECTION * 2).await?;
        open(rate, window, async |number| self.embed(&calls, number).await).await
    }

    /// All texts in one call, in sequential calls.
    pub async fn all_at_once(&mut self, workload: &Workload, window: Window) -> Result<Seen, Error> {
        let calls = self.prepared(workload.texts.chunks(workload.texts.len()), 1).await?;
        Ok(one_after_another(window, async |number| self.embed(&calls, number).await).await)
    }

    /// Calls that need only the event loop.
    pub async fn health_checks(&mut self, window: Window) -> Result<Seen, Error> {
        let client = Client::connect(self.server.address).await?;
        let call = client.prepare("grpc.health.v1.Health/Check", &HealthCheckRequest::default())?;
        let check = async |_| {
            client.send(&call).await?;
            Ok(Answered { texts: 0, tokens: 0 })
        };
        Ok(one_after_another(window, check).await)
    }

    /// Calls that need the event loop and a text thread.
    pub async fn tokenize(&mut self, workload: &Workload, window: Window) -> Result<Seen, Error> {
        let client = Client::connect(self.server.address).await?;
        let call = |text: &String| {
            let request = TokenizeRequest { inputs: vec![text.clone()], ..TokenizeRequest::default() };
            client.prepare("assay.v1.EmbeddingService/Tokenize", &request)
        };
        let calls = workload.texts.iter().map(call).collect::<Result<Vec<Call>, Error>>()?;
        let tokenize = async |number| {
            client.send(&calls[number % calls.len()]).await?;
            Ok(Answered { texts: 1, tokens: 0 })
        };
        Ok(one_after_another(window, tokenize).await)
    }

    pub async fn lag(&self) -> Result<Lag, Error> {
        let mut client = server_service_client::ServerServiceClient::new(connect(self.server.address).await?);
        let reactor = client.get_server_info(GetServerInfoRequest {}).await?.into_inner().reactor;
        let reactor = reactor.unwrap_or_default();
        let ms = |duration: Option<prost_types::Duration>| -> Result<f64, Error> {
            Ok(std::time::Duration::try_from(duration.unwrap_or_default())?.as_secs_f64() * 1e3)
        };
        Ok(Lag { p50_ms: ms(reactor.lag_p50)?, p99_ms: ms(reactor.lag_p99)?, worst_ms: ms(reactor.lag_max)? })
    }

    /// Opens connections for `callers` callers, and prepares one call per group of texts.
    async fn prepared(
        &mut self,
        groups: impl Iterator<Item = &[String]>,
        callers: usize,
    ) -> Result<Vec<Call>, Error> {
        while self.clients.len() < callers.div_ceil(CALLERS_A_CONNECTION) {
            self.clients.push(Client::connect(self.server.address).await?);
        }
        let options = EmbedOptions { truncation: Truncation::End as i32, ..EmbedOptions::default() };
        let call = |texts: &[String]| {
            let request = EmbedRequest { inputs: texts.to_vec(), options: Some(options.clone()) };
            self.clients[0].prepare("assay.v1.EmbeddingService/Embed", &request)
        };
        groups.map(call).collect()
    }

    async fn embed(&self, calls: &[Call], number: usize) -> Result<Answered, Error> {
        let client = &self.clients[number % self.clients.len()];
        let answer = Glance::decode(client.send(&calls[number % calls.len()]).await?)?;
        if answer.embeddings.iter().any(Bytes::is_empty) || answer.total_tokens == 0 {
            return Err("an answer without a vector".into());
        }
        Ok(Answered { texts: answer.embeddings.len() as u64, tokens: answer.total_tokens })
    }
}
