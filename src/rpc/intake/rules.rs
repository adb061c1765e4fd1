//! The rules for the messages of one call: how large each may be, and what becomes of it once it is whole.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tonic::Status;

use super::{
    Arrivals, OTHER_MESSAGE_BYTES, PREFIX, Parts, Stage, fields,
    inflate::Encoding,
    memory::{CallMemory, Held},
};
use crate::rpc::status::{self, Violation};

/// The rules for the messages of one call.
pub(super) struct Rules {
    pub intake: Arc<Parts>,
    pub method: &'static str,
    pub unary: bool,
    pub encoding: Option<Encoding>,
    pub memory: CallMemory,
}

/// What stands before a message.
#[derive(Clone, Copy)]
pub(super) struct Prefix {
    pub compressed: bool,
    pub bytes: usize,
}

/// A message in the form in which it is handed on, with its prefix.
pub(super) struct Ready {
    pub frame: Bytes,
    pub held: Held,
}

impl Prefix {
    pub fn read(bytes: [u8; PREFIX], rules: &Rules) -> Result<Prefix, Status> {
        let [flag, length @ ..] = bytes;
        let (bytes, limit) = (u32::from_be_bytes(length) as usize, rules.limit());
        if bytes > limit {
            return Err(refused(&format!("{bytes} bytes, the limit is {limit}")));
        }
        match flag {
            0 => Ok(Prefix { compressed: false, bytes }),
            1 if rules.encoding.is_some() => Ok(Prefix { compressed: true, bytes }),
            1 => Err(Status::internal("a message is compressed, and grpc-encoding does not say how")),
            _ => Err(Status::internal("a message has a compression flag that is neither 0 nor 1")),
        }
    }

    /// As it stands before a message that is not compressed.
    pub fn plain(self) -> [u8; PREFIX] {
        plain_prefix(self.bytes)
    }

    /// Bytes of what is collected: with the prefix, where the message can be handed on as it is.
    pub fn frame_bytes(self) -> usize {
        if self.compressed { self.bytes } else { PREFIX + self.bytes }
    }
}

fn plain_prefix(bytes: usize) -> [u8; PREFIX] {
    let [a, b, c, d] = u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes();
    [0, a, b, c, d]
}

impl Rules {
    /// The caller did not send all of a message in time.
    pub fn late(&self) -> Status {
        status::body_timeout(self.intake.limits.body_timeout)
    }

    fn limit(&self) -> usize {
        let limit = self.intake.limits.message_bytes;
        if self.method.starts_with("assay.") { limit } else { limit.min(OTHER_MESSAGE_BYTES) }
    }

    /// Takes memory for a message, or waits for it.
    pub fn begin(&self, prefix: Prefix, arrivals: &Arrivals) -> Result<Stage, Status> {
        if prefix.bytes == 0 {
            let message =
                if prefix.compressed { Bytes::new() } else { Bytes::copy_from_slice(&prefix.plain()) };
            return self.complete(prefix, message, Held::default(), arrivals);
        }
        if let Some(held) = self.memory.try_take_request(prefix.bytes) {
            return Ok(Stage::Payload { prefix, message: BytesMut::new(), held });
        }
        let memory = self.memory.clone();
        let held = Box::pin(async move { memory.take_request(prefix.bytes).await });
        Ok(Stage::Reserving { prefix, held })
    }

    /// A message of which the last byte has arrived.
    pub fn complete(
        &self,
        prefix: Prefix,
        message: Bytes,
        held: Held,
        arrivals: &Arrivals,
    ) -> Result<Stage, Status> {
        let Some(encoding) = self.encoding.filter(|_| prefix.compressed) else {
            return self.leaving(Ready { frame: message, held }, arrivals);
        };
        let most = encoding.inflated_bytes(&message, self.limit());
        let most = most.map_err(|error| refused(&error.to_string()))?;
        let (intake, memory) = (Arc::clone(&self.intake), self.memory.clone());
        Ok(Stage::Inflating(Box::pin(async move {
            let room = memory.take_request(most).await;
            let mut frame = intake.inflater.run(encoding, message, most, PREFIX).await?;
            // The compressed bytes are gone.
            drop(held);
            let prefix = plain_prefix(frame.len() - PREFIX);
            frame[..PREFIX].copy_from_slice(&prefix);
            Ok(Ready { frame: frame.into(), held: room })
        })))
    }

    /// Lets a message leave, if it has no more fields than it may.
    pub fn leaving(&self, Ready { frame, held }: Ready, arrivals: &Arrivals) -> Result<Stage, Status> {
        let limit = self.intake.limits.fields;
        let counted = self.intake.shapes.count(self.method, &frame[PREFIX..], limit);
        counted
            .map_err(|fields::TooMany| refused(&format!("more than {limit} fields, which is the limit")))?;
        arrivals.add(held);
        Ok(Stage::Leaving { frame, paused: false })
    }
}

/// A message that is not taken.
pub(super) fn refused(description: &str) -> Status {
    status::invalid([Violation { field: "message".into(), description: description.into() }])
}
