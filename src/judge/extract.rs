//! Extracts a verdict from a judge's answer (pure).
//!
//! The order of sources: the content without the model's thinking, the arguments of a tool call, the thinking. In
//! each, the last JSON value that matches the verdict's type is used, so that an example or a draft before it is
//! ignored. Values that do not match are skipped.

mod decode;
mod repair;
mod scan;
mod thinking;

use super::{
    Verdict,
    wire::{ChatMessage, FinishReason},
};

use self::{
    decode::TopLevel,
    scan::{ScannedText, candidates},
};

/// Reason why a message holds no verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ExtractError {
    /// The answer reached its token limit before the verdict was complete.
    Truncated,
    /// The judge or its content filter refused to answer.
    Refused,
    /// Description of the problem, sent to the judge when the question is repeated. Contains none of its text.
    Unreadable(String),
}

/// Number of leading characters that are searched for a refusal.
const REFUSAL_CHARS: usize = 200;

/// Extracts the verdict of a message, in time linear in its length.
///
/// # Errors
/// See [`ExtractError`]. A truncated message counts only if it holds a complete value outside of its thinking.
pub(super) fn verdict<V: Verdict>(message: &ChatMessage) -> Result<V, ExtractError> {
    let has_refusal = message.refusal.as_deref().is_some_and(|refusal| !refusal.trim().is_empty());
    if has_refusal || message.finish == FinishReason::ContentFilter {
        return Err(ExtractError::Refused);
    }
    let form = TopLevel::for_verdict::<V>();
    let was_cut = message.finish == FinishReason::Length;
    let content = message.content.as_deref().unwrap_or_default();
    let answer = thinking::without_thinking(content);
    // Text before an unclosed thinking tag may be incomplete.
    let in_content = ScannedText { text: &answer.text, allow_unclosed: !was_cut && !answer.is_unclosed };
    let in_tool =
        ScannedText { text: message.tool_arguments.as_deref().unwrap_or_default(), allow_unclosed: !was_cut };

    let mut failures = ReadFailures::default();
    for source in [in_content, in_tool] {
        if let Some(verdict) = failures.note(read(source, form)) {
            return Ok(verdict);
        }
    }
    if was_cut {
        return Err(ExtractError::Truncated);
    }
    if !failures.saw_json && is_refusal(&answer.text) {
        return Err(ExtractError::Refused);
    }
    let whole = if answer.had_tags { content } else { "" };
    for text in [whole, message.reasoning.as_deref().unwrap_or_default()] {
        if let Some(verdict) = failures.note(read(ScannedText { text, allow_unclosed: false }, form)) {
            return Ok(verdict);
        }
    }
    Err(ExtractError::Unreadable(failures.description()))
}

/// Findings of the sources that held no verdict.
#[derive(Default)]
struct ReadFailures {
    saw_json: bool,
    saw_text: bool,
    mismatch: Option<String>,
}

enum ReadOutcome<V> {
    Verdict(V),
    Mismatch(String),
    NoJson,
    NoText,
}

impl ReadFailures {
    /// Records an outcome and returns its verdict. The first mismatch is kept: it is from the preferred source.
    fn note<V>(&mut self, read: ReadOutcome<V>) -> Option<V> {
        self.saw_text |= !matches!(read, ReadOutcome::NoText);
        match read {
            ReadOutcome::Verdict(verdict) => return Some(verdict),
            ReadOutcome::Mismatch(what) => {
                self.saw_json = true;
                self.mismatch.get_or_insert(what);
            }
            ReadOutcome::NoJson | ReadOutcome::NoText => {}
        }
        None
    }

    fn description(self) -> String {
        let without_json = if self.saw_text { "it holds no JSON value" } else { "it is empty" };
        self.mismatch.unwrap_or_else(|| without_json.to_owned())
    }
}

fn read<V: Verdict>(source: ScannedText, form: TopLevel) -> ReadOutcome<V> {
    if source.text.trim().is_empty() {
        return ReadOutcome::NoText;
    }
    // Some endpoints encode the answer a second time, as a JSON string.
    if let Ok(text) = serde_json::from_str::<String>(source.text) {
        return read(ScannedText { text: &text, ..source }, form);
    }
    let mut mismatch = None;
    for quotes in [repair::Quotes::Strict, repair::Quotes::Loose] {
        for json in candidates(source, quotes) {
            match decode::read(&json, form) {
                Ok(verdict) => return ReadOutcome::Verdict(verdict),
                Err(what) => mismatch = mismatch.or(Some(what)),
            }
        }
    }
    mismatch.map_or(ReadOutcome::NoJson, ReadOutcome::Mismatch)
}

/// Whether the text begins with a typical refusal.
fn is_refusal(text: &str) -> bool {
    let start: String = text.trim().chars().take(REFUSAL_CHARS).collect();
    let start = start.to_lowercase().replace('’', "'");
    let apologises = APOLOGIES.iter().any(|words| start.starts_with(words));
    let declines = REFUSALS.iter().any(|words| start.starts_with(words));
    declines || (apologises && REFUSALS.iter().any(|words| start.contains(words)))
}

const APOLOGIES: [&str; 10] = [
    "i'm sorry",
    "i am sorry",
    "sorry",
    "i apologize",
    "apologies",
    "as an ai",
    "unfortunately",
    "抱歉",
    "很抱歉",
    "对不起",
];
const REFUSALS: [&str; 14] = [
    "i can't",
    "i cannot",
    "i can not",
    "i'm unable",
    "i am unable",
    "i'm not able",
    "i am not able",
    "i won't",
    "i must decline",
    "我不能",
    "我无法",
    "无法",
    "不能",
    "不便",
];

#[cfg(test)]
mod tests;
