//! Entry points for fuzzing: the files of a model.

use std::path::Path;

use safetensors::SafeTensors;

use super::{
    ModelSettings,
    manifest::Manifest,
    weights::{ANCHOR, Weights},
};

/// The files of a manifest, in the order in which an input holds them.
const MANIFEST_FILES: [&str; 6] = [
    "config.json",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "tokenizer_config.json",
];
/// The byte between two files of one input. JSON text cannot contain it.
const FILE_SEPARATOR: u8 = 0;

/// Writes `data` as the small files of a model into `dir`, separated by zero bytes, and reads them as a manifest. An
/// empty part is a missing file.
pub fn model_manifest(dir: &Path, data: &[u8]) {
    let mut parts = data.split(|&byte| byte == FILE_SEPARATOR);
    for name in MANIFEST_FILES {
        write(&dir.join(name), parts.next().unwrap_or_default());
    }
    let Ok(manifest) = Manifest::read(dir, &ModelSettings::default()) else { return };
    let bert = &manifest.bert;
    assert!(manifest.max_tokens > 0 && bert.num_hidden_layers > 0);
    assert!(bert.hidden_size.is_multiple_of(bert.num_attention_heads));
    let positions = bert.first_position().checked_add(manifest.max_tokens).expect("positions can be counted");
    assert!(positions <= bert.max_position_embeddings, "an input could be longer than the position table");
}

/// Writes `data` as `model.safetensors` into `dir` and reads every tensor that its header names.
pub fn model_weights(dir: &Path, data: &[u8]) {
    write(&dir.join("model.safetensors"), data);
    let Ok(weights) = Weights::read(dir, &|_, _| ()) else { return };
    let header = SafeTensors::deserialize(data).expect("the weights were read from the same bytes");
    let names = header.names();
    // One of these is the prefix that `tensor` puts before a name.
    let prefixes: Vec<&str> = names.iter().filter_map(|name| name.strip_suffix(ANCHOR)).collect();
    assert!(!prefixes.is_empty(), "weights without {ANCHOR} are accepted");
    for (name, prefix) in names.iter().flat_map(|name| prefixes.iter().map(move |prefix| (name, prefix))) {
        let (Some(short), Ok(view)) = (name.strip_prefix(prefix), header.tensor(name)) else { continue };
        if let Ok(values) = weights.tensor(short, view.shape()) {
            assert_eq!(values.len(), view.shape().iter().product::<usize>(), "{name}");
            assert!(values.iter().all(|value| value.is_finite()), "{name}");
        }
    }
}

fn write(file: &Path, content: &[u8]) {
    if content.is_empty() {
        // The file may not exist.
        let _ = std::fs::remove_file(file);
        return;
    }
    let parent = file.parent().expect("the file is in a directory");
    std::fs::create_dir_all(parent).expect("the directory of the target can be written");
    std::fs::write(file, content).expect("the directory of the target can be written");
}
