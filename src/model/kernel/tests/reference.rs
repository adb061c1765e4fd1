//! Formulas in f64, and the tolerances of kernels.
//!
//! Rounding to nearest in a type of `p` binary digits errs by at most `2^-p` of the number: 24 digits in f32, 11 in
//! f16, 8 in bf16. A sum of `n` products in f32 errs by at most `n * 2^-24 * sum |ab|` in whatever order, which is
//! little enough to be the bound. In f16 that bound would let everything pass; there each step errs by at most
//! 2^-11 of the partial sum, with a deviation of at most 2^-11 / sqrt(3) of it and either sign alike, so the whole
//! sum errs with a deviation of `2^-11 / sqrt(3) * sqrt(sum of squared partial sums)`. Six deviations are given;
//! numbers are such that signs differ.

use super::super::{Kernel, Precision, arithmetic::Element};

pub(super) const F32_DIGIT: f64 = 1.0 / (1 << 24) as f64;
pub(super) const F16_DIGIT: f64 = 1.0 / (1 << 11) as f64;

/// Type in which a kernel sums products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sums {
    F32,
    F16,
    /// Exact until the conversion to real numbers.
    Integers,
}

impl Sums {
    pub fn of_products(kernel: &Kernel) -> Sums {
        match kernel.precision {
            Precision::Int8 => Sums::Integers,
            _ => Sums::of_attention(kernel),
        }
    }

    pub fn of_attention(kernel: &Kernel) -> Sums {
        let in_f16 = ["avx512-fp16", "avx512-vnni-fp16"].contains(&kernel.name);
        if in_f16 { Sums::F16 } else { Sums::F32 }
    }
}

/// A sum of products.
#[derive(Clone, Copy, Default)]
pub(super) struct Dot {
    pub value: f64,
    /// Sum of the magnitudes of the products.
    pub size: f64,
    /// Sum of the squared partial sums, separately over even and odd pairs, as for sums in f16.
    squares: f64,
    count: usize,
}

impl Dot {
    pub fn new(pairs: impl Iterator<Item = (f64, f64)>) -> Dot {
        let (mut dot, mut partial) = (Dot::default(), [0.0; 2]);
        for (a, b) in pairs {
            let sum = &mut partial[dot.count % 2];
            *sum += a * b;
            dot.squares += *sum * *sum;
            dot.size += (a * b).abs();
            dot.count += 1;
        }
        dot.value = partial[0] + partial[1];
        dot
    }

    /// Standard deviation of the error in f16, and its bound in f32. Up to 64 products of padding add one rounding each.
    pub fn deviation(&self, sums: Sums) -> f64 {
        match sums {
            Sums::F16 => F16_DIGIT / 3_f64.sqrt() * self.squares.sqrt() + self.size * F32_DIGIT,
            Sums::F32 | Sums::Integers => (self.count + 4) as f64 * F32_DIGIT * self.size,
        }
    }

    pub fn tolerance(&self, sums: Sums) -> f64 {
        // Numbers below the least normal one of f16 are rounded to multiples of 2^-24.
        let subnormal = if sums == Sums::F16 { self.count as f64 * f64::from(2_f32.powi(-25)) } else { 0.0 };
        if sums == Sums::F16 { 6.0 * self.deviation(sums) + subnormal } else { self.deviation(sums) + 1e-37 }
    }
}

/// Error of one rounding to a float element.
pub(super) fn rounding(element: Element, x: f64) -> f64 {
    match element {
        Element::F32 => F32_DIGIT * x.abs() + 1e-38,
        Element::F16 => F16_DIGIT * x.abs() + f64::from(2_f32.powi(-25)),
        Element::Bf16 => x.abs() / 256.0 + 1e-38,
        Element::Int8 => unreachable!("the unit says how integers round"),
    }
}

/// Documented error of `gelu`.
pub(super) fn gelu_error(kernel: &Kernel, x: f64) -> f64 {
    (if is_exact(kernel) { 1e-6 } else { 8e-5 }) * x.abs().max(1.0)
}

/// Documented error of `exp2`.
pub(super) fn exp2_error(kernel: &Kernel) -> f64 {
    if is_exact(kernel) { 3e-7 } else { 8e-5 }
}

/// Returns true if functions have the full accuracy of f32.
fn is_exact(kernel: &Kernel) -> bool {
    kernel.precision == Precision::F32 || kernel.name.starts_with("scalar")
}

/// GELU. Source: arXiv:1606.08415.
pub(super) fn gelu(x: f64) -> f64 {
    x * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2) / 2.0
}

/// Weights of a column after encoding.
pub(super) fn stored(element: Element, column: &[f32]) -> Vec<f32> {
    let scale = element.scale_of(column);
    let round = |x: &f32| match element {
        Element::F32 => *x,
        Element::F16 => half::f16::from_f32(*x).to_f32(),
        Element::Bf16 => half::bf16::from_f32(*x).to_f32(),
        Element::Int8 => (x / scale).round() * scale,
    };
    column.iter().map(round).collect()
}
