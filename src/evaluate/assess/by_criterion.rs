//! Metrics with words of the caller's: criteria, rubrics, values, numbers and orders.

use std::collections::BTreeMap;

use serde_json::json;

use super::{Assessment, Finding, Sheet, off_scale};
use crate::{
    evaluate::{
        judged::{
            aspect_critic::{self, Criterion},
            custom::{self, Discrete, Numeric},
            rubrics, simple_criteria,
        },
        prompts::Template,
        result::Failure,
        score::Estimate,
        steps::{Question, Step},
        verdicts::{Aspect, Chosen, Graded, Measured, Ranked},
    },
    judge::Verdict,
};

type Found = Result<Finding, Failure>;

/// Judgements of one thing, and why some are missing.
struct Votes<T> {
    given: Vec<T>,
    reasons: Vec<String>,
    samples: usize,
    failure: Option<Failure>,
}

impl<T> Votes<T> {
    fn found(self, estimate: Estimate) -> Finding {
        let missing = self.samples - self.given.len();
        let failure = self.failure.filter(|_| matches!(estimate, Estimate::Between(..)));
        Finding {
            judged: self.given.len(),
            submitted: self.given.len() + missing,
            missing: failure,
            ..Finding::of(estimate, self.reasons.join(" / "))
        }
    }
}

