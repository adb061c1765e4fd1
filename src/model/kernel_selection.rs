//! Selection of the kernel: the one that the operator names, or the fastest on this CPU whose vectors are exact enough.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    time::Duration,
};

use super::{
    ModelError, Packed,
    bert::{Bert, BertSource},
    kernel::{Kernel, Precision, Team, all},
    kernel_timing::{MeasurementFile, time_kernels},
    tokenizer::{Tokenizer, Truncation},
};

/// The settings of the kernel.
#[derive(Clone, Debug, Default)]
pub struct KernelSelection {
    /// The precision; None for that of the fastest kernel within the bounds of `quality`.
    pub precision: Option<Precision>,
    /// The name of a kernel, for tests and support.
    pub kernel: Option<String>,
    /// Limits the kernels of the automatic selection.
    pub quality: Quality,
    /// The directory in which measurements are kept; None to measure at each start.
    pub cache: Option<PathBuf>,
}

/// What the automatic selection of a kernel may give up for speed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Quality {
    /// f32 alone.
    Exact,
    /// Vectors that no search can tell from those in f32: [`Quality::min_cosine`] 0.999.
    #[default]
    High,
    /// Vectors that find nearly the same neighbours: [`Quality::min_cosine`] 0.98.
    Fast,
}

impl Quality {
    pub const fn name(self) -> &'static str {
        match self {
            Quality::Exact => "exact",
            Quality::High => "high",
            Quality::Fast => "fast",
        }
    }

    /// The lowest cosine similarity to f32 that a vector of the built-in check may have.
    pub const fn min_cosine(self) -> f32 {
        match self {
            Quality::Exact => 1.0,
            Quality::High => 0.999,
            Quality::Fast => 0.98,
        }
    }

    /// The lowest share of neighbours in the built-in check that have to be those of f32.
    pub const fn min_recall(self) -> f32 {
        match self {
            Quality::Exact => 1.0,
            Quality::High => 0.985,
            Quality::Fast => 0.9,
        }
    }
}

/// A kernel that the automatic selection considered.
#[derive(Clone, Debug)]
pub struct KernelMeasurement {
    pub kernel: &'static Kernel,
    /// The time of one layer over 140 tokens on one thread.
    pub time: Duration,
    /// The lowest cosine similarity to f32 over the built-in check; None where a faster kernel was good enough.
    pub cosine: Option<f32>,
    /// The share of neighbours in the built-in check that are those of f32; None as above.
    pub recall: Option<f32>,
    pub selected: bool,
}

/// Texts of several lengths and scripts, on which a precision is held against f32.
const CHECK: [&str; 8] = [
    "a",
    "how do I reset my password?",
    "The quick brown fox jumps over the lazy dog, and 1,234.56 other things happen by 2031-07-04.",
    "深度学习模型在中央处理器上的推理速度取决于内存带宽和矩阵乘法。",
    "fn main() { let x: Vec<f32> = (0..10).map(|i| i as f32 * 0.5).collect(); println!(\"{x:?}\"); }",
    "!!! ??? *** £ € ¥ 😀 🚀 ∑ ∫ ≈ — “quoted” … <html><body>&nbsp;</body></html>",
    "Retrieval-augmented generation answers a question from passages that a search found, so the answer can be no \
     better than the passages; a claim that none of them supports is a hallucination, however fluent it reads, and \
     the score of an answer should fall with each such claim. La traduction automatique a fait des progrès. Die \
     Würde des Menschen ist unantastbar. El rápido zorro marrón salta sobre el perro perezoso.",
    "0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 zzzzzzzzzz qqqqqqqq xkcd lorem ipsum dolor sit amet",
];

/// Why the kernel that was asked for cannot compute here.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KernelSelectionError {
    #[error("there is no kernel {name}; this build has {names}")]
    UnknownKernel { name: String, names: String },
    #[error("kernel {name} needs instructions that this CPU or system lacks; here are {names}")]
    UnsupportedKernel { name: String, names: String },
    #[error("kernel {name} computes in {found}, but the precision is set to {asked}; set one of the two")]
    Contradiction { name: String, found: &'static str, asked: &'static str },
    #[error(
        "the numbers of kernel {name} are not finite on the built-in check; set the precision to auto or f32"
    )]
    NotFinite { name: &'static str },
}

/// An encoder, and how near its vectors are to f32.
pub(super) struct SelectedEncoder {
    pub encoder: Bert,
    /// The lowest cosine similarity over the built-in check; 1 for f32.
    pub cosine: f32,
    /// The kernels that were timed, fastest first; empty where the operator named one.
    pub measurements: Vec<KernelMeasurement>,
}

/// Neighbours of a text that the built-in check compares.
const NEIGHBOURS: usize = 3;

/// The built-in check: vectors in f32, which others are compared with.
struct ExactVectors {
    batch: Packed,
    vectors: Vec<f32>,
}

