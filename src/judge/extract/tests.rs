use proptest::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::*;
use crate::judge::lenient::{Id, Rating, Yes};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Useful {
    verdict: Yes,
    #[serde(default)]
    reason: String,
}

impl Verdict for Useful {
    const NAME: &'static str = "useful";
    const VERSION: u32 = 1;
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Item {
    id: Id,
    verdict: Yes,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Verified {
    verdicts: Vec<Item>,
}

impl Verdict for Verified {
    const NAME: &'static str = "verified";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        if self.verdicts.is_empty() { Err("there are no verdicts".to_owned()) } else { Ok(()) }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
struct Claims(Vec<String>);

impl Verdict for Claims {
    const NAME: &'static str = "claims";
    const VERSION: u32 = 1;
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Rated {
    rating: Rating,
}

impl Verdict for Rated {
    const NAME: &'static str = "rated";
    const VERSION: u32 = 1;
}

fn says(content: &str) -> ChatMessage {
    ChatMessage { content: Some(content.to_owned()), ..ChatMessage::default() }
}

fn cut(content: &str) -> ChatMessage {
    ChatMessage { finish: FinishReason::Length, ..says(content) }
}

/// Whether the verdict is yes.
fn check(content: &str, expected: Result<bool, ExtractError>) {
    assert_eq!(verdict::<Useful>(&says(content)).map(|read| read.verdict.0), expected, "{content}");
}

fn unreadable<T>(what: &str) -> Result<T, ExtractError> {
    Err(ExtractError::Unreadable(what.to_owned()))
}

#[test]
fn thinking_fences_and_prose_are_skipped() {
    check(r#"{"verdict": true}"#, Ok(true));
    check("```json\n{\"verdict\": 1}\n```", Ok(true));
    check("Sure! Here it is:\n```\n{\"verdict\": \"是\"}\n```\nHope {this} helps [1].", Ok(true));
    check(r#"<think>maybe {"verdict": 0}</think>{"verdict": 1}"#, Ok(true));
    check(r#"maybe {"verdict": 0}</think>{"verdict": 1}"#, Ok(true));
    check(r#"<think>a<think>{"verdict": 0}</think></think> {"verdict": 1}"#, Ok(true));
    check(r#"<think>a</think>{"verdict": 1}<think>{"verdict": 0}</think>"#, Ok(true));
}

#[test]
fn the_last_matching_object_wins() {
    check(r#"For example {"verdict": 0}. So: {"verdict": 1}"#, Ok(true));
    check(r#"{"verdict": 1} {"note": "done"} {"verdict": "unsure"}"#, Ok(true));
    check(r#"{"verdict": 0} as context [1] says"#, Ok(false));
}

#[test]
fn thinking_is_searched_last() {
    check(r#"<think>so {"verdict": 0}, no: {"verdict": 1}"#, Ok(true));
    let message = ChatMessage { reasoning: Some(r#"{"verdict": 1}"#.to_owned()), ..ChatMessage::default() };
    assert_eq!(verdict::<Useful>(&message).map(|read| read.verdict), Ok(Yes(true)));
    let message = ChatMessage { content: Some(r#"{"verdict": 0}"#.to_owned()), ..message };
    assert_eq!(verdict::<Useful>(&message).map(|read| read.verdict), Ok(Yes(false)));
}

#[test]
fn thinking_tags_in_a_string_are_text() {
    for tag in ["<think>", "</think>", "<think></think>"] {
        let claims = Claims(vec![format!("it prints {tag} first"), "二".to_owned()]);
        let content = serde_json::to_string(&claims).expect("a list");
        assert_eq!(verdict::<Claims>(&says(&content)), Ok(claims));
    }
}

#[test]
fn doubly_encoded_tool_arguments_are_decoded() {
    let arguments = json!({ "verdict": true }).to_string();
    for arguments in [arguments.clone(), json!(arguments).to_string()] {
        let message = ChatMessage { tool_arguments: Some(arguments), ..ChatMessage::default() };
        assert_eq!(verdict::<Useful>(&message).map(|read| read.verdict), Ok(Yes(true)));
    }
}

#[test]
fn an_envelope_is_unwrapped() {
    check(r#"{"answer": {"verdict": 1}}"#, Ok(true));
    check(r#"[{"verdict": 1}]"#, Ok(true));
    check(r#"[{"verdict": 1}, {"verdict": 0}]"#, unreadable("it is not a JSON object"));
    assert_eq!(verdict(&says(r#"{"claims": ["a", "b"]}"#)), Ok(Claims(vec!["a".into(), "b".into()])));
}

#[test]
fn small_errors_are_repaired() {
    check(r#"{'verdict': True, 'reason': 'it's so',}"#, Ok(true));
    check(r#"{verdict: "no"}"#, Ok(false));
    check("｛“verdict”：“支持”，｝", Ok(true));
    check(r#"{"verdict": 1, "reason": "it says "yes" twice"}"#, Ok(true));
    check(r#"{"verdict": 1"#, Ok(true));
    check(r#"{"verdict": 1, "reason": "cut"#, unreadable("it holds no JSON value"));
}

#[test]
fn a_truncated_answer_counts_only_if_complete() {
    let read = |content| verdict::<Verified>(&cut(content)).map(|read| read.verdicts.len());
    assert_eq!(read(r#"{"verdicts": [{"id": 1, "verdict": 1}]}"#), Ok(1));
    assert_eq!(read(r#"{"verdicts": [{"id": 1, "verdict": 1}] and"#), Err(ExtractError::Truncated));
    assert_eq!(read(r#"{"verdicts": [{"id": 1, "verdict": 1}]"#), Err(ExtractError::Truncated));
    assert_eq!(read(r#"{"verdicts": [{"id": 1, "verdict": 1}, {"id""#), Err(ExtractError::Truncated));
    assert_eq!(read(r#"<think>{"verdicts": [{"id": 1, "verdict": 1}]}"#), Err(ExtractError::Truncated));
    assert_eq!(read(""), Err(ExtractError::Truncated));
    assert_eq!(verdict::<Useful>(&cut(r#"[{"verdict": 1}, {"verd"#)), Err(ExtractError::Truncated));
}

#[test]
fn refusals_are_recognized() {
    for content in [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, but I’m unable to judge this.",
        "I cannot assist with this request.",
        "As an AI, I cannot judge people.",
        "抱歉，我不能回答这个问题。",
        "很抱歉，我无法对此进行评判。",
        "<think>{\"verdict\": 1}</think>对不起，我无法回答。",
    ] {
        check(content, Err(ExtractError::Refused));
    }
    check("Sorry for the delay, I'll answer: yes", unreadable("it holds no JSON value"));
    check(r#"I'm sorry, I can't be sure: {"verdict": 0}"#, Ok(false));
    let refusal = ChatMessage { refusal: Some("No.".to_owned()), ..says(r#"{"verdict": 1}"#) };
    assert_eq!(verdict::<Useful>(&refusal), Err(ExtractError::Refused));
    let filtered = ChatMessage { finish: FinishReason::ContentFilter, ..says("") };
    assert_eq!(verdict::<Useful>(&filtered), Err(ExtractError::Refused));
}

#[test]
fn errors_do_not_contain_the_text() {
    let wrong = |content: &str| match verdict::<Verified>(&says(content)) {
        Err(ExtractError::Unreadable(what)) => what,
        other => panic!("{content}: {other:?}"),
    };
    assert_eq!(wrong(""), "it is empty");
    assert_eq!(wrong("the secret is 7"), "it holds no JSON value");
    assert_eq!(wrong(r#"{"secret": 1}"#), "missing field `verdicts`");
    assert_eq!(
        wrong(r#"{"verdicts": "secret, expected secret"}"#),
        "found a string, but expected a sequence at verdicts"
    );
    let item = r#"{"verdicts": [{"id": 1, "verdict": 1}, {"id": 2, "verdict": "secret"}]}"#;
    assert_eq!(wrong(item), "found a string, but expected true or false at verdicts[1].verdict");
    assert_eq!(
        wrong(r#"{"verdicts": [{"id": 1, "verdict": 2}]}"#),
        "found a number, but expected true or false at verdicts[0].verdict"
    );
    assert_eq!(wrong(r#"{"verdicts": []}"#), "there are no verdicts");
    assert_eq!(wrong(r#"["secret"]"#), "it is not a JSON object");
}

#[test]
fn a_rating_is_not_guessed_from_prose() {
    let read = |content| verdict::<Rated>(&says(content)).map(|read| read.rating.0);
    assert_eq!(read(r#"{"rating": "4.0"}"#), Ok(4));
    assert_eq!(read(r#"{"rating": 4.0}"#), Ok(4));
    assert!(read("4.0").is_err());
    assert!(read(r#"{"rating": "between 1 and 4"}"#).is_err());
}

#[test]
fn a_megabyte_of_brackets_is_rejected() {
    for piece in ["{", "[", "{'", "[\"", "{\"a\":", "{}", "[1]", "{\"verdict\":", "<think>", "</think>{", "<"]
    {
        let content = piece.repeat(1_000_000 / piece.len());
        assert!(verdict::<Useful>(&says(&content)).is_err(), "{piece}");
    }
}

fn prose() -> impl Strategy<Value = String> {
    "[a-zA-Z ,.;:!?'’“”（），。：、\n是否]{0,60}"
}

proptest! {
    #[test]
    fn any_text_is_handled(content: String, reasoning: String, cut: bool) {
        let finish = if cut { FinishReason::Length } else { FinishReason::Stop };
        let message = ChatMessage { reasoning: Some(reasoning), finish, ..says(&content) };
        let _ = (verdict::<Useful>(&message), verdict::<Verified>(&message), verdict::<Claims>(&message));
    }

    #[test]
    fn hostile_text_is_handled(content in r#"([\{\}\[\]"',:\\“”：\n]|<think>|</think>|verdict|1|a){0,60}"#) {
        let _ = (verdict::<Useful>(&says(&content)), verdict::<Claims>(&says(&content)));
    }

    #[test]
    fn a_wrapped_verdict_is_decoded(
        yes: bool, reason: String, before in prose(), after in prose(),
        fence: bool, pretty: bool, thinking in prop::option::of(prose()),
    ) {
        let value = Useful { verdict: Yes(yes), reason };
        let json = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
        let json = json.expect("a verdict");
        let json = if fence { format!("```json\n{json}\n```") } else { json };
        let draft = json!({ "verdict": !yes });
        let thinking = thinking.map(|text| format!("<think>{text}{draft}</think>")).unwrap_or_default();
        let content = format!("{thinking}{before}\n{json}\n{after}");
        prop_assert_eq!(verdict::<Useful>(&says(&content)), Ok(value));
    }
}
