//! Metrics that ask questions of their own: ratings, generated questions, entities, summaries, refusals.

use std::sync::Arc;

use futures::future::join;
use serde_json::json;

use super::{Assessment, Finding, Found, Sheet, Work, by_claims::noting_cut};
use crate::{
    evaluate::{
        judged::{
            answer_accuracy, answer_relevancy, context_entity_recall, context_relevance, ratings,
            response_groundedness, summary_score,
        },
        prompts::Template,
        result::{Claim, Failure, Origin},
        sample::{Field, Sample, joined},
        score::Estimate,
        steps::{Each, Question, Rowed, Step, at_most, part},
        vector::cosine,
        verdicts::{
            self, Accuracy, Keyphrases, Refusal, Relevance, SummaryAnswer, SummaryAnswers, SummaryQuestions,
        },
    },
    judge::{Cost, Part, lenient::Rating},
};

type Rated = (Result<(Rating, String), Failure>, Cost);

impl Assessment<'_> {
    pub(super) async fn answer_accuracy(&self, sheet: &mut Sheet) -> Found {
        let sample = &self.steps.sample;
        let ask = |template| {
            let question = Question::new(template)
                .part("question", json!(sample.user_input))
                .part("reference", json!(sample.reference))
                .part("response", json!(sample.response));
            async {
                let (answer, cost) = self.steps.ask::<Accuracy>(question).await;
                (answer.map(|answer| (answer.rating, answer.reason)), cost)
            }
        };
        let rated = join(ask(Template::AccuracyA), ask(Template::AccuracyB)).await;
        two_judges(sheet, rated.into(), answer_accuracy::HIGHEST)
    }

    pub(super) async fn context_relevance(&self, sheet: &mut Sheet) -> Found {
        let parts = self.steps.derive(|sample| {
            let repeats = sample.user_input.trim().contains(sample.joined_contexts().trim());
            (!repeats).then(|| [contexts_part(sample), contexts_part(sample)])
        });
        let Some([first, second]) = parts.await? else {
            let nothing = Estimate::Exact(0.0);
            return Ok(Work::done(Finding::of(nothing, "the contexts only repeat the question")));
        };
        let ask = |template, contexts| {
            let question = Question::new(template)
                .parts(vec![contexts])
                .part("question", json!(self.steps.sample.user_input));
            self.rate(question)
        };
        let rated = join(ask(Template::ContextRelevanceA, first), ask(Template::ContextRelevanceB, second));
        two_judges(sheet, rated.await.into(), context_relevance::HIGHEST)
    }

    pub(super) async fn response_groundedness(&self, sheet: &mut Sheet) -> Found {
        let parts = self.steps.derive(|sample| {
            let stands = sample.joined_contexts().trim().contains(sample.response.trim());
            (!stands).then(|| [contexts_part(sample), contexts_part(sample)])
        });
        let Some([first, second]) = parts.await? else {
            let reason = "the response stands word for word in the contexts";
            return Ok(Work::done(Finding::of(Estimate::Exact(1.0), reason)));
        };
        let ask = |template, contexts| {
            let question = Question::new(template)
                .parts(vec![contexts])
                .part("response", json!(self.steps.sample.response));
            self.rate(question)
        };
        let rated = join(ask(Template::GroundednessA, first), ask(Template::GroundednessB, second)).await;
        two_judges(sheet, rated.into(), response_groundedness::HIGHEST)
    }

    async fn rate(&self, question: Question<'_>) -> Rated {
        let (answer, cost) = self.steps.ask::<Relevance>(question).await;
        (answer.map(|answer| (answer.rating, answer.reason)), cost)
    }

    pub(super) async fn answer_relevancy(
        &self,
        sheet: &mut Sheet,
        options: &answer_relevancy::Options,
    ) -> Found {
        let question = Question::new(Template::Question).part("response", json!(self.steps.sample.response));
        let asked = self.steps.ask_many::<crate::evaluate::verdicts::Question>(question, options.questions);
        let (answers, cost) = asked.await;
        sheet.bill.insert(Step::Own(sheet.index), cost);
        let failure = answers.iter().find_map(|answer| answer.as_ref().err().cloned());
        let given: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
        if let Some(failure) = failure.clone().filter(|_| given.is_empty()) {
            return Err(failure);
        }
        let texts: Vec<String> = given.iter().map(|question| question.question.clone()).collect();
        let texts = std::iter::once(self.steps.sample.user_input.clone()).chain(texts);
        let vectors = self.steps.vectors(texts).await?;
        Ok(Work::of(move || relevancy(&answers, &vectors, failure)))
    }

    pub(super) async fn context_entity_recall(&self, sheet: &mut Sheet) -> Found {
        let entities = join(self.steps.reference_entities(), self.steps.context_entities()).await;
        let (reference, contexts) = (sheet.take(entities.0), sheet.take(entities.1));
        let (reference, contexts) = (reference?, contexts?);
        let reason =
            format!("the reference names {} entities, the contexts {}", reference.len(), contexts.len());
        Ok(Work::of(move || Finding::of(context_entity_recall::score(&reference, &contexts), reason)))
    }

    pub(super) async fn summary_score(&self, sheet: &mut Sheet, options: &summary_score::Options) -> Found {
        let text = self.steps.derive(|sample| {
            let of_reference = sample.has(Field::ReferenceContexts);
            joined(if of_reference { &sample.reference_contexts } else { &sample.retrieved_contexts })
        });
        let text = text.await?;
        let mut spent = Cost::default();
        let answered = self.summary_answers(&text, &mut spent).await;
        sheet.bill.insert(Step::Own(sheet.index), spent);
        let (answers, failure) = answered?;
        let (sample, options) = (Arc::clone(&self.steps.sample), options.clone());
        Ok(Work::of(move || {
            let (summary, text) = (sample.response.chars().count(), text.chars().count());
            summary_finding(answers, summary_score::Lengths { summary, text }, &options, failure)
        }))
    }

    /// Questions made from the text, with whether the summary answers each.
    async fn summary_answers(
        &self,
        text: &str,
        spent: &mut Cost,
    ) -> Result<(Vec<(String, Option<SummaryAnswer>)>, Option<Failure>), Failure> {
        let question = Question::new(Template::Keyphrases).part("text", json!(text));
        let (keyphrases, cost) = self.steps.ask::<Keyphrases>(question).await;
        *spent += cost;
        let question = Question::new(Template::SummaryQuestions)
            .part("text", json!(text))
            .part("keyphrases", json!(at_most("keyphrases", keyphrases?.keyphrases.0)?));
        let (questions, cost) = self.steps.ask::<SummaryQuestions>(question).await;
        *spent += cost;
        let questions = at_most("questions", questions?.questions.0)?;
        let each = Each::<SummaryAnswers, SummaryAnswer> {
            letter: 'q',
            count: questions.len(),
            batch: 32,
            question: &|indices| {
                let items =
                    indices.iter().map(|&n| json!({"id": format!("q{}", n + 1), "text": questions[n]}));
                Question::new(Template::SummaryAnswers)
                    .part("summary", json!(self.steps.sample.response))
                    .part("questions", items.collect())
            },
            verdicts: |answer| answer.verdicts.into_iter().map(|v| (v.id.clone(), v)).collect(),
            agree: |a, b| a.answered == b.answered,
        };
        let judged = self.steps.judge_each(&each).await;
        *spent += judged.cost;
        match judged.failure {
            Some(failure) if judged.verdicts.iter().all(Option::is_none) => Err(failure),
            failure => Ok((questions.iter().cloned().zip(judged.verdicts).collect(), failure)),
        }
    }

    pub(super) async fn refusal(&self, sheet: &mut Sheet) -> Found {
        let sample = &self.steps.sample;
        if self.steps.reading.as_ref().map_err(Clone::clone)?.response_refuses {
            let reason = "the response is a known form of refusal";
            return Ok(Work::done(Finding::of(Estimate::Exact(1.0), reason)));
        }
        let question = Question::new(Template::Refusal)
            .part("question", json!(sample.user_input))
            .part("response", json!(sample.response));
        let (answer, cost) = self.steps.ask::<Refusal>(question).await;
        sheet.bill.insert(Step::Own(sheet.index), cost);
        let answer = answer?;
        let score = f64::from(u8::from(answer.refusal.0));
        let finding = Finding::of(Estimate::Exact(score), answer.reason);
        Ok(Work::of(move || finding.counting(&[Some(())])))
    }
}

