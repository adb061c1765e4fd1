//! What a complaint names, of the things that a request carried (pure).

use super::{Sent, Step, Structured, TokenLimit};
use crate::judge::wire::Complaint;

/// The parameter of the request that the complaint is about.
pub(super) fn named(sent: &Sent, complaint: &Complaint) -> Option<Step> {
    let in_request = candidates(sent);
    let param = complaint.param.as_deref().unwrap_or_default();
    // `response_format.json_schema` or `tools[0].function`
    let root = param.split(['.', '[']).next().unwrap_or_default();
    let by_param = in_request.iter().find(|(_, words)| words.contains(&root));
    let by_message = || {
        let text = complaint.message.to_ascii_lowercase();
        let at = |words: &[&str]| words.iter().filter_map(|word| position(&text, word)).min();
        in_request.iter().filter_map(|(step, words)| Some((at(words)?, step))).min_by_key(|(at, _)| *at)
    };
    by_param.map(|(step, _)| *step).or_else(|| by_message().map(|(_, step)| *step))
}

fn candidates(sent: &Sent) -> Vec<(Step, &'static [&'static str])> {
    let Sent { features, seed, many } = sent;
    let mut candidates: Vec<(Step, &'static [&'static str])> = Vec::new();
    if features.structured != Structured::Text {
        candidates.push((Step::Structured, words(features.structured)));
    }
    match features.token_limit {
        TokenLimit::MaxTokens => candidates.push((Step::TokenLimit, &["max_tokens"])),
        TokenLimit::MaxCompletionTokens => candidates.push((Step::TokenLimit, &["max_completion_tokens"])),
        TokenLimit::Unset => {}
    }
    if features.temperature {
        candidates.push((Step::Temperature, &["temperature"]));
    }
    if *seed {
        candidates.push((Step::Seed, &["seed"]));
    }
    if *many {
        candidates.push((Step::Many, &["n"]));
    }
    candidates
}

/// A prompt that does not fit is no matter of parameters, though such complaints name `max_tokens`.
pub(super) fn is_too_long(complaint: &Complaint) -> bool {
    let text = complaint.message.to_ascii_lowercase();
    complaint.code.contains("context_length_exceeded")
        || ["context length", "context window", "context size", "context_length"]
            .iter()
            .any(|words| text.contains(words))
}

/// Where `word` stands in `text` as a word. The name `n` is a word too short to be one on its own.
fn position(text: &str, word: &str) -> Option<usize> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(word).map(|(at, _)| at).find(|at| {
        let before = text[..*at].chars().next_back();
        let rest = &text[at + word.len()..];
        let alone = !before.is_some_and(is_part) && !rest.chars().next().is_some_and(is_part);
        alone && (word.len() > 1 || is_name(&text[..*at], rest))
    })
}

/// 'n', `n`, "n", n=, n >, parameter n, n must be, n is not
fn is_name(before: &str, rest: &str) -> bool {
    let quoted = before.ends_with(['\'', '"', '`']) && rest.starts_with(['\'', '"', '`']);
    let before = before.trim_end().trim_end_matches([':', '=']);
    let rest = rest.trim_start();
    let compared = rest.starts_with(['=', '>', '<']);
    let described =
        ["must", "is not", "should", "cannot", "greater"].iter().any(|word| rest.starts_with(word));
    let announced = ["parameter", "argument", "field", "option"].iter().any(|word| before.ends_with(word));
    quoted || compared || described || announced
}

/// Words by which an endpoint may name a mode.
fn words(mode: Structured) -> &'static [&'static str] {
    match mode {
        Structured::JsonSchema => &["response_format", "json_schema", "guided_json", "structured", "schema"],
        Structured::JsonObject => &["response_format", "json_object"],
        Structured::Tools => &["tools", "tool_choice", "tool", "function", "functions"],
        Structured::Text => &[],
    }
}
