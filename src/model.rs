//! Model loading and inference: files, tokenizer, encoder and pooling.

mod bert;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
#[expect(unsafe_code, reason = "vector instructions and packed memory; nowhere else")]
mod kernel;
mod kernel_selection;
mod kernel_timing;
mod manifest;
pub mod source;
mod tokenizer;
mod weights;

use std::{collections::BTreeMap, path::PathBuf};

use source::ModelFiles;

pub use kernel::{Invitation, Kernel, Precision, Team, all as kernels};
pub use kernel_selection::{KernelMeasurement, KernelSelection, KernelSelectionError, Quality};
pub use manifest::Pooling;
pub use tokenizer::{Encoded, Token, TokenizeError, Tokenizer, Truncation};

use bert::{Bert, BertSource};
use kernel_selection::SelectedEncoder;
use manifest::Manifest;
use weights::Weights;

/// Settings of a model that its files do not determine.
#[derive(Clone, Debug, Default)]
pub struct ModelSettings {
    /// Maximum tokens per input, special tokens included. The limit of the model applies if it is lower, or if this is
    /// `None`.
    pub max_tokens: Option<usize>,
    /// Overrides the pooling in the model files.
    pub pooling: Option<Pooling>,
    /// Kernel and precision of the computation.
    pub kernel_selection: KernelSelection,
}

/// Description of a loaded model.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// Hub id such as `org/name`, or the name of the directory.
    pub id: String,
    /// Commit on the hub; `None` for a local directory.
    pub revision: Option<String>,
    /// SHA-256 of the weights in hexadecimal, over all shards in the order of their names.
    pub sha256: String,
    /// `model_type` of config.json.
    pub architecture: String,
    /// Dimensions of a vector.
    pub dimensions: usize,
    /// Maximum tokens per input, special tokens included.
    pub max_tokens: usize,
    /// Pooling of token states.
    pub pooling: Pooling,
    /// True if vectors are scaled to unit length by default.
    pub normalizes: bool,
    /// Prompts by name.
    pub prompts: BTreeMap<String, String>,
    /// Name of the default prompt.
    pub default_prompt_name: Option<String>,
    /// Number of parameters: elements of all tensors that the encoder reads.
    pub parameters: u64,
    /// Name of the kernel, such as `avx512-fp16`.
    pub kernel: &'static str,
    /// Precision of matrix products.
    pub precision: Precision,
    /// Lowest cosine similarity between vectors in this precision and in f32 over the built-in check texts; 1 for f32.
    pub cosine: f32,
    /// The kernels that the automatic selection timed, fastest first.
    pub kernels: Vec<KernelMeasurement>,
}

#[cfg(any(test, feature = "fuzzing"))]
impl ModelInfo {
    /// Description of a small model, for tests.
    pub(crate) fn example() -> ModelInfo {
        ModelInfo {
            id: "a/model".into(),
            revision: None,
            sha256: "5e".repeat(32),
            architecture: "bert".into(),
            dimensions: 8,
            max_tokens: 16,
            pooling: Pooling::Mean,
            normalizes: true,
            prompts: BTreeMap::new(),
            default_prompt_name: None,
            parameters: 0,
            kernel: "scalar",
            precision: Precision::F32,
            cosine: 1.0,
            kernels: Vec::new(),
        }
    }
}

/// A loaded model.
pub struct Model {
    /// Description of the model.
    pub info: ModelInfo,
    /// The tokenizer of the model.
    pub tokenizer: Tokenizer,
    encoder: Bert,
}

