//! Where to send, what, and as whom.

use std::{str::FromStr, time::Duration};

use opentelemetry_sdk::trace::Sampler;

use crate::secret::Secret;

#[derive(Clone, Debug)]
pub struct OtlpSettings {
    /// Such as `http://127.0.0.1:4317`.
    pub endpoint: String,
    /// Sent with every request.
    pub headers: Vec<OtlpHeader>,
    /// For one try of one request.
    pub timeout: Duration,
    /// Spans and events that may wait.
    pub queue: usize,
    pub signals: OtlpSignals,
    /// How often metrics are sent.
    pub metrics_every: Duration,
    pub sampling: TraceSampling,
    /// `service.name`.
    pub service: String,
    /// Names and values that say where the process runs.
    pub resource: Vec<(String, String)>,
}

/// One that may hold a credential.
#[derive(Clone, Debug)]
pub struct OtlpHeader {
    /// Invariant: both can stand in a request; the name is in lower case.
    name: String,
    pub value: Secret,
}

impl OtlpHeader {
    /// None for what gRPC doesn't carry as text.
    pub fn new(name: &str, value: String) -> Option<OtlpHeader> {
        let name = http::HeaderName::try_from(name).ok().filter(|name| !name.as_str().ends_with("-bin"))?;
        http::HeaderValue::try_from(&value).ok().filter(|value| value.to_str().is_ok())?;
        Some(OtlpHeader { name: name.as_str().to_owned(), value: Secret::new(value) })
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}

/// What is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OtlpSignals {
    pub traces: bool,
    pub events: bool,
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
                _ => return Err("traces, events, metrics, or several with commas are needed".into()),
            }
        }
        Ok(signals)
    }
}

/// Which traces are recorded; names are those of `OTEL_TRACES_SAMPLER`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TraceSampling {
    /// Whether a caller that sends a `traceparent` decides for its trace.
    pub follows_caller: bool,
    /// The share of the other traces, from 0 to 1.
    pub ratio: f64,
}

impl TraceSampling {
    /// `ratio` counts for samplers that have one.
    ///
    /// # Errors
    /// Which names there are.
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
                    "always_on, always_off or traceidratio, or parentbased_ before it, is needed".into()
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
    fn samplers_have_the_names_of_the_standard() {
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
