//! Limits on the tokens in flight, one per class of request.

use std::{sync::Arc, time::Duration};

use super::{
    EmbedError, EmbedSettings,
    fair_queue::FlowId,
    metrics::EmbedMetrics,
    token_semaphore::{TokenPermit, TokenSemaphore},
};

/// Admission control: one limit on tokens in flight for each class of request, so that no class can starve another.
///
/// Unary calls and streams have half of the queue each. Tokenize has a limit of the same size; its tokens are never
/// computed. The limit of evaluations is large enough to keep the compute threads busy.
pub(super) struct Admission {
    calls: Arc<TokenSemaphore>,
    streams: Arc<TokenSemaphore>,
    evaluations: Arc<TokenSemaphore>,
    long_tokenize: Arc<TokenSemaphore>,
    /// Limit for Tokenize requests with few tokens, so that they never wait for long ones.
    short_tokenize: Arc<TokenSemaphore>,
    metrics: EmbedMetrics,
}

/// Class of a request, which decides the limit it is admitted under.
#[derive(Clone, Copy, Debug)]
pub(super) enum AdmissionClass {
    /// A unary call. Rejected immediately when the limit is reached.
    Call,
    /// An item of a stream. Waits when the limit is reached, fairly between flows.
    Stream,
    /// A text of an evaluation. Waits like [`AdmissionClass::Stream`].
    Evaluation,
    /// A Tokenize request. Waits like [`AdmissionClass::Stream`].
    Tokenize,
}

/// Maximum tokens in flight.
#[derive(Clone, Copy)]
pub(super) struct AdmissionLimits {
    /// Limit of unary calls and streams together.
    pub queue_tokens: usize,
    /// Limit of all evaluations together.
    pub evaluation_tokens: usize,
}

impl AdmissionLimits {
    pub fn from_settings(settings: &EmbedSettings) -> AdmissionLimits {
        let evaluation_tokens = EVALUATION_PASSES_PER_THREAD
            .saturating_mul(settings.threads)
            .saturating_mul(settings.batch_tokens);
        AdmissionLimits { queue_tokens: settings.queue_tokens, evaluation_tokens }
    }
}

/// Maximum forward passes in flight of evaluations, per compute thread: one is being computed, one is queued, and two
/// are between the queue and the samples.
const EVALUATION_PASSES_PER_THREAD: usize = 4;

/// A Tokenize request is short if it needs at most this fraction of the limit: 1/32, which is 4,096 tokens by default.
const SHORT_TOKENIZE_DIVISOR: usize = 32;

/// Tokens in flight by class of request, and the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AdmittedTokens {
    pub calls: usize,
    pub streams: usize,
    pub evaluations: usize,
    pub tokenize: usize,
    /// Maximum for unary calls, for streams and for Tokenize, each.
    pub limit: usize,
}

impl Admission {
    /// Creates the limits for a model that accepts `max_tokens` tokens per input.
    pub fn new(room: AdmissionLimits, max_tokens: usize, metrics: &EmbedMetrics) -> Admission {
        let capacity = capacity(room.queue_tokens, max_tokens);
        let evaluations = TokenSemaphore::new(room.evaluation_tokens.clamp(max_tokens, capacity));
        let [calls, streams, long_tokenize, short_tokenize] = [(); 4].map(|()| TokenSemaphore::new(capacity));
        Admission { calls, streams, evaluations, long_tokenize, short_tokenize, metrics: metrics.clone() }
    }

    /// Waits until `tokens` fit within the limit of `class`. A unary call never waits.
    ///
    /// # Errors
    /// [`EmbedError::TooLarge`] or [`EmbedError::QueueFull`] for a unary call that cannot be admitted now.
    pub async fn admit(
        &self,
        class: AdmissionClass,
        flow: FlowId,
        tokens: usize,
    ) -> Result<TokenPermit, EmbedError> {
        match class {
            AdmissionClass::Call => self.admit_call(tokens),
            AdmissionClass::Stream => Ok(self.streams.acquire(flow, tokens).await),
            AdmissionClass::Evaluation => Ok(self.evaluations.acquire(flow, tokens).await),
            AdmissionClass::Tokenize if tokens <= self.capacity() / SHORT_TOKENIZE_DIVISOR => {
                Ok(self.short_tokenize.acquire(flow, tokens).await)
            }
            AdmissionClass::Tokenize => Ok(self.long_tokenize.acquire(flow, tokens).await),
        }
    }

