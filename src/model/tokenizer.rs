//! Tokenization of texts, with the special tokens and the limit of the model.

mod characters;
mod wordpiece;

use std::path::{Path, PathBuf};

use self::wordpiece::WordPiece;
use super::{
    ModelError,
    manifest::{self, Manifest},
};

/// Handling of an input with more tokens than the model accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Truncation {
    /// The input is rejected.
    #[default]
    None,
    /// Tokens are removed from the end.
    End,
    /// Tokens are removed from the start.
    Start,
}

/// Token ids of one input within the limit of the model, special tokens included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids, special tokens included.
    pub ids: Vec<u32>,
    /// True if tokens were removed.
    pub truncated: bool,
}

/// One token of an input, for callers that split texts themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Token id.
    pub id: u32,
    /// Text of the token in the vocabulary.
    pub text: String,
    /// First byte of the input that the token covers. Special tokens and tokens of the prompt cover `0..0`.
    pub start: usize,
    /// End of the covered bytes, exclusive.
    pub end: usize,
    /// True if the tokenizer adds the token to every input.
    pub special: bool,
}

/// Reason why a text cannot be tokenized.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each variant documents it")]
pub enum TokenizeError {
    #[error(
        "the input has {tokens} tokens, the limit of the model is {limit}; shorten it or set a truncation"
    )]
    TooLong { tokens: usize, limit: usize },
    #[error("tokenizer error: {0}")]
    Failed(String),
}

/// Tokenizer of a model. Truncation and padding of tokenizer.json are not used.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Fast implementation for token ids, if the tokenizer is that of BERT.
    wordpiece: Option<WordPiece>,
    file: PathBuf,
    max_tokens: usize,
    lower_cases: bool,
    // Invariant: the ids of every input are between these, as `special_tokens` checked at load.
    prefix: Vec<u32>,
    suffix: Vec<u32>,
}

impl Tokenizer {
    pub(super) fn read(dir: &Path, manifest: &Manifest) -> Result<Tokenizer, ModelError> {
        let file = dir.join("tokenizer.json");
        let bytes = manifest::read_file(&file, "save the model with its fast tokenizer (tokenizer.json)")?;
        let refuse = |message: String| manifest::invalid(&file, message);
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| refuse(e.to_string()))?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| refuse(e.to_string()))?;
        let (prefix, suffix) = special_tokens(&inner).map_err(refuse)?;
        if prefix.len() + suffix.len() >= manifest.max_tokens {
            return Err(refuse(format!(
                "{} special tokens leave no room within the limit of {} tokens per input",
                prefix.len() + suffix.len(),
                manifest.max_tokens
            )));
        }
        let wordpiece = WordPiece::from_tokenizer(&inner).filter(|fast| agrees(fast, &inner));
        wordpiece.iter().for_each(WordPiece::prepare);
        Ok(Tokenizer {
            wordpiece,
            inner,
            file,
            max_tokens: manifest.max_tokens,
            lower_cases: manifest.lower_cases,
            prefix,
            suffix,
        })
    }

    /// Checks that every token id has a row in the embedding table.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if a token id is not below `rows`.
    pub(super) fn check_vocabulary(&self, rows: usize) -> Result<(), ModelError> {
        let highest = self.inner.get_vocab(true).into_values().max().unwrap_or(0) as usize;
        if highest < rows {
            return Ok(());
        }
        let message = format!("token id {highest} exceeds the embedding table of {rows} rows");
        Err(manifest::invalid(&self.file, message))
    }

    /// Tokenizes `prompt` followed by `text`, within the limit of the model.
    ///
    /// # Errors
    /// [`TokenizeError::TooLong`] if there are too many tokens and `truncation` is [`Truncation::None`].
    pub fn encode(&self, prompt: &str, text: &str, truncation: Truncation) -> Result<Encoded, TokenizeError> {
        let whole = self.whole(prompt, text);
        match self.wordpiece.as_ref().and_then(|fast| fast.encode(&whole)) {
            Some(content) => self.fit(&content, truncation),
            None => self.fit(self.inner.encode_fast(whole, false).map_err(failed)?.get_ids(), truncation),
        }
    }

    /// Tokenizes all texts of a request. Returns `None` if that could take more than 100 µs.
    pub fn encode_at_once(
        &self,
        prompt: &str,
        texts: &[String],
        truncation: Truncation,
    ) -> Option<Vec<Result<Encoded, TokenizeError>>> {
        let fast = self.wordpiece.as_ref()?;
        if texts.iter().map(|text| prompt.len() + text.len()).sum::<usize>() > BYTES_AT_ONCE {
            return None;
        }
        let encode = |text: &String| Some(self.fit(&fast.encode(&self.whole(prompt, text))?, truncation));
        texts.iter().map(encode).collect()
    }

    /// Truncates `content` to the limit of the model and adds the special tokens.
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

    /// Tokenizes `prompt` followed by `text` without truncation.
    ///
    /// # Errors
    /// [`TokenizeError::Failed`] if the tokenizer fails.
    pub fn tokens(&self, prompt: &str, text: &str) -> Result<Vec<Token>, TokenizeError> {
        let whole = self.whole(prompt, text);
        let grown = whole.len() != prompt.len() + text.len();
        let encoding = self.inner.encode(whole, false).map_err(failed)?;
        let content = encoding.get_ids().iter().zip(encoding.get_tokens()).zip(encoding.get_offsets());
        let content = content.map(|((&id, token), &(start, end))| Token {
            id,
            text: token.clone(),
            // If lower-casing changes the length, byte positions do not refer to the text of the caller.
            start: if grown { 0 } else { start.saturating_sub(prompt.len()) },
            end: if grown { 0 } else { end.saturating_sub(prompt.len()) },
            special: false,
        });
        let special = |ids: &[u32]| -> Vec<Token> { ids.iter().map(|&id| self.special(id)).collect() };
        Ok(special(&self.prefix).into_iter().chain(content).chain(special(&self.suffix)).collect())
    }

    /// Maximum tokens per input, special tokens included.
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

