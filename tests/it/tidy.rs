//! Rules of the source code: dependencies between modules, file sizes, and generated pages. docs/ARCHITECTURE.md has the
//! reasons.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Maximum number of lines of a file, without comments and inline tests.
const LONGEST_FILE_LINES: usize = 400;

/// One source file: its path below src/ without `.rs`, and its lines without comments and inline tests.
struct Source {
    name: String,
    lines: Vec<String>,
}

impl Source {
    fn read(root: &Path, file: &Path) -> Source {
        let name = file.strip_prefix(root).expect("a file below src").with_extension("");
        let text = fs::read_to_string(file).expect("a source file");
        let code = text.lines().take_while(|line| *line != "#[cfg(test)]");
        let lines = code.map(without_comment).collect();
        Source { name: name.to_string_lossy().into_owned(), lines }
    }

    /// Returns true if the file is one of these modules or below one of them.
    fn is_in(&self, modules: &[&str]) -> bool {
        modules.iter().any(|module| {
            self.name.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    /// Returns true if a path or a `use` begins with this crate.
    fn uses_crate(&self, name: &str) -> bool {
        let (path, import) = (format!("{name}::"), format!("use {name};"));
        self.lines.iter().any(|line| has_word(line, &path) || line.contains(&import))
    }

    /// Returns true if the file uses this module of the crate.
    fn uses_module(&self, name: &str) -> bool {
        let text = self.lines.join(" ");
        let by_path = has_word(&text, &format!("crate::{name}"));
        by_path || text.split("crate::{").skip(1).any(|group| top_level_names(group).contains(&name))
    }

    fn has(&self, word: &str) -> bool {
        self.lines.iter().any(|line| has_word(line, word))
    }
}

fn without_comment(line: &str) -> String {
    line.split("//").next().unwrap_or_default().to_owned()
}

/// Returns true if `text` contains `word` as a whole word.
fn has_word(text: &str, word: &str) -> bool {
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let open_end = word.ends_with("::");
    text.match_indices(word).any(|(at, _)| {
        let (before, after) = (text[..at].chars().next_back(), text[at + word.len()..].chars().next());
        !is_part(before) && (open_end || !is_part(after))
    })
}

/// `a::{b, c}, d, e as f};…` gives a, d and e.
fn top_level_names(group: &str) -> Vec<&str> {
    let (mut depth, mut from, mut names) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                names.push(&group[from..at]);
                from = at + 1;
                if c == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    names.into_iter().filter_map(|name| name.trim().split([':', ' ']).next()).collect()
}

fn sources() -> Vec<Source> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    assert!(files.len() > 20, "{files:?}");
    files.iter().map(|file| Source::read(&root, file)).collect()
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a directory of sources").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn check(fact: &str, is_broken_by: impl Fn(&Source) -> bool) {
    let sources = sources();
    let broken: Vec<&str> = sources.iter().filter(|source| is_broken_by(source)).map(|s| &*s.name).collect();
    assert!(broken.is_empty(), "{fact}; violated by: {broken:?}");
}

#[test]
fn only_the_edge_uses_tonic_and_opentelemetry() {
    // lib includes what the build generated.
    let edge = ["rpc", "admin", "telemetry/otlp", "cli/healthcheck", "lib"];
    for name in ["tonic", "tonic_health", "tonic_reflection", "tonic_types", "prost", "prost_types"] {
        check("only rpc, admin, telemetry/otlp and cli/healthcheck use tonic", |s| {
            s.uses_crate(name) && !s.is_in(&edge)
        });
    }
    // Each metric reads its own options.
    let options = [
        "evaluate/metric",
        "evaluate/metrics",
        "evaluate/options",
        "evaluate/judged",
        "evaluate/lexical",
        "evaluate/vector",
    ];
    check("only rpc and the options of metrics use the messages", |s| {
        s.uses_module("proto") && !s.is_in(&edge) && !s.is_in(&options)
    });
    for name in ["opentelemetry", "opentelemetry_sdk", "opentelemetry_proto"] {
        let exporters = ["trace", "telemetry/otlp"];
        check("only trace and telemetry/otlp use OpenTelemetry", |s| {
            s.uses_crate(name) && !s.is_in(&exporters)
        });
    }
}

#[test]
fn tensor_and_http_crates_are_used_only_in_their_modules() {
    for name in ["candle_core", "candle_nn", "safetensors", "tokenizers"] {
        check("only model uses tensor and tokenizer crates", |s| s.uses_crate(name) && !s.is_in(&["model"]));
    }
    let clients = ["model/source", "judge/transport"];
    check("only model/source and judge use reqwest", |s| s.uses_crate("reqwest") && !s.is_in(&clients));
}

#[test]
fn only_config_reads_the_environment() {
    for word in ["env::var", "env::var_os", "env::vars"] {
        check("only config reads the environment", |s| s.has(word) && !s.is_in(&["config"]));
    }
}

#[test]
fn only_the_kernels_use_unsafe() {
    check("only model/kernel uses unsafe", |s| s.has("unsafe") && !s.is_in(&["model/kernel"]));
}

#[test]
fn lower_modules_do_not_use_higher_ones() {
    for (lower, above) in [
        ("model", &["embed", "stall", "rpc", "admin", "app", "config", "cli", "telemetry"][..]),
        ("embed", &["stall", "rpc", "admin", "app", "config", "cli", "telemetry"]),
        (
            "judge",
            &["model", "embed", "evaluate", "stall", "rpc", "admin", "app", "config", "cli", "telemetry"],
        ),
        ("stall", &["model", "embed", "rpc", "admin", "app", "config", "cli", "telemetry"]),
        ("rpc", &["admin", "app", "config", "cli", "telemetry"]),
        ("admin", &["app", "config", "cli", "telemetry"]),
        ("app", &["config", "cli"]),
        (
            "trace",
            &[
                "model",
                "embed",
                "evaluate",
                "judge",
                "stall",
                "rpc",
                "admin",
                "app",
                "config",
                "cli",
                "telemetry",
            ],
        ),
    ] {
        for name in above {
            check(&format!("{lower} does not use {name}"), |s| s.is_in(&[lower]) && s.uses_module(name));
        }
    }
}

#[test]
fn pure_files_use_neither_io_nor_async_nor_clocks() {
    let pure = [
        "embed/fair_queue",
        "evaluate/aggregate",
        "evaluate/definition",
        "evaluate/lexical/ngrams",
        "evaluate/lexical/porter",
        "evaluate/lexical/similarities",
        "evaluate/lexical/tokens",
        "evaluate/score",
        "evaluate/text",
        "evaluate/vector/rows",
        "judge/endpoint/classify",
        "judge/extract",
        "judge/lenient",
        "judge/limit/round_robin",
        "judge/prompt_frame",
        "judge/rejected_parameter",
        "judge/value_count",
        "judge/wire",
        "rpc/reorder",
    ];
    assert!(pure.iter().all(|name| sources().iter().any(|source| source.is_in(&[name]))));
    for word in ["async", "await", "tokio", "io", "fs", "net", "thread", "Instant", "SystemTime", "tracing"] {
        check("pure files only compute", |s| s.is_in(&pure) && s.has(word));
    }
    // A metric awaits its steps; all else that it does is arithmetic.
    let metrics = ["evaluate/judged", "evaluate/lexical", "evaluate/vector"];
    for word in ["tokio", "io", "fs", "net", "thread", "Instant", "SystemTime", "tracing"] {
        check("metrics only take steps and compute", |s| s.is_in(&metrics) && s.has(word));
    }
}

#[test]
fn no_file_exceeds_the_maximum_length() {
    check("no file exceeds the maximum length", |s| s.lines.len() > LONGEST_FILE_LINES);
}

#[test]
fn the_configuration_page_has_all_settings() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/CONFIGURATION.md");
    let page = fs::read_to_string(&file).expect("the page");
    let settings = assay::config::settings_markdown();
    assert!(
        page.contains(settings.trim_end()),
        "{} must contain the output of: target/debug/assay config table",
        file.display()
    );
}

#[test]
fn the_page_of_metrics_matches_the_binary() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/METRICS.md");
    let page = fs::read_to_string(&file).expect("the page");
    let made = assay::evaluate::markdown::markdown();
    assert!(page == made, "generate it with: target/debug/assay metrics > {}", file.display());
}

