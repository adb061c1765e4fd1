//! What an endpoint can do, learnt from its answers and shared by all calls.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Structured {
    JsonSchema,
    JsonObject,
    Tools,
    Text,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenLimit {
    MaxTokens,
    MaxCompletionTokens,
    Unset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Features {
    pub structured: Structured,
    pub token_limit: TokenLimit,
    pub temperature: bool,
    pub seed: bool,
    pub many: bool,
}
