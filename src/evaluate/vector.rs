//! Metrics that compare vectors of the server's own model.

pub mod embedding_groundedness;
pub mod embedding_relevance;
pub mod semantic_similarity;

/// Of two vectors of the same length; 0 where one of them is all zeros.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    // Rounding may carry it over the edge by the last bit.
    if lengths > 0.0 { (dot(a, b) / lengths).clamp(-1.0, 1.0) } else { 0.0 }
}

/// For each of `these` the highest cosine with one of `those`, 0 to 1, averaged. None where one side is empty.
fn mean_of_best(these: &[Vec<f32>], those: &[Vec<f32>]) -> Option<f64> {
    let best = |vector: &Vec<f32>| those.iter().map(|other| cosine(vector, other)).fold(0.0, f64::max);
    let is_empty = these.is_empty() || those.is_empty();
    (!is_empty).then(|| these.iter().map(best).sum::<f64>() / these.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cosine_is_finite_and_within_its_range() {
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 0.0]), 0.0);
        assert_eq!(cosine(&[3.0, 4.0], &[3.0, 4.0]), 1.0);
        assert_eq!(cosine(&[1.0, 0.0], &[-2.0, 0.0]), -1.0);
    }
}
