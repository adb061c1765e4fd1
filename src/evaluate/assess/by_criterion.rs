//! Metrics with words of the caller's: criteria, rubrics, values, numbers and orders.

use std::collections::{BTreeMap, HashMap};

use serde_json::json;

use super::{Assessment, Finding, Found, Sheet, Work, off_scale};
use crate::{
    evaluate::{
        judged::{
            aspect_critic::{self, Criterion},
            custom::{self, Discrete, Numeric},
            rubrics, simple_criteria,
        },
        pool::Length,
        prompts::Template,
        result::Failure,
        sample::Sample,
        score::Estimate,
        steps::{Question, Step, part},
        verdicts::{Aspect, Chosen, Graded, Measured, Ranked},
    },
    judge::{Part, Verdict},
};

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
    pub(super) async fn aspect_critic(&self, sheet: &mut Sheet, criterion: &Criterion) -> Found {
        let question = self.about_sample(Template::Aspect).await?.fill("instruction", &criterion.definition);
        let read = |answer: Aspect| Ok((answer.verdict.0, answer.reason));
        let samples = criterion.samples;
        let votes = self.votes(sheet, question, samples, read).await?;
        Ok(Work::of(move || {
            let estimate = aspect_critic::score(&votes.given, samples);
            let yes = votes.given.iter().filter(|vote| **vote).count() as f64;
            votes.found(estimate).detail("votes_for", yes)
        }))
    }

    pub(super) async fn simple_criteria(&self, sheet: &mut Sheet, criterion: &Criterion) -> Found {
        let Criterion { definition, lowest, highest, samples } = criterion.clone();
        let instruction = format!("{definition}\nWhole numbers from {lowest} to {highest}.");
        let question = self.about_sample(Template::Criteria).await?.fill("instruction", &instruction);
        let read = move |answer: Graded| match i32::try_from(answer.score.0) {
            Ok(score) if (lowest..=highest).contains(&score) => Ok((score, answer.reason)),
            _ => Err(format!("the score is not from {lowest} to {highest}")),
        };
        let votes = self.votes(sheet, question, samples, read).await?;
        let criterion = criterion.clone();
        Ok(Work::of(move || {
            let estimate = simple_criteria::score(&votes.given, &criterion);
            votes.found(estimate)
        }))
    }

    pub(super) async fn rubrics(&self, sheet: &mut Sheet, rubrics: &BTreeMap<i32, String>) -> Found {
        let instruction = rubrics::lines(rubrics);
        let question = self.about_sample(Template::Rubric).await?.fill("instruction", &instruction);
        let scores: Vec<i32> = rubrics.keys().copied().collect();
        let read = move |answer: Graded| match i32::try_from(answer.score.0) {
            Ok(score) if scores.contains(&score) => Ok((score, answer.reason)),
            _ => Err("the rubric has no such score".to_owned()),
        };
        let votes = self.votes(sheet, question, 1, read).await?;
        let estimate = Estimate::Exact(f64::from(votes.given[0]));
        Ok(Work::of(move || votes.found(estimate)))
    }

    pub(super) async fn discrete(&self, sheet: &mut Sheet, options: &Discrete) -> Found {
        let values = options.values.join(", ");
        let question = self
            .about_sample(Template::Discrete)
            .await?
            .fill("instruction", &options.instruction)
            .fill("values", &values);
        let known: Vec<String> = options.values.iter().map(|value| value.trim().to_lowercase()).collect();
        let read = move |answer: Chosen| {
            let chosen = answer.value.trim().to_lowercase();
            let index = known.iter().position(|value| *value == chosen);
            index
                .map(|index| (index, answer.reason))
                .ok_or_else(|| "the value is none of those asked for".to_owned())
        };
        let votes = self.votes(sheet, question, options.samples, read).await?;
        let options = options.clone();
        Ok(Work::of(move || {
            let (value, estimate) = custom::discrete(&votes.given, &options);
            let value = value.map(|index| options.values[index].clone()).unwrap_or_default();
            Finding { value, ..votes.found(estimate) }
        }))
    }

    pub(super) async fn numeric(&self, sheet: &mut Sheet, options: &Numeric) -> Found {
        let (lowest, highest) = (options.lowest.to_string(), options.highest.to_string());
        let question = self
            .about_sample(Template::Numeric)
            .await?
            .fill("instruction", &options.instruction)
            .fill("minimum", &lowest)
            .fill("maximum", &highest);
        let range = options.lowest..=options.highest;
        let scale = format!("the number is not from {lowest} to {highest}");
        let read = move |answer: Measured| match range.contains(&answer.value) {
            true => Ok((answer.value, answer.reason)),
            false => Err(scale.clone()),
        };
        let votes = self.votes(sheet, question, options.samples, read).await?;
        let options = options.clone();
        Ok(Work::of(move || {
            let estimate = custom::numeric(&votes.given, &options);
            votes.found(estimate)
        }))
    }

    /// `candidates` are empty for the retrieved contexts.
    pub(super) async fn ranking(&self, sheet: &mut Sheet, instruction: &str, candidates: &[String]) -> Found {
        let count = match candidates.is_empty() {
            true => self.steps.sample.retrieved_contexts.len(),
            false => candidates.len(),
        };
        if count < 2 {
            let nothing = Estimate::NotApplicable("there are less than two candidates");
            return Ok(Work::done(Finding::of(nothing, "")));
        }
        let candidates = candidates.to_vec();
        let parts = self.steps.derive(move |sample| ranking_parts(sample, &candidates)).await?;
        let question = Question::new(Template::Ranking).fill("instruction", instruction).parts(parts);
        // Judges drop the letter.
        let named = |index: usize| [(candidate(index), index), ((index + 1).to_string(), index)];
        let indices: HashMap<String, usize> = (0..count).flat_map(named).collect();
        let read = move |answer: Ranked| {
            let mut lacks = (0..count).map(|_| true).collect::<Vec<bool>>();
            let mut first_time = |index: &usize| std::mem::replace(&mut lacks[*index], false);
            // An order that is longer repeats something.
            let given = answer.order.iter().take(count + 1);
            let order: Vec<usize> =
                given.filter_map(|id| indices.get(id.as_str()).copied()).filter(&mut first_time).collect();
            if order.len() == count && answer.order.len() == count {
                Ok((order, answer.reason))
            } else {
                Err("the order lacks or repeats a candidate".to_owned())
            }
        };
        let mut votes = self.votes(sheet, question, 1, read).await?;
        let ranking = votes.given.swap_remove(0);
        Ok(Work::of(move || Finding {
            ranking,
            judged: 1,
            submitted: 1,
            reason: votes.reasons.join(" "),
            ..Finding::default()
        }))
    }

    /// With as much of the sample as there is.
    async fn about_sample<'a>(&self, template: Template) -> Result<Question<'a>, Failure> {
        let parts = self.steps.derive(|sample| {
            let contexts: Vec<&str> = sample.retrieved_contexts.iter().map(|c| c.text.as_str()).collect();
            let contexts = (!contexts.is_empty()).then(|| part("retrieved_contexts", json!(contexts)));
            contexts.into_iter().chain(own_parts(sample)).collect()
        });
        Ok(Question::new(template).parts(parts.await?))
    }

    /// At least one of `samples` answers that `read` takes, which gives their verdicts and reasons.
    async fn votes<V: Verdict, T: Send + 'static>(
        &self,
        sheet: &mut Sheet,
        question: Question<'_>,
        samples: usize,
        read: impl Fn(V) -> Result<(T, String), String> + Send + 'static,
    ) -> Result<Votes<T>, Failure> {
        let (answers, cost) = self.steps.ask_many::<V>(question, samples).await;
        sheet.bill.insert(Step::Own(sheet.index), cost);
        let votes = self.steps.compute(Length::Short, move |_| {
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
            Ok(votes)
        });
        let votes = votes.await?;
        match votes.failure {
            Some(failure) if votes.given.is_empty() => Err(failure),
            _ => Ok(votes),
        }
    }
}

fn candidate(index: usize) -> String {
    format!("c{}", index + 1)
}

/// The retrieved contexts where there are no candidates of the caller's.
fn ranking_parts(sample: &Sample, candidates: &[String]) -> Vec<Part> {
    let contexts = sample.retrieved_contexts.iter().map(|context| context.text.as_str());
    let texts: Vec<&str> = match candidates.is_empty() {
        true => contexts.collect(),
        false => candidates.iter().map(String::as_str).collect(),
    };
    let items = texts.iter().enumerate().map(|(index, text)| json!({"id": candidate(index), "text": text}));
    std::iter::once(part("candidates", items.collect())).chain(own_parts(sample)).collect()
}

/// What the sample has of these.
fn own_parts(sample: &Sample) -> impl Iterator<Item = Part> {
    let texts = [
        ("user_input", &sample.user_input),
        ("response", &sample.response),
        ("reference", &sample.reference),
    ];
    texts.into_iter().filter(|(_, text)| !text.is_empty()).map(|(name, text)| part(name, json!(text)))
}
