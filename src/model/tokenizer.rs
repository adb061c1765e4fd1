//! Text to token ids, with the model's own limit and special tokens.

mod characters;
mod wordpiece;

use std::path::{Path, PathBuf};

use self::wordpiece::WordPiece;
use super::{
    ModelError,
    manifest::{self, Manifest},
};

/// What happens to an input of more tokens than the model takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Truncation {
    /// It is refused.
    #[default]
    None,
    /// Tokens are cut from its end.
    End,
    /// Tokens are cut from its start.
    Start,
}

/// The token ids of one input, special tokens included; at most as many as the model takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    pub ids: Vec<u32>,
    pub truncated: bool,
}

/// One token of an input, for callers who cut texts themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub id: u32,
    /// As the vocabulary writes it.
    pub text: String,
    /// Bytes of the input that it covers: `start..end`; `0..0` for special tokens and those of the prompt.
    pub start: usize,
    pub end: usize,
    pub special: bool,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenizeError {
    #[error("{tokens} tokens, the model takes {limit}")]
    TooLong { tokens: usize, limit: usize },
    #[error("the tokenizer failed: {0}")]
    Failed(String),
}

/// The model's tokenizer without its own truncation and padding.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The quick way to ids, where the tokenizer is BERT's.
    words: Option<WordPiece>,
    file: PathBuf,
    max_tokens: usize,
    lower_cases: bool,
    // Invariant: every input's ids are these around its own, as `check_frame` saw at load.
    prefix: Vec<u32>,
    suffix: Vec<u32>,
}

impl Tokenizer {
    pub(super) fn read(dir: &Path, manifest: &Manifest) -> Result<Tokenizer, ModelError> {
        let file = dir.join("tokenizer.json");
        let bytes = manifest::read_file(&file, "save the model with its fast tokenizer")?;
        let refuse = |message: String| manifest::invalid(&file, message);
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| refuse(e.to_string()))?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| refuse(e.to_string()))?;
        let (prefix, suffix) = frame(&inner).map_err(refuse)?;
        if prefix.len() + suffix.len() >= manifest.max_tokens {
            return Err(refuse(format!("no room beside special tokens in {} tokens", manifest.max_tokens)));
        }
        let words = WordPiece::from_tokenizer(&inner).filter(|words| agrees(words, &inner));
        words.iter().for_each(WordPiece::prepare);
        Ok(Tokenizer {
            words,
            inner,
            file,
            max_tokens: manifest.max_tokens,
            lower_cases: manifest.lower_cases,
            prefix,
            suffix,
        })
    }

    /// # Errors
    /// [`ModelError::Invalid`] if an id of the vocabulary lies outside the embedding table of `rows` rows.
    pub(super) fn check_vocabulary(&self, rows: usize) -> Result<(), ModelError> {
        let highest = self.inner.get_vocab(true).into_values().max().unwrap_or(0) as usize;
        if highest < rows {
            return Ok(());
        }
        let message = format!("token id {highest} lies outside the {rows} rows of the embedding table");
        Err(manifest::invalid(&self.file, message))
    }

    /// Token ids of `prompt` and `text` as one, within the model's limit.
    ///
    /// # Errors
    /// [`TokenizeError::TooLong`] if they don't fit and `truncation` is none.
    pub fn encode(&self, prompt: &str, text: &str, truncation: Truncation) -> Result<Encoded, TokenizeError> {
        let whole = self.whole(prompt, text);
        match self.words.as_ref().and_then(|words| words.encode(&whole)) {
            Some(content) => self.fit(&content, truncation),
            None => self.fit(self.inner.encode_fast(whole, false).map_err(failed)?.get_ids(), truncation),
        }
    }

    /// The same for all texts of a call, or none where that could take more than 100 µs.
    pub fn encode_at_once(
        &self,
        prompt: &str,
        texts: &[String],
        truncation: Truncation,
    ) -> Option<Vec<Result<Encoded, TokenizeError>>> {
        let words = self.words.as_ref()?;
        if texts.iter().map(|text| prompt.len() + text.len()).sum::<usize>() > BYTES_AT_ONCE {
            return None;
        }
        let encode = |text: &String| Some(self.fit(&words.encode(&self.whole(prompt, text))?, truncation));
        texts.iter().map(encode).collect()
    }

    /// Between the special tokens, within the model's limit.
    fn fit(&self, content: &[u32], truncation: Truncation) -> Result<Encoded, TokenizeError> {
        let room = self.max_tokens - self.prefix.len() - self.suffix.len();
        let kept = match truncation {
            _ if content.len() <= room => content,
            Truncation::None => {
                let tokens = content.len() + self.prefix.len() + self.suffix.len();
                return Err(TokenizeError::TooLong { tokens, limit: self.max_tokens });
            }
            Truncation::End => &content[..room],
            Truncation::Start => &content[content.len() - room..],
        };
        let ids = [&self.prefix, kept, &self.suffix].concat();
        Ok(Encoded { ids, truncated: kept.len() < content.len() })
    }

    /// All tokens of `prompt` and `text` as one; nothing is cut off.
    ///
    /// # Errors
    /// [`TokenizeError::Failed`] if the tokenizer does.
    pub fn tokens(&self, prompt: &str, text: &str) -> Result<Vec<Token>, TokenizeError> {
        let whole = self.whole(prompt, text);
        let grown = whole.len() != prompt.len() + text.len();
        let encoding = self.inner.encode(whole, false).map_err(failed)?;
        let content = encoding.get_ids().iter().zip(encoding.get_tokens()).zip(encoding.get_offsets());
        let content = content.map(|((&id, token), &(start, end))| Token {
            id,
            text: token.clone(),
            // Lower-casing that changes the length leaves no byte positions in the caller's text.
            start: if grown { 0 } else { start.saturating_sub(prompt.len()) },
            end: if grown { 0 } else { end.saturating_sub(prompt.len()) },
            special: false,
        });
        let special = |ids: &[u32]| -> Vec<Token> { ids.iter().map(|&id| self.special(id)).collect() };
        Ok(special(&self.prefix).into_iter().chain(content).chain(special(&self.suffix)).collect())
    }

    /// The most tokens of one input, special tokens included.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    fn special(&self, id: u32) -> Token {
        let text = self.inner.id_to_token(id).unwrap_or_default();
        Token { id, text, start: 0, end: 0, special: true }
    }

    fn whole(&self, prompt: &str, text: &str) -> String {
        let whole = [prompt, text].concat();
        if self.lower_cases { whole.to_lowercase() } else { whole }
    }
}

