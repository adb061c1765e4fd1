//! Similarities between retrieved and reference contexts, each pair compared once.

use super::{
    inputs::Retrieval,
    string_similarity::{StringMeasure, similarity},
};
use crate::evaluate::cancellation::{Cancellation, Cancelled};

/// The similarity of each retrieved context to each reference context: what precision and recall are made of.
#[derive(Clone, Debug)]
pub struct Similarities {
    retrieved: usize,
    reference: usize,
    /// Row by row, one row for each retrieved context.
    values: Vec<f64>,
}

impl Similarities {
    /// Compares every retrieved context with every reference context.
    pub fn of(contexts: Retrieval<'_>, measure: StringMeasure) -> Similarities {
        let mut similarities = Similarities::before(contexts);
        while !Cancellation::unlimited(|cancellation| {
            similarities.compare_more(contexts, measure, cancellation)
        }) {}
        similarities
    }

    /// Before any two contexts are compared.
    pub fn before(contexts: Retrieval<'_>) -> Similarities {
        let (retrieved, reference) = (contexts.retrieved.len(), contexts.reference.len());
        Similarities { retrieved, reference, values: Vec::with_capacity(retrieved * reference) }
    }

    /// Compares the next two of the same contexts; true once all are compared.
    ///
    /// # Errors
    /// [`Cancelled`] if nobody waits any more.
    pub fn compare_more(
        &mut self,
        contexts: Retrieval<'_>,
        measure: StringMeasure,
        cancellation: Cancellation<'_>,
    ) -> Result<bool, Cancelled> {
        let (next, all) = (self.values.len(), self.retrieved * self.reference);
        if next < all {
            let (row, column) = (next / self.reference, next % self.reference);
            let (retrieved, reference) = (contexts.retrieved[row], contexts.reference[column]);
            self.values.push(similarity(reference, retrieved, measure, cancellation)?);
        }
        Ok(self.values.len() == all)
    }

    /// Returns whether there are no retrieved or no reference contexts.
    pub fn is_empty(&self) -> bool {
        self.retrieved == 0 || self.reference == 0
    }

    /// The number of reference contexts.
    pub fn reference(&self) -> usize {
        self.reference
    }

    /// The highest similarity of each retrieved context to a reference context.
    pub fn of_retrieved(&self) -> impl Iterator<Item = f64> {
        self.values.chunks(self.reference.max(1)).map(|row| highest(row.iter().copied()))
    }

    /// The highest similarity of each reference context to a retrieved context.
    pub fn of_reference(&self) -> impl Iterator<Item = f64> {
        let column = |column| self.values.iter().skip(column).step_by(self.reference).copied();
        (0..self.reference).map(move |index| highest(column(index)))
    }
}

/// Below any threshold if there is none.
fn highest(similarities: impl Iterator<Item = f64>) -> f64 {
    similarities.fold(f64::NEG_INFINITY, f64::max)
}