impl Assessment<'_> {
    pub(super) async fn aspect_critic(&self, sheet: &mut Sheet<'_>, criterion: &Criterion) -> Found {
        let question = self.about_sample(Template::Aspect).fill("instruction", &criterion.definition);
        let read = |answer: Aspect| Ok((answer.verdict.0, answer.reason));
        let votes = self.votes(sheet, question, criterion.samples, read).await?;
        let estimate = aspect_critic::score(&votes.given, criterion.samples);
        let yes = votes.given.iter().filter(|vote| **vote).count() as f64;
        Ok(votes.found(estimate).detail("votes_for", yes))
    }

    pub(super) async fn simple_criteria(&self, sheet: &mut Sheet<'_>, criterion: &Criterion) -> Found {
        let Criterion { definition, lowest, highest, samples } = criterion;
        let instruction = format!("{definition}\nWhole numbers from {lowest} to {highest}.");
        let question = self.about_sample(Template::Criteria).fill("instruction", &instruction);
        let read = |answer: Graded| match i32::try_from(answer.score.0) {
            Ok(score) if (*lowest..=*highest).contains(&score) => Ok((score, answer.reason)),
            _ => Err(format!("the score is not from {lowest} to {highest}")),
        };
        let votes = self.votes(sheet, question, *samples, read).await?;
        let estimate = simple_criteria::score(&votes.given, criterion);
        Ok(votes.found(estimate))
    }

    pub(super) async fn rubrics(&self, sheet: &mut Sheet<'_>, rubrics: &BTreeMap<i32, String>) -> Found {
        let instruction = rubrics::lines(rubrics);
        let question = self.about_sample(Template::Rubric).fill("instruction", &instruction);
        let read = |answer: Graded| match i32::try_from(answer.score.0) {
            Ok(score) if rubrics.contains_key(&score) => Ok((score, answer.reason)),
            _ => Err("the rubric has no such score".to_owned()),
        };
        let votes = self.votes(sheet, question, 1, read).await?;
        let estimate = Estimate::Exact(f64::from(votes.given[0]));
        Ok(votes.found(estimate))
    }

    pub(super) async fn discrete(&self, sheet: &mut Sheet<'_>, options: &Discrete) -> Found {
        let values = options.values.join(", ");
        let question = self
            .about_sample(Template::Discrete)
            .fill("instruction", &options.instruction)
            .fill("values", &values);
        let read = |answer: Chosen| {
            let same = |value: &String| value.trim().to_lowercase() == answer.value.trim().to_lowercase();
            let index = options.values.iter().position(same);
            index
                .map(|index| (index, answer.reason))
                .ok_or_else(|| "the value is none of those asked for".to_owned())
        };
        let votes = self.votes(sheet, question, options.samples, read).await?;
        let (value, estimate) = custom::discrete(&votes.given, options);
        let value = value.map(|index| options.values[index].clone()).unwrap_or_default();
        Ok(Finding { value, ..votes.found(estimate) })
    }

    pub(super) async fn numeric(&self, sheet: &mut Sheet<'_>, options: &Numeric) -> Found {
        let (lowest, highest) = (options.lowest.to_string(), options.highest.to_string());
        let question = self
            .about_sample(Template::Numeric)
            .fill("instruction", &options.instruction)
            .fill("minimum", &lowest)
            .fill("maximum", &highest);
        let read = |answer: Measured| match (options.lowest..=options.highest).contains(&answer.value) {
            true => Ok((answer.value, answer.reason)),
            false => Err(format!("the number is not from {lowest} to {highest}")),
        };
        let votes = self.votes(sheet, question, options.samples, read).await?;
        let estimate = custom::numeric(&votes.given, options);
        Ok(votes.found(estimate))
    }

    /// `candidates` are empty for the retrieved contexts.
    pub(super) async fn ranking(
        &self,
        sheet: &mut Sheet<'_>,
        instruction: &str,
        candidates: &[String],
    ) -> Found {
        let contexts = self.steps.sample.retrieved_contexts.iter().map(|context| context.text.as_str());
        let texts: Vec<&str> = match candidates.is_empty() {
            true => contexts.collect(),
            false => candidates.iter().map(String::as_str).collect(),
        };
        if texts.len() < 2 {
            return Ok(Finding::of(Estimate::NotApplicable("there are less than two candidates"), ""));
        }
        let id = |index: usize| format!("c{}", index + 1);
        let items = texts.iter().enumerate().map(|(index, text)| json!({"id": id(index), "text": text}));
        let question = Question::new(Template::Ranking)
            .fill("instruction", instruction)
            .part("candidates", items.collect())
            .optional("user_input", &self.steps.sample.user_input)
            .optional("response", &self.steps.sample.response)
            .optional("reference", &self.steps.sample.reference);
        let read = |answer: Ranked| {
            let index = |given: &crate::judge::lenient::Id| (0..texts.len()).find(|&n| given.names(&id(n)));
            let order: Vec<usize> = answer.order.iter().filter_map(index).collect();
            let mut sorted = order.clone();
            sorted.sort_unstable();
            let is_whole = sorted.into_iter().eq(0..texts.len()) && answer.order.len() == texts.len();
            if is_whole {
                Ok((order, answer.reason))
            } else {
                Err("the order lacks or repeats a candidate".to_owned())
            }
        };
        let mut votes = self.votes(sheet, question, 1, read).await?;
        let ranking = votes.given.swap_remove(0);
        Ok(Finding {
            ranking,
            judged: 1,
            submitted: 1,
            reason: votes.reasons.join(" "),
            ..Finding::default()
        })
    }

    /// With as much of the sample as there is.
    fn about_sample(&self, template: Template) -> Question<'_> {
        let sample = &self.steps.sample;
        let contexts: Vec<&str> =
            sample.retrieved_contexts.iter().map(|context| context.text.as_str()).collect();
        let question = Question::new(template);
        let question =
            if contexts.is_empty() { question } else { question.part("retrieved_contexts", json!(contexts)) };
        question
            .optional("user_input", &sample.user_input)
            .optional("response", &sample.response)
            .optional("reference", &sample.reference)
    }

    /// At least one of `samples` answers that `read` takes, which gives their verdicts and reasons.
    async fn votes<V: Verdict, T>(
        &self,
        sheet: &mut Sheet<'_>,
        question: Question<'_>,
        samples: usize,
        read: impl Fn(V) -> Result<(T, String), String>,
    ) -> Result<Votes<T>, Failure> {
        let (answers, cost) = self.steps.ask_many::<V>(question, samples).await;
        sheet.bill.insert(Step::Own(sheet.index), cost);
        let mut votes = Votes { given: Vec::new(), reasons: Vec::new(), samples, failure: None };
        for answer in answers {
            match answer.and_then(|answer| read(answer).map_err(off_scale)) {
                Ok((verdict, reason)) => {
                    votes.given.push(verdict);
                    votes.reasons.extend(Some(reason).filter(|reason| !reason.is_empty()));
                }
                Err(failure) => votes.failure = votes.failure.or(Some(failure)),
            }
        }
        match votes.failure {
            Some(failure) if votes.given.is_empty() => Err(failure),
            _ => Ok(votes),
        }
    }
}
