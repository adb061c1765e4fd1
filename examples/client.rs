//! A client in Rust: a deadline for the whole call, and retries that respect what the server says.
//!
//! ```text
//! $ make run &
//! $ cargo run --release --example client -- http://127.0.0.1:50051
//! 384 numbers: [0.0008230163, -0.011388925, -0.07368073] …
//! 384 numbers: [0.035836414, 0.1407844, 0.08136688] …
//! ```
//!
//! Against a server whose model is still loading:
//!
//! ```text
//! Unavailable: the model is not ready: reading models/all-MiniLM-L6-v2: 90868376 of 90868376 bytes; retry in 1.2s
//! 384 numbers: [0.0008230163, -0.011388925, -0.07368073] …
//! 384 numbers: [0.035836414, 0.1407844, 0.08136688] …
//! ```
//!
//! `assay::proto` is generated from proto/. A client in another crate generates it with tonic-prost-build, as build.rs
//! does here.

#![expect(clippy::disallowed_methods, reason = "`tokio::main` blocks on its future")]
#![expect(clippy::print_stdout, reason = "an example prints what it finds")]

use std::{
    error::Error,
    time::{Duration, Instant},
};

use assay::proto::{EmbedRequest, EmbedResponse, embedding_service_client::EmbeddingServiceClient};
use rand::RngExt as _;
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;

/// Time for the call with all its attempts.
const DEADLINE: Duration = Duration::from_secs(10);
const MAX_ATTEMPTS: u32 = 5;
/// The first pause between attempts where the server names none; each is twice as long as the one before.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:50051".to_owned());
    // Keepalive finds a connection that died without a word; connecting lazily lets the call retry that too.
    let endpoint = Endpoint::from_shared(address)?
        .connect_timeout(Duration::from_secs(2))
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_while_idle(true);
    let client = EmbeddingServiceClient::new(endpoint.connect_lazy());

    let inputs = vec!["A red fox.".to_owned(), "今天天气很好。".to_owned()];
    let response = embed(client, EmbedRequest { inputs, options: None }).await;
    let response = response.map_err(|status| format!("{:?}: {}", status.code(), status.message()))?;
    for embedding in &response.embeddings {
        println!("{} numbers: {:?} …", embedding.values.len(), &embedding.values[..3]);
    }
    Ok(())
}

/// Calls Embed until it succeeds, fails for good, or the deadline leaves no time for another attempt.
async fn embed(
    mut client: EmbeddingServiceClient<Channel>,
    request: EmbedRequest,
) -> Result<EmbedResponse, Status> {
    let deadline = Instant::now() + DEADLINE;
    let mut attempt = 1;
    loop {
        let mut call = Request::new(request.clone());
        // The server sees the time that is left, and drops the work when it has passed.
        call.set_timeout(deadline.saturating_duration_since(Instant::now()));
        let status = match client.embed(call).await {
            Ok(response) => return Ok(response.into_inner()),
            Err(status) => status,
        };
        let time_left = deadline.saturating_duration_since(Instant::now());
        match pause_before_retry(&status, attempt) {
            Some(pause) if attempt < MAX_ATTEMPTS && pause < time_left => {
                println!("{:?}: {}; retry in {pause:.1?}", status.code(), status.message());
                tokio::time::sleep(pause).await;
            }
            _ => return Err(status),
        }
        attempt += 1;
    }
}

/// The pause before the next attempt; None where another attempt would fail the same way.
///
/// The server names the pause in `RetryInfo`. Without one, as when the connection is refused, it is exponential backoff.
/// Either is stretched at random, so that clients which failed together don't come back together.
fn pause_before_retry(status: &Status, attempt: u32) -> Option<Duration> {
    if !matches!(status.code(), Code::Unavailable | Code::ResourceExhausted) {
        return None;
    }
    let from_server = status.get_details_retry_info().and_then(|info| info.retry_delay);
    let pause = from_server.unwrap_or_else(|| FIRST_BACKOFF * 2_u32.pow(attempt - 1));
    Some(pause.mul_f64(rand::rng().random_range(1.0..1.5)))
}
