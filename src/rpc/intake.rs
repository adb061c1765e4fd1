//! The messages of a call as they arrive: bounded in bytes, fields and time before anything decodes them.
//!
//! A message is read only when there is memory for all of it. It is handed on whole, decompressed, and with its fields
//! counted, so what decodes it costs no more than its bytes allow.

mod fields;
mod inflate;
mod memory;
mod rules;

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::future::BoxFuture;
use http_body::{Body, Frame};
use tokio::time::Sleep;
use tonic::Status;

pub(crate) use fields::Shapes;
use inflate::{Encoding, InflateError, Inflater};
pub(crate) use memory::{CallMemory, Held, MessageMemory};
use rules::{Prefix, Ready, Rules, refused};

/// Flag and length before each message. Source: gRPC over HTTP/2, *Length-Prefixed-Message*.
const PREFIX: usize = 5;
/// Bytes of a message that are handed on before the thread turns to other calls.
const PIECE: usize = 256 << 10;
/// Messages of health checks and reflection are short.
const OTHER_MESSAGE_BYTES: usize = 64 << 10;

/// Bounds of the messages that callers send.
#[derive(Clone, Debug)]
pub(crate) struct IntakeLimits {
    pub message_bytes: usize,
    /// Fields of one message, nested ones too.
    pub fields: usize,
    /// From a message's first byte to its last; of a unary call, from the call's arrival to the end of its body.
    pub body_timeout: Duration,
}

/// What takes in the messages of all calls.
#[derive(Clone)]
pub(crate) struct Intake(Arc<Parts>);

struct Parts {
    limits: IntakeLimits,
    shapes: Shapes,
    inflater: Inflater,
}

impl Intake {
    /// # Errors
    /// If the operating system gives no thread.
    pub fn start(limits: IntakeLimits, descriptors: &[u8]) -> io::Result<Intake> {
        Ok(Intake(Arc::new(Parts { limits, shapes: Shapes::of(descriptors), inflater: Inflater::start()? })))
    }

