//! The number of fields of a message, counted before it is decoded.
//!
//! A field of 2 bytes can decode to an element of 50 bytes and more, so a size limit alone does not bound the cost of
//! decoding. The count follows nested messages using the descriptors of the protocol. Source: Protocol Buffers,
//! *Encoding*.

use std::collections::HashMap;

use prost::Message as _;
use prost_types::{
    DescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

/// Maximum nesting depth that is counted. prost rejects deeper messages.
const DEPTH: usize = 100;

/// The message types of the protocol, reduced to what counting needs.
#[derive(Debug)]
pub(crate) struct MessageShapes {
    shapes: Vec<MessageShape>,
    /// Indices of request types by method, such as `assay.v1.EmbeddingService/Embed`.
    requests: HashMap<String, usize>,
}

/// The fields of one message type that contain elements, by field number.
#[derive(Debug, Default)]
struct MessageShape(HashMap<u32, NestedField>);

#[derive(Clone, Copy, Debug)]
enum NestedField {
    Message(usize),
    /// Packed numbers. Each byte can be an element.
    Packed,
}

/// The message has more fields than the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::rpc) struct TooManyFields;

impl MessageShapes {
    /// Reads an encoded `FileDescriptorSet`.
    ///
    /// # Panics
    /// If it cannot be decoded.
    pub fn from_descriptors(descriptors: &[u8]) -> MessageShapes {
        let set = FileDescriptorSet::decode(descriptors).expect("the build generated the descriptors");
        let mut types = Vec::new();
        for file in &set.file {
            collect(&format!(".{}", file.package()), &file.message_type, &mut types);
        }
        let index: HashMap<&str, usize> =
            types.iter().enumerate().map(|(i, (name, _))| (&**name, i)).collect();
        let shapes = types.iter().map(|(_, message)| MessageShape::new(message, &index)).collect();
        let mut requests = HashMap::new();
        for file in &set.file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("{}.{}/{}", file.package(), service.name(), method.name());
                    requests.extend(index.get(method.input_type()).map(|&shape| (path, shape)));
                }
            }
        }
        MessageShapes { shapes, requests }
    }

    /// Counts the fields of a request of `method`, nested fields included. Counting stops at invalid bytes; decoding
    /// then reports the error.
    ///
    /// # Errors
    /// [`TooManyFields`] if there are more than `limit`.
    pub(in crate::rpc) fn count(
        &self,
        method: &str,
        message: &[u8],
        limit: usize,
    ) -> Result<usize, TooManyFields> {
        let mut left = limit;
        let shape = self.requests.get(method).map(|&shape| &self.shapes[shape]);
        self.walk(shape, message, &mut left, DEPTH)?;
        Ok(limit - left)
    }

    fn walk(
        &self,
        shape: Option<&MessageShape>,
        mut bytes: &[u8],
        left: &mut usize,
        depth: usize,
    ) -> Result<(), TooManyFields> {
        while !bytes.is_empty() {
            *left = left.checked_sub(1).ok_or(TooManyFields)?;
            let Some(WireField { number, content, after }) = WireField::read(bytes) else { return Ok(()) };
            bytes = after;
            match shape.and_then(|shape| shape.0.get(&number)) {
                Some(NestedField::Message(inner)) if depth > 0 => {
                    self.walk(Some(&self.shapes[*inner]), content, left, depth - 1)?;
                }
                Some(NestedField::Packed) => *left = left.checked_sub(content.len()).ok_or(TooManyFields)?,
                _ => {}
            }
        }
        Ok(())
    }
}

fn collect<'a>(path: &str, messages: &'a [DescriptorProto], types: &mut Vec<(String, &'a DescriptorProto)>) {
    for message in messages {
        let name = format!("{path}.{}", message.name());
        collect(&name, &message.nested_type, types);
        types.push((name, message));
    }
}

