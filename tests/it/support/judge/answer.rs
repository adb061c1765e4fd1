//! From a request to its answer, or to what goes wrong with it.

use std::{convert::Infallible, future, io, sync::Arc, time::Instant};

use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, State},
    response::{IntoResponse, Response},
    routing::post,
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};

use super::{Asked, Fault, Logged, Shared, lock};

pub fn router(shared: &Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(answer))
        .layer(DefaultBodyLimit::disable())
        .with_state(Arc::clone(shared))
}

async fn answer(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    let asked = Asked::read(headers, body);
    let _visit = Visit::begin(&shared, &asked);
    let fault = shared.fault_for(&asked);
    let latency = *lock(&shared.latency);
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    let _ = shared.held.subscribe().wait_for(|held| !held).await;
    let brain = Arc::clone(&lock(&shared.brain));
    match fault {
        Some(fault) => faulty(&fault, asked, &*brain).await,
        None => Json(completion(&asked, &choices(&asked, &*brain, verdict_as_it_is))).into_response(),
    }
}

impl Shared {
    fn fault_for(&self, asked: &Asked) -> Option<Fault> {
        let mut rules = lock(&self.rules);
        let concerns = |fault: &Fault| match fault {
            Fault::Rejects(what) => asked.uses(what),
            _ => true,
        };
        let at = rules.iter().position(|rule| (rule.concerns)(asked) && concerns(&rule.fault))?;
        let fault = rules[at].fault.clone();
        rules[at].times = rules[at].times.saturating_sub(1);
        if rules[at].times == 0 {
            rules.remove(at);
        }
        Some(fault)
    }
}

/// A request under way, also if its caller hangs up.
struct Visit {
    shared: Arc<Shared>,
    index: usize,
}

impl Visit {
    fn begin(shared: &Arc<Shared>, asked: &Asked) -> Visit {
        let mut log = lock(&shared.log);
        log.in_flight += 1;
        log.max_in_flight = log.max_in_flight.max(log.in_flight);
        log.requests.push(Logged { asked: asked.clone(), started: Instant::now(), ended: None });
        shared.arrived.send_replace(log.requests.len());
        Visit { shared: Arc::clone(shared), index: log.requests.len() - 1 }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut log = lock(&self.shared.log);
        log.in_flight -= 1;
        log.requests[self.index].ended = Some(Instant::now());
    }
}

async fn faulty(fault: &Fault, asked: Asked, brain: &super::Brain) -> Response {
    let honest = |asked: &Asked| completion(asked, &choices(asked, brain, verdict_as_it_is));
    match fault {
        Fault::Silent => future::pending().await,
        Fault::Status(status) => refuse(*status, json!({ "error": { "message": "it is so" } }).to_string()),
        Fault::Body { status, body } => refuse(*status, body.clone()),
        Fault::RateLimited(after) => {
            let error = json!({ "error": { "message": "slow down", "type": "requests", "code": "rate_limit_exceeded" } });
            let mut response = refuse(429, error.to_string());
            response.headers_mut().extend(after.header().map(|(name, value)| {
                (header::HeaderName::from_static(name), value.parse().expect("plain ASCII"))
            }));
            response
        }
        Fault::Quota => {
            let error = json!({ "message": "You exceeded your current quota", "type": "insufficient_quota",
                "code": "insufficient_quota" });
            refuse(429, json!({ "error": error }).to_string())
        }
        Fault::Redirect(status, location) => {
            let status = StatusCode::from_u16(*status).expect("a status");
            (status, [(header::LOCATION, location.clone())]).into_response()
        }
        Fault::Rejects(what) => refuse(400, complaint(what).to_string()),
        Fault::CutJson => {
            let body = honest(&asked).to_string();
            ([(header::CONTENT_TYPE, "application/json")], body[..body.len() / 2].to_owned()).into_response()
        }
        Fault::Reset | Fault::Endless | Fault::Slow { .. } | Fault::BlankLines(_) => {
            strange_body(fault, honest(&asked).to_string())
        }
        Fault::OneChoice => Json(honest(&Asked { samples: 1, ..asked })).into_response(),
        Fault::IgnoresFormat => {
            let mut plain = asked.body.clone();
            plain
                .as_object_mut()
                .expect("a request")
                .retain(|name, _| !name.starts_with("tool") && name != "response_format");
            Json(honest(&Asked::read(asked.headers, plain.to_string().into()))).into_response()
        }
        Fault::NoUsage => {
            let mut body = honest(&asked);
            body.as_object_mut().expect("an object").remove("usage");
            Json(body).into_response()
        }
        _ => Json(completion(&asked, &choices(&asked, brain, |verdict| choice(fault, verdict))))
            .into_response(),
    }
}

