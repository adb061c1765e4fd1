//! BertModel of candle-transformers in its usual configuration: padded batches, f32, all cores.

use std::{fs, path::Path};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use serde_json::{Value, json};
use tokenizers::{PaddingParams, Tokenizer, TruncationParams};

use crate::{Error, protocol::Engine};

#[derive(Default)]
pub struct Candle(Option<Loaded>);

struct Loaded {
    model: BertModel,
    tokenizer: Tokenizer,
    first_token: bool,
    dimensions: usize,
}

impl Engine for Candle {
    fn load(&mut self, model: &Path, _threads: usize) -> Result<Value, Error> {
        let loaded = Loaded::read(model)?;
        let dimensions = loaded.dimensions;
        self.0 = Some(loaded);
        Ok(
            json!({ "dimensions": dimensions, "version": "0.11.1", "policies": ["sorted32", "sorted8", "one"] }),
        )
    }

    fn embed(&mut self, texts: &[String], policy: &str) -> Result<Vec<f32>, Error> {
        let loaded = self.0.as_ref().ok_or("no model is loaded")?;
        let size = policy.strip_prefix("sorted").map_or(Ok(1), str::parse::<usize>)?;
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&index| std::cmp::Reverse(texts[index].len()));
        let mut vectors = vec![0.0; texts.len() * loaded.dimensions];
        for batch in order.chunks(size) {
            let states = loaded.encode(batch.iter().map(|&index| texts[index].as_str()).collect())?;
            for (&index, state) in batch.iter().zip(states) {
                vectors[index * loaded.dimensions..][..loaded.dimensions].copy_from_slice(&state);
            }
        }
        Ok(vectors)
    }
}

impl Loaded {
    #[expect(clippy::disallowed_methods, reason = "nothing waits beside it")]
    fn read(dir: &Path) -> Result<Loaded, Error> {
        let json =
            |name: &str| -> Result<Value, Error> { Ok(serde_json::from_slice(&fs::read(dir.join(name))?)?) };
        let mut config = json("config.json")?;
        // Required by the configuration, but not used by this model.
        config["initializer_range"] = json!(0.02);
        let config: Config = serde_json::from_value(config)?;
        let weights = fs::read(dir.join("model.safetensors"))?;
        let weights = VarBuilder::from_buffered_safetensors(weights, DType::F32, &Device::Cpu)?;
        let mut tokenizer = Tokenizer::from_file(dir.join("tokenizer.json"))?;
        tokenizer.with_padding(Some(PaddingParams::default()));
        let max_length = config.max_position_embeddings;
        tokenizer.with_truncation(Some(TruncationParams { max_length, ..Default::default() }))?;
        let first_token = json("1_Pooling/config.json")?["pooling_mode_cls_token"] == json!(true);
        let dimensions = config.hidden_size;
        Ok(Loaded { model: BertModel::load(weights, &config)?, tokenizer, first_token, dimensions })
    }

    fn encode(&self, texts: Vec<&str>) -> Result<Vec<Vec<f32>>, Error> {
        let encoded = self.tokenizer.encode_batch(texts, true)?;
        let ids: Vec<&[u32]> = encoded.iter().map(tokenizers::Encoding::get_ids).collect();
        let mask: Vec<&[u32]> = encoded.iter().map(tokenizers::Encoding::get_attention_mask).collect();
        let ids = Tensor::new(ids, &Device::Cpu)?; // [batch, longest]
        let mask = Tensor::new(mask, &Device::Cpu)?;
        let states = self.model.forward(&ids, &ids.zeros_like()?, Some(&mask))?; // [batch, longest, width]
        let pooled = if self.first_token {
            states.narrow(1, 0, 1)?.squeeze(1)?
        } else {
            let mask = mask.to_dtype(DType::F32)?.unsqueeze(2)?;
            states.broadcast_mul(&mask)?.sum(1)?.broadcast_div(&mask.sum(1)?)?
        }; // [batch, width]
        let lengths = pooled.sqr()?.sum_keepdim(1)?.sqrt()?;
        Ok(pooled.broadcast_div(&lengths)?.to_vec2::<f32>()?)
    }
}
