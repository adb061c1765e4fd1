//! Tensors from safetensors files, checked and converted to f32.

use std::{
    collections::{BTreeSet, HashMap},
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use half::{bf16, f16, slice::HalfFloatSliceExt};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{
    ModelError,
    manifest::{invalid, read_optional},
};

/// All weights files of a model, in memory.
pub(super) struct Weights {
    shards: Vec<Shard>,
    sha256: String,
    /// Prefix of every tensor name, such as `bert.`.
    prefix: String,
}

/// One safetensors file.
struct Shard {
    file: PathBuf,
    bytes: Vec<u8>,
}

/// A matrix in the number format of its file, of which rows are read one at a time.
pub(super) struct WeightTable {
    values: WeightTableValues,
    columns: usize,
}

/// Values of a [`WeightTable`].
enum WeightTableValues {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

impl WeightTable {
    /// The number of values.
    pub fn len(&self) -> usize {
        match &self.values {
            WeightTableValues::F32(values) => values.len(),
            WeightTableValues::F16(values) => values.len(),
            WeightTableValues::Bf16(values) => values.len(),
        }
    }

    /// Writes a row in f32 into `row`, which has as many values as the table has columns.
    pub fn read_row(&self, index: usize, row: &mut [f32]) {
        let range = index * self.columns..(index + 1) * self.columns;
        match &self.values {
            WeightTableValues::F32(values) => row.copy_from_slice(&values[range]),
            WeightTableValues::F16(values) => values[range].convert_to_f32_slice(row),
            WeightTableValues::Bf16(values) => values[range].convert_to_f32_slice(row),
        }
    }
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: HashMap<String, String>,
}

const INDEX: &str = "model.safetensors.index.json";
const SINGLE_FILE: &str = "model.safetensors";
/// Tensor that every supported model has. What precedes it is the prefix of all tensor names.
pub(super) const ANCHOR: &str = "embeddings.word_embeddings.weight";

impl Weights {
    /// Reads and hashes every weights file. `progress` receives the bytes read and the total bytes.
    ///
    /// # Errors
    /// [`ModelError`] if a file is missing, cannot be read or is not a valid safetensors file.
    pub fn read(dir: &Path, progress: &dyn Fn(u64, u64)) -> Result<Weights, ModelError> {
        let files = weights_files(dir)?;
        let sizes: Vec<u64> = files.iter().map(|file| size(file)).collect::<Result<_, _>>()?;
        let total = sizes.iter().sum();
        let (mut hash, mut done, mut shards) = (Sha256::new(), 0, Vec::new());
        for (file, size) in files.into_iter().zip(sizes) {
            let bytes = read_shard(&file, size, &mut hash, &mut |n| {
                done += n;
                progress(done, total);
            })?;
            SafeTensors::deserialize(&bytes).map_err(|e| {
                invalid(&file, format!("{e} (file size {size} bytes); download it again if it is incomplete"))
            })?;
            shards.push(Shard { file, bytes });
        }
        let mut weights = Weights { shards, sha256: hex::encode(hash.finalize()), prefix: String::new() };
        weights.prefix = weights.find_prefix()?;
        Ok(weights)
    }

    /// SHA-256 over all files, in hexadecimal.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Returns the tensor `name` in f32, in row-major order.
    ///
    /// # Errors
    /// [`ModelError`] with file and tensor if it is missing, has another shape or an unsupported type, or has a value
    /// that is not finite.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        self.read_tensor(name, shape, |view| {
            let values = widen(view)?;
            let is_finite = values.iter().all(|value| value.is_finite());
            Some((values, is_finite))
        })
    }

    /// The tensor `name` in its own number format; `shape` is `[rows, columns]`.
    ///
    /// # Errors
    /// The errors of [`Weights::tensor`].
    pub fn table(&self, name: &str, shape: [usize; 2]) -> Result<WeightTable, ModelError> {
        self.read_tensor(name, &shape, |view| {
            let (values, is_finite) = table_values(view)?;
            Some((WeightTable { values, columns: shape[1] }, is_finite))
        })
    }

    /// Finds the tensor `name` and reads it with `read`, which returns the values and whether all are finite, or `None` if the
    /// number format is not supported.
    ///
    /// # Errors
    /// The errors of [`Weights::tensor`].
    fn read_tensor<T>(
        &self,
        name: &str,
        shape: &[usize],
        read: impl FnOnce(&TensorView<'_>) -> Option<(T, bool)>,
    ) -> Result<T, ModelError> {
        let name = format!("{}{name}", self.prefix);
        let (file, view) = self.find(&name).ok_or_else(|| ModelError::MissingTensor {
            file: self.shards[0].file.clone(),
            tensor: name.clone(),
        })?;
        let file = || file.to_owned();
        if view.shape() != shape {
            let (found, expected) = (view.shape().to_vec(), shape.to_vec());
            return Err(ModelError::TensorShape { file: file(), tensor: name, found, expected });
        }
        let (values, is_finite) = read(&view).ok_or_else(|| ModelError::TensorType {
            file: file(),
            tensor: name.clone(),
            found: format!("{:?}", view.dtype()),
        })?;
        if is_finite { Ok(values) } else { Err(ModelError::NotFinite { file: file(), tensor: name }) }
    }

    fn find(&self, name: &str) -> Option<(&Path, TensorView<'_>)> {
        self.shards.iter().find_map(|shard| {
            let view = shard.tensors().tensor(name).ok()?;
            Some((shard.file.as_path(), view))
        })
    }

    fn find_prefix(&self) -> Result<String, ModelError> {
        let names = self
            .shards
            .iter()
            .flat_map(|shard| shard.tensors().names().into_iter().map(str::to_owned).collect::<Vec<_>>());
        names.filter_map(|name| name.strip_suffix(ANCHOR).map(str::to_owned)).next().ok_or_else(|| {
            ModelError::MissingTensor { file: self.shards[0].file.clone(), tensor: ANCHOR.into() }
        })
    }
}

