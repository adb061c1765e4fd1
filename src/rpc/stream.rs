//! Streams that answer each message as soon as its work is done, and keep a bounded number of them in flight.

use std::{collections::VecDeque, panic::AssertUnwindSafe, time::Duration};

use futures::{
    FutureExt, StreamExt,
    stream::{BoxStream, SelectAll},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Status, Streaming};

use super::{intake::Arrivals, layer::Call, status};
use crate::{
    deadline::Deadline,
    log_limit::{LogLimit, Site},
    trace::Scope,
};

/// What one kind of stream does with its messages.
pub(super) trait Exchange: Send + 'static {
    type Message: Send + 'static;
    /// What the work on a message comes to, step by step.
    type Step: Send + 'static;
    type Answer: Send + 'static;

    /// The work on a message. Work on different messages goes on side by side; dropping it drops it.
    fn begin(&mut self, message: Self::Message) -> BoxStream<'static, Self::Step>;

    /// The answers that may leave after this step.
    fn answers(&mut self, step: Self::Step) -> Vec<Self::Answer>;

    /// Messages that were begun and whose last answer has not left.
    fn unanswered(&self) -> usize;

    /// The last word, once every message is answered.
    fn summary(&mut self) -> Option<Self::Answer>;
}

/// How streams are held within bounds.
#[derive(Clone)]
pub(super) struct Terms {
    /// Messages that may be unanswered before the stream is read no further.
    pub unanswered: usize,
    /// From here on idle streams are ended.
    pub closing: CancellationToken,
    /// Owns the tasks of open streams.
    pub tasks: TaskTracker,
}

pub(super) type Answers<A> = ReceiverStream<Result<A, Status>>;

/// How long a stream may be silent while the server shuts down.
const LAST_SILENCE: Duration = Duration::from_millis(500);

/// How long an answer may wait for the caller to read the one before it.
const UNREAD_LIMIT: Duration = Duration::from_secs(60);
/// The same while the server shuts down.
const LAST_UNREAD_LIMIT: Duration = Duration::from_secs(2);

/// Answers on a task of its own, until all messages are answered, the caller leaves, or the deadline has passed.
pub(super) fn open<E: Exchange>(
    exchange: E,
    incoming: Streaming<E::Message>,
    call: &Call,
    terms: &Terms,
) -> Answers<E::Answer> {
    // One answer may wait for the transport; the others wait as unanswered messages, which are bounded.
    let (answers, receiver) = mpsc::channel(1);
    let pump = Pump {
        exchange,
        unanswered: terms.unanswered,
        closing: terms.closing.clone(),
        answers: answers.clone(),
        in_flight: SelectAll::new(),
        unsent: VecDeque::new(),
        arrivals: call.arrivals.clone(),
    };
    let (deadline, end) = (call.deadline, call.end.clone());
    terms.tasks.spawn(Scope::current().around(async move {
        let run = AssertUnwindSafe(pump.run(incoming, deadline)).catch_unwind();
        let ended = run.await.unwrap_or_else(|_| {
            static LINES: LogLimit = LogLimit::new(Site::StreamPanic);
            if LINES.admits() {
                tracing::error!("the task of a stream panicked; the stream is ended with INTERNAL");
            }
            Err(status::internal())
        });
        // From here on the caller has to read, or its stream is dropped.
        end.answered();
        if let Err(status) = ended {
            // A caller that left needs no status.
            let _ = answers.send(Err(status)).await;
        }
    }));
    ReceiverStream::new(receiver)
}

/// One open stream; dropping it drops its work.
struct Pump<E: Exchange> {
    exchange: E,
    unanswered: usize,
    closing: CancellationToken,
    answers: mpsc::Sender<Result<E::Answer, Status>>,
    // Invariant: polled at all times, as a message that nobody polls may hold a place in a queue.
    in_flight: SelectAll<BoxStream<'static, E::Step>>,
    /// Answers that wait for the caller to read.
    unsent: VecDeque<E::Answer>,
    arrivals: Arrivals,
}

impl<E: Exchange> Pump<E> {
    /// Ends when all messages are answered, or with the status that ends the stream.
    async fn run(self, incoming: Streaming<E::Message>, deadline: Option<Deadline>) -> Result<(), Status> {
        let answers = self.answers.clone();
        let passed = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.instant().into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            end = self.pump(incoming) => end,
            () = passed => Err(status::deadline_exceeded()),
            // The caller left.
            () = answers.closed() => Ok(()),
        }
    }

    async fn pump(mut self, mut incoming: Streaming<E::Message>) -> Result<(), Status> {
        let (closing, answers) = (self.closing.clone(), self.answers.clone());
        let mut open = true;
        while open || !self.in_flight.is_empty() || !self.unsent.is_empty() {
            let has_room = self.exchange.unanswered() + self.unsent.len() < self.unanswered;
            let silence = async {
                closing.cancelled().await;
                tokio::time::sleep(LAST_SILENCE).await;
            };
            let unread = async {
                tokio::select! {
                    () = tokio::time::sleep(UNREAD_LIMIT) => {}
                    () = async { closing.cancelled().await; tokio::time::sleep(LAST_UNREAD_LIMIT).await } => {}
                }
            };
            tokio::select! {
                // None once the last work has ended.
                step = self.in_flight.next(), if !self.in_flight.is_empty() => {
                    self.unsent.extend(step.into_iter().flat_map(|step| self.exchange.answers(step)));
                }
                place = answers.reserve(), if !self.unsent.is_empty() => match (place, self.unsent.pop_front()) {
                    (Ok(place), Some(answer)) => place.send(Ok(answer)),
                    // The caller left.
                    _ => return Ok(()),
                },
                message = incoming.message(), if open && has_room => match message.map_err(readable)? {
                    Some(message) => {
                        let held = self.arrivals.next();
                        let work = self.exchange.begin(message);
                        // The message's memory is taken until its work is done.
                        self.in_flight.push(work.inspect(move |_| _ = &held).boxed());
                    }
                    None => open = false,
                },
                () = silence, if self.in_flight.is_empty() && self.unsent.is_empty() => return Err(status::draining()),
                () = unread, if !self.unsent.is_empty() => return Err(status::unread()),
            }
        }
        if let Some(summary) = self.exchange.summary() {
            // A caller that left needs no summary.
            let _ = answers.send(Ok(summary)).await;
        }
        Ok(())
    }
}

/// tonic's own status for a message that it could not take may mislead.
fn readable(status: Status) -> Status {
    status::corrected(&status).unwrap_or(status)
}
