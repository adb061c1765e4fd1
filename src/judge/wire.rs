//! Requests and responses of an OpenAI-compatible chat-completions endpoint, parsed leniently (pure).

use std::{ops::AddAssign, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;

use super::{
    capability::{EndpointFeatures, Structured, TokenLimitParameter},
    prompt::RenderedPrompt,
    schema::AnswerSchema,
    value_count::{self, MAX_VALUES},
};

const MAX_NAME_BYTES: usize = 256;
/// Maximum token count accepted from an endpoint, so that sums do not overflow.
const MAX_TOKENS: u64 = 1 << 32;

/// One choice of a completion, from whichever fields the endpoint uses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct ChatMessage {
    pub content: Option<String>,
    /// Thinking, from `reasoning_content` or `reasoning`.
    pub reasoning: Option<String>,
    /// Arguments of the first tool call.
    pub tool_arguments: Option<String>,
    pub refusal: Option<String>,
    pub finish: FinishReason,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FinishReason {
    #[default]
    Stop,
    Length,
    ContentFilter,
    Other,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TokenUsage {
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    pub completion_tokens: u64,
    pub reasoning_tokens: u64,
}

/// Body of a response with status 200.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ChatCompletion {
    /// Messages, one per choice. Invariant: at least one.
    pub messages: Vec<ChatMessage>,
    pub usage: Option<TokenUsage>,
    /// Model name as the endpoint reports it.
    pub model: Option<String>,
    pub fingerprint: Option<String>,
}

/// Error that an endpoint reports, with any status.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ErrorDetails {
    /// Parameter that the error names.
    pub param: Option<String>,
    pub code: String,
    pub message: String,
}

#[derive(Debug, Error, PartialEq)]
pub(super) enum ResponseError {
    #[error("the body is not a JSON object")]
    NotJson,
    #[error("the body has more than {MAX_VALUES} values")]
    TooManyValues,
    #[error("the body has no choices")]
    NoChoices,
    /// Some gateways answer 200 with an error in the body.
    #[error("the body is an error")]
    Error { status: Option<u16>, details: ErrorDetails },
}

/// Contents of a request body.
#[derive(Clone)]
pub(super) struct ChatRequest {
    pub model: Arc<str>,
    pub messages: Arc<RenderedPrompt>,
    /// Unparsable answer and the request to repeat it, if the question is repeated.
    pub reask: Option<(String, String)>,
    pub schema: Arc<AnswerSchema>,
    /// Schema as a part of the prompt, for endpoints that do not enforce it.
    pub schema_note: Arc<str>,
    pub samples: u32,
    pub temperature: f32,
    pub seed: Option<u64>,
    pub max_answer_tokens: u32,
}

impl ChatRequest {
    /// Approximate length of the body.
    pub fn bytes(&self) -> usize {
        self.messages.system.len() + self.messages.user.len() + self.schema_note.len()
    }

    pub fn body(&self, features: &EndpointFeatures) -> Vec<u8> {
        let mut body = json!({ "model": &*self.model, "messages": self.messages(features) });
        let mut set = |name: &str, value: Value| body[name] = value;
        match features.structured {
            Structured::JsonSchema => set("response_format", self.json_schema()),
            Structured::JsonObject => set("response_format", json!({ "type": "json_object" })),
            Structured::Tools => {
                set("tools", self.tools());
                let function = json!({ "name": self.schema.name });
                set("tool_choice", json!({ "type": "function", "function": function }));
            }
            Structured::Text => {}
        }
        match features.token_limit {
            TokenLimitParameter::MaxTokens => set("max_tokens", self.max_answer_tokens.into()),
            TokenLimitParameter::MaxCompletionTokens => {
                set("max_completion_tokens", self.max_answer_tokens.into())
            }
            TokenLimitParameter::Unset => {}
        }
        if features.temperature {
            set("temperature", shortest_decimal(self.temperature));
        }
        if let Some(seed) = self.seed.filter(|_| features.seed) {
            set("seed", seed.into());
        }
        if self.samples > 1 && features.multiple_choices {
            set("n", self.samples.into());
        }
        serde_json::to_vec(&body).expect("a JSON value can be written")
    }

    fn messages(&self, features: &EndpointFeatures) -> Vec<Value> {
        let RenderedPrompt { system, user } = &*self.messages;
        let bound = matches!(features.structured, Structured::JsonSchema | Structured::Tools);
        let system = match bound && !features.schema_in_prompt {
            true => system.clone(),
            false => format!("{system}\n\n{}", self.schema_note),
        };
        let message = |role: &str, content: &str| json!({ "role": role, "content": content });
        let mut messages = vec![message("system", &system)];
        match &self.reask {
            None => messages.push(message("user", user)),
            // Many chat templates reject empty messages and consecutive user messages.
            Some((answer, reask)) if answer.is_empty() => {
                messages.push(message("user", &format!("{user}\n\n{reask}")));
            }
            Some((answer, reask)) => {
                messages.extend([
                    message("user", user),
                    message("assistant", answer),
                    message("user", reask),
                ]);
            }
        }
        messages
    }

