//! Soak test: a constant load for long enough to reveal growing memory.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::{
    Error, Options,
    grpc::Served,
    load::Window,
    report::{Single, singles, write_json},
    workload::workload,
};

const CALLERS: usize = 64;
const SAMPLE: Duration = Duration::from_secs(5);
/// Initial time that is excluded, while buffers and allocator arenas grow.
const SETTLING: Duration = Duration::from_secs(120);

#[derive(Serialize)]
struct Soak {
    rss_kib_by_second: Vec<(f64, f64)>,
    figures: Vec<Single>,
}

pub async fn run(options: &Options, length: Duration) -> Result<String, Error> {
    let workload = workload(&options.workloads, "w3")?;
    let mut served = Served::start(&options.binary, &options.model, &options.settings).await?;
    let process = served.server.sampler();
    let begun = Instant::now();
    let window = Window { warm: Duration::from_secs(1), measured: length };
    let mut samples = Vec::new();
    let sample = async {
        loop {
            tokio::time::sleep(SAMPLE).await;
            samples.push((begun.elapsed().as_secs_f64(), process.memory()?.rss_kib));
        }
    };
    let seen = tokio::select! {
        seen = served.one_by_one(&workload, CALLERS, window) => seen?,
        failed = sample => return failed,
    };
    let (lag, memory) = (served.lag().await?, served.server.memory()?);
    let settling = SETTLING.min(length / 2).as_secs_f64();
    let settled: Vec<(f64, f64)> = samples.iter().copied().filter(|(at, _)| *at >= settling).collect();
    let figure = |what: &str, value: f64| Single { what: what.into(), rounds: vec![value] };
    let figures = vec![
        figure("length, min", length.as_secs_f64() / 60.0),
        figure("texts/s", seen.texts_per_second()),
        figure("p50, ms", seen.percentile_ms(0.5).unwrap_or(f64::NAN)),
        figure("p99, ms", seen.percentile_ms(0.99).unwrap_or(f64::NAN)),
        figure("p99.9, ms", seen.percentile_ms(0.999).unwrap_or(f64::NAN)),
        figure("errors", seen.errors as f64),
        figure("heartbeat lag p50, ms", lag.p50_ms),
        figure("heartbeat lag p99, ms", lag.p99_ms),
        figure("heartbeat lag worst, ms", lag.worst_ms),
        figure("RSS at the end, MiB", memory.rss_kib / 1024.0),
        figure("RSS peak, MiB", memory.peak_kib / 1024.0),
        figure("RSS slope once settled, KiB a minute", slope(&settled) * 60.0),
    ];
    let table = singles(&figures);
    write_json("target/bench/soak.json".as_ref(), &Soak { rss_kib_by_second: samples, figures })?;
    Ok(table)
}

/// Slope of the least-squares line.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let covariance: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    covariance / points.iter().map(|p| (p.0 - x).powi(2)).sum::<f64>()
}
