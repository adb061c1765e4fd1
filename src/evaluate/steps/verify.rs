//! Claims against sources: one table of verdicts, from which several metrics are computed.

use std::{ops::Range, sync::Arc};

use futures::{FutureExt, StreamExt, stream};
use serde_json::{Value, json};

use super::{
    Each, JudgeQuestion, Ledger, QUESTIONS_AT_ONCE, ReasonedVerdict, ReasonedVerdicts, SharedStep, Side,
    Steps, Taken,
    attribute::{Opinion, SourceTexts, opinion},
};
use crate::{
    evaluate::{
        pool::Length,
        prompts::Template,
        replies::{ClaimVerdict, ContextVerdict, UsefulnessReply, VerificationReply},
        result::{EvidenceSource, Failure},
    },
    judge::Cost,
};

/// The most claims in one question: a judge's answer grows with them.
const CLAIMS: usize = 24;
/// The most contexts in one question.
const CONTEXTS: usize = 32;
/// The most UTF-8 bytes of sources in one question; a longer source has a question of its own.
const SOURCE_BYTES: usize = 96 << 10;

/// Claims with a judge's opinion on each.
#[derive(Debug, Default)]
pub(in crate::evaluate) struct ClaimTable {
    pub rows: Vec<ClaimRow>,
    /// The failure because of which opinions are missing, if any.
    pub failure: Option<Failure>,
}

#[derive(Debug)]
pub(in crate::evaluate) struct ClaimRow {
    pub claim: String,
    /// The opinion; None where the judge gave none.
    pub opinion: Option<Opinion>,
}

impl ClaimTable {
    /// Returns for each claim whether it is supported.
    pub(in crate::evaluate) fn supported(&self) -> Vec<Option<bool>> {
        self.rows.iter().map(|row| row.opinion.as_ref().map(|opinion| opinion.supported)).collect()
    }
}