/// Questions that the judge made from the response, by their nearness to the user's: that is the first vector.
fn relevancy(
    answers: &[Result<verdicts::Question, Failure>],
    vectors: &Rowed,
    failure: Option<Failure>,
) -> Finding {
    let given: Vec<&verdicts::Question> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
    let rows = &vectors.rows;
    let mut similarities = (1..rows.len()).map(|index| cosine(rows.row(0), rows.row(index)));
    let questions: Vec<Option<answer_relevancy::Question>> = answers
        .iter()
        .map(|answer| {
            let noncommittal = answer.as_ref().ok()?.noncommittal.0;
            Some(answer_relevancy::Question { similarity: similarities.next()?, noncommittal })
        })
        .collect();
    let (estimate, mean) = answer_relevancy::score(&questions);
    let evasive = questions.iter().flatten().filter(|question| question.noncommittal).count();
    let reason = format!("{evasive} of {} questions come from a noncommittal response", given.len());
    let claims = given.iter().enumerate().map(|(index, question)| Claim {
        id: format!("q{}", index + 1),
        origin: Origin::Question,
        text: question.question.clone(),
        verdict: Some(!question.noncommittal.0),
        reason: String::new(),
        evidence: Vec::new(),
        evidence_unverified: false,
    });
    let finding = Finding::of(estimate, reason).counting(&questions);
    let finding = Finding { claims: claims.collect(), missing: failure, ..finding };
    noting_cut(finding.detail("mean_cosine", mean.unwrap_or(f64::NAN)), vectors.cut)
}

