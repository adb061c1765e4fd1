//! `assay embed`: lines of text to vectors in JSONL or .npy, through the same engine as the server.

mod output;

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use clap::{Arg, ArgAction, ArgMatches, builder::PossibleValuesParser, value_parser};
use futures::StreamExt;
use indicatif::ProgressBar;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::progress;
use crate::{
    config::Config,
    deadline::Deadline,
    embed::{EmbedError, EmbeddedInput, Embedder, Engine, InputOptions, VectorEncoding, VectorOptions},
    model::Truncation,
};
use output::{Format, Output};

/// Enough to keep every compute thread in full batches.
const IN_FLIGHT: usize = 1024;
/// Nobody waits for one line.
const NO_HURRY: Duration = Duration::from_secs(24 * 3600);

pub(super) fn arguments() -> Vec<Arg> {
    let option = |name: &'static str, placeholder: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(placeholder).help(help).help_heading("Embed")
    };
    vec![
        option("input", "FILE", "One text per line, UTF-8; - for standard input").default_value("-"),
        option("output", "FILE", "Where to write, - for standard output; a file appears when it is complete")
            .default_value("-"),
        option("format", "FORMAT", "jsonl: {\"index\", \"embedding\", \"tokens\", \"truncated\"} or {\"index\", \"error\"} a line; npy: a float32 array, to a file only")
            .value_parser(PossibleValuesParser::new(["jsonl", "npy"]))
            .default_value("jsonl"),
        option("prompt-name", "NAME", "One of the model's own prompts, such as query"),
        option("truncation", "SIDE", "What to do with a text of too many tokens: none refuses it")
            .value_parser(PossibleValuesParser::new(["none", "end", "start"]))
            .default_value("end"),
        option("dimensions", "N", "Leading dimensions to keep").value_parser(value_parser!(usize)),
        option("no-normalize", "", "Do not scale vectors to unit length")
            .num_args(0)
            .action(ArgAction::SetTrue),
    ]
}

/// False if any line failed.
#[expect(clippy::disallowed_methods, reason = "the program exists to wait for the end of its input")]
pub(super) fn run(config: Config, flags: &ArgMatches) -> anyhow::Result<bool> {
    let text = |name: &str| flags.get_one::<String>(name).cloned().unwrap_or_default();
    let format = if text("format") == "npy" { Format::Npy } else { Format::Jsonl };
    let output = Output::create(&text("output"), format)?;
    let input = open(&text("input"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let embedder = Embedder::start(config.app.embed, &mut Registry::default())?;
    let bar = progress::inputs();
    let result = runtime.block_on(async {
        let engine = warm(&embedder, &bar).await?;
        let options = options(engine, flags)?;
        embed(engine, input, options, output, &bar).await
    });
    bar.finish_and_clear();
    drop(runtime);
    embedder.stop();
    let (lines, failed) = result?;
    tracing::info!(lines, failed, "embedded");
    Ok(failed == 0)
}

/// Lines as they come, read by a thread: input that pauses must not hold finished vectors back.
#[expect(clippy::disallowed_methods, reason = "there is no reactor to hold up")]
fn open(path: &str) -> anyhow::Result<mpsc::Receiver<io::Result<String>>> {
    let input: Box<dyn io::Read + Send> = match path {
        "-" => Box::new(io::stdin()),
        path => Box::new(File::open(path).with_context(|| format!("cannot read {path}"))?),
    };
    let (lines, receiver) = mpsc::channel(IN_FLIGHT);
    let read = move || {
        for line in BufReader::new(input).lines() {
            let ends = line.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::InvalidData);
            if lines.blocking_send(line).is_err() || ends {
                return;
            }
        }
    };
    // It ends with its input or its reader; a terminal that gives neither is left behind at exit.
    std::thread::Builder::new().name("assay-input".into()).spawn(read)?;
    Ok(receiver)
}

/// Waits for the model; one failed attempt ends the program, as someone waits in front of it.
pub(super) async fn warm<'a>(embedder: &'a Embedder, bar: &ProgressBar) -> anyhow::Result<&'a Engine> {
    let mut status = embedder.status();
    loop {
        let now = status.borrow_and_update().clone();
        bar.set_message(now.detail.clone());
        if now.is_serving() {
            bar.set_message("");
            return Ok(embedder.ready()?);
        }
        if let Some(error) = now.last_error {
            anyhow::bail!("{error}");
        }
        status.changed().await?;
    }
}

fn options(engine: &Engine, flags: &ArgMatches) -> anyhow::Result<InputOptions> {
    let model = engine.model();
    let dimensions = flags.get_one::<usize>("dimensions").copied().unwrap_or(model.dimensions);
    if dimensions == 0 || dimensions > model.dimensions {
        anyhow::bail!("--dimensions {dimensions}: the model has {}", model.dimensions);
    }
    let name = flags.get_one::<String>("prompt-name").or(model.default_prompt_name.as_ref());
    let prompt = name.map(|name| {
        let known = model.prompts.keys().cloned().collect::<Vec<_>>().join(", ");
        model.prompts.get(name).with_context(|| format!("--prompt-name {name}: the model has {known:?}"))
    });
    Ok(InputOptions {
        prompt: Arc::from(prompt.transpose()?.map_or("", String::as_str)),
        truncation: match flags.get_one::<String>("truncation").map(String::as_str) {
            Some("none") => Truncation::None,
            Some("start") => Truncation::Start,
            _ => Truncation::End,
        },
        vector: VectorOptions {
            dimensions,
            normalize: model.normalizes && !flags.get_flag("no-normalize"),
            encoding: VectorEncoding::Float32Values,
        },
    })
}

/// Lines and failed lines. Vectors are written in the order of the lines, as they come.
async fn embed(
    engine: &Engine,
    input: mpsc::Receiver<io::Result<String>>,
    options: InputOptions,
    mut output: Output,
    bar: &ProgressBar,
) -> anyhow::Result<(u64, u64)> {
    let flow = engine.stream_flow();
    let lines = ReceiverStream::new(input).map(|line| {
        let options = options.clone();
        async move {
            let line = match line {
                Ok(line) if line.is_empty() => return Ok(Err("the line is empty".to_owned())),
                Ok(line) => line,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    return Ok(Err("the line is not UTF-8".to_owned()));
                }
                Err(error) => return Err(error).context("the input cannot be read"),
            };
            let deadline = Deadline::after(NO_HURRY);
            let result = engine.embed_in_stream(flow, line, options, deadline).await;
            anyhow::Ok(result.map_err(|error| readable(&error)))
        }
    });
    let mut answers = lines.buffered(IN_FLIGHT);
    let (mut index, mut failed) = (0, 0);
    while let Some(answer) = answers.next().await {
        let answer: Result<EmbeddedInput, String> = answer?;
        if let Err(error) = &answer {
            tracing::warn!(line = index + 1, error, "a line has no vector");
            failed += 1;
        }
        output.write(index, answer)?;
        index += 1;
        bar.set_position(index);
    }
    output.finish(options.vector.dimensions)?;
    Ok((index, failed))
}

fn readable(error: &EmbedError) -> String {
    match error {
        EmbedError::TooLong(inputs) => inputs
            .iter()
            .map(|input| format!("{} tokens, the model takes {}", input.tokens, input.limit))
            .collect(),
        other => other.to_string(),
    }
}

/// A file that appears under its name when it is complete.
fn partial(path: &str) -> PathBuf {
    PathBuf::from(format!("{path}.partial"))
}
