use super::language::is_han;
use std::ops::Range;

mod bounds;

/// Full stops after these don't end a sentence.
const TITLES: [&str; 17] = [
    "dr", "mr", "mrs", "ms", "prof", "rev", "gen", "sen", "rep", "st", "vs", "e.g", "i.e", "cf", "viz",
    "approx", "dept",
];

/// Nor do they after these when a number follows.
const NUMBERED: [&str; 11] = ["no", "nos", "fig", "figs", "sec", "eq", "p", "pp", "vol", "ch", "art"];

/// Splits a text into sentences: byte ranges of `text`, in order, without white space at their ends.
///
/// Boundaries are those of UAX 29, which end sentences after 。！？ too; besides, ； ends one, … ends one in Chinese
/// text, and so does every line break. Closing quotes and brackets stay with the sentence before them, opening ones go
/// with the sentence after. Numbers, initials and common abbreviations (Dr., e.g., Fig. 3) don't end a sentence.
/// Whatever isn't white space is in exactly one range.
pub fn sentences(text: &str) -> Vec<Range<usize>> {
    let mut ends: Vec<usize> = bounds::ends(text).into_iter().map(|end| before_openers(text, end)).collect();
    ends.extend(chinese_ends(text));
    ends.push(text.len());
    ends.sort_unstable();
    ends.dedup();
    let mut start = 0;
    let mut found = Vec::new();
    for end in ends {
        if end < text.len() && is_inside(&text[start..end], &text[end..]) {
            continue;
        }
        found.extend(trimmed(text, start..end));
        start = end;
    }
    found
}

/// Ends after ； and after … that follows Han, with the marks and closing quotes behind them.
fn chinese_ends(text: &str) -> impl Iterator<Item = usize> + '_ {
    let (mut previous, mut end) = (' ', 0);
    text.char_indices().filter_map(move |(at, c)| {
        let ends = at >= end && (c == '；' || (c == '…' && is_han(previous)));
        previous = c;
        if ends {
            end = text.len() - text[at..].trim_start_matches(is_end).trim_start_matches(is_closer).len();
        }
        ends.then_some(end)
    })
}

/// UAX 29 leaves opening quotes with the sentence before them; they belong to the next.
fn before_openers(text: &str, end: usize) -> usize {
    if end == text.len() { end } else { text[..end].trim_end_matches(is_opener).len() }
}

fn is_end(c: char) -> bool {
    matches!(c, '；' | '…' | '。' | '！' | '？' | '!' | '?')
}

fn is_opener(c: char) -> bool {
    matches!(c, '“' | '‘' | '「' | '『' | '《' | '〈' | '（' | '【' | '(' | '[' | '{')
}

fn is_closer(c: char) -> bool {
    matches!(c, '”' | '’' | '」' | '』' | '》' | '〉' | '）' | '】' | ')' | ']' | '}' | '"' | '\'')
}

/// Whether a boundary between the two only follows an abbreviation, an initial or the number of a list, or is in the
/// middle of an address.
fn is_inside(before: &str, after: &str) -> bool {
    if before.ends_with(['.', '?', '!']) && after.starts_with(|c: char| c.is_alphanumeric() && !is_han(c)) {
        return true;
    }
    let line = before.trim_end_matches([' ', '\t', '\u{a0}']);
    let Some(stem) = line.strip_suffix('.') else { return false };
    let words = stem.rsplit(|c: char| c.is_whitespace() || is_opener(c));
    let last = words.into_iter().next().unwrap_or_default();
    let word = last.to_lowercase();
    // The white space around is gone through only where the word asks for it, as it may be long.
    let is_number_next = || after.trim_start().starts_with(|c: char| c.is_numeric());
    let is_number = !last.is_empty() && last.bytes().all(|c| c.is_ascii_digit());
    let is_initial = last.chars().nth(1).is_none() && last.chars().all(char::is_uppercase) && last != "I";
    TITLES.contains(&&*word)
        || (NUMBERED.contains(&&*word) && is_number_next())
        || (is_number && last.len() == stem.trim_start().len())
        || (!last.is_empty() && is_initial)
}

