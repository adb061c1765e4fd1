//! Finds the JSON values in a text (pure).

use super::repair::{Quotes, Repaired, repair, starts_value};

/// Maximum bytes parsed per byte of text. Text that needs more is hostile and yields no value.
const EFFORT_PER_BYTE: usize = 16;
/// Minimum of that limit, for short texts.
const MIN_EFFORT: usize = 64 << 10;

/// Text to search for JSON values.
#[derive(Clone, Copy)]
pub(super) struct ScannedText<'a> {
    pub text: &'a str,
    /// Whether brackets that are missing at the end are added.
    pub allow_unclosed: bool,
}

/// Outermost values, repaired, in reverse order.
pub(super) fn candidates(source: ScannedText<'_>, quotes: Quotes) -> impl Iterator<Item = String> {
    let (starts, closed) = find(source, quotes);
    let whole = starts.into_iter().rev().filter_map(move |start| match repair(source.text, start, quotes) {
        Repaired::Complete { json, .. } => Some(json),
        Repaired::Unclosed { .. } | Repaired::Invalid { .. } => None,
    });
    closed.into_iter().chain(whole)
}

/// Positions where values start, and the last value if only its brackets are missing.
///
/// A value that is truncated by the end of the text ends the search: values inside it are not answers.
fn find(source: ScannedText<'_>, quotes: Quotes) -> (Vec<usize>, Option<String>) {
    let text = source.text;
    let (mut starts, mut at, mut effort) = (Vec::new(), 0, EFFORT_PER_BYTE * text.len() + MIN_EFFORT);
    while let Some(start) = text[at..].find(starts_value).map(|found| at + found) {
        let after_bracket = start + text[start..].chars().next().map_or(1, char::len_utf8);
        let read_to;
        (at, read_to) = match repair(text, start, quotes) {
            Repaired::Complete { end, .. } => {
                starts.push(start);
                (end, end)
            }
            Repaired::Unclosed { closed, is_json: true } => {
                return (starts, closed.filter(|_| source.allow_unclosed));
            }
            Repaired::Unclosed { is_json: false, .. } => (after_bracket, text.len()),
            Repaired::Invalid { at, is_json: true } => (at, at),
            Repaired::Invalid { at, is_json: false } => (after_bracket, at),
        };
        match effort.checked_sub(read_to - start) {
            Some(left) => effort = left,
            None => return (Vec::new(), None),
        }
    }
    (starts, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        let source = ScannedText { text, allow_unclosed: false };
        assert_eq!(candidates(source, Quotes::Strict).collect::<Vec<_>>(), expected, "{text}");
    }

    #[test]
    fn values_are_found_in_reverse_order_and_prose_is_skipped() {
        check(r#"{"a": 1} and {"b": 2}"#, &[r#"{"b":2}"#, r#"{"a":1}"#]);
        check(r#"the set {x, y} [see 1] {"b": "{"} }"#, &[r#"{"b":"{"}"#]);
        check("```json\n{\"a\": 1}\n```", &[r#"{"a":1}"#]);
        check(r#"{"a": {"b": 1}}"#, &[r#"{"a":{"b":1}}"#]);
        check(r#"a "quote with { in it {"a": 1}"#, &[r#"{"a":1}"#]);
        check("none", &[]);
    }

    #[test]
    fn values_inside_a_truncated_value_are_ignored() {
        check(r#"{"a": 1} {"verdicts": [{"b": 2}, {"b""#, &[r#"{"a":1}"#]);
    }

    #[test]
    fn missing_brackets_are_added_only_if_allowed() {
        let text = r#"{"verdicts": [{"b": 2}"#;
        let found = |allow_unclosed| {
            candidates(ScannedText { text, allow_unclosed }, Quotes::Strict).collect::<Vec<_>>()
        };
        assert_eq!(found(true), [r#"{"verdicts":[{"b":2}]}"#]);
        assert!(found(false).is_empty());
    }

    #[test]
    fn hostile_text_takes_linear_time() {
        for piece in [
            "{'", "{\"", "['", "[\"", "{", "[", "{\"a\":", "[1,", "{'a':'", "[{},", "“{“", "[\"[\",", "[\\\"",
        ] {
            let text = piece.repeat(1_000_000 / piece.len());
            for quotes in [Quotes::Strict, Quotes::Loose] {
                let found = candidates(ScannedText { text: &text, allow_unclosed: true }, quotes).count();
                assert!(found <= text.len() / piece.len(), "{piece}");
            }
        }
    }
}
