//! The commands besides serve, run like a script or an init container runs them.

use std::{
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use crate::support::{
    app::{SMALL, TestApp, random_model},
    hub::{Fault, Hub, MODEL_ID},
};

fn assay(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_assay"))
        .args(arguments)
        .env_remove("RUST_LOG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that rejects its flags reads no input.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn healthcheck_exits_with_0_only_if_serving() {
    let serving = TestApp::serving(SMALL);
    let (waiting, _dir) = TestApp::without_model();
    let admin = |app: &TestApp| app.app.admin_address().unwrap().to_string();
    let check = |address: &str, service: &str| {
        let output =
            assay(&["healthcheck", "--address", address, "--service", service, "--timeout", "30s"], b"");
        (output.status.code(), text(&output.stdout))
    };
    assert_eq!(check(&admin(&serving), ""), (Some(0), "SERVING\n".into()));
    assert_eq!(check(&serving.address().to_string(), "liveness"), (Some(0), "SERVING\n".into()));
    assert_eq!(check(&admin(&waiting), ""), (Some(1), "NOT_SERVING\n".into()));
    assert_eq!(check(&admin(&waiting), "liveness"), (Some(0), "SERVING\n".into()));
    assert_eq!(check(&admin(&serving), "nonsense"), (Some(1), String::new()));
}

#[test]
fn healthcheck_supports_unix_sockets() {
    let dir = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}", path(&dir.path().join("assay.sock")));
    let app = TestApp::serving_with(SMALL, |settings| settings.listen.push(socket.parse().unwrap()));
    let output = assay(&["healthcheck", "--address", &socket, "--timeout", "30s"], b"");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    drop(app);
}

#[test]
fn embed_writes_an_embedding_or_an_error_for_each_line() {
    let model = random_model(SMALL);
    let arguments = ["embed", "--offline", "true", "--model", path(model.path()), "--dimensions", "4"];
    let output = assay(&arguments, "one\n\nnot \u{4f60}\n\u{4f60}\u{597d}".as_bytes());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let lines: Vec<serde_json::Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.iter().map(|line| line["index"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(lines[1]["error"], "the line is empty");
    for line in [&lines[0], &lines[2], &lines[3]] {
        assert_eq!(line["embedding"].as_array().unwrap().len(), 4);
    }
}

#[test]
fn embed_creates_an_array_file_only_when_it_is_complete() {
    let (model, dir) = (random_model(SMALL), tempfile::tempdir().unwrap());
    let array = dir.path().join("v.npy");
    let arguments = |format: &'static str| {
        [
            "embed",
            "--offline",
            "true",
            "--model",
            path(model.path()),
            "--output",
            path(&array),
            "--format",
            format,
        ]
        .map(str::to_owned)
    };
    let run = |input: &[u8]| assay(&arguments("npy").each_ref().map(String::as_str), input);
    assert_eq!(run(b"one\n\n").status.code(), Some(1));
    assert!(!array.exists());
    assert_eq!(run(b"one\ntwo\nthree\n").status.code(), Some(0));
    let bytes = std::fs::read(&array).unwrap();
    assert_eq!((&bytes[..8], bytes.len()), (&b"\x93NUMPY\x01\x00"[..], 128 + 3 * 128 * 4));
    assert!(text(&bytes[..128]).contains("'shape': (3, 128)"));
    let numbers: Vec<f32> = bytes[128..].as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
    for vector in numbers.chunks(128) {
        assert!((vector.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-4);
    }
}

#[test]
fn pull_verifies_the_model_and_replaces_damaged_files() {
    let (model, cache) = (random_model(SMALL), tempfile::tempdir().unwrap());
    let hub = Hub::start(model.path());
    let endpoint = hub.endpoint();
    let cache = path(cache.path());
    let arguments = [
        "pull",
        "--model",
        MODEL_ID,
        "--hub-endpoint",
        &endpoint,
        "--cache-dir",
        cache,
        "--hub-attempts",
        "2",
    ];
    let first = assay(&arguments, b"");
    assert_eq!(first.status.code(), Some(0), "{}", text(&first.stderr));
    let weights = Path::new(text(&first.stdout).trim()).join("model.safetensors");
    let whole = std::fs::read(&weights).unwrap();

    let blob = std::fs::canonicalize(&weights).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    std::fs::write(&blob, damaged).unwrap();
    let again = assay(&arguments, b"");
    assert_eq!(again.status.code(), Some(0), "{}", text(&again.stderr));
    assert_eq!(std::fs::read(&weights).unwrap(), whole);

    hub.set_fault(Fault::Refuse);
    let other = tempfile::tempdir().unwrap();
    let elsewhere = [
        "pull",
        "--model",
        MODEL_ID,
        "--hub-endpoint",
        &endpoint,
        "--cache-dir",
        path(other.path()),
        "--hub-attempts",
        "1",
    ];
    let refused = assay(&elsewhere, b"");
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains(&endpoint.replace("http://", "")), "{}", text(&refused.stderr));
}

#[test]
fn config_show_hides_secrets_and_check_reports_errors() {
    let shown = assay(&["config", "show", "--hub-token", "hf_planted"], b"");
    assert_eq!(shown.status.code(), Some(0));
    assert!(
        text(&shown.stdout).contains("hub_token = \"(hidden)\" # flag")
            && !text(&shown.stdout).contains("hf_planted")
    );
    assert_eq!(assay(&["config", "check"], b"").status.code(), Some(0));
    let invalid = assay(&["config", "check", "--threads", "0", "--hub-token", "hf_planted"], b"");
    assert_eq!(invalid.status.code(), Some(64));
    assert!(text(&invalid.stderr).contains("threads") && !text(&invalid.stderr).contains("hf_planted"));
}

/// Includes values that once made the server panic at startup.
#[test]
fn numbers_out_of_range_are_rejected_before_the_start() {
    const HUGE: &str = "9223372036854775807";
    for (flag, value, range) in [
        ("--max-evaluations", HUGE, "1 to 65536"),
        ("--otlp-queue", HUGE, "1 to 1000000"),
        ("--queue-tokens", HUGE, "1 to 1073741824"),
        ("--stream-inputs", HUGE, "1 to 65536"),
        ("--connection-streams", "4294967295", "1 to 65536"),
        ("--threads", "1000000", "1 to 1024"),
        ("--text-threads", HUGE, "1 to 1024"),
        ("--callers", HUGE, "1 to 1000000"),
        ("--judge-concurrency", HUGE, "1 to 65536"),
        ("--judge-timeout", "999999999h", "1ms to 1day"),
        ("--dead-after", "999999999h", "1s to 1day"),
        ("--embed-cache", "16EiB", "0B to 1TiB"),
        ("--keepalive", "0s", "1s to 1day"),
    ] {
        for command in [&["config", "check"][..], &["serve"]] {
            let output = assay(&[command, &[flag, value]].concat(), b"");
            let errors = text(&output.stderr);
            assert_eq!(output.status.code(), Some(64), "{flag}: {errors}");
            let name = flag.trim_start_matches('-');
            assert!(
                errors.contains(&format!("{name} = \"{value}\" (flag)")) && errors.contains(range),
                "{errors}"
            );
        }
    }
    let output = assay(&["evaluate", "--concurrency", HUGE], b"");
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    let output = assay(&["healthcheck", "--timeout", "999999999h"], b"");
    assert_eq!(output.status.code(), Some(64), "{output:?}");
}
