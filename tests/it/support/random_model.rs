//! Model directories with weights that follow from the names of their tensors.
//!
//! tests/fixtures/prng.py gives the same values, bit for bit, to the reference library.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use half::{bf16, f16};
use safetensors::{Dtype, tensor::TensorView};
use serde::Deserialize;

use super::fixture;

/// One row of tensors.json.
#[derive(Debug, Deserialize)]
pub struct Tensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub dtype: Dtype,
    /// The safetensors file that holds it.
    pub file: String,
    pub scale: f32,
    pub offset: f32,
    /// Of the stored bytes, as the reference computed with them.
    pub sha256: String,
}

/// Makes `dir` a complete model directory: the files of tests/fixtures/models/`name`, and the weights.
pub fn write_random_model(name: &str, dir: &Path) {
    copy(&fixture("models").join(name), dir);
    let mut files: BTreeMap<String, Vec<Tensor>> = BTreeMap::new();
    for tensor in tensors(name) {
        files.entry(tensor.file.clone()).or_default().push(tensor);
    }
    for (file, tensors) in files {
        write_file(&dir.join(file), &tensors);
    }
}

/// The tensors of a model, in the order of its layers.
pub fn tensors(name: &str) -> Vec<Tensor> {
    let json = fs::read(fixture("models").join(name).join("tensors.json")).unwrap();
    serde_json::from_slice(&json).unwrap()
}

/// The FNV-1a hash of the name's bytes. Source: RFC 9923.
pub fn fnv1a64(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |state, byte| {
        (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The words of SplitMix64. Source: Steele, Lea and Flood, OOPSLA 2014.
pub fn splitmix64(seed: u64) -> impl Iterator<Item = u64> {
    (1..).map(move |step: u64| {
        let z = seed.wrapping_add(step.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn write_file(path: &Path, tensors: &[Tensor]) {
    let data: Vec<Vec<u8>> = tensors.iter().map(stored).collect();
    let views = tensors.iter().zip(&data).map(|(tensor, bytes)| {
        let view = TensorView::new(tensor.dtype, tensor.shape.clone(), bytes).unwrap();
        (tensor.name.as_str(), view)
    });
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(views, Some(metadata), path).unwrap();
}

/// The little-endian bytes of a tensor.
fn stored(tensor: &Tensor) -> Vec<u8> {
    let values = values(tensor);
    match tensor.dtype {
        Dtype::F32 => values.flat_map(f32::to_le_bytes).collect(),
        Dtype::F16 => values.flat_map(|value| f16::from_f32(value).to_le_bytes()).collect(),
        Dtype::BF16 => values.flat_map(|value| bf16::from_f32(value).to_le_bytes()).collect(),
        other => panic!("no random model has {other:?} tensors"),
    }
}

fn values(tensor: &Tensor) -> impl Iterator<Item = f32> {
    let (scale, offset) = (tensor.scale, tensor.offset);
    splitmix64(fnv1a64(&tensor.name)).take(tensor.shape.iter().product()).map(move |word| {
        // 24 bits fit an f32 exactly, so this is exact and uniform in [-1, 1).
        let uniform = (word >> 40) as f32 / (1 << 23) as f32 - 1.0;
        offset + uniform * scale
    })
}
