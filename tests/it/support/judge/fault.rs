//! What can be wrong with an answer.

use std::time::Duration;

use serde_json::{Value, json};

#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// Only this status, with a short message.
    Status(u16),
    /// This status with this body, whatever it is.
    Body {
        status: u16,
        body: String,
    },
    /// 429: too many requests.
    RateLimited(RetryAfter),
    /// 429: no money left.
    Quota,
    /// This status, and another address.
    Redirect(u16, String),
    /// Takes the request and never answers.
    Silent,
    /// Announces the whole body, sends half of it and cuts the connection.
    Reset,
    /// A body that was cut in the middle of its JSON, by the judge itself.
    CutJson,
    /// A body without an end.
    Endless,
    /// One byte at a time.
    Slow {
        pause: Duration,
    },
    /// So many blank lines before the body, as gateways send them to keep a connection alive.
    BlankLines(usize),
    /// 400 where the request uses this: `json_schema`, `json_object`, or a field of the body.
    Rejects(&'static str),
    /// One choice, whatever `n` says.
    OneChoice,
    /// As if the request had no `response_format` and no tools.
    IgnoresFormat,
    NoUsage,
    /// The content as a list of parts, as some endpoints send it.
    ContentParts,
    /// Another reason for its end. With `length`, half of the content is missing.
    Finish(&'static str),
    /// The whole content, but `length` as the reason for its end.
    WholeAtLimit,
    /// The `refusal` field instead of content.
    Refusal,
    /// Nothing but thinking: the verdict is there alone.
    OnlyReasoning,
    /// These words instead of the verdict.
    Says(&'static str),
    Wrapped(Wrap),
    Twisted(Twist),
}

/// When the client may come back.
#[derive(Clone, Debug, PartialEq)]
pub enum RetryAfter {
    Never,
    Seconds(u64),
    /// `0.05`
    Fraction(f64),
    /// An HTTP date, so long from now.
    Date(Duration),
    /// `retry-after-ms`
    Millis(u64),
    /// Nonsense, or far too long.
    Text(&'static str),
}

impl RetryAfter {
    pub fn header(&self) -> Option<(&'static str, String)> {
        match self {
            RetryAfter::Never => None,
            RetryAfter::Seconds(seconds) => Some(("retry-after", seconds.to_string())),
            RetryAfter::Fraction(seconds) => Some(("retry-after", seconds.to_string())),
            RetryAfter::Date(after) => {
                Some(("retry-after", httpdate::fmt_http_date(std::time::SystemTime::now() + *after)))
            }
            RetryAfter::Millis(millis) => Some(("retry-after-ms", millis.to_string())),
            RetryAfter::Text(text) => Some(("retry-after", (*text).to_owned())),
        }
    }
}

/// What stands around the JSON of a verdict. Drafts in it say the opposite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrap {
    Think,
    ThinkWithoutEnd,
    ThinkWithoutStart,
    ThinkTwice,
    ThinkNested,
    Fence,
    Prose,
    /// An example first.
    TwoObjects,
    /// As a string of JSON.
    EncodedTwice,
    SingleQuotes,
    FullWidth,
    TrailingComma,
    /// Without its last bracket.
    Unclosed,
}

impl Wrap {
    pub fn around(self, verdict: &Value) -> String {
        let (json, draft) = (verdict.to_string(), opposite(verdict).to_string());
        match self {
            Wrap::Think => format!("<think>Perhaps {draft}?</think>\n{json}"),
            Wrap::ThinkWithoutEnd => format!("<think>Perhaps {draft}? No.\n{json}"),
            Wrap::ThinkWithoutStart => format!("Perhaps {draft}?</think>\n{json}"),
            Wrap::ThinkTwice => format!("<think>{draft}</think>\n{json}\n<think>{draft}</think>"),
            Wrap::ThinkNested => format!("<think>One<think>{draft}</think>{draft}</think>{json}"),
            Wrap::Fence => format!("```json\n{json}\n```"),
            Wrap::Prose => {
                format!("Certainly! The set {{a, b}} [1] says:\n\n{json}\n\nI hope {{this}} helps [2].")
            }
            Wrap::TwoObjects => format!("For example {draft}. My answer: {json}"),
            Wrap::EncodedTwice => Value::String(json).to_string(),
            Wrap::SingleQuotes => json.replace('"', "'").replace("true", "True").replace("false", "False"),
            Wrap::FullWidth => json.replace("\":", "”：").replace([','], "，").replace('"', "“"),
            Wrap::TrailingComma => json.replace('}', ",}"),
            Wrap::Unclosed => json[..json.len() - 1].to_owned(),
        }
    }
}

/// What is wrong inside of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Twist {
    /// The last of the things with ids is forgotten.
    MissingId,
    /// The first of them is told twice, the second time the opposite.
    DuplicateId,
    /// 是 and 否 for true and false.
    Chinese,
    /// "1" and "0".
    Digits,
    /// 1 and 0.
    Numbers,
    /// 2 for true and false alike.
    Two,
    /// A list for true and false.
    WrongTypes,
    /// Reasons in Chinese where one asks in English, and the other way round.
    OtherLanguage,
    /// A field that nobody asked for.
    ExtraField,
}

impl Twist {
    pub fn of(self, verdict: Value) -> Value {
        match verdict {
            Value::Bool(yes) => self.of_bool(yes),
            Value::Array(items) => {
                let items = items.into_iter().map(|item| self.of(item)).collect();
                self.of_list(items).into()
            }
            Value::Object(map) => {
                let mut map: serde_json::Map<_, _> =
                    map.into_iter().map(|(name, value)| (name, self.of(value))).collect();
                match (self, map.get_mut("reason")) {
                    (Twist::OtherLanguage, Some(reason)) => *reason = json!("因为上下文是这样说的。"),
                    (Twist::ExtraField, _) => drop(map.insert("confidence".to_owned(), json!(0.9))),
                    _ => {}
                }
                map.into()
            }
            other => other,
        }
    }

    fn of_bool(self, yes: bool) -> Value {
        match self {
            Twist::Chinese => json!(if yes { "是" } else { "否" }),
            Twist::Digits => json!(if yes { "1" } else { "0" }),
            Twist::Numbers => json!(i32::from(yes)),
            Twist::Two => json!(2),
            Twist::WrongTypes => json!([yes]),
            _ => json!(yes),
        }
    }

    fn of_list(self, mut items: Vec<Value>) -> Vec<Value> {
        if items.first().is_some_and(|item| item.get("id").is_some()) {
            match self {
                Twist::MissingId => drop(items.pop()),
                Twist::DuplicateId => items.push(opposite(&items[0])),
                _ => {}
            }
        }
        items
    }
}

/// Every yes a no.
fn opposite(verdict: &Value) -> Value {
    match verdict {
        Value::Bool(yes) => json!(!yes),
        Value::Array(items) => items.iter().map(opposite).collect::<Vec<_>>().into(),
        Value::Object(map) => map
            .iter()
            .map(|(name, value)| (name.clone(), opposite(value)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        other => other.clone(),
    }
}
