//! Effect of samples that wait for a judge on concurrent Embed calls.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use assay::proto::{
    Context, EvaluateRequest, EvaluateStreamRequest, GetServerInfoRequest, MetricSelection, MetricStatus,
    Sample, evaluate_stream_response::Event, evaluation_service_client::EvaluationServiceClient,
    server_service_client::ServerServiceClient,
};
use futures::future::join_all;
use tokio::net::TcpListener;
use tonic::{Request, transport::Channel};

use super::{
    Error, percentile,
    report::Single,
    server::{connect, start},
    streams::{STREAMS, short_calls},
};

/// Duration for which samples wait, and total duration without samples before and after.
const WAIT: Duration = Duration::from_secs(6);

pub struct Waiting {
    alone_p99: Duration,
    under_p99: Duration,
    lag_p99: Duration,
    stalls: u64,
    late: usize,
}

/// One row per figure.
pub fn rows(waits: &[Waiting]) -> Vec<Single> {
    let row = |what: &str, of: fn(&Waiting) -> f64| Single {
        what: what.into(),
        rounds: waits.iter().map(of).collect(),
    };
    vec![
        row("short unary call without Evaluate, p99, ms", |w| w.alone_p99.as_secs_f64() * 1e3),
        row("the same while 64 Evaluate streams wait for a judge that never answers, p99, ms", |w| {
            w.under_p99.as_secs_f64() * 1e3
        }),
        row("ratio of the two", |w| w.under_p99.as_secs_f64() / w.alone_p99.as_secs_f64()),
        row("reactor lag p99 meanwhile, ms", |w| w.lag_p99.as_secs_f64() * 1e3),
        row("reactor stalls meanwhile", |w| w.stalls as f64),
        row("samples that ended after their deadline, or without what is known", |w| w.late as f64),
    ]
}

pub async fn waiting(binary: &Path, model: &Path) -> Result<Waiting, Error> {
    let judge = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/v1", judge.local_addr()?);
    let hold = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((connection, _)) = judge.accept().await {
            held.push(connection);
        }
    });
    let server = start(binary, model, &["--judge-url", &url, "--judge-model", "silent"]).await?;
    let channel = connect(server.address).await?;
    let half = || short_calls(channel.clone(), tokio::time::sleep(WAIT / 2));
    let mut alone = half().await?;
    let samples = connect(server.address).await?;
    let streams = tokio::spawn(join_all((0..STREAMS).map(|_| wait_in_stream(samples.clone()))));
    let under = short_calls(channel.clone(), tokio::time::sleep(WAIT - Duration::from_millis(500))).await?;
    let late = streams.await?.into_iter().collect::<Result<Vec<_>, Error>>()?;
    alone.extend(half().await?);
    let info = ServerServiceClient::new(channel).get_server_info(GetServerInfoRequest {}).await?;
    let reactor = info.get_ref().reactor.unwrap_or_default();
    hold.abort();
    alone.sort();
    Ok(Waiting {
        alone_p99: percentile(&alone, 0.99),
        under_p99: percentile(&under, 0.99),
        lag_p99: reactor.lag_p99.unwrap_or_default().try_into()?,
        stalls: reactor.stalls,
        late: late.into_iter().filter(|late| *late).count(),
    })
}

/// Sends one sample whose judge never responds. Returns whether it ended late or without the available scores.
async fn wait_in_stream(channel: Channel) -> Result<bool, Error> {
    let text = |text: &str| text.to_owned();
    let sample = Sample {
        user_input: text("What is the capital of France?"),
        response: text("The capital of France is Paris."),
        reference: text("Paris."),
        retrieved_contexts: vec![Context { text: text("Paris is the capital of France."), id: text("a") }],
        ..Sample::default()
    };
    let metrics = ["faithfulness", "context_recall", "bleu"]
        .map(|name| MetricSelection { name: text(name), ..MetricSelection::default() });
    let evaluate = EvaluateRequest { sample: Some(sample), metrics: metrics.into(), options: None };
    let message = EvaluateStreamRequest { id: String::new(), request: Some(evaluate) };
    let begun = Instant::now();
    // Not `set_timeout`, because the deadline handling of the server is measured.
    let mut request = Request::new(tokio_stream::iter([message]));
    request.metadata_mut().insert("grpc-timeout", format!("{}m", WAIT.as_millis()).parse()?);
    let mut answers = EvaluationServiceClient::new(channel).evaluate_stream(request).await?.into_inner();
    let mut statuses = Vec::new();
    while let Some(answer) = answers.message().await? {
        if let Some(Event::Sample(response)) = answer.event {
            statuses = response.results.iter().map(|result| result.status()).collect();
        }
    }
    let known = [MetricStatus::Deadline, MetricStatus::Deadline, MetricStatus::Ok];
    Ok(statuses != known || begun.elapsed() > WAIT)
}
