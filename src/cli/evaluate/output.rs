//! The file of results: one row a line, added as soon as it is known, so that a killed run loses nothing.
//!
//! While a run is under way its rows stand in the order in which they came; when it is complete they are put into
//! the order of the input.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{File, OpenOptions, TryLockError},
    io::{self, BufRead, BufReader, BufWriter, Write},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::row::{Key, Written};

/// How every row begins; a file that begins otherwise is someone else's.
const BEGINNING: &[u8] = b"{\"line\":";

pub(super) struct Output {
    to: To,
    /// By line; the last one counts where there are several.
    rows: BTreeMap<u64, Entry>,
    known: HashMap<u64, Known>,
}

/// A row of an earlier run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub digest: String,
    pub has_failures: bool,
}

enum To {
    Stream(Box<dyn Write + Send>),
    File { file: File, path: PathBuf, end: u64 },
}

#[derive(Clone, Copy)]
struct Entry {
    offset: u64,
    bytes: usize,
    /// By this run, or confirmed by it.
    is_current: bool,
}

impl Output {
    /// Opens a file for this run alone and finds the rows of earlier runs in it; a half last one is cut off. `-` is
    /// standard output; it, and whatever is no regular file, has no earlier rows.
    ///
    /// # Errors
    /// If another run writes to the file, if it holds something else, or if it can't be written.
    pub fn open(path: &str, fresh: bool) -> anyhow::Result<Output> {
        if path == "-" {
            return Ok(Output::new(To::Stream(Box::new(io::stdout()))));
        }
        let path = Path::new(path);
        let file = open_locked(path)?;
        if !file.metadata()?.is_file() {
            return Ok(Output::new(To::Stream(Box::new(file))));
        }
        if fresh {
            file.set_len(0)?;
        }
        let mut output = Output::new(To::File { file, path: path.to_owned(), end: 0 });
        output.find_rows().with_context(|| path.display().to_string())?;
        Ok(output)
    }

    fn new(to: To) -> Output {
        Output { to, rows: BTreeMap::new(), known: HashMap::new() }
    }

    /// Rows of earlier runs, by line.
    pub fn take_known(&mut self) -> HashMap<u64, Known> {
        std::mem::take(&mut self.known)
    }

    /// Whether rows can be read again.
    pub fn is_file(&self) -> bool {
        matches!(self.to, To::File { .. })
    }

    /// Adds a row; once this returns, the end of the process can't take it back.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn add(&mut self, line: u64, row: &str) -> io::Result<()> {
        let bytes = format!("{row}\n").into_bytes();
        match &mut self.to {
            To::Stream(writer) => {
                writer.write_all(&bytes)?;
                writer.flush()
            }
            To::File { file, end, .. } => {
                file.write_all_at(&bytes, *end)?;
                let entry = Entry { offset: *end, bytes: bytes.len() - 1, is_current: true };
                self.rows.insert(line, entry);
                *end += bytes.len() as u64;
                Ok(())
            }
        }
    }

    /// A row of an earlier run that is still right.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn keep(&mut self, line: u64) -> io::Result<String> {
        let entry = self.rows.get_mut(&line).ok_or(io::ErrorKind::NotFound)?;
        entry.is_current = true;
        let entry = *entry;
        self.read(entry)
    }

    /// The rows of this run, in the order of the input.
    pub fn rows(&self) -> impl Iterator<Item = io::Result<(u64, String)>> {
        let current = self.rows.iter().filter(|(_, entry)| entry.is_current);
        current.map(|(line, entry)| Ok((*line, self.read(*entry)?)))
    }

    /// Puts the rows into the order of the input and leaves those of other runs out; to be called when all lines
    /// have one.
    ///
    /// # Errors
    /// If a file beside the output can't be written.
    pub fn complete(&mut self) -> anyhow::Result<()> {
        let To::File { file, path, end } = &self.to else { return Ok(()) };
        if self.is_in_order(*end) {
            return Ok(file.sync_all()?);
        }
        let partial = PathBuf::from(format!("{}.partial", path.display()));
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&partial);
        let ordered = options.with_context(|| format!("cannot write {}", partial.display()))?;
        // Whoever comes after the renaming finds the file in use, as before.
        let locked = ordered.try_lock();
        locked.with_context(|| format!("cannot lock {}", partial.display()))?;
        let mut writer = BufWriter::new(&ordered);
        for row in self.rows() {
            writeln!(writer, "{}", row?.1)?;
        }
        writer.flush()?;
        drop(writer);
        ordered.sync_all()?;
        std::fs::rename(&partial, path).with_context(|| format!("cannot name {}", path.display()))?;
        let path = path.clone();
        self.rows.retain(|_, entry| entry.is_current);
        let mut end = 0;
        for entry in self.rows.values_mut() {
            entry.offset = end;
            end += entry.bytes as u64 + 1;
        }
        self.to = To::File { file: ordered, path, end };
        Ok(())
    }

    fn is_in_order(&self, end: u64) -> bool {
        let mut next = 0;
        let follows = |entry: &Entry| {
            let follows = entry.is_current && entry.offset == next;
            next = entry.offset + entry.bytes as u64 + 1;
            follows
        };
        self.rows.values().all(follows) && next == end
    }

    fn read(&self, entry: Entry) -> io::Result<String> {
        let To::File { file, .. } = &self.to else { return Err(io::ErrorKind::Unsupported.into()) };
        let mut bytes = vec![0; entry.bytes];
        file.read_exact_at(&mut bytes, entry.offset)?;
        String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    fn find_rows(&mut self) -> anyhow::Result<()> {
        let Output { to: To::File { file, end, .. }, rows, known } = self else { return Ok(()) };
        let (mut reader, mut bytes, mut number) = (BufReader::new(&*file), Vec::new(), 0);
        loop {
            bytes.clear();
            let read = reader.read_until(b'\n', &mut bytes)?;
            number += 1;
            if bytes.pop_if(|last| *last == b'\n').is_none() {
                let shared = bytes.len().min(BEGINNING.len());
                anyhow::ensure!(bytes[..shared] == BEGINNING[..shared], NotOurs { number });
                break;
            }
            let row: Written = serde_json::from_slice(&bytes).map_err(|_| NotOurs { number })?;
            let entry = Entry { offset: *end, bytes: bytes.len(), is_current: false };
            rows.insert(row.line, entry);
            known.insert(row.line, Known { has_failures: row.has_failures(), digest: row.digest });
            *end += read as u64;
        }
        Ok(file.set_len(*end)?)
    }
}

