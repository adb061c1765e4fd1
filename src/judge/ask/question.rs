//! One question put to the endpoint: its samples, and what could not be read asked once more.

use futures::future::join_all;
use parking_lot::Mutex;

use crate::judge::{
    Call, JudgeError, Prompt, Verdict,
    attempts::Endpoint,
    capability::Step,
    cost::Tally,
    extract::{self, Unread},
    offload,
    store::Answer,
    wire::{Completion, Message, Request, Usage},
};

/// So much of an answer that could not be read is shown to the judge again.
const MAX_SHOWN_BYTES: usize = 4 << 10;

pub(super) struct Question<'a, V> {
    endpoint: &'a Endpoint,
    prompt: &'a Prompt,
    call: &'a Call,
    request: Request,
    /// One for each sample; what is asked for all of them at once is booked on the first.
    tallies: &'a [Tally],
    state: Mutex<State<V>>,
}

/// What has come so far.
struct State<V> {
    /// Set once all samples have ended.
    outcome: Option<Vec<Result<V, JudgeError>>>,
    usage: Usage,
    model: Option<String>,
    fingerprint: Option<String>,
}

/// An answer that has been read.
type Sample<V> = Result<(V, Message), JudgeError>;

impl<'a, V: Verdict> Question<'a, V> {
    pub fn new(
        endpoint: &'a Endpoint,
        prompt: &'a Prompt,
        call: &'a Call,
        request: Request,
        tallies: &'a [Tally],
    ) -> Question<'a, V> {
        let state = State { outcome: None, usage: Usage::default(), model: None, fingerprint: None };
        Question { endpoint, prompt, call, request, tallies, state: Mutex::new(state) }
    }

    /// The verdicts, if this question itself was asked to its end, not one like it.
    pub fn outcome(&self) -> Option<Vec<Result<V, JudgeError>>> {
        self.state.lock().outcome.take()
    }

    /// Asks. The answer is worth keeping only if every sample could be read, so others are errors.
    pub async fn run(&self) -> Result<Answer, JudgeError> {
        let mut samples = Vec::new();
        match self.ask_at_once().await {
            Ok(messages) => {
                let came = messages.into_iter().map(Some);
                let asked = came.chain(std::iter::repeat_with(|| None)).take(self.tallies.len());
                samples = join_all(asked.enumerate().map(|(index, came)| self.sample(index, came))).await;
            }
            Err(error) => samples.resize_with(self.tallies.len(), || Err(error.clone())),
        }
        self.conclude(samples)
    }

    /// As many samples as the endpoint gives at once; none where it gives but one.
    async fn ask_at_once(&self) -> Result<Vec<Message>, JudgeError> {
        let features = self.endpoint.capability().features();
        if self.request.samples < 2 || !features.many {
            return Ok(Vec::new());
        }
        let completion = self.complete(0, self.request.clone()).await?;
        let messages = completion.messages;
        if messages.len() < self.request.samples as usize {
            self.endpoint.give_up(&features, Step::Many);
        }
        Ok(messages)
    }

    /// Reads what came for one sample, or asks for it.
    async fn sample(&self, index: usize, came: Option<Message>) -> Sample<V> {
        let seed = self.request.seed.map(|seed| seed.wrapping_add(index as u64));
        let request = Request { samples: 1, seed, ..self.request.clone() };
        let message = match came {
            Some(message) => message,
            None => self.ask_one(index, request.clone()).await?,
        };
        match read(message.clone()).await {
            Err(Unread::Unreadable(what)) => self.ask_again(index, request, &message, &what).await,
            read => Ok(read?),
        }
    }

    async fn ask_again(&self, index: usize, request: Request, message: &Message, what: &str) -> Sample<V> {
        self.endpoint.reasks();
        let again = Some((shown(message), self.prompt.reask(what)));
        let message = self.ask_one(index, Request { again, ..request }).await?;
        Ok(read(message).await?)
    }

    async fn ask_one(&self, index: usize, request: Request) -> Result<Message, JudgeError> {
        let completion = self.complete(index, request).await?;
        completion.messages.into_iter().next().ok_or(JudgeError::Defect)
    }

    async fn complete(&self, index: usize, request: Request) -> Result<Completion, JudgeError> {
        let completion = self.endpoint.complete(request, self.call, &self.tallies[index]).await?;
        let mut state = self.state.lock();
        state.usage += completion.usage.unwrap_or_default();
        state.model = state.model.take().or_else(|| completion.model.clone());
        state.fingerprint = state.fingerprint.take().or_else(|| completion.fingerprint.clone());
        drop(state);
        Ok(completion)
    }

    fn conclude(&self, samples: Vec<Sample<V>>) -> Result<Answer, JudgeError> {
        let mut state = self.state.lock();
        let verdicts = samples.iter().map(|sample| sample.as_ref().map(|(verdict, _)| verdict.clone()));
        state.outcome = Some(verdicts.map(|verdict| verdict.map_err(Clone::clone)).collect());
        let messages: Result<Vec<Message>, JudgeError> =
            samples.into_iter().map(|sample| sample.map(|(_, message)| message)).collect();
        let (model, fingerprint) = (state.model.take(), state.fingerprint.take());
        Ok(Answer { messages: messages?, usage: state.usage, model, fingerprint })
    }
}

/// The verdict in a message, and the message.
pub(super) async fn read<V: Verdict>(message: Message) -> Result<(V, Message), Unread> {
    let bytes = message.bytes();
    let work = move || extract::verdict::<V>(&message).map(|verdict| (verdict, message));
    // A reader that panics is a defect, which is no better than an answer that cannot be read.
    let failed = |_| Err(Unread::Unreadable("it cannot be read".to_owned()));
    offload(bytes, work).await.unwrap_or_else(failed)
}

/// What the judge is shown of its own answer.
fn shown(message: &Message) -> String {
    let text = message.content.as_deref().or(message.tool_arguments.as_deref()).unwrap_or_default();
    text[..text.floor_char_boundary(MAX_SHOWN_BYTES)].to_owned()
}

impl From<Unread> for JudgeError {
    fn from(unread: Unread) -> JudgeError {
        match unread {
            Unread::Truncated => JudgeError::Truncated,
            Unread::Refused => JudgeError::Refused,
            Unread::Unreadable(detail) => JudgeError::Unreadable { detail },
        }
    }
}
