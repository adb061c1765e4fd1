//! Removes a model's thinking from its answer (pure).

use serde::de::IgnoredAny;

const OPENING: [&str; 3] = ["<think>", "<thinking>", "<thought>"];
const CLOSING: [&str; 3] = ["</think>", "</thinking>", "</thought>"];

/// Answer without the thinking.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AnswerText {
    pub text: String,
    /// Whether a tag was found, so that `text` is only a part of the answer.
    pub had_tags: bool,
    /// Whether a thinking tag is not closed, so that the rest of the answer is missing from `text`.
    pub is_unclosed: bool,
}

/// Removes all `<think>...</think>`, also nested ones. Text before a closing tag without an opening one is thinking, and
/// so is text after an opening tag without a closing one. If the whole text is JSON, tags are kept as text.
pub(super) fn without_thinking(text: &str) -> AnswerText {
    if !text.contains('<') || serde_json::from_str::<IgnoredAny>(text).is_ok() {
        return AnswerText { text: text.to_owned(), had_tags: false, is_unclosed: false };
    }
    let (mut kept, mut depth, mut from, mut had_tags) = (String::new(), 0_usize, 0, false);
    for (at, _) in text.match_indices('<') {
        let rest = &text[at..];
        if let Some(tag) = starts_with_any(rest, &OPENING) {
            if depth == 0 {
                kept.push_str(&text[from..at]);
            }
            (depth, from, had_tags) = (depth + 1, at + tag, true);
        } else if let Some(tag) = starts_with_any(rest, &CLOSING) {
            if depth == 0 {
                kept.clear();
            }
            (depth, from, had_tags) = (depth.saturating_sub(1), at + tag, true);
        }
    }
    if depth == 0 {
        kept.push_str(&text[from..]);
    }
    AnswerText { text: kept, had_tags, is_unclosed: depth > 0 }
}

/// Length of the tag at the start of `text`, ignoring case.
fn starts_with_any(text: &str, tags: &[&str]) -> Option<usize> {
    let starts = |tag: &&&str| text.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag));
    tags.iter().find(starts).map(|tag| tag.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, kept: &str, is_unclosed: bool) {
        let had_tags = text != kept;
        assert_eq!(
            without_thinking(text),
            AnswerText { text: kept.to_owned(), had_tags, is_unclosed },
            "{text}"
        );
    }

    #[test]
    fn thinking_is_removed_in_every_form() {
        check("answer", "answer", false);
        check("<think>a</think>answer", "answer", false);
        check("<THINK>a</Think>answer", "answer", false);
        check("a</think>answer", "answer", false);
        check("<think>a", "", true);
        check("answer<think>a", "answer", true);
        check("<think>a<think>b</think>c</think>answer", "answer", false);
        check("<think>a</think>one<think>b</think>two", "onetwo", false);
        check("a</think>b</think>answer", "answer", false);
        check("<thinking>a</thinking>答案", "答案", false);
        check(r#"["<think>a</think>b"]"#, r#"["<think>a</think>b"]"#, false);
        check("1 < 2 and 2 <= 3 <", "1 < 2 and 2 <= 3 <", false);
    }

    #[test]
    fn an_unmatched_opening_tag_hides_the_rest() {
        check("<think>a<think>b</think>answer", "", true);
    }
}
