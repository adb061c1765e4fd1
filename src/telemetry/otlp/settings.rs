//! Settings of the OTLP exporter.

use std::{str::FromStr, time::Duration};

use opentelemetry_sdk::trace::Sampler;

use crate::secret::Secret;

/// Collector, exported signals and resource attributes.
#[derive(Clone, Debug)]
pub struct OtlpSettings {
    /// URL of the collector, such as `http://127.0.0.1:4317`.
    pub endpoint: String,
    /// Headers of every request.
    pub headers: Vec<OtlpHeader>,
    /// Timeout of one attempt.
    pub timeout: Duration,
    /// Maximum number of queued spans and events.
    pub queue: usize,
    /// Signals that are exported.
    pub signals: OtlpSignals,
    /// Interval between exports of metrics.
    pub metrics_interval: Duration,
    /// Sampling of traces.
    pub sampling: TraceSampling,
    /// Resource attribute `service.name`.
    pub service: String,
    /// Further resource attributes, as names and values.
    pub resource: Vec<(String, String)>,
}

/// Header of a request; its value may be a credential.
#[derive(Clone, Debug)]
pub struct OtlpHeader {
    /// Invariant: a valid header name in lower case. The value is a valid header value.
    name: String,
    /// Value of the header.
    pub value: Secret,
}

impl OtlpHeader {
    /// Creates a header; `None` if name or value is not valid for gRPC text metadata.
    pub fn new(name: &str, value: String) -> Option<OtlpHeader> {
        let name = http::HeaderName::try_from(name).ok().filter(|name| !name.as_str().ends_with("-bin"))?;
        http::HeaderValue::try_from(&value).ok().filter(|value| value.to_str().is_ok())?;
        Some(OtlpHeader { name: name.as_str().to_owned(), value: Secret::new(value) })
    }

    /// Name of the header.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Signals to export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OtlpSignals {
    /// Whether spans are exported.
    pub traces: bool,
    /// Whether events are exported.
    pub events: bool,
    /// Whether metrics are exported.
    pub metrics: bool,
}

impl FromStr for OtlpSignals {
    type Err = String;

    fn from_str(text: &str) -> Result<OtlpSignals, String> {
        let mut signals = OtlpSignals::default();
        for name in text.split(',').map(str::trim) {
            match name {
                "traces" => signals.traces = true,
                "events" => signals.events = true,
                "metrics" => signals.metrics = true,
                _ => return Err("expected a comma-separated list of traces, events and metrics".into()),
            }
        }
        Ok(signals)
    }
}

/// Sampler of traces, with the names of `OTEL_TRACES_SAMPLER`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TraceSampling {
    /// Whether the sampled flag of an incoming `traceparent` decides.
    pub follows_caller: bool,
    /// Sampling ratio of the other traces, from 0 to 1.
    pub ratio: f64,
}

impl TraceSampling {
    /// Creates the sampler with this name. `ratio` applies to `traceidratio` samplers only.
    ///
    /// # Errors
    /// A list of the valid names, if `name` is unknown.
    pub fn named(name: &str, ratio: f64) -> Result<TraceSampling, String> {
        let (root, follows_caller) = match name.strip_prefix("parentbased_") {
            Some(root) => (root, true),
            None => (name, false),
        };
        let ratio = match root {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => ratio,
            _ => {
                return Err(
                    "expected always_on, always_off or traceidratio, optionally with the prefix parentbased_"
                        .into(),
                );
            }
        };
        Ok(TraceSampling { follows_caller, ratio })
    }

    pub(super) fn sampler(self) -> Sampler {
        let root = Sampler::TraceIdRatioBased(self.ratio);
        if self.follows_caller { Sampler::ParentBased(Box::new(root)) } else { root }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samplers_have_the_standard_names() {
        for (name, follows_caller, ratio) in [
            ("always_on", false, 1.0),
            ("always_off", false, 0.0),
            ("traceidratio", false, 0.25),
            ("parentbased_always_on", true, 1.0),
            ("parentbased_always_off", true, 0.0),
            ("parentbased_traceidratio", true, 0.25),
        ] {
            assert_eq!(
                TraceSampling::named(name, 0.25),
                Ok(TraceSampling { follows_caller, ratio }),
                "{name}"
            );
        }
        assert!(TraceSampling::named("xray", 0.5).is_err());
        assert!("traces,logs".parse::<OtlpSignals>().is_err());
    }
}
