//! How many fields a message has, counted before it is decoded.
//!
//! A field of two bytes becomes an element of fifty and more, so bytes alone do not bound what decoding costs. The
//! count follows nested messages by the protocol's own descriptors. Source: Protocol Buffers, *Encoding*.

use std::collections::HashMap;

use prost::Message as _;
use prost_types::{
    DescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

/// Nested messages that are followed; prost refuses messages that are deeper.
const DEPTH: usize = 100;

/// The message types of the protocol, as far as counting needs them.
#[derive(Debug)]
pub(crate) struct Shapes {
    shapes: Vec<Shape>,
    /// Request types by method, such as `assay.v1.EmbeddingService/Embed`.
    requests: HashMap<String, usize>,
}

/// The fields of one type that have elements of their own, by number.
#[derive(Debug, Default)]
struct Shape(HashMap<u32, Inner>);

#[derive(Clone, Copy, Debug)]
enum Inner {
    Message(usize),
    /// Numbers without tags between them: each byte may be one.
    Packed,
}

/// The message has more fields than the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMany;

impl Shapes {
    /// Reads the descriptors that the build made.
    pub fn of(descriptors: &[u8]) -> Shapes {
        let set = FileDescriptorSet::decode(descriptors).expect("the descriptors were made by the build");
        let mut types = Vec::new();
        for file in &set.file {
            collect(&format!(".{}", file.package()), &file.message_type, &mut types);
        }
        let index: HashMap<&str, usize> =
            types.iter().enumerate().map(|(i, (name, _))| (&**name, i)).collect();
        let shapes = types.iter().map(|(_, message)| Shape::of(message, &index)).collect();
        let mut requests = HashMap::new();
        for file in &set.file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("{}.{}/{}", file.package(), service.name(), method.name());
                    requests.extend(index.get(method.input_type()).map(|&shape| (path, shape)));
                }
            }
        }
        Shapes { shapes, requests }
    }

    /// Counts the fields of a request of `method`, nested ones too. Bytes that are no message count as far as they can
    /// be read: decoding says what is wrong with them.
    ///
    /// # Errors
    /// [`TooMany`] as soon as there are more than `limit`.
    pub(super) fn count(&self, method: &str, message: &[u8], limit: usize) -> Result<usize, TooMany> {
        let mut left = limit;
        let shape = self.requests.get(method).map(|&shape| &self.shapes[shape]);
        self.walk(shape, message, &mut left, DEPTH)?;
        Ok(limit - left)
    }

    fn walk(
        &self,
        shape: Option<&Shape>,
        mut bytes: &[u8],
        left: &mut usize,
        depth: usize,
    ) -> Result<(), TooMany> {
        while !bytes.is_empty() {
            *left = left.checked_sub(1).ok_or(TooMany)?;
            let Some(Field { number, content, after }) = Field::read(bytes) else { return Ok(()) };
            bytes = after;
            match shape.and_then(|shape| shape.0.get(&number)) {
                Some(Inner::Message(inner)) if depth > 0 => {
                    self.walk(Some(&self.shapes[*inner]), content, left, depth - 1)?;
                }
                Some(Inner::Packed) => *left = left.checked_sub(content.len()).ok_or(TooMany)?,
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

impl Shape {
    fn of(message: &DescriptorProto, index: &HashMap<&str, usize>) -> Shape {
        let inner = message.field.iter().filter_map(|field| {
            let number = u32::try_from(field.number()).ok()?;
            let inner = match field.r#type() {
                Type::Message => Inner::Message(*index.get(field.type_name())?),
                Type::String | Type::Bytes | Type::Group => return None,
                _ if field.label() == Label::Repeated => Inner::Packed,
                _ => return None,
            };
            Some((number, inner))
        });
        Shape(inner.collect())
    }
}

struct Field<'a> {
    number: u32,
    /// Empty for a number or a group.
    content: &'a [u8],
    after: &'a [u8],
}

impl Field<'_> {
    fn read(bytes: &[u8]) -> Option<Field<'_>> {
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
            // The fields of a group count as those of the message around it.
            3 | 4 => (&[][..], rest),
            5 => skip(4)?,
            _ => return None,
        };
        Some(Field { number, content, after })
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

    fn count(method: &str, message: &[u8], limit: usize) -> Result<usize, TooMany> {
        Shapes::of(proto::DESCRIPTORS).count(method, message, limit)
    }

    #[test]
    fn nested_fields_count() {
        let context = Context { text: "a".into(), id: "b".into() };
        let sample =
            Sample { response: "x".into(), retrieved_contexts: vec![context; 3], ..Sample::default() };
        let request = EvaluateRequest { sample: Some(sample), ..EvaluateRequest::default() };
        // The sample, its response, three contexts with two fields each.
        assert_eq!(count(EVALUATE, &request.encode_to_vec(), 100), Ok(1 + 1 + 3 * 3));
    }

    #[test]
    fn counting_ends_at_the_limit() {
        let metrics = vec![MetricSelection::default(); 1000];
        let request = EvaluateRequest { metrics, ..EvaluateRequest::default() };
        assert_eq!(count(EVALUATE, &request.encode_to_vec(), 999), Err(TooMany));
        let request = EmbedRequest { inputs: vec![String::new(); 1000], ..EmbedRequest::default() };
        assert_eq!(count(EMBED, &request.encode_to_vec(), 1000), Ok(1000));
        assert_eq!(count(EMBED, &request.encode_to_vec(), 999), Err(TooMany));
    }

    #[test]
    fn unknown_fields_groups_and_methods_count_too() {
        let unknown = [0x78, 0x01].repeat(50);
        let groups = [0x7b, 0x7c].repeat(50);
        assert_eq!(count(EMBED, &unknown, 100), Ok(50));
        assert_eq!(count(EMBED, &groups, 99), Err(TooMany));
        assert_eq!(count("other", &unknown, 100), Ok(50));
    }

    #[test]
    fn bytes_that_are_no_message_are_left_to_decoding() {
        for bytes in [&[0xff; 20][..], &[0x0a, 0x05, 0x61], &[0x0f], &[0x09, 0x00]] {
            assert!(count(EMBED, bytes, 100).is_ok(), "{bytes:?}");
        }
    }
}
