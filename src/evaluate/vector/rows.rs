//! Many vectors of unit length, compared as one matrix product.

use std::ops::Range;

/// Vectors of unit length and of the same dimension, one after another.
#[derive(Clone, Debug, Default)]
pub struct VectorRows {
    values: Vec<f32>,
    dimension: usize,
    /// Inverse lengths in double precision, as a vector has unit length only up to the rounding of single precision.
    scales: Vec<f64>,
}

/// VectorRows of the right side that are compared with a block of the left one while they are in the cache.
const RIGHT_BLOCK: usize = 16;
/// Multiplications of one slice: about a millisecond.
const SLICE_PRODUCTS: usize = 4 << 20;
/// Sums that go on side by side, so that the compiler makes vector instructions of them.
const LANES: usize = 16;
/// Products that are summed in single precision before the sum goes on in double: errors stay below 1e-6.
const CHUNK: usize = 16 * LANES;

impl VectorRows {
    /// Appends a vector. The first one says how long they are; a shorter one is filled up with zeros.
    pub fn push(&mut self, vector: &[f32]) {
        if self.scales.is_empty() {
            self.dimension = vector.len();
        }
        let given = vector.iter().copied().chain(std::iter::repeat(0.0));
        self.values.extend(given.take(self.dimension));
        let length = dot(vector, vector).sqrt();
        self.scales.push(if length > 0.0 { 1.0 / length } else { 0.0 });
    }

    /// Number of vectors.
    pub fn len(&self) -> usize {
        self.scales.len()
    }

    /// Whether there are no vectors.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The row at an index.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.dimension..(index + 1) * self.dimension]
    }
}

/// The highest cosine of each row of the left side with a row of the right side, at least 0.
#[derive(Debug)]
pub struct BestOf {
    best: Vec<f64>,
}

impl BestOf {
    /// No vectors yet.
    pub fn new() -> BestOf {
        BestOf { best: Vec::new() }
    }

    /// Compares some more rows of `left` with all rows in `range` of `right`; the highest cosines once all are done.
    pub fn compare_more(
        &mut self,
        left: &VectorRows,
        right: &VectorRows,
        range: Range<usize>,
    ) -> Option<&[f64]> {
        let from = self.best.len();
        let cost = (range.len() * left.dimension).max(1);
        let to = left.len().min(from + (SLICE_PRODUCTS / cost).max(1));
        self.best.resize(to, 0.0);
        for block in range.clone().step_by(RIGHT_BLOCK) {
            let block = block..range.end.min(block + RIGHT_BLOCK);
            for row in from..to {
                let own = left.row(row);
                let cosine = |other| dot(own, right.row(other)) * left.scales[row] * right.scales[other];
                let highest = block.clone().map(cosine).fold(0.0, f64::max);
                self.best[row] = self.best[row].max(highest.min(1.0));
            }
        }
        (to == left.len()).then_some(&self.best)
    }
}

impl Default for BestOf {
    fn default() -> BestOf {
        BestOf::new()
    }
}

/// The scalar product of two vectors.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.chunks(CHUNK).zip(b.chunks(CHUNK)).map(|(a, b)| f64::from(dot_of_chunk(a, b))).sum()
}

fn dot_of_chunk(a: &[f32], b: &[f32]) -> f32 {
    let (a_lanes, a_rest) = a.as_chunks::<LANES>();
    let (b_lanes, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0.0_f32; LANES];
    for (a, b) in a_lanes.iter().zip(b_lanes) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::{super::cosine, *};
    use proptest::prelude::*;

    fn unit(values: &[f32]) -> Vec<f32> {
        let length = values.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
        values.iter().map(|&v| if length > 0.0 { (f64::from(v) / length) as f32 } else { 0.0 }).collect()
    }

    fn rows(vectors: &[Vec<f32>]) -> VectorRows {
        let mut rows = VectorRows::default();
        vectors.iter().for_each(|vector| rows.push(vector));
        rows
    }

    fn best(left: &VectorRows, right: &VectorRows) -> Vec<f64> {
        let mut best = BestOf::new();
        loop {
            if let Some(best) = best.compare_more(left, right, 0..right.len()) {
                return best.to_vec();
            }
        }
    }

    proptest! {
        #[test]
        fn the_product_is_the_cosine_in_double_precision(
            dimension in prop::sample::select(vec![1_usize, 7, 16, 100, 384, 1024]),
            seed in prop::collection::vec(-1.0_f32..1.0, 3 * 1024..3 * 1024 + 1), count in 1_usize..40,
        ) {
            let vector = |n: usize| unit(&(0..dimension).map(|d| seed[(n * 97 + d * (n + 1)) % seed.len()]).collect::<Vec<_>>());
            let left: Vec<Vec<f32>> = (0..3).map(vector).collect();
            let right: Vec<Vec<f32>> = (3..3 + count).map(vector).collect();
            let found = best(&rows(&left), &rows(&right));
            prop_assert_eq!(found.len(), left.len());
            for (left, found) in left.iter().zip(found) {
                let expected = right.iter().map(|right| cosine(left, right)).fold(0.0, f64::max);
                prop_assert!((found - expected).abs() < 1e-6, "{} {}", found, expected);
            }
        }
    }

    #[test]
    fn large_comparisons_are_done_in_slices() {
        let vector = unit(&vec![1.0; 384]);
        let (left, right) = (rows(&vec![vector.clone(); 100]), rows(&vec![vector; 2000]));
        let (mut best, mut slices) = (BestOf::new(), 1);
        while best.compare_more(&left, &right, 0..2000).is_none() {
            slices += 1;
        }
        assert_eq!(slices, 20);
    }
}
