use std::ops::Range;
use unicode_normalization::char::is_combining_mark;
use unicode_segmentation::UnicodeSegmentation;

/// The number of marks and spaces that are examined at either end of a long run.
const KEPT: usize = 32;

/// The ends of sentences by UAX 29, in order.
///
/// The segmenter looks ahead from each mark and each space behind a full stop, so a run of n of them would take n² steps.
/// It is shown both ends of a run of more than 64; an end between them moves behind what it is not shown.
pub(super) fn ends(text: &str) -> Vec<usize> {
    let hidden = hidden(text);
    let of = |text: &str| -> Vec<usize> {
        text.split_sentence_bound_indices().map(|(at, part)| at + part.len()).collect()
    };
    if hidden.is_empty() {
        return of(text);
    }
    let (mut shown, mut from) = (String::with_capacity(text.len()), 0);
    let (mut missing, mut cuts) = (0, Vec::with_capacity(hidden.len()));
    for range in hidden {
        shown.push_str(&text[from..range.start]);
        missing += range.len();
        cuts.push((shown.len(), missing));
        from = range.end;
    }
    shown.push_str(&text[from..]);
    let mut cuts = cuts.into_iter().peekable();
    let mut missing = 0;
    let whole = |end: usize| {
        while let Some((_, before)) = cuts.next_if(|(cut, _)| *cut <= end) {
            missing = before;
        }
        end + missing
    };
    of(&shown).into_iter().map(whole).collect()
}

/// The middles of long runs of marks and spaces.
fn hidden(text: &str) -> Vec<Range<usize>> {
    let middle = |run: &[usize]| (run.len() > 2 * KEPT).then(|| run[KEPT]..run[run.len() - KEPT]);
    let (mut found, mut run) = (Vec::new(), Vec::new());
    for (at, c) in text.char_indices() {
        if is_in_run(c) {
            run.push(at);
        } else {
            found.extend(middle(&run));
            run.clear();
        }
    }
    found.extend(middle(&run));
    found
}

/// Returns whether `c` can stand between the end of a sentence and the next one: no letter, digit, line break or other end.
fn is_in_run(c: char) -> bool {
    let is_mark_of_letter = is_combining_mark(c) || matches!(c, '\u{ff9e}' | '\u{ff9f}');
    let is_break = matches!(c, '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let is_end = matches!(
        c,
        '.' | '!'
            | '?'
            | '。'
            | '！'
            | '？'
            | '．'
            | '｡'
            | '؟'
            | '۔'
            | '।'
            | '॥'
            | '‼'
            | '⁇'
            | '⁈'
            | '⁉'
    );
    is_mark_of_letter || !(c.is_alphanumeric() || is_break || is_end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_runs_are_split_as_they_are_and_long_ones_once() {
        let plain = "One. (Two) “Three.”  Four: five. ";
        let expected: Vec<usize> =
            plain.split_sentence_bound_indices().map(|(at, part)| at + part.len()).collect();
        assert_eq!(ends(plain), expected);
        for filler in [" ", ")", "-", "🎉", " \u{301}", "\u{301}"] {
            let run = filler.repeat(1000);
            let text = format!("One.{run}Two. Three.");
            assert_eq!(ends(&text).last(), Some(&text.len()), "{filler:?}");
            assert!(ends(&text).iter().all(|end| text.is_char_boundary(*end)), "{filler:?}");
        }
        let spaces = " ".repeat(1000);
        assert_eq!(ends(&format!("One.{spaces}Two.")), [1004, 1008]);
    }
}
