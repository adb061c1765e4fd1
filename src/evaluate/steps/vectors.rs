//! Vectors of the sample's texts, made by the server's own model and shared by the metrics that need them.

use std::{ops::Range, sync::Arc};

use futures::{TryStreamExt, stream::FuturesOrdered};

use super::Steps;
use crate::{
    embed::{EmbedError, Engine, Flow, InputOptions, Vector, VectorEncoding, VectorOptions},
    evaluate::{pool::Length, result::Failure, sample::Sample, text::sentences, vector::VectorRows},
    model::Truncation,
};

/// Texts of one step that are embedded at one time: enough for a full forward pass of sentences.
const TEXTS_AT_ONCE: usize = 32;

/// Memory for vectors of sentences, of all samples that are evaluated: 64 MiB, which are 20 samples of 2,048 sentences
/// with 384 dimensions, and hundreds of usual ones.
pub(in crate::evaluate) const VECTOR_UNITS: usize = 64 << 10;
const VECTOR_UNIT: usize = 1 << 10;

/// The model as it is used for one sample.
pub(super) struct Embedding {
    engine: Engine,
    /// All metrics of a sample are one flow, so that the model's queue treats an evaluation as one caller.
    flow: Flow,
    options: InputOptions,
}

/// Vectors of texts, in their order.
#[derive(Debug)]
pub(in crate::evaluate) struct EmbeddedTexts {
    pub rows: VectorRows,
    /// Whether a text was truncated to fit the model.
    pub cut: bool,
}

/// Byte ranges of the sentences of the response and of the retrieved contexts.
#[derive(Debug, Default)]
pub(in crate::evaluate) struct Sentences {
    /// The number of sentences. Above the limit the ranges are empty.
    pub count: usize,
    pub response: Vec<Range<usize>>,
    pub contexts: Vec<Vec<Range<usize>>>,
}

impl Sentences {
    /// The range of each context among all sentences of contexts.
    pub(in crate::evaluate) fn by_context(&self) -> Vec<Range<usize>> {
        let mut end = 0;
        let of = |sentences: &Vec<Range<usize>>| {
            let start = end;
            end += sentences.len();
            start..end
        };
        self.contexts.iter().map(of).collect()
    }
}

impl Steps<'_> {
    /// The id of the model that made vectors, where any were made.
    pub(in crate::evaluate) fn embedding_model(&self) -> Option<String> {
        self.embedding.get().map(|embedding| embedding.engine.model().id.clone())
    }

    /// Splits the response and the contexts once; above the limit there is only their number.
    pub(in crate::evaluate) async fn sentences(&self) -> Result<Arc<Sentences>, Failure> {
        let (sample, limit) = (Arc::clone(&self.sample), self.shared.sentences);
        let take = || async move {
            let mut found = Sentences::default();
            let mut next = 0;
            // One text is a slice.
            let split = self.shared.pool.run_in_slices(self.ticket, Length::Short, move |_| {
                let text = match next {
                    0 => Some(&sample.response),
                    n => sample.retrieved_contexts.get(n - 1).map(|context| &context.text),
                };
                let Some(text) = text else { return Ok(Some(std::mem::take(&mut found))) };
                let ranges = sentences(text);
                found.count += ranges.len();
                match next {
                    0 => found.response = ranges,
                    _ => found.contexts.push(ranges),
                }
                if found.count > limit {
                    found = Sentences { count: found.count, ..Sentences::default() };
                }
                next += 1;
                Ok(None)
            });
            split.await.map(Arc::new)
        };
        self.sentences.get_or_init(take).await.clone()
    }

    /// Vectors of the sentences of the contexts.
    pub(in crate::evaluate) async fn context_rows(
        &self,
        sentences: &Sentences,
    ) -> Result<Arc<EmbeddedTexts>, Failure> {
        let contexts = sentences.contexts.iter().zip(&self.sample.retrieved_contexts);
        let texts = contexts.flat_map(|(ranges, context)| cut(&context.text, ranges));
        let take = || async {
            self.reserve(sentences.count).await?;
            self.vectors(texts).await.map(Arc::new)
        };
        self.context_rows.get_or_init(take).await.clone()
    }

    /// Vectors of the sentences of the response.
    pub(in crate::evaluate) async fn response_rows(
        &self,
        sentences: &Sentences,
    ) -> Result<EmbeddedTexts, Failure> {
        self.vectors(cut(&self.sample.response, &sentences.response)).await
    }

    /// Vectors of the response and of the reference as a whole.
    pub(in crate::evaluate) async fn answer_rows(&self) -> Result<Arc<EmbeddedTexts>, Failure> {
        let Sample { response, reference, .. } = &*self.sample;
        let texts = [response, reference].into_iter().cloned();
        let take = || async { self.vectors(texts).await.map(Arc::new) };
        self.answer_rows.get_or_init(take).await.clone()
    }

    /// Vectors of unit length. The texts are made one by one, as their turns come.
    pub(in crate::evaluate) async fn vectors(
        &self,
        mut texts: impl Iterator<Item = String> + Send,
    ) -> Result<EmbeddedTexts, Failure> {
        let failed = |error: EmbedError| Failure::Embed(Arc::new(error));
        let Embedding { engine, flow, options } =
            self.embedding.get_or_try_init(|| async { self.embedding().map_err(failed) }).await?;
        let embed = |text| engine.embed_in_stream(*flow, text, options.clone(), self.request.call.deadline);
        let mut pending: FuturesOrdered<_> = texts.by_ref().take(TEXTS_AT_ONCE).map(embed).collect();
        let mut rowed = EmbeddedTexts { rows: VectorRows::default(), cut: false };
        while let Some(input) = pending.try_next().await.map_err(failed)? {
            pending.extend(texts.next().map(embed));
            let Vector::Values(values) = input.vector else { return Err(Failure::Defect) };
            rowed.rows.push(&values);
            rowed.cut |= input.truncated;
        }
        Ok(rowed)
    }

    /// Waits for memory for the vectors of so many sentences.
    async fn reserve(&self, sentences: usize) -> Result<(), Failure> {
        let embedding = self.embedding.get_or_try_init(|| async { self.embedding() }).await;
        let embedding = embedding.map_err(|error| Failure::Embed(Arc::new(error)))?;
        let bytes = sentences * embedding.options.vector.dimensions * size_of::<f32>();
        // One sample whose vectors need more than all of it goes alone.
        let units = bytes.div_ceil(VECTOR_UNIT).clamp(1, VECTOR_UNITS);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let take = || async { self.shared.vector_memory.acquire_many(units).await };
        self.vector_memory.get_or_try_init(take).await.map_err(|_| Failure::Defect)?;
        Ok(())
    }

    fn embedding(&self) -> Result<Embedding, EmbedError> {
        let engine = self.shared.embedder.ready()?.clone();
        let model = engine.model();
        let prompt = model.default_prompt_name.as_ref().and_then(|name| model.prompts.get(name));
        let options = InputOptions {
            prompt: prompt.map(String::as_str).unwrap_or_default().into(),
            truncation: Truncation::End,
            vector: VectorOptions {
                dimensions: model.dimensions,
                normalize: true,
                encoding: VectorEncoding::Float32Values,
            },
        };
        Ok(Embedding { flow: engine.evaluation_flow(), options, engine })
    }
}

fn cut<'t>(text: &'t str, ranges: &'t [Range<usize>]) -> impl Iterator<Item = String> + 't {
    ranges.iter().map(|range| text[range.clone()].to_owned())
}
