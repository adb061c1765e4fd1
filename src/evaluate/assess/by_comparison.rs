//! Metrics that need no judge: they compare texts, on the threads for it, or vectors.

use std::sync::Arc;

use super::{Assessment, Finding, by_claims::noting_cut};
use crate::evaluate::{
    lexical::{
        Pair, Retrieval, Tokens,
        bleu::{self, Tokenizer},
        chrf, exact_match, id_context, quoted_spans, rouge, string_presence, string_similarity, text_context,
        token_f1,
    },
    metric::Metric,
    result::Failure,
    sample::{Context, Sample},
    score::Estimate,
    text::{Language, sentences},
    vector::{embedding_groundedness, embedding_relevance, semantic_similarity},
};

type Found = Result<Finding, Failure>;

impl Assessment<'_> {
    pub(super) async fn lexical(&self, metric: &Metric) -> Found {
        let nothing = match metric {
            Metric::QuotedSpans => "the response quotes nothing",
            _ => "there is nothing to compare",
        };
        let (sample, language, metric) =
            (Arc::clone(&self.steps.sample), self.steps.reading.language, metric.clone());
        let compare = move || compare(&metric, &sample, language);
        let score = self.steps.shared.pool.run(self.steps.call.deadline, compare).await?;
        Ok(Finding::of(score.map_or(Estimate::NotApplicable(nothing), Estimate::Exact), ""))
    }

    pub(super) async fn semantic_similarity(&self, options: &semantic_similarity::Options) -> Found {
        let texts = vec![self.steps.sample.response.clone(), self.steps.sample.reference.clone()];
        let (vectors, cut) = self.steps.vectors(texts).await?;
        let estimate = semantic_similarity::score(&vectors[0], &vectors[1], options);
        Ok(noting_cut(Finding::of(estimate, ""), cut))
    }

    pub(super) async fn embedding_groundedness(&self) -> Found {
        let contexts = &self.steps.sample.retrieved_contexts;
        let (response, mut rest) = self.sentences(&self.steps.sample.response, contexts).await?;
        let count = response.len();
        let texts = response.into_iter().chain(rest.drain(..).flatten()).collect();
        let (mut response, cut) = self.steps.vectors(texts).await?;
        let contexts = response.split_off(count);
        let finding = Finding::of(embedding_groundedness::score(&response, &contexts), "");
        Ok(noting_cut(finding, cut))
    }

    pub(super) async fn embedding_relevance(&self) -> Found {
        let sample = &self.steps.sample;
        let (_, contexts) = self.sentences("", &sample.retrieved_contexts).await?;
        let lengths: Vec<usize> = contexts.iter().map(Vec::len).collect();
        let texts = std::iter::once(sample.user_input.clone()).chain(contexts.into_iter().flatten());
        let (mut vectors, cut) = self.steps.vectors(texts.collect()).await?;
        let mut rest = vectors.split_off(1).into_iter();
        let contexts: Vec<Vec<Vec<f32>>> =
            lengths.into_iter().map(|length| rest.by_ref().take(length).collect()).collect();
        let finding = Finding::of(embedding_relevance::score(&vectors[0], &contexts), "");
        Ok(noting_cut(finding, cut))
    }

    /// Of a text, and of each context.
    async fn sentences(
        &self,
        text: &str,
        contexts: &[Context],
    ) -> Result<(Vec<String>, Vec<Vec<String>>), Failure> {
        let (text, contexts) = (text.to_owned(), contexts.to_vec());
        let cut = |text: &str| sentences(text).into_iter().map(|range| text[range].to_owned()).collect();
        let work = move || (cut(&text), contexts.iter().map(|context| cut(&context.text)).collect());
        self.steps.shared.pool.run(self.steps.call.deadline, work).await
    }
}

/// None where there is nothing to compare. Metrics that ask the judge or need vectors have no such score.
fn compare(metric: &Metric, sample: &Sample, language: Language) -> Option<f64> {
    let pair = Pair { response: &sample.response, reference: &sample.reference };
    match metric {
        Metric::Bleu(options) => {
            let tokenizer = match options.tokenizer {
                Tokenizer::Auto => Tokenizer::of(language),
                tokenizer => tokenizer,
            };
            bleu::score(pair, &bleu::Options { tokenizer, ..options.clone() })
        }
        Metric::Rouge(options) => {
            let tokens = tokens(options.tokens, language);
            rouge::score(pair, &rouge::Options { tokens, ..options.clone() })
        }
        Metric::Chrf(options) => chrf::score(pair, options),
        Metric::StringSimilarity(options) => Some(string_similarity::score(pair, options)),
        Metric::ExactMatch(options) => Some(exact_match::score(pair, options)),
        Metric::StringPresence(options) => string_presence::score(pair, options),
        Metric::TokenF1 => {
            token_f1::score(pair, &token_f1::Options { tokens: tokens(Tokens::Auto, language) })
        }
        Metric::IdContextPrecision => retrieval(sample, |context| &context.id, id_context::precision),
        Metric::IdContextRecall => retrieval(sample, |context| &context.id, id_context::recall),
        Metric::TextContextPrecision(options) => {
            retrieval(sample, |context| &context.text, |contexts| text_context::precision(contexts, options))
        }
        Metric::TextContextRecall(options) => {
            retrieval(sample, |context| &context.text, |contexts| text_context::recall(contexts, options))
        }
        Metric::QuotedSpans => {
            let contexts: Vec<&str> = sample.retrieved_contexts.iter().map(|c| c.text.as_str()).collect();
            quoted_spans::score(&sample.response, &contexts, &quoted_spans::Options::default())
        }
        _ => None,
    }
}

fn tokens(tokens: Tokens, language: Language) -> Tokens {
    match tokens {
        Tokens::Auto => Tokens::of(language),
        tokens => tokens,
    }
}

fn retrieval(
    sample: &Sample,
    of: impl Fn(&Context) -> &str,
    score: impl Fn(Retrieval<'_>) -> Option<f64>,
) -> Option<f64> {
    let retrieved: Vec<&str> = sample.retrieved_contexts.iter().map(&of).collect();
    let reference: Vec<&str> = sample.reference_contexts.iter().map(&of).collect();
    score(Retrieval { retrieved: &retrieved, reference: &reference })
}
