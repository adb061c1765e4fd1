//! Measures the real binary from outside: start, unary calls and streams at full load, and the drain.
//!
//! `cargo bench --bench serving -- [MODEL_DIR] [--help]` prints Markdown tables and writes target/bench/.

mod client;
mod evaluate;
mod in_process;
mod load;
mod report;
mod served;
mod server;
mod soak;
mod streams;
mod timer;
mod unary;
mod workload;

use std::{path::PathBuf, time::Duration};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use tokio::runtime::Runtime;

use report::{Single, singles, write_between, write_json};
use server::start;

type Error = Box<dyn std::error::Error + Send + Sync>;

const STARTS: usize = 9;
const ROUNDS: usize = 5;

/// What is measured, and how long.
struct Options {
    model: PathBuf,
    binary: PathBuf,
    /// Flags that the server is started with.
    settings: Vec<String>,
    workloads: PathBuf,
    rounds: usize,
    seconds: Duration,
    callers: Vec<usize>,
    /// Percent of the throughput of the closed loop.
    shares: Vec<u32>,
    /// The page whose figures are written anew.
    docs: Option<PathBuf>,
}

#[allow(clippy::disallowed_methods, clippy::print_stdout)]
fn main() -> Result<(), Error> {
    let flags = command().get_matches();
    let options = Options::of(&flags);
    // One thread, as the cores belong to what is measured.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if let Some(&length) = flags.get_one::<u64>("soak") {
        println!("{}", runtime.block_on(soak::run(&options, Duration::from_secs(length)))?);
        return Ok(());
    }
    if flags.get_one::<String>("only").is_none_or(|part| part == "unary") {
        let report = runtime.block_on(unary::run(&options))?;
        println!("{}", report.markdown());
        write_json("target/bench/serving.json".as_ref(), &report)?;
        if let Some(page) = &options.docs {
            write_between(page, "serving", &report.markdown())?;
        }
    }
    if flags.get_one::<String>("only").is_none_or(|part| part == "streams") {
        println!("{}", singles(&streams_and_waits(&runtime, &options)?));
    }
    Ok(())
}

fn command() -> Command {
    let many = |name: &'static str, usual: &'static str| {
        Arg::new(name).long(name).value_delimiter(',').default_value(usual)
    };
    Command::new("serving")
        .arg(Arg::new("model").default_value("models/all-MiniLM-L6-v2").help("Directory of the model"))
        .arg(Arg::new("only").long("only").value_parser(["unary", "streams"]).help("One part alone"))
        .arg(
            Arg::new("soak")
                .long("soak")
                .value_parser(value_parser!(u64))
                .help("64 callers for so many seconds"),
        )
        .arg(Arg::new("rounds").long("rounds").value_parser(value_parser!(usize)).default_value("3"))
        .arg(Arg::new("seconds").long("seconds").value_parser(value_parser!(f64)).default_value("4"))
        .arg(many("callers", "1,8,32,64,256").value_parser(value_parser!(usize)))
        .arg(many("shares", "50,70,90").value_parser(value_parser!(u32)))
        .arg(Arg::new("workloads").long("workloads").default_value("target/bench/workloads"))
        .arg(Arg::new("docs").long("docs").help("A page with markers for the figures"))
        .arg(Arg::new("binary").long("binary").default_value(env!("CARGO_BIN_EXE_assay")))
        .arg(Arg::new("setting").long("setting").action(ArgAction::Append).help("A flag for the server"))
        .arg(Arg::new("bench").long("bench").action(ArgAction::SetTrue).hide(true))
}

impl Options {
    fn of(flags: &ArgMatches) -> Options {
        let path = |name: &str| flags.get_one::<String>(name).map(PathBuf::from);
        let given = |name: &str| path(name).expect("it has a default");
        Options {
            model: given("model"),
            binary: given("binary"),
            settings: flags.get_many("setting").unwrap_or_default().cloned().collect(),
            workloads: given("workloads"),
            rounds: *flags.get_one("rounds").expect("it has a default"),
            seconds: Duration::from_secs_f64(*flags.get_one("seconds").expect("it has a default")),
            callers: flags.get_many("callers").unwrap_or_default().copied().collect(),
            shares: flags.get_many("shares").unwrap_or_default().copied().collect(),
            docs: path("docs"),
        }
    }
}

#[allow(clippy::disallowed_methods)]
fn streams_and_waits(runtime: &Runtime, options: &Options) -> Result<Vec<Single>, Error> {
    let Options { binary, model, .. } = options;
    let (mut starts, mut loads, mut waits) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..STARTS {
        starts.push(runtime.block_on(start(binary, model, &[]))?);
    }
    let mut rows = Vec::new();
    let mut row = |what: &str, rounds: Vec<f64>| rows.push(Single { what: what.into(), rounds });
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    row("port bound after process start, ms", starts.iter().map(|s| ms(s.bound)).collect());
    row("SERVING after process start, ms", starts.iter().map(|s| ms(s.serving)).collect());
    drop(starts);
    for _ in 0..ROUNDS {
        loads.push(runtime.block_on(streams::load(binary, model))?);
        waits.push(runtime.block_on(evaluate::waiting(binary, model))?);
    }
    rows.extend(streams::rows(&loads));
    rows.extend(evaluate::rows(&waits));
    Ok(rows)
}

fn percentile(sorted: &[Duration], share: f64) -> Duration {
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}
