//! A loaded model: its tokenizer, its encoder and how its states become vectors.

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

/// What the files leave open, as the operator sets it.
#[derive(Clone, Debug, Default)]
pub struct ModelSettings {
    /// The most tokens of one input; the model's own limit if it is lower.
    pub max_tokens: Option<usize>,
    /// Overrides the pooling that the files name.
    pub pooling: Option<Pooling>,
    /// How products are computed.
    pub kernel_selection: KernelSelection,
}

/// What a model is.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// Hub id, or the name of the directory.
    pub id: String,
    /// Commit on the hub; none for a plain directory.
    pub revision: Option<String>,
    /// SHA-256 of the weights, in hexadecimal; of all shards one after the other where there are several.
    pub sha256: String,
    /// `model_type` of config.json.
    pub architecture: String,
    /// Numbers in a vector.
    pub dimensions: usize,
    /// The most tokens of one input, special tokens included.
    pub max_tokens: usize,
    pub pooling: Pooling,
    /// Whether vectors are scaled to unit length unless the caller says otherwise.
    pub normalizes: bool,
    /// Prompts by name.
    pub prompts: BTreeMap<String, String>,
    pub default_prompt_name: Option<String>,
    /// Numbers in all tensors that the encoder reads.
    pub parameters: u64,
    /// What computes, such as `avx512-fp16`.
    pub kernel: &'static str,
    pub precision: Precision,
    /// The lowest cosine between vectors in this precision and in f32, over the built-in check; 1 for f32.
    pub cosine: f32,
    /// The kernels that the automatic selection timed, fastest first.
    pub kernels: Vec<KernelMeasurement>,
}

#[cfg(test)]
impl ModelInfo {
    /// A small model without files.
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

/// A model that is ready to compute.
pub struct Model {
    pub info: ModelInfo,
    pub tokenizer: Tokenizer,
    encoder: Bert,
}

/// Why a directory is not a model that can be served. Each names the file, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("{} is missing; {hint}", file.display())]
    Missing { file: PathBuf, hint: &'static str },
    #[error("{} cannot be read: {source}", file.display())]
    Read { file: PathBuf, source: std::io::Error },
    #[error("{} is not valid: {message}", file.display())]
    Invalid { file: PathBuf, message: String },
    #[error("{} asks for {what}, which is not supported; supported: {supported}", file.display())]
    Unsupported { file: PathBuf, what: String, supported: &'static str },
    #[error("{} has no tensor {tensor}; the file does not fit config.json", file.display())]
    MissingTensor { file: PathBuf, tensor: String },
    #[error("{}: tensor {tensor} has shape {found:?}, config.json asks for {expected:?}", file.display())]
    TensorShape { file: PathBuf, tensor: String, found: Vec<usize>, expected: Vec<usize> },
    #[error("{}: tensor {tensor} is {found}, supported are F32, F16 and BF16", file.display())]
    TensorType { file: PathBuf, tensor: String, found: String },
    #[error("{}: tensor {tensor} holds a number that is not finite; fetch the file again", file.display())]
    NotFinite { file: PathBuf, tensor: String },
    #[error(transparent)]
    KernelSelection(#[from] KernelSelectionError),
}

/// Token ids of several sequences, one after the other, without padding.
#[derive(Clone, Debug, Default)]
pub struct Packed {
    ids: Vec<u32>,
    // Invariant: starts with 0, rises strictly, ends with `ids.len()`.
    offsets: Vec<usize>,
}

impl Packed {
    pub fn new() -> Packed {
        Packed { ids: Vec::new(), offsets: vec![0] }
    }

    /// Adds a sequence of at least one token.
    pub fn push(&mut self, ids: &[u32]) {
        debug_assert!(!ids.is_empty());
        self.ids.extend_from_slice(ids);
        self.offsets.push(self.ids.len());
    }

    /// `[tokens]`
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// `[sequences + 1]`
    pub fn offsets(&self) -> &[usize] {
        &self.offsets
    }

    pub fn sequences(&self) -> usize {
        self.offsets.len() - 1
    }
}

impl Model {
    /// Reads and checks the model in `files`. Blocks on the disk; `progress` gets bytes read and bytes in all.
    ///
    /// # Errors
    /// [`ModelError`], which names the file and, where it is about one, the tensor.
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

    /// One pooled vector for each sequence: `[sequences * dimensions]`, not yet scaled to unit length.
    ///
    /// In a reduced precision numbers beyond its range become infinite: the caller checks. `between_layers` is called
    /// after each layer but the last, and may itself encode another batch with the same team.
    pub fn encode(&self, batch: &Packed, team: &Team, between_layers: &dyn Fn()) -> Vec<f32> {
        self.encoder.encode(batch, team, between_layers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_offsets_frame_each_sequence() {
        let mut packed = Packed::new();
        packed.push(&[1, 2, 3]);
        packed.push(&[4]);
        assert_eq!(packed.ids(), [1, 2, 3, 4]);
        assert_eq!(packed.offsets(), [0, 3, 4]);
        assert_eq!(packed.sequences(), 2);
    }
}