impl Shard {
    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).expect("the header was valid when the file was read")
    }
}

fn weights_files(dir: &Path) -> Result<Vec<PathBuf>, ModelError> {
    if let Some(index) = read_optional::<ShardIndex>(&dir.join(INDEX))? {
        let names: BTreeSet<String> = index.weight_map.into_values().collect();
        if let Some(outside) = names.iter().find(|name| Path::new(name).components().count() != 1) {
            return Err(invalid(
                &dir.join(INDEX),
                format!("weight_map names {outside}, which is outside of the directory"),
            ));
        }
        if names.is_empty() {
            return Err(invalid(&dir.join(INDEX), "weight_map names no file".into()));
        }
        return Ok(names.into_iter().map(|name| dir.join(name)).collect());
    }
    Ok(vec![dir.join(SINGLE_FILE)])
}

fn size(file: &Path) -> Result<u64, ModelError> {
    let metadata = std::fs::metadata(file).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => ModelError::Missing {
            file: file.into(),
            hint: "only weights in the safetensors format are supported",
        },
        _ => ModelError::Read { file: file.into(), source },
    })?;
    Ok(metadata.len())
}

fn read_shard(
    file: &Path,
    size: u64,
    hash: &mut Sha256,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<u8>, ModelError> {
    const CHUNK: u64 = 4 << 20;
    let failed = |source| ModelError::Read { file: file.into(), source };
    let mut reader = File::open(file).map_err(failed)?;
    let mut bytes = Vec::with_capacity(size as usize);
    loop {
        let start = bytes.len();
        let read = reader.by_ref().take(CHUNK).read_to_end(&mut bytes).map_err(failed)?;
        if read == 0 {
            return Ok(bytes);
        }
        hash.update(&bytes[start..]);
        progress(read as u64);
    }
}

fn table_values(view: &TensorView<'_>) -> Option<(WeightTableValues, bool)> {
    let pairs = || view.data().as_chunks::<2>().0.iter();
    match view.dtype() {
        Dtype::F32 => {
            let values = widen(view)?;
            let is_finite = values.iter().all(|value| value.is_finite());
            Some((WeightTableValues::F32(values), is_finite))
        }
        Dtype::F16 => {
            let values: Vec<f16> = pairs().map(|&b| f16::from_le_bytes(b)).collect();
            let is_finite = values.iter().all(|value| value.is_finite());
            Some((WeightTableValues::F16(values), is_finite))
        }
        Dtype::BF16 => {
            let values: Vec<bf16> = pairs().map(|&b| bf16::from_le_bytes(b)).collect();
            let is_finite = values.iter().all(|value| value.is_finite());
            Some((WeightTableValues::Bf16(values), is_finite))
        }
        _ => None,
    }
}

fn widen(view: &TensorView<'_>) -> Option<Vec<f32>> {
    let data = view.data();
    match view.dtype() {
        Dtype::F32 => Some(data.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()),
        Dtype::F16 => Some(data.as_chunks::<2>().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect()),
        Dtype::BF16 => {
            Some(data.as_chunks::<2>().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32()).collect())
        }
        _ => None,
    }
}