impl Steps<'_> {
    /// The claims of a text, by the retrieved contexts.
    pub(in crate::evaluate) async fn by_contexts(&self, side: Side) -> Taken<ClaimTable> {
        let contexts = (0..self.sample.retrieved_contexts.len()).map(EvidenceSource::RetrievedContext);
        let take = || self.verify(side, SharedStep::ByContexts(side), contexts.collect());
        self.by_contexts.of(side).get_or_init(take).await.clone()
    }

    /// The claims of the response by the reference, or those of the reference by the response.
    pub(in crate::evaluate) async fn by_other(&self, side: Side) -> Taken<ClaimTable> {
        let other = match side {
            Side::Response => EvidenceSource::Reference,
            Side::Reference => EvidenceSource::Response,
        };
        let take = || self.verify(side, SharedStep::ByOther(side), vec![other]);
        self.by_other.of(side).get_or_init(take).await.clone()
    }

    async fn verify(&self, side: Side, step: SharedStep, sources: Vec<EvidenceSource>) -> Taken<ClaimTable> {
        let Taken { product: claims, mut ledger } = self.claims(side).await;
        let claims = match claims {
            Ok(claims) => claims,
            Err(failure) => return Taken { product: Err(failure), ledger },
        };
        if claims.is_empty() {
            return Taken { product: Ok(Arc::default()), ledger };
        }
        let groups = self.groups(&sources).into_iter();
        let groups: Vec<_> = groups.map(|range| self.verify_by(&claims, &sources[range]).boxed()).collect();
        let mut opinions: Vec<Option<Opinion>> = Vec::new();
        let (mut failure, mut cost) = (None, Cost::default());
        let groups: Vec<_> = stream::iter(groups).buffered(QUESTIONS_AT_ONCE).collect().await;
        for (group, (judged, missing, spent)) in groups.into_iter().enumerate() {
            failure = failure.or(missing);
            cost += spent;
            opinions = match group {
                0 => judged,
                _ => opinions.into_iter().zip(judged).map(|(a, b)| Opinion::either(a, b)).collect(),
            };
        }
        ledger.0.insert(step, cost);
        if let Some(failure) = failure.as_ref().filter(|_| opinions.iter().all(Option::is_none)) {
            return Taken { product: Err(failure.clone()), ledger };
        }
        let rows = claims.iter().cloned().zip(opinions).map(|(claim, opinion)| ClaimRow { claim, opinion });
        Taken { product: Ok(Arc::new(ClaimTable { rows: rows.collect(), failure })), ledger }
    }

    /// Verifies all claims against some of the sources.
    async fn verify_by(
        &self,
        claims: &[String],
        sources: &[EvidenceSource],
    ) -> (Vec<Option<Opinion>>, Option<Failure>, Cost) {
        let texts = SourceTexts { sample: Arc::clone(&self.sample), sources: sources.to_vec() };
        let each = Each::<VerificationReply, ClaimVerdict> {
            letter: 'c',
            count: claims.len(),
            batch: CLAIMS,
            question: &|indices| {
                let claims = indices.iter().map(|&index| item('c', index, &claims[index]));
                let sources = (0..sources.len()).map(|index| item('s', index, texts.text(index)));
                JudgeQuestion::new(Template::Verify)
                    .part("sources", sources.collect())
                    .part("claims", claims.collect())
            },
            verdicts: |answer| answer.verdicts.into_iter().map(|v| (v.id.clone(), v)).collect(),
            agree: |a, b| a.supported == b.supported,
        };
        let judged = self.judge_each(&each).await;
        let texts = texts.clone();
        let opinions = self.compute(Length::Long, move |cancellation| {
            let haystacks = texts.haystacks();
            let located = |verdict: Option<ClaimVerdict>| {
                cancellation.check()?;
                Ok(verdict.map(|verdict| opinion(verdict, &texts, &haystacks)))
            };
            judged.verdicts.into_iter().map(located).collect::<Result<Vec<_>, _>>()
        });
        match opinions.await {
            Ok(opinions) => (opinions, judged.failure, judged.cost),
            Err(failure) => (claims.iter().map(|_| None).collect(), Some(failure), judged.cost),
        }
    }

    /// Neighbours that fit one question together.
    fn groups(&self, sources: &[EvidenceSource]) -> Vec<Range<usize>> {
        let texts = SourceTexts { sample: Arc::clone(&self.sample), sources: sources.to_vec() };
        let (mut groups, mut from, mut bytes) = (Vec::new(), 0, 0);
        for index in 0..sources.len() {
            let more = texts.text(index).len();
            if index > from && (bytes + more > SOURCE_BYTES || index - from == CONTEXTS) {
                groups.push(from..index);
                (from, bytes) = (index, 0);
            }
            bytes += more;
        }
        groups.push(from..sources.len());
        groups
    }

    /// Which of the contexts was useful for the answer in that text.
    pub(in crate::evaluate) async fn useful(&self, side: Side) -> Taken<ReasonedVerdicts> {
        let take = || async {
            let (product, cost) = self.ask_usefulness(self.text_of(side)).await;
            Taken { product: product.map(Arc::new), ledger: Ledger::of(SharedStep::Usefulness(side), cost) }
        };
        self.useful.of(side).get_or_init(take).await.clone()
    }

    async fn ask_usefulness(&self, answer: &str) -> (Result<ReasonedVerdicts, Failure>, Cost) {
        let contexts = &self.sample.retrieved_contexts;
        let sources: Vec<EvidenceSource> =
            (0..contexts.len()).map(EvidenceSource::RetrievedContext).collect();
        let judge = |range: Range<usize>| async move {
            let from = range.start;
            let each = Each::<UsefulnessReply, ContextVerdict> {
                letter: 's',
                count: range.len(),
                batch: CONTEXTS,
                question: &|indices| {
                    let texts = indices.iter().map(|&index| item('s', index, &contexts[from + index].text));
                    JudgeQuestion::new(Template::Usefulness)
                        .part("contexts", texts.collect())
                        .part("question", json!(self.sample.user_input))
                        .part("answer", json!(answer))
                },
                verdicts: |answer| answer.verdicts.into_iter().map(|v| (v.id.clone(), v)).collect(),
                agree: |a, b| a.useful == b.useful,
            };
            self.judge_each(&each).await
        };
        let groups: Vec<_> = self.groups(&sources).into_iter().map(|range| judge(range).boxed()).collect();
        let (mut answers, mut failure, mut cost) = (Vec::new(), None, Cost::default());
        let groups: Vec<_> = stream::iter(groups).buffered(QUESTIONS_AT_ONCE).collect().await;
        for judged in groups {
            let verdicts = judged.verdicts.into_iter();
            answers.extend(
                verdicts.map(|v| v.map(|v| ReasonedVerdict { verdict: v.useful.0, reason: v.reason })),
            );
            failure = failure.or(judged.failure);
            cost += judged.cost;
        }
        match failure {
            Some(failure) if answers.iter().all(Option::is_none) => (Err(failure), cost),
            _ => (Ok(answers), cost),
        }
    }
}

fn item(letter: char, index: usize, text: &str) -> Value {
    json!({"id": Each::<VerificationReply, ClaimVerdict>::id(letter, index), "text": text})
}
