//! Parses a line of JSON into a sample. Accepts the field names of common data sets.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::evaluate::{
    sample::{Context, Sample},
    text::Language,
};

/// A sample, and the unknown fields of its line.
#[derive(Debug, PartialEq)]
pub(super) struct ParsedSample {
    pub sample: Sample,
    pub unknown: Vec<String>,
}

/// Error of an invalid line. Messages contain names of fields and types, never texts of the line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LineError {
    #[error("the line is not valid UTF-8")]
    NotUtf8,
    #[error("the line is not valid JSON: {detail} at column {column}")]
    NotJson { detail: &'static str, column: usize },
    #[error("the line must be a JSON object, but is {found}")]
    NotAnObject { found: &'static str },
    #[error("{field} must be {expected}, but is {found}")]
    WrongType { field: String, found: &'static str, expected: &'static str },
    #[error("{field} and {other} are two names of the same field: remove one of them")]
    Twice { field: String, other: &'static str },
}

impl LineError {
    pub fn code(&self) -> &'static str {
        match self {
            LineError::NotUtf8 => "NOT_UTF8",
            LineError::NotJson { .. } => "NOT_JSON",
            LineError::NotAnObject { .. } => "NOT_AN_OBJECT",
            LineError::WrongType { .. } => "WRONG_TYPE",
            LineError::Twice { .. } => "FIELD_TWICE",
        }
    }
}

/// Fields of a sample, each with its names in other data sets.
const NAMES: [(&str, &[&str]); 8] = [
    ("user_input", &["question"]),
    ("response", &["answer"]),
    ("retrieved_contexts", &["contexts"]),
    ("reference", &["ground_truth"]),
    ("reference_contexts", &[]),
    ("rubrics", &["rubric"]),
    ("language", &[]),
    ("id", &[]),
];

const TEXT: &str = "a string";
const CONTEXTS: &str = "an array of strings, or of objects with text and id";
const RUBRICS: &str = "an object such as {\"score1_description\": \"…\"} or {\"1\": \"…\"}";
const LANGUAGE: &str = "en, zh or other";

/// Parses a line. A field with the value null is unset.
///
/// # Errors
/// [`LineError`] if the line is not a sample.
pub(super) fn parse(line: &[u8]) -> Result<ParsedSample, LineError> {
    let text = std::str::from_utf8(line).map_err(|_| LineError::NotUtf8)?;
    let fields = match serde_json::from_str(text).map_err(|error| not_json(&error))? {
        Value::Object(fields) => fields,
        other => return Err(LineError::NotAnObject { found: type_name(&other) }),
    };
    let (mut sample, mut unknown) = (Sample::default(), Vec::new());
    for (name, value) in &fields {
        let known = NAMES.iter().find(|(own, others)| own == name || others.contains(&name.as_str()));
        match known {
            None => unknown.push(name.clone()),
            Some(_) if value.is_null() => {}
            Some((own, _)) if own != name && fields.get(*own).is_some_and(|value| !value.is_null()) => {
                return Err(LineError::Twice { field: name.clone(), other: own });
            }
            Some((own, _)) => set(&mut sample, own, JsonField { name, value })?,
        }
    }
    Ok(ParsedSample { sample, unknown })
}

/// Parses a language code or name.
pub(super) fn language(name: &str) -> Option<Language> {
    match name.to_ascii_lowercase().as_str() {
        "en" | "eng" | "english" => Some(Language::English),
        "zh" | "zho" | "chinese" => Some(Language::Chinese),
        "other" | "und" => Some(Language::Other),
        name if name.starts_with("en-") => Some(Language::English),
        name if name.starts_with("zh-") => Some(Language::Chinese),
        _ => None,
    }
}

struct JsonField<'a> {
    /// Name in the line.
    name: &'a str,
    value: &'a Value,
}

fn set(sample: &mut Sample, own: &str, field: JsonField<'_>) -> Result<(), LineError> {
    match own {
        "user_input" => sample.user_input = field.text()?,
        "response" => sample.response = field.text()?,
        "retrieved_contexts" => sample.retrieved_contexts = field.contexts()?,
        "reference" => sample.reference = field.text()?,
        "reference_contexts" => sample.reference_contexts = field.contexts()?,
        "rubrics" => sample.rubrics = field.rubrics()?,
        "language" => {
            let known = language(&field.text()?).ok_or_else(|| field.wrong_type(LANGUAGE))?;
            sample.language = Some(known);
        }
        _ => sample.id = field.id()?,
    }
    Ok(())
}

