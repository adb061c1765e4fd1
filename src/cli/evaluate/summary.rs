//! The summary table at the end of a run.

use super::{row::status_name, writer::RunTotals};
use crate::evaluate::aggregate::Summary;

/// Formats the summary: a line per metric, then the failures and the cost.
pub(super) fn table(totals: &RunTotals) -> String {
    let header = ["metric", "mean", "95 % interval", "coverage", "scored", "partial", "n/a", "failed"];
    let mut rows = vec![header.map(str::to_owned)];
    rows.extend(totals.aggregate.summaries().iter().map(cells));
    let widths: Vec<usize> =
        (0..header.len()).map(|c| rows.iter().map(|row| row[c].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let padded = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        text.push_str(padded.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text + &failures(totals) + &costs(totals)
}

fn cells(summary: &Summary) -> [String; 8] {
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"));
    let interval =
        summary.interval.map_or_else(|| "-".to_owned(), |(lower, upper)| format!("{lower:.4} – {upper:.4}"));
    let coverage = summary.coverage.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0));
    [
        summary.label.clone(),
        number(summary.mean),
        interval,
        coverage,
        summary.scored.to_string(),
        summary.partial.to_string(),
        summary.not_applicable.to_string(),
        summary.failed.to_string(),
    ]
}

fn failures(totals: &RunTotals) -> String {
    let mut text = String::new();
    for summary in totals.aggregate.summaries().iter().filter(|summary| summary.failed > 0) {
        let counts =
            summary.failures.iter().map(|(status, count)| format!("{} {count}", status_name(*status)));
        let counts = counts.collect::<Vec<_>>().join(", ");
        text.push_str(&format!("failed: {}: {counts}\n", summary.label));
    }
    if totals.invalid_lines > 0 {
        text.push_str(&format!("invalid lines: {}\n", totals.invalid_lines));
    }
    text
}

fn costs(totals: &RunTotals) -> String {
    let cost = &totals.cost;
    if cost.calls == 0 && cost.cache_hits == 0 {
        return String::new();
    }
    let usd = cost.usd.map_or_else(String::new, |usd| format!(", ${usd:.4}"));
    format!(
        "judge: {} calls, {} cache hits, {} prompt and {} completion tokens{usd}\n",
        cost.calls, cost.cache_hits, cost.prompt_tokens, cost.completion_tokens
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::evaluate::row::CostView,
        evaluate::{
            judged::{faithfulness::Faithfulness, refusal::Refusal},
            result::Status,
        },
    };

    #[test]
    fn the_summary_has_mean_interval_coverage_failures_and_cost() {
        let mut totals = RunTotals { invalid_lines: 1, ..RunTotals::default() };
        for score in [0.2, 0.4] {
            totals.aggregate.add_outcome(&Faithfulness.into(), "faithfulness", Status::Ok, Some(score));
        }
        totals.aggregate.add_outcome(&Faithfulness.into(), "faithfulness", Status::RateLimited, None);
        totals.aggregate.add_outcome(&Refusal.into(), "refusal", Status::NotApplicable, None);
        totals.cost = CostView { calls: 3, prompt_tokens: 10, usd: Some(0.5), ..CostView::default() };
        let expected = "\
metric          mean     95 % interval  coverage  scored  partial  n/a  failed
faithfulness  0.3000  -0.9706 – 1.5706    66.7 %       2        0    0       1
refusal            -                 -         -       0        0    1       0
failed: faithfulness: RATE_LIMITED 1
invalid lines: 1
judge: 3 calls, 0 cache hits, 10 prompt and 0 completion tokens, $0.5000
";
        assert_eq!(table(&totals), expected);
    }
}