/// Returns true if the line declares this type.
fn declares(line: &str, name: &str) -> bool {
    let mut words =
        line.split([' ', '<', '(', '{', ';', ':', '=']).skip_while(|word| word.starts_with("pub"));
    let kinds = ["struct", "enum", "trait", "type"];
    words.any(|word| kinds.contains(&word)) && words.next() == Some(name)
}

#[test]
fn each_glossary_term_is_one_type() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/ARCHITECTURE.md");
    let page = fs::read_to_string(&file).expect("the page");
    let glossary = page.split("## Glossary").nth(1).expect("a glossary");
    let rows: Vec<Vec<&str>> = glossary
        .lines()
        .filter(|line| line.contains("` | `"))
        .map(|line| line.split('|').map(|cell| cell.trim().trim_matches('`')).collect())
        .collect();
    assert!(rows.len() >= 40, "{} nouns", rows.len());
    let sources = sources();
    for row in rows {
        let (name, file) = (row[2], row[3].trim_end_matches(".rs"));
        let declared = sources.iter().filter(|source| source.lines.iter().any(|line| declares(line, name)));
        let declared: Vec<&str> = declared.map(|source| &*source.name).collect();
        assert_eq!(declared, [file], "the type {name} of the glossary");
    }
}

#[test]
fn the_source_parser_recognizes_uses_and_words() {
    assert_eq!(top_level_names("a::{b, c}, d, e as f}; g"), ["a", "d", "e"]);
    assert!(has_word("use tonic::Code;", "tonic::") && !has_word("use mytonic::Code;", "tonic::"));
    assert!(has_word("crate::rpc;", "crate::rpc") && !has_word("crate::rpcs;", "crate::rpc"));
    let source =
        Source { name: "embed/work_queue".into(), lines: vec!["use crate::{a, rpc::Limits};".into()] };
    assert!(source.uses_module("rpc") && !source.uses_module("Limits") && source.is_in(&["embed"]));
}
