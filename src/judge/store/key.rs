//! What makes two questions the same.

use serde_json::Value;
use sha2::{Digest, Sha256};

/// Everything that an answer depends on.
pub(in crate::judge) struct KeyParts<'a> {
    pub endpoint: &'a str,
    pub model: &'a str,
    /// [`Prompt::digest`](crate::judge::Prompt::digest), which covers the texts.
    pub prompt: [u8; 32],
    pub template: &'static str,
    pub template_hash: [u8; 32],
    /// [`Verdict::NAME`](crate::judge::Verdict::NAME) and its version.
    pub verdict: &'static str,
    pub verdict_version: u32,
    /// Temperature, token limit and the like.
    pub decoding: Value,
    pub seed: Option<u64>,
    /// How many answers to the one prompt are kept together.
    pub samples: u32,
}

/// The name of one answer, and what is recorded beside it.
#[derive(Clone, Debug)]
pub(in crate::judge) struct Key {
    pub(super) hash: [u8; 32],
    pub(super) template: &'static str,
    pub(super) template_hash: [u8; 32],
    pub(super) verdict: &'static str,
    pub(super) seed: Option<u64>,
}

impl Key {
    pub(in crate::judge) fn new(parts: &KeyParts) -> Key {
        let KeyParts { endpoint, model, prompt, verdict, verdict_version, decoding, seed, samples, .. } =
            parts;
        let mut hasher = Sha256::new();
        // The length in front keeps neighbours apart.
        let mut add = |bytes: &[u8]| {
            hasher.update((bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        for text in [*endpoint, *model, *verdict, decoding.to_string().as_str()] {
            add(text.as_bytes());
        }
        add(prompt);
        add(&verdict_version.to_le_bytes());
        add(&seed.map(u64::to_le_bytes).map_or(Vec::new(), Vec::from));
        add(&samples.to_le_bytes());
        Key {
            hash: hasher.finalize().into(),
            template: parts.template,
            template_hash: parts.template_hash,
            verdict: parts.verdict,
            seed: parts.seed,
        }
    }
}
