//! One question to the endpoint: draws its samples, and repeats it once if an answer cannot be parsed.

use futures::future::join_all;
use parking_lot::Mutex;

use super::{
    Call, JudgeError, Prompt, Verdict,
    capability::Degradation,
    cost::CostTally,
    endpoint::Endpoint,
    extract::{self, ExtractError},
    offload,
    store::StoredAnswer,
    wire::{ChatCompletion, ChatMessage, ChatRequest, TokenUsage},
};

/// Maximum bytes of an unparsable answer that are quoted when the question is repeated.
const MAX_QUOTED_BYTES: usize = 4 << 10;

pub(super) struct Question<'a, V> {
    endpoint: &'a Endpoint,
    prompt: &'a Prompt,
    call: &'a Call,
    request: ChatRequest,
    /// One per sample. A request for several choices is recorded in the first.
    tallies: &'a [CostTally],
    state: Mutex<QuestionState<V>>,
}

/// Results received so far.
struct QuestionState<V> {
    /// Set when all samples have ended.
    outcome: Option<Vec<Result<V, JudgeError>>>,
    usage: TokenUsage,
    model: Option<String>,
    fingerprint: Option<String>,
}

/// Parsed verdict of one sample, with the message that holds it.
type SampleOutcome<V> = Result<(V, ChatMessage), JudgeError>;

impl<'a, V: Verdict> Question<'a, V> {
    pub fn new(
        endpoint: &'a Endpoint,
        prompt: &'a Prompt,
        call: &'a Call,
        request: ChatRequest,
        tallies: &'a [CostTally],
    ) -> Question<'a, V> {
        let state =
            QuestionState { outcome: None, usage: TokenUsage::default(), model: None, fingerprint: None };
        Question { endpoint, prompt, call, request, tallies, state: Mutex::new(state) }
    }

    /// Takes the verdicts, if this question itself completed and not an identical one of another caller.
    pub fn outcome(&self) -> Option<Vec<Result<V, JudgeError>>> {
        self.state.lock().outcome.take()
    }

    /// Asks the endpoint. Returns an answer to cache only if every sample was parsed.
    pub async fn run(&self) -> Result<StoredAnswer, JudgeError> {
        let mut samples = Vec::new();
        match self.request_all().await {
            Ok(messages) => {
                let received = messages.into_iter().map(Some);
                let asked = received.chain(std::iter::repeat_with(|| None)).take(self.tallies.len());
                samples =
                    join_all(asked.enumerate().map(|(index, received)| self.sample(index, received))).await;
            }
            Err(error) => samples.resize_with(self.tallies.len(), || Err(error.clone())),
        }
        self.conclude(samples)
    }

    /// Requests all samples at once; returns no messages if the endpoint does not support `n`.
    async fn request_all(&self) -> Result<Vec<ChatMessage>, JudgeError> {
        let features = self.endpoint.capability().features();
        if self.request.samples < 2 || !features.multiple_choices {
            return Ok(Vec::new());
        }
        let completion = self.complete(0, self.request.clone()).await?;
        let messages = completion.messages;
        if messages.len() < self.request.samples as usize {
            self.endpoint.degrade(&features, Degradation::MultipleChoices);
        }
        Ok(messages)
    }

    /// Parses the message of one sample, requesting it first if there is none.
    async fn sample(&self, index: usize, received: Option<ChatMessage>) -> SampleOutcome<V> {
        let seed = self.request.seed.map(|seed| seed.wrapping_add(index as u64));
        let request = ChatRequest { samples: 1, seed, ..self.request.clone() };
        let message = match received {
            Some(message) => message,
            None => self.request_one(index, request.clone()).await?,
        };
        match read(message.clone()).await {
            Err(ExtractError::Unreadable(what)) => self.repeat(index, request, &message, &what).await,
            read => Ok(read?),
        }
    }

    async fn repeat(
        &self,
        index: usize,
        request: ChatRequest,
        message: &ChatMessage,
        what: &str,
    ) -> SampleOutcome<V> {
        self.endpoint.note_reask();
        let reask = Some((excerpt(message), self.prompt.reask(what)));
        let message = self.request_one(index, ChatRequest { reask, ..request }).await?;
        Ok(read(message).await?)
    }

    async fn request_one(&self, index: usize, request: ChatRequest) -> Result<ChatMessage, JudgeError> {
        let completion = self.complete(index, request).await?;
        completion.messages.into_iter().next().ok_or(JudgeError::Defect)
    }

    async fn complete(&self, index: usize, request: ChatRequest) -> Result<ChatCompletion, JudgeError> {
        let completion = self.endpoint.complete(request, self.call, &self.tallies[index]).await?;
        let mut state = self.state.lock();
        state.usage += completion.usage.unwrap_or_default();
        state.model = state.model.take().or_else(|| completion.model.clone());
        state.fingerprint = state.fingerprint.take().or_else(|| completion.fingerprint.clone());
        drop(state);
        Ok(completion)
    }

    fn conclude(&self, samples: Vec<SampleOutcome<V>>) -> Result<StoredAnswer, JudgeError> {
        let mut state = self.state.lock();
        let verdicts = samples.iter().map(|sample| sample.as_ref().map(|(verdict, _)| verdict.clone()));
        state.outcome = Some(verdicts.map(|verdict| verdict.map_err(Clone::clone)).collect());
        let messages: Result<Vec<ChatMessage>, JudgeError> =
            samples.into_iter().map(|sample| sample.map(|(_, message)| message)).collect();
        let (model, fingerprint) = (state.model.take(), state.fingerprint.take());
        Ok(StoredAnswer { messages: messages?, usage: state.usage, model, fingerprint })
    }
}

/// Parses the verdict of a message; returns both.
pub(super) async fn read<V: Verdict>(message: ChatMessage) -> Result<(V, ChatMessage), ExtractError> {
    let bytes = message.bytes();
    let work = move || extract::verdict::<V>(&message).map(|verdict| (verdict, message));
    // A panic in the parser is treated like an unparsable answer.
    let failed = |_| Err(ExtractError::Unreadable("it cannot be read".to_owned()));
    offload(bytes, work).await.unwrap_or_else(failed)
}

/// Excerpt of the judge's answer to quote when the question is repeated.
fn excerpt(message: &ChatMessage) -> String {
    let text = message.content.as_deref().or(message.tool_arguments.as_deref()).unwrap_or_default();
    text[..text.floor_char_boundary(MAX_QUOTED_BYTES)].to_owned()
}

impl From<ExtractError> for JudgeError {
    fn from(unread: ExtractError) -> JudgeError {
        match unread {
            ExtractError::Truncated => JudgeError::Truncated,
            ExtractError::Refused => JudgeError::Refused,
            ExtractError::Unreadable(detail) => JudgeError::Unreadable { detail },
        }
    }
}
