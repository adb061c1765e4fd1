//! Conversion of events and metrics to OTLP messages.

use std::time::SystemTime;

use opentelemetry_proto::{
    tonic::{
        common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
        logs::v1::{LogRecord, SeverityNumber},
        metrics::v1::{
            AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, Sum,
            metric, number_data_point,
        },
        resource::v1::Resource,
    },
    transform::common::tonic::Attributes,
};

use super::{
    OtlpSettings,
    scraped::{LabelPairs, ScrapedBuckets, ScrapedFamily, ScrapedKind, ScrapedValue},
};
use crate::trace::TraceEvent;

/// Resource of this process, and start time of its counters.
pub(super) struct ExportResource {
    resource: Resource,
    started: u64,
}

impl ExportResource {
    pub fn new(settings: &OtlpSettings, started: SystemTime) -> ExportResource {
        let instance = format!("{:032x}", rand::random::<u128>());
        let own = [
            ("service.name", settings.service.as_str()),
            ("service.version", env!("CARGO_PKG_VERSION")),
            ("service.instance.id", &instance),
            ("telemetry.sdk.name", "opentelemetry"),
            ("telemetry.sdk.language", "rust"),
        ];
        let is_given = |name: &str| settings.resource.iter().any(|(given, _)| given == name);
        // The setting for the service name takes precedence over resource attributes.
        let own = own.into_iter().filter(|(name, _)| *name == "service.name" || !is_given(name));
        let given = settings.resource.iter().filter(|(name, _)| name != "service.name");
        let given = given.map(|(name, value)| (name.as_str(), value.as_str()));
        let attributes = own.chain(given).map(|(name, value)| text(name, value)).collect();
        ExportResource { resource: Resource { attributes, ..Resource::default() }, started: nanos(started) }
    }

    pub fn resource(&self) -> Resource {
        self.resource.clone()
    }

    pub fn scope(&self) -> InstrumentationScope {
        let (name, version) = ("assay".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
        InstrumentationScope { name, version, ..InstrumentationScope::default() }
    }
}

/// Converts an event to a log record with an event name.
pub(super) fn event(event: TraceEvent) -> LogRecord {
    let TraceEvent { name, time, span, attributes } = event;
    let (trace_id, span_id) = match span.is_valid() {
        true => (span.trace_id().to_bytes().to_vec(), span.span_id().to_bytes().to_vec()),
        false => (Vec::new(), Vec::new()),
    };
    LogRecord {
        time_unix_nano: nanos(time),
        observed_time_unix_nano: nanos(time),
        severity_number: SeverityNumber::Info.into(),
        event_name: name.to_owned(),
        attributes: Attributes::from(attributes).0,
        flags: u32::from(span.trace_flags().to_u8()),
        trace_id,
        span_id,
        ..LogRecord::default()
    }
}

pub(super) fn metrics(families: &[ScrapedFamily], source: &ExportResource, now: SystemTime) -> Vec<Metric> {
    let times = (source.started, nanos(now));
    families.iter().map(|family| metric(family, times)).collect()
}

/// Number of data points.
pub(super) fn points(metrics: &[Metric]) -> u64 {
    let points = metrics.iter().map(|metric| match &metric.data {
        Some(metric::Data::Gauge(gauge)) => gauge.data_points.len(),
        Some(metric::Data::Sum(sum)) => sum.data_points.len(),
        Some(metric::Data::Histogram(histogram)) => histogram.data_points.len(),
        _ => 0,
    });
    points.sum::<usize>() as u64
}

fn metric(family: &ScrapedFamily, times: (u64, u64)) -> Metric {
    let temporality = AggregationTemporality::Cumulative.into();
    let data = match family.kind {
        ScrapedKind::Counter => metric::Data::Sum(Sum {
            data_points: numbers(family, times),
            aggregation_temporality: temporality,
            is_monotonic: true,
        }),
        ScrapedKind::Gauge => metric::Data::Gauge(Gauge { data_points: numbers(family, (0, times.1)) }),
        ScrapedKind::Histogram => metric::Data::Histogram(Histogram {
            data_points: histograms(family, times),
            aggregation_temporality: temporality,
        }),
    };
    Metric {
        name: family.name.clone(),
        description: family.help.clone(),
        unit: unit(&family.name).to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

fn numbers(family: &ScrapedFamily, (started, now): (u64, u64)) -> Vec<NumberDataPoint> {
    let point = |(labels, value): (&LabelPairs, &ScrapedValue)| {
        let ScrapedValue::Number(value) = value else { return None };
        Some(NumberDataPoint {
            attributes: attributes(labels),
            start_time_unix_nano: started,
            time_unix_nano: now,
            value: Some(number_data_point::Value::AsDouble(*value)),
            ..NumberDataPoint::default()
        })
    };
    family.series.iter().filter_map(point).collect()
}

fn histograms(family: &ScrapedFamily, (started, now): (u64, u64)) -> Vec<HistogramDataPoint> {
    let point = |(labels, value): (&LabelPairs, &ScrapedValue)| {
        let ScrapedValue::Buckets(ScrapedBuckets { counts, sum, count }) = value else { return None };
        let before = std::iter::once(0).chain(counts.iter().map(|(_, count)| *count));
        let each = counts.iter().zip(before).map(|((_, count), before)| count.saturating_sub(before));
        let bounds = counts.iter().map(|(bound, _)| *bound).filter(|bound| bound.is_finite());
        Some(HistogramDataPoint {
            attributes: attributes(labels),
            start_time_unix_nano: started,
            time_unix_nano: now,
            count: *count,
            sum: Some(*sum),
            bucket_counts: each.collect(),
            explicit_bounds: bounds.collect(),
            ..HistogramDataPoint::default()
        })
    };
    family.series.iter().filter_map(point).collect()
}

/// UCUM unit, from the suffix of the name.
fn unit(name: &str) -> &'static str {
    let units = [("_seconds", "s"), ("_bytes", "By"), ("_tokens", "{token}"), ("_inputs", "{input}")];
    units.into_iter().find(|(end, _)| name.ends_with(end)).map_or("", |(_, unit)| unit)
}

fn attributes(labels: &LabelPairs) -> Vec<KeyValue> {
    labels.iter().map(|(name, value)| text(name, value)).collect()
}

fn text(name: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) };
    KeyValue { key: name.to_owned(), value: Some(value), ..KeyValue::default() }
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
