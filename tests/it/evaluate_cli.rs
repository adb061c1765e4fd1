//! `assay evaluate` as a script calls it: rows, bad lines, a kill in the middle, a second run, an interrupt.

use std::process::Output;

use serde_json::{Value, json};

use crate::support::{
    command::{Workspace, text, until},
    judge::{Asked, Fault, StandIn},
};

const LEXICAL: [&str; 2] = ["--metrics", "bleu,token_f1,exact_match"];

fn sample(number: usize) -> String {
    json!({
        "id": format!("q{number}"),
        "user_input": format!("What is number {number}?"),
        "response": format!("Number {number} is a number. 它是数字{number}。"),
        "retrieved_contexts": [format!("Number {number} is a number.")],
        "reference": format!("Number {number} is a number."),
    })
    .to_string()
}

fn samples(count: usize) -> Vec<String> {
    (1..=count).map(sample).collect()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn in_order(count: u64) -> Vec<u64> {
    (1..=count).collect()
}

#[test]
fn every_line_has_a_row_and_the_summary_counts_invalid_lines() {
    let mut lines = samples(20);
    lines[6] = "{\"response\": \"secret".into();
    lines[7] = "{\"response\": [\"secret\"]}".into();
    lines[8] = "{\"response\": \"no reference\", \"extra\": 1}".into();
    let workspace = Workspace::with_samples(&lines);
    let output = workspace.run(&LEXICAL);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert_eq!(workspace.lines(), in_order(20));
    let rows = workspace.rows();
    assert_eq!(
        (&rows[6]["error"]["code"], &rows[7]["error"]["code"]),
        (&json!("NOT_JSON"), &json!("WRONG_TYPE"))
    );
    assert_eq!(rows[8]["results"][0]["status"], "NOT_APPLICABLE");
    assert_eq!((&rows[0]["id"], rows[0]["results"].as_array().map(Vec::len)), (&json!("q1"), Some(3)));
    let score = rows[0]["results"][1]["score"].as_f64().expect("a score");
    assert!(score > 0.5 && score < 1.0, "{score}");
    let (table, log) = (stdout(&output), stderr(&output));
    for word in ["metric", "bleu", "token_f1", "exact_match", "95 % interval", "coverage", "invalid lines: 2"]
    {
        assert!(table.contains(word), "{word} is not in:\n{table}");
    }
    assert!(log.contains("extra") && !log.contains("secret"), "{log}");
    assert_eq!(workspace.files(), ["in.jsonl", "out.jsonl"]);
}

#[test]
fn standard_output_has_a_row_before_standard_input_ends() {
    let workspace = Workspace::new();
    let output = workspace.dir.path().join("rows");
    let mut command = workspace.evaluate(&[&LEXICAL[..], &["--input", "-", "--output", "-"]].concat());
    let file = std::fs::File::create(&output).expect("a file");
    let mut child = command.stdin(std::process::Stdio::piped()).stdout(file).spawn().expect("the program");
    let mut pipe = child.stdin.take().expect("a pipe");
    std::io::Write::write_all(&mut pipe, (sample(1) + "\n").as_bytes()).expect("it reads");
    until(|| std::fs::read_to_string(&output).is_ok_and(|rows| rows.ends_with('\n')));
    drop(pipe);
    let output = child.wait_with_output().expect("the program");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("95 % interval"));
}

#[test]
fn a_killed_run_is_resumed_without_duplicate_rows() {
    let workspace = Workspace::with_samples(&samples(60));
    let mut killed = workspace.start_with_pipe(&LEXICAL);
    killed.send(&samples(25));
    workspace.until_rows(25);
    killed.kill();
    // A kill during a write leaves a partial row.
    let half = std::fs::read_to_string(workspace.path("out.jsonl")).expect("rows") + "{\"line\":26,\"dig";
    std::fs::write(workspace.path("out.jsonl"), half).expect("written");

    let output = workspace.run(&LEXICAL);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("kept=25"), "{}", stderr(&output));
    assert_eq!(workspace.lines(), in_order(60));
    let at_once = Workspace::with_samples(&samples(60));
    assert_eq!(at_once.run(&LEXICAL).status.code(), Some(0));
    assert!(workspace.rows() == at_once.rows(), "{:?}", workspace.rows());
    assert_eq!(stdout(&output), stdout(&at_once.run(&LEXICAL)));
}

