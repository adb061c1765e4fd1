use caseless::Caseless;
use std::{cell::OnceCell, ops::Range};
use unicode_normalization::char::{canonical_combining_class, decompose_canonical, decompose_compatible};

/// The maximum number of candidate positions that match only part of a character before the search gives up.
const PLACES: usize = 64;

/// Finds a quote in the text that it is said to come from: the byte range of `source` that reads the same.
///
/// The quote as it stands comes first; then both sides are compared with compatibility characters, case and white
/// space folded, and the first place wins where whole characters of the source match. The range found is never blank
/// and `normalize` makes it equal to the quote. A blank quote is nowhere.
pub fn locate(quote: &str, source: &str) -> Option<Range<usize>> {
    Haystack::new(source).locate(quote)
}

/// A text in which many quotes are looked for: it is folded once, when the first quote does not stand in it as it is.
pub struct Haystack<'a> {
    text: &'a str,
    folded: OnceCell<Folded>,
}

impl<'a> Haystack<'a> {
    /// Normalizes `text` once for any number of searches.
    pub fn new(text: &'a str) -> Haystack<'a> {
        Haystack { text, folded: OnceCell::new() }
    }

    /// The original text.
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// As [`locate`].
    pub fn locate(&self, quote: &str) -> Option<Range<usize>> {
        let quote = quote.trim();
        let sought = Folded::new(quote);
        if sought.text.is_empty() {
            return None;
        }
        if let Some(start) = self.text.find(quote) {
            return Some(start..start + quote.len());
        }
        let reads_the_same = |range: &Range<usize>| {
            self.text.get(range.clone()).is_some_and(|found| Folded::new(found).text == sought.text)
        };
        let folded = self.folded.get_or_init(|| Folded::new(self.text));
        folded.places(&sought.text).take(PLACES).find(reads_the_same)
    }
}

/// The same range counted in code points.
///
/// # Panics
/// If the range isn't one of `source` on character boundaries.
pub fn code_points(source: &str, bytes: Range<usize>) -> Range<usize> {
    let start = source[..bytes.start].chars().count();
    start..start + source[bytes].chars().count()
}

/// One character of the folded text and the bytes of the source that it came from.
#[derive(Clone)]
struct TextUnit {
    char: char,
    source: Range<usize>,
}

impl TextUnit {
    fn with(&self, char: char) -> TextUnit {
        TextUnit { char, source: self.source.clone() }
    }
}

/// A text as `normalize` makes it but fully decomposed, so that each character knows where it came from.
struct Folded {
    text: String,
    /// The offset in `text` at which each unit begins.
    starts: Vec<usize>,
    units: Vec<TextUnit>,
}

impl Folded {
    fn new(source: &str) -> Folded {
        let chars = source.char_indices();
        let whole = chars.map(|(at, char)| TextUnit { char, source: at..at + char.len_utf8() }).collect();
        let units = in_canonical_order(each_char(whole, |c, emit| decompose_canonical(c, emit)));
        let units = each_char(units, fold_case);
        let units = in_canonical_order(each_char(units, |c, emit| decompose_compatible(c, emit)));
        let units = each_char(units, fold_case);
        let units = in_canonical_order(each_char(units, |c, emit| decompose_compatible(c, emit)));
        let units = fold_white_space(units);
        let mut text = String::with_capacity(units.len());
        let mut starts = Vec::with_capacity(units.len());
        for unit in &units {
            starts.push(text.len());
            text.push(unit.char);
        }
        Folded { text, starts, units }
    }

    /// Ranges of the source that hold the sought text and begin and end with it.
    fn places<'a>(&'a self, sought: &'a str) -> impl Iterator<Item = Range<usize>> + 'a {
        let mut from = 0;
        std::iter::from_fn(move || {
            let at = from + self.text.get(from..)?.find(sought)?;
            let first = self.starts.binary_search(&at).ok()?;
            let last = first + sought.chars().count();
            from = self.starts.get(first + 1).copied().unwrap_or(self.text.len());
            Some(self.source_of(first..last))
        })
    }

