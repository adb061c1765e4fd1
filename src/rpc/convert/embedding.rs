//! Conversion of EmbeddingService messages: inputs and options from requests, embeddings and tokens to responses.

use std::sync::Arc;

use super::{Check, ID_BYTES, duration, saturating};
use crate::{
    embed::{Embedded, EmbeddedInput, InputOptions, Vector, VectorEncoding, VectorOptions},
    model::{self, ModelInfo, Truncation},
    proto,
    rpc::Limits,
};

pub(in crate::rpc) fn embed(
    request: proto::EmbedRequest,
    limits: &Limits,
    model: &ModelInfo,
) -> Result<(Vec<String>, InputOptions), tonic::Status> {
    let mut check = Check::default();
    check.inputs(&request.inputs, limits);
    let options = check.options(&request.options.unwrap_or_default(), model);
    check.finish((request.inputs, options))
}

pub(in crate::rpc) fn stream_item(
    request: proto::EmbedStreamRequest,
    limits: &Limits,
    model: &ModelInfo,
) -> Result<(String, InputOptions), tonic::Status> {
    let mut check = Check::default();
    check.bytes(|| "id".into(), &request.id, ID_BYTES);
    check.text(|| "input".into(), &request.input, limits);
    let options = check.options(&request.options.unwrap_or_default(), model);
    check.finish((request.input, options))
}

pub(in crate::rpc) fn tokenize(
    request: proto::TokenizeRequest,
    limits: &Limits,
    model: &ModelInfo,
) -> Result<(Vec<String>, Arc<str>), tonic::Status> {
    let mut check = Check::default();
    check.inputs(&request.inputs, limits);
    let prompt = check.prompt("", request.input_type, &request.prompt_name, model);
    check.finish((request.inputs, prompt))
}

impl Check {
    fn inputs(&mut self, inputs: &[String], limits: &Limits) {
        if inputs.is_empty() {
            self.add("inputs", "at least 1 input is required");
        }
        if inputs.len() > limits.inputs {
            self.add("inputs", format!("{} inputs, the limit is {}", inputs.len(), limits.inputs));
        }
        for (index, input) in inputs.iter().enumerate().take(limits.inputs) {
            self.text(|| format!("inputs[{index}]"), input, limits);
        }
    }

    fn options(&mut self, options: &proto::EmbedOptions, model: &ModelInfo) -> InputOptions {
        InputOptions {
            prompt: self.prompt("options.", options.input_type, &options.prompt_name, model),
            truncation: self.truncation(options.truncation),
            vector: VectorOptions {
                dimensions: self.dimensions(options.dimensions, model),
                normalize: options.normalize.unwrap_or(model.normalizes),
                encoding: self.encoding(options.encoding),
            },
        }
    }

    fn prompt(&mut self, path: &str, input_type: i32, name: &str, model: &ModelInfo) -> Arc<str> {
        let of = |names: &[&str]| names.iter().find_map(|&name| model.prompts.get(name)).cloned();
        let role = proto::InputType::try_from(input_type);
        if !name.is_empty() && role != Ok(proto::InputType::Unspecified) {
            self.add(format!("{path}prompt_name"), "prompt_name and input_type are mutually exclusive");
        }
        let prompt = match role {
            Err(_) => {
                self.unknown_value(format!("{path}input_type"), input_type);
                None
            }
            Ok(proto::InputType::Query) => of(&["query"]),
            Ok(proto::InputType::Document) => of(&["document", "passage", "corpus"]),
            Ok(proto::InputType::Unspecified) if name.is_empty() => {
                model.default_prompt_name.as_deref().and_then(|name| of(&[name]))
            }
            Ok(proto::InputType::Unspecified) => {
                let prompt = of(&[name]);
                if prompt.is_none() {
                    let known: Vec<&str> = model.prompts.keys().map(String::as_str).collect();
                    let known = if known.is_empty() { "none".into() } else { known.join(", ") };
                    self.add(
                        format!("{path}prompt_name"),
                        format!("unknown prompt; prompts of the model: {known}"),
                    );
                }
                prompt
            }
        };
        prompt.unwrap_or_default().into()
    }

    fn truncation(&mut self, value: i32) -> Truncation {
        match proto::Truncation::try_from(value) {
            Ok(proto::Truncation::Unspecified | proto::Truncation::None) => Truncation::None,
            Ok(proto::Truncation::End) => Truncation::End,
            Ok(proto::Truncation::Start) => Truncation::Start,
            Err(_) => {
                self.unknown_value("options.truncation", value);
                Truncation::None
            }
        }
    }

    fn dimensions(&mut self, value: Option<u32>, model: &ModelInfo) -> usize {
        let dimensions = value.map_or(model.dimensions, |dimensions| dimensions as usize);
        if dimensions == 0 || dimensions > model.dimensions {
            self.add("options.dimensions", format!("{dimensions}, the range is 1 to {}", model.dimensions));
        }
        dimensions
    }

    fn encoding(&mut self, value: i32) -> VectorEncoding {
        match proto::Encoding::try_from(value) {
            Ok(proto::Encoding::Unspecified | proto::Encoding::Float32Values) => {
                VectorEncoding::Float32Values
            }
            Ok(proto::Encoding::Float32Bytes) => VectorEncoding::Float32Bytes,
            Ok(proto::Encoding::Float16Bytes) => VectorEncoding::Float16Bytes,
            Ok(proto::Encoding::Int8Bytes) => VectorEncoding::Int8Bytes,
            Ok(proto::Encoding::BinaryBytes) => VectorEncoding::BinaryBytes,
            Err(_) => {
                self.unknown_value("options.encoding", value);
                VectorEncoding::Float32Values
            }
        }
    }
}

