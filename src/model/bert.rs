//! BERT and RoBERTa encoders over packed sequences.
//!
//! Sequences are concatenated without padding, so every matrix product except attention runs over all tokens of the batch.
//! Source: BERT, arXiv:1810.04805; RoBERTa, arXiv:1907.11692.

use std::{ops::Range, sync::Arc};

use parking_lot::Mutex;

use super::{
    ModelError, Packed,
    kernel::{
        AttentionHeads, Kernel, KernelExecutor, LayerNorm, Linear, LinearSource, Operand, ProductOutput,
        RowBlock, Scratch, StateMatrix, Team,
    },
    manifest::{BertConfig, Manifest, Pooling},
    weights::{WeightTable, Weights},
};

/// A BERT or RoBERTa encoder with weights packed for one kernel.
pub(super) struct Bert {
    kernel: &'static Kernel,
    embeddings: Arc<Embeddings>,
    layers: Vec<BertLayer>,
    heads: AttentionHeads,
    pooling: Pooling,
    dim: usize,
    intermediate: usize,
    max_tokens: usize,
    parameters: u64,
    /// Buffers of finished passes, kept for reuse.
    free_buffers: Mutex<Vec<PassBuffers>>,
}

/// The embedding tables, which encoders of all kernels share.
struct Embeddings {
    /// `[vocabulary, dim]`, in the number format of the file: it is the largest of all tensors.
    words: WeightTable,
    /// `[positions, dim]`, with the embedding of token type 0 added to each row.
    positions: Vec<f32>,
    /// Row of `positions` for the first token of a sequence.
    first_position: usize,
    norm: LayerNorm,
    parameters: u64,
}

/// The files of a model, from which encoders are built.
pub(super) struct BertSource<'a> {
    manifest: &'a Manifest,
    weights: &'a Weights,
    embeddings: Arc<Embeddings>,
}

/// Weights of one layer.
struct BertLayer {
    query_key_value: Linear,
    attention_out: Linear,
    attention_norm: LayerNorm,
    up: Linear,
    down: Linear,
    norm: LayerNorm,
}

/// Matrices of one forward pass.
struct PassBuffers {
    /// Capacity in tokens.
    tokens: usize,
    /// `[tokens, dim]`: input and output of a layer.
    states: StateMatrix,
    /// `states` as the left operand of a product.
    operand: Operand,
    /// `[tokens, 3 * dim]`
    query_key_value: Operand,
    /// `[tokens, dim]`
    context: Operand,
    /// `[tokens, intermediate]`
    inner: Operand,
    scratch: Vec<Scratch>,
}

/// Maximum tokens of a batch that uses the smallest buffers.
const SHORT_BATCH: usize = 64;

impl<'a> BertSource<'a> {
    /// Reads the embedding tables.
    pub fn new(manifest: &'a Manifest, weights: &'a Weights) -> Result<BertSource<'a>, ModelError> {
        let embeddings = Arc::new(Embeddings::read(&manifest.bert, weights)?);
        Ok(BertSource { manifest, weights, embeddings })
    }

    /// SHA-256 of the weights.
    pub fn sha256(&self) -> &str {
        self.weights.sha256()
    }

    /// The number of layers of the whole encoder.
    pub fn layers(&self) -> usize {
        self.manifest.bert.num_hidden_layers
    }

    /// Token ids without a meaning, of at most the maximum length.
    pub fn any_ids(&self, length: usize) -> Vec<u32> {
        let vocabulary = u32::try_from(self.manifest.bert.vocab_size).unwrap_or(u32::MAX).max(1);
        let length = length.min(self.manifest.max_tokens);
        (0..length as u32).map(|index| index.wrapping_mul(2_654_435_761) % vocabulary).collect()
    }

    /// An encoder of the first `layers` layers.
    pub fn build(&self, kernel: &'static Kernel, layers: usize) -> Result<Bert, ModelError> {
        let manifest = self.manifest;
        let config = &manifest.bert;
        let head_dim = config.hidden_size / config.num_attention_heads;
        let heads = AttentionHeads::new(config.num_attention_heads, head_dim);
        let mut reader = WeightsReader { weights: self.weights, config, kernel, heads, parameters: 0 };
        let layers = layers.min(config.num_hidden_layers);
        let layers = (0..layers).map(|i| reader.layer(i)).collect::<Result<_, ModelError>>()?;
        Ok(Bert {
            kernel,
            embeddings: Arc::clone(&self.embeddings),
            layers,
            heads,
            pooling: manifest.pooling,
            dim: config.hidden_size,
            intermediate: config.intermediate_size,
            max_tokens: manifest.max_tokens,
            parameters: self.embeddings.parameters + reader.parameters,
            free_buffers: Mutex::default(),
        })
    }
}

