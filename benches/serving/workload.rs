//! Texts of a workload, from a file with one text per line or generated from the fixtures.

use std::path::Path;

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::Error;

pub struct Workload {
    pub name: String,
    pub texts: Vec<String>,
}

/// Number of texts of the long-tailed workload.
const TEXTS: usize = 256;
/// Median and mean of its tokens, as in passages for retrieval, and the maximum of one text.
const MEDIAN: f64 = 35.0;
const MEAN: f64 = 61.0;
const MOST: f64 = 512.0;
/// Mean tokens per English word of the fixtures.
const TOKENS_PER_WORD: f64 = 1.3;
const SEED: u64 = 42;

/// Reads `NAME.txt` of the directory, or generates the workload: short queries for `w1`, otherwise the long-tailed one.
#[allow(clippy::disallowed_methods)]
pub fn workload(dir: &Path, name: &str) -> Result<Workload, Error> {
    let file = dir.join(format!("{name}.txt"));
    let texts = match std::fs::read_to_string(&file) {
        Ok(lines) => lines.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect(),
        Err(_) => made(name == "w1")?,
    };
    Ok(Workload { name: name.to_owned(), texts })
}

#[allow(clippy::disallowed_methods)]
pub fn fixture_texts() -> Result<Vec<String>, Error> {
    let lines = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/texts.jsonl"))?;
    let text = |line: &str| -> Result<String, Error> {
        let value: serde_json::Value = serde_json::from_str(line)?;
        Ok(value["text"].as_str().ok_or("a line has no text")?.to_owned())
    };
    lines.lines().map(text).collect()
}

/// Generates texts from the English words of the fixtures: about 11 tokens each, or log-normal lengths.
fn made(short: bool) -> Result<Vec<String>, Error> {
    let texts = fixture_texts()?;
    let english = texts.iter().filter(|text| text.is_ascii());
    let words: Vec<&str> = english.flat_map(|text| text.split_whitespace()).collect();
    let mut random = StdRng::seed_from_u64(SEED);
    let spread = (2.0 * (MEAN / MEDIAN).ln()).sqrt();
    let mut text = || {
        let tokens = if short { 9.0 } else { (MEDIAN.ln() + spread * normal(&mut random)).exp().min(MOST) };
        let count = ((tokens / TOKENS_PER_WORD).round() as usize).clamp(1, words.len());
        let start = random.random_range(0..words.len());
        words.iter().cycle().skip(start).take(count).copied().collect::<Vec<_>>().join(" ")
    };
    Ok((0..TEXTS).map(|_| text()).collect())
}

/// Standard normal deviates. Source: Box and Muller, A Note on the Generation of Random Normal Deviates, 1958.
fn normal(random: &mut StdRng) -> f64 {
    let (radius, angle): (f64, f64) = (random.random(), random.random());
    (-2.0 * (1.0 - radius).ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
}