/// Lines of a file that no run wrote.
#[derive(Debug, thiserror::Error)]
#[error("its line {number} is no row of results; choose another --output, or --fresh to overwrite it")]
struct NotOurs {
    number: u64,
}

/// The digest of a line, for [`Key`]: of what is scored and of how.
pub(super) fn key(line: u64, bytes: &[u8], settings: &str) -> Key {
    use sha2::{Digest, Sha256};
    let hash = Sha256::new().chain_update(settings).chain_update([0]).chain_update(bytes).finalize();
    let digest = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    Key { line, digest }
}

/// With the lock of the file that has the name now: a run that ends may rename another one there.
fn open_locked(path: &Path) -> anyhow::Result<File> {
    loop {
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = options.with_context(|| format!("cannot write {}", path.display()))?;
        let mine = file.metadata()?;
        if !mine.is_file() {
            return Ok(file);
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                anyhow::bail!(
                    "{} is being written by another run; wait for it, or choose another --output",
                    path.display()
                )
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        match path.metadata() {
            Ok(named) if (named.dev(), named.ino()) == (mine.dev(), mine.ino()) => return Ok(file),
            _ => {}
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests have a disk of their own")]
mod tests {
    use super::*;

    fn row(line: u64, digest: &str) -> String {
        format!("{{\"line\":{line},\"digest\":\"{digest}\"}}")
    }

    fn path(dir: &tempfile::TempDir) -> String {
        dir.path().join("out.jsonl").to_string_lossy().into_owned()
    }

    fn open(path: &str) -> Output {
        Output::open(path, false).expect("a file")
    }

    #[test]
    fn rows_are_found_again_a_half_one_is_cut_off_and_at_the_end_they_are_in_order() {
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
        let mut known: Vec<_> = output.take_known().into_keys().collect();
        known.sort_unstable();
        assert_eq!(known, [1, 3]);
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
    fn rows_of_lines_that_are_gone_leave_the_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = path(&dir);
        std::fs::write(&path, format!("{}\n{}\n", row(1, "a"), row(2, "b"))).expect("rows");
        let mut output = open(&path);
        output.keep(1).expect("kept");
        output.complete().expect("complete");
        assert_eq!(std::fs::read_to_string(&path).expect("rows"), row(1, "a") + "\n");
    }

    #[test]
    fn a_file_has_one_writer_also_after_it_was_put_in_order() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = path(&dir);
        let mut output = open(&path);
        let refusal = || Output::open(&path, true).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(refusal().contains("another run"), "{}", refusal());
        output.add(2, &row(2, "a")).expect("written");
        output.add(1, &row(1, "a")).expect("written");
        output.complete().expect("complete");
        assert!(refusal().contains("another run"), "{}", refusal());
        drop(output);
        assert_eq!(open(&path).take_known().len(), 2);
    }

    #[test]
    fn what_no_run_wrote_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = path(&dir);
        for text in ["{\"question\": \"q\"}\n", "notes without an end", "{\"line\":1}\n"] {
            std::fs::write(&path, text).expect("a file");
            let error = Output::open(&path, false).err().map(|error| format!("{error:#}"));
            assert!(error.is_some_and(|error| error.contains("its line 1")), "{text}");
            assert_eq!(std::fs::read_to_string(&path).expect("a file"), text);
        }
    }

    #[test]
    fn a_digest_changes_with_the_line_and_with_the_settings() {
        let digests = [key(1, b"a", "s"), key(2, b"b", "s"), key(1, b"a", "t")].map(|key| key.digest);
        assert!(digests[0] != digests[1] && digests[0] != digests[2] && digests[0].len() == 16);
    }
}
