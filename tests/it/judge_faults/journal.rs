//! A run that is killed and resumed.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
};

use assay::judge::store::StoreMode;

use super::*;
use crate::support::judge::Asked;

const QUESTIONS: usize = 200;
/// Number of answers after which the run is killed.
const LAST: usize = 20;
/// Question that the stand-in leaves unanswered, in case the kill comes late.
const SILENT: usize = 150;
const URL: &str = "ASSAY_TEST_JOURNAL_URL";
const FILE: &str = "ASSAY_TEST_JOURNAL_FILE";

fn settings(url: &str, file: &Path) -> JudgeSettings {
    JudgeSettings {
        store: StoreMode::Journal(file.to_owned()),
        ..JudgeSettings::new("test", url, "stand-in")
    }
}

/// Asks all questions in turn and prints a line per answer.
async fn run(settings: JudgeSettings, mut tell: impl FnMut(usize, &Reply<Useful>)) {
    let judge = start(settings);
    for number in 0..QUESTIONS {
        let reply = judge.ask(&prompt(&format!("text {number}")), &call()).await;
        assert!(is_yes(&reply), "{:?}", reply.verdict);
        tell(number, &reply);
    }
}

#[tokio::test]
async fn a_killed_run_repeats_only_unanswered_questions() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("answers.jsonl");
    let stand_in = StandIn::start();
    let is_silent = |asked: &Asked| asked.part("contexts")[0]["text"] == format!("text {SILENT}");
    stand_in.fail_when(is_silent, Fault::Silent);
    let answered = kill_in_the_middle(&stand_in.url(), &file);
    assert!(answered > LAST, "{answered}");
    stand_in.heal();
    let before = stand_in.count();
    let mut asked = 0;
    run(settings(&stand_in.url(), &file), |number, reply| {
        asked += reply.cost.calls;
        assert!(number >= answered || reply.cost.calls == 0, "{number} of {answered} was asked again");
    })
    .await;
    assert_eq!(stand_in.count() - before, asked as usize);
    assert!(asked as usize <= QUESTIONS - answered && asked > 0, "{asked}");
}

/// Number of answers that the run printed before it was killed.
fn kill_in_the_middle(url: &str, file: &Path) -> usize {
    let this = std::env::current_exe().expect("a test binary");
    let mut child = Command::new(this)
        .args(["--exact", "judge_faults::journal::the_run_that_is_killed", "--nocapture"])
        .env(URL, url)
        .env(FILE, file)
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let mut told = BufReader::new(child.stdout.take().expect("its output")).lines().map_while(Result::ok);
    let mut answered = 0;
    while answered <= LAST {
        answered += usize::from(told.next().expect("more answers").contains("answered "));
    }
    // SIGKILL ends the process at once.
    child.kill().expect("a child");
    answered += told.filter(|line| line.contains("answered ")).count();
    child.wait().expect("a child");
    answered
}

/// Does nothing by itself; the other test starts it in a separate process.
#[tokio::test]
async fn the_run_that_is_killed() {
    let (Ok(url), Some(file)) = (std::env::var(URL), std::env::var_os(FILE)) else { return };
    run(settings(&url, Path::new(&file)), |number, _| {
        writeln!(std::io::stdout(), "answered {number}").expect("a pipe");
    })
    .await;
}
