//! Timing of the kernels on this CPU with one layer of the model, and the file that stores the measurements.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    ModelError, Packed,
    bert::{Bert, BertSource},
    kernel::{Kernel, Team, all},
    kernel_selection::KernelMeasurement,
};

/// Sequence lengths of the timed batches: a query, and two passages.
const BATCHES: [&[usize]; 2] = [&[12], &[48, 80]];
/// Maximum rounds. In each round, every kernel computes every batch once.
const ROUNDS: usize = 5;
/// Minimum rounds, regardless of the time limit.
const MIN_ROUNDS: usize = 3;
/// Time after which no further round begins.
const TIME_LIMIT: Duration = Duration::from_millis(80);

/// Times every kernel that this CPU supports, fastest first. A kernel that panics is left out.
///
/// # Errors
/// [`ModelError`] if the layer cannot be read.
pub(super) fn time_kernels(source: &BertSource<'_>) -> Result<Vec<KernelMeasurement>, ModelError> {
    let mut layers = Vec::new();
    for kernel in candidates() {
        layers.push((source.build(kernel, 1)?, BATCHES.map(|_| Vec::new())));
    }
    let batches = BATCHES.map(|lengths| {
        let mut batch = Packed::new();
        lengths.iter().for_each(|&length| batch.push(&source.any_ids(length)));
        batch
    });
    let started = Instant::now();
    for round in 0..=ROUNDS {
        if round > MIN_ROUNDS && started.elapsed() > TIME_LIMIT {
            break;
        }
        layers.retain_mut(|(layer, times)| {
            let computed =
                catch_unwind(AssertUnwindSafe(|| batches.each_ref().map(|batch| time_of(layer, batch))));
            match computed {
                // The first round allocates memory and warms up the vector units.
                Ok(_) if round == 0 => true,
                Ok(taken) => {
                    times.iter_mut().zip(taken).for_each(|(times, taken)| times.push(taken));
                    true
                }
                Err(_) => {
                    tracing::warn!(
                        kernel = layer.kernel().name,
                        "a kernel panicked while it was timed and is not used"
                    );
                    false
                }
            }
        });
    }
    let total = |times: [Vec<Duration>; 2]| times.into_iter().map(median).sum();
    let measured =
        layers.into_iter().map(|(layer, times)| KernelMeasurement::of(layer.kernel(), total(times)));
    let mut measured: Vec<KernelMeasurement> = measured.collect();
    measured.sort_by_key(|measurement| measurement.time);
    Ok(measured)
}

/// Supported kernels with vector instructions, or all supported kernels if there are none.
fn candidates() -> Vec<&'static Kernel> {
    let supported: Vec<&Kernel> = all().iter().filter(|kernel| kernel.is_supported()).collect();
    let vector: Vec<&Kernel> =
        supported.iter().copied().filter(|kernel| !kernel.name.starts_with("scalar")).collect();
    if vector.is_empty() { supported } else { vector }
}

fn time_of(layer: &Bert, batch: &Packed) -> Duration {
    let started = Instant::now();
    std::hint::black_box(layer.encode(batch, &Team::alone(), &|| {}));
    started.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or(Duration::MAX)
}

/// File with the measurements of one model on one CPU.
pub(super) struct MeasurementFile {
    path: PathBuf,
    key: String,
}

#[derive(Serialize, Deserialize)]
struct MeasurementRecord {
    key: String,
    kernels: Vec<KernelRecord>,
}

#[derive(Serialize, Deserialize)]
struct KernelRecord {
    kernel: String,
    nanoseconds: u64,
    cosine: Option<f32>,
    recall: Option<f32>,
}

impl MeasurementFile {
    /// File in `directory`. Another CPU, model, version or build profile has another file.
    pub fn in_directory(directory: &Path, model_sha256: &str) -> MeasurementFile {
        let kernels: Vec<&str> = candidates().iter().map(|kernel| kernel.name).collect();
        // Times of an unoptimized build say nothing about those of a release build.
        let build = if cfg!(debug_assertions) { "debug" } else { "release" };
        let version = env!("CARGO_PKG_VERSION");
        let key = format!("{version} {build} {} {} {model_sha256}", cpu(), kernels.join(","));
        let name = hex::encode(&Sha256::digest(key.as_bytes())[..8]);
        MeasurementFile { path: directory.join("assay").join(format!("kernels-{name}.json")), key }
    }

