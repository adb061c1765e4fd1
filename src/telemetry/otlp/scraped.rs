//! Metric families, parsed from the text format that scrapers get.

use std::collections::BTreeMap;

use prometheus_client::{encoding::text::encode, registry::Registry};

/// Type of a metric family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScrapedKind {
    Counter,
    Gauge,
    Histogram,
}

/// Metric family with its samples.
#[derive(Debug, PartialEq)]
pub(super) struct ScrapedFamily {
    pub name: String,
    pub help: String,
    pub kind: ScrapedKind,
    /// Values by labels, without `le`.
    pub series: BTreeMap<LabelPairs, ScrapedValue>,
}

/// Names and values of labels.
pub(super) type LabelPairs = Vec<(String, String)>;

/// Value of one sample.
#[derive(Debug, PartialEq)]
pub(super) enum ScrapedValue {
    Number(f64),
    Buckets(ScrapedBuckets),
}

/// Values of a histogram.
#[derive(Debug, Default, PartialEq)]
pub(super) struct ScrapedBuckets {
    /// Upper bound and cumulative count of each bucket; the last bound is infinite.
    pub counts: Vec<(f64, u64)>,
    pub sum: f64,
    pub count: u64,
}

/// Encodes and parses all families, except of types that OTLP does not know.
pub(super) fn scrape(registry: &Registry) -> Vec<ScrapedFamily> {
    let mut page = String::new();
    match encode(&mut page, registry) {
        Ok(()) => read(&page),
        Err(error) => {
            tracing::error!(%error, "cannot encode the metrics");
            Vec::new()
        }
    }
}

fn read(page: &str) -> Vec<ScrapedFamily> {
    let mut families: Vec<ScrapedFamily> = Vec::new();
    let mut help = ("", "");
    let mut unknown = false;
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').unwrap_or((rest, ""));
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, ""));
            let kind = match kind {
                "counter" => Some(ScrapedKind::Counter),
                "gauge" => Some(ScrapedKind::Gauge),
                "histogram" => Some(ScrapedKind::Histogram),
                _ => None,
            };
            unknown = kind.is_none();
            if let Some(kind) = kind {
                let help = if help.0 == name { unescaped(help.1) } else { String::new() };
                families.push(ScrapedFamily { name: name.to_owned(), help, kind, series: BTreeMap::new() });
            }
        } else if !line.starts_with('#')
            && !unknown
            && let Some(family) = families.last_mut()
        {
            // The page was encoded above, so every line is valid.
            let _ = family.add_sample(line);
        }
    }
    families.retain(|family| !family.series.is_empty());
    families
}

impl ScrapedFamily {
    /// Adds the sample of a line; returns `None` if it is not one of this family.
    fn add_sample(&mut self, line: &str) -> Option<()> {
        let suffix = line.strip_prefix(&self.name)?;
        let (suffix, mut labels, value) = sample(suffix)?;
        if self.kind != ScrapedKind::Histogram {
            self.series.insert(labels, ScrapedValue::Number(value));
            return Some(());
        }
        let bound = labels.iter().position(|(name, _)| name == "le").map(|at| labels.remove(at).1);
        let entry =
            self.series.entry(labels).or_insert_with(|| ScrapedValue::Buckets(ScrapedBuckets::default()));
        let ScrapedValue::Buckets(buckets) = entry else { return None };
        match suffix {
            "_bucket" => buckets.counts.push((number(&bound?)?, value as u64)),
            "_sum" => buckets.sum = value,
            "_count" => buckets.count = value as u64,
            _ => return None,
        }
        Some(())
    }
}

/// Parses a line such as `_total{a="b",…} 1` to suffix, labels and value; ignores a timestamp.
fn sample(text: &str) -> Option<(&str, LabelPairs, f64)> {
    let at = text.find(['{', ' '])?;
    let (suffix, mut rest) = text.split_at(at);
    let mut labels = LabelPairs::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (name, quoted) = rest.split_once("=\"")?;
            let end = closing_quote(quoted)?;
            labels.push((name.to_owned(), unescaped(&quoted[..end])));
            rest = quoted[end + 1..].trim_start_matches(',');
        }
        rest = &rest[1..];
    }
    let value = number(rest.split_whitespace().next()?)?;
    Some((suffix, labels, value))
}

fn number(text: &str) -> Option<f64> {
    if text == "+Inf" { Some(f64::INFINITY) } else { text.parse().ok() }
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })
}

fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (character, character == '\\') {
            (_, true) => match characters.next() {
                Some('n') => plain.push('\n'),
                Some(other) => plain.push(other),
                None => {}
            },
            (other, false) => plain.push(other),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::{
        counter::Counter, family::Family as Labelled, gauge::Gauge, histogram::Histogram, info::Info,
    };

    use super::*;

    type Pairs = Vec<(&'static str, String)>;

    #[test]
    fn every_type_is_parsed_as_it_was_encoded() {
        let mut registry = Registry::with_prefix("a");
        let calls = Labelled::<Pairs, Counter>::default();
        calls.get_or_create(&vec![("m", "x/y".into()), ("q", "a \"b\"\\,}\n".into())]).inc_by(3);
        calls.get_or_create(&vec![("m", "z".into()), ("q", String::new())]).inc();
        registry.register("calls", "Calls, all", calls);
        let level = Gauge::<f64, std::sync::atomic::AtomicU64>::default();
        level.set(-0.5);
        registry.register("level", "Level", level);
        let took = Histogram::new([0.1, 1.0]);
        for value in [0.05, 0.5, 0.5, 9.0] {
            took.observe(value);
        }
        registry.register("took_seconds", "Time", took);
        registry.register("about", "What it is", Info::new(vec![("v", "1")]));
        let families = scrape(&registry);
        let [calls, level, took] = &families[..] else { panic!("{families:?}") };
        assert_eq!(
            (&*calls.name, &*calls.help, calls.kind),
            ("a_calls", "Calls, all.", ScrapedKind::Counter)
        );
        let odd = vec![("m".to_owned(), "x/y".to_owned()), ("q".to_owned(), "a \"b\"\\,}\n".to_owned())];
        assert_eq!(calls.series.get(&odd), Some(&ScrapedValue::Number(3.0)), "{calls:?}");
        assert_eq!(calls.series.len(), 2);
        assert_eq!(level.series.values().collect::<Vec<_>>(), [&ScrapedValue::Number(-0.5)]);
        let counts = vec![(0.1, 1), (1.0, 3), (f64::INFINITY, 4)];
        let expected = ScrapedValue::Buckets(ScrapedBuckets { counts, sum: 10.05, count: 4 });
        assert_eq!(took.series.values().collect::<Vec<_>>(), [&expected]);
    }
}