    fn json_schema(&self) -> Value {
        let AnswerSchema { name, value, .. } = &*self.schema;
        json!({ "type": "json_schema", "json_schema": { "name": name, "strict": true, "schema": value } })
    }

    fn tools(&self) -> Value {
        let AnswerSchema { name, value, .. } = &*self.schema;
        let description = "Takes the answer.";
        let function = json!({ "name": name, "description": description, "parameters": value });
        json!([{ "type": "function", "function": function }])
    }
}

/// Converts to the shortest decimal: 0.3, not 0.30000001192092896.
fn shortest_decimal(number: f32) -> Value {
    number.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

/// Parses the body of a response with status 200.
pub(super) fn read(body: &[u8]) -> Result<ChatCompletion, ResponseError> {
    if value_count::exceeds_limit(body) {
        return Err(ResponseError::TooManyValues);
    }
    let body: Value = serde_json::from_slice(body).map_err(|_| ResponseError::NotJson)?;
    if !body.is_object() {
        return Err(ResponseError::NotJson);
    }
    let choices = body["choices"].as_array().map(Vec::as_slice).unwrap_or_default();
    if choices.is_empty() {
        if body["error"].is_null() {
            return Err(ResponseError::NoChoices);
        }
        let status = body["error"]["code"].as_u64().and_then(|code| u16::try_from(code).ok());
        return Err(ResponseError::Error { status, details: error_details_in(&body) });
    }
    Ok(ChatCompletion {
        messages: choices.iter().map(message).collect(),
        usage: usage(&body["usage"]),
        model: name(&body["model"]),
        fingerprint: name(&body["system_fingerprint"]),
    })
}

/// A name, truncated to [`MAX_NAME_BYTES`], because it is stored with each answer.
fn name(value: &Value) -> Option<String> {
    let name = value.as_str()?;
    Some(name[..name.floor_char_boundary(MAX_NAME_BYTES)].to_owned())
}

fn message(choice: &Value) -> ChatMessage {
    let message = &choice["message"];
    let call = &message["tool_calls"][0]["function"]["arguments"];
    let call = if call.is_null() { &message["function_call"]["arguments"] } else { call };
    ChatMessage {
        content: text(&message["content"]).or_else(|| text(&choice["text"])),
        reasoning: text(&message["reasoning_content"]).or_else(|| text(&message["reasoning"])),
        tool_arguments: text(call).or_else(|| call.is_object().then(|| call.to_string())),
        refusal: text(&message["refusal"]),
        finish: finish(&choice["finish_reason"]),
    }
}

/// A string, or the text parts of a list; `None` if blank.
fn text(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => return None,
    };
    Some(text).filter(|text| !text.trim().is_empty())
}

fn finish(reason: &Value) -> FinishReason {
    match reason.as_str().unwrap_or_default() {
        "stop" | "tool_calls" | "function_call" | "eos" | "end_turn" => FinishReason::Stop,
        "length" | "max_tokens" | "MAX_TOKENS" => FinishReason::Length,
        "content_filter" | "SAFETY" => FinishReason::ContentFilter,
        _ => FinishReason::Other,
    }
}

impl ChatMessage {
    pub fn bytes(&self) -> usize {
        let texts = [&self.content, &self.reasoning, &self.tool_arguments, &self.refusal];
        texts.into_iter().flatten().map(String::len).sum()
    }
}

impl AddAssign for TokenUsage {
    fn add_assign(&mut self, other: TokenUsage) {
        self.prompt_tokens += other.prompt_tokens;
        self.cached_tokens += other.cached_tokens;
        self.completion_tokens += other.completion_tokens;
        self.reasoning_tokens += other.reasoning_tokens;
    }
}

fn usage(usage: &Value) -> Option<TokenUsage> {
    let count =
        |pointer: &str| usage.pointer(pointer).and_then(as_whole_number).map(|tokens| tokens.min(MAX_TOKENS));
    let prompt_tokens = count("/prompt_tokens");
    let completion_tokens = count("/completion_tokens");
    if prompt_tokens.is_none() && completion_tokens.is_none() {
        return None;
    }
    let cached = count("/prompt_tokens_details/cached_tokens").or_else(|| count("/prompt_cache_hit_tokens"));
    Some(TokenUsage {
        prompt_tokens: prompt_tokens.unwrap_or_default(),
        cached_tokens: cached.unwrap_or_default(),
        completion_tokens: completion_tokens.unwrap_or_default(),
        reasoning_tokens: count("/completion_tokens_details/reasoning_tokens").unwrap_or_default(),
    })
}