/// Bytes that [`WordPiece`] tokenizes within 100 µs: 30 to 60 ns for each, with caches that weights went through, and
/// 80 to 120 ns where every letter of long words is a token of its own.
const BYTES_AT_ONCE: usize = 1024;

/// The quick way was tested with small vocabularies; whether it goes the whole way with this one is seen at load.
fn agrees(words: &WordPiece, inner: &tokenizers::Tokenizer) -> bool {
    let texts = [
        "The quick brown fox jumps over 13 lazy dogs, doesn't it?",
        "Tokenization of unbelievably long words: antidisestablishmentarianism, naïveté, Straße.",
        "检索增强生成（RAG）的回答，由另一个模型评分。",
        "mixed 中英文 text\twith\u{200d} marks é, 한국어, हिन्दी, русский, ไทย, 🦀 and №½",
        "fn main() { println!(\"{}\", 0x1F600u32 + 1_000); } // https://example.com/a?b=c#d",
    ];
    let agrees = texts.iter().all(|text| {
        let theirs = inner.encode_fast(*text, false);
        theirs.is_ok_and(|theirs| words.encode(text).is_none_or(|ours| ours == theirs.get_ids()))
    });
    if !agrees {
        tracing::warn!("this tokenizer is not quite BERT's; texts are cut the slow way");
    }
    agrees
}

/// The ids that the tokenizer puts before and after every input.
fn frame(tokenizer: &tokenizers::Tokenizer) -> Result<(Vec<u32>, Vec<u32>), String> {
    let probe = |text: &str, special| {
        tokenizer.encode_fast(text, special).map(|e| e.get_ids().to_vec()).map_err(|e| e.to_string())
    };
    let (bare, framed) = (probe("a", false)?, probe("a", true)?);
    let start = framed
        .windows(bare.len().max(1))
        .position(|window| window == bare)
        .ok_or("the post-processor changes the tokens between the special ones")?;
    let (prefix, suffix) = (framed[..start].to_vec(), framed[start + bare.len()..].to_vec());
    let longer = "two words 三 4";
    if [&prefix[..], &probe(longer, false)?, &suffix[..]].concat() != probe(longer, true)? {
        return Err("the special tokens depend on the text".into());
    }
    Ok((prefix, suffix))
}

fn failed(error: tokenizers::Error) -> TokenizeError {
    TokenizeError::Failed(error.to_string())
}
