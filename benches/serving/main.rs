//! Benchmark of the release binary from outside: startup, unary calls, streams at full load, and shutdown.
//!
//! `cargo bench --bench serving -- [MODEL_DIR] [--help]` prints Markdown tables and writes target/bench/.

mod evaluate;
mod grpc;
mod h2_client;
mod in_process;
mod load;
mod report;
mod scoring;
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
use server::{Server, start};

type Error = Box<dyn std::error::Error + Send + Sync>;

const STARTS: usize = 9;
const ROUNDS: usize = 5;

/// Options of a run.
struct Options {
    model: PathBuf,
    binary: PathBuf,
    /// Flags of the server.
    settings: Vec<String>,
    workloads: PathBuf,
    rounds: usize,
    seconds: Duration,
    callers: Vec<usize>,
    /// Rates of the open loop, in percent of the throughput of the closed loop.
    shares: Vec<u32>,
    /// Page whose figures are updated.
    docs: Option<PathBuf>,
}

#[allow(clippy::disallowed_methods)]
fn main() -> Result<(), Error> {
    let flags = command().get_matches();
    let options = Options::of(&flags);
    // A single thread, to leave the cores to the server.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if let Some(&length) = flags.get_one::<u64>("soak") {
        let table = runtime.block_on(soak::run(&options, Duration::from_secs(length)))?;
        return options.publish("soak", &table);
    }
    let only = flags.get_one::<String>("only").map(String::as_str);
    if only.is_none_or(|part| part == "unary") {
        let report = runtime.block_on(unary::run(&options))?;
        write_json("target/bench/serving.json".as_ref(), &report)?;
        options.publish("serving", &report.markdown())?;
    }
    if only.is_none_or(|part| part == "streams") {
        streams_and_waits(&runtime, &options)?;
    }
    if only.is_none_or(|part| part == "scoring") {
        let seconds = Duration::from_secs_f64(*flags.get_one("scoring-seconds").expect("it has a default"));
        let scored = runtime.block_on(scoring::run(&options.binary, &options.model, seconds))?;
        options.publish("scoring", &singles(&scoring::rows(&scored)))?;
    }
    Ok(())
}

fn command() -> Command {
    let many = |name: &'static str, usual: &'static str| {
        Arg::new(name).long(name).value_delimiter(',').default_value(usual)
    };
    Command::new("serving")
        .arg(Arg::new("model").default_value("models/all-MiniLM-L6-v2").help("Directory of the model"))
        .arg(
            Arg::new("only")
                .long("only")
                .value_parser(["unary", "streams", "scoring"])
                .help("Run only this part"),
        )
        .arg(
            Arg::new("soak")
                .long("soak")
                .value_parser(value_parser!(u64))
                .help("Run 64 callers for this many seconds"),
        )
        .arg(Arg::new("rounds").long("rounds").value_parser(value_parser!(usize)).default_value("3"))
        .arg(Arg::new("seconds").long("seconds").value_parser(value_parser!(f64)).default_value("4"))
        .arg(
            Arg::new("scoring-seconds")
                .long("scoring-seconds")
                .value_parser(value_parser!(f64))
                .default_value("60")
                .help("Duration for which 64 callers send the largest samples, in seconds"),
        )
        .arg(many("callers", "1,8,32,64,256").value_parser(value_parser!(usize)))
        .arg(many("shares", "50,70,90").value_parser(value_parser!(u32)))
        .arg(Arg::new("workloads").long("workloads").default_value("target/bench/workloads"))
        .arg(Arg::new("docs").long("docs").help("Page with markers, whose figures are updated"))
        .arg(Arg::new("binary").long("binary").default_value(env!("CARGO_BIN_EXE_assay")))
        .arg(
            Arg::new("setting")
                .long("setting")
                .action(ArgAction::Append)
                .help("Flag of the server; can be repeated"),
        )
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

    /// Prints a table and writes it between its markers in the page.
    #[allow(clippy::print_stdout)]
    fn publish(&self, name: &str, table: &str) -> Result<(), Error> {
        println!("{table}");
        self.docs.as_deref().map_or(Ok(()), |page| write_between(page, name, table))
    }
}

#[allow(clippy::disallowed_methods)]
fn streams_and_waits(runtime: &Runtime, options: &Options) -> Result<(), Error> {
    let Options { binary, model, .. } = options;
    let (mut starts, mut loads, mut waits) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..STARTS {
        starts.push(runtime.block_on(start(binary, model, &[]))?);
    }
    let row = |what: &str, of: fn(&Server) -> Duration| Single {
        what: what.into(),
        rounds: starts.iter().map(|server| of(server).as_secs_f64() * 1e3).collect(),
    };
    let mut rows = vec![
        row("port bound after process start, ms", |server| server.bound),
        row("SERVING after process start, ms", |server| server.serving),
    ];
    drop(starts);
    for _ in 0..ROUNDS {
        loads.push(runtime.block_on(streams::load(binary, model))?);
    }
    rows.extend(streams::rows(&loads));
    options.publish("streams", &singles(&rows))?;
    for _ in 0..ROUNDS {
        waits.push(runtime.block_on(evaluate::waiting(binary, model))?);
    }
    options.publish("waits", &singles(&evaluate::rows(&waits)))
}

fn percentile(sorted: &[Duration], share: f64) -> Duration {
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}
