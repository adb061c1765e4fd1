//! Aggregates over many samples: mean, confidence interval and coverage of each metric.

use statrs::distribution::{ContinuousCDF, StudentsT};

use super::{
    metric::Metric,
    result::{MetricResult, Status},
};

/// Two-sided, of the interval of a mean.
const CONFIDENCE: f64 = 0.95;

/// Takes results one after another and keeps no sample.
#[derive(Clone, Debug, Default)]
pub struct Aggregate {
    /// Columns in the order in which their labels first appeared.
    columns: Vec<Column>,
}

/// One metric under one label, over all samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Name of the metric.
    pub metric: &'static str,
    /// Label of its selection.
    pub label: String,
    /// [`Status::Ok`].
    pub scored: usize,
    /// Number of results with the status PARTIAL.
    pub partial: usize,
    /// Number of results with the status NOT_APPLICABLE.
    pub not_applicable: usize,
    /// Samples with any other status.
    pub failed: usize,
    /// The failed ones by status, in the order in which they first came.
    pub failures: Vec<(Status, usize)>,
    /// The mean of the scores; None without a score.
    pub mean: Option<f64>,
    /// The share of samples with a score among those to which the metric applies: what the mean speaks for. None
    /// where it applies to none.
    pub coverage: Option<f64>,
    /// In which the mean of such samples lies with 95 % confidence, by Student's t; from two scores on. Not cut to
    /// the metric's range.
    pub interval: Option<(f64, f64)>,
}

#[derive(Clone, Debug)]
struct Column {
    metric: &'static str,
    label: String,
    counts: Vec<(Status, usize)>,
    scores: Moments,
}

impl Aggregate {
    /// Adds the result of one sample.
    pub fn add(&mut self, result: &MetricResult) {
        let score = result.score.map(|score| score.value());
        self.add_outcome(&result.metric, &result.label, result.status, score);
    }

    /// Adds a result that was read from a file; see [`Aggregate::add`]. A score that is not finite counts as none.
    pub fn add_outcome(&mut self, metric: &Metric, label: &str, status: Status, score: Option<f64>) {
        let column = self.column(metric, label);
        count(&mut column.counts, status);
        if let Some(score) = score.filter(|score| status == Status::Ok && score.is_finite()) {
            column.scores.add(score);
        }
    }

    /// Summaries in the order in which the labels first appeared.
    pub fn summaries(&self) -> Vec<Summary> {
        self.columns.iter().map(Column::summary).collect()
    }

    fn column(&mut self, metric: &Metric, label: &str) -> &mut Column {
        let metric = metric.definition().name;
        let known = self.columns.iter().position(|column| column.label == label && column.metric == metric);
        let index = known.unwrap_or_else(|| {
            let label = label.to_owned();
            self.columns.push(Column { metric, label, counts: Vec::new(), scores: Moments::default() });
            self.columns.len() - 1
        });
        &mut self.columns[index]
    }
}

impl Column {
    fn summary(&self) -> Summary {
        let of = |status| self.counts.iter().find(|(s, _)| *s == status).map_or(0, |(_, count)| *count);
        let (scored, partial) = (of(Status::Ok), of(Status::Partial));
        let is_failure =
            |status: Status| !matches!(status, Status::Ok | Status::Partial | Status::NotApplicable);
        let failures: Vec<_> = self.counts.iter().copied().filter(|(s, _)| is_failure(*s)).collect();
        let failed = failures.iter().map(|(_, count)| count).sum();
        let applicable = scored + partial + failed;
        Summary {
            metric: self.metric,
            label: self.label.clone(),
            scored,
            partial,
            not_applicable: of(Status::NotApplicable),
            failed,
            failures,
            mean: self.scores.mean(),
            coverage: (applicable > 0).then(|| scored as f64 / applicable as f64),
            interval: self.scores.interval(),
        }
    }
}

fn count(counts: &mut Vec<(Status, usize)>, status: Status) {
    match counts.iter_mut().find(|(s, _)| *s == status) {
        Some((_, count)) => *count += 1,
        None => counts.push((status, 1)),
    }
}

/// Mean and variance in one pass. Source: Welford, Technometrics 4(3), 1962.
#[derive(Clone, Debug, Default)]
struct Moments {
    count: usize,
    mean: f64,
    /// Sum of squared distances from the mean.
    squares: f64,
}

impl Moments {
    fn add(&mut self, value: f64) {
        self.count += 1;
        let before = value - self.mean;
        self.mean += before / self.count as f64;
        self.squares += before * (value - self.mean);
    }

    fn mean(&self) -> Option<f64> {
        (self.count > 0).then_some(self.mean).filter(|mean| mean.is_finite())
    }

    fn interval(&self) -> Option<(f64, f64)> {
        let mean = self.mean()?;
        let freedom = self.count.checked_sub(1).filter(|&freedom| freedom > 0)? as f64;
        let error = (self.squares / freedom / self.count as f64).sqrt();
        let reach = quantile(freedom)? * error;
        reach.is_finite().then_some((mean - reach, mean + reach))
    }
}

