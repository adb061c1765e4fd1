//! The configuration files of a model: architecture, pooling, normalisation, prompts and limits.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::DeserializeOwned};

use super::{ModelError, ModelSettings};

/// Pooling of token states into one vector. Source: Sentence-BERT, section 3, arXiv:1908.10084.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The state of the first token.
    Cls,
    /// The mean of all token states.
    Mean,
    /// The state of the last token.
    LastToken,
}

/// Checked content of the configuration files.
#[derive(Debug)]
pub(super) struct Manifest {
    pub bert: BertConfig,
    pub pooling: Pooling,
    pub normalizes: bool,
    /// True if texts are converted to lower case before tokenization.
    pub lower_cases: bool,
    /// Maximum tokens per input, special tokens included.
    pub max_tokens: usize,
    pub prompts: BTreeMap<String, String>,
    pub default_prompt_name: Option<String>,
}

/// Fields of config.json of the BERT and RoBERTa families.
#[derive(Debug, Deserialize)]
pub(super) struct BertConfig {
    pub model_type: String,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub max_position_embeddings: usize,
    #[serde(default = "one")]
    pub type_vocab_size: usize,
    #[serde(default = "bert_epsilon")]
    pub layer_norm_eps: f64,
    #[serde(default = "gelu")]
    hidden_act: String,
    position_embedding_type: Option<String>,
    pad_token_id: Option<usize>,
}

impl BertConfig {
    /// Position of the first token: 0 for BERT, and the padding index + 1 for RoBERTa.
    pub fn first_position(&self) -> usize {
        match self.model_type.as_str() {
            "bert" => 0,
            _ => self.pad_token_id.unwrap_or(1) + 1,
        }
    }
}

