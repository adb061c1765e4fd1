//! Input lines of a file or a pipe.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
};

use anyhow::Context as _;
use tokio::sync::mpsc;

/// Maximum number of lines read ahead.
const READ_AHEAD: usize = 64;
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// One line without its line end.
pub(super) struct InputLine {
    /// Number of the line, from 1.
    pub number: u64,
    pub bytes: Vec<u8>,
}

/// The lines of the input, read on a separate thread.
pub(super) struct SampleInput {
    pub lines: mpsc::Receiver<io::Result<InputLine>>,
    /// Number of non-empty lines; `None` if the input is a pipe, which cannot be counted in advance.
    pub total: Option<u64>,
}

impl SampleInput {
    /// Opens the input and starts to read it. Empty lines are skipped. `-` is standard input.
    ///
    /// # Errors
    /// A file that cannot be read, or a thread that cannot be started.
    pub fn open(path: &str) -> anyhow::Result<SampleInput> {
        let (input, total): (Box<dyn Read + Send>, _) = match path {
            "-" => (Box::new(io::stdin()), None),
            path => {
                let total = count(path).with_context(|| format!("cannot read {path}"))?;
                (Box::new(open(path).with_context(|| format!("cannot read {path}"))?), total)
            }
        };
        let (sender, lines) = mpsc::channel(READ_AHEAD);
        let read = move || read(BufReader::new(input), &sender);
        // The thread ends with its input or its receiver. If it waits for a terminal, the exit of the process ends it.
        std::thread::Builder::new().name("assay-input".into()).spawn(read)?;
        Ok(SampleInput { lines, total })
    }
}

#[expect(clippy::disallowed_methods, reason = "the command has no event loop to block")]
fn open(path: &str) -> io::Result<File> {
    File::open(path)
}

/// Counts the non-empty lines of a regular file; `None` for other files, which can be read only once.
fn count(path: &str) -> io::Result<Option<u64>> {
    let file = open(path)?;
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let (mut reader, mut line, mut count) = (BufReader::with_capacity(1 << 20, file), Vec::new(), 0);
    while next_line(&mut reader, &mut line)? {
        count += u64::from(!is_empty(&line));
    }
    Ok(Some(count))
}

/// Sends every non-empty line, and the first error.
pub(super) fn read(mut reader: impl BufRead, lines: &mpsc::Sender<io::Result<InputLine>>) {
    for number in 1.. {
        let mut bytes = Vec::new();
        let line = match next_line(&mut reader, &mut bytes) {
            Ok(false) => return,
            Ok(true) if is_empty(&bytes) => continue,
            Ok(true) => Ok(InputLine { number, bytes: without_mark(number, bytes) }),
            Err(error) => Err(error),
        };
        let ends = line.is_err();
        if lines.blocking_send(line).is_err() || ends {
            return;
        }
    }
}

/// Reads the next line without its line end. Returns false at the end of the input.
fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let read = reader.read_until(b'\n', line)?;
    while line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        line.pop();
    }
    Ok(read > 0)
}

fn is_empty(line: &[u8]) -> bool {
    line.trim_ascii().is_empty()
}

/// Removes the byte order mark that some editors write before the first line.
fn without_mark(number: u64, line: Vec<u8>) -> Vec<u8> {
    match line.strip_prefix(BYTE_ORDER_MARK) {
        Some(rest) if number == 1 => rest.to_vec(),
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_lines_are_skipped_and_keep_their_numbers() {
        let (sender, mut lines) = mpsc::channel(9);
        read("\u{feff}{}\r\n\n \n{1}".as_bytes(), &sender);
        drop(sender);
        let mut found = Vec::new();
        while let Some(line) = lines.blocking_recv() {
            let line = line.expect("a line");
            found.push((line.number, line.bytes));
        }
        assert_eq!(found, [(1, b"{}".to_vec()), (4, b"{1}".to_vec())]);
    }
}
