//! Normalization and pre-tokenization of BERT per character, as a lookup table.
//!
//! Both process one character at a time, except for the order of combining marks. The Unicode tables are those of the
//! `tokenizers` crate, which are older than those of `std`.

use std::{borrow::Cow, sync::OnceLock};

use tokenizers::normalizers::BertNormalizer;
use unicode_categories::UnicodeCategories;
use unicode_normalization_alignments::char::{canonical_combining_class, decompose_canonical};

/// A normalized character and its effect on word boundaries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NormalizedChar {
    /// No character.
    Removed,
    /// White space, which ends a word.
    Separator,
    /// Part of a word.
    Letter(char),
    /// A word of its own.
    Standalone(char),
    /// Several characters.
    Sequence(Box<[NormalizedChar]>),
    /// A character whose normalization depends on its neighbours.
    Contextual,
}

/// Table of normalized characters. Pages of the first two planes are filled when one of their characters first occurs;
/// other characters, which are rare, are computed each time.
pub(super) struct CharacterTable {
    normalizer: BertNormalizer,
    pages: Box<[OnceLock<CharacterPage>]>,
}

type CharacterPage = Box<[NormalizedChar; PAGE]>;

const PAGE: usize = 256;
const PAGES: usize = 0x2_0000 / PAGE;

impl CharacterTable {
    pub fn new(normalizer: BertNormalizer) -> CharacterTable {
        CharacterTable { normalizer, pages: (0..PAGES).map(|_| OnceLock::new()).collect() }
    }

    /// Fills all pages, so that the first requests do not have to. Takes some tens of milliseconds.
    pub fn prepare(&self) {
        for (page, made) in self.pages.iter().enumerate() {
            made.get_or_init(|| self.page(page));
        }
    }

    pub fn piece(&self, c: char) -> Cow<'_, NormalizedChar> {
        let (page, index) = (c as usize / PAGE, c as usize % PAGE);
        match self.pages.get(page) {
            Some(made) => Cow::Borrowed(&made.get_or_init(|| self.page(page))[index]),
            None => Cow::Owned(self.make(c)),
        }
    }

    fn page(&self, page: usize) -> CharacterPage {
        let piece = |index| {
            // Surrogates are not characters.
            let c = u32::try_from(page * PAGE + index).ok().and_then(char::from_u32);
            c.map_or(NormalizedChar::Contextual, |c| self.make(c))
        };
        Box::new(std::array::from_fn(piece))
    }

    fn make(&self, c: char) -> NormalizedChar {
        let BertNormalizer { clean_text, handle_chinese_chars, strip_accents, lowercase, .. } =
            self.normalizer;
        let c = match c {
            '\t' | '\n' | '\r' if clean_text => ' ',
            '\0' | char::REPLACEMENT_CHARACTER if clean_text => return NormalizedChar::Removed,
            c if clean_text && c.is_other() => return NormalizedChar::Removed,
            c if clean_text && c.is_whitespace() => ' ',
            c => c,
        };
        let mut plain = Vec::new();
        if strip_accents.unwrap_or(lowercase) {
            decompose_canonical(c, |part| plain.push(part));
            plain.retain(|part| !part.is_mark_nonspacing());
            if plain.iter().any(|&part| canonical_combining_class(part) > 0) {
                return NormalizedChar::Contextual;
            }
        } else {
            plain.push(c);
        }
        if lowercase {
            plain = plain.into_iter().flat_map(char::to_lowercase).collect();
        }
        let mut pieces: Vec<NormalizedChar> = plain.into_iter().map(classify).collect();
        if handle_chinese_chars && is_chinese(c) {
            pieces = match pieces[..] {
                [NormalizedChar::Letter(c)] => vec![NormalizedChar::Standalone(c)],
                _ => [vec![NormalizedChar::Separator], pieces, vec![NormalizedChar::Separator]].concat(),
            };
        }
        match pieces.len() {
            0 => NormalizedChar::Removed,
            1 => pieces.remove(0),
            _ => NormalizedChar::Sequence(pieces.into()),
        }
    }
}

fn classify(c: char) -> NormalizedChar {
    match c {
        c if c.is_whitespace() => NormalizedChar::Separator,
        c if c.is_ascii_punctuation() || c.is_punctuation() => NormalizedChar::Standalone(c),
        c => NormalizedChar::Letter(c),
    }
}