#[test]
fn a_row_is_evaluated_again_if_its_line_or_metrics_change() {
    let workspace = Workspace::with_samples(&samples(10));
    let first = workspace.run(&LEXICAL);
    assert!(stderr(&first).contains("kept=0 changed=0"), "{}", stderr(&first));
    let mut lines = samples(9);
    lines[3] = sample(400);
    workspace.write(&lines);
    let second = workspace.run(&LEXICAL);
    assert!(stderr(&second).contains("kept=8 changed=1"), "{}", stderr(&second));
    assert_eq!((workspace.lines(), &workspace.rows()[3]["id"]), (in_order(9), &json!("q400")));
    let third = workspace.run(&["--metrics", "bleu"]);
    assert!(stderr(&third).contains("kept=0 changed=9"), "{}", stderr(&third));
    assert!(workspace.rows().iter().all(|row| row["results"].as_array().map(Vec::len) == Some(1)));
    let fresh = workspace.run(&["--metrics", "bleu", "--fresh"]);
    assert!(stderr(&fresh).contains("kept=0 changed=0"), "{}", stderr(&fresh));
}

#[test]
fn a_second_run_with_the_same_output_is_rejected() {
    let workspace = Workspace::with_samples(&samples(3));
    let mut first = workspace.start_with_pipe(&LEXICAL);
    first.send(&samples(1));
    workspace.until_rows(1);
    let second = workspace.run(&LEXICAL);
    assert_eq!(second.status.code(), Some(1));
    assert!(stderr(&second).contains("another run"), "{}", stderr(&second));
    let fresh = workspace.run(&["--metrics", "bleu", "--fresh"]);
    assert_eq!((fresh.status.code(), workspace.lines()), (Some(1), vec![1]));
}

#[test]
fn an_interrupted_run_keeps_its_rows_and_can_be_resumed() {
    let workspace = Workspace::new();
    let mut run = workspace.start_with_pipe(&LEXICAL);
    run.send(&samples(3));
    workspace.until_rows(3);
    run.interrupt();
    let (code, log) = run.output();
    assert_eq!(code, Some(130), "{log}");
    assert!(log.contains("3 rows") && log.contains("the same command resumes"), "{log}");
    assert_eq!(workspace.rows().len(), 3);
}

