//! Selection of the files of a repository or directory that belong to a model.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde::{Deserialize, de::DeserializeOwned};

use super::error::SourceError;

const SINGLE_WEIGHTS: &str = "model.safetensors";
const SHARD_INDEX: &str = "model.safetensors.index.json";
const MODULES: &str = "modules.json";
const REQUIRED: [&str; 2] = ["config.json", "tokenizer.json"];
const OPTIONAL: [&str; 5] = [
    "tokenizer_config.json",
    "special_tokens_map.json",
    MODULES,
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
];

/// A missing file without which a model cannot be loaded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MissingFile {
    missing: String,
    hint: String,
}

impl MissingFile {
    fn new(missing: impl Into<String>) -> Self {
        Self { missing: missing.into(), hint: String::new() }
    }

    pub(super) fn in_location(self, location: String) -> SourceError {
        SourceError::Incomplete { location, missing: self.missing, hint: self.hint }
    }
}

/// Selects the files to download from all files of a repository.
///
/// Small files come first and weights last, so a snapshot that has weights is complete.
///
/// # Errors
/// [`MissingFile`] if a required file is missing.
pub(super) fn select_files(paths: &[String]) -> Result<Vec<String>, MissingFile> {
    let present: BTreeSet<&str> = paths.iter().map(String::as_str).collect();
    if let Some(missing) = REQUIRED.into_iter().find(|file| !present.contains(file)) {
        return Err(MissingFile { missing: missing.to_owned(), hint: hint_for(missing, &present) });
    }
    let weights = weights(&present)?;
    let root = REQUIRED.into_iter().chain(OPTIONAL).filter(|file| present.contains(file));
    let modules = |name| present.iter().copied().filter(move |path| is_module_file(path, name));
    let chosen = root.chain(modules("config.json")).chain(modules(SINGLE_WEIGHTS)).chain(weights);
    Ok(chosen.map(str::to_owned).collect())
}

/// Checks that `dir` has all files of a model, including shards and modules.
///
/// # Errors
/// [`MissingFile`] if one is missing.
pub(super) fn check_dir(dir: &Path) -> Result<(), MissingFile> {
    let chosen = select_files(&list(dir))?;
    if chosen.iter().any(|file| file == SHARD_INDEX) {
        all_present(dir, shards(dir)?)?;
    }
    if chosen.iter().any(|file| file == MODULES) {
        all_present(dir, module_configs(dir)?)?;
    }
    Ok(())
}

fn weights<'a>(present: &BTreeSet<&'a str>) -> Result<Vec<&'a str>, MissingFile> {
    if let Some(single) = present.get(SINGLE_WEIGHTS) {
        return Ok(vec![single]);
    }
    let Some(index) = present.get(SHARD_INDEX) else {
        return Err(MissingFile {
            missing: SINGLE_WEIGHTS.to_owned(),
            hint: hint_for(SINGLE_WEIGHTS, present),
        });
    };
    let shards = present.iter().copied().filter(|path| is_shard(path));
    Ok(std::iter::once(*index).chain(shards).collect())
}

/// Hint for a repository that has the missing file only in another format.
fn hint_for(missing: &str, present: &BTreeSet<&str>) -> String {
    let (reads, others): (_, &[&str]) = match missing {
        SINGLE_WEIGHTS => {
            ("safetensors", &["pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5"])
        }
        "tokenizer.json" => {
            ("tokenizer.json", &["vocab.txt", "sentencepiece.bpe.model", "spiece.model", "vocab.json"])
        }
        _ => return String::new(),
    };
    match others.iter().find(|file| present.contains(*file)) {
        Some(only) => {
            format!(" (only {only}; Assay reads {reads}: convert it or choose another revision)")
        }
        None => String::new(),
    }
}

/// Returns true if a path is a shard such as `model-00001-of-00003.safetensors`.
fn is_shard(path: &str) -> bool {
    path.starts_with("model-") && path.ends_with(".safetensors") && !path.contains('/')
}

/// Returns true if a path is a file of a module, such as `1_Pooling/config.json`. sentence-transformers numbers the directories
/// of modules.
fn is_module_file(path: &str, name: &str) -> bool {
    path.split_once('/').is_some_and(|(dir, file)| file == name && is_module_dir(dir))
}

