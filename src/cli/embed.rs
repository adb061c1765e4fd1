//! `assay embed`: embeds lines of text into JSON lines or a .npy file, with the engine of the server.

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
use output::{VectorFormat, VectorOutput};

/// Maximum number of inputs in flight: enough to fill the batches of all compute threads.
const IN_FLIGHT: usize = 1024;
/// Deadline of one line. No client waits for it, so it never passes in practice.
const LINE_DEADLINE: Duration = Duration::from_secs(24 * 3600);

pub(super) const AFTER_HELP: &str = "Input: one text per line, in UTF-8.

Output with --format jsonl, one object per line, in the order of the input:
  {\"index\": 0, \"tokens\": 6, \"truncated\": false, \"embedding\": [0.0074, …]}
  {\"index\": 1, \"error\": \"the line is empty\"}
Output with --format npy: a float32 array of shape [lines, dimensions]. The command fails if any
line fails.

Exit code: 0 if every line was embedded, 1 otherwise, 64 for invalid flags.

Examples:
  assay embed --model models/all-MiniLM-L6-v2 < texts.txt > embeddings.jsonl
  assay embed --model models/all-MiniLM-L6-v2 --input texts.txt --format npy --output embeddings.npy
  assay embed --model intfloat/e5-small-v2 --prompt-name query < queries.txt";

pub(super) fn arguments() -> Vec<Arg> {
    let option = |name: &'static str, placeholder: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(placeholder).help(help).help_heading("Embed")
    };
    vec![
        option("input", "FILE", "Input file, one text per line. - is standard input.").default_value("-"),
        option("output", "FILE", "Output file. It is created when it is complete. - is standard output.")
            .default_value("-"),
        option("format", "FORMAT", "Output format. npy requires --output FILE.")
            .value_parser(PossibleValuesParser::new(["jsonl", "npy"]))
            .default_value("jsonl"),
        option("prompt-name", "NAME", "Prompt of the model to prepend to each text, such as query. Default: the default prompt of the model."),
        option("truncation", "SIDE", "Truncation of texts above the token limit of the model: at the end, at the start, or none, which rejects them.")
            .value_parser(PossibleValuesParser::new(["none", "end", "start"]))
            .default_value("end"),
        option("dimensions", "N", "Number of leading dimensions to keep. Default: all dimensions of the model.").value_parser(value_parser!(usize)),
        option("no-normalize", "", "Disables the normalization of embeddings to unit length.")
            .num_args(0)
            .action(ArgAction::SetTrue),
    ]
}

/// Runs the command. Returns false if any line failed.
#[expect(clippy::disallowed_methods, reason = "the command only waits for the end of its input")]
pub(super) fn run(config: Config, flags: &ArgMatches) -> anyhow::Result<bool> {
    let text = |name: &str| flags.get_one::<String>(name).cloned().unwrap_or_default();
    let format = if text("format") == "npy" { VectorFormat::Npy } else { VectorFormat::Jsonl };
    let output = VectorOutput::create(&text("output"), format)?;
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
    tracing::info!(lines, failed, "all lines processed");
    Ok(failed == 0)
}

/// Reads lines on a separate thread, so that input that pauses does not delay finished embeddings.
#[expect(clippy::disallowed_methods, reason = "the command has no event loop to block")]
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
    // The thread ends with its input or its receiver. If it waits for a terminal, the exit of the process ends it.
    std::thread::Builder::new().name("assay-input".into()).spawn(read)?;
    Ok(receiver)
}

/// Waits for the model.
///
/// # Errors
/// The error of the first failed attempt to load it: the user waits, so the command does not retry.
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
        anyhow::bail!(
            "--dimensions {dimensions} must be from 1 to {}, the dimensions of the model",
            model.dimensions
        );
    }
    let name = flags.get_one::<String>("prompt-name").or(model.default_prompt_name.as_ref());
    let prompt = name.map(|name| {
        let known = model.prompts.keys().cloned().collect::<Vec<_>>().join(", ");
        model.prompts.get(name).with_context(|| {
            format!("--prompt-name {name} is unknown: the prompts of the model are {known:?}")
        })
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

/// Embeds all lines and writes the embeddings in their order. Returns the number of lines and of failed lines.
async fn embed(
    engine: &Engine,
    input: mpsc::Receiver<io::Result<String>>,
    options: InputOptions,
    mut output: VectorOutput,
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
                    return Ok(Err("the line is not valid UTF-8".to_owned()));
                }
                Err(error) => return Err(error).context("cannot read the input"),
            };
            let deadline = Deadline::after(LINE_DEADLINE);
            let result = engine.embed_in_stream(flow, line, options, deadline).await;
            anyhow::Ok(result.map_err(|error| message(&error)))
        }
    });
    let mut answers = lines.buffered(IN_FLIGHT);
    let (mut index, mut failed) = (0, 0);
    while let Some(answer) = answers.next().await {
        let answer: Result<EmbeddedInput, String> = answer?;
        if let Err(error) = &answer {
            tracing::warn!(line = index + 1, error, "cannot embed the line");
            failed += 1;
        }
        output.write(index, answer)?;
        index += 1;
        bar.set_position(index);
    }
    output.finish(options.vector.dimensions)?;
    Ok((index, failed))
}

fn message(error: &EmbedError) -> String {
    match error {
        EmbedError::TooLong(inputs) => inputs
            .iter()
            .map(|input| format!("the text has {} tokens; the limit is {}", input.tokens, input.limit))
            .collect(),
        other => other.to_string(),
    }
}

/// Temporary path of a file until it is complete.
fn partial(path: &str) -> PathBuf {
    PathBuf::from(format!("{path}.partial"))
}