pub(in crate::rpc) fn embed_response(
    embedded: Embedded,
    dimensions: usize,
    model: &ModelInfo,
) -> proto::EmbedResponse {
    proto::EmbedResponse {
        total_tokens: embedded.inputs.iter().map(|input| input.tokens as u64).sum(),
        embeddings: embedded.inputs.into_iter().map(embedding).collect(),
        model: model.id.clone(),
        revision: model.revision.clone().unwrap_or_default(),
        dimensions: saturating(dimensions),
        timings: Some(proto::Timings {
            tokenize: duration(embedded.tokenize),
            queue: duration(embedded.queue),
            compute: duration(embedded.compute),
        }),
    }
}

/// Moves the vector into the message. Its values are copied only once, when the response is encoded.
pub(in crate::rpc) fn embedding(input: EmbeddedInput) -> proto::Embedding {
    let (values, raw, scale) = match input.vector {
        Vector::Values(values) => (values, Vec::new(), 0.0),
        Vector::Bytes(bytes) => (Vec::new(), bytes, 0.0),
        Vector::Int8 { bytes, scale } => (Vec::new(), bytes, scale),
    };
    let (token_count, truncated) = (saturating(input.tokens), input.truncated);
    proto::Embedding { values, raw: raw.into(), scale, token_count, truncated }
}

/// Converts the tokens of one input. Slow for many tokens: do not call it on the event loop.
pub(in crate::rpc) fn tokenized_input(tokens: Vec<model::Token>, max_tokens: usize) -> proto::TokenizedInput {
    proto::TokenizedInput {
        exceeds_limit: tokens.len() > max_tokens,
        tokens: tokens.into_iter().map(token).collect(),
    }
}

pub(in crate::rpc) fn tokenize_response(
    results: Vec<proto::TokenizedInput>,
    max_tokens: usize,
) -> proto::TokenizeResponse {
    proto::TokenizeResponse { results, max_tokens: saturating(max_tokens) }
}

fn token(token: model::Token) -> proto::Token {
    let (start, end) = (saturating(token.start), saturating(token.end));
    proto::Token { id: token.id, text: token.text, start, end, special: token.special }
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt;

    use super::*;

    fn model(prompts: &[(&str, &str)]) -> ModelInfo {
        ModelInfo {
            prompts: prompts.iter().map(|&(name, text)| (name.into(), text.into())).collect(),
            ..ModelInfo::example()
        }
    }

    fn limits() -> Limits {
        Limits { inputs: 3, input_bytes: 10, ..Limits::default() }
    }

    fn fields(status: &tonic::Status) -> Vec<String> {
        let details = status.get_error_details();
        let violations = &details.bad_request().expect("it has field violations").field_violations;
        violations.iter().map(|v| v.field.clone()).collect()
    }

    #[test]
    fn a_vector_is_moved_into_its_message() {
        let input = |vector| EmbeddedInput { vector, tokens: 3, truncated: false };
        let values = vec![0.5; 384];
        let place = values.as_ptr();
        assert_eq!(embedding(input(Vector::Values(values))).values.as_ptr(), place);
        let bytes = vec![7; 1536];
        let place = bytes.as_ptr();
        assert_eq!(embedding(input(Vector::Bytes(bytes))).raw.as_ptr(), place);
    }

    #[test]
    fn all_validation_errors_are_reported_together() {
        let options = proto::EmbedOptions {
            input_type: 9,
            prompt_name: "query".into(),
            truncation: 9,
            dimensions: Some(9),
            encoding: 9,
            normalize: None,
        };
        let inputs = vec![String::new(), "x".repeat(11), "fine".into(), "one too many".into()];
        let request = proto::EmbedRequest { inputs, options: Some(options) };
        let status = embed(request, &limits(), &model(&[])).expect_err("refused");
        assert_eq!(
            fields(&status),
            [
                "inputs",
                "inputs[0]",
                "inputs[1]",
                "inputs[2]",
                "options.prompt_name",
                "options.input_type",
                "options.truncation",
                "options.dimensions",
                "options.encoding"
            ]
            .into_iter()
            .filter(|&field| field != "inputs[2]")
            .collect::<Vec<_>>()
        );
    }

    #[test]
    fn no_inputs_and_zero_dimensions_are_rejected() {
        let options = proto::EmbedOptions { dimensions: Some(0), ..Default::default() };
        let request = proto::EmbedRequest { inputs: vec![], options: Some(options) };
        let status = embed(request, &limits(), &model(&[])).expect_err("refused");
        assert_eq!(fields(&status), ["inputs", "options.dimensions"]);
    }

    #[test]
    fn a_prompt_is_found_by_role_and_by_name() {
        let model = model(&[("query", "query: "), ("passage", "passage: ")]);
        for (input_type, name, expected) in [
            (proto::InputType::Query, "", "query: "),
            (proto::InputType::Document, "", "passage: "),
            (proto::InputType::Unspecified, "passage", "passage: "),
            (proto::InputType::Unspecified, "", ""),
        ] {
            let mut check = Check::default();
            assert_eq!(&*check.prompt("", input_type as i32, name, &model), expected);
            assert!(check.0.is_empty());
        }
    }

    #[test]
    fn an_unknown_prompt_error_lists_the_known_prompts() {
        let mut check = Check::default();
        check.prompt("options.", 0, "nonsense", &model(&[("query", "q: ")]));
        let status = check.finish(()).expect_err("refused");
        assert_eq!(fields(&status), ["options.prompt_name"]);
        assert!(status.message().contains("query") && !status.message().contains("nonsense"));
    }
}
