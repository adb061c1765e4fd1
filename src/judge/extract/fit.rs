//! Whether a JSON value is the verdict asked for (pure).

use serde_json::Value;

use super::Verdict;
use crate::judge::elements::{self, MAX_ELEMENTS};

/// Envelopes around an answer: `{"answer": {...}}`, `[{...}]`.
const MOST_ENVELOPES: usize = 3;

/// The field of a verdict in which the judge says why.
const REASON: &str = "reason";
const LONGEST_REASON_BYTES: usize = 4 << 10;

/// What a verdict is at its top, from its schema: derived readers take an array for an object, so `[1]` in prose
/// would be a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Object,
    Array,
}

impl Form {
    pub fn of<V: Verdict>() -> Form {
        let schema = schemars::schema_for!(V);
        let is_array = schema.get("type").and_then(Value::as_str) == Some("array");
        if is_array { Form::Array } else { Form::Object }
    }

    fn is_of(self, value: &Value) -> bool {
        match self {
            Form::Object => value.is_object(),
            Form::Array => value.is_array(),
        }
    }
}

/// Reads a verdict from mended JSON, or tells what is wrong with it.
pub(super) fn read<V: Verdict>(json: &str, form: Form) -> Result<V, String> {
    if elements::are_too_many(json.as_bytes()) {
        return Err(format!("it has more than {MAX_ELEMENTS} values"));
    }
    let mut value: Value = serde_json::from_str(json).map_err(|_| "it is not valid JSON".to_owned())?;
    shorten_reasons(&mut value);
    let mut misfit = None;
    for _ in 0..=MOST_ENVELOPES {
        if form.is_of(&value) {
            match take(value.clone()) {
                Ok(verdict) => return Ok(verdict),
                Err(what) => misfit = misfit.or(Some(what)),
            }
        }
        match content(value) {
            Some(inner) => value = inner,
            None => break,
        }
    }
    let wanted = match form {
        Form::Object => "it is not a JSON object",
        Form::Array => "it is not a JSON array",
    };
    Err(misfit.unwrap_or_else(|| wanted.to_owned()))
}

/// Reasons are handed on to callers, one for each claim or context.
fn shorten_reasons(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name == REASON => {
                        text.truncate(text.floor_char_boundary(LONGEST_REASON_BYTES));
                    }
                    value => shorten_reasons(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(shorten_reasons),
        _ => {}
    }
}

fn take<V: Verdict>(value: Value) -> Result<V, String> {
    let verdict: V = serde_path_to_error::deserialize(value).map_err(|error| {
        let what = without_values(&error.inner().to_string());
        match error.path().to_string() {
            path if path == "." => what,
            path => format!("{what} at {path}"),
        }
    })?;
    verdict.check()?;
    Ok(verdict)
}

/// What the only field or element holds.
fn content(value: Value) -> Option<Value> {
    let inner = match value {
        Value::Object(map) if map.len() == 1 => map.into_iter().next().map(|(_, inner)| inner),
        Value::Array(items) if items.len() == 1 => items.into_iter().next(),
        _ => None,
    };
    inner.filter(|inner| inner.is_object() || inner.is_array())
}

/// serde tells what it met and what it expected; what it met is the judge's text, perhaps the user's.
fn without_values(message: &str) -> String {
    let met = |start: &str| message.strip_prefix(start);
    let expected = message.rsplit_once(", expected ").map(|(_, expected)| expected);
    if met("missing field `").is_some() || met("duplicate field `").is_some() {
        return message.to_owned();
    }
    let found = met("invalid type: ").or_else(|| met("invalid value: ")).map(kind);
    match (found, expected) {
        (Some(found), Some(expected)) => format!("found {found}, but expected {expected}"),
        (None, Some(expected)) => format!("expected {expected}"),
        (_, None) => "a value does not have the form asked for".to_owned(),
    }
}

fn kind(unexpected: &str) -> &'static str {
    let kinds = [
        ("string", "a string"),
        ("integer", "a number"),
        ("floating", "a number"),
        ("boolean", "true or false"),
        ("null", "null"),
        ("unit", "null"),
        ("sequence", "an array"),
        ("map", "an object"),
    ];
    kinds.iter().find(|(start, _)| unexpected.starts_with(start)).map_or("another value", |(_, kind)| kind)
}
