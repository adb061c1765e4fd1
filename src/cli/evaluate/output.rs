//! The output of results, one row per line. Each row is appended as soon as it is complete, so that a killed run loses
//! none.
//!
//! During a run the rows are in order of completion. At the end they are sorted in the order of the input.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{File, OpenOptions, TryLockError},
    io::{self, BufRead, BufReader, BufWriter, Write},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::row::{ParsedRow, RowKey};

/// Prefix of every row. A file with other lines was not written by this program.
const ROW_PREFIX: &[u8] = b"{\"line\":";

/// The output, a file or a stream, with an index of its rows.
pub(super) struct ResultOutput {
    sink: ResultSink,
    /// Rows by line number. If a line has several rows, the last one is valid.
    rows: BTreeMap<u64, RowLocation>,
    /// Rows of earlier runs, by line number.
    earlier_rows: HashMap<u64, EarlierRow>,
}

/// A row that an earlier run has written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EarlierRow {
    pub digest: String,
    pub has_failures: bool,
}

enum ResultSink {
    Stream(Box<dyn Write + Send>),
    File { file: File, path: PathBuf, end: u64 },
}

#[derive(Clone, Copy)]
struct RowLocation {
    offset: u64,
    bytes: usize,
    /// True if this run has written the row or kept it.
    is_current: bool,
}

impl ResultOutput {
    /// Opens and locks the file, and indexes the rows of earlier runs. An incomplete last row is removed. `-` is standard
    /// output, which, like any file that is not regular, has no earlier rows.
    ///
    /// # Errors
    /// A file that another run has locked, that contains other lines than rows, or that cannot be written.
    pub fn open(path: &str, fresh: bool) -> anyhow::Result<ResultOutput> {
        if path == "-" {
            return Ok(ResultOutput::new(ResultSink::Stream(Box::new(io::stdout()))));
        }
        let path = Path::new(path);
        let file = open_locked(path)?;
        if !file.metadata()?.is_file() {
            return Ok(ResultOutput::new(ResultSink::Stream(Box::new(file))));
        }
        if fresh {
            file.set_len(0)?;
        }
        let mut output = ResultOutput::new(ResultSink::File { file, path: path.to_owned(), end: 0 });
        output.find_rows().with_context(|| path.display().to_string())?;
        Ok(output)
    }

    fn new(sink: ResultSink) -> ResultOutput {
        ResultOutput { sink, rows: BTreeMap::new(), earlier_rows: HashMap::new() }
    }

    /// Takes the rows of earlier runs, by line number.
    pub fn take_earlier_rows(&mut self) -> HashMap<u64, EarlierRow> {
        std::mem::take(&mut self.earlier_rows)
    }

    /// Returns true if the output is a regular file, from which rows can be read again.
    pub fn is_file(&self) -> bool {
        matches!(self.sink, ResultSink::File { .. })
    }

    /// Appends a row. Once this returns, the row survives the end of the process.
    ///
    /// # Errors
    /// A failed write.
    pub fn add(&mut self, line: u64, row: &str) -> io::Result<()> {
        let bytes = format!("{row}\n").into_bytes();
        match &mut self.sink {
            ResultSink::Stream(writer) => {
                writer.write_all(&bytes)?;
                writer.flush()
            }
            ResultSink::File { file, end, .. } => {
                file.write_all_at(&bytes, *end)?;
                let location = RowLocation { offset: *end, bytes: bytes.len() - 1, is_current: true };
                self.rows.insert(line, location);
                *end += bytes.len() as u64;
                Ok(())
            }
        }
    }

    /// Keeps the row of an earlier run, and returns it.
    ///
    /// # Errors
    /// A row that cannot be read.
    pub fn keep(&mut self, line: u64) -> io::Result<String> {
        let location = self.rows.get_mut(&line).ok_or(io::ErrorKind::NotFound)?;
        location.is_current = true;
        let location = *location;
        self.read(location)
    }

