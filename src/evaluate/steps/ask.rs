//! Questions as prompts, and one answer or several.

use serde_json::{Value, json};

use super::Steps;
use crate::{
    evaluate::{prompts::Template, result::Failure, text::Language},
    judge::{Cost, Part, Prompt, PromptLanguage, Reply, Verdict},
};

/// What the judge is asked: a template, what fills it, and the data.
pub(in crate::evaluate) struct Question<'a> {
    template: Template,
    fill: Vec<(&'a str, &'a str)>,
    parts: Vec<Part>,
}

/// A verdict with the judge's reason.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::evaluate) struct Answer<T> {
    pub verdict: T,
    pub reason: String,
}

impl<'a> Question<'a> {
    pub fn new(template: Template) -> Question<'a> {
        Question { template, fill: Vec::new(), parts: Vec::new() }
    }

    pub fn fill(mut self, placeholder: &'a str, value: &'a str) -> Question<'a> {
        self.fill.push((placeholder, value));
        self
    }

    /// Parts that samples or steps share come first, for endpoints that cache prefixes.
    pub fn part(mut self, name: &'static str, value: Value) -> Question<'a> {
        self.parts.push(Part { name, value });
        self
    }

    /// Left out where it is empty.
    pub fn optional(self, name: &'static str, text: &str) -> Question<'a> {
        if text.is_empty() { self } else { self.part(name, json!(text)) }
    }
}

impl Steps<'_> {
    fn prompt(&self, question: Question<'_>) -> Prompt {
        let language = prompt_language(self.reading.language);
        let reasons = prompt_language(self.reason_language);
        Prompt {
            template: question.template.name(),
            version: question.template.version(),
            language,
            system: question.template.system(language, reasons, &question.fill),
            parts: question.parts,
        }
    }

    pub async fn ask<V: Verdict>(&self, question: Question<'_>) -> (Result<V, Failure>, Cost) {
        let Some(judge) = &self.judge else { return (Err(Failure::JudgeNotConfigured), Cost::default()) };
        let reply = judge.ask::<V>(&self.prompt(question), &self.call).await;
        (reply.verdict.map_err(Failure::Judge), reply.cost)
    }

    /// Independent answers to one question, and what they cost together.
    pub async fn ask_many<V: Verdict>(
        &self,
        question: Question<'_>,
        samples: usize,
    ) -> (Vec<Result<V, Failure>>, Cost) {
        let Some(judge) = &self.judge else {
            return (vec![Err(Failure::JudgeNotConfigured)], Cost::default());
        };
        let prompt = self.prompt(question);
        let replies: Vec<Reply<V>> = match samples {
            1 => vec![judge.ask(&prompt, &self.call).await],
            samples => judge.ask_many(&prompt, samples, &self.call).await,
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