impl ExactVectors {
    /// The lowest cosine similarity and the recall of neighbours of another encoder. None where it panics or gives a
    /// number that is not finite.
    fn compare(&self, encoder: &Bert) -> Option<(f32, f32)> {
        let encode = || encoder.encode(&self.batch, &Team::alone(), &|| {});
        let vectors = catch_unwind(AssertUnwindSafe(encode)).ok()?;
        let cosine = lowest_cosine(&vectors, &self.vectors, self.batch.sequences());
        (!cosine.is_nan()).then(|| (cosine, recall(&vectors, &self.vectors, self.batch.sequences())))
    }
}

impl KernelMeasurement {
    pub(super) fn of(kernel: &'static Kernel, time: Duration) -> KernelMeasurement {
        KernelMeasurement { kernel, time, cosine: None, recall: None, selected: false }
    }
}

impl KernelSelection {
    /// Builds the encoder, and those that it is compared with.
    ///
    /// # Errors
    /// [`KernelSelectionError`], and those of reading the weights.
    pub(super) fn select(
        &self,
        tokenizer: &Tokenizer,
        source: &BertSource<'_>,
    ) -> Result<SelectedEncoder, ModelError> {
        let build = |kernel| source.build(kernel, source.layers());
        let requested = self.requested()?;
        let exact = build(best(Precision::F32))?;
        if requested.is_some_and(|kernel| std::ptr::eq(kernel, exact.kernel())) {
            return Ok(SelectedEncoder { encoder: exact, cosine: 1.0, measurements: Vec::new() });
        }
        let batch = check(tokenizer);
        let check = ExactVectors { vectors: exact.encode(&batch, &Team::alone(), &|| {}), batch };
        let Some(kernel) = requested else {
            let file = self.cache.as_deref().map(|directory| MeasurementFile::of(directory, source.sha256()));
            let known = file.as_ref().and_then(MeasurementFile::read);
            let measured = known.map_or_else(|| time_kernels(source), Ok)?;
            let selected = self.fastest(exact, &check, measured, build)?;
            if let Some(file) = file {
                file.write(&selected.measurements);
            }
            return Ok(selected);
        };
        let encoder = build(kernel)?;
        let (cosine, _) =
            check.compare(&encoder).ok_or(KernelSelectionError::NotFinite { name: kernel.name })?;
        Ok(SelectedEncoder { encoder, cosine, measurements: Vec::new() })
    }

    /// The first of the timed kernels that is within the bounds; `exact` where none is. One that is known not to be is
    /// not tried again.
    fn fastest(
        &self,
        exact: Bert,
        check: &ExactVectors,
        mut measurements: Vec<KernelMeasurement>,
        build: impl Fn(&'static Kernel) -> Result<Bert, ModelError>,
    ) -> Result<SelectedEncoder, ModelError> {
        let mut exact = Some(exact);
        for measurement in &mut measurements {
            let KernelMeasurement { kernel, time, cosine, recall, .. } = *measurement;
            let is_outside = cosine.zip(recall).is_some_and(|(c, r)| !self.is_within(kernel, c, r));
            if is_outside || (self.quality == Quality::Exact && kernel.precision != Precision::F32) {
                continue;
            }
            let is_exact = exact.as_ref().is_some_and(|exact| std::ptr::eq(kernel, exact.kernel()));
            let encoder = match exact.take_if(|_| is_exact) {
                Some(exact) => exact,
                None => build(kernel)?,
            };
            let Some((cosine, recall)) = check.compare(&encoder) else {
                tracing::warn!(kernel = kernel.name, "the kernel failed the built-in check; it is not used");
                continue;
            };
            (measurement.cosine, measurement.recall) = (Some(cosine), Some(recall));
            measurement.selected = self.is_within(kernel, cosine, recall);
            let (precision, quality) = (kernel.precision.name(), self.quality.name());
            let (kernel, selected) = (kernel.name, measurement.selected);
            tracing::info!(kernel, precision, ?time, cosine, recall, quality, selected, "kernel measured");
            if selected {
                return Ok(SelectedEncoder { encoder, cosine, measurements });
            }
        }
        let encoder = match exact {
            Some(exact) => exact,
            None => build(best(Precision::F32))?,
        };
        Ok(SelectedEncoder { encoder, cosine: 1.0, measurements })
    }

    /// Whether the vectors of a kernel are exact enough. Kernels of f32 differ in the order of their sums alone.
    fn is_within(&self, kernel: &Kernel, cosine: f32, recall: f32) -> bool {
        kernel.precision == Precision::F32
            || (cosine >= self.quality.min_cosine() && recall >= self.quality.min_recall())
    }

    /// The kernel that the settings name; None where the selection is automatic.
    fn requested(&self) -> Result<Option<&'static Kernel>, KernelSelectionError> {
        let Some(name) = &self.kernel else { return Ok(self.precision.map(best)) };
        let kernel = named(name).ok_or_else(|| KernelSelectionError::UnknownKernel {
            name: name.clone(),
            names: names(|_| true),
        })?;
        if !kernel.is_supported() {
            return Err(KernelSelectionError::UnsupportedKernel {
                name: name.clone(),
                names: names(Kernel::is_supported),
            });
        }
        match self.precision {
            Some(asked) if asked != kernel.precision => Err(KernelSelectionError::Contradiction {
                name: name.clone(),
                found: kernel.precision.name(),
                asked: asked.name(),
            }),
            _ => Ok(Some(kernel)),
        }
    }
}

