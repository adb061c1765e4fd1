//! Decodes a verdict from a JSON value (pure).

use serde_json::Value;

use super::Verdict;
use crate::judge::value_count::{self, MAX_VALUES};

/// Maximum nesting of envelopes around an answer, such as `{"answer": {...}}` or `[{...}]`.
const MAX_ENVELOPES: usize = 3;

/// Field in which the judge explains its verdict.
const REASON: &str = "reason";
const MAX_REASON_BYTES: usize = 4 << 10;

/// Top-level JSON type of a verdict. Derived deserializers accept an array for a struct, so without this check `[1]` in
/// prose would be a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TopLevel {
    Object,
    Array,
}

impl TopLevel {
    pub fn for_verdict<V: Verdict>() -> TopLevel {
        let schema = schemars::schema_for!(V);
        let is_array = schema.get("type").and_then(Value::as_str) == Some("array");
        if is_array { TopLevel::Array } else { TopLevel::Object }
    }

    fn matches(self, value: &Value) -> bool {
        match self {
            TopLevel::Object => value.is_object(),
            TopLevel::Array => value.is_array(),
        }
    }
}

/// Decodes a verdict from repaired JSON, or describes why it does not match.
pub(super) fn read<V: Verdict>(json: &str, form: TopLevel) -> Result<V, String> {
    if value_count::exceeds_limit(json.as_bytes()) {
        return Err(format!("it has more than {MAX_VALUES} values"));
    }
    let mut value: Value = serde_json::from_str(json).map_err(|_| "it is not valid JSON".to_owned())?;
    shorten_reasons(&mut value);
    let mut mismatch = None;
    for _ in 0..=MAX_ENVELOPES {
        if form.matches(&value) {
            match deserialize(value.clone()) {
                Ok(verdict) => return Ok(verdict),
                Err(what) => mismatch = mismatch.or(Some(what)),
            }
        }
        match unwrap_envelope(value) {
            Some(inner) => value = inner,
            None => break,
        }
    }
    let wanted = match form {
        TopLevel::Object => "it is not a JSON object",
        TopLevel::Array => "it is not a JSON array",
    };
    Err(mismatch.unwrap_or_else(|| wanted.to_owned()))
}

/// Truncates reasons: callers get one per claim or context.
fn shorten_reasons(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name == REASON => {
                        text.truncate(text.floor_char_boundary(MAX_REASON_BYTES));
                    }
                    value => shorten_reasons(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(shorten_reasons),
        _ => {}
    }
}

fn deserialize<V: Verdict>(value: Value) -> Result<V, String> {
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

/// Object or array that is the only field or element of `value`.
fn unwrap_envelope(value: Value) -> Option<Value> {
    let inner = match value {
        Value::Object(map) if map.len() == 1 => map.into_iter().next().map(|(_, inner)| inner),
        Value::Array(items) if items.len() == 1 => items.into_iter().next(),
        _ => None,
    };
    inner.filter(|inner| inner.is_object() || inner.is_array())
}

/// Removes values from a serde message: they are the judge's text, and perhaps the user's.
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
