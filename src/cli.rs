//! The command line, with the commands serve, pull, embed, evaluate, metrics, healthcheck and config.

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
    config::{Config, SettingGroup, arguments, hidden_arguments, settings_markdown},
    evaluate::markdown as metrics_page,
    telemetry,
};

/// Exit code of invalid settings or flags: EX_USAGE of sysexits.h.
const USAGE: u8 = 64;

/// Groups of settings that only the server uses. Other commands accept them, but do not list them.
const SERVER_ONLY: [SettingGroup; 1] = [SettingGroup::Watchdog];

/// Invalid flags of a command.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct UsageError(String);

const ABOUT: &str = "A gRPC sidecar that computes text embeddings and evaluates the answers of RAG systems, on CPUs.

Without a command, assay runs the server. It listens immediately and loads the model in the background: health checks \
report NOT_SERVING until the model is ready, and SERVING from then on.";

const AFTER_HELP: &str = "Configuration:
  Every setting is a flag, an environment variable and a key of the TOML file of --config:
  --max-inputs 64, ASSAY_MAX_INPUTS=64, max_inputs = 64. Flags take precedence over environment
  variables, and these over the file. docs/CONFIGURATION.md describes all settings with examples.

Exit codes:
  0   success
  1   failure; for the server, also calls that were cancelled at shutdown
  64  invalid settings or flags; all errors are printed

Examples:
  assay --model models/all-MiniLM-L6-v2                     serve a model from a directory
  assay --model BAAI/bge-small-zh-v1.5 --threads 3          serve a model from the hub
  assay --config assay.toml                                 serve with the settings of a file
  assay embed --model models/all-MiniLM-L6-v2 < texts.txt   embed a file without a server
  assay evaluate --metrics lexical < samples.jsonl          evaluate a file without a server

assay COMMAND --help describes each command, with examples.";

const SERVE_HELP: &str = "Examples:
  assay serve --model models/all-MiniLM-L6-v2
  assay serve --listen 0.0.0.0:50051 --tls-cert tls.crt --tls-key tls.key --token-file tokens
  assay serve --judge-url http://127.0.0.1:11434/v1 --judge-model qwen3:8b";

const PULL_HELP: &str =
    "Prints the directory of the model on standard output. A damaged file is downloaded again. In an
init container, it allows the server to run with --offline true.

Exit code: 0 if the model is complete and loads, 1 otherwise, 64 for invalid settings.

Examples:
  assay pull --model BAAI/bge-small-zh-v1.5
  assay pull --model BAAI/bge-small-zh-v1.5 --revision 7999e1d --cache-dir /var/cache/models
  HF_ENDPOINT=https://mirror.example assay pull --model BAAI/bge-small-zh-v1.5";

const METRICS_HELP: &str = "Examples:
  assay metrics                    all metrics with definition, required fields, range and source
  assay metrics | grep '^###'      names only";

const CONFIG_HELP: &str = "Examples:
  assay config check --config assay.toml      validate a file
  assay config show --max-inputs 64           effective settings with their sources";

const CONFIG_CHECK_HELP: &str = "Exit code: 0 if all settings are valid, 64 otherwise.

Examples:
  assay config check --config assay.toml
  ASSAY_MAX_INPUTS=64 assay config check";

const CONFIG_SHOW_HELP: &str =
    "Prints every setting in the format of the file, each with its source: flag, environment variable,
file or default. Secrets and credentials in URLs are hidden.

Examples:
  assay config show --config assay.toml
  assay config show | grep -v '# default'     only settings that differ from the defaults";

/// Runs the program. Exit code 64 means invalid settings or flags, 1 a failure.
pub fn main() -> ExitCode {
    let matches = command().try_get_matches().unwrap_or_else(|error| {
        // clap returns --help and --version as errors, too.
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
                read(flags).map_or_else(|code| code, |config| print_text(&config.effective.to_string()))
            }
            Some(("table", _)) => print_text(&settings_markdown()),
            Some((_, flags)) => read(flags).map_or_else(|code| code, |_| ExitCode::SUCCESS),
            None => ExitCode::from(USAGE),
        },
        Some((_, flags)) => with_config(flags, serve),
        None => with_config(&matches, serve),
    }
}