impl MessageShape {
    fn new(message: &DescriptorProto, index: &HashMap<&str, usize>) -> MessageShape {
        let inner = message.field.iter().filter_map(|field| {
            let number = u32::try_from(field.number()).ok()?;
            let inner = match field.r#type() {
                Type::Message => NestedField::Message(*index.get(field.type_name())?),
                Type::String | Type::Bytes | Type::Group => return None,
                _ if field.label() == Label::Repeated => NestedField::Packed,
                _ => return None,
            };
            Some((number, inner))
        });
        MessageShape(inner.collect())
    }
}

/// A field in the wire format.
struct WireField<'a> {
    number: u32,
    /// Payload of a length-delimited field; empty for other wire types.
    content: &'a [u8],
    after: &'a [u8],
}

impl WireField<'_> {
    fn read(bytes: &[u8]) -> Option<WireField<'_>> {
        let (tag, rest) = varint(bytes)?;
        let number = u32::try_from(tag >> 3).ok()?;
        let skip = |count: usize| Some((&[][..], rest.get(count..)?));
        let (content, after) = match tag & 7 {
            0 => (&[][..], varint(rest)?.1),
            1 => skip(8)?,
            2 => {
                let (length, rest) = varint(rest)?;
                rest.split_at_checked(usize::try_from(length).ok()?)?
            }
            // The fields of a group count as fields of the enclosing message.
            3 | 4 => (&[][..], rest),
            5 => skip(4)?,
            _ => return None,
        };
        Some(WireField { number, content, after })
    }
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (index, &byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return Some((value, &bytes[index + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{self, Context, EmbedRequest, EvaluateRequest, MetricSelection, Sample};

    const EMBED: &str = "assay.v1.EmbeddingService/Embed";
    const EVALUATE: &str = "assay.v1.EvaluationService/Evaluate";

    fn count(method: &str, message: &[u8], limit: usize) -> Result<usize, TooManyFields> {
        MessageShapes::from_descriptors(proto::DESCRIPTORS).count(method, message, limit)
    }

    #[test]
    fn nested_fields_are_counted() {
        let context = Context { text: "a".into(), id: "b".into() };
        let sample =
            Sample { response: "x".into(), retrieved_contexts: vec![context; 3], ..Sample::default() };
        let request = EvaluateRequest { sample: Some(sample), ..EvaluateRequest::default() };
        // The sample, its response, three contexts with two fields each.
        assert_eq!(count(EVALUATE, &request.encode_to_vec(), 100), Ok(1 + 1 + 3 * 3));
    }

    #[test]
    fn counting_stops_at_the_limit() {
        let metrics = vec![MetricSelection::default(); 1000];
        let request = EvaluateRequest { metrics, ..EvaluateRequest::default() };
        assert_eq!(count(EVALUATE, &request.encode_to_vec(), 999), Err(TooManyFields));
        let request = EmbedRequest { inputs: vec![String::new(); 1000], ..EmbedRequest::default() };
        assert_eq!(count(EMBED, &request.encode_to_vec(), 1000), Ok(1000));
        assert_eq!(count(EMBED, &request.encode_to_vec(), 999), Err(TooManyFields));
    }

    #[test]
    fn unknown_fields_groups_and_methods_are_counted() {
        let unknown = [0x78, 0x01].repeat(50);
        let groups = [0x7b, 0x7c].repeat(50);
        assert_eq!(count(EMBED, &unknown, 100), Ok(50));
        assert_eq!(count(EMBED, &groups, 99), Err(TooManyFields));
        assert_eq!(count("other", &unknown, 100), Ok(50));
    }

    #[test]
    fn invalid_bytes_are_left_to_the_decoder() {
        for bytes in [&[0xff; 20][..], &[0x0a, 0x05, 0x61], &[0x0f], &[0x09, 0x00]] {
            assert!(count(EMBED, bytes, 100).is_ok(), "{bytes:?}");
        }
    }
}
