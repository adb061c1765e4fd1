//! Metrics that need no judge: they compare texts, on the threads for it, or vectors.

use std::{ops::Range, sync::Arc};

use super::{Assessment, Finding, Found, Work, by_claims::noting_cut};
use crate::evaluate::{
    lexical::{
        Pair, Retrieval, Tokens,
        bleu::{self, Tokenizer},
        chrf, exact_match, id_context, quoted_spans, rouge, string_presence, string_similarity,
        text_context::{self, Similarities},
        token_f1,
    },
    metric::Metric,
    pool::Length,
    progress::{Progress, Stopped},
    result::Failure,
    sample::{Context, Sample},
    score::Estimate,
    steps::Sentences,
    text::Language,
    vector::{BestOf, Rows, embedding_groundedness, embedding_relevance, semantic_similarity},
};

impl Assessment<'_> {
    pub(super) async fn lexical(&self, metric: &Metric) -> Found {
        let nothing = match metric {
            Metric::QuotedSpans => "the response quotes nothing",
            _ => "there is nothing to compare",
        };
        let language = self.steps.reading.as_ref().map_err(Clone::clone)?.language;
        let (sample, metric) = (Arc::clone(&self.steps.sample), metric.clone());
        let length = match metric {
            Metric::ExactMatch(_)
            | Metric::StringPresence(_)
            | Metric::IdContextPrecision
            | Metric::IdContextRecall => Length::Short,
            _ => Length::Long,
        };
        let work = Work::sliced(move |progress| {
            let score = compare(&metric, &sample, language, progress)?;
            Ok(Finding::of(score.map_or(Estimate::NotApplicable(nothing), Estimate::Exact), ""))
        });
        Ok(Work { length, ..work })
    }

    /// `score` takes the table and the threshold.
    pub(super) async fn text_context(
        &self,
        options: &text_context::Options,
        score: fn(&Similarities, f64) -> Option<f64>,
    ) -> Found {
        let similarities = self.steps.similarities(options.measure).await?;
        let threshold = options.threshold;
        Ok(Work::of(move || {
            let nothing = Estimate::NotApplicable("there is nothing to compare");
            Finding::of(score(&similarities, threshold).map_or(nothing, Estimate::Exact), "")
        }))
    }

    pub(super) async fn semantic_similarity(&self, options: &semantic_similarity::Options) -> Found {
        let (answers, options) = (self.steps.answer_rows().await?, options.clone());
        Ok(Work::of(move || {
            let (response, reference) = (answers.rows.row(0), answers.rows.row(1));
            let estimate = semantic_similarity::score(response, reference, &options);
            noting_cut(Finding::of(estimate, ""), answers.cut)
        }))
    }

    pub(super) async fn embedding_groundedness(&self) -> Found {
        let sentences = match self.few_sentences().await? {
            Ok(sentences) => sentences,
            Err(too_many) => return Ok(too_many),
        };
        let response = self.steps.response_rows(&sentences).await?;
        let contexts = self.steps.context_rows(&sentences).await?;
        Ok(Work::sliced(move |progress| {
            let best = best_of(&response.rows, &contexts.rows, 0..contexts.rows.len(), progress)?;
            let estimate = embedding_groundedness::score(&best, contexts.rows.len());
            Ok(noting_cut(Finding::of(estimate, ""), response.cut || contexts.cut))
        }))
    }

    pub(super) async fn embedding_relevance(&self) -> Found {
        let sentences = match self.few_sentences().await? {
            Ok(sentences) => sentences,
            Err(too_many) => return Ok(too_many),
        };
        let input = self.steps.vectors(std::iter::once(self.steps.sample.user_input.clone())).await?;
        let contexts = self.steps.context_rows(&sentences).await?;
        let ranges = sentences.by_context();
        Ok(Work::sliced(move |progress| {
            let mut best = Vec::with_capacity(ranges.len());
            for range in ranges.into_iter().filter(|range| !range.is_empty()) {
                best.extend(best_of(&input.rows, &contexts.rows, range, progress)?);
            }
            let finding = Finding::of(embedding_relevance::score(&best), "");
            Ok(noting_cut(finding, input.cut || contexts.cut))
        }))
    }

    /// The sentences of the sample, or, where they are more than may be compared, the finding that says so.
    async fn few_sentences(&self) -> Result<Result<Arc<Sentences>, Work>, Failure> {
        let (sentences, limit) = (self.steps.sentences().await?, self.steps.shared.sentences);
        if sentences.count <= limit {
            return Ok(Ok(sentences));
        }
        let reason =
            format!("the sample has {} sentences; the limit is {limit} (max-sentences)", sentences.count);
        Ok(Err(Work::done(Finding::of(Estimate::NotApplicable(""), reason))))
    }
}

/// For each row of `left` the highest cosine with one of these rows of `right`.
fn best_of(
    left: &Rows,
    right: &Rows,
    range: Range<usize>,
    progress: Progress<'_>,
) -> Result<Vec<f64>, Stopped> {
    let mut best = BestOf::default();
    loop {
        progress.check()?;
        if let Some(best) = best.compare_more(left, right, range.clone()) {
            return Ok(best.to_vec());
        }
    }
}

/// None where there is nothing to compare. Metrics that ask the judge, or need vectors or a table, have no such score.
fn compare(
    metric: &Metric,
    sample: &Sample,
    language: Language,
    progress: Progress<'_>,
) -> Result<Option<f64>, Stopped> {
    let pair = Pair { response: &sample.response, reference: &sample.reference };
    Ok(match metric {
        Metric::Bleu(options) => {
            let tokenizer = match options.tokenizer {
                Tokenizer::Auto => Tokenizer::of(language),
                tokenizer => tokenizer,
            };
            bleu::score_while(pair, &bleu::Options { tokenizer, ..options.clone() }, progress)?
        }
        Metric::Rouge(options) => {
            let tokens = tokens(options.tokens, language);
            rouge::score_while(pair, &rouge::Options { tokens, ..options.clone() }, progress)?
        }
        Metric::Chrf(options) => chrf::score_while(pair, options, progress)?,
        Metric::StringSimilarity(options) => Some(string_similarity::score_while(pair, options, progress)?),
        Metric::ExactMatch(options) => Some(exact_match::score(pair, options)),
        Metric::StringPresence(options) => string_presence::score(pair, options),
        Metric::TokenF1 => {
            token_f1::score(pair, &token_f1::Options { tokens: tokens(Tokens::Auto, language) })
        }
        Metric::IdContextPrecision => retrieval(sample, |context| &context.id, id_context::precision),
        Metric::IdContextRecall => retrieval(sample, |context| &context.id, id_context::recall),
        Metric::QuotedSpans => {
            let contexts: Vec<&str> = sample.retrieved_contexts.iter().map(|c| c.text.as_str()).collect();
            let options = quoted_spans::Options::default();
            quoted_spans::score_while(&sample.response, &contexts, &options, progress)?
        }
        _ => None,
    })
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
