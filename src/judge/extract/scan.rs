//! The JSON values in a text (pure).

use super::mend::{Mended, Quotes, mend, opens};

/// Bytes read for each byte of text before a text counts as hostile: nothing in it is trusted then.
const EFFORT: usize = 16;
/// Short texts may need more.
const LEAST_EFFORT: usize = 64 << 10;

#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub text: &'a str,
    /// Whether brackets that are missing at the end may be added.
    pub may_close: bool,
}

/// The outermost values, mended, the last one first.
pub(super) fn candidates(source: Source<'_>, quotes: Quotes) -> impl Iterator<Item = String> {
    let (starts, closed) = find(source, quotes);
    let whole = starts.into_iter().rev().filter_map(move |start| match mend(source.text, start, quotes) {
        Mended::Whole { json, .. } => Some(json),
        Mended::Open { .. } | Mended::Broken { .. } => None,
    });
    closed.into_iter().chain(whole)
}

/// Where values start, and the last one if it lacks brackets only.
///
/// A value that the text's end cuts off ends the search: what is inside of it is no answer.
fn find(source: Source<'_>, quotes: Quotes) -> (Vec<usize>, Option<String>) {
    let text = source.text;
    let (mut starts, mut at, mut effort) = (Vec::new(), 0, EFFORT * text.len() + LEAST_EFFORT);
    while let Some(start) = text[at..].find(opens).map(|found| at + found) {
        let after_bracket = start + text[start..].chars().next().map_or(1, char::len_utf8);
        let read_to;
        (at, read_to) = match mend(text, start, quotes) {
            Mended::Whole { end, .. } => {
                starts.push(start);
                (end, end)
            }
            Mended::Open { closed, is_json: true } => {
                return (starts, closed.filter(|_| source.may_close));
            }
            Mended::Open { is_json: false, .. } => (after_bracket, text.len()),
            Mended::Broken { at, is_json: true } => (at, at),
            Mended::Broken { at, is_json: false } => (after_bracket, at),
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
        let source = Source { text, may_close: false };
        assert_eq!(candidates(source, Quotes::Strict).collect::<Vec<_>>(), expected, "{text}");
    }

    #[test]
    fn the_last_comes_first_and_prose_is_none() {
        check(r#"{"a": 1} and {"b": 2}"#, &[r#"{"b":2}"#, r#"{"a":1}"#]);
        check(r#"the set {x, y} [see 1] {"b": "{"} }"#, &[r#"{"b":"{"}"#]);
        check("```json\n{\"a\": 1}\n```", &[r#"{"a":1}"#]);
        check(r#"{"a": {"b": 1}}"#, &[r#"{"a":{"b":1}}"#]);
        check(r#"a "quote with { in it {"a": 1}"#, &[r#"{"a":1}"#]);
        check("none", &[]);
    }

    #[test]
    fn nothing_inside_of_a_value_that_was_cut_off_counts() {
        check(r#"{"a": 1} {"verdicts": [{"b": 2}, {"b""#, &[r#"{"a":1}"#]);
    }

    #[test]
    fn missing_brackets_are_added_only_where_it_is_allowed() {
        let text = r#"{"verdicts": [{"b": 2}"#;
        let found = |may_close| candidates(Source { text, may_close }, Quotes::Strict).collect::<Vec<_>>();
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
                let found = candidates(Source { text: &text, may_close: true }, quotes).count();
                assert!(found <= text.len() / piece.len(), "{piece}");
            }
        }
    }
}