fn refuse(status: u16, body: String) -> Response {
    let status = StatusCode::from_u16(status).expect("a status");
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// As OpenAI words it.
fn complaint(what: &str) -> Value {
    let is_format = what.starts_with("json_");
    let message = match what {
        "json_schema" | "json_object" => {
            format!("response_format type '{what}' is not supported by this model")
        }
        "max_tokens" => format!(
            "Unsupported parameter: '{what}' is not supported with this model. Use 'max_completion_tokens' instead."
        ),
        _ => format!("Unsupported parameter: '{what}' is not supported with this model."),
    };
    let param = if is_format { "response_format" } else { what };
    json!({ "error": { "message": message, "type": "invalid_request_error", "param": param, "code": "unsupported_parameter" } })
}

fn strange_body(fault: &Fault, json: String) -> Response {
    let length = json.len();
    let json = Bytes::from(json);
    let body = match fault {
        Fault::Reset => {
            let half = json.slice(..length / 2);
            Body::from_stream(stream::iter([Ok(half)]).chain(stream::once(async {
                // The half leaves before the connection is cut.
                tokio::task::yield_now().await;
                Err(io::Error::other("cut"))
            })))
        }
        Fault::Endless => {
            let opening = Bytes::from_static(b"{\"choices\":[{\"message\":{\"content\":\"");
            let more = stream::repeat(Bytes::from_static(&[b'x'; 16 << 10]));
            Body::from_stream(stream::iter([opening]).chain(more).map(Ok::<_, Infallible>))
        }
        Fault::Slow { pause } => {
            let pause = *pause;
            Body::from_stream(stream::iter(0..length).then(move |at| {
                let byte = json.slice(at..=at);
                async move {
                    tokio::time::sleep(pause).await;
                    Ok::<_, Infallible>(byte)
                }
            }))
        }
        Fault::BlankLines(lines) => {
            let blank = stream::iter(0..*lines).map(|_| Bytes::from_static(b"\n"));
            Body::from_stream(blank.chain(stream::iter([json])).map(Ok::<_, Infallible>))
        }
        other => unreachable!("{other:?} has a plain body"),
    };
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// One message and how it ended, before it is written out.
struct Choice {
    message: Value,
    finish: &'static str,
}

fn choices(asked: &Asked, brain: &super::Brain, say: impl Fn(Value) -> Choice) -> Vec<Choice> {
    let answer = |sample| say(brain(&Asked { sample, ..asked.clone() }));
    (0..asked.samples).map(answer).collect()
}

fn verdict_as_it_is(verdict: Value) -> Choice {
    Choice { message: json!({ "role": "assistant", "content": text(&verdict) }), finish: "stop" }
}

/// Words stay words; everything else is JSON.
fn text(verdict: &Value) -> String {
    verdict.as_str().map_or_else(|| verdict.to_string(), str::to_owned)
}

fn choice(fault: &Fault, verdict: Value) -> Choice {
    let content = text(&verdict);
    let half = || content.chars().take(content.chars().count() / 2).collect::<String>();
    let (message, finish) = match fault {
        Fault::Finish("length") => (json!({ "content": half() }), "length"),
        Fault::Finish("content_filter") => (json!({ "content": null }), "content_filter"),
        Fault::Finish(reason) => (json!({ "content": content }), *reason),
        Fault::WholeAtLimit => (json!({ "content": content }), "length"),
        Fault::Refusal => (json!({ "content": null, "refusal": "I can't help with that." }), "stop"),
        Fault::OnlyReasoning => {
            (json!({ "content": "", "reasoning_content": format!("So: {content}") }), "stop")
        }
        Fault::ContentParts => (json!({ "content": [{ "type": "text", "text": content }] }), "stop"),
        Fault::Says(words) => (json!({ "content": words }), "stop"),
        Fault::Wrapped(wrap) => (json!({ "content": wrap.around(&verdict) }), "stop"),
        Fault::Twisted(twist) => (json!({ "content": twist.of(verdict).to_string() }), "stop"),
        other => unreachable!("{other:?} is no message"),
    };
    Choice { message, finish }
}

fn completion(asked: &Asked, choices: &[Choice]) -> Value {
    let is_call = |choice: &Choice| asked.wants_tool() && choice.message["content"].is_string();
    let write = |(index, choice): (usize, &Choice)| {
        let (mut message, mut finish) = (choice.message.clone(), choice.finish);
        if is_call(choice) {
            let call = json!({ "name": asked.verdict, "arguments": message["content"].take() });
            message["tool_calls"] = json!([{ "id": "call", "type": "function", "function": call }]);
            finish = if finish == "stop" { "tool_calls" } else { finish };
        }
        json!({ "index": index, "message": message, "finish_reason": finish })
    };
    let written: Vec<Value> = choices.iter().enumerate().map(write).collect();
    let tokens = asked.system.len() + asked.user.len();
    let (prompt_tokens, completion_tokens) = (tokens / 4, 10 * choices.len());
    json!({
        "id": "chatcmpl", "object": "chat.completion", "created": 0, "model": "stand-in-1", "system_fingerprint": "fp_1",
        "choices": written,
        "usage": { "prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": { "cached_tokens": prompt_tokens / 2 },
            "completion_tokens_details": { "reasoning_tokens": 4 * choices.len() } },
    })
}