fn trimmed(text: &str, range: Range<usize>) -> Option<Range<usize>> {
    let part = &text[range.clone()];
    let start = range.start + (part.len() - part.trim_start().len());
    let end = range.start + part.trim_end().len();
    (start < end).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, expected: &[&str]) {
        let found: Vec<&str> = sentences(text).into_iter().map(|range| &text[range]).collect();
        assert_eq!(found, expected, "{text:?}");
    }

    #[test]
    fn a_long_text_of_any_shape_takes_no_more_than_its_length() {
        // As many as one text may have. Quadratic steps take more than a minute for some of them.
        const BYTES: usize = 128 << 10;
        let begun = std::time::Instant::now();
        for unit in [
            "(", ")", " ", " \u{301}", "\u{301}", "”", "“", "…", "；", "1", ". ", ".(", "A. ", "1. ", "\n",
            "。”",
        ] {
            for start in [".", "字.", " ", ""] {
                let text = format!("{start}{}", unit.repeat(BYTES / unit.len()));
                let found = sentences(&text);
                let kept: usize = found
                    .iter()
                    .map(|range| text[range.clone()].split_whitespace().map(str::len).sum::<usize>())
                    .sum();
                assert_eq!(kept, text.split_whitespace().map(str::len).sum::<usize>(), "{start:?} {unit:?}");
            }
            let initials = format!("{}{}", " ".repeat(BYTES / 2), unit.repeat(BYTES / 2 / unit.len()));
            sentences(&initials);
        }
        assert!(begun.elapsed().as_secs() < 30, "{:?}", begun.elapsed());
    }

    #[test]
    fn english_sentences_end_at_their_marks() {
        check("One. Two! Three?", &["One.", "Two!", "Three?"]);
        check("He left. \"I know,\" she said.", &["He left.", "\"I know,\" she said."]);
        check("She said “Stop.” Then (later) he did.", &["She said “Stop.”", "Then (later) he did."]);
        check("Is it?! Yes... perhaps.", &["Is it?!", "Yes... perhaps."]);
        check("Well… maybe", &["Well… maybe"]);
        check("one line\nanother\r\n\r\nthird", &["one line", "another", "third"]);
    }

    #[test]
    fn numbers_initials_and_abbreviations_end_none() {
        check("Pi is 3.14159. Half is 1.57.", &["Pi is 3.14159.", "Half is 1.57."]);
        check("Dr. Smith met Mr. J. R. Jones.", &["Dr. Smith met Mr. J. R. Jones."]);
        check("Use fruit, e.g. Apples, i.e. Food.", &["Use fruit, e.g. Apples, i.e. Food."]);
        check("See Fig. 3 on p. 12. No. That is wrong.", &["See Fig. 3 on p. 12.", "No.", "That is wrong."]);
        check("1. Boil water.\n2. Add tea.", &["1. Boil water.", "2. Add tea."]);
        check(
            "It costs $1,000.50 at https://a.example/x?y=1.2 today.",
            &["It costs $1,000.50 at https://a.example/x?y=1.2 today."],
        );
        check("So did I. They left.", &["So did I.", "They left."]);
    }

    #[test]
    fn chinese_sentences_end_at_their_marks_and_keep_their_quotes() {
        check("你好。再见！真的？是；否。", &["你好。", "再见！", "真的？", "是；", "否。"]);
        check("他说：“你好。”然后走了。", &["他说：“你好。”", "然后走了。"]);
        check("他走了。“我知道。”她说。", &["他走了。", "“我知道。”", "她说。"]);
        check("她問：「好嗎？」『好！』他答。", &["她問：「好嗎？」", "『好！』", "他答。"]);
        check("我想……算了。真的？！是的", &["我想……", "算了。", "真的？！", "是的"]);
        check("圆周率是3.14。约等于22/7", &["圆周率是3.14。", "约等于22/7"]);
        check("第一行\n第二行", &["第一行", "第二行"]);
        check("GPT-4 很强。It is.", &["GPT-4 很强。", "It is."]);
    }

    #[test]
    fn a_text_without_content_has_no_sentence() {
        check("", &[]);
        check(" \n\t　", &[]);
    }

    proptest! {
        #[test]
        fn only_white_space_is_outside_the_sentences(text in "[a-zA-Z. \n。；…”“「」!?1-3你好Dr\u{301}🎉]{0,60}|\\PC{0,40}") {
            let ranges = sentences(&text);
            let mut at = 0;
            for range in ranges.into_iter().chain(std::iter::once(text.len()..text.len())) {
                prop_assert!(text[at..range.start].trim().is_empty());
                prop_assert_eq!(text[range.clone()].trim(), &text[range.clone()]);
                at = range.end;
            }
        }
    }
}
