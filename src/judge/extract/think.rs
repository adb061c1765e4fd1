//! A model's thinking is not its answer (pure).

use serde::de::IgnoredAny;

const OPENING: [&str; 3] = ["<think>", "<thinking>", "<thought>"];
const CLOSING: [&str; 3] = ["</think>", "</thinking>", "</thought>"];

/// Text with the thinking taken out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub text: String,
    /// Whether a tag was found, so that `text` is less than the whole.
    pub is_part: bool,
    /// Whether thinking that never ended hides the rest.
    pub is_open: bool,
}

/// Takes out `<think>...</think>`, several and nested. Of a closing tag without an opening one, all before it is
/// thinking; of an opening tag without a closing one, all after it is. In text that is JSON, tags are text.
pub(super) fn without_thinking(text: &str) -> Answer {
    if !text.contains('<') || serde_json::from_str::<IgnoredAny>(text).is_ok() {
        return Answer { text: text.to_owned(), is_part: false, is_open: false };
    }
    let (mut kept, mut depth, mut from, mut is_part) = (String::new(), 0_usize, 0, false);
    for (at, _) in text.match_indices('<') {
        let rest = &text[at..];
        if let Some(tag) = starts_with_any(rest, &OPENING) {
            if depth == 0 {
                kept.push_str(&text[from..at]);
            }
            (depth, from, is_part) = (depth + 1, at + tag, true);
        } else if let Some(tag) = starts_with_any(rest, &CLOSING) {
            if depth == 0 {
                kept.clear();
            }
            (depth, from, is_part) = (depth.saturating_sub(1), at + tag, true);
        }
    }
    if depth == 0 {
        kept.push_str(&text[from..]);
    }
    Answer { text: kept, is_part, is_open: depth > 0 }
}

/// Tags come in any case.
fn starts_with_any(text: &str, tags: &[&str]) -> Option<usize> {
    let starts = |tag: &&&str| text.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag));
    tags.iter().find(starts).map(|tag| tag.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, kept: &str, is_open: bool) {
        let is_part = text != kept;
        assert_eq!(without_thinking(text), Answer { text: kept.to_owned(), is_part, is_open }, "{text}");
    }

    #[test]
    fn thinking_is_taken_out_in_every_form() {
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
    fn an_opening_tag_more_than_closing_ones_leaves_it_open() {
        check("<think>a<think>b</think>answer", "", true);
    }
}