/// Entry of modules.json.
#[derive(Deserialize)]
struct ModuleEntry {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SentenceBertConfig {
    max_seq_length: Option<usize>,
    do_lower_case: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SentenceTransformersConfig {
    prompts: BTreeMap<String, String>,
    default_prompt_name: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TokenizerConfig {
    model_max_length: Option<f64>,
}

const ARCHITECTURES: &str = "model_type bert, roberta, xlm-roberta and camembert";

impl Manifest {
    /// Reads and checks the configuration files in `dir`.
    ///
    /// # Errors
    /// [`ModelError`] with the file that is missing, invalid or not supported.
    pub fn read(dir: &Path, settings: &ModelSettings) -> Result<Manifest, ModelError> {
        let bert = read_architecture(dir)?;
        let modules = read_modules(dir)?;
        let sentence: SentenceBertConfig =
            read_optional(&dir.join("sentence_bert_config.json"))?.unwrap_or_default();
        let prompts: SentenceTransformersConfig =
            read_optional(&dir.join("config_sentence_transformers.json"))?.unwrap_or_default();
        check_prompts(dir, &prompts)?;
        Ok(Manifest {
            max_tokens: max_tokens(dir, &bert, &sentence, settings)?,
            bert,
            pooling: settings.pooling.unwrap_or(modules.pooling),
            normalizes: modules.normalizes,
            lower_cases: sentence.do_lower_case,
            prompts: prompts.prompts,
            default_prompt_name: prompts.default_prompt_name,
        })
    }
}

fn read_architecture(dir: &Path) -> Result<BertConfig, ModelError> {
    let file = dir.join("config.json");
    let value: serde_json::Value =
        read_required(&file, "check that the directory is a model of the transformers library")?;
    let model_type = value["model_type"].as_str().unwrap_or("none").to_owned();
    if !["bert", "roberta", "xlm-roberta", "camembert"].contains(&model_type.as_str()) {
        return Err(unsupported(file, format!("model_type {model_type}"), ARCHITECTURES));
    }
    let config: BertConfig = serde_json::from_value(value).map_err(|e| invalid(&file, e.to_string()))?;
    if config.hidden_act != "gelu" {
        return Err(unsupported(file, format!("hidden_act {}", config.hidden_act), "gelu"));
    }
    if let Some(kind) = config.position_embedding_type.as_deref().filter(|&kind| kind != "absolute") {
        return Err(unsupported(file, format!("position_embedding_type {kind}"), "absolute"));
    }
    let sizes = [config.vocab_size, config.hidden_size, config.num_hidden_layers, config.intermediate_size];
    if sizes.contains(&0) || config.num_attention_heads == 0 || config.type_vocab_size == 0 {
        return Err(invalid(&file, "vocab_size, hidden_size, num_hidden_layers, num_attention_heads, intermediate_size and type_vocab_size must be positive".into()));
    }
    if !config.hidden_size.is_multiple_of(config.num_attention_heads) {
        return Err(invalid(
            &file,
            format!(
                "hidden_size {} is not a multiple of num_attention_heads {}",
                config.hidden_size, config.num_attention_heads
            ),
        ));
    }
    Ok(config)
}

struct PoolingModules {
    pooling: Pooling,
    normalizes: bool,
}

fn read_modules(dir: &Path) -> Result<PoolingModules, ModelError> {
    let file = dir.join("modules.json");
    let Some(list) = read_optional::<Vec<ModuleEntry>>(&file)? else {
        // sentence-transformers does the same with a plain transformers model.
        return Ok(PoolingModules { pooling: Pooling::Mean, normalizes: false });
    };
    let mut modules = PoolingModules { pooling: Pooling::Mean, normalizes: false };
    for module in &list {
        match module.kind.rsplit('.').next().unwrap_or_default() {
            "Transformer" => {}
            "Pooling" => modules.pooling = read_pooling(&dir.join(&module.path).join("config.json"))?,
            "Normalize" => modules.normalizes = true,
            other => {
                return Err(unsupported(
                    file,
                    format!("module {other}"),
                    "Transformer, Pooling and Normalize",
                ));
            }
        }
    }
    Ok(modules)
}

const POOLINGS: &str = "one of CLS, mean and last token";

/// Reads the pooling from either format: one `pooling_mode`, or one boolean per mode.
fn read_pooling(file: &Path) -> Result<Pooling, ModelError> {
    let config: serde_json::Map<String, serde_json::Value> =
        read_required(file, "modules.json refers to it; download the model again")?;
    if config.get("include_prompt").and_then(serde_json::Value::as_bool) == Some(false) {
        return Err(unsupported(file.into(), "include_prompt = false".into(), "include_prompt = true"));
    }
    let modes: Vec<&str> = match config.get("pooling_mode") {
        Some(serde_json::Value::String(mode)) => vec![mode],
        Some(serde_json::Value::Array(modes)) => modes.iter().filter_map(|mode| mode.as_str()).collect(),
        _ => switched_on(&config),
    };
    match modes[..] {
        ["cls" | "cls_token"] => Ok(Pooling::Cls),
        ["mean" | "mean_tokens"] => Ok(Pooling::Mean),
        ["lasttoken"] => Ok(Pooling::LastToken),
        _ => Err(unsupported(file.into(), format!("pooling {modes:?}"), POOLINGS)),
    }
}

fn switched_on(config: &serde_json::Map<String, serde_json::Value>) -> Vec<&str> {
    config
        .iter()
        .filter(|(_, value)| value.as_bool() == Some(true))
        .filter_map(|(key, _)| key.strip_prefix("pooling_mode_"))
        .collect()
}

fn check_prompts(dir: &Path, config: &SentenceTransformersConfig) -> Result<(), ModelError> {
    match &config.default_prompt_name {
        Some(name) if !config.prompts.contains_key(name) => Err(invalid(
            &dir.join("config_sentence_transformers.json"),
            format!("default_prompt_name {name} is not one of the prompts"),
        )),
        _ => Ok(()),
    }
}

/// Minimum of the limits of the position table, the files and the settings.
fn max_tokens(
    dir: &Path,
    bert: &BertConfig,
    sentence: &SentenceBertConfig,
    settings: &ModelSettings,
) -> Result<usize, ModelError> {
    let file = dir.join("tokenizer_config.json");
    let tokenizer: TokenizerConfig = read_optional(&file)?.unwrap_or_default();
    let positions = bert.max_position_embeddings.saturating_sub(bert.first_position());
    // Tokenizers without a limit have 1e30 here.
    let by_tokenizer =
        tokenizer.model_max_length.filter(|&n| (1.0..1e9).contains(&n)).map(|tokens| tokens as usize);
    let by_files = sentence.max_seq_length.or(by_tokenizer).unwrap_or(positions);
    let limit = positions.min(by_files).min(settings.max_tokens.unwrap_or(usize::MAX));
    if limit < 3 {
        return Err(invalid(
            &dir.join("config.json"),
            format!("the maximum tokens per input is {limit}, at least 3 are required"),
        ));
    }
    Ok(limit)
}

/// Reads a file. `hint` says what to do if it is missing.
pub(super) fn read_file(file: &Path, hint: &'static str) -> Result<Vec<u8>, ModelError> {
    std::fs::read(file).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => ModelError::Missing { file: file.into(), hint },
        _ => ModelError::Read { file: file.into(), source },
    })
}

fn read_required<T: DeserializeOwned>(file: &Path, hint: &'static str) -> Result<T, ModelError> {
    serde_json::from_slice(&read_file(file, hint)?).map_err(|e| invalid(file, e.to_string()))
}

pub(super) fn read_optional<T: DeserializeOwned>(file: &Path) -> Result<Option<T>, ModelError> {
    match read_required(file, "") {
        Ok(value) => Ok(Some(value)),
        Err(ModelError::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn invalid(file: &Path, message: String) -> ModelError {
    ModelError::Invalid { file: file.into(), message }
}

fn unsupported(file: PathBuf, what: String, supported: &'static str) -> ModelError {
    ModelError::Unsupported { file, what, supported }
}

fn one() -> usize {
    1
}

fn bert_epsilon() -> f64 {
    1e-12
}

fn gelu() -> String {
    "gelu".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BERT: &str = r#"{"model_type": "bert", "vocab_size": 10, "hidden_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 64}"#;

    fn check(files: &[(&str, &str)], verify: impl Fn(Result<Manifest, ModelError>)) {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        for (name, content) in files {
            let file = dir.path().join(name);
            std::fs::create_dir_all(file.parent().expect("the file is in a directory")).expect("made");
            std::fs::write(file, content).expect("written");
        }
        verify(Manifest::read(dir.path(), &ModelSettings::default()));
    }

    fn pooling(config: &str) -> Result<Pooling, ModelError> {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let file = dir.path().join("config.json");
        std::fs::write(&file, config).expect("written");
        read_pooling(&file)
    }

    #[test]
    fn both_formats_of_the_pooling_file_are_read() {
        for (config, expected) in [
            (r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}"#, Pooling::Cls),
            (r#"{"pooling_mode_mean_tokens": true}"#, Pooling::Mean),
            (r#"{"pooling_mode_lasttoken": true}"#, Pooling::LastToken),
            (r#"{"pooling_mode": "cls"}"#, Pooling::Cls),
            (r#"{"pooling_mode": ["lasttoken"]}"#, Pooling::LastToken),
        ] {
            assert_eq!(pooling(config).expect("supported"), expected, "{config}");
        }
    }

    #[test]
    fn an_unsupported_pooling_is_named() {
        for (config, named) in [
            (r#"{"pooling_mode_max_tokens": true}"#, "max_tokens"),
            (r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true}"#, "mean_tokens"),
            (r#"{"pooling_mode_mean_tokens": true, "include_prompt": false}"#, "include_prompt"),
        ] {
            let message = pooling(config).expect_err("not supported").to_string();
            assert!(message.contains(named) && message.contains("config.json"), "{message}");
        }
    }

    #[test]
    fn a_plain_transformers_model_has_mean_pooling_without_scaling() {
        check(&[("config.json", BERT)], |manifest| {
            let manifest = manifest.expect("valid");
            assert_eq!(
                (manifest.pooling, manifest.normalizes, manifest.max_tokens),
                (Pooling::Mean, false, 64)
            );
        });
    }

    #[test]
    fn without_tokenizer_limit_the_position_table_limits_inputs() {
        let endless = r#"{"model_max_length": 1000000000000000019884624838656}"#;
        check(&[("config.json", BERT), ("tokenizer_config.json", endless)], |manifest| {
            assert_eq!(manifest.expect("valid").max_tokens, 64);
        });
    }

    #[test]
    fn roberta_does_not_use_the_positions_before_its_first() {
        let config = BERT.replace("\"bert\"", "\"roberta\"").replace("64", "66");
        check(&[("config.json", &config)], |manifest| assert_eq!(manifest.expect("valid").max_tokens, 64));
    }

    #[test]
    fn unsupported_content_is_reported_with_its_file() {
        for (file, content, named) in [
            ("config.json", r#"{"model_type": "t5"}"#.to_owned(), "t5"),
            ("config.json", BERT.replace("}", r#", "hidden_act": "relu"}"#), "relu"),
            (
                "config.json",
                BERT.replace("\"num_attention_heads\": 2", "\"num_attention_heads\": 3"),
                "multiple",
            ),
            ("config.json", "{".to_owned(), "not valid"),
            ("modules.json", r#"[{"type": "sentence_transformers.models.Dense"}]"#.to_owned(), "Dense"),
        ] {
            check(&[("config.json", BERT), (file, &content)], |manifest| {
                let message = manifest.expect_err("refused").to_string();
                assert!(message.contains(named) && message.contains(file), "{message}");
            });
        }
    }
}