/// Quantiles of Student's t: [`CONFIDENCE`] of the distribution lies between each and its negative.
fn quantile(freedom: f64) -> Option<f64> {
    let t = StudentsT::new(0.0, 1.0, freedom).ok()?;
    Some(t.inverse_cdf(0.5 + CONFIDENCE / 2.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::evaluate::metrics::{Faithfulness, Hallucination};

    fn aggregate(outcomes: &[(Status, Option<f64>)]) -> Summary {
        let mut aggregate = Aggregate::default();
        for (status, score) in outcomes {
            aggregate.add_outcome(&Faithfulness.into(), "f", *status, *score);
        }
        aggregate.summaries().pop().expect("one label")
    }

    fn scores(values: &[f64]) -> Vec<(Status, Option<f64>)> {
        values.iter().map(|&value| (Status::Ok, Some(value))).collect()
    }

    #[test]
    fn quantiles_are_those_of_scipy() {
        for (freedom, expected) in [
            (1.0, 12.706204736174694),
            (2.0, 4.302652729749462),
            (3.0, 3.1824463052837078),
            (4.0, 2.7764451051977934),
            (9.0, 2.262157162798205),
            (29.0, 2.045229642132703),
            (99.0, 1.9842169515864174),
            (999.0, 1.9623414611334493),
            (4999.0, 1.9604386466615247),
        ] {
            let found = quantile(freedom).expect("a quantile");
            assert!((found - expected).abs() < 1e-8, "{freedom}: {found} is not {expected}");
        }
    }

    #[test]
    fn the_interval_is_that_of_scipy() {
        let summary = aggregate(&scores(&[0.2, 0.4, 0.9, 1.0]));
        let (lower, upper) = summary.interval.expect("an interval");
        assert!((summary.mean.expect("a mean") - 0.625).abs() < 1e-12);
        assert!((lower - 0.010436190762692976).abs() < 1e-8 && (upper - 1.239563809237307).abs() < 1e-8);
    }

    #[test]
    fn a_failed_cell_lowers_the_coverage_and_leaves_the_mean_alone() {
        let mut outcomes = scores(&[1.0, 0.5]);
        outcomes.extend([
            (Status::JudgeTruncated, None),
            (Status::Partial, None),
            (Status::NotApplicable, None),
            (Status::JudgeTruncated, None),
        ]);
        let summary = aggregate(&outcomes);
        assert_eq!((summary.scored, summary.partial, summary.not_applicable, summary.failed), (2, 1, 1, 2));
        assert_eq!((summary.mean, summary.coverage), (Some(0.75), Some(0.4)));
        assert_eq!(summary.failures, [(Status::JudgeTruncated, 2)]);
    }

    #[test]
    fn little_is_said_of_few_scores_and_never_nan() {
        let none = aggregate(&[(Status::NotApplicable, None)]);
        assert_eq!((none.mean, none.coverage, none.interval), (None, None, None));
        let one = aggregate(&scores(&[0.5]));
        assert_eq!((one.mean, one.coverage, one.interval), (Some(0.5), Some(1.0), None));
        let same = aggregate(&scores(&[0.5, 0.5]));
        assert_eq!(same.interval, Some((0.5, 0.5)));
        let broken = aggregate(&[(Status::Ok, Some(f64::NAN)), (Status::Ok, Some(f64::INFINITY))]);
        assert_eq!((broken.scored, broken.mean, broken.interval), (2, None, None));
    }

    #[test]
    fn metrics_under_one_label_are_not_mixed() {
        let mut aggregate = Aggregate::default();
        aggregate.add_outcome(&Faithfulness.into(), "a", Status::Ok, Some(1.0));
        aggregate.add_outcome(&Hallucination.into(), "a", Status::Ok, Some(0.0));
        let means: Vec<_> = aggregate.summaries().into_iter().map(|s| (s.metric, s.mean)).collect();
        assert_eq!(means, [("faithfulness", Some(1.0)), ("hallucination", Some(0.0))]);
    }

    #[test]
    fn labels_come_in_the_order_of_their_first_result() {
        let mut aggregate = Aggregate::default();
        for label in ["b", "a", "b"] {
            aggregate.add_outcome(&Faithfulness.into(), label, Status::Ok, Some(1.0));
        }
        let labels: Vec<_> = aggregate.summaries().into_iter().map(|s| (s.label, s.scored)).collect();
        assert_eq!(labels, [("b".to_owned(), 2), ("a".to_owned(), 1)]);
    }

    proptest! {
        #[test]
        fn one_pass_gives_what_two_give(values in prop::collection::vec(-1e3..1e3f64, 2..50)) {
            let mut moments = Moments::default();
            values.iter().for_each(|&value| moments.add(value));
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
            prop_assert!((moments.mean - mean).abs() < 1e-9);
            prop_assert!((moments.squares - squares).abs() <= 1e-9 * squares.max(1.0));
        }
    }
}
