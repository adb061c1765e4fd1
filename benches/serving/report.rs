//! Reports as Markdown and JSON, and the update of the page of figures between its markers.

use std::{fmt::Write as _, fs, path::Path};

use serde::Serialize;

use super::Error;

/// Results of one load on one workload.
#[derive(Serialize)]
pub struct Cell {
    pub workload: String,
    pub load: String,
    pub rounds: Vec<Figures>,
}

/// Figures of one round.
#[derive(Clone, Default, Serialize)]
pub struct Figures {
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub p999_ms: Option<f64>,
    pub texts_per_second: f64,
    pub tokens_per_second: f64,
    pub errors: u64,
    pub first_error: Option<String>,
    /// Figures of the server; `None` in process.
    pub served: Option<ServerFigures>,
}

#[derive(Clone, Default, Serialize)]
pub struct ServerFigures {
    pub lag_p50_ms: f64,
    pub lag_p99_ms: f64,
    pub lag_worst_ms: f64,
    pub rss_before_mib: f64,
    pub rss_after_mib: f64,
    pub rss_peak_mib: f64,
}

/// A figure with one number per round, such as a ratio.
#[derive(Serialize)]
pub struct Single {
    pub what: String,
    pub rounds: Vec<f64>,
}

#[derive(Serialize)]
pub struct Report {
    pub cells: Vec<Cell>,
    pub singles: Vec<Single>,
}

impl Report {
    /// Texts per second of the last round.
    pub fn last_rate(&self, workload: &str, load: &str) -> Option<f64> {
        let cell = self.cells.iter().find(|cell| cell.workload == workload && cell.load == load)?;
        cell.rounds.last().map(|figures| figures.texts_per_second)
    }

    /// Two tables with medians over the rounds.
    pub fn markdown(&self) -> String {
        let mut text = String::from(
            "| texts | load | p50, ms | p99, ms | p99.9, ms | texts/s | range | tokens/s | errors \
             | lag p50 / p99 / worst, ms | RSS before / after / peak, MiB |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
        );
        self.cells.iter().for_each(|cell| text.push_str(&cell.row()));
        text.push('\n');
        text.push_str(&singles(&self.singles));
        text
    }
}

/// A table of medians and ranges.
pub fn singles(singles: &[Single]) -> String {
    let mut text = String::from("| what | median | range |\n| --- | --- | --- |\n");
    for Single { what, rounds } in singles {
        let range = match range(rounds) {
            _ if rounds.len() == 1 => "one run".to_owned(),
            (least, most) => format!("{} to {}", short(least), short(most)),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {what} | {} | {range} |", short(median(rounds)));
    }
    text
}

/// Writes `text` between the markers `<!-- NAME:begin -->` and `<!-- NAME:end -->` of a page.
#[allow(clippy::disallowed_methods)]
pub fn write_between(page: &Path, name: &str, text: &str) -> Result<(), Error> {
    let (begin, end) = (format!("<!-- {name}:begin -->\n"), format!("<!-- {name}:end -->"));
    let old = fs::read_to_string(page)?;
    let (before, rest) = old.split_once(&begin).ok_or_else(|| format!("no {begin} in the page"))?;
    let (_, after) = rest.split_once(&end).ok_or_else(|| format!("no {end} in the page"))?;
    Ok(fs::write(page, format!("{before}{begin}\n{}\n\n{end}{after}", text.trim()))?)
}

#[allow(clippy::disallowed_methods)]
pub fn write_json(file: &Path, report: &impl Serialize) -> Result<(), Error> {
    fs::create_dir_all(file.parent().ok_or("a file without a directory")?)?;
    Ok(fs::write(file, serde_json::to_string_pretty(report)?)?)
}

impl Cell {
    fn row(&self) -> String {
        let of = |pick: fn(&Figures) -> f64| self.rounds.iter().map(pick).collect::<Vec<f64>>();
        let maybe = |pick: fn(&Figures) -> Option<f64>| {
            let known: Option<Vec<f64>> = self.rounds.iter().map(pick).collect();
            known.map_or("–".into(), |known| short(median(&known)))
        };
        let rates = of(|f| f.texts_per_second);
        let (least, most) = range(&rates);
        format!(
            "| {} | {} | {} | {} | {} | {:.0} | {least:.0} to {most:.0} | {:.0} | {} | {} | {} |\n",
            self.workload,
            self.load,
            maybe(|f| f.p50_ms),
            maybe(|f| f.p99_ms),
            maybe(|f| f.p999_ms),
            median(&rates),
            median(&of(|f| f.tokens_per_second)),
            self.rounds.iter().map(|f| f.errors).sum::<u64>(),
            self.three(|s| [s.lag_p50_ms, s.lag_p99_ms, s.lag_worst_ms]),
            self.three(|s| [s.rss_before_mib, s.rss_after_mib, s.rss_peak_mib]),
        )
    }

    fn three(&self, pick: fn(&ServerFigures) -> [f64; 3]) -> String {
        let known: Option<Vec<[f64; 3]>> =
            self.rounds.iter().map(|figures| figures.served.as_ref().map(pick)).collect();
        let Some(known) = known else { return "–".into() };
        let middle = |at: usize| short(median(&known.iter().map(|three| three[at]).collect::<Vec<_>>()));
        [middle(0), middle(1), middle(2)].join(" / ")
    }
}

/// Median of at least one number; the upper of the two middle values for an even count.
pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn range(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), &x| (a.min(x), b.max(x)))
}

/// Formats a number with three significant digits.
fn short(value: f64) -> String {
    match value.abs() {
        x if x >= 100.0 => format!("{value:.0}"),
        x if x >= 10.0 => format!("{value:.1}"),
        x if x >= 1.0 || x == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
