//! Parser of `Retry-After` headers (pure: the time is an argument).

use std::time::{Duration, SystemTime};

use http::{HeaderMap, header::RETRY_AFTER};

/// Longer delays are ignored as invalid.
const MAX_WAIT: Duration = Duration::from_secs(24 * 3600);

/// Delay from `retry-after-ms`, or from `Retry-After` in seconds (also fractional) or as a date; `None` if invalid.
pub(super) fn parse(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let millis = text("retry-after-ms").and_then(|text| seconds(text, 1e-3));
    millis.or_else(|| {
        text(RETRY_AFTER.as_str()).and_then(|text| seconds(text, 1.0).or_else(|| date(text, now)))
    })
}

fn seconds(text: &str, unit_seconds: f64) -> Option<Duration> {
    let number: f64 = text.parse().ok()?;
    let wait = Duration::try_from_secs_f64(number * unit_seconds).ok()?;
    Some(wait).filter(|wait| *wait <= MAX_WAIT)
}

fn date(text: &str, now: SystemTime) -> Option<Duration> {
    let wait = httpdate::parse_http_date(text).ok()?.duration_since(now).ok()?;
    Some(wait).filter(|wait| *wait <= MAX_WAIT)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use http::{HeaderMap, HeaderName, HeaderValue};

    use super::parse;

    fn check(headers: &[(&'static str, &str)], expected_ms: Option<u64>) {
        // Sun, 06 Nov 1994 08:49:37 GMT
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let map: HeaderMap = headers
            .iter()
            .map(|(name, value)| {
                (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
            })
            .collect();
        assert_eq!(parse(&map, now), expected_ms.map(Duration::from_millis), "{headers:?}");
    }

    #[test]
    fn seconds_dates_and_milliseconds_are_parsed() {
        check(&[("retry-after", "2")], Some(2000));
        check(&[("retry-after", " 0.25 ")], Some(250));
        check(&[("retry-after", "0")], Some(0));
        check(&[("retry-after", "Sun, 06 Nov 1994 08:49:47 GMT")], Some(10_000));
        check(&[("retry-after-ms", "150"), ("retry-after", "2")], Some(150));
        check(&[("retry-after-ms", "soon"), ("retry-after", "2")], Some(2000));
    }

    #[test]
    fn invalid_values_are_ignored() {
        for value in ["", "-1", "NaN", "inf", "1e300", "soon", "99999999999", "Sun, 06 Nov 1994 08:49:07 GMT"]
        {
            check(&[("retry-after", value)], None);
        }
        check(&[("retry-after", "Sun, 06 Nov 2094 08:49:37 GMT")], None);
        check(&[], None);
    }
}
