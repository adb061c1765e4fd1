//! Comparison with the reference library: equal token ids, and vectors within rounding errors.

use std::path::{Path, PathBuf};

use assay::{
    embed::{Vector, VectorEncoding, VectorOptions},
    model::{
        Kernel, KernelSelection, Model, ModelSettings, Packed, Precision, Team, Truncation, kernels,
        source::ModelFiles,
    },
};

use crate::support::{
    goldens::{Case, MODELS, Truncate, goldens},
    random_model::write_random_model,
};

// Unit vectors in f32 are within 4e-7 of the reference. GELU with tanh instead of erf would differ by 2e-5.
const TOLERANCE: f32 = 5e-6;

#[test]
fn random_models_match_the_reference() {
    for name in MODELS.iter().filter(|&&name| name != "minilm" && goldens(name).include_prompt) {
        let dir = tempfile::tempdir().unwrap();
        write_random_model(name, dir.path());
        check(name, dir.path());
    }
}

#[test]
fn pooling_without_the_prompt_is_rejected() {
    let dir = tempfile::tempdir().unwrap();
    write_random_model("bert-no-prompt", dir.path());
    let refusal = load("bert-no-prompt", dir.path(), exact()).err().expect("not supported");
    assert!(refusal.contains("include_prompt"), "{refusal}");
}

#[test]
fn minilm_matches_the_reference() {
    check("minilm", &minilm());
}

#[test]
fn every_supported_kernel_is_near_the_reference() {
    for kernel in kernels().iter().filter(|kernel| kernel.is_supported()) {
        let models: &[&str] = if kernel.name.starts_with("scalar") {
            // The scalar kernels take a second for what the others compute in a millisecond.
            &["xlmr-mean-prompts", "bert-bf16"]
        } else {
            check_kernel(kernel, "minilm", &minilm());
            &["bert-zh-cls", "xlmr-mean-prompts", "bert-bf16"]
        };
        for name in models {
            let dir = tempfile::tempdir().unwrap();
            write_random_model(name, dir.path());
            check_kernel(kernel, name, dir.path());
        }
    }
}

#[test]
fn the_selected_kernel_is_accurate_and_reports_its_cosine() {
    let model = load("minilm", &minilm(), KernelSelection::default()).unwrap();
    assert!((0.9999..=1.0).contains(&model.info.cosine), "{}", model.info.cosine);
    assert_eq!(model.info.cosine == 1.0, model.info.precision == Precision::F32);
}

#[test]
fn an_unsupported_kernel_is_rejected_with_the_supported_ones() {
    let unknown = KernelSelection { kernel: Some("abacus".into()), ..Default::default() };
    let refusal = load("minilm", &minilm(), unknown).err().expect("no such kernel");
    assert!(refusal.contains("abacus") && refusal.contains("scalar"), "{refusal}");
    for kernel in kernels().iter().filter(|kernel| !kernel.is_supported()) {
        let kernel_selection = KernelSelection { kernel: Some(kernel.name.into()), ..Default::default() };
        let refusal = load("minilm", &minilm(), kernel_selection).err().expect("no such instructions");
        assert!(refusal.contains(kernel.name) && refusal.contains("does not support"), "{refusal}");
    }
}

#[test]
fn a_vector_does_not_depend_on_its_batch() {
    let model = load("minilm", &minilm(), exact()).unwrap();
    let cases = goldens("minilm").cases;
    for company in cases.chunks(9) {
        let mut batch = Packed::new();
        company.iter().for_each(|case| batch.push(&case.ids));
        let together = model.encode(&batch, &Team::alone(), &|| {});
        for (case, together) in company.iter().zip(together.chunks_exact(model.info.dimensions)) {
            let mut batch = Packed::new();
            batch.push(&case.ids);
            assert_close(
                together,
                &model.encode(&batch, &Team::alone(), &|| {}),
                norm(together),
                &case.text.id,
            );
        }
    }
}

#[test]
fn a_truncated_input_matches_the_reference() {
    let model = load("minilm", &minilm(), exact()).unwrap();
    let options = VectorOptions { dimensions: 128, normalize: true, encoding: VectorEncoding::Float32Values };
    let cases = goldens("minilm").cases;
    let cut: Vec<_> = cases.iter().filter_map(|case| Some((case, case.matryoshka_128.as_ref()?))).collect();
    assert!(!cut.is_empty());
    for (case, expected) in cut {
        let mut batch = Packed::new();
        batch.push(&case.ids);
        let Vector::Values(values) = Vector::new(&model.encode(&batch, &Team::alone(), &|| {}), options)
        else {
            panic!("another encoding")
        };
        assert_close(&values, expected, 1.0, &case.text.id);
    }
}