impl JsonField<'_> {
    fn text(&self) -> Result<String, LineError> {
        self.value.as_str().map(str::to_owned).ok_or_else(|| self.wrong_type(TEXT))
    }

    /// Accepts numbers, because data frames export numeric ids.
    fn id(&self) -> Result<String, LineError> {
        match self.value {
            Value::String(id) => Ok(id.clone()),
            Value::Number(id) => Ok(id.to_string()),
            _ => Err(self.wrong_type("a string or a number")),
        }
    }

    fn contexts(&self) -> Result<Vec<Context>, LineError> {
        let list = self.value.as_array().ok_or_else(|| self.wrong_type(CONTEXTS))?;
        list.iter().enumerate().map(|(index, value)| self.context(index, value)).collect()
    }

    fn context(&self, index: usize, value: &Value) -> Result<Context, LineError> {
        let name = format!("{}[{index}]", self.name);
        match value {
            Value::String(text) => Ok(Context { text: text.clone(), id: String::new() }),
            Value::Object(fields) => {
                let field = |part: &str| fields.get(part).filter(|value| !value.is_null());
                let inner = |part: &str, value| (format!("{name}.{part}"), value);
                let text = field("text").map(|value| inner("text", value));
                let id = field("id").map(|value| inner("id", value));
                Ok(Context {
                    text: text
                        .map_or(Ok(String::new()), |(name, value)| JsonField { name: &name, value }.text())?,
                    id: id
                        .map_or(Ok(String::new()), |(name, value)| JsonField { name: &name, value }.id())?,
                })
            }
            value => {
                Err(JsonField { name: &name, value }.wrong_type("a string, or an object with text and id"))
            }
        }
    }

    fn rubrics(&self) -> Result<BTreeMap<i32, String>, LineError> {
        let fields: &Map<String, Value> = self.value.as_object().ok_or_else(|| self.wrong_type(RUBRICS))?;
        let meant = fields.iter().filter(|(_, value)| !value.is_null());
        meant
            .map(|(key, value)| {
                let score = key.strip_prefix("score").and_then(|rest| rest.strip_suffix("_description"));
                let score = score.unwrap_or(key).parse().map_err(|_| self.wrong_type(RUBRICS))?;
                let name = format!("{}.{key}", self.name);
                Ok((score, JsonField { name: &name, value }.text()?))
            })
            .collect()
    }

    fn wrong_type(&self, expected: &'static str) -> LineError {
        LineError::WrongType { field: self.name.to_owned(), found: type_name(self.value), expected }
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(text) if text.is_empty() => "an empty string",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn not_json(error: &serde_json::Error) -> LineError {
    let detail = if error.is_eof() { "unexpected end of the line" } else { "syntax error" };
    LineError::NotJson { detail, column: error.column() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(text: &str, id: &str) -> Context {
        Context { text: text.into(), id: id.into() }
    }

    #[test]
    fn field_names_of_newer_and_older_data_sets_are_accepted() {
        let new =
            r#"{"user_input": "q", "response": "a", "retrieved_contexts": ["c"], "reference": "r", "id": 7}"#;
        let old = r#"{"question": "q", "answer": "a", "contexts": [{"text": "c"}], "ground_truth": "r", "id": "7"}"#;
        let parsed = parse(new.as_bytes()).expect("a sample");
        assert_eq!(parsed, parse(old.as_bytes()).expect("a sample"));
        assert_eq!(parsed.sample.retrieved_contexts, [context("c", "")]);
        assert_eq!((parsed.sample.id.as_str(), parsed.unknown.len()), ("7", 0));
    }

    #[test]
    fn rubrics_are_parsed_in_both_forms() {
        for form in
            [r#"{"1": "bad", "2": "good"}"#, r#"{"score1_description": "bad", "score2_description": "good"}"#]
        {
            let parsed = parse(format!("{{\"rubrics\": {form}}}").as_bytes()).expect("a sample");
            assert_eq!(parsed.sample.rubrics, BTreeMap::from([(1, "bad".into()), (2, "good".into())]));
        }
    }

    #[test]
    fn null_is_unset_and_unknown_fields_are_reported() {
        let line =
            r#"{"question": null, "user_input": "q", "contexts": null, "score": 1, "language": "zh-CN"}"#;
        let parsed = parse(line.as_bytes()).expect("a sample");
        assert_eq!((parsed.sample.user_input.as_str(), parsed.unknown), ("q", vec!["score".to_owned()]));
        assert_eq!(parsed.sample.language, Some(Language::Chinese));
    }

    #[test]
    fn errors_name_field_and_type_but_no_text() {
        for (line, code, part) in [
            (&b"{\"response\": \"secret"[..], "NOT_JSON", "unexpected end"),
            (b"{\"response\": secret}", "NOT_JSON", "column 14"),
            (b"\xff", "NOT_UTF8", "UTF-8"),
            (b"[1]", "NOT_AN_OBJECT", "an array"),
            (br#"{"response": ["secret"]}"#, "WRONG_TYPE", "response must be a string, but is an array"),
            (br#"{"contexts": "secret"}"#, "WRONG_TYPE", "but is a string"),
            (
                br#"{"contexts": ["a", 1]}"#,
                "WRONG_TYPE",
                "contexts[1] must be a string, or an object with text and id, but is a number",
            ),
            (br#"{"contexts": [{"text": []}]}"#, "WRONG_TYPE", "contexts[0].text must be a string"),
            (br#"{"rubrics": {"best": "secret"}}"#, "WRONG_TYPE", "rubrics"),
            (br#"{"language": "secret"}"#, "WRONG_TYPE", "en, zh"),
            (br#"{"question": "secret", "user_input": "b"}"#, "FIELD_TWICE", "user_input"),
        ] {
            let error = parse(line).expect_err("an invalid line");
            assert_eq!(error.code(), code);
            let message = error.to_string();
            assert!(message.contains(part) && !message.contains("secret"), "{message}");
        }
    }
}
