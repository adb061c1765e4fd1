//! The result of one selected metric.

use std::sync::Arc;

use super::{
    cancellation::Cancellation,
    finding::{Computation, Finding, Found},
    metric::{Metric, Selection},
    result::{Failure, MetricResult, Status},
    sample::Field,
    score::{Estimate, Score},
    steps::{Ledger, Steps},
};
use crate::judge::Cost;

/// The result of one selection, with what `render` makes of it on the threads that compute it. It is there by the
/// deadline of the evaluation, whatever is still being computed.
pub(super) async fn result_of<P: Send + 'static>(
    steps: &Steps<'_>,
    selection: &Arc<Selection>,
    render: fn(&MetricResult) -> P,
) -> (MetricResult, P) {
    let mut ledger = Ledger::default();
    let work = find(steps, &selection.metric, &mut ledger);
    let work = tokio::time::timeout_at(steps.answer_by().instant().into(), work).await;
    let cost = ledger.total();
    let computed = match work.unwrap_or(Err(Failure::DeadlineExceeded)) {
        Ok(work) => compute(steps, work, (Arc::clone(selection), cost.clone()), render).await,
        Err(failure) => Err(failure),
    };
    computed.unwrap_or_else(|failure| {
        let result = result(selection, cost, Err(failure));
        let rendered = render(&result);
        (result, rendered)
    })
}

async fn find(steps: &Steps<'_>, metric: &Metric, ledger: &mut Ledger) -> Found {
    let fields = steps.fields()?;
    let missing = metric.definition().missing_where(|field| fields.has(field));
    if !missing.is_empty() {
        return Ok(Computation::done(Finding::of(Estimate::NotApplicable(""), lacks(&missing))));
    }
    metric.find(steps, ledger).await
}

async fn compute<P: Send + 'static>(
    steps: &Steps<'_>,
    Computation { length, compute }: Computation,
    (selection, cost): (Arc<Selection>, Cost),
    render: fn(&MetricResult) -> P,
) -> Result<(MetricResult, P), Failure> {
    let work = move |cancellation: Cancellation<'_>| {
        let result = result(&selection, cost, Ok(compute(cancellation)?));
        let rendered = render(&result);
        Ok((result, rendered))
    };
    steps.compute(length, work).await
}

fn lacks(missing: &[Field]) -> String {
    let names: Vec<&str> = missing.iter().map(|field| field.name()).collect();
    format!("the sample has no {}", names.join(" and no "))
}

fn result(selection: &Selection, cost: Cost, finding: Result<Finding, Failure>) -> MetricResult {
    let (finding, failure) = match finding {
        Ok(finding) => (finding, None),
        Err(failure) => (Finding { reason: failure.to_string(), ..Finding::default() }, Some(failure)),
    };
    let bounds = |lower: f64, upper: f64| Score::new(lower).zip(Score::new(upper));
    let (status, score, bounds) = match finding.estimate {
        None => (failure.as_ref().map_or(Status::Ok, Failure::status), None, None),
        Some(Estimate::NotApplicable(_)) => (Status::NotApplicable, None, None),
        Some(Estimate::Exact(score)) => (Status::Ok, Score::new(score), None),
        Some(Estimate::Between(lower, upper)) => (Status::Partial, None, bounds(lower, upper)),
    };
    // A number that is none is a defect of ours, and told as one.
    let is_defect = matches!(finding.estimate, Some(Estimate::Exact(_))) && score.is_none();
    let status = if is_defect { Status::Failed } else { status };
    let reason = match finding.estimate {
        Some(Estimate::NotApplicable(why)) if finding.reason.is_empty() => why.to_owned(),
        Some(Estimate::Between(..)) => partial(&finding),
        _ => finding.reason,
    };
    MetricResult {
        metric: selection.metric.clone(),
        label: selection.label.clone(),
        status,
        score,
        bounds,
        judged: finding.judged,
        submitted: finding.submitted,
        reason,
        claims: finding.claims,
        details: finding.details,
        ranking: finding.ranking,
        value: finding.value,
        failure: failure.or(finding.missing).or(is_defect.then_some(Failure::Defect)),
        cost,
    }
}

fn partial(finding: &Finding) -> String {
    let why = finding.missing.as_ref().map(|failure| format!(": {failure}")).unwrap_or_default();
    let (judged, submitted) = (finding.judged, finding.submitted);
    format!("{judged} of {submitted} verdicts are there{why}; {}", finding.reason)
}

#[cfg(test)]
mod tests;