    /// Maximum tokens in flight of unary calls and of streams, each; also the maximum for one request.
    pub fn capacity(&self) -> usize {
        self.calls.capacity()
    }

    /// Tokens in flight now.
    pub fn held(&self) -> AdmittedTokens {
        AdmittedTokens {
            calls: self.calls.held(),
            streams: self.streams.held(),
            evaluations: self.evaluations.held(),
            tokenize: self.long_tokenize.held() + self.short_tokenize.held(),
            limit: self.capacity(),
        }
    }

    fn admit_call(&self, tokens: usize) -> Result<TokenPermit, EmbedError> {
        let capacity = self.capacity();
        if tokens > capacity {
            return Err(EmbedError::TooLarge { tokens, capacity });
        }
        self.calls.try_acquire(tokens).ok_or_else(|| {
            self.metrics.refused();
            EmbedError::QueueFull { tokens, capacity, retry_in: Duration::from_millis(250) }
        })
    }
}

/// Half of the queue, but at least the longest input, which could otherwise never be admitted.
fn capacity(queue_tokens: usize, max_tokens: usize) -> usize {
    let half = queue_tokens / 2;
    if half < max_tokens {
        tracing::warn!(
            queue_tokens,
            max_tokens,
            raised_to = 2 * max_tokens,
            "queue-tokens is too small for one input of maximum length; a larger value is used"
        );
    }
    half.max(max_tokens)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn admission(queue_tokens: usize) -> Admission {
        let room = AdmissionLimits { queue_tokens, evaluation_tokens: 2048 };
        Admission::new(room, 512, &EmbedMetrics::register(&mut Default::default()))
    }

    fn admit(
        admission: &Admission,
        class: AdmissionClass,
        tokens: usize,
    ) -> Option<Result<TokenPermit, EmbedError>> {
        admission.admit(class, FlowId(0), tokens).now_or_never()
    }

    #[test]
    fn any_queue_size_admits_the_longest_input() {
        for queue_tokens in [1, usize::MAX >> 3, usize::MAX] {
            let admission = admission(queue_tokens);
            for class in [
                AdmissionClass::Call,
                AdmissionClass::Stream,
                AdmissionClass::Evaluation,
                AdmissionClass::Tokenize,
            ] {
                let permit = admit(&admission, class, 512)
                    .expect("admitted without waiting")
                    .expect("below the limit");
                assert_eq!(permit.tokens(), 512, "{class:?}");
            }
            let large = admit(&admission, AdmissionClass::Call, usize::MAX);
            assert!(matches!(large, Some(Err(EmbedError::TooLarge { tokens: usize::MAX, .. }))));
        }
    }

    #[test]
    fn a_full_class_does_not_block_another_class() {
        let admission = admission(64_000);
        let all = [AdmissionClass::Call, AdmissionClass::Stream, AdmissionClass::Tokenize];
        let full = all.map(|class| {
            admit(&admission, class, 32_000).expect("admitted without waiting").expect("below the limit")
        });
        let evaluation = admit(&admission, AdmissionClass::Evaluation, 2048)
            .expect("admitted without waiting")
            .expect("below the limit");
        let AdmittedTokens { calls, streams, evaluations, tokenize, limit } = admission.held();
        assert_eq!([calls, streams, tokenize, limit], [32_000; 4]);
        assert_eq!(evaluations, 2048);
        assert!(matches!(
            admit(&admission, AdmissionClass::Call, 1),
            Some(Err(EmbedError::QueueFull { .. }))
        ));
        assert!(admit(&admission, AdmissionClass::Stream, 1).is_none());
        assert!(admit(&admission, AdmissionClass::Evaluation, 1).is_none());
        assert!(admit(&admission, AdmissionClass::Tokenize, 1_001).is_none());
        assert!(admit(&admission, AdmissionClass::Tokenize, 1_000).is_some());
        drop((full, evaluation));
        assert_eq!((admission.held().calls, admission.held().evaluations), (0, 0));
    }
}
