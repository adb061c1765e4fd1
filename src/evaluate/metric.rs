//! The interface of a metric, and the handle to one with its options.

use std::{any::Any, fmt, sync::Arc};

use futures::future::BoxFuture;

use super::{
    definition::Definition,
    finding::Found,
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
    /// The definition of the metric.
    pub fn definition(&self) -> &'static Definition {
        self.0.definition()
    }

    pub(super) async fn find(&self, steps: &Steps<'_>, ledger: &mut Ledger) -> Found {
        self.0.find(steps, ledger).await
    }
}

/// A metric that a request asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// The metric with its options.
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