fn as_whole_number(number: &Value) -> Option<u64> {
    number.as_u64().or_else(|| number.as_f64().filter(|number| *number >= 0.0).map(|number| number as u64))
}

/// Parses the body of a response with any other status.
pub(super) fn error_details(body: &[u8]) -> ErrorDetails {
    match serde_json::from_slice(body) {
        Ok(body) => error_details_in(&body),
        Err(_) => {
            ErrorDetails { message: String::from_utf8_lossy(body).into_owned(), ..ErrorDetails::default() }
        }
    }
}

/// Parses `{"error": {…}}`, `{"error": "…"}`, `[{"error": …}]`, `{"message": …}` or FastAPI's `{"detail": […]}`.
fn error_details_in(body: &Value) -> ErrorDetails {
    let body = if body.is_array() { &body[0] } else { body };
    let error = if body["error"].is_object() { &body["error"] } else { body };
    let first = &error["detail"][0];
    let place = first["loc"].as_array().and_then(|place| place.iter().rev().find_map(Value::as_str));
    let message = [&error["message"], &error["error"], &error["detail"], &first["msg"]];
    let code = [&error["code"], &error["type"], &error["status"]];
    let code: Vec<&str> = code.into_iter().filter_map(Value::as_str).collect();
    ErrorDetails {
        param: error["param"].as_str().or(place).map(str::to_owned),
        code: code.join(" "),
        message: message.into_iter().find_map(Value::as_str).unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::{
        AnswerSchema, ChatRequest, EndpointFeatures, ErrorDetails, FinishReason, RenderedPrompt,
        ResponseError, Structured, TokenLimitParameter, TokenUsage, error_details, read, shortest_decimal,
    };

    const FEATURES: EndpointFeatures = EndpointFeatures {
        structured: Structured::JsonSchema,
        token_limit: TokenLimitParameter::MaxTokens,
        temperature: true,
        seed: true,
        multiple_choices: true,
        schema_in_prompt: false,
    };

    fn request() -> ChatRequest {
        let messages = RenderedPrompt { system: "系统".to_owned(), user: "数据".to_owned() };
        let schema =
            AnswerSchema { name: "verdict", value: json!({ "type": "object" }), digest: String::new() };
        ChatRequest {
            model: "m".into(),
            messages: Arc::new(messages),
            reask: None,
            schema: Arc::new(schema),
            schema_note: "the form".into(),
            samples: 3,
            temperature: 0.3,
            seed: Some(7),
            max_answer_tokens: 9,
        }
    }

    fn sent(request: &ChatRequest, features: EndpointFeatures) -> Value {
        serde_json::from_slice(&request.body(&features)).expect("JSON")
    }

    #[test]
    fn a_request_has_only_supported_parameters() {
        let schema = json!({ "name": "verdict", "strict": true, "schema": { "type": "object" } });
        let whole = json!({
            "model": "m",
            "messages": [{ "role": "system", "content": "系统" }, { "role": "user", "content": "数据" }],
            "response_format": { "type": "json_schema", "json_schema": schema },
            "max_tokens": 9, "temperature": 0.3, "seed": 7, "n": 3,
        });
        assert_eq!(sent(&request(), FEATURES), whole);
        let least = EndpointFeatures {
            structured: Structured::Text,
            token_limit: TokenLimitParameter::Unset,
            temperature: false,
            seed: false,
            multiple_choices: false,
            schema_in_prompt: false,
        };
        let words =
            [json!({ "role": "system", "content": "系统\n\nthe form" }), whole["messages"][1].clone()];
        assert_eq!(sent(&request(), least), json!({ "model": "m", "messages": words }));
        let other = EndpointFeatures { token_limit: TokenLimitParameter::MaxCompletionTokens, ..FEATURES };
        assert_eq!(sent(&request(), other)["max_completion_tokens"], 9);
    }

    #[test]
    fn chinese_is_not_escaped() {
        let body = String::from_utf8(request().body(&FEATURES)).expect("UTF-8");
        assert!(body.contains("系统") && !body.contains("\\u"), "{body}");
    }

    #[test]
    fn roles_alternate_when_a_question_is_repeated() {
        let roles = |answer: &str| {
            let reask = Some((answer.to_owned(), "once more".to_owned()));
            let body = sent(&ChatRequest { reask, ..request() }, FEATURES);
            let messages = body["messages"].as_array().expect("messages").clone();
            messages
                .iter()
                .map(|message| message["role"].as_str().expect("a role").to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(roles("what"), ["system", "user", "assistant", "user"]);
        assert_eq!(roles(""), ["system", "user"]);
    }

    #[test]
    fn an_answer_is_found_in_every_field() {
        let body = json!({ "model": "m", "system_fingerprint": "f", "choices": [
            { "message": { "content": "a", "reasoning_content": "r" }, "finish_reason": "stop" },
            { "message": { "content": [{ "type": "text", "text": "b" }, { "text": "c" }], "reasoning": "s" },
              "finish_reason": "length" },
            { "message": { "content": null, "tool_calls": [{ "function": { "arguments": "{}" } }] },
              "finish_reason": "tool_calls" },
            { "message": { "content": " ", "refusal": "no" }, "finish_reason": null },
        ], "usage": { "prompt_tokens": 7, "completion_tokens": 3.0, "prompt_tokens_details": { "cached_tokens": 2 },
            "completion_tokens_details": { "reasoning_tokens": 1 } } });
        let completion = read(body.to_string().as_bytes()).expect("a completion");
        let [first, second, third, fourth] = &completion.messages[..] else { panic!("{completion:?}") };
        assert_eq!((first.content.as_deref(), first.reasoning.as_deref()), (Some("a"), Some("r")));
        assert_eq!((second.content.as_deref(), second.finish), (Some("bc"), FinishReason::Length));
        assert_eq!((third.tool_arguments.as_deref(), third.finish), (Some("{}"), FinishReason::Stop));
        assert_eq!((fourth.content.as_deref(), fourth.refusal.as_deref()), (None, Some("no")));
        let usage =
            TokenUsage { prompt_tokens: 7, cached_tokens: 2, completion_tokens: 3, reasoning_tokens: 1 };
        assert_eq!(completion.usage, Some(usage));
        assert_eq!((completion.model.as_deref(), completion.fingerprint.as_deref()), (Some("m"), Some("f")));
    }

    #[test]
    fn leading_blank_lines_are_ignored() {
        assert!(read(b"\n\n  \n{\"choices\":[{\"message\":{\"content\":\"x\"}}]}").is_ok());
    }

    #[test]
    fn a_body_without_choices_is_an_error() {
        assert_eq!(read(b"<html>"), Err(ResponseError::NotJson));
        assert_eq!(read(b"[]"), Err(ResponseError::NotJson));
        assert_eq!(read(b"{\"choices\":[]}"), Err(ResponseError::NoChoices));
        let inside = read(br#"{"error":{"code":429,"message":"slow down"}}"#);
        assert!(matches!(inside, Err(ResponseError::Error { status: Some(429), .. })), "{inside:?}");
    }

    #[test]
    fn reported_names_and_counts_are_bounded() {
        let body = json!({
            "model": "名".repeat(1000),
            "choices": [{ "message": { "content": "a" } }],
            "usage": { "prompt_tokens": u64::MAX, "completion_tokens": 1e300 },
        });
        let completion = read(body.to_string().as_bytes()).expect("a completion");
        assert_eq!(completion.model.as_deref().map(str::len), Some(255));
        let usage = completion.usage.expect("usage");
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (1 << 32, 1 << 32));
    }

    #[test]
    fn a_body_with_too_many_values_is_rejected() {
        let zeros = "0,".repeat(70_000);
        let body = format!("{{\"choices\": [{{\"message\": {{\"content\": \"a\"}}}}], \"x\": [{zeros}0]}}");
        assert_eq!(read(body.as_bytes()), Err(ResponseError::TooManyValues));
        let deep = "[".repeat(60_000) + &"]".repeat(60_000);
        assert_eq!(read(format!("{{\"x\": {deep}}}").as_bytes()), Err(ResponseError::NotJson));
    }

    #[test]
    fn error_bodies_of_many_servers_are_parsed() {
        let check = |body: &str, param: Option<&str>, code: &str, message: &str| {
            let expected =
                ErrorDetails { param: param.map(str::to_owned), code: code.into(), message: message.into() };
            assert_eq!(error_details(body.as_bytes()), expected, "{body}");
        };
        check(
            r#"{"error":{"message":"no","type":"invalid_request_error","param":"seed","code":"unsupported"}}"#,
            Some("seed"),
            "unsupported invalid_request_error",
            "no",
        );
        check(r#"{"error":"no n here"}"#, None, "", "no n here");
        check(
            r#"{"object":"error","message":"no","type":"BadRequestError","param":null,"code":400}"#,
            None,
            "BadRequestError",
            "no",
        );
        check(
            r#"{"detail":[{"loc":["body","n"],"msg":"extra","type":"extra_forbidden"}]}"#,
            Some("n"),
            "",
            "extra",
        );
        check(r#"[{"error":{"message":"no","status":"INVALID_ARGUMENT"}}]"#, None, "INVALID_ARGUMENT", "no");
        check("bad gateway", None, "", "bad gateway");
    }

    #[test]
    fn numbers_are_sent_in_their_shortest_form() {
        assert_eq!(shortest_decimal(0.3).to_string(), "0.3");
        assert_eq!(shortest_decimal(0.0).to_string(), "0.0");
    }
}
