//! Reading of request messages: limits on bytes, fields and time are enforced before a message is decoded.
//!
//! A message is read only after memory for all of it is reserved. It is passed on complete, decompressed and with its
//! fields counted, so the cost of decoding it is bounded.

mod fields;
mod inflate;
mod memory;
mod rules;

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::future::BoxFuture;
use http_body::{Body, Frame};
use parking_lot::Mutex;
use tokio::time::Sleep;
use tonic::Status;

pub(crate) use fields::MessageShapes;
use inflate::{Compression, InflateError, Inflater};
pub(crate) use memory::{CallMemory, MemoryReservation, MessageMemory};
use rules::{MessagePrefix, MessageRules, ReadyMessage, invalid_message};

/// Flag and length before each message. Source: gRPC over HTTP/2, *Length-Prefixed-Message*.
const PREFIX: usize = 5;
/// Maximum bytes of a message that are passed on before the task yields to other calls.
const CHUNK: usize = 256 << 10;
/// Maximum size of a message of health checks and reflection in bytes.
const OTHER_MESSAGE_BYTES: usize = 64 << 10;

/// Limits of request messages.
#[derive(Clone, Debug)]
pub(crate) struct IntakeLimits {
    /// Maximum size of one message in bytes, compressed and decompressed.
    pub message_bytes: usize,
    /// Maximum number of fields of one message, nested fields included.
    pub fields: usize,
    /// Maximum time from the first byte of a message to its last. For a unary call, maximum time from the arrival of
    /// the call to the end of its body.
    pub body_timeout: Duration,
}

/// Reads the request messages of all calls.
#[derive(Clone)]
pub(crate) struct MessageIntake(Arc<IntakeParts>);

struct IntakeParts {
    limits: IntakeLimits,
    shapes: MessageShapes,
    inflater: Inflater,
}

impl MessageIntake {
    /// Starts the decompression thread. `descriptors` is the encoded `FileDescriptorSet` of the protocol.
    ///
    /// # Errors
    /// The error of the operating system if the thread cannot be started.
    pub fn start(limits: IntakeLimits, descriptors: &[u8]) -> io::Result<MessageIntake> {
        Ok(MessageIntake(Arc::new(IntakeParts {
            limits,
            shapes: MessageShapes::from_descriptors(descriptors),
            inflater: Inflater::start()?,
        })))
    }

    /// Wraps the request body of a call of `method`. `encoding` is the value of `grpc-encoding`. The second value has
    /// the memory reservations of the messages that the body returns.
    pub fn body<B>(
        &self,
        inner: B,
        method: &'static str,
        encoding: Option<&[u8]>,
        memory: CallMemory,
    ) -> (IntakeBody<B>, ArrivedReservations) {
        let arrivals = ArrivedReservations::default();
        let rules = MessageRules {
            intake: Arc::clone(&self.0),
            method,
            unary: !is_streaming(method),
            encoding: encoding.and_then(Compression::named),
            memory,
        };
        let body = IntakeBody {
            inner,
            rules,
            chunk: Bytes::new(),
            stage: Stage::Prefix { bytes: [0; PREFIX], have: 0 },
            messages: 0,
            timer: None,
            arrivals: arrivals.clone(),
        };
        (body, arrivals)
    }
}

/// Whether the client may send more than one message.
pub(super) fn is_streaming(method: &str) -> bool {
    method.ends_with("Stream") || method.ends_with("/ServerReflectionInfo")
}

/// Memory reservations of the messages that were passed on, in their order. The consumer of a message takes its
/// reservation and holds it as long as the message.
#[derive(Clone, Debug, Default)]
pub(crate) struct ArrivedReservations(Arc<Mutex<VecDeque<MemoryReservation>>>);

impl ArrivedReservations {
    /// Takes the reservation of the next message.
    pub fn next(&self) -> MemoryReservation {
        self.0.lock().pop_front().unwrap_or_default()
    }

    fn add(&self, held: MemoryReservation) {
        self.0.lock().push_back(held);
    }
}

/// Request body whose data is complete, decompressed messages.
#[pin_project::pin_project]
pub(crate) struct IntakeBody<B> {
    #[pin]
    inner: B,
    rules: MessageRules,
    /// Received bytes that are not processed yet.
    chunk: Bytes,
    stage: Stage,
    messages: u64,
    /// Body timeout. Set while a message is incomplete.
    timer: Option<Pin<Box<Sleep>>>,
    arrivals: ArrivedReservations,
}