fn is_module_dir(dir: &str) -> bool {
    dir.split_once('_').is_some_and(|(number, kind)| {
        !number.is_empty()
            && number.bytes().all(|byte| byte.is_ascii_digit())
            && kind.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

/// Files of `dir` and of its module directories. Broken links are ignored.
fn list(dir: &Path) -> Vec<String> {
    let mut paths = Vec::new();
    for name in names(dir) {
        let path = dir.join(&name);
        if path.is_file() {
            paths.push(name);
        } else if is_module_dir(&name) {
            let files = names(&path).into_iter().filter(|file| path.join(file).is_file());
            paths.extend(files.map(|file| format!("{name}/{file}")));
        }
    }
    paths
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn all_present(dir: &Path, files: BTreeSet<String>) -> Result<(), MissingFile> {
    match files.into_iter().find(|file| !dir.join(file).is_file()) {
        Some(missing) => Err(MissingFile::new(missing)),
        None => Ok(()),
    }
}

fn shards(dir: &Path) -> Result<BTreeSet<String>, MissingFile> {
    #[derive(Deserialize)]
    struct ShardFiles {
        weight_map: BTreeMap<String, String>,
    }
    let index: ShardFiles = read_json(dir, SHARD_INDEX)?;
    Ok(index.weight_map.into_values().collect())
}

/// Configuration files of the modules that require one: Pooling and Dense.
fn module_configs(dir: &Path) -> Result<BTreeSet<String>, MissingFile> {
    #[derive(Deserialize)]
    struct ModuleConfig {
        path: String,
        #[serde(rename = "type")]
        kind: String,
    }
    let modules: Vec<ModuleConfig> = read_json(dir, MODULES)?;
    let needs_config = |kind: &str| kind.ends_with(".Pooling") || kind.ends_with(".Dense");
    let with_config = modules.into_iter().filter(|module| needs_config(&module.kind));
    Ok(with_config.map(|module| format!("{}/config.json", module.path)).collect())
}

fn read_json<T: DeserializeOwned>(dir: &Path, name: &str) -> Result<T, MissingFile> {
    let text = fs::read(dir.join(name)).map_err(|_| MissingFile::new(format!("readable {name}")))?;
    serde_json::from_slice(&text).map_err(|_| MissingFile::new(format!("valid {name}")))
}

#[cfg(test)]
mod tests {
    use super::{MissingFile, select_files};

    fn owned(paths: &[&str]) -> Vec<String> {
        paths.iter().map(|path| (*path).to_owned()).collect()
    }

    fn check(present: &[&str], expected: &[&str]) {
        assert_eq!(select_files(&owned(present)).expect("a whole model"), expected);
    }

    fn missing(present: &[&str]) -> MissingFile {
        select_files(&owned(present)).expect_err("something is missing")
    }

    #[test]
    fn weights_come_last_and_other_formats_are_ignored() {
        check(
            &["1_Pooling/config.json", "model.safetensors", "modules.json", "config.json", "tokenizer.json"],
            &["config.json", "tokenizer.json", "modules.json", "1_Pooling/config.json", "model.safetensors"],
        );
        let others =
            ["onnx/config.json", "onnx/model.onnx", "openvino/openvino_model.bin", "pytorch_model.bin"];
        let ours = ["config.json", "tokenizer.json", "model.safetensors"];
        check(&[&others[..], &ours[..]].concat(), &ours);
    }

    #[test]
    fn shards_come_with_their_index() {
        let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        check(
            &[shards[0], shards[1], "model.safetensors.index.json", "config.json", "tokenizer.json"],
            &["config.json", "tokenizer.json", "model.safetensors.index.json", shards[0], shards[1]],
        );
    }

    #[test]
    fn a_path_outside_of_the_repository_is_not_selected() {
        let paths =
            ["config.json", "tokenizer.json", "model.safetensors", "../config.json", "1_../config.json"];
        check(&paths, &paths[..3]);
    }

    #[test]
    fn a_repository_with_only_a_pickle_gets_a_hint() {
        let missing = missing(&["config.json", "tokenizer.json", "pytorch_model.bin"]);
        assert_eq!(missing.missing, "model.safetensors");
        assert!(missing.hint.contains("only pytorch_model.bin; Assay reads safetensors"), "{}", missing.hint);
    }

    #[test]
    fn a_repository_with_only_a_slow_tokenizer_gets_a_hint() {
        let missing = missing(&["config.json", "vocab.txt", "model.safetensors"]);
        assert_eq!(missing.missing, "tokenizer.json");
        assert!(missing.hint.contains("only vocab.txt"), "{}", missing.hint);
    }
}