impl Bert {
    /// Number of parameters.
    pub fn parameters(&self) -> u64 {
        self.parameters
    }

    pub fn kernel(&self) -> &'static Kernel {
        self.kernel
    }

    /// Returns one pooled state per sequence of `batch`: `[sequences * dim]`. Calls `between_layers` after every layer
    /// except the last.
    pub fn encode(&self, batch: &Packed, team: &Team, between_layers: &dyn Fn()) -> Vec<f32> {
        let mut buffers = self.take_buffers(batch, team);
        let PassBuffers { scratch, .. } = &mut buffers;
        let scratch = std::mem::take(scratch);
        let executor = self.kernel.executor(team, &scratch);
        self.embed(batch, &executor, &mut buffers);
        let mut bounds = executor.bounds(batch.ids().len());
        for (index, layer) in self.layers.iter().enumerate() {
            if index > 0 {
                between_layers();
            }
            layer.forward(batch.offsets(), &bounds, self.heads, &executor, &mut buffers);
            executor.balance(&mut bounds);
        }
        let mut vectors = vec![0.0; batch.sequences() * self.dim];
        for (vector, ends) in vectors.chunks_exact_mut(self.dim).zip(batch.offsets().windows(2)) {
            self.pool(&buffers.states, ends[0]..ends[1], vector);
        }
        buffers.scratch = scratch;
        self.free_buffers.lock().push(buffers);
        vectors
    }

    /// Takes the smallest free buffers that are large enough for `batch`, or allocates new ones.
    fn take_buffers(&self, batch: &Packed, team: &Team) -> PassBuffers {
        let tokens = batch.ids().len();
        let longest = batch.offsets().windows(2).map(|ends| ends[1] - ends[0]).max().unwrap_or_default();
        let mut free_buffers = self.free_buffers.lock();
        let fitting = free_buffers.iter().enumerate().filter(|(_, buffers)| buffers.tokens >= tokens);
        let smallest = fitting.min_by_key(|(_, buffers)| buffers.tokens).map(|(index, _)| index);
        let used = smallest.map(|index| free_buffers.swap_remove(index));
        drop(free_buffers);
        let mut buffers = used.unwrap_or_else(|| {
            // Few different sizes, so that few buffers are kept.
            let size = match tokens {
                ..=SHORT_BATCH => SHORT_BATCH,
                _ => tokens.next_power_of_two().max(self.max_tokens.min(512)),
            };
            PassBuffers::new(self, size)
        });
        let scratch_tokens = longest.max(self.max_tokens);
        while buffers.scratch.len() < team.size() {
            buffers.scratch.push(self.kernel.scratch(scratch_tokens, self.heads));
        }
        buffers
    }

    /// Writes the normalised sum of word and position embeddings to `states` and `operand`.
    fn embed(&self, batch: &Packed, executor: &KernelExecutor<'_>, buffers: &mut PassBuffers) {
        let dim = self.dim;
        let PassBuffers { states, operand, .. } = buffers;
        let Embeddings { words, positions, first_position, norm, .. } = &*self.embeddings;
        for ends in batch.offsets().windows(2) {
            for (position, row) in (ends[0]..ends[1]).enumerate() {
                let x = states.row_mut(row);
                words.read_row(batch.ids()[row] as usize, x);
                let position = &positions[(first_position + position) * dim..][..dim];
                x.iter_mut().zip(position).for_each(|(x, p)| *x += p);
            }
        }
        let rows = 0..batch.ids().len();
        executor.normalise(norm, &mut RowBlock::new(states, rows.clone()), &mut RowBlock::new(operand, rows));
    }

    /// Pools the states of one sequence into `vector`, which is `[dim]` and zero.
    fn pool(&self, states: &StateMatrix, rows: Range<usize>, vector: &mut [f32]) {
        match self.pooling {
            Pooling::Cls => vector.copy_from_slice(states.row(rows.start)),
            Pooling::LastToken => vector.copy_from_slice(states.row(rows.end - 1)),
            Pooling::Mean => {
                let share = 1.0 / rows.len() as f32;
                for row in rows {
                    vector.iter_mut().zip(states.row(row)).for_each(|(sum, x)| *sum += x);
                }
                vector.iter_mut().for_each(|sum| *sum *= share);
            }
        }
    }
}

