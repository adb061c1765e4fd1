//! BERT and RoBERTa encoders over packed sequences.
//!
//! Source: BERT, arXiv:1810.04805; RoBERTa, arXiv:1907.11692. Sequences stand one after the other without
//! padding, so every matrix product but attention's runs over all tokens of the batch at once.

use candle_core::{CpuStorage, Device, InplaceOp1, InplaceOp2, Layout, Result as TensorResult, Tensor};

use super::{
    ModelError, Packed,
    kernel::{self, LayerNorm},
    manifest::{BertConfig, Manifest, Pooling},
    weights::Weights,
};

pub(super) struct Bert {
    /// `[vocabulary, dim]`
    words: Tensor,
    /// `[positions, dim]`, each with the row of token type 0 added.
    positions: Tensor,
    first_position: usize,
    norm: LayerNorm,
    layers: Vec<Layer>,
    pooling: Pooling,
    dim: usize,
    parameters: u64,
}

struct Layer {
    query_key_value: Linear,
    attention_out: Linear,
    attention_norm: LayerNorm,
    up: Linear,
    down: Linear,
    norm: LayerNorm,
    heads: usize,
}

/// `x * weight^T + bias`
struct Linear {
    /// `[out, in]`
    weight: Tensor,
    /// `[out]`
    bias: Vec<f32>,
}

impl Bert {
    pub fn new(manifest: &Manifest, weights: &Weights) -> Result<Bert, ModelError> {
        let config = &manifest.bert;
        let mut reader = Reader { weights, config, parameters: 0 };
        let (words, positions, norm) = reader.embeddings()?;
        let layers =
            (0..config.num_hidden_layers).map(|i| reader.layer(i)).collect::<Result<_, ModelError>>()?;
        Ok(Bert {
            words,
            positions,
            first_position: config.first_position(),
            norm,
            layers,
            pooling: manifest.pooling,
            dim: config.hidden_size,
            parameters: reader.parameters,
        })
    }

    pub fn parameters(&self) -> u64 {
        self.parameters
    }

    /// One pooled vector for each sequence of `batch`: `[sequences * dim]`.
    pub fn encode(&self, batch: &Packed) -> Result<Vec<f32>, ModelError> {
        let mut states = self.embed(batch)?; // [tokens, dim]
        for layer in &self.layers {
            states = layer.forward(states, batch.offsets())?;
        }
        let states = states.flatten_all()?.to_vec1::<f32>()?;
        Ok(batch
            .offsets()
            .windows(2)
            .flat_map(|ends| self.pool(&states[ends[0] * self.dim..ends[1] * self.dim]))
            .collect())
    }

    /// Word and position embeddings, normalised: `[tokens, dim]`.
    fn embed(&self, batch: &Packed) -> TensorResult<Tensor> {
        let first = self.first_position as u32;
        let positions: Vec<u32> =
            batch.offsets().windows(2).flat_map(|ends| first..first + (ends[1] - ends[0]) as u32).collect();
        let rows = |table: &Tensor, ids: &[u32]| table.index_select(&Tensor::new(ids, &Device::Cpu)?, 0);
        let states = (rows(&self.words, batch.ids())? + rows(&self.positions, &positions)?)?;
        in_place(&states, |states| self.norm.apply(states))?;
        Ok(states)
    }

    /// `states` is `[tokens, dim]` of one sequence; the answer is `[dim]`.
    fn pool(&self, states: &[f32]) -> Vec<f32> {
        match self.pooling {
            Pooling::Cls => states[..self.dim].to_vec(),
            Pooling::LastToken => states[states.len() - self.dim..].to_vec(),
            Pooling::Mean => {
                let mut mean = vec![0.0; self.dim];
                for state in states.chunks_exact(self.dim) {
                    mean.iter_mut().zip(state).for_each(|(sum, x)| *sum += x);
                }
                let tokens = (states.len() / self.dim) as f32;
                mean.iter_mut().for_each(|sum| *sum /= tokens);
                mean
            }
        }
    }
}

impl Layer {
    /// `states` is `[tokens, dim]`, and so is the answer.
    fn forward(&self, states: Tensor, offsets: &[usize]) -> TensorResult<Tensor> {
        let context = self.attention(&states, offsets)?;
        let attended = self.attention_out.product(&context)?;
        add_and_norm(&attended, &self.attention_out.bias, &states, &self.attention_norm)?;
        let inner = self.up.product(&attended)?; // [tokens, intermediate]
        in_place(&inner, |rows| kernel::bias_gelu(rows, &self.up.bias))?;
        let out = self.down.product(&inner)?; // [tokens, dim]
        add_and_norm(&out, &self.down.bias, &attended, &self.norm)?;
        Ok(out)
    }

    /// Attention of each sequence over itself alone: `[tokens, dim]`.
    fn attention(&self, states: &Tensor, offsets: &[usize]) -> TensorResult<Tensor> {
        let qkv = self.query_key_value.product(states)?; // [tokens, 3 * dim]
        in_place(&qkv, |rows| kernel::bias(rows, &self.query_key_value.bias))?;
        let sequences =
            offsets.windows(2).map(|ends| self.attend(&qkv.narrow(0, ends[0], ends[1] - ends[0])?));
        Tensor::cat(&sequences.collect::<TensorResult<Vec<_>>>()?, 0)
    }

