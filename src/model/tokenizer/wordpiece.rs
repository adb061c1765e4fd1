//! A fast WordPiece tokenizer for BERT that returns only token ids, without offsets, strings or allocations per word.
//!
//! It returns the same ids as the `tokenizers` crate about ten times as fast. Texts that it cannot handle are left to that
//! crate.

use std::collections::HashMap;

use ahash::RandomState;
use aho_corasick::AhoCorasick;
use tokenizers::{ModelWrapper, NormalizerWrapper, PreTokenizerWrapper};

use super::characters::{CharacterTable, NormalizedChar};

/// WordPiece tokenization with the normalization of BERT.
pub(super) struct WordPiece {
    characters: CharacterTable,
    /// Tokens that can begin a word.
    first: Vocabulary,
    /// Tokens that can continue a word, without their `##` prefix.
    next: Vocabulary,
    /// Id of the unknown token.
    unknown: u32,
    /// Maximum characters of a word; longer words are unknown.
    longest_word: usize,
    /// Added tokens, which are matched before normalization. Texts that contain one are left to the crate.
    added: AhoCorasick,
}

struct Vocabulary {
    ids: HashMap<Box<str>, u32, RandomState>,
    /// Length of the longest token in bytes.
    longest: usize,
}

impl WordPiece {
    /// Creates the fast implementation of `tokenizer`. Returns `None` if it is not a BERT tokenizer.
    pub fn from_tokenizer(tokenizer: &tokenizers::Tokenizer) -> Option<WordPiece> {
        let ModelWrapper::WordPiece(model) = tokenizer.get_model() else { return None };
        let NormalizerWrapper::BertNormalizer(normalizer) = tokenizer.get_normalizer()? else { return None };
        let PreTokenizerWrapper::BertPreTokenizer(_) = tokenizer.get_pre_tokenizer()? else { return None };
        let added = tokenizer.get_added_tokens_decoder();
        if added.values().any(|token| token.normalized) {
            return None;
        }
        let vocabulary = tokenizer.get_vocab(false);
        let prefix = model.continuing_subword_prefix.as_str();
        let next = vocabulary.iter().filter_map(|(token, &id)| Some((token.strip_prefix(prefix)?, id)));
        Some(WordPiece {
            characters: CharacterTable::new(*normalizer),
            next: next.collect(),
            first: vocabulary.iter().map(|(token, &id)| (token.as_str(), id)).collect(),
            unknown: *vocabulary.get(&model.unk_token)?,
            longest_word: model.max_input_chars_per_word,
            added: AhoCorasick::new(added.values().map(|token| &token.content)).ok()?,
        })
    }

    /// Fills the character table.
    pub fn prepare(&self) {
        self.characters.prepare();
    }

    /// Token ids of a text, without special tokens. Returns `None` if the text must be left to the `tokenizers` crate.
    pub fn encode(&self, text: &str) -> Option<Vec<u32>> {
        if self.added.is_match(text) {
            return None;
        }
        // A token has about five bytes in English and three in Chinese.
        let mut ids = Vec::with_capacity(text.len() / 3 + 2);
        let mut word = Word::default();
        for c in text.chars() {
            self.take(&self.characters.piece(c), &mut word, &mut ids)?;
        }
        self.end(&mut word, &mut ids);
        Some(ids)
    }

    fn take(&self, piece: &NormalizedChar, word: &mut Word, ids: &mut Vec<u32>) -> Option<()> {
        match piece {
            NormalizedChar::Letter(c) => word.push(*c),
            NormalizedChar::Separator => self.end(word, ids),
            NormalizedChar::Standalone(c) => {
                self.end(word, ids);
                word.push(*c);
                self.end(word, ids);
            }
            NormalizedChar::Removed => {}
            NormalizedChar::Sequence(pieces) => {
                pieces.iter().try_for_each(|piece| self.take(piece, word, ids))?
            }
            NormalizedChar::Contextual => return None,
        }
        Some(())
    }

    /// Ends a word: repeatedly takes the longest token that is a prefix of the rest. The whole word is unknown if there is
    /// none.
    fn end(&self, word: &mut Word, ids: &mut Vec<u32>) {
        let (begun, mut rest) = (ids.len(), word.text.as_str());
        if word.characters > self.longest_word {
            ids.push(self.unknown);
            rest = "";
        }
        let mut vocabulary = &self.first;
        while !rest.is_empty() {
            let Some((id, bytes)) = vocabulary.longest_prefix(rest) else {
                ids.truncate(begun);
                ids.push(self.unknown);
                break;
            };
            ids.push(id);
            rest = &rest[bytes..];
            vocabulary = &self.next;
        }
        word.clear();
    }
}

#[derive(Default)]
struct Word {
    text: String,
    characters: usize,
}

impl Word {
    fn push(&mut self, c: char) {
        self.text.push(c);
        self.characters += 1;
    }

    fn clear(&mut self) {
        self.text.clear();
        self.characters = 0;
    }
}

impl Vocabulary {
    fn longest_prefix(&self, text: &str) -> Option<(u32, usize)> {
        let mut end = text.floor_char_boundary(self.longest);
        while end > 0 {
            if let Some(&id) = self.ids.get(&text[..end]) {
                return Some((id, end));
            }
            end = text.floor_char_boundary(end - 1);
        }
        None
    }
}