impl BertLayer {
    fn forward(
        &self,
        offsets: &[usize],
        bounds: &[usize],
        heads: AttentionHeads,
        executor: &KernelExecutor<'_>,
        buffers: &mut PassBuffers,
    ) {
        let PassBuffers { states, operand, query_key_value, context, inner, .. } = buffers;
        let all = 0..offsets[offsets.len() - 1];
        let (x, mut to) = (RowBlock::new(operand, all.clone()), RowBlock::new(query_key_value, all));
        executor.project(&x, &self.query_key_value, ProductOutput::Store(&mut to));
        executor.attend(query_key_value, offsets, heads, context);
        let blocks = RowBlock::between(context, bounds)
            .zip(RowBlock::between(states, bounds))
            .zip(RowBlock::between(operand, bounds).zip(RowBlock::between(inner, bounds)));
        executor.each(bounds, blocks, |executor, ((context, mut states), (mut operand, mut inner))| {
            executor.project(&context, &self.attention_out, ProductOutput::Add(&mut states));
            executor.normalise(&self.attention_norm, &mut states, &mut operand);
            executor.project(&operand, &self.up, ProductOutput::Gelu(&mut inner));
            executor.project(&inner, &self.down, ProductOutput::Add(&mut states));
            executor.normalise(&self.norm, &mut states, &mut operand);
        });
    }
}

impl PassBuffers {
    fn new(model: &Bert, tokens: usize) -> PassBuffers {
        let Bert { kernel, dim, intermediate, heads, .. } = *model;
        let attention = heads.count * heads.width;
        PassBuffers {
            tokens,
            states: StateMatrix::new(tokens, dim),
            operand: kernel.operand(tokens, dim),
            query_key_value: kernel.attention_operand(tokens, 3 * attention),
            context: kernel.operand(tokens, attention),
            inner: kernel.operand(tokens, intermediate),
            scratch: Vec::new(),
        }
    }
}

/// Reads the tensors of a model by their names in the transformers library.
struct WeightsReader<'a> {
    weights: &'a Weights,
    config: &'a BertConfig,
    kernel: &'static Kernel,
    heads: AttentionHeads,
    parameters: u64,
}

impl Embeddings {
    fn read(config: &BertConfig, weights: &Weights) -> Result<Embeddings, ModelError> {
        let BertConfig { vocab_size, hidden_size: dim, max_position_embeddings, type_vocab_size, .. } =
            *config;
        let words = weights.table("embeddings.word_embeddings.weight", [vocab_size, dim])?;
        let mut positions =
            weights.tensor("embeddings.position_embeddings.weight", &[max_position_embeddings, dim])?;
        let types = weights.tensor("embeddings.token_type_embeddings.weight", &[type_vocab_size, dim])?;
        // All tokens of a single text have type 0.
        for position in positions.chunks_exact_mut(dim) {
            position.iter_mut().zip(&types).for_each(|(x, t)| *x += t);
        }
        let norm =
            ["weight", "bias"].map(|part| weights.tensor(&format!("embeddings.LayerNorm.{part}"), &[dim]));
        let [weight, bias] = norm;
        let norm = LayerNorm::new(weight?, bias?, config.layer_norm_eps as f32);
        let parameters = (words.len() + positions.len() + types.len() + 2 * dim) as u64;
        Ok(Embeddings { words, positions, first_position: config.first_position(), norm, parameters })
    }
}

