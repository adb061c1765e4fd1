//! BERT's tokenizer for ids alone: no offsets, no strings, nothing allocated for a word. Ten times as fast as the
//! `tokenizers` crate, and the same ids; what it can't be sure of is left to that crate.

use std::collections::HashMap;

use ahash::RandomState;
use aho_corasick::AhoCorasick;
use tokenizers::{ModelWrapper, NormalizerWrapper, PreTokenizerWrapper};

use super::characters::{CharacterTable, NormalizedChar};

pub(super) struct WordPiece {
    characters: CharacterTable,
    /// Tokens that a word may begin with.
    first: Vocabulary,
    /// Tokens that may follow, without their prefix.
    next: Vocabulary,
    unknown: u32,
    /// Characters of a word; longer ones are unknown.
    longest_word: usize,
    /// Tokens that are found in a text before all else; such texts are left to the crate.
    added: AhoCorasick,
}

struct Vocabulary {
    ids: HashMap<Box<str>, u32, RandomState>,
    /// Bytes of its longest token.
    longest: usize,
}

impl WordPiece {
    /// None for a tokenizer of another kind.
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

    /// Once at load, so that no call pays for it.
    pub fn prepare(&self) {
        self.characters.prepare();
    }

    /// Token ids of a text, without special tokens; none if the text is one that only the crate knows about.
    pub fn encode(&self, text: &str) -> Option<Vec<u32>> {
        if self.added.is_match(text) {
            return None;
        }
        // English has about five bytes for each token, Chinese three.
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

    /// Of what is left of a word, the longest token of the vocabulary, until nothing is left; the whole word is
    /// unknown where there is none.
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

    /// How many of the texts it was sure of.
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
    fn words_are_cut_as_the_crate_cuts_them() {
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
    fn texts_that_depend_on_more_than_single_characters_are_left_to_the_crate() {
        let left = ["a [MASK] b", "[SEP]", "a\u{302e}\u{16ff0}"];
        assert_eq!(check(BertNormalizer::default(), left), 0);
        assert_eq!(check(BertNormalizer::default(), ["[mask]", "[ MASK]", "MASK]"]), 3);
    }

    #[test]
    fn tokenizers_of_another_kind_are_left_to_the_crate() {
        let mut other = tokenizer(BertNormalizer::default());
        other.add_tokens([AddedToken::from("new", false)]).expect("known");
        assert!(WordPiece::from_tokenizer(&other).is_none());
        let bare = tokenizers::Tokenizer::new(models::bpe::BPE::default());
        assert!(WordPiece::from_tokenizer(&bare).is_none());
    }

    proptest! {
        #[test]
        fn any_text_is_cut_as_the_crate_cuts_it(text in "\\PC{0,40}", of in 0..24_usize) {
            check(normalizers().nth(of).expect("one of them"), [text.as_str()]);
        }

        #[test]
        fn words_of_the_vocabulary_in_any_order_are_cut_as_the_crate_cuts_them(
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