/// Source: `tokenize_chinese_chars` of BERT, `is_chinese_char` of the `tokenizers` crate.
fn is_chinese(c: char) -> bool {
    matches!(c,
        '\u{4e00}'..='\u{9fff}' | '\u{3400}'..='\u{4dbf}' | '\u{f900}'..='\u{faff}'
        | '\u{20000}'..='\u{2a6df}' | '\u{2a700}'..='\u{2b73f}' | '\u{2b740}'..='\u{2b81f}'
        | '\u{2b920}'..='\u{2ceaf}' | '\u{2f800}'..='\u{2fa1f}')
}

#[cfg(test)]
mod tests {
    use tokenizers::{
        NormalizedString, Normalizer as _, OffsetReferential, OffsetType, PreTokenizedString,
        PreTokenizer as _, pre_tokenizers::bert::BertPreTokenizer,
    };

    use super::*;

    #[test]
    fn characters_are_normalized_like_bert() {
        let characters = CharacterTable::new(BertNormalizer::new(true, true, None, true));
        let piece = |c| characters.piece(c).into_owned();
        assert_eq!(piece('A'), NormalizedChar::Letter('a'));
        assert_eq!(piece('É'), NormalizedChar::Letter('e'));
        assert_eq!(piece('\u{301}'), NormalizedChar::Removed);
        assert_eq!(piece('\u{a0}'), NormalizedChar::Separator);
        assert_eq!(piece('。'), NormalizedChar::Standalone('。'));
        assert_eq!(piece('中'), NormalizedChar::Standalone('中'));
        assert_eq!(piece('\u{f900}'), NormalizedChar::Standalone('豈'));
        assert_eq!(
            piece('가'),
            NormalizedChar::Sequence([NormalizedChar::Letter('ᄀ'), NormalizedChar::Letter('ᅡ')].into())
        );
        // A tone mark that is kept and is reordered with marks of a lower class.
        assert_eq!(piece('\u{302e}'), NormalizedChar::Contextual);
    }

    fn theirs(normalizer: BertNormalizer, text: &str) -> Vec<String> {
        let mut cut = PreTokenizedString::from(NormalizedString::from(text));
        cut.normalize(|text| normalizer.normalize(text)).expect("normal text");
        BertPreTokenizer.pre_tokenize(&mut cut).expect("words");
        let words = cut.get_splits(OffsetReferential::Original, OffsetType::Byte).into_iter();
        words.map(|(word, ..)| word.to_owned()).filter(|word| !word.is_empty()).collect()
    }

    /// Words of a text, `None` if a character depends on its neighbours.
    fn words(characters: &CharacterTable, text: &str) -> Option<Vec<String>> {
        fn put(piece: &NormalizedChar, words: &mut Vec<String>) -> Option<()> {
            let word = |words: &mut Vec<String>| words.push(String::new());
            match piece {
                NormalizedChar::Removed => {}
                NormalizedChar::Separator => word(words),
                NormalizedChar::Letter(c) => words.last_mut()?.push(*c),
                NormalizedChar::Standalone(c) => {
                    words.push(c.to_string());
                    word(words);
                }
                NormalizedChar::Sequence(pieces) => pieces.iter().try_for_each(|piece| put(piece, words))?,
                NormalizedChar::Contextual => return None,
            }
            Some(())
        }
        let mut words = vec![String::new()];
        text.chars().try_for_each(|c| put(&characters.piece(c), &mut words))?;
        words.retain(|word| !word.is_empty());
        Some(words)
    }

    #[test]
    fn every_unicode_character_matches_the_tokenizers_crate() {
        for normalizer in [BertNormalizer::default(), BertNormalizer::new(true, true, None, false)] {
            let characters = CharacterTable::new(normalizer);
            let mut unsure = 0;
            // Beyond the first planes, characters behave alike, so a sample is enough.
            let some = (0..=char::MAX as u32).filter(|number| *number < 0x20000 || number % 7 == 0);
            for c in some.filter_map(char::from_u32) {
                let text = format!("a{c}b");
                match words(&characters, &text) {
                    Some(words) => assert_eq!(words, theirs(normalizer, &text), "{c:?} by {normalizer:?}"),
                    None => unsure += 1,
                }
            }
            assert!(unsure < 100, "{unsure}");
        }
    }
}
