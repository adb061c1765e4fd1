//! The `assay` program as a process, for tests of its commands.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use super::app::LIMIT;

/// A directory with samples and what is made of them.
pub struct Workspace {
    pub dir: TempDir,
}

/// A program that is under way; dropping it kills it.
pub struct Running(pub Child);

impl Workspace {
    pub fn new() -> Workspace {
        Workspace { dir: tempfile::tempdir().expect("a directory") }
    }

    pub fn with_samples(lines: &[String]) -> Workspace {
        let workspace = Workspace::new();
        workspace.write(lines);
        workspace
    }

    pub fn write(&self, lines: &[String]) {
        std::fs::write(self.path("in.jsonl"), lines.join("\n") + "\n").expect("written");
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `assay evaluate` with these flags; over in.jsonl and to out.jsonl where they don't say otherwise.
    pub fn evaluate(&self, flags: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_assay"));
        command
            .arg("evaluate")
            .args(flags)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for (flag, file) in [("--input", "in.jsonl"), ("--output", "out.jsonl")] {
            if !flags.contains(&flag) {
                command.args([flag, text(&self.path(file))]);
            }
        }
        command
    }

    pub fn run(&self, flags: &[&str]) -> Output {
        self.evaluate(flags).output().expect("the program")
    }

    /// With a pipe that brings lines for as long as the test likes.
    pub fn start_with_pipe(&self, flags: &[&str]) -> Running {
        let mut command = self.evaluate(&[&["--input", "-"], flags].concat());
        Running(command.stdin(Stdio::piped()).spawn().expect("the program"))
    }

    /// What out.jsonl has by now, but for a half last line.
    pub fn rows(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path("out.jsonl")).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// Their lines, in the order of the file.
    pub fn lines(&self) -> Vec<u64> {
        self.rows().iter().map(|row| row["line"].as_u64().expect("a number")).collect()
    }

    pub fn until_rows(&self, count: usize) {
        until(|| self.rows().len() >= count);
    }

    /// Files beside the samples.
    pub fn files(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.dir.path()).expect("a directory").flatten();
        let mut names: Vec<String> =
            files.map(|file| file.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

impl Running {
    pub fn send(&mut self, lines: &[String]) {
        let pipe = self.0.stdin.as_mut().expect("a pipe");
        pipe.write_all((lines.join("\n") + "\n").as_bytes()).expect("it reads");
        pipe.flush().expect("it reads");
    }

    /// Nothing of it runs any more.
    pub fn kill(mut self) {
        self.0.kill().expect("a process");
        self.0.wait().expect("a process");
    }

    /// As Ctrl-C does.
    pub fn interrupt(&self) {
        let pid = i32::try_from(self.0.id()).ok().and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.expect("a process"), rustix::process::Signal::INT).expect("sent");
    }

    /// Exit code and standard error, once it has ended by itself.
    pub fn output(mut self) -> (Option<i32>, String) {
        // Waiting would close the pipe, and so end its input.
        let _pipe = self.0.stdin.take();
        let status = self.0.wait().expect("a process");
        let mut text = String::new();
        let mut errors = self.0.stderr.take().expect("a pipe");
        std::io::Read::read_to_string(&mut errors, &mut text).expect("text");
        (status.code(), text)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Asks again and again; fails after [`LIMIT`].
pub fn until(mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < LIMIT, "it never came to that");
        std::thread::sleep(Duration::from_millis(5));
    }
}
