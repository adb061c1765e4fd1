//! A question for the judge.

use serde_json::Value;

#[derive(Clone, Debug)]
pub struct Prompt {
    pub template: &'static str,
    pub version: u32,
    pub system: String,
    /// What changes least comes first: endpoints cache prefixes.
    pub parts: Vec<Part>,
}

#[derive(Clone, Debug)]
pub struct Part {
    pub name: &'static str,
    pub value: Value,
}
