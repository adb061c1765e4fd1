//! The arithmetic of an encoder layer over rows of f32, beside the matrix products.

mod erf;

use erf::erf;

/// Adds `bias` to each row of `rows` and applies the exact GELU: `x * (1 + erf(x / sqrt 2)) / 2`.
///
/// `rows` is `[n, bias.len()]`. Source: Gaussian Error Linear Units, arXiv:1606.08415.
pub(super) fn bias_gelu(rows: &mut [f32], bias: &[f32]) {
    for row in rows.chunks_exact_mut(bias.len()) {
        for (x, b) in row.iter_mut().zip(bias) {
            let value = *x + b;
            *x = 0.5 * value * (1.0 + erf(value * std::f32::consts::FRAC_1_SQRT_2));
        }
    }
}

/// Adds `bias` to each row of `rows`, which is `[n, bias.len()]`.
pub(super) fn bias(rows: &mut [f32], bias: &[f32]) {
    for row in rows.chunks_exact_mut(bias.len()) {
        for (x, b) in row.iter_mut().zip(bias) {
            *x += b;
        }
    }
}

/// The learned scale and shift of a layer normalisation, each `[dim]`.
pub(super) struct LayerNorm {
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
    pub epsilon: f32,
}

impl LayerNorm {
    /// Normalises each row of `rows`, which is `[n, dim]`. Source: Layer Normalization, arXiv:1607.06450.
    pub fn apply(&self, rows: &mut [f32]) {
        for row in rows.chunks_exact_mut(self.weight.len()) {
            self.row(row);
        }
    }

    /// `rows = norm(rows + bias + residual)`, row by row; both are `[n, dim]`.
    pub fn add_and_apply(&self, rows: &mut [f32], bias: &[f32], residual: &[f32]) {
        let dim = self.weight.len();
        for (row, residual) in rows.chunks_exact_mut(dim).zip(residual.chunks_exact(dim)) {
            for ((x, b), r) in row.iter_mut().zip(bias).zip(residual) {
                *x += b + r;
            }
            self.row(row);
        }
    }

    fn row(&self, row: &mut [f32]) {
        let count = row.len() as f32;
        let mean = sum(row, |x| x) / count;
        let variance = sum(row, |x| (x - mean) * (x - mean)) / count;
        let scale = 1.0 / (variance + self.epsilon).sqrt();
        for ((x, w), b) in row.iter_mut().zip(&self.weight).zip(&self.bias) {
            *x = (*x - mean) * scale * w + b;
        }
    }
}

/// Replaces each row of `rows`, which is `[n, columns]`, by `softmax(scale * row)`.
pub(super) fn scaled_softmax(rows: &mut [f32], columns: usize, scale: f32) {
    for row in rows.chunks_exact_mut(columns) {
        let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        for x in row.iter_mut() {
            *x = erf::exp((*x - highest) * scale);
        }
        let total = 1.0 / sum(row, |x| x);
        for x in row.iter_mut() {
            *x *= total;
        }
    }
}

/// Eight partial sums, so that the loop is vectorised and errors stay small.
fn sum(row: &[f32], value: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = row.as_chunks::<8>();
    let mut lanes = [0.0_f32; 8];
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += value(x);
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|&x| value(x)).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_of_one_column_is_one() {
        let mut row = [-1e30];
        scaled_softmax(&mut row, 1, 0.125);
        assert_eq!(row, [1.0]);
    }

    #[test]
    fn softmax_survives_large_scores() {
        let mut row = [1e4, 0.0, -1e4, 1e4];
        scaled_softmax(&mut row, 4, 1.0);
        assert_eq!(row, [0.5, 0.0, 0.0, 0.5]);
    }

    #[test]
    fn a_normalised_row_has_mean_0_and_variance_1() {
        let norm = LayerNorm { weight: vec![1.0; 37], bias: vec![0.0; 37], epsilon: 0.0 };
        let mut row: Vec<f32> = (0..37).map(|i| (i * i) as f32).collect();
        norm.apply(&mut row);
        let mean = row.iter().sum::<f32>() / 37.0;
        let variance = row.iter().map(|x| x * x).sum::<f32>() / 37.0;
        assert!(mean.abs() < 1e-6 && (variance - 1.0).abs() < 1e-5, "{mean} {variance}");
    }

    #[test]
    fn gelu_matches_its_definition() {
        for (x, expected) in [(0.0_f32, 0.0), (1.0, 0.841_344_7), (-1.0, -0.158_655_26), (3.0, 2.995_950_3)] {
            let mut row = [x - 0.5];
            bias_gelu(&mut row, &[0.5]);
            assert!((row[0] - expected).abs() < 1e-6, "{x}: {}", row[0]);
        }
    }
}