    /// The body of a call of `method`. `encoding` is the value of `grpc-encoding`.
    pub fn body<B>(
        &self,
        inner: B,
        method: &'static str,
        encoding: Option<&[u8]>,
        memory: CallMemory,
    ) -> (IntakeBody<B>, Arrivals) {
        let arrivals = Arrivals::default();
        let rules = Rules {
            intake: Arc::clone(&self.0),
            method,
            unary: !is_streaming(method),
            encoding: encoding.and_then(Encoding::named),
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

/// Whether callers may send more than one message.
pub(super) fn is_streaming(method: &str) -> bool {
    method.ends_with("Stream") || method.ends_with("/ServerReflectionInfo")
}

/// Memory of the messages that were handed on, in their order. Whoever takes a message takes its memory, and holds it
/// for as long as the message.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arrivals(Arc<Mutex<VecDeque<Held>>>);

impl Arrivals {
    /// The memory of the next message.
    pub fn next(&self) -> Held {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front().unwrap_or_default()
    }

    fn add(&self, held: Held) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(held);
    }
}

/// A request's body; its data are whole messages, not compressed.
#[pin_project::pin_project]
pub(crate) struct IntakeBody<B> {
    #[pin]
    inner: B,
    rules: Rules,
    /// What arrived and was not looked at.
    chunk: Bytes,
    stage: Stage,
    messages: u64,
    /// Set while the peer owes bytes.
    timer: Option<Pin<Box<Sleep>>>,
    arrivals: Arrivals,
}

enum Stage {
    Prefix {
        bytes: [u8; PREFIX],
        have: usize,
    },
    /// Waits for memory.
    Reserving {
        prefix: Prefix,
        held: BoxFuture<'static, Held>,
    },
    Payload {
        prefix: Prefix,
        message: BytesMut,
        held: Held,
    },
    /// Decompresses.
    Inflating(BoxFuture<'static, Result<Ready, InflateError>>),
    /// Hands on.
    Leaving {
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
            if let Some(frame) = leave(this.stage, cx) {
                if !this.rules.unary {
                    // The time for the next message begins with its first byte.
                    *this.timer = None;
                }
                return frame.map(|frame| Some(Ok(Frame::data(frame))));
            }
            // The caller's bytes, the memory for them and the work on them have one limit of time together.
            let advanced = match this.stage {
                Stage::Reserving { prefix, held } => held.as_mut().poll(cx).map(|held| {
                    // The system gives pages as the bytes arrive.
                    let message = BytesMut::with_capacity(prefix.frame_bytes());
                    Ok(Stage::Payload { prefix: *prefix, message, held })
                }),
                Stage::Inflating(inflated) => inflated.as_mut().poll(cx).map(|ready| {
                    this.rules.leaving(ready.map_err(|error| refused(&error.to_string()))?, this.arrivals)
                }),
                Stage::Prefix { .. } | Stage::Payload { .. } => Poll::Pending,
                Stage::Leaving { .. } => unreachable!("it has left above"),
            };
            match advanced {
                Poll::Ready(stage) => {
                    *this.stage = stage?;
                    continue;
                }
                Poll::Pending if matches!(this.stage, Stage::Reserving { .. } | Stage::Inflating(_)) => {
                    ready!(overdue(this.timer, &this.rules.intake.limits, cx));
                    return Poll::Ready(Some(Err(this.rules.late())));
                }
                Poll::Pending => {}
            }
            if this.chunk.is_empty() {
                let arrived = match this.inner.as_mut().poll_frame(cx) {
                    Poll::Ready(arrived) => arrived,
                    Poll::Pending if this.stage.is_idle() && !this.rules.unary => return Poll::Pending,
                    Poll::Pending => {
                        ready!(overdue(this.timer, &this.rules.intake.limits, cx));
                        return Poll::Ready(Some(Err(this.rules.late())));
                    }
                };
                match arrived.transpose().map_err(|error| Status::from_error(error.into()))? {
                    None if this.stage.is_idle() => return Poll::Ready(None),
                    None => return Poll::Ready(Some(Err(refused("the body ends within a message")))),
                    Some(frame) => match frame.into_data() {
                        Ok(data) => *this.chunk = data,
                        Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                    },
                }
                continue;
            }
            if this.stage.is_idle() && *this.messages > 0 && this.rules.unary {
                return Poll::Ready(Some(Err(refused("a unary call takes one message"))));
            }
            if let Some(stage) = this.stage.take(this.chunk, this.rules, this.arrivals)? {
                if matches!(stage, Stage::Leaving { .. } | Stage::Inflating(_)) {
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
    /// Whether it is between two messages.
    fn is_idle(&self) -> bool {
        matches!(self, Stage::Prefix { have: 0, .. })
    }

    /// Moves bytes of `chunk` on; returns the next stage once this one is complete.
    fn take(
        &mut self,
        chunk: &mut Bytes,
        rules: &Rules,
        arrivals: &Arrivals,
    ) -> Result<Option<Stage>, Status> {
        match self {
            Stage::Prefix { bytes, have: 0 } if chunk.len() >= PREFIX => {
                bytes.copy_from_slice(&chunk[..PREFIX]);
                let prefix = Prefix::read(*bytes, rules)?;
                // Most messages are short and arrive at once: they are handed on as they are.
                if !prefix.compressed
                    && chunk.len() >= PREFIX + prefix.bytes
                    && let Some(held) = rules.memory.try_take_request(prefix.bytes)
                {
                    let frame = chunk.split_to(PREFIX + prefix.bytes);
                    return rules.leaving(Ready { frame, held }, arrivals).map(Some);
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
                rules.begin(Prefix::read(*bytes, rules)?, arrivals).map(Some)
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
            Stage::Reserving { .. } | Stage::Inflating(_) | Stage::Leaving { .. } => Ok(None),
        }
    }
}

/// Pieces of the message that leaves; None where none does.
fn leave(stage: &mut Stage, cx: &mut Context<'_>) -> Option<Poll<Bytes>> {
    let Stage::Leaving { frame, paused } = stage else { return None };
    if frame.len() <= PIECE {
        let last = std::mem::take(frame);
        *stage = Stage::Prefix { bytes: [0; PREFIX], have: 0 };
        return Some(Poll::Ready(last));
    }
    *paused = !*paused;
    if *paused {
        return Some(Poll::Ready(frame.split_to(PIECE)));
    }
    cx.waker().wake_by_ref();
    Some(Poll::Pending)
}

/// Ready once the time for the caller's bytes is over.
fn overdue(timer: &mut Option<Pin<Box<Sleep>>>, limits: &IntakeLimits, cx: &mut Context<'_>) -> Poll<()> {
    timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limits.body_timeout))).as_mut().poll(cx)
}
