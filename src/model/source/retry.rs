//! Retries of a request with exponential backoff.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::time::sleep;

use super::{
    SourceSettings,
    error::{FetchAttemptError, RetryableFetchError, SourceError},
    progress::FetchProgress,
};

/// Maximum pause between two attempts.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// Runs `request` until it succeeds, with doubling pauses and jitter.
///
/// An attempt that brought new bytes resets the count, so that a large file can be downloaded over a bad connection.
///
/// # Errors
/// The error of an attempt that cannot be retried, or that of the last attempt.
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
        let failure = match request().await {
            Ok(answer) => return Ok(answer),
            Err(FetchAttemptError::Final(error)) => return Err(error),
            Err(FetchAttemptError::Retryable(failure)) => failure,
        };
        if failure.advanced {
            pauses = self::pauses(settings);
        }
        let Some(pause) = pauses.next() else { return Err(give_up(failure, what, attempt)) };
        let pause = pause.max(failure.retry_after.unwrap_or_default());
        attempt += 1;
        tracing::warn!(
            what,
            reason = failure.reason,
            attempt,
            ?pause,
            "a request to the hub failed; retrying after the pause"
        );
        progress(FetchProgress::Retrying {
            what: what.to_owned(),
            attempt,
            pause,
            last_error: failure.reason,
        });
        sleep(pause).await;
    }
}

fn give_up(failure: RetryableFetchError, what: &str, attempts: u32) -> SourceError {
    let RetryableFetchError { reason, final_error, .. } = failure;
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
