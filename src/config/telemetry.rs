//! Settings of logging and of the export to a collector.

use super::{reader::SettingsReader, text};
use crate::{
    rpc::CallLog,
    telemetry::{
        LogFormat, LogSettings, check_filter,
        otlp::{self, OtlpHeader, OtlpSignals, TraceSampling},
    },
};

pub(super) fn log(r: &mut SettingsReader) -> LogSettings {
    let filter = |filter: &str| check_filter(filter).map(|()| filter.to_owned());
    LogSettings {
        filter: r.required("log", String::new(), filter),
        format: r.required("log-format", LogFormat::Text, str::parse),
    }
}

pub(super) fn call_log(r: &mut SettingsReader) -> CallLog {
    CallLog { ratio: r.decimal("log-sample-ratio"), slow_after: r.duration("log-slow-after") }
}

/// Reads the settings of the export; `None` without an endpoint. All settings are checked in either case.
pub(super) fn otlp(r: &mut SettingsReader) -> Option<otlp::OtlpSettings> {
    let endpoint = |endpoint: &str| otlp::check_endpoint(endpoint).map(|()| endpoint.to_owned());
    let endpoint = r.optional("otlp-endpoint", endpoint);
    let ratio = r.decimal("trace-sample-ratio");
    let default_sampling = TraceSampling { follows_caller: true, ratio };
    let settings = otlp::OtlpSettings {
        endpoint: endpoint.clone().unwrap_or_default(),
        headers: r.optional("otlp-headers", headers).unwrap_or_default(),
        timeout: r.duration("otlp-timeout"),
        queue: r.integer("otlp-queue"),
        signals: r.required("otlp-signals", OtlpSignals::default(), str::parse),
        metrics_interval: r.duration("otlp-metrics-every"),
        sampling: r.required("trace-sampler", default_sampling, |name| TraceSampling::named(name, ratio)),
        service: r.required("service-name", String::new(), text),
        resource: r.optional("resource-attributes", pairs).unwrap_or_default(),
    };
    endpoint.map(|_| settings)
}

fn headers(value: &str) -> Result<Vec<OtlpHeader>, String> {
    // The error of an invalid header may contain its value, so it is not reported.
    let header = |(name, value): (String, String)| {
        OtlpHeader::new(&name, value).ok_or_else(|| HEADER_REQUIREMENT.to_owned())
    };
    pairs(value).map_err(|_| HEADER_REQUIREMENT.to_owned())?.into_iter().map(header).collect()
}

const HEADER_REQUIREMENT: &str =
    "must be NAME=VALUE in ASCII, separated by commas, with commas in values percent-encoded";

/// Parses a list in the format of the OpenTelemetry environment variables: `NAME=VALUE`, separated by commas, values
/// percent-encoded.
fn pairs(list: &str) -> Result<Vec<(String, String)>, String> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').filter(|(name, _)| !name.trim().is_empty())?;
        Some((name.trim().to_owned(), percent_decode(value.trim())?))
    };
    let parts = list.split(',').filter(|part| !part.trim().is_empty());
    parts.map(pair).collect::<Option<_>>().ok_or_else(|| "must be NAME=VALUE, separated by commas".into())
}

fn percent_decode(text: &str) -> Option<String> {
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
    fn lists_are_parsed_like_the_opentelemetry_variables() {
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
    fn invalid_headers_are_rejected_without_showing_them() {
        let valid = headers("Authorization=Bearer%20planted,x-team=a").expect("valid");
        assert_eq!((valid[0].name(), valid[0].value.expose()), ("authorization", "Bearer planted"));
        assert!(!format!("{valid:?}").contains("planted"));
        for bad in ["planted", "a b=planted", "x=planted%0A", "x-bin=planted"] {
            let error = headers(bad).expect_err(bad);
            assert!(!error.contains("planted"), "{error}");
        }
    }
}
