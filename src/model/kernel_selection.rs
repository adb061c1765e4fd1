//! Which kernel computes: what the operator asks for, or the fastest that is exact enough on a built-in check.

use super::{
    ModelError, Packed,
    bert::Bert,
    kernel::{Kernel, Precision, Team, all},
    tokenizer::{Tokenizer, Truncation},
};

/// What the operator leaves open is chosen by the CPU at hand.
#[derive(Clone, Debug, Default)]
pub struct KernelSelection {
    /// None: the fastest with a cosine of at least [`MIN_COSINE`] to f32.
    pub precision: Option<Precision>,
    /// The name of a kernel, for tests and support.
    pub kernel: Option<String>,
}

/// The least cosine to f32 of a precision that is chosen without being asked for.
const MIN_COSINE: f32 = 0.9999;

/// In the order of their speed. Products of bf16 without tiles are slower than those of f32 on many CPUs, and
/// integers are too inexact to be chosen unasked.
const CANDIDATES: [&str; 3] = ["amx-fp16", "amx-bf16", "avx512-fp16"];

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

/// An encoder, and how near it comes to f32.
pub(super) struct SelectedEncoder {
    pub encoder: Bert,
    pub cosine: f32,
}

impl KernelSelection {
    /// Makes the encoder with `make`, and those that it is compared with.
    ///
    /// # Errors
    /// [`KernelSelectionError`], and what `make` gives.
    pub(super) fn select(
        &self,
        tokenizer: &Tokenizer,
        make: impl Fn(&'static Kernel) -> Result<Bert, ModelError>,
    ) -> Result<SelectedEncoder, ModelError> {
        let exact = make(best(Precision::F32))?;
        let check = check(tokenizer);
        let expected = exact.encode(&check, &Team::alone(), &|| {});
        let measure = |kernel| {
            let encoder = make(kernel)?;
            let vectors = encoder.encode(&check, &Team::alone(), &|| {});
            let cosine = lowest_cosine(&vectors, &expected, check.sequences());
            Ok::<_, ModelError>(SelectedEncoder { encoder, cosine })
        };
        if let Some(kernel) = self.requested()? {
            if std::ptr::eq(kernel, exact.kernel()) {
                return Ok(SelectedEncoder { encoder: exact, cosine: 1.0 });
            }
            let chosen = measure(kernel)?;
            if chosen.cosine.is_nan() {
                return Err(KernelSelectionError::NotFinite { name: kernel.name }.into());
            }
            return Ok(chosen);
        }
        for kernel in CANDIDATES.iter().filter_map(|name| named(name)).filter(|k| k.is_supported()) {
            let chosen = measure(kernel)?;
            if chosen.cosine >= MIN_COSINE {
                return Ok(chosen);
            }
            tracing::info!(
                kernel = kernel.name,
                cosine = chosen.cosine,
                "this precision is not exact enough for the model; a slower one is tried"
            );
        }
        Ok(SelectedEncoder { encoder: exact, cosine: 1.0 })
    }

    /// None where the choice is free.
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

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    (dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_does_not_exist_is_refused_with_those_that_do() {
        let choice = KernelSelection { kernel: Some("abacus".into()), precision: None };
        let error = choice.requested().expect_err("no such kernel").to_string();
        assert!(error.contains("abacus") && error.contains("scalar"), "{error}");
    }

    #[test]
    fn a_kernel_of_another_precision_is_refused() {
        let choice = KernelSelection { kernel: Some("scalar".into()), precision: Some(Precision::Int8) };
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
    fn one_number_that_is_not_finite_spoils_the_lowest_cosine() {
        assert_eq!(lowest_cosine(&[1.0, 0.0, 0.0, 2.0], &[1.0, 0.0, 0.0, 1.0], 2), 1.0);
        assert!(lowest_cosine(&[f32::NAN, 0.0, 0.0, 2.0], &[1.0, 0.0, 0.0, 1.0], 2).is_nan());
        assert!(lowest_cosine(&[f32::INFINITY, 0.0, 0.0, 2.0], &[1.0, 0.0, 0.0, 1.0], 2).is_nan());
    }
}
