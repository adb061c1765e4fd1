//! Rules for the messages of one call: size limits, memory, decompression and the field limit.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tonic::Status;

use super::{
    ArrivedReservations, IntakeParts, OTHER_MESSAGE_BYTES, PREFIX, Stage, fields,
    inflate::Compression,
    memory::{CallMemory, MemoryReservation},
};
use crate::rpc::status::{self, Violation};

/// The rules for the messages of one call.
pub(super) struct MessageRules {
    pub intake: Arc<IntakeParts>,
    pub method: &'static str,
    pub unary: bool,
    pub encoding: Option<Compression>,
    pub memory: CallMemory,
}

/// Length prefix of a message.
#[derive(Clone, Copy)]
pub(super) struct MessagePrefix {
    pub compressed: bool,
    pub bytes: usize,
}

/// A complete, decompressed message with its length prefix.
pub(super) struct ReadyMessage {
    pub frame: Bytes,
    pub held: MemoryReservation,
}

impl MessagePrefix {
    pub fn read(bytes: [u8; PREFIX], rules: &MessageRules) -> Result<MessagePrefix, Status> {
        let [flag, length @ ..] = bytes;
        let (bytes, limit) = (u32::from_be_bytes(length) as usize, rules.limit());
        if bytes > limit {
            return Err(invalid_message(&format!("{bytes} bytes, the limit is {limit}")));
        }
        match flag {
            0 => Ok(MessagePrefix { compressed: false, bytes }),
            1 if rules.encoding.is_some() => Ok(MessagePrefix { compressed: true, bytes }),
            1 => Err(Status::internal("compressed message without a supported grpc-encoding")),
            _ => Err(Status::internal("invalid compression flag; it must be 0 or 1")),
        }
    }

    /// The encoded prefix of an uncompressed message.
    pub fn plain(self) -> [u8; PREFIX] {
        plain_prefix(self.bytes)
    }

    /// Bytes to collect: the message, and the prefix if the message is not compressed.
    pub fn frame_bytes(self) -> usize {
        if self.compressed { self.bytes } else { PREFIX + self.bytes }
    }
}

fn plain_prefix(bytes: usize) -> [u8; PREFIX] {
    let [a, b, c, d] = u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes();
    [0, a, b, c, d]
}

impl MessageRules {
    /// DEADLINE_EXCEEDED for a message that was not received within the body timeout.
    pub fn timeout_status(&self) -> Status {
        status::body_timeout(self.intake.limits.body_timeout)
    }

    fn limit(&self) -> usize {
        let limit = self.intake.limits.message_bytes;
        if self.method.starts_with("assay.") { limit } else { limit.min(OTHER_MESSAGE_BYTES) }
    }

    /// Reserves memory for a message. Returns a stage that waits if there is none.
    pub fn begin(&self, prefix: MessagePrefix, arrivals: &ArrivedReservations) -> Result<Stage, Status> {
        if prefix.bytes == 0 {
            let message =
                if prefix.compressed { Bytes::new() } else { Bytes::copy_from_slice(&prefix.plain()) };
            return self.complete(prefix, message, MemoryReservation::default(), arrivals);
        }
        if let Some(held) = self.memory.try_take_request(prefix.bytes) {
            return Ok(Stage::Payload { prefix, message: BytesMut::new(), held });
        }
        let memory = self.memory.clone();
        let held = Box::pin(async move { memory.take_request(prefix.bytes).await });
        Ok(Stage::Reserving { prefix, held })
    }

    /// Processes a completely received message.
    pub fn complete(
        &self,
        prefix: MessagePrefix,
        message: Bytes,
        held: MemoryReservation,
        arrivals: &ArrivedReservations,
    ) -> Result<Stage, Status> {
        let Some(encoding) = self.encoding.filter(|_| prefix.compressed) else {
            return self.forward(ReadyMessage { frame: message, held }, arrivals);
        };
        let max_bytes = encoding.inflated_bytes(&message, self.limit());
        let max_bytes = max_bytes.map_err(|error| invalid_message(&error.to_string()))?;
        let (intake, memory) = (Arc::clone(&self.intake), self.memory.clone());
        Ok(Stage::Inflating(Box::pin(async move {
            let reservation = memory.take_request(max_bytes).await;
            let mut frame = intake.inflater.run(encoding, message, max_bytes, PREFIX).await?;
            // The compressed bytes are no longer held.
            drop(held);
            let prefix = plain_prefix(frame.len() - PREFIX);
            frame[..PREFIX].copy_from_slice(&prefix);
            Ok(ReadyMessage { frame: frame.into(), held: reservation })
        })))
    }

    /// Passes on a message if it is within the field limit.
    pub fn forward(
        &self,
        ReadyMessage { frame, held }: ReadyMessage,
        arrivals: &ArrivedReservations,
    ) -> Result<Stage, Status> {
        let limit = self.intake.limits.fields;
        let counted = self.intake.shapes.count(self.method, &frame[PREFIX..], limit);
        counted.map_err(|fields::TooManyFields| {
            invalid_message(&format!("more than {limit} fields, the limit is {limit}"))
        })?;
        arrivals.add(held);
        Ok(Stage::Forwarding { frame, paused: false })
    }
}

/// INVALID_ARGUMENT for a message as a whole.
pub(super) fn invalid_message(description: &str) -> Status {
    status::invalid([Violation { field: "message".into(), description: description.into() }])
}
