//! Prompts: fixed instructions in the system message, what is judged as data in the user's.

mod frame;

use serde_json::Value;
use sha2::{Digest, Sha256};

/// What a judge is asked, before it is laid out as messages.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// As records and metrics name it.
    pub template: &'static str,
    /// Raised when the words of the template change.
    pub version: u32,
    /// The language of `system`, and so of the words around the parts.
    pub language: PromptLanguage,
    /// The instructions. Equal for all samples, so that an endpoint's prefix cache holds them.
    pub system: String,
    /// What is judged; what samples share comes first, for the same reason.
    pub parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PromptLanguage {
    #[default]
    English,
    Chinese,
}

/// One piece of data. The name is ours, the value the caller's.
#[derive(Clone, Debug)]
pub struct Part {
    pub name: &'static str,
    pub value: Value,
}

/// The two messages of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rendered {
    pub system: String,
    pub user: String,
}

/// Makes the marks around data, which nobody outside of this process can foretell.
#[derive(Clone)]
pub(super) struct Nonces {
    key: [u8; 32],
}

impl Nonces {
    pub(super) fn random() -> Nonces {
        Nonces { key: rand::random() }
    }

    /// 96 bits. Equal for prompts whose first parts are equal, so that these share a prefix.
    fn of(&self, first_part: &str) -> String {
        let digest = Sha256::new().chain_update(self.key).chain_update(first_part).finalize();
        hex(&digest[..12])
    }
}

impl Prompt {
    /// Lays the prompt out. Each part is JSON on a line of its own between an opening and a closing mark that
    /// carry the nonce; `<` and `>` inside are escaped, so no text can hold a mark, not even with the nonce.
    pub(super) fn render(&self, nonces: &Nonces) -> Rendered {
        let encoded: Vec<String> = self.parts.iter().map(|part| frame::encode(&part.value)).collect();
        let nonce = nonces.of(encoded.first().map_or("", String::as_str));
        let mut user = String::new();
        for (part, json) in self.parts.iter().zip(&encoded) {
            user += &frame::block(part.name, &nonce, json);
        }
        user += frame::closing_words(self.language);
        Rendered { system: self.framed_system(), user }
    }

    /// For endpoints that enforce no schema: to be added to the system message, which stays fixed by it.
    pub(super) fn schema_note(&self, schema: &Value) -> String {
        frame::schema_note(self.language, schema)
    }

    /// What a judge is told when its answer could not be read; `what` is the reason, free of anybody's text.
    pub(super) fn reask(&self, what: &str) -> String {
        frame::reask(self.language, what)
    }

    /// SHA-256 of the template, its version, the system message as sent and all parts; no nonce.
    pub(super) fn digest(&self) -> [u8; 32] {
        let mut hasher = self.template_hasher();
        for part in &self.parts {
            add(&mut hasher, part.name);
            add(&mut hasher, &part.value.to_string());
        }
        hasher.finalize().into()
    }

    /// SHA-256 of what all samples have in common.
    pub(super) fn template_digest(&self) -> [u8; 32] {
        self.template_hasher().finalize().into()
    }

    fn template_hasher(&self) -> Sha256 {
        let mut hasher = Sha256::new();
        add(&mut hasher, self.template);
        hasher.update(self.version.to_le_bytes());
        add(&mut hasher, &self.framed_system());
        hasher
    }

    fn framed_system(&self) -> String {
        format!("{}\n\n{}", self.system.trim_end(), frame::rules(self.language))
    }
}

/// With its length in front, so that no two lists of texts look alike.
fn add(hasher: &mut Sha256, text: &str) {
    hasher.update((text.len() as u64).to_le_bytes());
    hasher.update(text);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
