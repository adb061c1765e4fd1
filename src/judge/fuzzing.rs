//! Entry points for fuzzing: answers of a judge.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Verdict, extract,
    lenient::{Id, Rating, TextList, Yes},
    wire::{self, ChatMessage, FinishReason},
};

/// A form of answer that has a field of every lenient type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
struct EveryType {
    id: Id,
    #[serde(default)]
    verdict: Option<Yes>,
    #[serde(default)]
    rating: Option<Rating>,
    #[serde(default)]
    quotes: TextList,
    #[serde(default)]
    reason: String,
}

impl Verdict for EveryType {
    const NAME: &'static str = "every_type";
    const VERSION: u32 = 1;
}

/// A form of answer that is an array at its top.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
struct ListOfTexts(Vec<String>);

impl Verdict for ListOfTexts {
    const NAME: &'static str = "list_of_texts";
    const VERSION: u32 = 1;
}

/// Reads `text` as the content of a judge's answer, in two forms, complete and truncated at the token limit.
pub fn judge_answer(text: &str) {
    for finish in [FinishReason::Stop, FinishReason::Length] {
        read_both_forms(&ChatMessage { content: Some(text.to_owned()), finish, ..ChatMessage::default() });
    }
    read_both_forms(&ChatMessage { reasoning: Some(text.to_owned()), ..ChatMessage::default() });
}

/// Reads `body` as an HTTP response of a chat-completions endpoint, and each of its messages as an answer.
pub fn judge_response(body: &[u8]) {
    let _ = wire::error_details(body);
    let Ok(completion) = wire::read(body) else { return };
    assert!(!completion.messages.is_empty(), "a completion without messages");
    completion.messages.iter().for_each(read_both_forms);
}

fn read_both_forms(message: &ChatMessage) {
    if let Ok(verdict) = extract::verdict::<EveryType>(message) {
        // A verdict is written in its strict form, which reads as the same verdict.
        let json = serde_json::to_string(&verdict).expect("plain structures are JSON");
        let again: EveryType = serde_json::from_str(&json).expect("a verdict can be read back");
        assert_eq!(again, verdict);
    }
    let _ = extract::verdict::<ListOfTexts>(message);
}
