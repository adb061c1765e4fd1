//! How many tokens may wait or be computed at one time, by kind of call.

use std::{sync::Arc, time::Duration};

use super::{
    EmbedError, EmbedSettings,
    fair_queue::FlowId,
    metrics::EmbedMetrics,
    token_semaphore::{TokenPermit, TokenSemaphore},
};

/// Room for tokens: half of the queue is for calls, half for streams, and as much as either for Tokenize, whose tokens
/// are never computed. Evaluations have as much as keeps the compute threads busy. None of them locks another out.
pub(super) struct Admission {
    calls: Arc<TokenSemaphore>,
    streams: Arc<TokenSemaphore>,
    evaluations: Arc<TokenSemaphore>,
    long_tokenize: Arc<TokenSemaphore>,
    /// For requests of few tokens, which no long one keeps waiting.
    short_tokenize: Arc<TokenSemaphore>,
    metrics: EmbedMetrics,
}

/// The share of the room that a kind of call has.
#[derive(Clone, Copy, Debug)]
pub(super) enum AdmissionClass {
    /// Refused at once where it is full.
    Call,
    /// Waited for where it is full, fair among flows.
    Stream,
    /// As [`AdmissionClass::Stream`].
    Evaluation,
    /// As [`AdmissionClass::Stream`].
    Tokenize,
}

/// Tokens that there is room for.
#[derive(Clone, Copy)]
pub(super) struct AdmissionLimits {
    /// Of calls and streams together.
    pub queue_tokens: usize,
    pub evaluation_tokens: usize,
}

impl AdmissionLimits {
    pub fn of(settings: &EmbedSettings) -> AdmissionLimits {
        let evaluation_tokens = PASSES.saturating_mul(settings.threads).saturating_mul(settings.batch_tokens);
        AdmissionLimits { queue_tokens: settings.queue_tokens, evaluation_tokens }
    }
}

/// Forward passes of each compute thread whose tokens evaluations may have in the queue: one is computed, one waits,
/// and two are on their way from and to the samples.
const PASSES: usize = 4;

/// A Tokenize request of at most this part of the room is short: 4,096 tokens unless set otherwise.
const SHORT: usize = 32;

/// Tokens that are held, by lane, and the most of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AdmittedTokens {
    pub calls: usize,
    pub streams: usize,
    pub evaluations: usize,
    pub tokenize: usize,
    pub limit: usize,
}

impl Admission {
    /// For a model that takes `max_tokens` of an input.
    pub fn new(room: AdmissionLimits, max_tokens: usize, metrics: &EmbedMetrics) -> Admission {
        let capacity = capacity(room.queue_tokens, max_tokens);
        let evaluations = TokenSemaphore::new(room.evaluation_tokens.clamp(max_tokens, capacity));
        let [calls, streams, long_tokenize, short_tokenize] = [(); 4].map(|()| TokenSemaphore::new(capacity));
        Admission { calls, streams, evaluations, long_tokenize, short_tokenize, metrics: metrics.clone() }
    }

    /// Never waits in [`AdmissionClass::Call`].
    pub async fn admit(
        &self,
        lane: AdmissionClass,
        flow: FlowId,
        tokens: usize,
    ) -> Result<TokenPermit, EmbedError> {
        match lane {
            AdmissionClass::Call => self.admit_call(tokens),
            AdmissionClass::Stream => Ok(self.streams.acquire(flow, tokens).await),
            AdmissionClass::Evaluation => Ok(self.evaluations.acquire(flow, tokens).await),
            AdmissionClass::Tokenize if tokens <= self.capacity() / SHORT => {
                Ok(self.short_tokenize.acquire(flow, tokens).await)
            }
            AdmissionClass::Tokenize => Ok(self.long_tokenize.acquire(flow, tokens).await),
        }
    }

    /// The most tokens of calls, of streams, and of one request.
    pub fn capacity(&self) -> usize {
        self.calls.capacity()
    }

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

/// Half of the queue, but room for one input of any length, or that would wait for ever.
fn capacity(queue_tokens: usize, max_tokens: usize) -> usize {
    let half = queue_tokens / 2;
    if half < max_tokens {
        tracing::warn!(queue_tokens, max_tokens, "the queue is raised to twice the tokens of one input");
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
        lane: AdmissionClass,
        tokens: usize,
    ) -> Option<Result<TokenPermit, EmbedError>> {
        admission.admit(lane, FlowId(0), tokens).now_or_never()
    }

    #[test]
    fn a_queue_of_any_size_is_one() {
        for queue_tokens in [1, usize::MAX >> 3, usize::MAX] {
            let admission = admission(queue_tokens);
            for lane in [
                AdmissionClass::Call,
                AdmissionClass::Stream,
                AdmissionClass::Evaluation,
                AdmissionClass::Tokenize,
            ] {
                let permit = admit(&admission, lane, 512).expect("at once").expect("room");
                assert_eq!(permit.tokens(), 512, "{lane:?}");
            }
            let large = admit(&admission, AdmissionClass::Call, usize::MAX);
            assert!(matches!(large, Some(Err(EmbedError::TooLarge { tokens: usize::MAX, .. }))));
        }
    }

    #[test]
    fn no_lane_takes_the_room_of_another_and_a_long_tokenize_none_of_a_short_one() {
        let admission = admission(64_000);
        let all = [AdmissionClass::Call, AdmissionClass::Stream, AdmissionClass::Tokenize];
        let full = all.map(|lane| admit(&admission, lane, 32_000).expect("at once").expect("room"));
        let evaluation = admit(&admission, AdmissionClass::Evaluation, 2048).expect("at once").expect("room");
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