/// Bytes that [`WordPiece`] tokenizes within 100 µs. It takes 30 to 60 ns per byte with caches evicted by weights, and 80
/// to 120 ns if every letter of long words is a token.
const BYTES_AT_ONCE: usize = 1024;

/// Checks at load that the fast implementation agrees with the `tokenizers` crate for this vocabulary.
fn agrees(fast: &WordPiece, inner: &tokenizers::Tokenizer) -> bool {
    let texts = [
        "The quick brown fox jumps over 13 lazy dogs, doesn't it?",
        "Tokenization of unbelievably long words: antidisestablishmentarianism, naïveté, Straße.",
        "检索增强生成（RAG）的回答，由另一个模型评分。",
        "mixed 中英文 text\twith\u{200d} marks é, 한국어, हिन्दी, русский, ไทย, 🦀 and №½",
        "fn main() { println!(\"{}\", 0x1F600u32 + 1_000); } // https://example.com/a?b=c#d",
    ];
    let agrees = texts.iter().all(|text| {
        let theirs = inner.encode_fast(*text, false);
        theirs.is_ok_and(|theirs| fast.encode(text).is_none_or(|ours| ours == theirs.get_ids()))
    });
    if !agrees {
        tracing::warn!("the fast tokenizer disagrees with tokenizer.json; using the slower tokenizers crate");
    }
    agrees
}

/// Ids of the special tokens before and after every input.
fn special_tokens(tokenizer: &tokenizers::Tokenizer) -> Result<(Vec<u32>, Vec<u32>), String> {
    let probe = |text: &str, special| {
        tokenizer.encode_fast(text, special).map(|e| e.get_ids().to_vec()).map_err(|e| e.to_string())
    };
    let (bare, framed) = (probe("a", false)?, probe("a", true)?);
    let start = framed
        .windows(bare.len().max(1))
        .position(|window| window == bare)
        .ok_or("the post-processor changes tokens other than the special ones, which is not supported")?;
    let (prefix, suffix) = (framed[..start].to_vec(), framed[start + bare.len()..].to_vec());
    let longer = "two words 三 4";
    if [&prefix[..], &probe(longer, false)?, &suffix[..]].concat() != probe(longer, true)? {
        return Err("the special tokens depend on the text, which is not supported".into());
    }
    Ok((prefix, suffix))
}

fn failed(error: tokenizers::Error) -> TokenizeError {
    TokenizeError::Failed(error.to_string())
}
