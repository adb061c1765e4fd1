//! Streams at full load with concurrent short calls, and graceful shutdown.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use assay::proto::{
    EmbedOptions, EmbedRequest, EmbedStreamRequest, GetServerInfoRequest, Truncation,
    embed_stream_response::Result as ItemResult, embedding_service_client::EmbeddingServiceClient,
    server_service_client::ServerServiceClient,
};
use futures::future::join_all;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::{
    Error, percentile,
    report::Single,
    server::{Server, connect, start},
    workload,
};

pub const STREAMS: usize = 64;
const INPUTS_PER_STREAM: usize = 240;

pub struct Load {
    inputs_per_second: f64,
    tokens_per_second: f64,
    failed: usize,
    misordered: usize,
    short_p50: Duration,
    short_p99: Duration,
    alone_p50: Duration,
    lag_p99: Duration,
    stalls: u64,
    drain_failed: usize,
    drain: Duration,
}

/// One row per figure.
pub fn rows(loads: &[Load]) -> Vec<Single> {
    let row = |what: &str, of: fn(&Load) -> f64| Single {
        what: what.into(),
        rounds: loads.iter().map(of).collect(),
    };
    vec![
        row("64 streams: inputs/s", |l| l.inputs_per_second),
        row("64 streams: tokens/s", |l| l.tokens_per_second),
        row("64 streams: failed inputs", |l| l.failed as f64),
        row("64 streams: answers out of order", |l| l.misordered as f64),
        row("short unary call meanwhile, p50, ms", |l| l.short_p50.as_secs_f64() * 1e3),
        row("short unary call meanwhile, p99, ms", |l| l.short_p99.as_secs_f64() * 1e3),
        row("short unary call alone, p50, ms", |l| l.alone_p50.as_secs_f64() * 1e3),
        row("reactor lag p99, ms", |l| l.lag_p99.as_secs_f64() * 1e3),
        row("reactor stalls", |l| l.stalls as f64),
        row("SIGTERM under load: failed calls in flight", |l| l.drain_failed as f64),
        row("SIGTERM under load: time to exit 0, s", |l| l.drain.as_secs_f64()),
    ]
}

pub async fn load(binary: &Path, model: &Path) -> Result<Load, Error> {
    let mut server = start(binary, model, &[]).await?;
    let channel = connect(server.address).await?;
    let texts = workload::fixture_texts()?;
    let alone = short_calls(channel.clone(), tokio::time::sleep(Duration::from_secs(1))).await?;
    let begun = Instant::now();
    let (done, finished) = tokio::sync::oneshot::channel::<()>();
    let short = tokio::spawn(short_calls(channel.clone(), async {
        // The load has ended in either case.
        let _ = finished.await;
    }));
    let streams = (0..STREAMS).map(|number| stream(channel.clone(), texts.clone(), number));
    let results = join_all(streams).await.into_iter().collect::<Result<Vec<_>, Error>>()?;
    let took = begun.elapsed().as_secs_f64();
    drop(done);
    let under_load = short.await??;
    let info = ServerServiceClient::new(channel.clone()).get_server_info(GetServerInfoRequest {}).await?;
    let reactor = info.get_ref().reactor.unwrap_or_default();
    let (drain_failed, drain) = drain(&mut server, channel, texts).await?;
    Ok(Load {
        inputs_per_second: results.iter().map(|r| r.answered).sum::<usize>() as f64 / took,
        tokens_per_second: results.iter().map(|r| r.tokens).sum::<u64>() as f64 / took,
        failed: results.iter().map(|r| r.failed).sum(),
        misordered: results.iter().map(|r| r.misordered).sum(),
        short_p50: percentile(&under_load, 0.5),
        short_p99: percentile(&under_load, 0.99),
        alone_p50: percentile(&alone, 0.5),
        lag_p99: reactor.lag_p99.unwrap_or_default().try_into()?,
        stalls: reactor.stalls,
        drain_failed,
        drain,
    })
}

struct StreamResult {
    answered: usize,
    failed: usize,
    misordered: usize,
    tokens: u64,
}

/// Sends all inputs of one stream with two ids. Responses of each id must be in order.
async fn stream(channel: Channel, texts: Vec<String>, number: usize) -> Result<StreamResult, Error> {
    let (sender, receiver) = tokio::sync::mpsc::channel(16);
    let send = async move {
        for index in 0..INPUTS_PER_STREAM {
            let input = texts[(number * 7 + index) % texts.len()].clone();
            let options = Some(EmbedOptions { truncation: Truncation::End as i32, ..Default::default() });
            let item = EmbedStreamRequest { id: (index % 2).to_string(), input, options };
            if sender.send(item).await.is_err() {
                return;
            }
        }
    };
    let receive = async {
        let mut client = EmbeddingServiceClient::new(channel);
        let mut answers = client.embed_stream(ReceiverStream::new(receiver)).await?.into_inner();
        let mut result = StreamResult { answered: 0, failed: 0, misordered: 0, tokens: 0 };
        let mut by_id = [0_usize; 2];
        while let Some(answer) = answers.message().await? {
            result.answered += 1;
            by_id[usize::from(answer.id == "1")] += 1;
            match answer.result {
                Some(ItemResult::Embedding(embedding)) => result.tokens += u64::from(embedding.token_count),
                _ => result.failed += 1,
            }
        }
        result.misordered = usize::from(by_id != [INPUTS_PER_STREAM / 2; 2]);
        Ok::<_, Error>(result)
    };
    let ((), result) = tokio::join!(send, receive);
    result
}

/// Latencies of sequential calls with one short text, until `end`.
pub async fn short_calls(channel: Channel, end: impl Future<Output = ()>) -> Result<Vec<Duration>, Error> {
    let mut client = EmbeddingServiceClient::new(channel);
    let mut latencies = Vec::new();
    tokio::pin!(end);
    loop {
        let begun = Instant::now();
        client.embed(EmbedRequest { inputs: vec!["how do I reset it?".into()], options: None }).await?;
        latencies.push(begun.elapsed());
        tokio::select! {
            () = &mut end => break,
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
    latencies.sort_unstable();
    Ok(latencies)
}

/// Sends SIGTERM with 32 calls in flight. Returns the number of failed calls and the time until exit code 0.
async fn drain(
    server: &mut Server,
    channel: Channel,
    texts: Vec<String>,
) -> Result<(usize, Duration), Error> {
    let options = EmbedOptions { truncation: Truncation::End as i32, ..Default::default() };
    let calls: Vec<_> = (0..32)
        .map(|_| {
            let (mut client, inputs) = (EmbeddingServiceClient::new(channel.clone()), texts[..16].to_vec());
            let request = EmbedRequest { inputs, options: Some(options.clone()) };
            tokio::spawn(async move { client.embed(request).await.is_err() })
        })
        .collect();
    // The calls are in flight once a part of them is computed.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let begun = Instant::now();
    Command::new("kill").arg(server.process.id().to_string()).status()?;
    let failed = join_all(calls).await.into_iter().filter(|failed| !matches!(failed, Ok(false))).count();
    let status = loop {
        if let Some(status) = server.process.try_wait()? {
            break status;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    if !status.success() {
        return Err(format!("the server ended with {status}").into());
    }
    Ok((failed, begun.elapsed()))
}
