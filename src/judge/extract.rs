//! Verdicts out of what a judge wrote (pure).
//!
//! The content is read first, without the model's thinking; then a tool's arguments; then the thinking. In
//! each, the last object that fits the verdict wins, so neither an example nor a draft in front of it does;
//! one that doesn't fit, such as an afterthought, hides none that does.

mod fit;
mod mend;
mod scan;
mod think;

use super::{
    Verdict,
    wire::{Finish, Message},
};

use self::{
    fit::Form,
    scan::{Source, candidates},
};

/// Why a message holds no verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// The answer hit its length limit before a whole verdict stood there.
    Truncated,
    /// The judge, or a filter in front of it, declined.
    Refused,
    /// What is wrong, in words a judge can act on when it is asked again; none of its own text.
    Unreadable(String),
}

/// How far into an answer a refusal says so.
const REFUSAL_CHARS: usize = 200;

/// Reads the verdict that a message holds, in time linear in the message's length.
///
/// # Errors
/// See [`Unread`]. A message that was cut off is only read up to a whole value, and never in its thinking.
pub(super) fn verdict<V: Verdict>(message: &Message) -> Result<V, Unread> {
    let has_refusal = message.refusal.as_deref().is_some_and(|refusal| !refusal.trim().is_empty());
    if has_refusal || message.finish == Finish::ContentFilter {
        return Err(Unread::Refused);
    }
    let form = Form::of::<V>();
    let was_cut = message.finish == Finish::Length;
    let content = message.content.as_deref().unwrap_or_default();
    let answer = think::without_thinking(content);
    // What stands in front of thinking that never ended may stop in the middle.
    let in_content = Source { text: &answer.text, may_close: !was_cut && !answer.is_open };
    let in_tool = Source { text: message.tool_arguments.as_deref().unwrap_or_default(), may_close: !was_cut };

    let mut trouble = Trouble::default();
    for source in [in_content, in_tool] {
        if let Some(verdict) = trouble.note(read(source, form)) {
            return Ok(verdict);
        }
    }
    if was_cut {
        return Err(Unread::Truncated);
    }
    if !trouble.saw_json && is_refusal(&answer.text) {
        return Err(Unread::Refused);
    }
    let whole = if answer.is_part { content } else { "" };
    for text in [whole, message.reasoning.as_deref().unwrap_or_default()] {
        if let Some(verdict) = trouble.note(read(Source { text, may_close: false }, form)) {
            return Ok(verdict);
        }
    }
    Err(Unread::Unreadable(trouble.what()))
}

/// What was found where no verdict was.
#[derive(Default)]
struct Trouble {
    saw_json: bool,
    saw_text: bool,
    misfit: Option<String>,
}

enum Read<V> {
    Verdict(V),
    Misfit(String),
    NoJson,
    NoText,
}

impl Trouble {
    /// The first misfit is kept: it is from where an answer belongs.
    fn note<V>(&mut self, read: Read<V>) -> Option<V> {
        self.saw_text |= !matches!(read, Read::NoText);
        match read {
            Read::Verdict(verdict) => return Some(verdict),
            Read::Misfit(what) => {
                self.saw_json = true;
                self.misfit.get_or_insert(what);
            }
            Read::NoJson | Read::NoText => {}
        }
        None
    }

    fn what(self) -> String {
        let without_json = if self.saw_text { "it holds no JSON value" } else { "it is empty" };
        self.misfit.unwrap_or_else(|| without_json.to_owned())
    }
}

fn read<V: Verdict>(source: Source, form: Form) -> Read<V> {
    if source.text.trim().is_empty() {
        return Read::NoText;
    }
    // Some endpoints encode the answer once more, as a JSON string.
    if let Ok(text) = serde_json::from_str::<String>(source.text) {
        return read(Source { text: &text, ..source }, form);
    }
    let mut misfit = None;
    for quotes in [mend::Quotes::Strict, mend::Quotes::Loose] {
        for json in candidates(source, quotes) {
            match fit::read(&json, form) {
                Ok(verdict) => return Read::Verdict(verdict),
                Err(what) => misfit = misfit.or(Some(what)),
            }
        }
    }
    misfit.map_or(Read::NoJson, Read::Misfit)
}

/// Prose that declines, in the words that models use for it.
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
