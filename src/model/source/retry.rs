//! One request, tried until it succeeds, fails for good or has used up its attempts.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::time::sleep;

use super::{
    SourceSettings,
    error::{FetchAttemptError, RetryableFetchError, SourceError},
    progress::FetchProgress,
};

const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// Runs `request` with jittered, doubling pauses.
///
/// An attempt that brought new bytes does not count: a slow, broken line still gets a big file.
pub(super) async fn retry<T>(
    settings: &SourceSettings,
    progress: &dyn Fn(FetchProgress),
    what: &str,
    request: impl AsyncFn() -> Result<T, FetchAttemptError>,
) -> Result<T, SourceError> {
    let mut pauses = pauses(settings);
    let mut attempt = 1;
    loop {
        progress(FetchProgress::Waiting { what: what.to_owned(), attempt });
        let trouble = match request().await {
            Ok(answer) => return Ok(answer),
            Err(FetchAttemptError::Final(error)) => return Err(error),
            Err(FetchAttemptError::Retryable(trouble)) => trouble,
        };
        if trouble.advanced {
            pauses = self::pauses(settings);
        }
        let Some(pause) = pauses.next() else { return Err(give_up(trouble, what, attempt)) };
        let pause = pause.max(trouble.retry_after.unwrap_or_default());
        attempt += 1;
        tracing::warn!(what, reason = trouble.reason, attempt, ?pause, "fetching again");
        progress(FetchProgress::Retrying {
            what: what.to_owned(),
            attempt,
            pause,
            last_error: trouble.reason,
        });
        sleep(pause).await;
    }
}

fn give_up(trouble: RetryableFetchError, what: &str, attempts: u32) -> SourceError {
    let RetryableFetchError { reason, final_error, .. } = trouble;
    match final_error {
        Some(final_error) => *final_error,
        None => SourceError::Unreachable { what: what.to_owned(), attempts, reason },
    }
}

fn pauses(settings: &SourceSettings) -> impl Iterator<Item = Duration> + use<> {
    let attempts = settings.attempts.max(1);
    ExponentialBuilder::default()
        .with_jitter()
        .with_min_delay(settings.backoff)
        .with_max_delay(MAX_BACKOFF)
        .with_max_times(attempts as usize - 1)
        .build()
}
