//! The report of `assay evaluate` in a browser. `make report-test` installs what it needs; otherwise the test is skipped
//! with a message.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::support::{
    command::{Workspace, text},
    judge::{Asked, StandIn, honest},
};

/// Number of samples: more than the table shows at first.
const SAMPLES: usize = 250;
const HOSTILE: &str =
    "</script><img src=x onerror=\"document.title='broken'\"><!-- \u{2028} {{script}} &amp; <b>";

fn sample(number: usize) -> String {
    if number == 3 {
        return "{\"response\": 3}".into();
    }
    let (question, response, contexts) = match number {
        1 => (
            HOSTILE.to_owned(),
            format!("{HOSTILE} It opened in 1931. It is in Ohio."),
            json!(["🗽 The tower opened in 1931, on 1 May.", HOSTILE]),
        ),
        _ if number.is_multiple_of(2) => (
            format!("第{number}座塔是哪一年开放的？"),
            format!("塔于{}年开放。它很高。", 1900 + number),
            json!([{"text": format!("😀 塔于{}年开放，很多人来看。", 1900 + number), "id": format!("doc-{number}")}, "它很高。"]),
        ),
        _ => (
            format!("When did tower {number} open?"),
            format!("Tower {number} opened in 1931. It is tall."),
            json!([format!("Tower {number} opened in 1931."), "Towers are tall."]),
        ),
    };
    json!({
        "id": format!("q{number}"), "question": question, "answer": response, "contexts": contexts,
        "ground_truth": "The tower opened in 1931.",
    })
    .to_string()
}

/// Verifies claims: the first with a quote from the middle of the first source, the second with a quote that does not
/// exist. Rejects all others.
fn quoting(asked: &Asked) -> Value {
    if asked.verdict.as_deref() != Some("verification") {
        return honest(asked);
    }
    let source = asked.part("sources")[0]["text"].as_str().unwrap_or_default();
    let half = source.chars().count() / 2;
    let quote: String = source.chars().skip(2).take(half).collect();
    let claims = asked.part("claims").as_array().cloned().unwrap_or_default();
    let verdicts = claims.iter().enumerate().map(|(index, claim)| {
        let quote = if index == 0 { quote.trim() } else { "words that occur nowhere" };
        let (id, reason) = (&claim["id"], "因为上下文这样说。");
        json!({"id": id, "reason": reason, "quote": quote, "sources": ["s1"], "supported": index < 2})
    });
    json!({"verdicts": verdicts.collect::<Value>()})
}

#[test]
fn the_report_works_in_a_browser() {
    let Some(browser) = Browser::find() else { return };
    let workspace = Workspace::with_samples(&(1..=SAMPLES).map(sample).collect::<Vec<_>>());
    let judge = StandIn::with_brain(quoting);
    let (url, report) = (judge.url(), workspace.path("report.html"));
    let output = workspace.run(&[
        "--metrics",
        "faithfulness,context_recall,bleu,token_f1,exact_match",
        "--judge-url",
        &url,
        "--judge-model",
        "stand-in",
        "--judge-price-prompt",
        "1",
        "--judge-price-completion",
        "2",
        "--html",
        text(&report),
    ]);
    let (log, table) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    assert_eq!(output.status.code(), Some(1), "{log}");
    println!("{table}");
    browser.check(&report, &workspace.path("out.jsonl"));
}

struct Browser {
    chromium: PathBuf,
    /// Directory with node_modules.
    modules: PathBuf,
}

impl Browser {
    fn find() -> Option<Browser> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let modules = root.join("target/browser");
        let chromium = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
        let chromium = chromium.into_iter().map(PathBuf::from).find(|path| path.exists());
        let has_modules = modules.join("node_modules/playwright-core").exists();
        let found = chromium.filter(|_| has_modules).map(|chromium| Browser { chromium, modules });
        if found.is_none() {
            println!(
                "SKIPPED: the report was not opened, because Chromium or playwright-core is missing; make report-test installs them"
            );
        }
        found
    }

    fn check(&self, report: &Path, rows: &Path) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let output = Command::new("node")
            .arg(root.join("tests/browser/report.cjs"))
            .args([report, rows, &root.join("target/report-shots")])
            .env("NODE_PATH", self.modules.join("node_modules"))
            .env("CHROMIUM", &self.chromium)
            .output()
            .expect("node");
        let (out, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        println!("{out}");
        assert!(output.status.success(), "{out}\n{errors}");
    }
}
