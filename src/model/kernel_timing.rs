//! How fast each kernel is on this CPU, measured on one layer of the model and remembered in a file.

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
};

/// Sequence lengths of the timed batches: a query, and two passages.
const BATCHES: [&[usize]; 2] = [&[12], &[48, 80]];
/// Rounds, in each of which every kernel computes every batch once.
const ROUNDS: usize = 5;
const FEWEST_ROUNDS: usize = 3;
/// Time after which no further round begins.
const TIME_LIMIT: Duration = Duration::from_millis(80);

/// The time of one layer with one kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct KernelTime {
    pub kernel: &'static Kernel,
    /// The sum over the batches, each the median of its rounds.
    pub time: Duration,
}

/// Times every kernel that this CPU supports, fastest first. The times of an earlier start are read from `cache`, a
/// directory, and are measured again if CPU, model or version differ. A kernel that panics is left out.
///
/// # Errors
/// [`ModelError`] if the layer cannot be read.
pub(super) fn kernel_times(
    source: &BertSource<'_>,
    cache: Option<&Path>,
) -> Result<Vec<KernelTime>, ModelError> {
    let file = cache.map(|directory| TimingFile::of(directory, source.sha256()));
    if let Some(times) = file.as_ref().and_then(TimingFile::read) {
        return Ok(times);
    }
    let times = measure(source)?;
    if let Some(file) = &file {
        file.write(&times);
    }
    Ok(times)
}

fn measure(source: &BertSource<'_>) -> Result<Vec<KernelTime>, ModelError> {
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
        if round > FEWEST_ROUNDS && started.elapsed() > TIME_LIMIT {
            break;
        }
        layers.retain_mut(|(layer, times)| {
            let computed =
                catch_unwind(AssertUnwindSafe(|| batches.each_ref().map(|batch| time_of(layer, batch))));
            match computed {
                // The first round takes memory and wakes the vector units.
                Ok(_) if round == 0 => true,
                Ok(taken) => {
                    times.iter_mut().zip(taken).for_each(|(times, taken)| times.push(taken));
                    true
                }
                Err(_) => {
                    tracing::warn!(
                        kernel = layer.kernel().name,
                        "the kernel panicked when it was timed; it is not used"
                    );
                    false
                }
            }
        });
    }
    let total = |times: [Vec<Duration>; 2]| times.into_iter().map(median).sum();
    let times =
        layers.into_iter().map(|(layer, times)| KernelTime { kernel: layer.kernel(), time: total(times) });
    let mut times: Vec<KernelTime> = times.collect();
    times.sort_by_key(|time| time.time);
    Ok(times)
}

/// Kernels with vector instructions that this CPU supports; where there are none, all that it supports.
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

/// The times of one model on one CPU.
struct TimingFile {
    path: PathBuf,
    key: String,
}

#[derive(Serialize, Deserialize)]
struct Recorded {
    key: String,
    times: Vec<RecordedTime>,
}

#[derive(Serialize, Deserialize)]
struct RecordedTime {
    kernel: String,
    nanoseconds: u64,
}

impl TimingFile {
    fn of(directory: &Path, model_sha256: &str) -> TimingFile {
        let kernels: Vec<&str> = candidates().iter().map(|kernel| kernel.name).collect();
        let key = format!("{} {} {} {model_sha256}", env!("CARGO_PKG_VERSION"), cpu(), kernels.join(","));
        let name = hex::encode(&Sha256::digest(key.as_bytes())[..8]);
        TimingFile { path: directory.join("assay").join(format!("kernels-{name}.json")), key }
    }

    fn read(&self) -> Option<Vec<KernelTime>> {
        let recorded: Recorded = serde_json::from_slice(&fs::read(&self.path).ok()?).ok()?;
        if recorded.key != self.key {
            return None;
        }
        let time = |recorded: &RecordedTime| {
            let kernel = candidates().into_iter().find(|kernel| kernel.name == recorded.kernel)?;
            Some(KernelTime { kernel, time: Duration::from_nanos(recorded.nanoseconds) })
        };
        recorded.times.iter().map(time).collect::<Option<Vec<_>>>().filter(|times| !times.is_empty())
    }

    /// A directory that cannot be written costs the next start a measurement.
    fn write(&self, times: &[KernelTime]) {
        let time = |time: &KernelTime| RecordedTime {
            kernel: time.kernel.name.into(),
            nanoseconds: u64::try_from(time.time.as_nanos()).unwrap_or(u64::MAX),
        };
        let recorded = Recorded { key: self.key.clone(), times: times.iter().map(time).collect() };
        let write = || {
            fs::create_dir_all(self.path.parent().unwrap_or(&self.path))?;
            let whole = self.path.with_extension(format!("{}.tmp", std::process::id()));
            fs::write(&whole, serde_json::to_vec_pretty(&recorded)?)?;
            fs::rename(&whole, &self.path)
        };
        if let Err(error) = write() {
            tracing::debug!(file = %self.path.display(), %error, "the times of the kernels could not be stored");
        }
    }
}

/// The model of the CPU, as the operating system names it.
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

    fn times() -> Vec<KernelTime> {
        candidates()
            .into_iter()
            .zip(1..)
            .map(|(kernel, n)| KernelTime { kernel, time: Duration::from_micros(n) })
            .collect()
    }

    #[test]
    fn times_are_remembered_for_the_same_model_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = TimingFile::of(directory.path(), "a");
        assert!(file.read().is_none());
        file.write(&times());
        let read = file.read().expect("what was written");
        assert!(read.iter().zip(times()).all(|(a, b)| a.kernel.name == b.kernel.name && a.time == b.time));
        assert!(TimingFile::of(directory.path(), "b").read().is_none());
    }

    #[test]
    fn a_damaged_or_foreign_file_is_not_used() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = TimingFile::of(directory.path(), "a");
        file.write(&times());
        let written = fs::read_to_string(&file.path).expect("the file");
        for damaged in [&written[..written.len() / 2], "", &written.replace(candidates()[0].name, "abacus")] {
            fs::write(&file.path, damaged).expect("written");
            assert!(file.read().is_none());
        }
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_no_error() {
        let directory = tempfile::tempdir().expect("a directory");
        let taken = directory.path().join("taken");
        fs::write(&taken, "a file").expect("written");
        let file = TimingFile::of(&taken, "a");
        file.write(&times());
        assert!(file.read().is_none());
    }
}
