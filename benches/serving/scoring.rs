//! Effect of the largest samples, with every metric that needs no judge, on concurrent Embed calls.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use assay::proto::{
    Context, EvaluateRequest, GetServerInfoRequest, ListMetricsRequest, MetricSelection, Sample,
    evaluation_service_client::EvaluationServiceClient, server_service_client::ServerServiceClient,
};
use futures::future::join_all;
use tonic::{Request, transport::Channel};

use super::{
    Error, percentile,
    report::Single,
    server::{connect, start},
    streams::short_calls,
};

/// Concurrent callers that send samples.
const CALLERS: usize = 64;
const DEADLINE: Duration = Duration::from_secs(8);
/// Lag that is reported as a stall: a tenth of the default.
const STALL_AFTER: &str = "50ms";
/// Default limits of a text and of a sample, in bytes.
const TEXT_BYTES: usize = 128 << 10;
const SAMPLE_BYTES: usize = 1 << 20;

pub struct Scored {
    alone: Vec<Duration>,
    beside: Vec<Duration>,
    evaluations: usize,
    late: usize,
    refused: usize,
    lag_p99: Duration,
    stalls: u64,
    seconds: f64,
}

/// One row per figure.
pub fn rows(scored: &Scored) -> Vec<Single> {
    let row = |what: &str, value: f64| Single { what: what.into(), rounds: vec![value] };
    let ms = |latencies: &[Duration], share: f64| percentile(latencies, share).as_secs_f64() * 1e3;
    let (alone, beside) = (ms(&scored.alone, 0.99), ms(&scored.beside, 0.99));
    vec![
        row("short unary call alone, p50, ms", ms(&scored.alone, 0.5)),
        row("short unary call alone, p99, ms", alone),
        row("the same beside 64 callers with the largest samples, p50, ms", ms(&scored.beside, 0.5)),
        row("the same beside them, p99, ms", beside),
        row("ratio of the two p99", beside / alone),
        row("samples answered a second, one metric each", scored.evaluations as f64 / scored.seconds),
        row("samples that were answered after their deadline", scored.late as f64),
        row("samples that were refused", scored.refused as f64),
        row("reactor lag p99 meanwhile, ms", scored.lag_p99.as_secs_f64() * 1e3),
        row("reactor stalls of more than 50 ms meanwhile", scored.stalls as f64),
    ]
}

pub async fn run(binary: &Path, model: &Path, length: Duration) -> Result<Scored, Error> {
    let server = start(binary, model, &["--stall-after", STALL_AFTER]).await?;
    let channel = connect(server.address).await?;
    let metrics = without_judge(channel.clone()).await?;
    let alone =
        short_calls(channel.clone(), tokio::time::sleep((length / 4).min(Duration::from_secs(15)))).await?;
    let begun = Instant::now();
    let end = begun + length;
    let mut callers = Vec::new();
    for number in 0..CALLERS {
        let metrics = metrics.iter().cycle().skip(number).take(metrics.len()).cloned().collect();
        callers.push(tokio::spawn(send_samples(connect(server.address).await?, metrics, end)));
    }
    let beside = short_calls(channel.clone(), tokio::time::sleep_until(end.into())).await?;
    let sent = join_all(callers).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    let seconds = begun.elapsed().as_secs_f64();
    let info = ServerServiceClient::new(channel).get_server_info(GetServerInfoRequest {}).await?;
    let reactor = info.get_ref().reactor.unwrap_or_default();
    let sum = |of: fn(&Sent) -> usize| sent.iter().map(of).sum();
    Ok(Scored {
        alone,
        beside,
        evaluations: sum(|sent| sent.answered),
        late: sum(|sent| sent.late),
        refused: sum(|sent| sent.refused),
        lag_p99: reactor.lag_p99.unwrap_or_default().try_into()?,
        stalls: reactor.stalls,
        seconds,
    })
}

/// Names of the metrics that need no judge.
async fn without_judge(channel: Channel) -> Result<Vec<String>, Error> {
    let metrics =
        EvaluationServiceClient::new(channel).list_metrics(ListMetricsRequest {}).await?.into_inner();
    Ok(metrics.metrics.into_iter().filter(|metric| !metric.needs_judge).map(|metric| metric.name).collect())
}

#[derive(Default)]
struct Sent {
    answered: usize,
    late: usize,
    refused: usize,
}

/// Sends samples sequentially until `end`, each with the next metric.
async fn send_samples(channel: Channel, metrics: Vec<String>, end: Instant) -> Sent {
    let mut client = EvaluationServiceClient::new(channel).max_encoding_message_size(2 * SAMPLE_BYTES);
    let (mut sent, sample) = (Sent::default(), largest_sample());
    for name in metrics.iter().cycle() {
        let begun = Instant::now();
        if begun >= end {
            break;
        }
        let metrics = vec![MetricSelection { name: name.clone(), ..Default::default() }];
        let mut request =
            Request::new(EvaluateRequest { sample: Some(sample.clone()), metrics, options: None });
        // Not `set_timeout`, because the deadline handling of the server is measured.
        let timeout = format!("{}m", DEADLINE.as_millis()).parse().expect("ASCII");
        request.metadata_mut().insert("grpc-timeout", timeout);
        match client.evaluate(request).await {
            Ok(_) => sent.answered += 1,
            Err(_) => sent.refused += 1,
        }
        sent.late += usize::from(begun.elapsed() > DEADLINE);
    }
    sent
}

/// A sample of maximum size with the maximum number of different sentences.
fn largest_sample() -> Sample {
    let sentences = |bytes: usize, seed: usize| -> String {
        let words = (0..).map(|n| format!("Fox {n} of {seed} is red. "));
        let mut text = words.take(512).collect::<String>();
        // The remaining bytes are one sentence.
        while text.len() + 8 <= bytes {
            text.push_str("another ");
        }
        text
    };
    let each = (SAMPLE_BYTES - 2 * TEXT_BYTES - 4096) / 16;
    let contexts = |from: usize| -> Vec<Context> {
        (from..from + 8).map(|n| Context { text: sentences(each, n), id: format!("d{n}") }).collect()
    };
    Sample {
        user_input: "What is there to see?".into(),
        response: sentences(TEXT_BYTES, 1),
        reference: sentences(TEXT_BYTES, 2),
        retrieved_contexts: contexts(10),
        reference_contexts: contexts(30),
        ..Sample::default()
    }
}
