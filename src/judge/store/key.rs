//! Cache key of an answer.

use serde_json::Value;
use sha2::{Digest, Sha256};

/// Inputs that an answer depends on.
pub(in crate::judge) struct AnswerKeyParts<'a> {
    pub endpoint: &'a str,
    pub model: &'a str,
    /// [`Prompt::digest`](crate::judge::Prompt::digest), which covers the texts.
    pub prompt: [u8; 32],
    pub template: &'static str,
    pub template_hash: [u8; 32],
    /// [`Verdict::NAME`](crate::judge::Verdict::NAME) and its version.
    pub verdict: &'static str,
    pub verdict_version: u32,
    /// Decoding parameters such as temperature and token limit.
    pub decoding: Value,
    pub seed: Option<u64>,
    /// Number of samples that are stored together.
    pub samples: u32,
}

/// Cache key, with the fields that are recorded along with the answer.
#[derive(Clone, Debug)]
pub(in crate::judge) struct AnswerKey {
    pub(super) hash: [u8; 32],
    pub(super) template: &'static str,
    pub(super) template_hash: [u8; 32],
    pub(super) verdict: &'static str,
    pub(super) seed: Option<u64>,
}

impl AnswerKey {
    pub(in crate::judge) fn new(parts: &AnswerKeyParts) -> AnswerKey {
        let AnswerKeyParts {
            endpoint, model, prompt, verdict, verdict_version, decoding, seed, samples, ..
        } = parts;
        let mut hasher = Sha256::new();
        // The length prefix makes the encoding unambiguous.
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
        AnswerKey {
            hash: hasher.finalize().into(),
            template: parts.template,
            template_hash: parts.template_hash,
            verdict: parts.verdict,
            seed: parts.seed,
        }
    }
}
