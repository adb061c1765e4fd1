//! Questions as prompts, and one answer or several.

use serde_json::Value;

use super::Steps;
use crate::{
    evaluate::{prompts::Template, result::Failure, text::Language},
    judge::{Cost, JudgeError, Part, Prompt, PromptLanguage, Reply, Verdict},
};

/// Claims, entities, questions or verdicts that are taken from one answer of the judge. A text of 128 KiB makes fewer
/// claims than that, and metrics ask about each of them.
const MOST_ITEMS: usize = 1024;

/// The items of an answer.
///
/// # Errors
/// [`JudgeError::Unreadable`] if there are more than anybody would want.
pub(in crate::evaluate) fn at_most<T>(what: &str, items: Vec<T>) -> Result<Vec<T>, Failure> {
    if items.len() <= MOST_ITEMS {
        return Ok(items);
    }
    let detail = format!("it has {} {what}; the limit is {MOST_ITEMS}", items.len());
    Err(Failure::Judge(JudgeError::Unreadable { detail }))
}

/// A question to the judge: a prompt template, the values of its placeholders, and the data.
pub(in crate::evaluate) struct JudgeQuestion<'a> {
    template: Template,
    fill: Vec<(&'a str, &'a str)>,
    parts: Vec<Part>,
}

pub(in crate::evaluate) fn part(name: &'static str, value: Value) -> Part {
    Part { name, value }
}

/// A verdict with the judge's reason.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::evaluate) struct ReasonedVerdict<T> {
    pub verdict: T,
    pub reason: String,
}

impl<'a> JudgeQuestion<'a> {
    pub(in crate::evaluate) fn new(template: Template) -> JudgeQuestion<'a> {
        JudgeQuestion { template, fill: Vec::new(), parts: Vec::new() }
    }

    pub(in crate::evaluate) fn fill(mut self, placeholder: &'a str, value: &'a str) -> JudgeQuestion<'a> {
        self.fill.push((placeholder, value));
        self
    }

    /// Parts that samples or steps share come first, for endpoints that cache prefixes.
    pub(in crate::evaluate) fn part(mut self, name: &'static str, value: Value) -> JudgeQuestion<'a> {
        self.parts.push(part(name, value));
        self
    }

    pub(in crate::evaluate) fn parts(mut self, parts: Vec<Part>) -> JudgeQuestion<'a> {
        self.parts.extend(parts);
        self
    }
}

impl Steps<'_> {
    fn prompt(&self, question: JudgeQuestion<'_>) -> Result<Prompt, Failure> {
        let of_sample = self.analysis()?.language;
        let language = prompt_language(of_sample);
        let reasons = prompt_language(self.request.reason_language.unwrap_or(of_sample));
        Ok(Prompt {
            template: question.template.name(),
            version: question.template.version(),
            language,
            system: question.template.system(language, reasons, &question.fill),
            parts: question.parts,
        })
    }

    pub(in crate::evaluate) async fn ask<V: Verdict>(
        &self,
        question: JudgeQuestion<'_>,
    ) -> (Result<V, Failure>, Cost) {
        let Some(judge) = &self.request.judge else {
            return (Err(Failure::JudgeNotConfigured), Cost::default());
        };
        let prompt = match self.prompt(question) {
            Ok(prompt) => prompt,
            Err(failure) => return (Err(failure), Cost::default()),
        };
        let reply = judge.ask::<V>(&prompt, &self.request.call).await;
        (reply.verdict.map_err(Failure::Judge), reply.cost)
    }

    /// Independent answers to one question, and what they cost together.
    pub(in crate::evaluate) async fn ask_many<V: Verdict>(
        &self,
        question: JudgeQuestion<'_>,
        samples: usize,
    ) -> (Vec<Result<V, Failure>>, Cost) {
        let Some(judge) = &self.request.judge else {
            return (vec![Err(Failure::JudgeNotConfigured)], Cost::default());
        };
        let prompt = match self.prompt(question) {
            Ok(prompt) => prompt,
            Err(failure) => return (vec![Err(failure)], Cost::default()),
        };
        let replies: Vec<Reply<V>> = match samples {
            1 => vec![judge.ask(&prompt, &self.request.call).await],
            samples => judge.ask_many(&prompt, samples, &self.request.call).await,
        };
        let mut cost = Cost::default();
        replies.iter().for_each(|reply| cost += reply.cost.clone());
        (replies.into_iter().map(|reply| reply.verdict.map_err(Failure::Judge)).collect(), cost)
    }
}

/// Prompts are there in English and Chinese.
fn prompt_language(language: Language) -> PromptLanguage {
    match language {
        Language::Chinese => PromptLanguage::Chinese,
        Language::English | Language::Other => PromptLanguage::English,
    }
}