    /// Returns the rows of this run, in the order of the input.
    pub fn rows(&self) -> impl Iterator<Item = io::Result<(u64, String)>> {
        let current = self.rows.iter().filter(|(_, location)| location.is_current);
        current.map(|(line, location)| Ok((*line, self.read(*location)?)))
    }

    /// Sorts the rows in the order of the input, and removes rows that this run has neither written nor kept. Requires that
    /// all lines have been processed.
    ///
    /// # Errors
    /// A temporary file next to the output that cannot be written.
    pub fn complete(&mut self) -> anyhow::Result<()> {
        let ResultSink::File { file, path, end } = &self.sink else { return Ok(()) };
        if self.is_in_order(*end) {
            return Ok(file.sync_all()?);
        }
        let partial = PathBuf::from(format!("{}.partial", path.display()));
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&partial);
        let ordered = options.with_context(|| format!("cannot write {}", partial.display()))?;
        // The new file is locked before it is renamed, so that other runs find it locked, too.
        let locked = ordered.try_lock();
        locked.with_context(|| format!("cannot lock {}", partial.display()))?;
        let mut writer = BufWriter::new(&ordered);
        for row in self.rows() {
            writeln!(writer, "{}", row?.1)?;
        }
        writer.flush()?;
        drop(writer);
        ordered.sync_all()?;
        std::fs::rename(&partial, path)
            .with_context(|| format!("cannot rename the temporary file to {}", path.display()))?;
        let path = path.clone();
        self.rows.retain(|_, location| location.is_current);
        let mut end = 0;
        for location in self.rows.values_mut() {
            location.offset = end;
            end += location.bytes as u64 + 1;
        }
        self.sink = ResultSink::File { file: ordered, path, end };
        Ok(())
    }

    fn is_in_order(&self, end: u64) -> bool {
        let mut next = 0;
        let follows = |location: &RowLocation| {
            let follows = location.is_current && location.offset == next;
            next = location.offset + location.bytes as u64 + 1;
            follows
        };
        self.rows.values().all(follows) && next == end
    }

    fn read(&self, location: RowLocation) -> io::Result<String> {
        let ResultSink::File { file, .. } = &self.sink else { return Err(io::ErrorKind::Unsupported.into()) };
        let mut bytes = vec![0; location.bytes];
        file.read_exact_at(&mut bytes, location.offset)?;
        String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    fn find_rows(&mut self) -> anyhow::Result<()> {
        let ResultOutput { sink: ResultSink::File { file, end, .. }, rows, earlier_rows } = self else {
            return Ok(());
        };
        let (mut reader, mut bytes, mut number) = (BufReader::new(&*file), Vec::new(), 0);
        loop {
            bytes.clear();
            let read = reader.read_until(b'\n', &mut bytes)?;
            number += 1;
            if bytes.pop_if(|last| *last == b'\n').is_none() {
                let shared = bytes.len().min(ROW_PREFIX.len());
                anyhow::ensure!(bytes[..shared] == ROW_PREFIX[..shared], ForeignLine { number });
                break;
            }
            let row: ParsedRow = serde_json::from_slice(&bytes).map_err(|_| ForeignLine { number })?;
            let location = RowLocation { offset: *end, bytes: bytes.len(), is_current: false };
            rows.insert(row.line, location);
            earlier_rows
                .insert(row.line, EarlierRow { has_failures: row.has_failures(), digest: row.digest });
            *end += read as u64;
        }
        Ok(file.set_len(*end)?)
    }
}

/// A line of the output file that is not a row of results.
#[derive(Debug, thiserror::Error)]
#[error("line {number} is not a row of results; set another --output, or --fresh to overwrite the file")]
struct ForeignLine {
    number: u64,
}

/// Builds the key of a line, with a digest of its text and of the settings that scores depend on.
pub(super) fn key(line: u64, bytes: &[u8], settings: &str) -> RowKey {
    use sha2::{Digest, Sha256};
    let hash = Sha256::new().chain_update(settings).chain_update([0]).chain_update(bytes).finalize();
    let digest = hex::encode(&hash[..8]);
    RowKey { line, digest }
}

