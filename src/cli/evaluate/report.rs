//! The report: one self-contained HTML file that needs no network.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::Serialize;

use super::{plan::EvaluationPlan, row::status_name, writer::WrittenRows};
use crate::evaluate::{aggregate::Summary, metric::Metric};

const PAGE: &str = include_str!("report/report.html");
const STYLE: &str = include_str!("report/report.css");
const SCRIPT: &str = include_str!("report/report.js");

/// Data of the report besides the rows.
#[derive(Serialize)]
struct ReportHeader<'a> {
    version: &'static str,
    /// Time of creation, RFC 3339 in UTC.
    created: String,
    input: &'a str,
    judge: Option<JudgeView<'a>>,
    embedding_model: Option<&'a str>,
    rows: u64,
    bad_lines: u64,
    failed_cells: u64,
    cost: &'a super::row::CostView,
    metrics: Vec<MetricView<'a>>,
}

#[derive(Serialize)]
struct JudgeView<'a> {
    name: &'a str,
    model: &'a str,
}

#[derive(Serialize)]
struct MetricView<'a> {
    metric: &'static str,
    label: &'a str,
    formula: &'static str,
    lowest: f64,
    highest: f64,
    higher_is_better: Option<bool>,
    scored: usize,
    partial: usize,
    not_applicable: usize,
    failures: Vec<(String, usize)>,
    mean: Option<f64>,
    interval: Option<(f64, f64)>,
    coverage: Option<f64>,
}

/// Writes the report. The file appears at its path when it is complete.
///
/// # Errors
/// A file that cannot be read or written.
pub(super) fn write(path: &Path, plan: &EvaluationPlan, collected: &WrittenRows) -> io::Result<()> {
    let partial = PathBuf::from(format!("{}.partial", path.display()));
    let mut page = BufWriter::new(File::create(&partial)?);
    let summaries = collected.totals.aggregate.summaries();
    for part in split_template(PAGE) {
        match part {
            TemplatePart::Text(text) => page.write_all(text.as_bytes())?,
            TemplatePart::Placeholder("style") => page.write_all(STYLE.as_bytes())?,
            TemplatePart::Placeholder("script") => page.write_all(SCRIPT.as_bytes())?,
            TemplatePart::Placeholder(_) => {
                write_data(&mut page, &head(plan, collected, &summaries), collected)?
            }
        }
    }
    page.into_inner()?.sync_all()?;
    std::fs::rename(&partial, path)
}

fn write_data(page: &mut impl Write, head: &ReportHeader<'_>, collected: &WrittenRows) -> io::Result<()> {
    write!(page, "{{\"head\":{},\"rows\":[", embeddable(&serde_json::to_string(head)?))?;
    for (index, row) in collected.output.rows().enumerate() {
        let (line, row) = row?;
        let texts = collected.texts.get(&line).map_or("null", String::as_str);
        let comma = if index > 0 { ",\n" } else { "\n" };
        write!(page, "{comma}{{\"texts\":{},\"row\":{}}}", embeddable(texts), embeddable(&row))?;
    }
    write!(page, "]}}")
}

fn head<'a>(
    plan: &'a EvaluationPlan,
    collected: &'a WrittenRows,
    summaries: &'a [Summary],
) -> ReportHeader<'a> {
    let totals = &collected.totals;
    ReportHeader {
        version: env!("CARGO_PKG_VERSION"),
        created: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        input: if plan.options.input == "-" { "standard input" } else { &plan.options.input },
        judge: plan.judge.as_ref().map(|judge| JudgeView { name: &judge.name, model: &judge.model }),
        embedding_model: plan.embedding_model.as_deref(),
        rows: totals.rows,
        bad_lines: totals.invalid_lines,
        failed_cells: totals.failed_cells,
        cost: &totals.cost,
        metrics: summaries.iter().filter_map(MetricView::of).collect(),
    }
}

impl<'a> MetricView<'a> {
    fn of(summary: &'a Summary) -> Option<MetricView<'a>> {
        let metric = Metric::named(summary.metric)?;
        let definition = metric.definition();
        let failures = summary.failures.iter().map(|(status, count)| (status_name(*status), *count));
        Some(MetricView {
            metric: definition.name,
            label: &summary.label,
            formula: definition.formula,
            lowest: definition.lowest,
            highest: definition.highest,
            higher_is_better: definition.higher_is_better,
            scored: summary.scored,
            partial: summary.partial,
            not_applicable: summary.not_applicable,
            failures: failures.collect(),
            mean: summary.mean,
            interval: summary.interval,
            coverage: summary.coverage,
        })
    }
}

#[derive(Debug, PartialEq)]
enum TemplatePart<'a> {
    Text(&'a str),
    /// A placeholder `{{name}}`.
    Placeholder(&'a str),
}

/// Splits the template at its placeholders. Inserted values are not searched for placeholders.
fn split_template(template: &str) -> impl Iterator<Item = TemplatePart<'_>> {
    template
        .split("{{")
        .flat_map(|part| match part.split_once("}}") {
            Some((name, rest)) => [Some(TemplatePart::Placeholder(name)), Some(TemplatePart::Text(rest))],
            None => [Some(TemplatePart::Text(part)), None],
        })
        .flatten()
}

/// Escapes JSON for a script element, so that no text can end the element or start a comment in it. `<` and the two line
/// separators occur in strings only, so escaping them changes no value.
fn embeddable(json: &str) -> String {
    json.replace('<', "\\u003c").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_has_three_placeholders() {
        let placeholders: Vec<_> =
            split_template(PAGE).filter(|part| matches!(part, TemplatePart::Placeholder(_))).collect();
        assert_eq!(
            placeholders,
            [
                TemplatePart::Placeholder("style"),
                TemplatePart::Placeholder("data"),
                TemplatePart::Placeholder("script")
            ]
        );
    }

    #[test]
    fn the_report_fetches_nothing() {
        for part in [PAGE, STYLE, SCRIPT] {
            for word in ["http:", "https:", "@import", "url(", "src=", "fetch(", "import("] {
                assert!(!part.replace("http://www.w3.org/2000/svg", "").contains(word), "{word}");
            }
        }
    }

    #[test]
    fn hostile_texts_are_escaped_without_changing_them() {
        let text = "</script><!-- <script> \u{2028}\u{2029} {{script}}";
        let embedded = embeddable(&serde_json::to_string(text).expect("JSON"));
        assert!(!embedded.contains(['<', '\u{2028}', '\u{2029}']), "{embedded}");
        assert_eq!(serde_json::from_str::<String>(&embedded).expect("JSON"), text);
    }
}
