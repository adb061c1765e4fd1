//! Limits of the machine, for the shares in the tables, and the gauge that detects disturbances.

use std::{hint::black_box, path::Path, thread, time::Instant};

use serde_json::{Map, Value, json};

use crate::{Error, protocol::Engine};

/// Numbers per array, far beyond the size of any cache.
const STREAM_NUMBERS: usize = 96 << 20;
const TRIES: usize = 5;
/// Iterations that take about 10 ms.
const GAUGE_STEPS: u64 = 1_000_000;
/// Iterations that take about 0.1 s.
const PEAK_STEPS: u64 = 10_000_000;

pub struct Machine;

impl Engine for Machine {
    fn load(&mut self, _model: &Path, _threads: usize) -> Result<Value, Error> {
        Err("the machine has no model".into())
    }

    fn embed(&mut self, _texts: &[String], _policy: &str) -> Result<Vec<f32>, Error> {
        Err("the machine has no model".into())
    }

    fn other(&mut self, op: &str, request: &Value) -> Result<Value, Error> {
        let threads = usize::try_from(request["threads"].as_u64().ok_or("threads is missing")?)?;
        match op {
            "gauge" => Ok(json!({ "seconds": on_each(threads, gauge) })),
            "peaks" => Ok(peaks(threads)),
            _ => Err(format!("unknown op {op:?}").into()),
        }
    }
}

/// Seconds until all `threads` copies of `work` have ended.
fn on_each(threads: usize, work: impl Fn() + Sync) -> f64 {
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(&work);
        }
        work();
    });
    begun.elapsed().as_secs_f64()
}

#[cfg(target_arch = "x86_64")]
fn gauge() {
    // Tiles can be slow while other instructions are fast (docs/PERFORMANCE.md).
    let mut kernels = crate::registers::KERNELS.iter().filter(|kernel| (kernel.runs_here)());
    if let Some(kernel) = kernels.next() {
        kernel.run(GAUGE_STEPS / 2);
    }
    if let Some(kernel) = kernels.find(|kernel| kernel.name.contains("AMX")) {
        kernel.run(GAUGE_STEPS / 8);
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn gauge() {
    let sum = (0..GAUGE_STEPS * 8).fold(0.0_f64, |sum, step| black_box(sum * 0.5 + step as f64));
    black_box(sum);
}

/// Limits in GFLOP/s (GOP/s for int8) and GB/s, on one thread and on `threads` threads.
fn peaks(threads: usize) -> Value {
    let mut found = Map::new();
    #[cfg(target_arch = "x86_64")]
    for kernel in crate::registers::KERNELS.iter().filter(|kernel| (kernel.runs_here)()) {
        let rate = |threads| {
            let seconds = best(|| on_each(threads, || kernel.run(PEAK_STEPS)));
            threads as f64 * (PEAK_STEPS * kernel.operations_per_step) as f64 / seconds / 1e9
        };
        found.insert(kernel.name.into(), json!({ "one": rate(1), "all": rate(threads) }));
    }
    let triad = json!({ "one": triad(1), "all": triad(threads) });
    found.insert("memory, STREAM triad".into(), triad);
    Value::Object(found)
}

fn best(measure: impl FnMut() -> f64) -> f64 {
    std::iter::repeat_with(measure).take(TRIES).fold(f64::INFINITY, f64::min)
}

/// Memory bandwidth of `a = b + s * c`, counted as three arrays, in GB/s. Source: McCalpin, STREAM.
fn triad(threads: usize) -> f64 {
    let (mut a, b, c) =
        (vec![0.0_f32; STREAM_NUMBERS], vec![1.0_f32; STREAM_NUMBERS], vec![2.0_f32; STREAM_NUMBERS]);
    let part = STREAM_NUMBERS.div_ceil(threads);
    let seconds = best(|| {
        let begun = Instant::now();
        thread::scope(|scope| {
            for ((a, b), c) in a.chunks_mut(part).zip(b.chunks(part)).zip(c.chunks(part)) {
                scope.spawn(move || {
                    for ((a, &b), &c) in a.iter_mut().zip(b).zip(c) {
                        *a = b + 3.0 * c;
                    }
                });
            }
        });
        begun.elapsed().as_secs_f64()
    });
    black_box(&a);
    (3 * STREAM_NUMBERS * size_of::<f32>()) as f64 / seconds / 1e9
}