/// Opens and locks the file. Retries if a run that ends has renamed another file to the path in the meantime.
fn open_locked(path: &Path) -> anyhow::Result<File> {
    loop {
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = options.with_context(|| format!("cannot write {}", path.display()))?;
        let opened = file.metadata()?;
        if !opened.is_file() {
            return Ok(file);
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                anyhow::bail!(
                    "{} is locked by another run; wait until it ends, or set another --output",
                    path.display()
                )
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        match path.metadata() {
            Ok(named) if (named.dev(), named.ino()) == (opened.dev(), opened.ino()) => return Ok(file),
            _ => {}
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests have no event loop to block")]
mod tests {
    use super::*;

    fn row(line: u64, digest: &str) -> String {
        format!("{{\"line\":{line},\"digest\":\"{digest}\"}}")
    }

    fn path(dir: &tempfile::TempDir) -> String {
        dir.path().join("out.jsonl").to_string_lossy().into_owned()
    }

    fn open(path: &str) -> ResultOutput {
        ResultOutput::open(path, false).expect("a file")
    }

    #[test]
    fn a_resumed_file_drops_a_partial_row_and_ends_in_order() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = path(&dir);
        let mut output = open(&path);
        for line in [3, 1] {
            output.add(line, &row(line, "old")).expect("written");
        }
        drop(output);
        let whole = std::fs::read_to_string(&path).expect("rows");
        std::fs::write(&path, format!("{whole}{{\"line\":2,\"dig")).expect("half a row");

        let mut output = open(&path);
        let mut earlier_rows: Vec<_> = output.take_earlier_rows().into_keys().collect();
        earlier_rows.sort_unstable();
        assert_eq!(earlier_rows, [1, 3]);
        assert_eq!(output.keep(1).expect("kept"), row(1, "old"));
        for line in [3, 2] {
            output.add(line, &row(line, "new")).expect("written");
        }
        output.complete().expect("complete");
        let ordered = [row(1, "old"), row(2, "new"), row(3, "new")];
        let read: Vec<_> = output.rows().map(|row| row.expect("a row").1).collect();
        assert_eq!(read, ordered);
        assert_eq!(std::fs::read_to_string(&path).expect("rows"), ordered.join("\n") + "\n");
        assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 1);
    }

    #[test]
    fn rows_of_removed_lines_are_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = path(&dir);
        std::fs::write(&path, format!("{}\n{}\n", row(1, "a"), row(2, "b"))).expect("rows");
        let mut output = open(&path);
        output.keep(1).expect("kept");
        output.complete().expect("complete");
        assert_eq!(std::fs::read_to_string(&path).expect("rows"), row(1, "a") + "\n");
    }

    #[test]
    fn a_file_stays_locked_after_it_has_been_sorted() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = path(&dir);
        let mut output = open(&path);
        let refusal =
            || ResultOutput::open(&path, true).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(refusal().contains("another run"), "{}", refusal());
        output.add(2, &row(2, "a")).expect("written");
        output.add(1, &row(1, "a")).expect("written");
        output.complete().expect("complete");
        assert!(refusal().contains("another run"), "{}", refusal());
        drop(output);
        assert_eq!(open(&path).take_earlier_rows().len(), 2);
    }

    #[test]
    fn a_file_with_other_contents_is_left_unchanged() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = path(&dir);
        for text in ["{\"question\": \"q\"}\n", "notes without an end", "{\"line\":1}\n"] {
            std::fs::write(&path, text).expect("a file");
            let error = ResultOutput::open(&path, false).err().map(|error| format!("{error:#}"));
            assert!(error.is_some_and(|error| error.contains("line 1 is not a row")), "{text}");
            assert_eq!(std::fs::read_to_string(&path).expect("a file"), text);
        }
    }

    #[test]
    fn a_digest_depends_on_the_line_and_on_the_settings() {
        let digests = [key(1, b"a", "s"), key(2, b"b", "s"), key(1, b"a", "t")].map(|key| key.digest);
        assert!(digests[0] != digests[1] && digests[0] != digests[2] && digests[0].len() == 16);
    }
}