    /// `qkv` is `[tokens, 3 * dim]` of one sequence; the answer is `[tokens, dim]`.
    fn attend(&self, qkv: &Tensor) -> TensorResult<Tensor> {
        let (tokens, triple) = qkv.dims2()?;
        let dim = triple / 3;
        let head_dim = dim / self.heads;
        let part = |i: usize| {
            qkv.narrow(1, i * dim, dim)?
                .reshape((tokens, self.heads, head_dim))?
                .transpose(0, 1)?
                .contiguous()
        };
        let (query, key, value) = (part(0)?, part(1)?, part(2)?); // [heads, tokens, head_dim]
        let scores = query.matmul(&key.t()?)?; // [heads, tokens, tokens]
        let scale = 1.0 / (head_dim as f32).sqrt();
        in_place(&scores, |rows| kernel::scaled_softmax(rows, tokens, scale))?;
        scores.matmul(&value)?.transpose(0, 1)?.reshape((tokens, dim))
    }
}

impl Linear {
    /// The product without the bias: `[tokens, in]` to `[tokens, out]`.
    fn product(&self, x: &Tensor) -> TensorResult<Tensor> {
        x.matmul(&self.weight.t()?)
    }
}

/// `rows = norm(rows + bias + residual)`
fn add_and_norm(rows: &Tensor, bias: &[f32], residual: &Tensor, norm: &LayerNorm) -> TensorResult<()> {
    rows.inplace_op2(residual, &InPlaceWith(|rows: &mut [f32], r: &[f32]| norm.add_and_apply(rows, bias, r)))
}

fn in_place(rows: &Tensor, apply: impl Fn(&mut [f32])) -> TensorResult<()> {
    rows.inplace_op1(&InPlace(apply))
}

struct InPlace<F>(F);

impl<F: Fn(&mut [f32])> InplaceOp1 for InPlace<F> {
    fn name(&self) -> &'static str {
        "rows"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> TensorResult<()> {
        (self.0)(rows_mut(storage, layout)?);
        Ok(())
    }
}

struct InPlaceWith<F>(F);

impl<F: Fn(&mut [f32], &[f32])> InplaceOp2 for InPlaceWith<F> {
    fn name(&self) -> &'static str {
        "rows with another"
    }

    fn cpu_fwd(&self, s1: &mut CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> TensorResult<()> {
        let (start, end) = contiguous(l2)?;
        (self.0)(rows_mut(s1, l1)?, &s2.as_slice::<f32>()?[start..end]);
        Ok(())
    }
}

fn rows_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> TensorResult<&'a mut [f32]> {
    let (start, end) = contiguous(layout)?;
    match storage {
        CpuStorage::F32(values) => Ok(&mut values[start..end]),
        _ => candle_core::bail!("the encoder computes in f32"),
    }
}

fn contiguous(layout: &Layout) -> TensorResult<(usize, usize)> {
    layout.contiguous_offsets().ok_or_else(|| candle_core::Error::msg("rows must be contiguous"))
}

/// Reads the tensors of one model by the names that transformers gives them.
struct Reader<'a> {
    weights: &'a Weights,
    config: &'a BertConfig,
    parameters: u64,
}

impl Reader<'_> {
    fn embeddings(&mut self) -> Result<(Tensor, Tensor, LayerNorm), ModelError> {
        let BertConfig { vocab_size, hidden_size: dim, max_position_embeddings, type_vocab_size, .. } =
            *self.config;
        let words = self.read("embeddings.word_embeddings.weight", &[vocab_size, dim])?;
        let mut positions =
            self.read("embeddings.position_embeddings.weight", &[max_position_embeddings, dim])?;
        let types = self.read("embeddings.token_type_embeddings.weight", &[type_vocab_size, dim])?;
        // Every token of a single text has type 0.
        kernel::bias(&mut positions, &types[..dim]);
        Ok((
            matrix(words, vocab_size, dim)?,
            matrix(positions, max_position_embeddings, dim)?,
            self.norm("embeddings.LayerNorm")?,
        ))
    }

    fn layer(&mut self, index: usize) -> Result<Layer, ModelError> {
        let (dim, inner) = (self.config.hidden_size, self.config.intermediate_size);
        let at = |name: &str| format!("encoder.layer.{index}.{name}");
        let projections = ["query", "key", "value"].map(|name| at(&format!("attention.self.{name}")));
        Ok(Layer {
            query_key_value: self.linear(&projections, dim, dim)?,
            attention_out: self.linear(&[at("attention.output.dense")], dim, dim)?,
            attention_norm: self.norm(&at("attention.output.LayerNorm"))?,
            up: self.linear(&[at("intermediate.dense")], inner, dim)?,
            down: self.linear(&[at("output.dense")], dim, inner)?,
            norm: self.norm(&at("output.LayerNorm"))?,
            heads: self.config.num_attention_heads,
        })
    }

    /// One product in place of several of the same input.
    fn linear(&mut self, names: &[String], out: usize, input: usize) -> Result<Linear, ModelError> {
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for name in names {
            weight.extend(self.read(&format!("{name}.weight"), &[out, input])?);
            bias.extend(self.read(&format!("{name}.bias"), &[out])?);
        }
        Ok(Linear { weight: matrix(weight, names.len() * out, input)?, bias })
    }

    fn norm(&mut self, name: &str) -> Result<LayerNorm, ModelError> {
        let dim = self.config.hidden_size;
        Ok(LayerNorm {
            weight: self.read(&format!("{name}.weight"), &[dim])?,
            bias: self.read(&format!("{name}.bias"), &[dim])?,
            epsilon: self.config.layer_norm_eps as f32,
        })
    }

    fn read(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let values = self.weights.tensor(name, shape)?;
        self.parameters += values.len() as u64;
        Ok(values)
    }
}

fn matrix(values: Vec<f32>, rows: usize, columns: usize) -> TensorResult<Tensor> {
    Tensor::from_vec(values, (rows, columns), &Device::Cpu)
}
