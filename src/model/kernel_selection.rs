//! Kernel selection: the requested kernel, or the fastest kernel on this CPU whose vectors are accurate enough.

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

/// Settings of the kernel selection.
#[derive(Clone, Debug, Default)]
pub struct KernelSelection {
    /// Precision of matrix products. `None` selects that of the fastest kernel within the bounds of `quality`.
    pub precision: Option<Precision>,
    /// Name of a kernel, for tests and support. `None` selects the fastest one of the precision.
    pub kernel: Option<String>,
    /// Limits the kernels of the automatic selection.
    pub quality: Quality,
    /// Directory in which measurements are stored. `None` measures at every start.
    pub cache: Option<PathBuf>,
}

/// Accuracy that the automatic selection of a kernel may give up for speed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Quality {
    /// Only f32.
    Exact,
    /// Vectors that a search cannot distinguish from f32: [`Quality::min_cosine`] 0.999.
    #[default]
    High,
    /// Vectors with nearly the same neighbours as f32: [`Quality::min_cosine`] 0.98.
    Fast,
}

impl Quality {
    /// Name in settings and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Quality::Exact => "exact",
            Quality::High => "high",
            Quality::Fast => "fast",
        }
    }

    /// Minimum cosine similarity to f32 of every vector of the built-in check.
    pub const fn min_cosine(self) -> f32 {
        match self {
            Quality::Exact => 1.0,
            Quality::High => 0.999,
            Quality::Fast => 0.98,
        }
    }

    /// Minimum recall of the neighbours in f32 over the built-in check.
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
    /// The kernel.
    pub kernel: &'static Kernel,
    /// Time of one layer for 140 tokens on one thread.
    pub time: Duration,
    /// Lowest cosine similarity to f32 over the built-in check; `None` if a faster kernel was selected before.
    pub cosine: Option<f32>,
    /// Recall of the neighbours in f32 over the built-in check; `None` as for `cosine`.
    pub recall: Option<f32>,
    /// True if the kernel was selected.
    pub selected: bool,
}

/// Texts of several lengths and scripts, on which a precision is compared with f32.
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

/// Reason why the requested kernel cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[expect(missing_docs, reason = "the message of each variant documents it")]
pub enum KernelSelectionError {
    #[error("kernel {name} does not exist; kernels of this build: {names}")]
    UnknownKernel { name: String, names: String },
    #[error(
        "kernel {name} needs instructions that this CPU or operating system does not support; supported kernels: {names}"
    )]
    UnsupportedKernel { name: String, names: String },
    #[error(
        "kernel {name} computes in {found}, but the precision is set to {asked}; set only one of the two"
    )]
    Contradiction { name: String, found: &'static str, asked: &'static str },
    #[error(
        "kernel {name} computes values that are not finite for the built-in check texts; set the precision to auto or f32"
    )]
    NotFinite { name: &'static str },
}

/// The encoder with the selected kernel, and its accuracy.
pub(super) struct SelectedEncoder {
    pub encoder: Bert,
    /// Lowest cosine similarity to f32 over the built-in check; 1 for f32.
    pub cosine: f32,
    /// Timed kernels, fastest first; empty if a kernel or precision was requested.
    pub measurements: Vec<KernelMeasurement>,
}

/// Number of neighbours per text that the built-in check compares.
const NEIGHBOURS: usize = 3;

/// Vectors of the built-in check texts in f32, the reference of the comparison.
struct ExactVectors {
    batch: Packed,
    vectors: Vec<f32>,
}

impl ExactVectors {
    /// Lowest cosine similarity and recall of neighbours of another encoder. Returns `None` if it panics or computes a
    /// value that is not finite.
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
    /// Selects a kernel and builds the encoder. Encoders that it is compared with are built too.
    ///
    /// # Errors
    /// [`KernelSelectionError`] if the requested kernel cannot be used, and errors of reading the weights.
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
            let file = self
                .cache
                .as_deref()
                .map(|directory| MeasurementFile::in_directory(directory, source.sha256()));
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

    /// Returns the fastest kernel within the bounds, or `exact` if there is none. A kernel that is known to be outside the
    /// bounds is not built.
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
                tracing::warn!(kernel = kernel.name, "a kernel failed the built-in check and is not used");
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

    /// Returns true if the vectors of a kernel are accurate enough. Kernels in f32 always are: they differ only in the order of sums.
    fn is_within(&self, kernel: &Kernel, cosine: f32, recall: f32) -> bool {
        kernel.precision == Precision::F32
            || (cosine >= self.quality.min_cosine() && recall >= self.quality.min_recall())
    }

    /// The requested kernel, or `None` if the selection is automatic.
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

/// Fastest supported kernel of a precision. The scalar reference always exists.
fn best(precision: Precision) -> &'static Kernel {
    let of_precision = all().iter().filter(|kernel| kernel.precision == precision);
    of_precision.clone().find(|kernel| kernel.is_supported()).expect("scalar kernels run on every CPU")
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
        let encoded = tokenizer.encode("", text, Truncation::End).expect("the check texts can be tokenized");
        batch.push(&encoded.ids);
    }
    batch
}

/// Lowest cosine similarity of `count` pairs of vectors; NaN if a value is not finite.
fn lowest_cosine(vectors: &[f32], expected: &[f32], count: usize) -> f32 {
    let dim = expected.len() / count;
    let cosines = vectors.chunks_exact(dim).zip(expected.chunks_exact(dim)).map(|(a, b)| cosine(a, b));
    // `f32::min` would ignore NaN.
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
    fn an_unknown_kernel_is_rejected_with_the_known_names() {
        let selection = KernelSelection { kernel: Some("abacus".into()), ..Default::default() };
        let error = selection.requested().expect_err("no such kernel").to_string();
        assert!(error.contains("abacus") && error.contains("scalar"), "{error}");
    }

    #[test]
    fn a_kernel_of_another_precision_is_rejected() {
        let selection = KernelSelection {
            kernel: Some("scalar".into()),
            precision: Some(Precision::Int8),
            ..Default::default()
        };
        let error = selection.requested().expect_err("a contradiction");
        assert_eq!(
            error,
            KernelSelectionError::Contradiction { name: "scalar".into(), found: "f32", asked: "int8" }
        );
    }

    #[test]
    fn every_precision_has_a_supported_kernel() {
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
    fn a_non_finite_value_makes_the_lowest_cosine_nan() {
        assert_eq!(lowest_cosine(&[1.0, 0.0, 0.0, 2.0], &[1.0, 0.0, 0.0, 1.0], 2), 1.0);
        assert!(lowest_cosine(&[f32::NAN, 0.0, 0.0, 2.0], &[1.0, 0.0, 0.0, 1.0], 2).is_nan());
        assert!(lowest_cosine(&[f32::INFINITY, 0.0, 0.0, 2.0], &[1.0, 0.0, 0.0, 1.0], 2).is_nan());
    }
}