impl<'a> FromIterator<(&'a str, u32)> for Vocabulary {
    fn from_iter<I: IntoIterator<Item = (&'a str, u32)>>(tokens: I) -> Vocabulary {
        let ids: HashMap<Box<str>, u32, RandomState> =
            tokens.into_iter().map(|(token, id)| (token.into(), id)).collect();
        Vocabulary { longest: ids.keys().map(|token| token.len()).max().unwrap_or(0), ids }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokenizers::{
        AddedToken, models, normalizers::BertNormalizer, pre_tokenizers::bert::BertPreTokenizer,
    };

    use super::*;

    const WORDS: &[&str] = &[
        "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "ab", "abc", "##a", "##b", "##bc", "##c", "hello",
        "##lo", "wor", "##ld", "é", "e", "##e", "##́", "i", "##i", "s", "ß", "中", "文", "##文", "豈", "!",
        "。", "#", "##", "##!", "ᄀ", "##ᅡ", "A", "B", "##B", "Ab", "क", "##ि", "0", "##1", "²",
    ];

    fn tokenizer(normalizer: BertNormalizer) -> tokenizers::Tokenizer {
        let vocabulary = WORDS.iter().zip(0..).map(|(word, id)| ((*word).to_owned(), id));
        let model = models::wordpiece::WordPiece::builder()
            .vocab(vocabulary.collect::<ahash::AHashMap<_, _>>())
            .unk_token("[UNK]".into())
            .max_input_chars_per_word(12)
            .build();
        let mut tokenizer = tokenizers::Tokenizer::new(model.expect("a vocabulary"));
        tokenizer.with_normalizer(Some(normalizer)).expect("known");
        tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
        let special = ["[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(|token| AddedToken::from(token, true));
        tokenizer.add_special_tokens(special).expect("known");
        tokenizer
    }

    fn normalizers() -> impl Iterator<Item = BertNormalizer> {
        (0..24).map(|of| {
            let strip = [None, Some(false), Some(true)][of / 8];
            BertNormalizer::new(of & 1 > 0, of & 2 > 0, strip, of & 4 > 0)
        })
    }

    fn theirs(tokenizer: &tokenizers::Tokenizer, text: &str) -> Vec<u32> {
        tokenizer.encode_fast(text, false).expect("ids").get_ids().to_vec()
    }

    /// Compares ids, and returns the number of texts that were not left to the crate.
    fn check<'a>(normalizer: BertNormalizer, texts: impl IntoIterator<Item = &'a str>) -> usize {
        let tokenizer = tokenizer(normalizer);
        let words = WordPiece::from_tokenizer(&tokenizer).expect("it is BERT's");
        let same = |text: &&str| match words.encode(text) {
            Some(ids) => {
                assert_eq!(ids, theirs(&tokenizer, text), "{text:?} by {normalizer:?}");
                true
            }
            None => false,
        };
        texts.into_iter().filter(same).count()
    }

    #[test]
    fn ids_match_the_tokenizers_crate() {
        let texts = [
            "",
            "  ",
            "hello world",
            "Hello, WORLD!! ab abc abcb",
            "É e\u{301} ée\u{0}e \u{fffd} a\u{200d}b",
            "中文a文 文中。豈\u{f900}가",
            "ab##ab ##! x aaaaaaaaaaaa aaaaaaaaaaaaa",
            "a\tb\nc\u{a0}d\u{3000}e\u{85}f",
            "ẞßſ İi ǅ ﬁ Å 01²",
            "कि की",
        ];
        for normalizer in normalizers() {
            assert_eq!(check(normalizer, texts), texts.len());
        }
    }

    #[test]
    fn texts_with_added_tokens_or_reordered_marks_are_left_out() {
        let left = ["a [MASK] b", "[SEP]", "a\u{302e}\u{16ff0}"];
        assert_eq!(check(BertNormalizer::default(), left), 0);
        assert_eq!(check(BertNormalizer::default(), ["[mask]", "[ MASK]", "MASK]"]), 3);
    }

    #[test]
    fn other_tokenizers_are_left_to_the_crate() {
        let mut other = tokenizer(BertNormalizer::default());
        other.add_tokens([AddedToken::from("new", false)]).expect("known");
        assert!(WordPiece::from_tokenizer(&other).is_none());
        let bare = tokenizers::Tokenizer::new(models::bpe::BPE::default());
        assert!(WordPiece::from_tokenizer(&bare).is_none());
    }

    proptest! {
        #[test]
        fn ids_of_any_text_match_the_tokenizers_crate(text in "\\PC{0,40}", of in 0..24_usize) {
            check(normalizers().nth(of).expect("one of them"), [text.as_str()]);
        }

        #[test]
        fn ids_of_vocabulary_words_match_the_tokenizers_crate(
            parts in prop::collection::vec(
                prop_oneof![prop::sample::select(WORDS).prop_map(str::to_owned), "[ab#\u{301}\u{302e}\u{1d165} É中!\0\n]"],
                0..30,
            ),
            of in 0..24_usize,
        ) {
            let text = parts.concat();
            check(normalizers().nth(of).expect("one of them"), [text.as_str()]);
        }
    }
}
