//! A request as a model understands it.

use bytes::Bytes;
use http::HeaderMap;
use serde_json::Value;

#[derive(Clone, Debug)]
pub struct Asked {
    pub headers: HeaderMap,
    /// The body as it came.
    pub raw: Bytes,
    pub body: Value,
    /// The instructions.
    pub system: String,
    /// The first message of the user, as it was sent.
    pub user: String,
    /// What stands between the marks: names and values, in order.
    pub data: Vec<(String, Value)>,
    /// The messages after it: an answer of the judge and what was said to it.
    pub again: Option<(String, String)>,
    /// The form asked for, from wherever the request shows it.
    pub schema: Option<Value>,
    /// Its name, where the request has one.
    pub verdict: Option<String>,
    /// Choices asked for.
    pub samples: u64,
    /// Which of them is being answered, from 0.
    pub sample: u64,
}

impl Asked {
    pub fn read(headers: HeaderMap, raw: Bytes) -> Asked {
        let body: Value = serde_json::from_slice(&raw).expect("JSON");
        let message = |at: usize| body["messages"][at]["content"].as_str().unwrap_or_default().to_owned();
        let (system, user) = (message(0), message(1));
        let again = body["messages"].get(3).map(|_| (message(2), message(3)));
        let format = &body["response_format"]["json_schema"];
        let tool = &body["tools"][0]["function"];
        let shown = [&format["schema"], &tool["parameters"]].into_iter().find(|schema| schema.is_object());
        let after_data = user.rsplit("</data").next().unwrap_or_default();
        let written = || {
            [system.as_str(), after_data, again.as_ref().map_or("", |(_, said): &(_, String)| said)]
                .into_iter()
                .find_map(schema_in)
        };
        let verdict = [&format["name"], &tool["name"]].into_iter().find_map(Value::as_str).map(str::to_owned);
        Asked {
            data: data_in(&user),
            schema: shown.cloned().or_else(written),
            verdict,
            samples: body["n"].as_u64().unwrap_or(1),
            sample: 0,
            headers,
            raw,
            system,
            user,
            again,
            body,
        }
    }

    /// One part of the data; null if there is none of that name.
    pub fn part(&self, name: &str) -> &Value {
        self.data.iter().find(|(found, _)| found == name).map_or(&Value::Null, |(_, value)| value)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Whether the request uses this: a field of its body, or a kind of `response_format`.
    pub fn uses(&self, name: &str) -> bool {
        let is_format = self.body["response_format"]["type"].as_str() == Some(name);
        is_format || self.body.get(name).is_some()
    }

    pub fn wants_tool(&self) -> bool {
        self.uses("tools")
    }
}

/// Blocks of `<data name="..." id="...">`, one line of JSON, `</data id="...">`. The marks must fit.
fn data_in(user: &str) -> Vec<(String, Value)> {
    let (mut lines, mut data) = (user.lines(), Vec::new());
    while let Some(line) = lines.next() {
        let Some(mark) = line.strip_prefix("<data name=\"") else { continue };
        let (name, rest) = mark.split_once("\" id=\"").expect("a name and an id");
        let id = rest.strip_suffix("\">").expect("the end of a mark");
        let value = serde_json::from_str(lines.next().expect("a value")).expect("JSON on one line");
        assert_eq!(lines.next(), Some(format!("</data id=\"{id}\">").as_str()), "the closing mark");
        data.push((name.to_owned(), value));
    }
    data
}

/// A schema that is written out among the words.
fn schema_in(text: &str) -> Option<Value> {
    let lines = text.lines().filter(|line| line.starts_with('{'));
    let mut values = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    values.find(|value| value.get("type").is_some() || value.get("properties").is_some())
}
