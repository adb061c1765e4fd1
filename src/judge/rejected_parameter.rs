//! Finds the parameter that a rejection names (pure).

use super::{
    capability::{Degradation, SentFeatures, Structured, TokenLimitParameter},
    wire::ErrorDetails,
};

/// Parameter of the request that the error is about.
pub(super) fn named(sent: &SentFeatures, details: &ErrorDetails) -> Option<Degradation> {
    let in_request = candidates(sent);
    let param = details.param.as_deref().unwrap_or_default();
    // `response_format.json_schema` or `tools[0].function`
    let root = param.split(['.', '[']).next().unwrap_or_default();
    let by_param = in_request.iter().find(|(_, words)| words.contains(&root));
    let by_message = || {
        let text = details.message.to_ascii_lowercase();
        let at = |words: &[&str]| words.iter().filter_map(|word| position(&text, word)).min();
        in_request
            .iter()
            .filter_map(|(degradation, words)| Some((at(words)?, degradation)))
            .min_by_key(|(at, _)| *at)
    };
    by_param
        .map(|(degradation, _)| *degradation)
        .or_else(|| by_message().map(|(_, degradation)| *degradation))
}

fn candidates(sent: &SentFeatures) -> Vec<(Degradation, &'static [&'static str])> {
    let SentFeatures { features, seed, multiple_choices } = sent;
    let mut candidates: Vec<(Degradation, &'static [&'static str])> = Vec::new();
    if features.structured != Structured::Text {
        candidates.push((Degradation::Structured, words(features.structured)));
    }
    match features.token_limit {
        TokenLimitParameter::MaxTokens => candidates.push((Degradation::TokenLimit, &["max_tokens"])),
        TokenLimitParameter::MaxCompletionTokens => {
            candidates.push((Degradation::TokenLimit, &["max_completion_tokens"]))
        }
        TokenLimitParameter::Unset => {}
    }
    if features.temperature {
        candidates.push((Degradation::Temperature, &["temperature"]));
    }
    if *seed {
        candidates.push((Degradation::Seed, &["seed"]));
    }
    if *multiple_choices {
        candidates.push((Degradation::MultipleChoices, &["n"]));
    }
    candidates
}

/// Whether the prompt exceeds the context. Such errors name `max_tokens`, but no parameter is at fault.
pub(super) fn is_too_long(details: &ErrorDetails) -> bool {
    let text = details.message.to_ascii_lowercase();
    details.code.contains("context_length_exceeded")
        || ["context length", "context window", "context size", "context_length"]
            .iter()
            .any(|words| text.contains(words))
}

/// Position of `word` in `text` as a whole word. The name `n` also needs a context that marks it as a name.
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

/// Words by which error messages name a mode.
fn words(mode: Structured) -> &'static [&'static str] {
    match mode {
        Structured::JsonSchema => &["response_format", "json_schema", "guided_json", "structured", "schema"],
        Structured::JsonObject => &["response_format", "json_object"],
        Structured::Tools => &["tools", "tool_choice", "tool", "function", "functions"],
        Structured::Text => &[],
    }
}
