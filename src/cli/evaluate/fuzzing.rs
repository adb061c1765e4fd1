//! Entry points for fuzzing: the rows of data sets, and of earlier results.

use tokio::sync::mpsc;

use super::{
    input,
    row::{self, ParsedRow, RowKey},
    sample,
};

/// Reads `data` as a file of samples, and as a file of results that a stopped run has left.
pub fn dataset_rows(data: &[u8]) {
    let mut previous = 0;
    let (sender, mut lines) = mpsc::channel(data.len().max(1));
    input::read(data, &sender);
    drop(sender);
    while let Some(line) = lines.blocking_recv() {
        let line = line.expect("bytes in memory can be read");
        assert!(line.number > previous, "lines are numbered in order");
        previous = line.number;
        if let Err(error) = sample::parse(&line.bytes) {
            let key = RowKey { line: line.number, digest: String::new() };
            let written: ParsedRow =
                serde_json::from_str(&row::invalid(&key, &error)).expect("a row can be read back");
            assert!(written.line == line.number && written.error.is_some());
        }
        if let Ok(written) = serde_json::from_slice::<ParsedRow>(&line.bytes) {
            let _ = written.has_failures();
        }
    }
}