    /// Reads the measurements of an earlier start. Returns `None` if there are no valid ones.
    pub fn read(&self) -> Option<Vec<KernelMeasurement>> {
        let record: MeasurementRecord = serde_json::from_slice(&fs::read(&self.path).ok()?).ok()?;
        if record.key != self.key {
            return None;
        }
        let measurement = |record: &KernelRecord| {
            let kernel = candidates().into_iter().find(|kernel| kernel.name == record.kernel)?;
            let KernelRecord { cosine, recall, .. } = *record;
            let time = Duration::from_nanos(record.nanoseconds);
            Some(KernelMeasurement { cosine, recall, ..KernelMeasurement::of(kernel, time) })
        };
        let measured = record.kernels.iter().map(measurement).collect::<Option<Vec<_>>>();
        measured.filter(|measured| !measured.is_empty())
    }

    /// Stores measurements. If the directory is not writable, the next start measures again.
    pub fn write(&self, measured: &[KernelMeasurement]) {
        let kernel = |measurement: &KernelMeasurement| KernelRecord {
            kernel: measurement.kernel.name.into(),
            nanoseconds: u64::try_from(measurement.time.as_nanos()).unwrap_or(u64::MAX),
            cosine: measurement.cosine,
            recall: measurement.recall,
        };
        let record =
            MeasurementRecord { key: self.key.clone(), kernels: measured.iter().map(kernel).collect() };
        let write = || {
            fs::create_dir_all(self.path.parent().unwrap_or(&self.path))?;
            let whole = self.path.with_extension(format!("{}.tmp", std::process::id()));
            fs::write(&whole, serde_json::to_vec_pretty(&record)?)?;
            fs::rename(&whole, &self.path)
        };
        if let Err(error) = write() {
            tracing::debug!(file = %self.path.display(), %error, "kernel measurements cannot be stored; the next start measures again");
        }
    }
}

/// Identity of the CPU model, from the operating system.
fn cpu() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let first = info.split("\n\n").next().unwrap_or_default();
    let is_identity = |line: &&str| {
        ["vendor_id", "cpu family", "model", "model name", "stepping", "CPU implementer", "CPU part"]
            .iter()
            .any(|key| line.split(':').next().is_some_and(|found| found.trim() == *key))
    };
    let identity =
        first.lines().filter(is_identity).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    identity.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured() -> Vec<KernelMeasurement> {
        let of = |(kernel, n)| KernelMeasurement {
            cosine: Some(0.5),
            ..KernelMeasurement::of(kernel, Duration::from_micros(n))
        };
        candidates().into_iter().zip(1..).map(of).collect()
    }

    #[test]
    fn measurements_are_stored_per_model() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = MeasurementFile::in_directory(directory.path(), "a");
        assert!(file.read().is_none());
        file.write(&measured());
        let read = file.read().expect("what was written");
        let parts = |m: &KernelMeasurement| (m.kernel.name, m.time, m.cosine, m.recall);
        assert!(read.iter().map(parts).eq(measured().iter().map(parts)));
        assert!(MeasurementFile::in_directory(directory.path(), "b").read().is_none());
    }

    #[test]
    fn a_damaged_file_or_unknown_kernel_is_ignored() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = MeasurementFile::in_directory(directory.path(), "a");
        file.write(&measured());
        let written = fs::read_to_string(&file.path).expect("the file");
        for damaged in [&written[..written.len() / 2], "", &written.replace(candidates()[0].name, "abacus")] {
            fs::write(&file.path, damaged).expect("written");
            assert!(file.read().is_none());
        }
    }

    #[test]
    fn an_unwritable_directory_is_not_an_error() {
        let directory = tempfile::tempdir().expect("a directory");
        let taken = directory.path().join("taken");
        fs::write(&taken, "a file").expect("written");
        let file = MeasurementFile::in_directory(&taken, "a");
        file.write(&measured());
        assert!(file.read().is_none());
    }
}
