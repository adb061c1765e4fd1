//! Tokenize: all tokens of the texts of one call, in bounded pieces.

use std::sync::Arc;

use super::{
    Engine,
    admission::AdmissionClass,
    engine::{RequestScheduling, with_deadline},
    error::EmbedError,
    gather::{CancelOnDrop, EmbedCaller},
    token_semaphore::TokenPermit,
};
use crate::{
    deadline::Deadline,
    log_limit::{LogLimit, Site},
    model::{Token, TokenizeError},
    trace::Scope,
};

/// Bytes of the texts that are tokenized before the tokens are counted: little enough that a request that makes too
/// many is stopped soon, and enough for all its threads.
const PIECE_BYTES: usize = 64 << 10;

/// Tokens that are counted, and what is left of the texts.
#[derive(Clone, Copy, Debug, Default)]
struct TokenCount {
    tokens: usize,
    bytes: usize,
    bytes_left: usize,
}

impl Engine {
    /// Makes `convert` of all tokens of each text, in the order of the texts; nothing is cut off. It runs on
    /// threads of its own.
    ///
    /// Holds as many tokens as the texts could have at most, and less as they are counted, so that what all requests
    /// have in memory is bounded by what is admitted.
    ///
    /// # Errors
    /// [`EmbedError::TooLarge`] as soon as more tokens are counted than one request may have; never for a text that is
    /// too long for the model.
    pub async fn tokenize<T: Send + 'static>(
        &self,
        texts: Vec<String>,
        prompt: Arc<str>,
        deadline: Deadline,
        convert: impl Fn(Vec<Token>) -> T + Send + Sync + 'static,
    ) -> Result<Vec<T>, EmbedError> {
        let span = Scope::current().child(|| "tokenize");
        let tokenized =
            with_deadline(deadline, self.tokenize_in_pieces(texts, prompt, deadline, convert)).await;
        span.end_with(&tokenized, EmbedError::kind);
        tokenized
    }

    async fn tokenize_in_pieces<T: Send + 'static>(
        &self,
        texts: Vec<String>,
        prompt: Arc<str>,
        deadline: Deadline,
        convert: impl Fn(Vec<Token>) -> T + Send + Sync + 'static,
    ) -> Result<Vec<T>, EmbedError> {
        let scheduling = RequestScheduling { flow: self.flow(AdmissionClass::Tokenize), deadline };
        let most = self.0.admission.capacity();
        let mut count = TokenCount::of(&texts, &prompt);
        let mut permit = self.admit(scheduling, count.at_most().min(most)).await?;
        let caller = EmbedCaller::new(deadline);
        let _leave = CancelOnDrop(Arc::clone(&caller));
        let model = Arc::clone(&self.0.model);
        let prompt_bytes = prompt.len();
        let tokenize = Arc::new(move |text: &str| {
            let tokens = model.tokenizer.tokens(&prompt, text)?;
            Ok((tokens.len(), convert(tokens)))
        });
        let mut results = Vec::with_capacity(texts.len());
        for texts in pieces(texts) {
            let bytes = texts.iter().map(|text| bytes_of(text, prompt_bytes)).sum();
            let tokenize = Arc::clone(&tokenize);
            let tokenize = move |text: &str| -> Result<(usize, T), TokenizeError> { tokenize(text) };
            let piece = self.0.tokenize.map(scheduling.flow.id, &caller, texts, tokenize);
            let piece: Result<Vec<(usize, T)>, _> =
                piece.await.map_err(|_| EmbedError::Defect)?.into_iter().collect();
            let piece = piece.map_err(|error| {
                static LINES: LogLimit = LogLimit::new(Site::Tokenize);
                if LINES.admits() {
                    tracing::error!(%error, "an input could not be tokenized");
                }
                EmbedError::Defect
            })?;
            count.add(piece.iter().map(|(tokens, _)| tokens).sum(), bytes);
            count.hold(&mut permit, most)?;
            results.extend(piece.into_iter().map(|(_, result)| result));
        }
        Ok(results)
    }
}

/// Bytes of a text with its prompt; two more stand for the special tokens.
fn bytes_of(text: &str, prompt_bytes: usize) -> usize {
    text.len() + prompt_bytes + 2
}

impl TokenCount {
    fn of(texts: &[String], prompt: &str) -> TokenCount {
        let bytes_left = texts.iter().map(|text| bytes_of(text, prompt.len())).sum();
        TokenCount { bytes_left, ..TokenCount::default() }
    }

    fn add(&mut self, tokens: usize, bytes: usize) {
        self.tokens += tokens;
        self.bytes += bytes;
        self.bytes_left -= bytes;
    }

    /// A token has a byte of its text or more, unless normalizing makes the text longer.
    fn at_most(self) -> usize {
        self.tokens + self.bytes_left
    }

    /// If the rest is as what is counted.
    fn expected(self) -> usize {
        let all = self.bytes + self.bytes_left;
        let expected = self.tokens as u128 * all as u128 / self.bytes.max(1) as u128;
        usize::try_from(expected).unwrap_or(usize::MAX)
    }

    /// # Errors
    /// [`EmbedError::TooLarge`] with the expected tokens, where more than `most` are counted.
    fn hold(self, permit: &mut TokenPermit, most: usize) -> Result<(), EmbedError> {
        if self.tokens > most {
            return Err(EmbedError::TooLarge { tokens: self.expected(), capacity: most });
        }
        permit.resize(self.at_most().min(most));
        Ok(())
    }
}

/// Neighbouring texts of up to [`PIECE_BYTES`] together, or one that is longer.
fn pieces(texts: Vec<String>) -> impl Iterator<Item = Vec<String>> {
    let mut texts = texts.into_iter().peekable();
    std::iter::from_fn(move || {
        let mut piece = vec![texts.next()?];
        let mut bytes = piece[0].len();
        while let Some(text) = texts.next_if(|text| bytes + text.len() <= PIECE_BYTES) {
            bytes += text.len();
            piece.push(text);
        }
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::{super::token_semaphore::TokenSemaphore, *};

    #[test]
    fn pieces_are_bounded_and_keep_the_order() {
        let text = |bytes: usize| "x".repeat(bytes);
        let sizes = [10, PIECE_BYTES - 10, 1, 3 * PIECE_BYTES, PIECE_BYTES, 5, 6];
        let pieces: Vec<Vec<usize>> =
            pieces(sizes.map(text).to_vec()).map(|piece| piece.iter().map(String::len).collect()).collect();
        let expected: [&[usize]; 5] =
            [&[10, PIECE_BYTES - 10], &[1], &[3 * PIECE_BYTES], &[PIECE_BYTES], &[5, 6]];
        assert_eq!(pieces, expected);
    }

    #[test]
    fn a_permit_follows_the_count_and_ends_where_too_many_are_counted() {
        let gate = TokenSemaphore::new(100);
        let mut count = TokenCount::of(&["x".repeat(38), "x".repeat(158)], "");
        let mut permit = gate.try_acquire(count.at_most().min(100)).expect("room");
        assert_eq!(permit.tokens(), 100);
        count.add(10, 40);
        count.hold(&mut permit, 100).expect("few");
        assert_eq!((gate.held(), count.expected()), (100, 50));
        count.add(20, 160);
        count.hold(&mut permit, 100).expect("few");
        assert_eq!((gate.held(), count.expected()), (30, 30));
        let mut count = TokenCount::of(&["x".repeat(398)], "");
        count.add(101, 200);
        let refused = count.hold(&mut permit, 100).expect_err("too many");
        assert!(matches!(refused, EmbedError::TooLarge { tokens: 202, capacity: 100 }));
    }
}
