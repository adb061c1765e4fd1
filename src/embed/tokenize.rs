//! Tokenize requests: all tokens of the texts of one request, in bounded pieces.

use std::sync::Arc;

use super::{
    Engine,
    admission::AdmissionClass,
    engine::with_deadline,
    error::EmbedError,
    gather::{CancelOnDrop, EmbedCaller},
    request::RequestScheduling,
    token_semaphore::TokenPermit,
};
use crate::{
    deadline::Deadline,
    log_limit::{LogLimit, Site},
    model::{Token, TokenizeError},
    trace::Scope,
};

/// Maximum bytes of texts that are tokenized between two checks of the limit. Small enough to stop a request with too
/// many tokens early, and large enough to keep all threads busy.
const PIECE_BYTES: usize = 64 << 10;

/// Progress of a Tokenize request.
#[derive(Clone, Copy, Debug, Default)]
struct TokenCount {
    /// Tokens counted so far.
    tokens: usize,
    /// Bytes of the texts that were tokenized.
    bytes: usize,
    /// Bytes of the texts that remain.
    bytes_left: usize,
}

impl Engine {
    /// Tokenizes each text without truncation, and returns the results of `convert` in the order of the texts. `convert`
    /// receives all tokens of a text and runs on the threads of Tokenize.
    ///
    /// The request first holds as many tokens as its texts could have at most, and fewer as they are counted. Memory of
    /// all requests is therefore bounded by admission.
    ///
    /// # Errors
    /// [`EmbedError::TooLarge`] once more tokens are counted than one request may have. A text may have more tokens than
    /// the model accepts.
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
        let limit = self.0.admission.capacity();
        let mut count = TokenCount::of(&texts, &prompt);
        let mut permit = self.admit(scheduling, count.upper_bound().min(limit)).await?;
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
                    tracing::error!(%error, "tokenizing an input failed; its request fails with INTERNAL");
                }
                EmbedError::Defect
            })?;
            count.add(piece.iter().map(|(tokens, _)| tokens).sum(), bytes);
            count.hold(&mut permit, limit)?;
            results.extend(piece.into_iter().map(|(_, result)| result));
        }
        Ok(results)
    }
}

/// Bytes of a text with its prompt, plus two that account for the special tokens.
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

    /// Upper bound of the tokens: each covers at least one byte of its text, unless normalization lengthens the text.
    fn upper_bound(self) -> usize {
        self.tokens + self.bytes_left
    }

    /// Expected tokens of all texts, extrapolated from those counted so far.
    fn expected(self) -> usize {
        let all = self.bytes + self.bytes_left;
        let expected = self.tokens as u128 * all as u128 / self.bytes.max(1) as u128;
        usize::try_from(expected).unwrap_or(usize::MAX)
    }

    /// Resizes the permit to the upper bound of the tokens, at most `limit`.
    ///
    /// # Errors
    /// [`EmbedError::TooLarge`] with the expected tokens if more than `limit` are counted.
    fn hold(self, permit: &mut TokenPermit, limit: usize) -> Result<(), EmbedError> {
        if self.tokens > limit {
            return Err(EmbedError::TooLarge { tokens: self.expected(), capacity: limit });
        }
        permit.resize(self.upper_bound().min(limit));
        Ok(())
    }
}

/// Groups consecutive texts into pieces of at most [`PIECE_BYTES`]; a longer text is a piece of its own.
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
    fn a_permit_follows_the_count_up_to_the_limit() {
        let gate = TokenSemaphore::new(100);
        let mut count = TokenCount::of(&["x".repeat(38), "x".repeat(158)], "");
        let mut permit = gate.try_acquire(count.upper_bound().min(100)).expect("room");
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
