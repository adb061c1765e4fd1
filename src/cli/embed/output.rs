//! Vectors to JSONL or .npy.

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
pub(super) enum Format {
    Jsonl,
    Npy,
}

pub(super) struct Output {
    format: Format,
    to: To,
    rows: u64,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Line<'a> {
    Vector { index: u64, tokens: usize, truncated: bool, embedding: &'a [f32] },
    Failure { index: u64, error: &'a str },
}

enum To {
    /// Written line by line, for whoever reads along.
    Stdout(io::Stdout),
    File {
        writer: BufWriter<File>,
        path: PathBuf,
        partial: PathBuf,
    },
}

/// The header of version 1.0, with magic and length, filled up with spaces. Source: NEP 1.
const NPY_HEADER: usize = 128;

impl Output {
    /// # Errors
    /// If the file cannot be made, or the format cannot be written to a pipe.
    pub fn create(path: &str, format: Format) -> anyhow::Result<Output> {
        let to = match (path, format) {
            ("-", Format::Npy) => anyhow::bail!("--format npy needs --output FILE: its header comes last"),
            ("-", Format::Jsonl) => To::Stdout(io::stdout()),
            (path, _) => {
                let partial = partial(path);
                let file =
                    File::create(&partial).with_context(|| format!("cannot write {}", partial.display()))?;
                To::File { writer: BufWriter::new(file), path: path.into(), partial }
            }
        };
        let mut output = Output { format, to, rows: 0 };
        if format == Format::Npy {
            output.writer().write_all(&[b' '; NPY_HEADER])?;
        }
        Ok(output)
    }

    /// # Errors
    /// If it cannot be written; in .npy, if the line has no vector, as a row cannot be left out.
    pub fn write(&mut self, index: u64, answer: Result<EmbeddedInput, String>) -> anyhow::Result<()> {
        match (self.format, answer) {
            (Format::Jsonl, answer) => {
                let line = match &answer {
                    Ok(input) => Line::Vector {
                        index,
                        tokens: input.tokens,
                        truncated: input.truncated,
                        embedding: values(input)?,
                    },
                    Err(error) => Line::Failure { index, error },
                };
                let line = serde_json::to_string(&line)?;
                writeln!(self.writer(), "{line}")?;
            }
            (Format::Npy, Ok(input)) => {
                let writer = self.writer();
                values(&input)?.iter().try_for_each(|x| writer.write_all(&x.to_le_bytes()))?;
            }
            (Format::Npy, Err(error)) => {
                anyhow::bail!("line {}: {error}; --format jsonl can leave it out", index + 1)
            }
        }
        self.rows += 1;
        Ok(())
    }

    /// # Errors
    /// If it cannot be written.
    pub fn finish(mut self, dimensions: usize) -> anyhow::Result<()> {
        let rows = self.rows;
        self.writer().flush()?;
        if let To::File { mut writer, path, partial } = self.to {
            if self.format == Format::Npy {
                writer.seek(SeekFrom::Start(0))?;
                writer.write_all(&npy_header(rows, dimensions))?;
            }
            writer.into_inner().context("the output cannot be flushed")?.sync_all()?;
            std::fs::rename(&partial, &path).with_context(|| format!("cannot name {}", path.display()))?;
        }
        Ok(())
    }

    fn writer(&mut self) -> &mut dyn Write {
        match &mut self.to {
            To::Stdout(writer) => writer,
            To::File { writer, .. } => writer,
        }
    }
}

fn values(input: &EmbeddedInput) -> anyhow::Result<&[f32]> {
    match &input.vector {
        Vector::Values(values) => Ok(values),
        _ => anyhow::bail!("the engine answered in another encoding than asked for"),
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
