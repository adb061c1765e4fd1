//! The texts and the reference vectors of tests/fixtures; README.md there says how they were made.

use std::{collections::HashMap, fs};

use safetensors::SafeTensors;
use serde::Deserialize;

use super::fixture;

/// One line of texts.jsonl.
#[derive(Debug, Clone, Deserialize)]
pub struct Text {
    pub id: String,
    pub kind: String,
    pub text: String,
}

/// What sentence-transformers gives for one model.
#[derive(Debug)]
pub struct Goldens {
    pub dimension: usize,
    /// Includes the special tokens.
    pub max_tokens: usize,
    /// `cls`, `mean` or `lasttoken`.
    pub pooling: String,
    /// False if the prompt's tokens take no part in pooling.
    pub include_prompt: bool,
    pub normalize: bool,
    pub cases: Vec<Case>,
}

/// One text in one role, cut in one way.
#[derive(Debug)]
pub struct Case {
    pub text: Text,
    pub role: Role,
    /// What stands before the text in this role; often nothing.
    pub prompt: String,
    pub truncate: Truncate,
    /// Includes prompt and special tokens.
    pub tokens_before_truncation: usize,
    /// After truncation, with prompt and special tokens.
    pub ids: Vec<u32>,
    pub vector: Vec<f32>,
    pub unnormalized: Option<Vec<f32>>,
    /// The first 128 values of `unnormalized`, scaled to unit length.
    pub matryoshka_128: Option<Vec<f32>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    Plain,
    Query,
    Document,
}

/// The side that loses tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Truncate {
    Start,
    End,
}

/// The names for [`goldens`]; all but `minilm` are names for `write_random_model` too.
pub const MODELS: [&str; 8] = [
    "minilm",
    "bert-zh-cls",
    "xlmr-mean-prompts",
    "roberta-mean-raw",
    "bert-f16-sharded",
    "bert-bf16",
    "bert-no-prompt",
    "bert-last-token",
];

/// The 200 texts, in the order of the file.
pub fn texts() -> Vec<Text> {
    let lines = fs::read_to_string(fixture("texts.jsonl")).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The goldens of one of [`MODELS`].
pub fn goldens(model: &str) -> Goldens {
    let json = fs::read(fixture(&format!("goldens/{model}.json"))).unwrap();
    let file: GoldensFile = serde_json::from_slice(&json).unwrap();
    let bytes = fs::read(fixture(&format!("goldens/{model}.safetensors"))).unwrap();
    let arrays = Arrays { tensors: SafeTensors::deserialize(&bytes).unwrap() };
    let texts: HashMap<String, Text> = texts().into_iter().map(|text| (text.id.clone(), text)).collect();

    let prompt = |role: Option<&str>| role.map_or(String::new(), |role| file.prompts[role].clone());
    let cases = file.cases.iter().enumerate().map(|(row, case)| Case {
        text: texts[&case.text].clone(),
        role: role(case.role.as_deref()),
        prompt: prompt(case.role.as_deref()),
        truncate: case.truncate,
        tokens_before_truncation: case.tokens_before_truncation,
        ids: case.ids.clone(),
        vector: arrays.row("vectors", row),
        unnormalized: case.unnormalized_row.map(|row| arrays.row("unnormalized", row)),
        matryoshka_128: case.matryoshka_row.map(|row| arrays.row("matryoshka_128", row)),
    });
    Goldens {
        dimension: file.dimension,
        max_tokens: file.max_tokens,
        pooling: file.pooling.clone(),
        include_prompt: file.include_prompt,
        normalize: file.normalize,
        cases: cases.collect(),
    }
}

#[derive(Deserialize)]
struct GoldensFile {
    dimension: usize,
    max_tokens: usize,
    pooling: String,
    include_prompt: bool,
    normalize: bool,
    prompts: HashMap<String, String>,
    cases: Vec<CaseLine>,
}

#[derive(Deserialize)]
struct CaseLine {
    text: String,
    role: Option<String>,
    truncate: Truncate,
    tokens_before_truncation: usize,
    ids: Vec<u32>,
    unnormalized_row: Option<usize>,
    matryoshka_row: Option<usize>,
}

fn role(name: Option<&str>) -> Role {
    match name {
        None => Role::Plain,
        Some("query") => Role::Query,
        Some("document") => Role::Document,
        Some(other) => panic!("unknown role {other}"),
    }
}

struct Arrays<'a> {
    tensors: SafeTensors<'a>,
}

impl Arrays<'_> {
    /// One row of an f32 matrix.
    fn row(&self, name: &str, row: usize) -> Vec<f32> {
        let matrix = self.tensors.tensor(name).unwrap();
        let width = matrix.shape()[1] * size_of::<f32>();
        let bytes = &matrix.data()[row * width..(row + 1) * width];
        bytes.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect()
    }
}
