//! JSON Schema of an answer, as it is sent to endpoints.

use std::{any::TypeId, collections::HashMap, sync::Arc};

use parking_lot::{Mutex, MutexGuard};
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{JudgeError, Verdict, offload};

/// JSON Schema of one verdict type.
pub(super) struct AnswerSchema {
    pub name: &'static str,
    pub value: Value,
    /// SHA-256 of the schema in hexadecimal, for the cache key.
    pub digest: String,
}

/// Schemas by type, each generated once.
#[derive(Default)]
pub(super) struct SchemaCache(Mutex<HashMap<TypeId, Arc<AnswerSchema>>>);

impl SchemaCache {
    pub async fn get<V: Verdict>(&self) -> Result<Arc<AnswerSchema>, JudgeError> {
        let known = self.lock().get(&TypeId::of::<V>()).cloned();
        if let Some(schema) = known {
            return Ok(schema);
        }
        let schema = Arc::new(offload(usize::MAX, generate::<V>).await?);
        Ok(self.lock().entry(TypeId::of::<V>()).or_insert(schema).clone())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TypeId, Arc<AnswerSchema>>> {
        self.0.lock()
    }
}

fn generate<V: Verdict>() -> AnswerSchema {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut value = settings.into_generator().into_root_schema_for::<V>().to_value();
    restrict(&mut value);
    let digest = hex::encode(Sha256::digest(value.to_string()));
    AnswerSchema { name: V::NAME, value, digest }
}

/// Adapts a schema to strict endpoints: all properties are required, no others are allowed, and keywords that the
/// endpoints do not know are removed.
fn restrict(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(restrict),
        Value::Object(schema) => restrict_object(schema),
        _ => {}
    }
}

fn restrict_object(schema: &mut Map<String, Value>) {
    for keyword in ["title", "format", "default"] {
        schema.shift_remove(keyword);
    }
    if let Some(choices) = schema.shift_remove("oneOf") {
        schema.insert("anyOf".to_owned(), choices);
    }
    if let Some(Value::Object(properties)) = schema.get("properties") {
        let names: Vec<Value> = properties.keys().cloned().map(Value::String).collect();
        schema.insert("required".to_owned(), names.into());
        schema.insert("additionalProperties".to_owned(), false.into());
    }
    for (keyword, value) in schema {
        match value {
            // The keys of `properties` are names, not keywords.
            Value::Object(properties) if keyword == "properties" => {
                properties.values_mut().for_each(restrict);
            }
            other => restrict(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use schemars::JsonSchema;
    use serde::Deserialize;
    use serde_json::json;

    use super::{Verdict, generate};

    #[derive(Clone, Deserialize, JsonSchema)]
    #[expect(dead_code, reason = "only the schema is used")]
    struct Judged {
        /// Why.
        reason: Option<String>,
        #[serde(default)]
        claims: Vec<Claim>,
    }

    #[derive(Clone, Deserialize, JsonSchema)]
    #[expect(dead_code, reason = "only the schema is used")]
    struct Claim {
        id: u32,
        title: String,
    }

    impl Verdict for Judged {
        const NAME: &'static str = "judged";
        const VERSION: u32 = 1;
    }

    #[test]
    fn schemas_satisfy_strict_endpoints() {
        let claim = json!({
            "type": "object",
            "properties": { "id": { "type": "integer", "minimum": 0 }, "title": { "type": "string" } },
            "required": ["id", "title"],
            "additionalProperties": false,
        });
        let expected = json!({
            "type": "object",
            "properties": {
                "reason": { "type": ["string", "null"], "description": "Why." },
                "claims": { "type": "array", "items": claim },
            },
            "required": ["reason", "claims"],
            "additionalProperties": false,
        });
        let schema = generate::<Judged>().value;
        assert_eq!(schema, expected, "{schema:#}");
        // Models answer in this order, and a reason is worth more before the verdict.
        let names: Vec<&String> = schema["properties"].as_object().expect("properties").keys().collect();
        assert_eq!(names, ["reason", "claims"]);
    }
}