impl WeightsReader<'_> {
    fn layer(&mut self, index: usize) -> Result<BertLayer, ModelError> {
        let (dim, inner) = (self.config.hidden_size, self.config.intermediate_size);
        let at = |name: &str| format!("encoder.layer.{index}.{name}");
        Ok(BertLayer {
            query_key_value: self.query_key_value(&at("attention.self"))?,
            attention_out: self.attention_out(&at("attention.output.dense"))?,
            attention_norm: self.norm(&at("attention.output.LayerNorm"))?,
            up: self.linear(&at("intermediate.dense"), inner, dim)?,
            down: self.linear(&at("output.dense"), dim, inner)?,
            norm: self.norm(&at("output.LayerNorm"))?,
        })
    }

    /// Packs the projections to queries, keys and values as one product, with padded heads. The weights of the queries
    /// include the scale of the softmax and its change to base 2.
    fn query_key_value(&mut self, name: &str) -> Result<Linear, ModelError> {
        let dim = self.config.hidden_size;
        let [query, key, value] =
            ["query", "key", "value"].map(|part| self.weight_and_bias(&format!("{name}.{part}"), dim, dim));
        let parts = [query?, key?, value?];
        let (heads, head_dim) = (self.heads, dim / self.heads.count);
        let scale = std::f32::consts::LOG2_E / (head_dim as f32).sqrt();
        let find = |output: usize| {
            let (part, head, i) = heads.find(output);
            (i < head_dim).then_some((part, head * head_dim + i, if part == 0 { scale } else { 1.0 }))
        };
        Ok(self.kernel.pack(&LinearSource {
            outputs: 3 * heads.count * heads.width,
            inputs: dim,
            weight: &|output, input| {
                find(output).map_or(0.0, |(part, row, scale)| scale * parts[part].0[row * dim + input])
            },
            bias: &|output| find(output).map_or(0.0, |(part, row, scale)| scale * parts[part].1[row]),
        }))
    }

    /// Packs the output projection of attention, whose inputs are padded heads.
    fn attention_out(&mut self, name: &str) -> Result<Linear, ModelError> {
        let dim = self.config.hidden_size;
        let (weight, bias) = self.weight_and_bias(name, dim, dim)?;
        let (heads, head_dim) = (self.heads, dim / self.heads.count);
        Ok(self.kernel.pack(&LinearSource {
            outputs: dim,
            inputs: heads.count * heads.width,
            weight: &|output, input| {
                let (_, head, i) = heads.find(input);
                if i < head_dim { weight[output * dim + head * head_dim + i] } else { 0.0 }
            },
            bias: &|output| bias[output],
        }))
    }

    fn linear(&mut self, name: &str, outputs: usize, inputs: usize) -> Result<Linear, ModelError> {
        let (weight, bias) = self.weight_and_bias(name, outputs, inputs)?;
        Ok(self.kernel.pack(&LinearSource {
            outputs,
            inputs,
            weight: &|output, input| weight[output * inputs + input],
            bias: &|output| bias[output],
        }))
    }

    fn weight_and_bias(
        &mut self,
        name: &str,
        outputs: usize,
        inputs: usize,
    ) -> Result<(Vec<f32>, Vec<f32>), ModelError> {
        let weight = self.read(&format!("{name}.weight"), &[outputs, inputs])?;
        Ok((weight, self.read(&format!("{name}.bias"), &[outputs])?))
    }

    fn norm(&mut self, name: &str) -> Result<LayerNorm, ModelError> {
        let dim = self.config.hidden_size;
        let weight = self.read(&format!("{name}.weight"), &[dim])?;
        let bias = self.read(&format!("{name}.bias"), &[dim])?;
        Ok(LayerNorm::new(weight, bias, self.config.layer_norm_eps as f32))
    }

    fn read(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let values = self.weights.tensor(name, shape)?;
        self.parameters += values.len() as u64;
        Ok(values)
    }
}
