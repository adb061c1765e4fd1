//! The interface of a metric, and the handle to one with its options.

use std::{any::Any, fmt, sync::Arc};

use futures::future::BoxFuture;

use super::{
    definition::{Definition, MetricFamily},
    finding::Found,
    metrics,
    options::OptionReader,
    steps::{Ledger, Steps},
};
use crate::proto::metric_selection::Options;

/// A metric: a type that holds its options, in a file of its own with its definition, its arithmetic and what it asks.
/// The registry lists all of them.
pub trait MetricType: Clone + Default + PartialEq + fmt::Debug + Send + Sync + 'static {
    /// The description of the metric.
    const DEFINITION: &'static Definition;

    /// The metric with the options of a request; None where they belong to another metric. What is wrong with them goes
    /// to the reader.
    fn read(_options: Options, _reader: &mut OptionReader<'_>) -> Option<Self> {
        None
    }

    /// Options without any value, for a metric that cannot do without: reading them names what is missing.
    fn required_options() -> Option<Options> {
        None
    }

    /// Takes the steps that the metric needs, such as questions to the judge, and returns the computation that is left.
    /// Their costs go to the ledger.
    fn find(&self, steps: &Steps<'_>, ledger: &mut Ledger) -> impl Future<Output = Found> + Send;
}

/// [`MetricType`] without its type.
trait AnyMetric: fmt::Debug + Send + Sync {
    fn definition(&self) -> &'static Definition;
    fn find<'a>(&'a self, steps: &'a Steps<'_>, ledger: &'a mut Ledger) -> BoxFuture<'a, Found>;
    fn as_any(&self) -> &dyn Any;
    fn equals(&self, other: &dyn Any) -> bool;
}

impl<M: MetricType> AnyMetric for M {
    fn definition(&self) -> &'static Definition {
        M::DEFINITION
    }

    fn find<'a>(&'a self, steps: &'a Steps<'_>, ledger: &'a mut Ledger) -> BoxFuture<'a, Found> {
        Box::pin(MetricType::find(self, steps, ledger))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn equals(&self, other: &dyn Any) -> bool {
        other.downcast_ref() == Some(self)
    }
}

/// A metric with its options; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metric(Arc<dyn AnyMetric>);

impl<M: MetricType> From<M> for Metric {
    fn from(metric: M) -> Metric {
        Metric(Arc::new(metric))
    }
}

impl PartialEq for Metric {
    fn eq(&self, other: &Metric) -> bool {
        self.0.equals(other.0.as_any())
    }
}

impl Metric {
    /// Every metric with its default options, in the order of the documentation.
    pub fn all() -> Vec<Metric> {
        metrics::METRICS.iter().map(MetricEntry::with_default_options).collect()
    }

    /// The metric of a name, with its default options.
    pub fn named(name: &str) -> Option<Metric> {
        metrics::METRICS
            .iter()
            .find(|entry| entry.definition.name == name)
            .map(MetricEntry::with_default_options)
    }

    pub fn definition(&self) -> &'static Definition {
        self.0.definition()
    }

    pub(super) async fn find(&self, steps: &Steps<'_>, ledger: &mut Ledger) -> Found {
        self.0.find(steps, ledger).await
    }
}

/// A line of the registry.
pub(crate) struct MetricEntry {
    pub definition: &'static Definition,
    default: fn() -> Metric,
    read: fn(Options, &mut OptionReader<'_>) -> Option<Metric>,
    required_options: fn() -> Option<Options>,
}

impl MetricEntry {
    pub(super) const fn of<M: MetricType>() -> MetricEntry {
        MetricEntry {
            definition: M::DEFINITION,
            default: || M::default().into(),
            read: |options, reader| M::read(options, reader).map(Metric::from),
            required_options: M::required_options,
        }
    }

    /// The entry of a name.
    pub fn named(name: &str) -> Option<&'static MetricEntry> {
        metrics::METRICS.iter().find(|entry| entry.definition.name == name)
    }

    pub fn with_default_options(&self) -> Metric {
        (self.default)()
    }

    /// Whether the metric needs options of the caller's.
    pub fn requires_options(&self) -> bool {
        (self.required_options)().is_some()
    }

    /// The metric with these options; with its default ones where there are none or where they are wrong, which the
    /// reader is told.
    pub fn with_options(&self, options: Option<Options>, reader: &mut OptionReader<'_>) -> Metric {
        let Some(options) = options.or_else(self.required_options) else {
            return self.with_default_options();
        };
        let field = super::options::field_name(&options);
        (self.read)(options, reader).unwrap_or_else(|| {
            let takes = match self.definition.options_field {
                "" => "no options".to_owned(),
                field => format!("the options {field}"),
            };
            reader.add(field, format!("{} takes {takes}", self.definition.name));
            self.with_default_options()
        })
    }
}

/// Several metrics by one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricGroup {
    All,
    Judged,
    Lexical,
    Vector,
    NoJudge,
}

impl MetricGroup {
    /// Every group with its name.
    pub const NAMED: [(&str, MetricGroup); 5] = [
        ("all", MetricGroup::All),
        ("judged", MetricGroup::Judged),
        ("lexical", MetricGroup::Lexical),
        ("vector", MetricGroup::Vector),
        ("no_judge", MetricGroup::NoJudge),
    ];

    pub fn named(name: &str) -> Option<MetricGroup> {
        MetricGroup::NAMED.into_iter().find(|(known, _)| *known == name).map(|(_, group)| group)
    }

    /// Its metrics: those that need no options of the caller's.
    pub fn metrics(self) -> Vec<Metric> {
        let belongs = |definition: &Definition| {
            definition.in_groups
                && match self {
                    MetricGroup::All => true,
                    MetricGroup::Judged => definition.family == MetricFamily::Judged,
                    MetricGroup::Lexical => definition.family == MetricFamily::Lexical,
                    MetricGroup::Vector => definition.family == MetricFamily::Vector,
                    MetricGroup::NoJudge => definition.judge_calls == 0,
                }
        };
        let entries = metrics::METRICS.iter().filter(|entry| belongs(entry.definition));
        entries.map(MetricEntry::with_default_options).collect()
    }
}

/// A metric that a request asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    pub metric: Metric,
    /// Tells results of the same metric apart.
    pub label: String,
    /// Whether a group brought it, so that missing fields only make it not applicable.
    pub from_group: bool,
}

impl Selection {
    /// A metric that was asked for by name, labelled by it.
    pub fn of(metric: Metric) -> Selection {
        Selection { label: metric.definition().name.to_owned(), metric, from_group: false }
    }
}
