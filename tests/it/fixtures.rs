//! Consistency of the fixtures with their generators and readers.

use std::{collections::HashSet, fs, path::Path};

use safetensors::SafeTensors;
use sha2::{Digest, Sha256};

use crate::support::{
    goldens::{MODELS, Role, Truncate, goldens, texts},
    random_model::{fnv1a64, splitmix64, tensors, write_random_model},
};

#[test]
fn the_random_generator_has_its_published_values() {
    assert_eq!(fnv1a64("a"), 0xaf63_dc4c_8601_ec8c);
    let first: Vec<u64> = splitmix64(1_234_567).take(2).collect();
    assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
}

#[test]
fn random_weights_equal_those_of_the_reference() {
    for model in &MODELS[1..] {
        let dir = tempfile::tempdir().unwrap();
        write_random_model(model, dir.path());
        assert!(dir.path().join("1_Pooling/config.json").exists());
        for tensor in tensors(model) {
            let written = sha256_of(&dir.path().join(&tensor.file), &tensor.name);
            assert_eq!(written, tensor.sha256, "{model}: {}", tensor.name);
        }
    }
}

#[test]
fn there_are_200_different_texts() {
    let texts = texts();
    let ids: HashSet<_> = texts.iter().map(|text| &text.id).collect();
    let contents: HashSet<_> = texts.iter().map(|text| &text.text).collect();
    assert_eq!((texts.len(), ids.len(), contents.len()), (200, 200, 200));
    assert!(texts.iter().all(|text| !text.text.is_empty() && text.id.starts_with(&text.kind)));
}

#[test]
fn golden_vectors_and_ids_match_their_headers() {
    for model in MODELS {
        let goldens = goldens(model);
        for case in &goldens.cases {
            let case_name = format!("{model}: {} {:?} {:?}", case.text.id, case.role, case.truncate);
            assert_eq!(case.ids.len(), case.tokens_before_truncation.min(goldens.max_tokens), "{case_name}");
            assert_eq!(case.vector.len(), goldens.dimension, "{case_name}");
            assert!(!goldens.normalize || (norm(&case.vector) - 1.0).abs() < 1e-5, "{case_name}");
            if let (Some(whole), Some(cut)) = (&case.unnormalized, &case.matryoshka_128) {
                assert!((cut[0] - whole[0] / norm(&whole[..128])).abs() < 1e-6, "{case_name}");
            }
        }
        assert!(goldens.cases.iter().any(|case| case.truncate == Truncate::Start), "{model}");
    }
}

#[test]
fn goldens_of_models_with_prompts_include_them() {
    for (model, pooling, include_prompt) in
        [("xlmr-mean-prompts", "mean", true), ("bert-bf16", "mean", true), ("bert-no-prompt", "mean", false)]
    {
        let goldens = goldens(model);
        assert_eq!((goldens.pooling.as_str(), goldens.include_prompt), (pooling, include_prompt));
        for role in [Role::Query, Role::Document] {
            let prompted: Vec<_> = goldens.cases.iter().filter(|case| case.role == role).collect();
            assert!(prompted.len() > 10 && prompted.iter().all(|case| case.prompt.ends_with(": ")));
        }
    }
}

fn sha256_of(file: &Path, tensor: &str) -> String {
    let bytes = fs::read(file).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let digest = Sha256::digest(file.tensor(tensor).unwrap().data());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn norm(vector: &[f32]) -> f32 {
    vector.iter().map(|x| x * x).sum::<f32>().sqrt()
}
