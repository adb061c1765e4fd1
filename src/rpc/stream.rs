//! Bidirectional streams that process a bounded number of messages concurrently and respond as each one finishes.

use std::{collections::VecDeque, panic::AssertUnwindSafe, time::Duration};

use futures::{
    FutureExt, StreamExt,
    stream::{BoxStream, SelectAll},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Status, Streaming};

use super::{intake::ArrivedReservations, layer::CallContext, status};
use crate::{
    deadline::Deadline,
    log_limit::{LogLimit, Site},
    trace::Scope,
};

/// Processing of the messages of one kind of stream.
pub(super) trait StreamHandler: Send + 'static {
    type Message: Send + 'static;
    /// An intermediate or final result of a message.
    type Step: Send + 'static;
    type Response: Send + 'static;

    /// Starts to process a message. Messages are processed concurrently. Dropping the stream cancels the processing.
    fn begin(&mut self, message: Self::Message) -> BoxStream<'static, Self::Step>;

    /// The responses that can be sent after this step.
    fn responses(&mut self, step: Self::Step) -> Vec<Self::Response>;

    /// Number of messages whose last response has not been sent.
    fn in_flight(&self) -> usize;

    /// The last response of the stream, after all messages are finished.
    fn summary(&mut self) -> Option<Self::Response>;
}

/// Settings of streams.
#[derive(Clone)]
pub(super) struct StreamSettings {
    /// Maximum number of in-flight messages. Above it the server stops reading the stream.
    pub max_in_flight: usize,
    /// Cancelled when idle streams must end.
    pub closing: CancellationToken,
    /// Tracks the tasks of open streams.
    pub tasks: TaskTracker,
}

/// The responses of a stream.
pub(super) type ResponseStream<A> = ReceiverStream<Result<A, Status>>;

/// Maximum idle time of a stream during shutdown.
const SHUTDOWN_IDLE_LIMIT: Duration = Duration::from_millis(500);

/// Maximum time that a response waits for the client to read the previous one.
const UNREAD_LIMIT: Duration = Duration::from_secs(60);
/// The same limit during shutdown.
const SHUTDOWN_UNREAD_LIMIT: Duration = Duration::from_secs(2);

/// Processes a stream on a new task until all messages are finished, the client cancels, or the deadline passes.
pub(super) fn open<E: StreamHandler>(
    handler: E,
    incoming: Streaming<E::Message>,
    call: &CallContext,
    settings: &StreamSettings,
) -> ResponseStream<E::Response> {
    // One response can wait for the transport. The others count as in-flight messages, which are bounded.
    let (responses, receiver) = mpsc::channel(1);
    let task = StreamTask {
        handler,
        max_in_flight: settings.max_in_flight,
        closing: settings.closing.clone(),
        responses: responses.clone(),
        in_flight: SelectAll::new(),
        unsent: VecDeque::new(),
        arrivals: call.arrivals.clone(),
    };
    let (deadline, end) = (call.deadline, call.end.clone());
    settings.tasks.spawn(Scope::current().around(async move {
        let run = AssertUnwindSafe(task.run(incoming, deadline)).catch_unwind();
        let ended = run.await.unwrap_or_else(|_| {
            static LINES: LogLimit = LogLimit::new(Site::StreamPanic);
            if LINES.admits() {
                tracing::error!("a stream task panicked; the stream ends with INTERNAL");
            }
            Err(status::internal())
        });
        // From now on the stream is dropped if the client does not read.
        end.response_complete();
        if let Err(status) = ended {
            // The receiver is gone if the client cancelled.
            let _ = responses.send(Err(status)).await;
        }
    }));
    ReceiverStream::new(receiver)
}

/// The task of one open stream. Dropping it cancels the messages in flight.
struct StreamTask<E: StreamHandler> {
    handler: E,
    max_in_flight: usize,
    closing: CancellationToken,
    responses: mpsc::Sender<Result<E::Response, Status>>,
    // Invariant: always polled, because a message that is not polled may hold a permit of a queue.
    in_flight: SelectAll<BoxStream<'static, E::Step>>,
    /// Responses that wait for the client to read.
    unsent: VecDeque<E::Response>,
    arrivals: ArrivedReservations,
}

impl<E: StreamHandler> StreamTask<E> {
    /// Runs until all messages are finished. Returns the status that ends the stream early.
    async fn run(self, incoming: Streaming<E::Message>, deadline: Option<Deadline>) -> Result<(), Status> {
        let responses = self.responses.clone();
        let passed = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.instant().into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            end = self.process(incoming) => end,
            () = passed => Err(status::deadline_exceeded()),
            // The client cancelled.
            () = responses.closed() => Ok(()),
        }
    }

    async fn process(mut self, mut incoming: Streaming<E::Message>) -> Result<(), Status> {
        let (closing, responses) = (self.closing.clone(), self.responses.clone());
        let mut open = true;
        while open || !self.in_flight.is_empty() || !self.unsent.is_empty() {
            let has_room = self.handler.in_flight() + self.unsent.len() < self.max_in_flight;
            let silence = async {
                closing.cancelled().await;
                tokio::time::sleep(SHUTDOWN_IDLE_LIMIT).await;
            };
            let unread = async {
                tokio::select! {
                    () = tokio::time::sleep(UNREAD_LIMIT) => {}
                    () = async { closing.cancelled().await; tokio::time::sleep(SHUTDOWN_UNREAD_LIMIT).await } => {}
                }
            };
            tokio::select! {
                // None after the last message in flight has finished.
                step = self.in_flight.next(), if !self.in_flight.is_empty() => {
                    self.unsent.extend(step.into_iter().flat_map(|step| self.handler.responses(step)));
                }
                permit = responses.reserve(), if !self.unsent.is_empty() => match (permit, self.unsent.pop_front()) {
                    (Ok(permit), Some(response)) => permit.send(Ok(response)),
                    // The client cancelled.
                    _ => return Ok(()),
                },
                message = incoming.message(), if open && has_room => match message.map_err(corrected)? {
                    Some(message) => {
                        let held = self.arrivals.next();
                        let work = self.handler.begin(message);
                        // The memory of the message is held until it is finished.
                        self.in_flight.push(work.inspect(move |_| _ = &held).boxed());
                    }
                    None => open = false,
                },
                () = silence, if self.in_flight.is_empty() && self.unsent.is_empty() => return Err(status::draining()),
                () = unread, if !self.unsent.is_empty() => return Err(status::unread()),
            }
        }
        if let Some(summary) = self.handler.summary() {
            // The receiver is gone if the client cancelled.
            let _ = responses.send(Ok(summary)).await;
        }
        Ok(())
    }
}

/// Replaces a misleading status of tonic for a message that it could not decode.
fn corrected(status: Status) -> Status {
    status::corrected(&status).unwrap_or(status)
}