/// Defines the command line with all commands.
pub fn command() -> Command {
    Command::new("assay")
        .about(ABOUT)
        .after_help(AFTER_HELP)
        .version(env!("CARGO_PKG_VERSION"))
        .args_conflicts_with_subcommands(true)
        .max_term_width(120)
        .args(arguments(&SettingGroup::ALL))
        .subcommands([serve_command(), pull_command(), embed_command(), evaluate_command()])
        .subcommand(
            Command::new("metrics")
                .about("Print the reference of all metrics, in Markdown")
                .after_help(METRICS_HELP),
        )
        .subcommand(
            Command::new("healthcheck")
                .about("Check the health of a running server")
                .after_help(healthcheck::AFTER_HELP)
                .args(healthcheck::arguments()),
        )
        .subcommand(config_command())
}

fn serve_command() -> Command {
    Command::new("serve")
        .about("Run the server (the default without a command)")
        .after_help(SERVE_HELP)
        .args(arguments(&SettingGroup::ALL))
}

fn pull_command() -> Command {
    Command::new("pull")
        .about("Download a model into the cache and verify it")
        .after_help(PULL_HELP)
        .args(arguments(&[SettingGroup::Model, SettingGroup::Hub, SettingGroup::Log]))
        .args(hidden_arguments(&SERVER_ONLY))
}

fn embed_command() -> Command {
    let groups = [SettingGroup::Model, SettingGroup::Hub, SettingGroup::Compute, SettingGroup::Log];
    Command::new("embed")
        .about("Embed lines of text without a server")
        .after_help(embed::AFTER_HELP)
        .args(embed::arguments())
        .args(arguments(&groups))
        .args(hidden_arguments(&SERVER_ONLY))
}

fn evaluate_command() -> Command {
    let groups = [
        SettingGroup::Judge,
        SettingGroup::Model,
        SettingGroup::Hub,
        SettingGroup::Compute,
        SettingGroup::Log,
    ];
    Command::new("evaluate")
        .about("Evaluate a file of samples without a server")
        .after_help(evaluate::AFTER_HELP)
        .args(evaluate::arguments())
        .args(arguments(&groups))
        .args(hidden_arguments(&SERVER_ONLY))
}

fn config_command() -> Command {
    let settings = |name: &'static str| Command::new(name).args(arguments(&SettingGroup::ALL));
    Command::new("config")
        .about("Validate or print settings")
        .after_help(CONFIG_HELP)
        .subcommand_required(true)
        .subcommand(
            settings("check")
                .about("Validate all settings and print every error")
                .after_help(CONFIG_CHECK_HELP),
        )
        .subcommand(
            settings("show")
                .about("Print the effective settings with their sources")
                .after_help(CONFIG_SHOW_HELP),
        )
        .subcommand(
            Command::new("table")
                .about("Print the reference of all settings, in Markdown, as in docs/CONFIGURATION.md"),
        )
}

fn serve(config: Config) -> anyhow::Result<ExitCode> {
    app::run(config.app).map(code)
}

/// Converts the result of a command; false means a failure that has been reported already.
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

#[expect(clippy::print_stderr, reason = "errors in the settings are printed before logging starts")]
fn read(flags: &ArgMatches) -> Result<Config, ExitCode> {
    Config::read(flags).map_err(|errors| {
        eprint!("{errors}");
        ExitCode::from(USAGE)
    })
}

#[expect(clippy::print_stdout, reason = "the requested output")]
fn print_text(text: &str) -> ExitCode {
    print!("{text}");
    ExitCode::SUCCESS
}

#[expect(clippy::print_stderr, reason = "the error of the whole program")]
fn finish(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("assay: {error:#}");
        if error.is::<UsageError>() { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        super::command().debug_assert();
    }
}
