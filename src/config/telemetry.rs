//! What is told of the process: log lines, and what goes to a collector.

use super::{reader::Reader, text};
use crate::{
    rpc::CallLog,
    telemetry::{
        LogFormat, Settings, check_filter,
        otlp::{self, Header, Sampling, Signals},
    },
};

pub(super) fn log(r: &mut Reader) -> Settings {
    let filter = |filter: &str| check_filter(filter).map(|()| filter.to_owned());
    Settings {
        filter: r.required("log", String::new(), filter),
        format: r.required("log-format", LogFormat::Text, str::parse),
    }
}

pub(super) fn call_log(r: &mut Reader) -> CallLog {
    CallLog { ratio: r.decimal("log-sample-ratio"), slow_after: r.duration("log-slow-after") }
}

/// None without an endpoint; the other settings are checked all the same.
pub(super) fn otlp(r: &mut Reader) -> Option<otlp::Settings> {
    let endpoint = |endpoint: &str| otlp::check_endpoint(endpoint).map(|()| endpoint.to_owned());
    let endpoint = r.optional("otlp-endpoint", endpoint);
    let ratio = r.decimal("trace-sample-ratio");
    let stand_in = Sampling { follows_caller: true, ratio };
    let settings = otlp::Settings {
        endpoint: endpoint.clone().unwrap_or_default(),
        headers: r.optional("otlp-headers", headers).unwrap_or_default(),
        timeout: r.duration("otlp-timeout"),
        queue: r.whole("otlp-queue"),
        signals: r.required("otlp-signals", Signals::default(), str::parse),
        metrics_every: r.duration("otlp-metrics-every"),
        sampling: r.required("trace-sampler", stand_in, |name| Sampling::named(name, ratio)),
        service: r.required("service-name", String::new(), text),
        resource: r.optional("resource-attributes", pairs).unwrap_or_default(),
    };
    endpoint.map(|_| settings)
}

fn headers(value: &str) -> Result<Vec<Header>, String> {
    // What comes of a bad one may hold the value, so none of it is told.
    let header =
        |(name, value): (String, String)| Header::new(&name, value).ok_or_else(|| BAD_HEADER.to_owned());
    pairs(value).map_err(|_| BAD_HEADER.to_owned())?.into_iter().map(header).collect()
}

const BAD_HEADER: &str =
    "NAME=VALUE in ASCII is needed, several with commas, each value percent-encoded where it has a comma";

/// As the standard writes them: commas between, values percent-encoded.
fn pairs(list: &str) -> Result<Vec<(String, String)>, String> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').filter(|(name, _)| !name.trim().is_empty())?;
        Some((name.trim().to_owned(), decoded(value.trim())?))
    };
    let parts = list.split(',').filter(|part| !part.trim().is_empty());
    parts.map(pair).collect::<Option<_>>().ok_or_else(|| "NAME=VALUE is needed, several with commas".into())
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_the_standard_writes_them() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        for (list, expected) in [
            ("a=b", Some(vec![pair("a", "b")])),
            (" a = b , c=d%2Ce=,", Some(vec![pair("a", "b"), pair("c", "d,e=")])),
            ("a=", Some(vec![pair("a", "")])),
            ("a", None),
            ("=b", None),
            ("a=%2", None),
            ("a=%ff", None),
        ] {
            assert_eq!(pairs(list).ok(), expected, "{list}");
        }
    }

    #[test]
    fn headers_are_checked_and_never_shown() {
        let sound = headers("Authorization=Bearer%20planted,x-team=a").expect("sound");
        assert_eq!((sound[0].name(), sound[0].value.expose()), ("authorization", "Bearer planted"));
        assert!(!format!("{sound:?}").contains("planted"));
        for bad in ["planted", "a b=planted", "x=planted%0A", "x-bin=planted"] {
            let mistake = headers(bad).expect_err(bad);
            assert!(!mistake.contains("planted"), "{mistake}");
        }
    }
}
