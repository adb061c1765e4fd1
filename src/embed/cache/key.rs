//! Cache keys: a hash of everything that determines the pooled state of an input.
//!
//! Options that are applied afterwards, such as the encoding, are not part of the key. The key is a SHA-256 over
//! length-prefixed parts. With a non-cryptographic hash, a caller could construct collisions and receive the vector of
//! another text. Using the text itself would be safe too, but an entry would take two to three times the memory and
//! texts of callers would remain in the process.

use sha2::{Digest, Sha256};

use super::yield_budget::{YIELD_BYTES, YieldBudget};
use crate::model::{ModelInfo, Truncation};

/// SHA-256 digest.
pub(super) type EmbedCacheKey = [u8; 32];

/// Hashes texts to cache keys. The parts that texts have in common are hashed once.
#[derive(Clone)]
pub(super) struct CacheKeyHasher(Sha256);

impl CacheKeyHasher {
    /// Starts with the identity of the model.
    pub fn for_model(model: &ModelInfo) -> CacheKeyHasher {
        let ModelInfo { id, revision, sha256, max_tokens, pooling, .. } = model;
        let pooling = format!("{pooling:?}");
        let mut maker = CacheKeyHasher(Sha256::new());
        for part in [id, revision.as_deref().unwrap_or_default(), sha256, &pooling] {
            maker.add(part.as_bytes());
        }
        maker.add(&(*max_tokens as u64).to_le_bytes());
        maker
    }

    /// Adds the options of a request.
    pub fn for_call(&self, prompt: &str, truncation: Truncation) -> CacheKeyHasher {
        let mut maker = self.clone();
        maker.add(prompt.as_bytes());
        maker.add(match truncation {
            Truncation::None => b"none",
            Truncation::End => b"end",
            Truncation::Start => b"start",
        });
        maker
    }

    /// Returns the key of `text`.
    pub async fn key(&self, text: &str, budget: &mut YieldBudget) -> EmbedCacheKey {
        let mut hash = self.0.clone();
        hash.update((text.len() as u64).to_le_bytes());
        for piece in text.as_bytes().chunks(YIELD_BYTES) {
            hash.update(piece);
            budget.spend(piece.len()).await;
        }
        hash.finalize().into()
    }

    /// Adds a part with its length as prefix, so that parts cannot run into each other.
    fn add(&mut self, part: &[u8]) {
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn model() -> ModelInfo {
        ModelInfo { revision: Some("0b84".into()), ..ModelInfo::example() }
    }

    fn key(model: &ModelInfo, prompt: &str, text: &str, truncation: Truncation) -> EmbedCacheKey {
        let maker = CacheKeyHasher::for_model(model).for_call(prompt, truncation);
        futures::executor::block_on(maker.key(text, &mut YieldBudget::default()))
    }

    /// Inputs of few letters, so that one part is often a prefix of another.
    fn input() -> impl Strategy<Value = (String, String, Truncation)> {
        let truncation = prop_oneof![Just(Truncation::None), Just(Truncation::End), Just(Truncation::Start)];
        ("[ab]{0,3}", "[ab]{0,3}", truncation)
    }

    proptest! {
        #[test]
        fn keys_are_equal_only_for_equal_prompt_text_and_truncation(a in input(), b in input()) {
            let key = |(prompt, text, truncation): &(String, String, Truncation)| {
                key(&model(), prompt, text, *truncation)
            };
            prop_assert_eq!(key(&a) == key(&b), a == b);
            prop_assert_eq!(key(&a), key(&a.clone()));
        }

        #[test]
        fn every_byte_of_a_long_text_changes_the_key(at in 0..3 * YIELD_BYTES) {
            let text = "x".repeat(3 * YIELD_BYTES);
            let mut other = text.clone();
            other.replace_range(at..=at, "y");
            let key = |text: &str| key(&model(), "", text, Truncation::End);
            prop_assert_ne!(key(&text), key(&other));
            prop_assert_ne!(key(&text), key(&text[..at]));
        }
    }

    #[test]
    fn the_boundary_of_prompt_and_text_changes_the_key() {
        let key = |prompt, text| key(&model(), prompt, text, Truncation::None);
        assert_ne!(key("query: ", "a"), key("", "query: a"));
    }

    #[test]
    fn models_never_share_a_key() {
        let others = [
            model(),
            ModelInfo { id: "another/model".into(), ..model() },
            ModelInfo { revision: None, ..model() },
            ModelInfo { sha256: "5f".repeat(32), ..model() },
            ModelInfo { max_tokens: 64, ..model() },
            ModelInfo { pooling: crate::model::Pooling::Cls, ..model() },
        ];
        let keys = others.iter().map(|model| key(model, "", "a text", Truncation::None));
        assert_eq!(keys.collect::<std::collections::HashSet<_>>().len(), others.len());
    }
}