    /// The bytes of the source that these units came from. Marks may have changed places, so all are asked.
    fn source_of(&self, units: Range<usize>) -> Range<usize> {
        let units = &self.units[units];
        let start = units.iter().map(|unit| unit.source.start).min().unwrap_or(0);
        let end = units.iter().map(|unit| unit.source.end).max().unwrap_or(0);
        start..end
    }
}

fn each_char(units: Vec<TextUnit>, step: impl Fn(char, &mut dyn FnMut(char))) -> Vec<TextUnit> {
    let mut changed = Vec::with_capacity(units.len());
    for unit in units {
        step(unit.char, &mut |c| changed.push(unit.with(c)));
    }
    changed
}

fn fold_case(c: char, emit: &mut dyn FnMut(char)) {
    std::iter::once(c).default_case_fold().for_each(emit);
}

/// Sorts each run of combining marks by its class. Source: UAX 15, canonical ordering.
fn in_canonical_order(mut units: Vec<TextUnit>) -> Vec<TextUnit> {
    let is_starter = |unit: &TextUnit| canonical_combining_class(unit.char) == 0;
    for run in units.chunk_by_mut(|a, b| !is_starter(a) && !is_starter(b)) {
        run.sort_by_key(|unit| canonical_combining_class(unit.char));
    }
    units
}

fn fold_white_space(units: Vec<TextUnit>) -> Vec<TextUnit> {
    let mut folded: Vec<TextUnit> = Vec::with_capacity(units.len());
    for unit in units {
        match folded.last_mut() {
            Some(last) if last.char == ' ' && unit.char.is_whitespace() => last.source.end = unit.source.end,
            None if unit.char.is_whitespace() => {}
            _ if unit.char.is_whitespace() => folded.push(unit.with(' ')),
            _ => folded.push(unit),
        }
    }
    folded.pop_if(|last| last.char == ' ');
    folded
}

#[cfg(test)]
mod tests {
    use super::super::normalize;
    use super::*;
    use proptest::prelude::*;

    fn check(quote: &str, source: &str, expected: Option<&str>) {
        let found = locate(quote, source).map(|range| &source[range]);
        assert_eq!(found, expected, "{quote:?} in {source:?}");
    }

    #[test]
    fn a_quote_is_found_whatever_its_width_case_and_white_space() {
        check("Paris", "The capital is Paris.", Some("Paris"));
        check("the CAPITAL  is\nparis", "The capital is Paris.", Some("The capital is Paris"));
        check("ABC", "说ＡＢＣ吧", Some("ＡＢＣ"));
        check("financial office", "The ﬁnancial\n  oﬃce.", Some("ﬁnancial\n  oﬃce"));
        check("5 kg", "about 5 ㎏ of it", Some("5 ㎏"));
        check("café au", "a cafe\u{301}  au lait", Some("cafe\u{301}  au"));
        check("cafe\u{301}", "a CAFÉ", Some("CAFÉ"));
        check("STRASSE", "die Straße", Some("Straße"));
        check("你好，世界", "他说:你好,世界!", Some("你好,世界"));
        check("a 👩‍👩‍👧 b", "xx A 👩‍👩‍👧  B yy", Some("A 👩‍👩‍👧  B"));
        check(" padded ", "is padded here", Some("padded"));
        check("\u{16af0}\u{3b9}", "\u{37a}\u{16af0}", Some("\u{37a}\u{16af0}"));
        check("\u{323}\u{301}", "x\u{301}\u{323}y", Some("\u{301}\u{323}"));
    }

    #[test]
    fn part_of_a_character_is_no_place() {
        check("inance", "ﬁnance", None);
        check("fi", "ﬁnance", Some("ﬁ"));
        check("cafe", "CAFÉ", None);
        check("가", "각", None);
        check("i b", "ﬁ b, i b", Some("i b"));
        check("i b", "ﬁ B, I B", Some("I B"));
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        check("London", "The capital is Paris.", None);
        check("", "text", None);
        check(" \n", "text with spaces", None);
        check("text", "", None);
    }

    #[test]
    fn many_partial_places_end_the_search() {
        let (quote, source) = ("i".to_owned() + &"fi".repeat(5_000), "ﬁ".repeat(20_000));
        check(&quote, &source, None);
    }

    #[test]
    fn ranges_are_counted_in_code_points_too() {
        let source = "🎉 你好 x";
        let range = locate("你好", source).expect("it is there");
        assert_eq!((range.clone(), code_points(source, range)), (5..11, 2..4));
        assert_eq!(code_points("", 0..0), 0..0);
    }

    /// Texts whose length changes under NFKC, with marks, emoji and white space.
    const TEXTS: &str =
        "[a-cA-C ﬁＡ㎏ßİ\u{345}\u{301}\u{323}é각가ǆ\u{a8}　\n🎉👩\u{200d}你。]{1,24}|\\PC{1,24}";

    proptest! {
        #[test]
        fn every_substring_is_located_and_reads_the_same(text in TEXTS, a in any::<prop::sample::Index>(), b in any::<prop::sample::Index>()) {
            let bounds: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
            let (a, b) = (*a.get(&bounds), *b.get(&bounds));
            let part = &text[a.min(b)..a.max(b)];
            let found = locate(part, &text).map(|found| normalize(&text[found]));
            prop_assert_eq!(found.unwrap_or_default(), normalize(part));
        }

        #[test]
        fn the_normalized_text_is_located_in_the_text(text in TEXTS) {
            let normal = normalize(&text);
            let found = locate(&normal, &text).map(|found| normalize(&text[found]));
            prop_assert_eq!(found.unwrap_or_default(), normal);
        }

        #[test]
        fn what_is_found_reads_as_the_quote(quote in TEXTS, text in TEXTS) {
            if let Some(found) = locate(&quote, &text) {
                prop_assert_eq!(normalize(&text[found]), normalize(&quote));
            }
        }
    }
}
