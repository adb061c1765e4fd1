//! Contexts compared with each other as texts: one table for all metrics that need it.

use std::sync::Arc;

use super::Steps;
use crate::evaluate::{
    lexical::{inputs::Retrieval, similarities::Similarities, string_similarity::StringMeasure},
    pool::Length,
    result::Failure,
    sample::{Context, Sample},
};

impl Steps<'_> {
    /// Each retrieved context with each reference context.
    pub(in crate::evaluate) async fn similarities(
        &self,
        measure: StringMeasure,
    ) -> Result<Arc<Similarities>, Failure> {
        let index = match measure {
            StringMeasure::Levenshtein => 0,
            StringMeasure::Hamming => 1,
            StringMeasure::Jaro => 2,
            StringMeasure::JaroWinkler => 3,
        };
        let sample = Arc::clone(&self.sample);
        let take = || async move {
            let mut similarities = None;
            // One pair of texts is a slice.
            let table = self.shared.pool.run_in_slices(self.ticket, Length::Long, move |cancellation| {
                with_texts(&sample, |texts| {
                    let table = similarities.get_or_insert_with(|| Similarities::before(texts));
                    let is_done = table.compare_more(texts, measure, cancellation)?;
                    Ok(if is_done { similarities.take() } else { None })
                })
            });
            table.await.map(Arc::new)
        };
        self.similarities[index].get_or_init(take).await.clone()
    }
}

fn with_texts<T>(sample: &Sample, work: impl FnOnce(Retrieval<'_>) -> T) -> T {
    let (retrieved, reference) = (texts(&sample.retrieved_contexts), texts(&sample.reference_contexts));
    work(Retrieval { retrieved: &retrieved, reference: &reference })
}

fn texts(contexts: &[Context]) -> Vec<&str> {
    contexts.iter().map(|context| context.text.as_str()).collect()
}
