//! What makes two inputs the same: all that shapes the pooled state, and nothing that is applied to it afterwards.
//!
//! The key is a SHA-256 of length-prefixed parts. A hash of the tables' kind could be made to collide, and a caller
//! would be given the vector of another's text. The text itself would be as safe, but twice to thrice the memory of
//! an entry, and callers' texts would stay behind in the process.

use sha2::{Digest, Sha256};

use super::yield_budget::{YIELD_BYTES, YieldBudget};
use crate::model::{ModelInfo, Truncation};

pub(super) type EmbedCacheKey = [u8; 32];

/// Makes keys of texts that have the rest in common, which is hashed once.
#[derive(Clone)]
pub(super) struct CacheKeyHasher(Sha256);

impl CacheKeyHasher {
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

    pub async fn key(&self, text: &str, budget: &mut YieldBudget) -> EmbedCacheKey {
        let mut hash = self.0.clone();
        hash.update((text.len() as u64).to_le_bytes());
        for piece in text.as_bytes().chunks(YIELD_BYTES) {
            hash.update(piece);
            budget.spend(piece.len()).await;
        }
        hash.finalize().into()
    }

    /// The length in front keeps neighbours apart.
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

    /// Few letters, so that one part is often the start of another.
    fn input() -> impl Strategy<Value = (String, String, Truncation)> {
        let truncation = prop_oneof![Just(Truncation::None), Just(Truncation::End), Just(Truncation::Start)];
        ("[ab]{0,3}", "[ab]{0,3}", truncation)
    }

    proptest! {
        #[test]
        fn inputs_share_a_key_if_and_only_if_prompt_text_and_truncation_are_equal(a in input(), b in input()) {
            let key = |(prompt, text, truncation): &(String, String, Truncation)| {
                key(&model(), prompt, text, *truncation)
            };
            prop_assert_eq!(key(&a) == key(&b), a == b);
            prop_assert_eq!(key(&a), key(&a.clone()));
        }

        #[test]
        fn a_letter_anywhere_in_a_long_text_makes_another_key(at in 0..3 * YIELD_BYTES) {
            let text = "x".repeat(3 * YIELD_BYTES);
            let mut other = text.clone();
            other.replace_range(at..=at, "y");
            let key = |text: &str| key(&model(), "", text, Truncation::End);
            prop_assert_ne!(key(&text), key(&other));
            prop_assert_ne!(key(&text), key(&text[..at]));
        }
    }

    #[test]
    fn where_prompt_ends_and_text_begins_counts() {
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