#[test]
fn invalid_flags_are_rejected_before_anything_is_written() {
    let workspace = Workspace::with_samples(&samples(1));
    let input = workspace.path("in.jsonl");
    for (flags, part) in [
        (&["--metrics", "faithfullness"][..], "neither a metric nor a group"),
        (&["--metrics", "faithfulness"], "--judge-url"),
        (&["--metrics", "discrete"], "instruction"),
        (&["--metrics", "bleu", "--judge", "big"], "--judge big is unknown"),
        (&["--metrics", "bleu", "--concurrency", "0"], "from 1 to 65536"),
        (&["--metrics", "bleu", "--html", "r.html", "--output", "-"], "--html requires --output FILE"),
        (&["--metrics", "bleu", "--output", text(&input)], "is the input file"),
    ] {
        let output = workspace.run(flags);
        assert_eq!(output.status.code(), Some(64), "{flags:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(part), "{flags:?}: {}", stderr(&output));
    }
    assert_eq!(workspace.files(), ["in.jsonl"]);
    let other = workspace.path("notes");
    std::fs::write(&other, "my notes\n").expect("written");
    let output = workspace.run(&["--metrics", "bleu", "--output", text(&other)]);
    assert!(stderr(&output).contains("is not a row of results"), "{}", stderr(&output));
    assert_eq!(std::fs::read_to_string(&other).expect("notes"), "my notes\n");
}

/// Describes a judge request, without the parts that differ each time.
fn question(asked: &Asked) -> String {
    let data: Vec<Value> = asked.data.iter().map(|(name, value)| json!([name, value])).collect();
    format!("{:?} {}", asked.verdict, Value::from(data))
}

#[test]
fn a_resumed_run_repeats_no_judge_request() {
    const SAMPLES: usize = 12;
    let workspace = Workspace::with_samples(&samples(SAMPLES));
    let judge = StandIn::start();
    let is_stuck = |asked: &Asked| {
        let about = question(asked);
        about.contains("verification") && (about.contains("Number 5 is") || about.contains("Number 8 is"))
    };
    judge.fail_when(is_stuck, Fault::Silent);
    let url = judge.url();
    let flags =
        ["--metrics", "faithfulness", "--judge-url", &url, "--judge-model", "m", "--concurrency", "4"];
    let killed =
        workspace.evaluate(&flags).spawn().map(crate::support::command::Running).expect("the program");
    // All other samples are complete, and each of these two has one response of the judge.
    workspace.until_rows(SAMPLES - 2);
    until(|| judge.in_flight() == 2);
    killed.kill();
    assert!(workspace.path("out.jsonl.journal").exists());
    judge.heal();
    let before = judge.count();

    let output = workspace.run(&flags);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("kept=10"), "{}", stderr(&output));
    assert_eq!(workspace.lines(), in_order(SAMPLES as u64));
    let again: Vec<String> =
        judge.requests()[before..].iter().map(|logged| question(&logged.asked)).collect();
    assert_eq!(again.len(), 2, "{again:?}");
    assert!(judge.requests()[before..].iter().all(|logged| is_stuck(&logged.asked)), "{again:?}");
    assert_eq!(workspace.files(), ["in.jsonl", "out.jsonl"]);
    let row = &workspace.rows()[0];
    assert_eq!((&row["results"][0]["status"], &row["results"][0]["score"]), (&json!("OK"), &json!(1.0)));
    assert!(
        row["cost"]["calls"].as_u64() == Some(2) && row["results"][0]["claims"][0]["verdict"] == json!(true)
    );
}

#[test]
fn failed_metrics_are_counted_and_can_be_retried_alone() {
    let workspace = Workspace::with_samples(&samples(4));
    let judge = StandIn::start();
    let is_third = |asked: &Asked| question(asked).contains("Number 3 is");
    judge.fail_when(is_third, Fault::Status(400));
    let url = judge.url();
    let flags = ["--metrics", "faithfulness,bleu", "--judge-url", &url, "--judge-model", "m"];
    let output = workspace.run(&flags);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let table = stdout(&output);
    assert!(table.contains("75.0 %") && table.contains("failed: faithfulness: FAILED 1"), "{table}");
    assert_eq!(workspace.rows()[2]["results"][0]["error"]["code"], "JUDGE_REJECTED");
    assert!(workspace.path("out.jsonl.journal").exists());

    let kept = workspace.run(&flags);
    assert!(stderr(&kept).contains("kept=4") && kept.status.code() == Some(1), "{}", stderr(&kept));
    judge.heal();
    let before = judge.count();
    let again = workspace.run(&[&flags[..], &["--retry-failed"]].concat());
    assert_eq!(again.status.code(), Some(0), "{}", stderr(&again));
    assert!(stderr(&again).contains("kept=3"), "{}", stderr(&again));
    assert_eq!((judge.count() - before, workspace.lines()), (2, in_order(4)));
    assert!(!workspace.path("out.jsonl.journal").exists());
}

#[test]
fn a_budget_of_calls_applies_to_the_whole_run() {
    let workspace = Workspace::with_samples(&samples(6));
    let judge = StandIn::start();
    let url = judge.url();
    let output = workspace.run(&[
        "--metrics",
        "faithfulness",
        "--judge-url",
        &url,
        "--judge-model",
        "m",
        "--budget-calls",
        "5",
        "--concurrency",
        "1",
    ]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert_eq!(judge.count(), 5);
    assert!(stdout(&output).contains("BUDGET_EXHAUSTED 4"), "{}", stdout(&output));
}