/// Questions with whether the summary answers them.
fn summary_finding(
    answers: Vec<(String, Option<SummaryAnswer>)>,
    lengths: summary_score::Lengths,
    options: &summary_score::Options,
    failure: Option<Failure>,
) -> Finding {
    let answered: Vec<Option<bool>> =
        answers.iter().map(|(_, answer)| answer.as_ref().map(|answer| answer.answered.0)).collect();
    let yes = answered.iter().filter(|verdict| **verdict == Some(true)).count();
    let reason = format!("the summary answers {yes} of {} questions", answered.len());
    let claims = answers.into_iter().enumerate().map(|(index, (text, answer))| Claim {
        id: format!("q{}", index + 1),
        origin: Origin::Question,
        text,
        verdict: answer.as_ref().map(|answer| answer.answered.0),
        reason: answer.map(|answer| answer.reason).unwrap_or_default(),
        evidence: Vec::new(),
        evidence_unverified: false,
    });
    let finding = Finding::of(summary_score::score(&answered, lengths, options), reason);
    let finding = Finding { claims: claims.collect(), missing: failure, ..finding.counting(&answered) };
    finding
        .detail("summary_code_points", lengths.summary as f64)
        .detail("text_code_points", lengths.text as f64)
}

fn contexts_part(sample: &Sample) -> Part {
    let contexts = sample.retrieved_contexts.iter().enumerate();
    let items = contexts.map(|(n, context)| json!({"id": format!("s{}", n + 1), "text": context.text}));
    part("contexts", items.collect())
}

/// Two ratings up to `highest`; the form of the answers holds them to their scale.
fn two_judges(sheet: &mut Sheet, rated: [Rated; 2], highest: u32) -> Found {
    let mut spent = Cost::default();
    rated.iter().for_each(|(_, cost)| spent += cost.clone());
    sheet.bill.insert(Step::Own(sheet.index), spent);
    let failure = rated.iter().find_map(|(rating, _)| rating.as_ref().err().cloned());
    let given = rated.map(|(rating, _)| rating.ok());
    let ratings =
        given.each_ref().map(|given| given.as_ref().and_then(|(rating, _)| u32::try_from(rating.0).ok()));
    if let (Some(failure), [None, None]) = (&failure, ratings) {
        return Err(failure.clone());
    }
    let reasons: Vec<String> = given.into_iter().flatten().map(|(_, reason)| reason).collect();
    Ok(Work::of(move || {
        let finding = Finding::of(ratings::score(ratings, highest), reasons.join(" / ")).counting(&ratings);
        let finding = Finding { missing: failure, ..finding };
        ["first_rating", "second_rating"]
            .into_iter()
            .zip(ratings)
            .fold(finding, |finding, (name, rating)| finding.detail(name, rating.map_or(f64::NAN, f64::from)))
    }))
}
