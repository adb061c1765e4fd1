//! One request, tried until it succeeds, fails for good or has used up its attempts.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::time::sleep;

use super::{
    Settings,
    error::{Failure, SourceError, Trouble},
    progress::Progress,
};

const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// Runs `request` with jittered, doubling pauses.
///
/// An attempt that brought new bytes does not count: a slow, broken line still gets a big file.
pub(super) async fn retry<T>(
    settings: &Settings,
    progress: &dyn Fn(Progress),
    what: &str,
    request: impl AsyncFn() -> Result<T, Failure>,
) -> Result<T, SourceError> {
    let mut pauses = pauses(settings);
    let mut attempt = 1;
    loop {
        progress(Progress::Waiting { what: what.to_owned(), attempt });
        let trouble = match request().await {
            Ok(answer) => return Ok(answer),
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Passing(trouble)) => trouble,
        };
        if trouble.advanced {
            pauses = self::pauses(settings);
        }
        let Some(pause) = pauses.next() else { return Err(give_up(trouble, what, attempt)) };
        let pause = pause.max(trouble.retry_after.unwrap_or_default());
        attempt += 1;
        tracing::warn!(what, reason = trouble.reason, attempt, ?pause, "fetching again");
        progress(Progress::Retrying { what: what.to_owned(), attempt, pause, last_error: trouble.reason });
        sleep(pause).await;
    }
}

fn give_up(trouble: Trouble, what: &str, attempts: u32) -> SourceError {
    let Trouble { reason, verdict, .. } = trouble;
    match verdict {
        Some(verdict) => *verdict,
        None => SourceError::Unreachable { what: what.to_owned(), attempts, reason },
    }
}

fn pauses(settings: &Settings) -> impl Iterator<Item = Duration> + use<> {
    let attempts = settings.attempts.max(1);
    ExponentialBuilder::default()
        .with_jitter()
        .with_min_delay(settings.backoff)
        .with_max_delay(MAX_BACKOFF)
        .with_max_times(attempts as usize - 1)
        .build()
}