/// Reason why a model cannot be loaded. Every message names the file.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each variant documents it")]
pub enum ModelError {
    /// A required file does not exist.
    #[error("{} is missing; {hint}", file.display())]
    Missing { file: PathBuf, hint: &'static str },
    /// A file cannot be read.
    #[error("cannot read {}: {source}", file.display())]
    Read { file: PathBuf, source: std::io::Error },
    /// A file has invalid content.
    #[error("{} is not valid: {message}", file.display())]
    Invalid { file: PathBuf, message: String },
    /// A file requires a feature that is not supported.
    #[error("{}: {what} is not supported; supported: {supported}", file.display())]
    Unsupported { file: PathBuf, what: String, supported: &'static str },
    /// A tensor is missing.
    #[error("{} has no tensor {tensor}; the weights do not match config.json", file.display())]
    MissingTensor { file: PathBuf, tensor: String },
    /// A tensor has another shape than config.json requires.
    #[error("{}: tensor {tensor} has shape {found:?}, config.json requires {expected:?}", file.display())]
    TensorShape { file: PathBuf, tensor: String, found: Vec<usize>, expected: Vec<usize> },
    /// A tensor has an unsupported element type.
    #[error("{}: tensor {tensor} has type {found}; supported: F32, F16 and BF16", file.display())]
    TensorType { file: PathBuf, tensor: String, found: String },
    /// A tensor has an infinite or NaN value.
    #[error("{}: tensor {tensor} has a value that is not finite; download the file again", file.display())]
    NotFinite { file: PathBuf, tensor: String },
    /// The requested kernel cannot be used.
    #[error(transparent)]
    KernelSelection(#[from] KernelSelectionError),
}

/// Token ids of several sequences, concatenated without padding.
#[derive(Clone, Debug, Default)]
pub struct Packed {
    ids: Vec<u32>,
    // Invariant: starts with 0, increases strictly, and ends with `ids.len()`.
    offsets: Vec<usize>,
}

impl Packed {
    /// Creates an empty batch.
    pub fn new() -> Packed {
        Packed { ids: Vec::new(), offsets: vec![0] }
    }

    /// Appends a sequence of at least one token.
    pub fn push(&mut self, ids: &[u32]) {
        debug_assert!(!ids.is_empty());
        self.ids.extend_from_slice(ids);
        self.offsets.push(self.ids.len());
    }

    /// Token ids, `[tokens]`.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Start of each sequence in [`Packed::ids`], and the end of the last one: `[sequences + 1]`.
    pub fn offsets(&self) -> &[usize] {
        &self.offsets
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.offsets.len() - 1
    }
}

impl Model {
    /// Reads and checks the model in `files`. Blocks on file I/O. `progress` receives the bytes read and the total bytes.
    ///
    /// # Errors
    /// [`ModelError`] with the file and, if one is affected, the tensor.
    pub fn load(
        files: &ModelFiles,
        settings: &ModelSettings,
        progress: &dyn Fn(u64, u64),
    ) -> Result<Model, ModelError> {
        let manifest = Manifest::read(&files.dir, settings)?;
        let tokenizer = Tokenizer::read(&files.dir, &manifest)?;
        let weights = Weights::read(&files.dir, progress)?;
        tokenizer.check_vocabulary(manifest.bert.vocab_size)?;
        let source = BertSource::new(&manifest, &weights)?;
        let SelectedEncoder { encoder, cosine, measurements } =
            settings.kernel_selection.select(&tokenizer, &source)?;
        let info = ModelInfo {
            id: files.id.clone(),
            revision: files.revision.clone(),
            sha256: weights.sha256().to_owned(),
            architecture: manifest.bert.model_type.clone(),
            dimensions: manifest.bert.hidden_size,
            max_tokens: manifest.max_tokens,
            pooling: manifest.pooling,
            normalizes: manifest.normalizes,
            prompts: manifest.prompts,
            default_prompt_name: manifest.default_prompt_name,
            parameters: encoder.parameters(),
            kernel: encoder.kernel().name,
            precision: encoder.kernel().precision,
            cosine,
            kernels: measurements,
        };
        Ok(Model { info, tokenizer, encoder })
    }

    /// Runs a forward pass and returns one pooled state per sequence: `[sequences * dimensions]`, not scaled to unit length.
    ///
    /// In a reduced precision, values beyond its range become infinite; the caller must check. `between_layers` is called
    /// after every layer except the last, and may encode another batch with the same team.
    pub fn encode(&self, batch: &Packed, team: &Team, between_layers: &dyn Fn()) -> Vec<f32> {
        self.encoder.encode(batch, team, between_layers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_offsets_delimit_each_sequence() {
        let mut packed = Packed::new();
        packed.push(&[1, 2, 3]);
        packed.push(&[4]);
        assert_eq!(packed.ids(), [1, 2, 3, 4]);
        assert_eq!(packed.offsets(), [0, 3, 4]);
        assert_eq!(packed.sequences(), 2);
    }
}
