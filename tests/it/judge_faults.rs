//! Behaviour of the judge client with healthy, failing, slow and hostile endpoints.

mod degrading;
mod journal;
mod limits;
mod reading;
mod sharing;
mod transport;

use std::time::Duration;

use assay::{
    deadline::Deadline,
    judge::{
        Budget, Call, Cost, Judge, JudgeError, JudgeSettings, Part, Prompt, PromptLanguage, Reply,
        TraceHeaders, Verdict,
        lenient::{Id, Yes},
    },
};
use prometheus_client::registry::Registry;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::judge::{Fault, StandIn};

#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
struct Useful {
    verdict: Yes,
    #[serde(default)]
    reason: String,
}

impl Verdict for Useful {
    const NAME: &'static str = "useful";
    const VERSION: u32 = 1;
}

#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
struct Verified {
    verdicts: Vec<Item>,
}

#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
struct Item {
    id: Id,
    verdict: Yes,
}

impl Verdict for Verified {
    const NAME: &'static str = "verified";
    const VERSION: u32 = 1;
}

/// A judge client with its stand-in endpoint.
struct Bench {
    stand_in: StandIn,
    judge: Judge,
}

impl Bench {
    fn new() -> Bench {
        Bench::with(|_| ())
    }

    fn with(change: impl FnOnce(&mut JudgeSettings)) -> Bench {
        let stand_in = StandIn::start();
        let mut settings = stand_in.settings();
        change(&mut settings);
        Bench { judge: start(settings), stand_in }
    }

    fn failing(fault: Fault) -> Bench {
        let bench = Bench::new();
        bench.stand_in.fail_always(fault);
        bench
    }

    async fn ask(&self) -> Reply<Useful> {
        self.judge.ask(&prompt("The sky is blue."), &call()).await
    }

    async fn verify(&self) -> Reply<Verified> {
        self.judge.ask(&claims(), &call()).await
    }
}

fn start(settings: JudgeSettings) -> Judge {
    Judge::start(settings, &mut Registry::default()).expect("sound settings")
}

fn call() -> Call {
    Call {
        deadline: Deadline::after(Duration::from_secs(60)),
        budget: Budget::unlimited(),
        caller: 1,
        use_cache: true,
        trace: TraceHeaders::default(),
    }
}

fn call_within(limit: Duration) -> Call {
    Call { deadline: Deadline::after(limit), ..call() }
}

fn prompt(text: &str) -> Prompt {
    prompt_of(vec![Part { name: "contexts", value: json!([{ "id": "s1", "text": text }]) }])
}

fn claims() -> Prompt {
    let claims = json!([{ "id": "c1", "text": "天是蓝的。" }, { "id": "c2", "text": "草是绿的。" }]);
    prompt_of(vec![Part { name: "claims", value: claims }])
}

fn prompt_of(parts: Vec<Part>) -> Prompt {
    let system = "Say whether the text is useful.".to_owned();
    Prompt { template: "useful", version: 1, language: PromptLanguage::English, system, parts }
}

fn is_yes(reply: &Reply<Useful>) -> bool {
    reply.verdict.as_ref().is_ok_and(|verdict| verdict.verdict.0)
}

/// Numbers of calls and retries.
fn sent(cost: &Cost) -> (u32, u32) {
    (cost.calls, cost.retries)
}

fn error<V: std::fmt::Debug>(reply: Reply<V>) -> JudgeError {
    reply.verdict.expect_err("no verdict")
}
