//! Answers a question from the cache, or from the endpoint on a cache miss.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::time::timeout_at;

use super::{
    Call, JudgeError, JudgeInner, Prompt, Reply, Verdict,
    cost::{Cost, CostTally},
    offload,
    question::{Question, read},
    store::{AnswerKey, AnswerKeyParts, AnswerSource, StoredAnswer},
    wire::ChatRequest,
};

/// Temperature for several samples if the configured one is 0, which would make them identical. RAGAS uses the same.
const SAMPLING_TEMPERATURE: f32 = 0.3;

impl JudgeInner {
    /// Returns one reply per sample.
    pub(super) async fn ask<V: Verdict>(
        &self,
        prompt: &Prompt,
        samples: usize,
        call: &Call,
    ) -> Vec<Reply<V>> {
        let started = Instant::now();
        let prices = self.settings.prices.as_ref();
        let tallies: Vec<CostTally> = (0..samples).map(|_| CostTally::new(prices)).collect();
        let verdicts = match self.prepare::<V>(prompt, samples).await {
            Ok((key, request)) => self.answer(key, request, prompt, call, &tallies).await,
            Err(error) => vec![Err(error); samples],
        };
        let wall = started.elapsed();
        let replies = verdicts.into_iter().zip(&tallies);
        replies.map(|(verdict, tally)| reply(verdict, tally, wall, call)).collect()
    }

    /// Takes the answer from the cache, or asks the endpoint.
    async fn answer<V: Verdict>(
        &self,
        key: AnswerKey,
        request: ChatRequest,
        prompt: &Prompt,
        call: &Call,
        tallies: &[CostTally],
    ) -> Vec<Result<V, JudgeError>> {
        let samples = tallies.len();
        let question = Question::<V>::new(&self.endpoint, prompt, call, request, tallies);
        let answered = self.store.get_or_ask(key, call.use_cache, question.run());
        // The wait for another caller's identical request may outlast this deadline.
        let answered = timeout_at(call.deadline.instant().into(), answered).await;
        if let Some(verdicts) = question.outcome() {
            return verdicts;
        }
        match answered {
            Ok(Ok((answer, source))) => {
                if source != AnswerSource::Asked {
                    self.metrics.cache_hit();
                    tallies.iter().for_each(|tally| tally.add(&Cost { cache_hits: 1, ..Cost::default() }));
                }
                read_all(answer, samples).await
            }
            Ok(Err(error)) => vec![Err(error); samples],
            Err(_) => vec![Err(JudgeError::DeadlineExceeded); samples],
        }
    }

    async fn prepare<V: Verdict>(
        &self,
        prompt: &Prompt,
        samples: usize,
    ) -> Result<(AnswerKey, ChatRequest), JudgeError> {
        let schema = self.schemas.get::<V>().await?;
        let bytes =
            prompt.system.len() + prompt.parts.iter().map(|part| text_bytes(&part.value)).sum::<usize>();
        let (owned, nonces, form) = (prompt.clone(), self.nonces.clone(), schema.clone());
        let work = move || {
            let digests = (owned.digest(), owned.template_digest());
            (owned.render(&nonces), owned.schema_note(&form.value), digests)
        };
        let (messages, schema_note, digests) = offload(bytes, work).await?;
        let request = ChatRequest {
            model: self.settings.model.as_str().into(),
            messages: Arc::new(messages),
            reask: None,
            schema,
            schema_note: schema_note.into(),
            samples: u32::try_from(samples).unwrap_or(u32::MAX),
            temperature: self.temperature(samples),
            seed: self.settings.seed,
            max_answer_tokens: self.settings.max_answer_tokens,
        };
        let (prompt_digest, template_hash) = digests;
        let key = AnswerKey::new(&AnswerKeyParts {
            endpoint: &self.endpoint.url(),
            model: &request.model,
            prompt: prompt_digest,
            template_hash,
            template: prompt.template,
            verdict: V::NAME,
            verdict_version: V::VERSION,
            decoding: decoding(&request),
            seed: request.seed,
            samples: request.samples,
        });
        Ok((key, request))
    }

    fn temperature(&self, samples: usize) -> f32 {
        match self.settings.temperature {
            set if samples < 2 || set > 0.0 => set,
            _ => SAMPLING_TEMPERATURE,
        }
    }
}

/// Decoding parameters that the answer depends on, for the cache key.
fn decoding(request: &ChatRequest) -> Value {
    json!({
        "max_tokens": request.max_answer_tokens,
        "schema": request.schema.digest,
        "temperature": request.temperature.to_string(),
    })
}

fn reply<V>(verdict: Result<V, JudgeError>, tally: &CostTally, wall: Duration, call: &Call) -> Reply<V> {
    let cost = Cost { wall, ..tally.sum() };
    // Calls and tokens were recorded when they were spent.
    let rest = Cost { retries: cost.retries, cache_hits: cost.cache_hits, wall, ..Cost::default() };
    call.budget.record(&rest);
    Reply { verdict, cost }
}

/// Parses a cached answer, which was valid when it was stored.
async fn read_all<V: Verdict>(answer: StoredAnswer, samples: usize) -> Vec<Result<V, JudgeError>> {
    let mut verdicts = Vec::with_capacity(samples);
    for message in answer.messages {
        verdicts.push(read(message).await.map(|(verdict, _)| verdict).map_err(JudgeError::from));
    }
    verdicts.resize(samples, Err(JudgeError::NotRecorded));
    verdicts
}

/// Approximate length of the JSON of `value`.
fn text_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(text_bytes).sum(),
        Value::Object(fields) => fields.iter().map(|(name, value)| name.len() + text_bytes(value)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 4,
    }
}