enum Stage {
    Prefix {
        bytes: [u8; PREFIX],
        have: usize,
    },
    /// Waiting for memory.
    Reserving {
        prefix: MessagePrefix,
        held: BoxFuture<'static, MemoryReservation>,
    },
    Payload {
        prefix: MessagePrefix,
        message: BytesMut,
        held: MemoryReservation,
    },
    /// Decompressing.
    Inflating(BoxFuture<'static, Result<ReadyMessage, InflateError>>),
    /// Passing on a complete message.
    Forwarding {
        frame: Bytes,
        paused: bool,
    },
}

impl<B> Body for IntakeBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<tower::BoxError>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut this = self.project();
        loop {
            if let Some(frame) = forward_chunk(this.stage, cx) {
                if !this.rules.unary {
                    // The timeout of the next message starts with its first byte.
                    *this.timer = None;
                }
                return frame.map(|frame| Some(Ok(Frame::data(frame))));
            }
            // One timeout covers receiving the bytes, waiting for memory and decompressing.
            let advanced = match this.stage {
                Stage::Reserving { prefix, held } => held.as_mut().poll(cx).map(|held| {
                    // The operating system maps pages as the bytes arrive.
                    let message = BytesMut::with_capacity(prefix.frame_bytes());
                    Ok(Stage::Payload { prefix: *prefix, message, held })
                }),
                Stage::Inflating(inflated) => inflated.as_mut().poll(cx).map(|ready| {
                    this.rules
                        .forward(ready.map_err(|error| invalid_message(&error.to_string()))?, this.arrivals)
                }),
                Stage::Prefix { .. } | Stage::Payload { .. } => Poll::Pending,
                Stage::Forwarding { .. } => unreachable!("it is forwarded above"),
            };
            match advanced {
                Poll::Ready(stage) => {
                    *this.stage = stage?;
                    continue;
                }
                Poll::Pending if matches!(this.stage, Stage::Reserving { .. } | Stage::Inflating(_)) => {
                    ready!(body_timeout(this.timer, &this.rules.intake.limits, cx));
                    return Poll::Ready(Some(Err(this.rules.timeout_status())));
                }
                Poll::Pending => {}
            }
            if this.chunk.is_empty() {
                let arrived = match this.inner.as_mut().poll_frame(cx) {
                    Poll::Ready(arrived) => arrived,
                    Poll::Pending if this.stage.is_idle() && !this.rules.unary => return Poll::Pending,
                    Poll::Pending => {
                        ready!(body_timeout(this.timer, &this.rules.intake.limits, cx));
                        return Poll::Ready(Some(Err(this.rules.timeout_status())));
                    }
                };
                match arrived.transpose().map_err(|error| Status::from_error(error.into()))? {
                    None if this.stage.is_idle() => return Poll::Ready(None),
                    None => {
                        return Poll::Ready(Some(Err(invalid_message(
                            "the request body ends in the middle of a message",
                        ))));
                    }
                    Some(frame) => match frame.into_data() {
                        Ok(data) => *this.chunk = data,
                        Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                    },
                }
                continue;
            }
            if this.stage.is_idle() && *this.messages > 0 && this.rules.unary {
                return Poll::Ready(Some(Err(invalid_message(
                    "a unary call takes one message, and the request has more",
                ))));
            }
            if let Some(stage) = this.stage.advance(this.chunk, this.rules, this.arrivals)? {
                if matches!(stage, Stage::Forwarding { .. } | Stage::Inflating(_)) {
                    *this.messages += 1;
                }
                *this.stage = stage;
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stage.is_idle() && self.chunk.is_empty() && self.inner.is_end_stream()
    }
}

impl Stage {
    /// Whether the body is between two messages.
    fn is_idle(&self) -> bool {
        matches!(self, Stage::Prefix { have: 0, .. })
    }

    /// Processes bytes of `chunk`. Returns the next stage once this one is complete.
    fn advance(
        &mut self,
        chunk: &mut Bytes,
        rules: &MessageRules,
        arrivals: &ArrivedReservations,
    ) -> Result<Option<Stage>, Status> {
        match self {
            Stage::Prefix { bytes, have: 0 } if chunk.len() >= PREFIX => {
                bytes.copy_from_slice(&chunk[..PREFIX]);
                let prefix = MessagePrefix::read(*bytes, rules)?;
                // Fast path: most messages are short and arrive in one chunk, and are passed on without a copy.
                if !prefix.compressed
                    && chunk.len() >= PREFIX + prefix.bytes
                    && let Some(held) = rules.memory.try_take_request(prefix.bytes)
                {
                    let frame = chunk.split_to(PREFIX + prefix.bytes);
                    return rules.forward(ReadyMessage { frame, held }, arrivals).map(Some);
                }
                chunk.advance(PREFIX);
                rules.begin(prefix, arrivals).map(Some)
            }
            Stage::Prefix { bytes, have } => {
                let count = (PREFIX - *have).min(chunk.len());
                chunk.copy_to_slice(&mut bytes[*have..*have + count]);
                *have += count;
                if *have < PREFIX {
                    return Ok(None);
                }
                rules.begin(MessagePrefix::read(*bytes, rules)?, arrivals).map(Some)
            }
            Stage::Payload { prefix, message, held } => {
                if message.is_empty() && !prefix.compressed {
                    message.put_slice(&prefix.plain());
                }
                let room = prefix.frame_bytes() - message.len();
                message.put(chunk.split_to(room.min(chunk.len())));
                if message.len() < prefix.frame_bytes() {
                    return Ok(None);
                }
                let (message, held) = (std::mem::take(message).freeze(), std::mem::take(held));
                rules.complete(*prefix, message, held, arrivals).map(Some)
            }
            Stage::Reserving { .. } | Stage::Inflating(_) | Stage::Forwarding { .. } => Ok(None),
        }
    }
}

/// The next chunk of a message that is being passed on; None in any other stage.
fn forward_chunk(stage: &mut Stage, cx: &mut Context<'_>) -> Option<Poll<Bytes>> {
    let Stage::Forwarding { frame, paused } = stage else { return None };
    if frame.len() <= CHUNK {
        let last = std::mem::take(frame);
        *stage = Stage::Prefix { bytes: [0; PREFIX], have: 0 };
        return Some(Poll::Ready(last));
    }
    *paused = !*paused;
    if *paused {
        return Some(Poll::Ready(frame.split_to(CHUNK)));
    }
    cx.waker().wake_by_ref();
    Some(Poll::Pending)
}

/// Ready after the body timeout.
fn body_timeout(
    timer: &mut Option<Pin<Box<Sleep>>>,
    limits: &IntakeLimits,
    cx: &mut Context<'_>,
) -> Poll<()> {
    timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limits.body_timeout))).as_mut().poll(cx)
}