fn check_kernel(kernel: &Kernel, name: &str, dir: &Path) {
    let least = match kernel.precision {
        Precision::F32 => 0.99999,
        Precision::F16 => 0.9999,
        Precision::Bf16 => 0.999,
        Precision::Int8 => 0.99,
    };
    let kernel_selection = KernelSelection { kernel: Some(kernel.name.into()), ..Default::default() };
    let model = load(name, dir, kernel_selection).unwrap();
    let (mut batch, mut expected) = (Packed::new(), Vec::new());
    for case in goldens(name).cases {
        if batch.ids().len() + case.ids.len() <= 1000 {
            batch.push(&case.ids);
            expected.push(case.vector);
        }
    }
    let vectors = model.encode(&batch, &Team::alone(), &|| {});
    for (vector, expected) in vectors.chunks_exact(model.info.dimensions).zip(&expected) {
        let dot: f32 = vector.iter().zip(expected).map(|(a, b)| a * b).sum();
        let cosine = dot / (norm(vector) * norm(expected));
        assert!(cosine >= least, "{name} by {}: cosine {cosine}", kernel.name);
    }
}

/// Directory of all-MiniLM-L6-v2, which `make model` downloads.
fn minilm() -> PathBuf {
    let dir = std::env::var_os("MINILM").map_or_else(|| "models/all-MiniLM-L6-v2".into(), PathBuf::from);
    assert!(dir.join("model.safetensors").is_file(), "{} has no model: run make model", dir.display());
    dir
}

/// Selects the fastest kernel in f32.
fn exact() -> KernelSelection {
    KernelSelection { precision: Some(Precision::F32), ..Default::default() }
}

fn load(name: &str, dir: &Path, kernel_selection: KernelSelection) -> Result<Model, String> {
    let files = ModelFiles { dir: dir.to_owned(), id: name.to_owned(), revision: None };
    let settings = ModelSettings { kernel_selection, ..ModelSettings::default() };
    Model::load(&files, &settings, &|_, _| {}).map_err(|error| error.to_string())
}

fn check(name: &str, dir: &Path) {
    let model = load(name, dir, exact()).unwrap();
    let goldens = goldens(name);
    let info = &model.info;
    assert_eq!(
        (info.dimensions, info.max_tokens, info.normalizes),
        (goldens.dimension, goldens.max_tokens, goldens.normalize)
    );
    for case in &goldens.cases {
        let case_name = format!("{name}: {} {:?} {:?}", case.text.id, case.role, case.truncate);
        let ids = ids(&model, case);
        assert_eq!(ids, case.ids, "{case_name}");
        let mut batch = Packed::new();
        batch.push(&ids);
        let raw = model.encode(&batch, &Team::alone(), &|| {});
        if let Some(expected) = &case.unnormalized {
            assert_close(&raw, expected, norm(expected), &case_name);
        }
        let scale = if goldens.normalize { norm(&raw) } else { 1.0 };
        let vector: Vec<f32> = raw.iter().map(|x| x / scale).collect();
        assert_close(&vector, &case.vector, norm(&case.vector), &case_name);
    }
}

fn ids(model: &Model, case: &Case) -> Vec<u32> {
    let truncation = match case.truncate {
        Truncate::Start => Truncation::Start,
        Truncate::End => Truncation::End,
    };
    model.tokenizer.encode(&case.prompt, &case.text.text, truncation).unwrap().ids
}

/// Compares vectors, with a tolerance relative to the norm of the expected one.
fn assert_close(actual: &[f32], expected: &[f32], length: f32, case_name: &str) {
    assert_eq!(actual.len(), expected.len(), "{case_name}");
    let difference = actual.iter().zip(expected).map(|(a, e)| (a - e).abs()).fold(0.0, f32::max);
    assert!(difference <= TOLERANCE * length, "{case_name}: off by {difference}");
}

fn norm(vector: &[f32]) -> f32 {
    vector.iter().map(|x| x * x).sum::<f32>().sqrt()
}