/// The fastest kernel of a precision on this CPU; the reference, where nothing else is.
fn best(precision: Precision) -> &'static Kernel {
    let of_precision = all().iter().filter(|kernel| kernel.precision == precision);
    of_precision.clone().find(|kernel| kernel.is_supported()).expect("the reference runs everywhere")
}

fn named(name: &str) -> Option<&'static Kernel> {
    all().iter().find(|kernel| kernel.name == name)
}

fn names(keep: impl Fn(&Kernel) -> bool) -> String {
    all().iter().filter(|kernel| keep(kernel)).map(|kernel| kernel.name).collect::<Vec<_>>().join(", ")
}

fn check(tokenizer: &Tokenizer) -> Packed {
    let mut batch = Packed::new();
    for text in CHECK {
        let encoded =
            tokenizer.encode("", text, Truncation::End).expect("the built-in texts are no special case");
        batch.push(&encoded.ids);
    }
    batch
}

/// NaN where a number is not finite.
fn lowest_cosine(vectors: &[f32], expected: &[f32], count: usize) -> f32 {
    let dim = expected.len() / count;
    let cosines = vectors.chunks_exact(dim).zip(expected.chunks_exact(dim)).map(|(a, b)| cosine(a, b));
    // Unlike min, which passes NaN over.
    cosines.fold(1.0, |lowest, cosine| if cosine >= lowest { lowest } else { cosine + 0.0 * lowest })
}

/// The share of the nearest texts of each text that are those of `expected`.
fn recall(vectors: &[f32], expected: &[f32], count: usize) -> f32 {
    let found: usize = (0..count)
        .map(|text| {
            let (of, expected) = (nearest(vectors, text, count), nearest(expected, text, count));
            of.iter().filter(|text| expected.contains(text)).count()
        })
        .sum();
    let all = count * NEIGHBOURS.min(count - 1);
    if all == 0 { 1.0 } else { found as f32 / all as f32 }
}

/// The texts with the highest cosine similarity to one of them.
fn nearest(vectors: &[f32], text: usize, count: usize) -> Vec<usize> {
    let dim = vectors.len() / count;
    let row = |text: usize| &vectors[text * dim..][..dim];
    let mut others: Vec<(usize, f32)> = (0..count)
        .filter(|&other| other != text)
        .map(|other| (other, cosine(row(text), row(other))))
        .collect();
    others.sort_by(|a, b| b.1.total_cmp(&a.1));
    others.into_iter().take(NEIGHBOURS).map(|(other, _)| other).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    (dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_does_not_exist_is_refused_with_those_that_do() {
        let choice = KernelSelection { kernel: Some("abacus".into()), ..Default::default() };
        let error = choice.requested().expect_err("no such kernel").to_string();
        assert!(error.contains("abacus") && error.contains("scalar"), "{error}");
    }

    #[test]
    fn a_kernel_of_another_precision_is_refused() {
        let choice = KernelSelection {
            kernel: Some("scalar".into()),
            precision: Some(Precision::Int8),
            ..Default::default()
        };
        let error = choice.requested().expect_err("a contradiction");
        assert_eq!(
            error,
            KernelSelectionError::Contradiction { name: "scalar".into(), found: "f32", asked: "int8" }
        );
    }

    #[test]
    fn every_precision_has_a_kernel_that_runs_here() {
        for precision in [Precision::F32, Precision::F16, Precision::Bf16, Precision::Int8] {
            assert!(best(precision).is_supported() && best(precision).precision == precision);
        }
    }

    #[test]
    fn recall_counts_neighbours_that_are_the_same() {
        let expected = [1.0, 0.0, 0.9, 0.1, 0.8, 0.2, 0.7, 0.3, 0.0, 1.0];
        assert_eq!(recall(&expected, &expected, 5), 1.0);
        let mut moved = expected;
        moved[6..8].copy_from_slice(&[-1.0, 0.0]);
        assert!(recall(&moved, &expected, 5) < 1.0);
        assert_eq!(recall(&[1.0, 0.0], &[1.0, 0.0], 1), 1.0);
    }

    #[test]
    fn one_number_that_is_not_finite_spoils_the_lowest_cosine() {
        assert_eq!(lowest_cosine(&[1.0, 0.0, 0.0, 2.0], &[1.0, 0.0, 0.0, 1.0], 2), 1.0);
        assert!(lowest_cosine(&[f32::NAN, 0.0, 0.0, 2.0], &[1.0, 0.0, 0.0, 1.0], 2).is_nan());
        assert!(lowest_cosine(&[f32::INFINITY, 0.0, 0.0, 2.0], &[1.0, 0.0, 0.0, 1.0], 2).is_nan());
    }
}
