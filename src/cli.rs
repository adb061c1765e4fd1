//! The command line: serve, pull, embed, evaluate, healthcheck, config.

mod embed;
mod evaluate;
mod healthcheck;
mod progress;
mod pull;

#[cfg(feature = "fuzzing")]
pub(crate) use evaluate::fuzzing;

use std::process::ExitCode;

use clap::{ArgMatches, Command};

use crate::{
    app,
    config::{Config, Group, arguments, markdown},
    evaluate::markdown as metrics_page,
    telemetry,
};

/// A mistake in the settings or the flags, as sysexits.h has it.
const USAGE: u8 = 64;
const ALL: [Group; 7] = [
    Group::Serving,
    Group::Security,
    Group::Model,
    Group::Compute,
    Group::Judge,
    Group::Telemetry,
    Group::Log,
];

/// Flags that don't fit each other or the settings.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

const ABOUT: &str = "A sidecar that turns text into vectors behind gRPC, and never blocks its callers doing so.

Without a command it serves: it listens at once, answers health with NOT_SERVING while the model is fetched, checked \
and warmed in the background, and SERVING from then on.";

const EXAMPLES: &str = "Examples:
  assay --model models/all-MiniLM-L6-v2                serve a model from a directory
  assay --model BAAI/bge-small-zh-v1.5 --revision main serve one from the hub, cached for the next start
  assay pull --model BAAI/bge-small-zh-v1.5            fetch and check it, as an init container does
  assay embed < texts.txt > vectors.jsonl              no server at all
  assay evaluate --metrics lexical < samples.jsonl     scores without a server; assay evaluate --help has more
  assay metrics                                        what each metric measures and needs
  assay healthcheck                                    exit code 0 if the server on this machine is SERVING
  assay config show                                    the settings in force and where they came from

Every setting is a flag, an environment variable ASSAY_… and a key of the --config file, in that order.";

/// Runs the program; the exit code is 64 for a mistake in the settings, 1 for a failure.
pub fn main() -> ExitCode {
    let matches = command().try_get_matches().unwrap_or_else(|error| {
        // Help and version come this way too.
        let _ = error.print();
        let code = if error.use_stderr() { i32::from(USAGE) } else { 0 };
        std::process::exit(code)
    });
    match matches.subcommand() {
        Some(("pull", flags)) => with_config(flags, |config| pull::run(config).map(code)),
        Some(("embed", flags)) => with_config(flags, |config| embed::run(config, flags).map(code)),
        Some(("evaluate", flags)) => with_config(flags, |config| evaluate::run(config, flags)),
        Some(("healthcheck", flags)) => finish(healthcheck::run(flags).map(code)),
        Some(("metrics", _)) => print_text(&metrics_page::markdown()),
        Some(("config", flags)) => match flags.subcommand() {
            Some(("show", flags)) => {
                read(flags).map_or_else(|code| code, |config| print_text(&config.shown.to_string()))
            }
            Some(("table", _)) => print_text(&markdown()),
            Some((_, flags)) => read(flags).map_or_else(|code| code, |_| ExitCode::SUCCESS),
            None => ExitCode::from(USAGE),
        },
        Some((_, flags)) => with_config(flags, serve),
        None => with_config(&matches, serve),
    }
}

/// The whole command line.
pub fn command() -> Command {
    let settings = |name: &'static str, about: &'static str, groups: &[Group]| {
        Command::new(name).about(about).args(arguments(groups))
    };
    Command::new("assay")
        .about(ABOUT)
        .after_help(EXAMPLES)
        .version(env!("CARGO_PKG_VERSION"))
        .args_conflicts_with_subcommands(true)
        .max_term_width(120)
        .args(arguments(&ALL))
        .subcommand(settings("serve", "Serve (what is done without a command)", &ALL))
        .subcommand(settings(
            "pull",
            "Fetch the model into the cache and check it",
            &[Group::Model, Group::Log],
        ))
        .subcommand(
            settings(
                "embed",
                "Texts to vectors, without a server",
                &[Group::Model, Group::Compute, Group::Log],
            )
            .args(embed::arguments()),
        )
        .subcommand(evaluate::arguments(settings(
            "evaluate",
            "Samples to scores, without a server",
            &[Group::Judge, Group::Model, Group::Compute, Group::Log],
        )))
        .subcommand(Command::new("metrics").about("Print all metrics, what they need and mean, as Markdown"))
        .subcommand(
            Command::new("healthcheck")
                .about("Ask a running server for its health; exit code 0 if it is SERVING, 1 if not")
                .args(healthcheck::arguments()),
        )
        .subcommand(
            Command::new("config")
                .about("Check or show the settings in force")
                .subcommand_required(true)
                .subcommand(settings("check", "Exit code 64 and every mistake, or 0", &ALL))
                .subcommand(settings("show", "Print them with their origins, secrets hidden", &ALL))
                .subcommand(
                    Command::new("table").about("Print all there are, as the Markdown table of the README"),
                ),
        )
}

fn serve(config: Config) -> anyhow::Result<ExitCode> {
    app::run(config.app).map(code)
}

/// False is a failure that was told already.
fn code(succeeded: bool) -> ExitCode {
    if succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn with_config(flags: &ArgMatches, run: impl FnOnce(Config) -> anyhow::Result<ExitCode>) -> ExitCode {
    let config = match read(flags) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let _log = match telemetry::start(&config.telemetry) {
        Ok(guard) => guard,
        Err(error) => return finish(Err(anyhow::anyhow!(error))),
    };
    finish(run(config))
}

#[expect(clippy::print_stderr, reason = "mistakes in the settings come before the log")]
fn read(flags: &ArgMatches) -> Result<Config, ExitCode> {
    Config::read(flags).map_err(|mistakes| {
        eprint!("{mistakes}");
        ExitCode::from(USAGE)
    })
}

#[expect(clippy::print_stdout, reason = "it is what was asked for")]
fn print_text(text: &str) -> ExitCode {
    print!("{text}");
    ExitCode::SUCCESS
}

#[expect(clippy::print_stderr, reason = "the last word of a program that failed")]
fn finish(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("assay: {error:#}");
        if error.is::<Usage>() { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        super::command().debug_assert();
    }
}
