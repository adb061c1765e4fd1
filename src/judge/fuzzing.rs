//! Entry points for fuzzing: answers of a judge.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Verdict, extract,
    lenient::{Id, Rating, Texts, Yes},
    wire::{self, Finish, Message},
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
    quotes: Texts,
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

/// Reads `text` as the content of a judge's answer, in two forms, whole and cut off at the length limit.
pub fn judge_answer(text: &str) {
    for finish in [Finish::Stop, Finish::Length] {
        read_both_forms(&Message { content: Some(text.to_owned()), finish, ..Message::default() });
    }
    read_both_forms(&Message { reasoning: Some(text.to_owned()), ..Message::default() });
}

/// Reads `body` as an HTTP response of a chat-completions endpoint, and each of its messages as an answer.
pub fn judge_response(body: &[u8]) {
    let _ = wire::complaint(body);
    let Ok(completion) = wire::read(body) else { return };
    assert!(!completion.messages.is_empty(), "a completion without messages");
    completion.messages.iter().for_each(read_both_forms);
}

fn read_both_forms(message: &Message) {
    if let Ok(verdict) = extract::verdict::<EveryType>(message) {
        // The judge's answers are cached as JSON: what was read once must be readable again.
        let json = serde_json::to_string(&verdict).expect("plain structures are JSON");
        let again: EveryType = serde_json::from_str(&json).expect("a verdict can be read back");
        assert_eq!(again, verdict);
    }
    let _ = extract::verdict::<ListOfTexts>(message);
}
