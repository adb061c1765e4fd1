//! A mind that agrees with everything, in whatever form it is asked for.

use serde_json::{Map, Value, json};

use super::Asked;

/// Says yes to all ids that the data holds, rates 1, and takes each sentence of the last text for a claim.
///
/// Without a schema it answers in words: a model that isn't told the form doesn't know it.
pub fn honest(asked: &Asked) -> Value {
    match &asked.schema {
        Some(schema) => Form { root: schema, asked }.instance(schema, ""),
        None => Value::String("Yes, I think so.".to_owned()),
    }
}

struct Form<'a> {
    root: &'a Value,
    asked: &'a Asked,
}

impl Form<'_> {
    fn instance(&self, schema: &Value, name: &str) -> Value {
        let schema = self.resolved(schema);
        if let Some(choice) = schema["enum"].get(0).or(schema.get("const")) {
            return choice.clone();
        }
        let alternatives = [&schema["anyOf"], &schema["oneOf"], &schema["allOf"]];
        if let Some(first) = alternatives.into_iter().find_map(|choices| choices.get(0)) {
            return self.instance(first, name);
        }
        let kind = schema["type"].as_str().or(schema["type"][0].as_str()).unwrap_or("object");
        match kind {
            "boolean" => json!(true),
            "integer" | "number" => schema.get("minimum").cloned().unwrap_or(json!(1)),
            "string" => json!(if name == "reason" { "It says so." } else { name }),
            "array" => self.items(schema, name),
            _ => self.object(schema),
        }
    }

    fn object(&self, schema: &Value) -> Value {
        let properties = schema["properties"].as_object().into_iter().flatten();
        properties.map(|(name, form)| (name.clone(), self.instance(form, name))).collect::<Map<_, _>>().into()
    }

    fn items(&self, schema: &Value, name: &str) -> Value {
        let form = self.resolved(&schema["items"]);
        if form["type"] == "string" {
            return sentences(self.last_text()).into();
        }
        if form["properties"].get("id").is_none() {
            return json!([self.instance(form, name)]);
        }
        let item = |id: &Value| {
            let mut item = self.instance(form, name);
            item["id"] = id.clone();
            item
        };
        self.ids().iter().map(item).collect::<Vec<_>>().into()
    }

    /// `#/$defs/Item`
    fn resolved<'s>(&'s self, schema: &'s Value) -> &'s Value {
        let path = schema["$ref"].as_str().and_then(|path| path.strip_prefix('#'));
        path.and_then(|path| self.root.pointer(path)).unwrap_or(schema)
    }

    /// Of the last list of things with ids: contexts come first, what is asked about them last.
    fn ids(&self) -> Vec<Value> {
        let lists = self.asked.data.iter().rev().filter_map(|(_, value)| value.as_array());
        let mut ids =
            lists.map(|list| list.iter().filter_map(|item| item.get("id").cloned()).collect::<Vec<_>>());
        ids.find(|ids| !ids.is_empty()).unwrap_or_default()
    }

    fn last_text(&self) -> &str {
        self.asked.data.iter().rev().find_map(|(_, value)| value.as_str()).unwrap_or_default()
    }
}

fn sentences(text: &str) -> Vec<String> {
    let pieces = text.split_inclusive(['.', '!', '?', '。', '！', '？', '；']);
    pieces.map(str::trim).filter(|piece| !piece.is_empty()).map(str::to_owned).collect()
}
