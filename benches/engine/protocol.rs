//! Engine side of the line protocol of benches/peers/protocol.py.

use std::{
    collections::HashMap,
    fs,
    io::{self, BufRead, Write as _},
    path::Path,
    time::Instant,
};

use serde_json::{Value, json};

use crate::Error;

const MOST_REPEATS: usize = 2_000;

/// An engine that takes part in the comparison.
pub trait Engine {
    /// Loads the model. Returns `dimensions`, `version` and `policies`.
    fn load(&mut self, model: &Path, threads: usize) -> Result<Value, Error>;

    /// Returns the concatenated unit vectors of the texts.
    fn embed(&mut self, texts: &[String], policy: &str) -> Result<Vec<f32>, Error>;

    /// Handles any other request.
    fn other(&mut self, op: &str, _request: &Value) -> Result<Value, Error> {
        Err(format!("unknown op {op:?}").into())
    }
}

/// Responds to requests from standard input until its end.
pub fn serve(mut engine: impl Engine) -> Result<(), Error> {
    let mut workloads = HashMap::new();
    for line in io::stdin().lock().lines() {
        let answer = serde_json::from_str(&line?)
            .map_err(Error::from)
            .and_then(|request| answer(&mut engine, &mut workloads, &request))
            .unwrap_or_else(|error| json!({ "error": error.to_string() }));
        let mut out = io::stdout().lock();
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "nothing waits beside it")]
fn answer(
    engine: &mut impl Engine,
    workloads: &mut HashMap<String, Vec<String>>,
    request: &Value,
) -> Result<Value, Error> {
    match text(request, "op")? {
        "load" => {
            let threads = request["threads"].as_u64().ok_or("threads is missing")?;
            engine.load(Path::new(text(request, "model")?), usize::try_from(threads)?)
        }
        "texts" => {
            let file = fs::read_to_string(text(request, "path")?)?;
            let texts: Vec<String> = file.lines().map(str::to_owned).collect();
            let count = texts.len();
            workloads.insert(text(request, "workload")?.to_owned(), texts);
            Ok(json!({ "texts": count }))
        }
        "run" => run(engine, known(workloads, request)?, request),
        "vectors" => {
            let texts = known(workloads, request)?;
            let vectors = engine.embed(texts, text(request, "policy")?)?;
            let bytes: Vec<u8> = vectors.iter().flat_map(|x| x.to_le_bytes()).collect();
            fs::write(text(request, "path")?, bytes)?;
            Ok(json!({ "rows": texts.len(), "dimensions": vectors.len() / texts.len() }))
        }
        "rss" => memory(),
        op => engine.other(op, request),
    }
}

fn run(engine: &mut impl Engine, texts: &[String], request: &Value) -> Result<Value, Error> {
    let policy = text(request, "policy")?;
    let repeats = request["repeats"].as_u64().ok_or("repeats is missing")? as usize;
    let seconds = request["seconds"].as_f64().ok_or("seconds is missing")?;
    let mut times: Vec<f64> = Vec::new();
    let mut sum = 0.0;
    while times.len() < repeats || (sum < seconds && times.len() < MOST_REPEATS) {
        let begun = Instant::now();
        engine.embed(texts, policy)?;
        times.push(begun.elapsed().as_secs_f64());
        sum += times[times.len() - 1];
    }
    times.sort_by(f64::total_cmp);
    let middle = times.len() / 2;
    let median = if times.len() % 2 == 1 { times[middle] } else { (times[middle - 1] + times[middle]) / 2.0 };
    Ok(json!({ "seconds": median, "min_seconds": times[0], "repeats": times.len() }))
}

fn known<'a>(workloads: &'a HashMap<String, Vec<String>>, request: &Value) -> Result<&'a [String], Error> {
    let name = text(request, "workload")?;
    Ok(workloads.get(name).ok_or_else(|| format!("the texts of {name} were not given"))?)
}

fn text<'a>(request: &'a Value, field: &str) -> Result<&'a str, Error> {
    Ok(request[field].as_str().ok_or_else(|| format!("{field} is missing"))?)
}

#[expect(clippy::disallowed_methods, reason = "nothing waits beside it")]
fn memory() -> Result<Value, Error> {
    let status = fs::read_to_string("/proc/self/status")?;
    let bytes = |field: &str| -> Result<u64, Error> {
        let line = status.lines().find_map(|line| line.strip_prefix(field)).ok_or("no such line")?;
        let kibibytes = line.split_whitespace().nth(1).ok_or("no number")?;
        Ok(kibibytes.parse::<u64>()? * 1024)
    };
    Ok(json!({ "bytes": bytes("VmRSS")?, "peak_bytes": bytes("VmHWM")? }))
}
