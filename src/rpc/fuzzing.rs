//! Fuzzing entry points for decoding and converting requests.

use std::sync::LazyLock;

use prost::Message;

use super::{Limits, convert, intake::MessageShapes};
use crate::{model::ModelInfo, proto};

static SHAPES: LazyLock<MessageShapes> =
    LazyLock::new(|| MessageShapes::from_descriptors(proto::DESCRIPTORS));

/// Decodes and converts `data` as a request. The first byte selects the method.
pub fn request(data: &[u8]) {
    let Some((method, message)) = data.split_first() else { return };
    let (limits, model) = (Limits::default(), model());
    match method % 5 {
        0 => check("EmbeddingService/Embed", message, |request: proto::EmbedRequest| {
            let (inputs, options) = convert::embedding::embed(request, &limits, &model)?;
            assert!((1..=limits.inputs).contains(&inputs.len()));
            assert!((1..=model.dimensions).contains(&options.vector.dimensions));
            Ok(())
        }),
        1 => check("EmbeddingService/EmbedStream", message, |request: proto::EmbedStreamRequest| {
            let (input, _) = convert::embedding::stream_item(request, &limits, &model)?;
            assert!((1..=limits.input_bytes).contains(&input.len()));
            Ok(())
        }),
        2 => check("EmbeddingService/Tokenize", message, |request: proto::TokenizeRequest| {
            let (inputs, _) = convert::embedding::tokenize(request, &limits, &model)?;
            assert!((1..=limits.inputs).contains(&inputs.len()));
            Ok(())
        }),
        3 => check("EvaluationService/Evaluate", message, |request: proto::EvaluateRequest| {
            let asked = convert::evaluation::request(request, &limits, &[])?;
            assert!(asked.sample.bytes() <= limits.sample_bytes && !asked.selections.is_empty());
            Ok(())
        }),
        _ => check("EvaluationService/EvaluateStream", message, |request: proto::EvaluateStreamRequest| {
            let asked = convert::evaluation::stream_request(request, &limits, &[])?;
            assert!(asked.sample.bytes() <= limits.sample_bytes && !asked.selections.is_empty());
            Ok(())
        }),
    }
}

/// Counts the fields of a message, then decodes and converts it.
fn check<M: Message + Default>(
    method: &str,
    message: &[u8],
    convert: impl FnOnce(M) -> Result<(), tonic::Status>,
) {
    let counted = SHAPES.count(&format!("assay.v1.{method}"), message, usize::MAX).expect("below the limit");
    let Ok(request) = M::decode(message) else { return };
    if request.encoded_len() > 0 {
        assert!(counted > 0, "a message has fields, and none was counted");
    }
    if let Err(status) = convert(request) {
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status:?}");
    }
}

fn model() -> ModelInfo {
    let prompts = [("query", "query: "), ("passage", "passage: ")];
    ModelInfo {
        dimensions: 384,
        max_tokens: 512,
        prompts: prompts.map(|(name, text)| (name.to_owned(), text.to_owned())).into(),
        ..ModelInfo::example()
    }
}
