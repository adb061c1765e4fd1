//! Output of embeddings as JSON lines or as a .npy file.

use std::{
    fs::File,
    io::{self, BufWriter, Seek, SeekFrom, Write},
    path::PathBuf,
};

use anyhow::Context as _;
use serde::Serialize;

use super::partial;
use crate::embed::{EmbeddedInput, Vector};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
/// Format of the output.
pub(super) enum VectorFormat {
    Jsonl,
    Npy,
}

/// The output, a file or standard output.
pub(super) struct VectorOutput {
    format: VectorFormat,
    sink: VectorSink,
    rows: u64,
}

#[derive(Serialize)]
#[serde(untagged)]
enum VectorLine<'a> {
    Vector { index: u64, tokens: usize, truncated: bool, embedding: &'a [f32] },
    Failure { index: u64, error: &'a str },
}

enum VectorSink {
    /// Flushed after each line, for a reader at the other end of the pipe.
    Stdout(io::Stdout),
    File {
        writer: BufWriter<File>,
        path: PathBuf,
        partial: PathBuf,
    },
}

/// Length of the .npy header, format version 1.0, in bytes: magic, length and padding included. Source: NEP 1.
const NPY_HEADER: usize = 128;

impl VectorOutput {
    /// Creates the output; `-` is standard output.
    ///
    /// # Errors
    /// A file that cannot be created, or .npy on standard output.
    pub fn create(path: &str, format: VectorFormat) -> anyhow::Result<VectorOutput> {
        let sink = match (path, format) {
            ("-", VectorFormat::Npy) => {
                anyhow::bail!("--format npy requires --output FILE: the header is written last")
            }
            ("-", VectorFormat::Jsonl) => VectorSink::Stdout(io::stdout()),
            (path, _) => {
                let partial = partial(path);
                let file =
                    File::create(&partial).with_context(|| format!("cannot write {}", partial.display()))?;
                VectorSink::File { writer: BufWriter::new(file), path: path.into(), partial }
            }
        };
        let mut output = VectorOutput { format, sink, rows: 0 };
        if format == VectorFormat::Npy {
            output.writer().write_all(&[b' '; NPY_HEADER])?;
        }
        Ok(output)
    }

    /// Writes the embedding or the error of one line.
    ///
    /// # Errors
    /// A failed write; in .npy also a line without embedding, because the array cannot omit a row.
    pub fn write(&mut self, index: u64, answer: Result<EmbeddedInput, String>) -> anyhow::Result<()> {
        match (self.format, answer) {
            (VectorFormat::Jsonl, answer) => {
                let line = match &answer {
                    Ok(input) => VectorLine::Vector {
                        index,
                        tokens: input.tokens,
                        truncated: input.truncated,
                        embedding: values(input)?,
                    },
                    Err(error) => VectorLine::Failure { index, error },
                };
                let line = serde_json::to_string(&line)?;
                writeln!(self.writer(), "{line}")?;
            }
            (VectorFormat::Npy, Ok(input)) => {
                let writer = self.writer();
                values(&input)?.iter().try_for_each(|x| writer.write_all(&x.to_le_bytes()))?;
            }
            (VectorFormat::Npy, Err(error)) => {
                anyhow::bail!(
                    "line {}: {error}; fix the line, or use --format jsonl, which reports errors per line",
                    index + 1
                )
            }
        }
        self.rows += 1;
        Ok(())
    }

    /// Completes the output, and moves a file to its final path.
    ///
    /// # Errors
    /// A failed write.
    pub fn finish(mut self, dimensions: usize) -> anyhow::Result<()> {
        let rows = self.rows;
        self.writer().flush()?;
        if let VectorSink::File { mut writer, path, partial } = self.sink {
            if self.format == VectorFormat::Npy {
                writer.seek(SeekFrom::Start(0))?;
                writer.write_all(&npy_header(rows, dimensions))?;
            }
            writer.into_inner().context("cannot flush the output")?.sync_all()?;
            std::fs::rename(&partial, &path)
                .with_context(|| format!("cannot rename the temporary file to {}", path.display()))?;
        }
        Ok(())
    }

    fn writer(&mut self) -> &mut dyn Write {
        match &mut self.sink {
            VectorSink::Stdout(writer) => writer,
            VectorSink::File { writer, .. } => writer,
        }
    }
}

fn values(input: &EmbeddedInput) -> anyhow::Result<&[f32]> {
    match &input.vector {
        Vector::Values(values) => Ok(values),
        _ => anyhow::bail!("the engine returned a different encoding than requested"),
    }
}

fn npy_header(rows: u64, dimensions: usize) -> Vec<u8> {
    let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {dimensions}), }}");
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend(((NPY_HEADER - 10) as u16).to_le_bytes());
    header.extend(text.bytes());
    header.resize(NPY_HEADER - 1, b' ');
    header.push(b'\n');
    header
}
