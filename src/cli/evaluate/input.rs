//! Lines of JSON, as they come from a file or a pipe.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
};

use anyhow::Context as _;
use tokio::sync::mpsc;

/// Lines that are read ahead.
const AHEAD: usize = 64;
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// One line without its end.
pub(super) struct Line {
    /// From 1.
    pub number: u64,
    pub bytes: Vec<u8>,
}

pub(super) struct Input {
    pub lines: mpsc::Receiver<io::Result<Line>>,
    /// Lines with text; None where they can't be counted before they are read.
    pub total: Option<u64>,
}

impl Input {
    /// Starts to read on a thread of its own; empty lines are left out. `-` is standard input.
    ///
    /// # Errors
    /// If the file can't be read, or the operating system gives no thread.
    pub fn open(path: &str) -> anyhow::Result<Input> {
        let (input, total): (Box<dyn Read + Send>, _) = match path {
            "-" => (Box::new(io::stdin()), None),
            path => {
                let total = count(path).with_context(|| format!("cannot read {path}"))?;
                (Box::new(open(path).with_context(|| format!("cannot read {path}"))?), total)
            }
        };
        let (sender, lines) = mpsc::channel(AHEAD);
        let read = move || read(BufReader::new(input), &sender);
        // It ends with its input or its reader; a terminal that gives neither is left behind at exit.
        std::thread::Builder::new().name("assay-input".into()).spawn(read)?;
        Ok(Input { lines, total })
    }
}

#[expect(clippy::disallowed_methods, reason = "there is no reactor to hold up")]
fn open(path: &str) -> io::Result<File> {
    File::open(path)
}

/// Of a file; what is no file can be read only once.
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

/// Sends every line that has text, and the first error.
pub(super) fn read(mut reader: impl BufRead, lines: &mpsc::Sender<io::Result<Line>>) {
    for number in 1.. {
        let mut bytes = Vec::new();
        let line = match next_line(&mut reader, &mut bytes) {
            Ok(false) => return,
            Ok(true) if is_empty(&bytes) => continue,
            Ok(true) => Ok(Line { number, bytes: without_mark(number, bytes) }),
            Err(error) => Err(error),
        };
        let ends = line.is_err();
        if lines.blocking_send(line).is_err() || ends {
            return;
        }
    }
}

/// False at the end.
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

/// Some editors put one before the first line.
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
    fn empty_lines_are_left_out_and_counted_as_lines() {
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
