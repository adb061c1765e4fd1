//! An evaluator whose judge is a stand-in, with or without an embedding model.

use assay::{
    deadline::Deadline,
    embed::Embedder,
    evaluate::{
        self, Evaluation, Evaluator, Task,
        metric::{Metric, Selection},
        result::MetricResult,
        sample::{Context, Sample},
    },
    judge::{Budget, Call, Judge, JudgeSettings, TraceHeaders},
};
use prometheus_client::registry::Registry;
use tempfile::TempDir;

use super::{
    app::{LIMIT, SMALL, random_model, settings},
    judge::StandIn,
};

/// Stops when dropped.
pub struct Bench {
    pub judge: StandIn,
    pub evaluator: Evaluator,
    embedder: Embedder,
    _model: Option<TempDir>,
}

impl Bench {
    /// Without an embedding model.
    pub fn start() -> Bench {
        Bench::with(|_| ())
    }

    pub fn with(change: impl FnOnce(&mut JudgeSettings)) -> Bench {
        let judge = StandIn::start();
        let mut settings = judge.settings();
        change(&mut settings);
        Bench::with_judges(judge, vec![settings], None)
    }

    /// With a random-weight model, waited for.
    pub async fn with_model() -> Bench {
        let judge = StandIn::start();
        let settings = judge.settings();
        let bench = Bench::with_judges(judge, vec![settings], Some(random_model(SMALL)));
        bench.embedder.wait_until_ready(Deadline::after(LIMIT)).await.expect("it warms up");
        bench
    }

    pub fn with_judges(judge: StandIn, profiles: Vec<JudgeSettings>, model: Option<TempDir>) -> Bench {
        // Fails where another test was first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut registry = Registry::default();
        let dir = model.as_ref().map_or_else(|| "/nowhere".into(), |dir| dir.path().to_string_lossy());
        let embedder = Embedder::start(settings(dir).embed, &mut registry).expect("threads");
        let judges = Judge::start_all(&profiles, &mut registry).expect("sound settings");
        let sentences = evaluate::EvaluatorSettings::SENTENCES;
        let settings = evaluate::EvaluatorSettings { threads: 1, evaluations: 64, sentences };
        let evaluator = Evaluator::start(&settings, embedder.clone(), judges).expect("threads");
        Bench { judge, evaluator, embedder, _model: model }
    }

    /// With the first judge, without cache and budget.
    pub fn task(&self, sample: Sample, metrics: impl IntoIterator<Item = Metric>) -> Task {
        let call = call();
        Task {
            sample,
            selections: metrics.into_iter().map(Selection::of).collect(),
            judge: self.evaluator.judge("").cloned(),
            // What is judged by the deadline is still to be computed.
            answer_by: call.deadline.later(LIMIT / 4),
            call,
            reason_language: None,
        }
    }

    pub async fn evaluate(&self, sample: Sample, metrics: impl IntoIterator<Item = Metric>) -> Evaluation {
        self.evaluator.evaluate(self.task(sample, metrics), |_| ()).await
    }

    pub async fn result(&self, sample: Sample, metric: Metric) -> MetricResult {
        self.evaluate(sample, [metric]).await.results.pop().expect("a result")
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.embedder.stop();
    }
}

pub fn call() -> Call {
    Call {
        deadline: Deadline::after(LIMIT / 2),
        budget: Budget::unlimited(),
        caller: 0,
        use_cache: false,
        trace: TraceHeaders::default(),
    }
}

pub fn sample(response: &str, contexts: &[&str], reference: &str) -> Sample {
    let context = |text: &&str| Context { text: (*text).to_owned(), id: String::new() };
    Sample {
        user_input: "What is there to see?".to_owned(),
        response: response.to_owned(),
        retrieved_contexts: contexts.iter().map(context).collect(),
        reference: reference.to_owned(),
        ..Sample::default()
    }
}

pub fn score(result: &MetricResult) -> Option<f64> {
    result.score.map(|score| score.value())
}

pub fn bounds(result: &MetricResult) -> Option<(f64, f64)> {
    result.bounds.map(|(lower, upper)| (lower.value(), upper.value()))
}
