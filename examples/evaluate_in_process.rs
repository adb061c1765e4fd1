//! Evaluates one sample in this process, without a server: a metric that asks a judge, and one that needs none.
//!
//! The judge is a stand-in: an HTTP server in this file that compares words. A real one is any OpenAI-compatible
//! endpoint; pass its URL to `JudgeSettings::new`, and its key in the field `key`.
//!
//! ```text
//! $ cargo run --release --example evaluate_in_process
//! faithfulness: Ok
//!   score 0.50 1 of 2 claims of the response are supported by the contexts
//!   Some(true) The Halden Bridge opened in 1962. (a sentence has its words)
//!   Some(false) It is painted green. (no sentence has its words)
//! token_f1: Ok
//!   score 0.50
//! judge: 2 calls, 2663 prompt tokens
//! ```

#![expect(clippy::disallowed_methods, reason = "`tokio::main` blocks on its future")]
#![expect(clippy::print_stdout, reason = "an example prints what it finds")]

use std::{collections::HashMap, error::Error, net::SocketAddr, time::Duration};

use assay::{
    deadline::Deadline,
    embed::Embedder,
    evaluate::{
        Evaluator, EvaluatorSettings, Task,
        metric::{Metric, Selection},
        sample::{Context, Sample},
    },
    judge::{Budget, Call, Judge, JudgeSettings, TraceHeaders},
};
use axum::{Json, Router, routing::post};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

/// Time for the judge.
const JUDGE_TIMEOUT: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // The judge's HTTP client takes its cryptography from the process.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let address = start_stand_in().await?;

    let mut registry = Registry::default();
    let settings = JudgeSettings::new("stand-in", format!("http://{address}/v1"), "word-comparison");
    let judges = Judge::start_all(&[settings], &mut registry)?;
    // Metrics that compare vectors need a model; `Embedder::start` loads one, as in embed_in_process.rs.
    let embedder = Embedder::without_model(&mut registry);
    let settings = EvaluatorSettings { threads: 1, evaluations: 8, sentences: EvaluatorSettings::SENTENCES };
    let evaluator = Evaluator::start(&settings, embedder, judges)?;

    let metrics = ["faithfulness", "token_f1"].into_iter().filter_map(Metric::named);
    let evaluation = evaluator.evaluate(task(&evaluator, metrics), |_| ()).await;
    for result in &evaluation.results {
        println!("{}: {:?}", result.label, result.status);
        if let Some(score) = result.score {
            println!("  score {:.2} {}", score.value(), result.reason);
        }
        for claim in &result.claims {
            println!("  {:?} {} ({})", claim.verdict, claim.text, claim.reason);
        }
    }
    println!("judge: {} calls, {} prompt tokens", evaluation.cost.calls, evaluation.cost.prompt_tokens);
    Ok(())
}

fn task(evaluator: &Evaluator, metrics: impl Iterator<Item = Metric>) -> Task {
    let context = "It is 412 m long. The Halden Bridge opened on 4 May 1962.";
    let call = Call {
        deadline: Deadline::after(JUDGE_TIMEOUT),
        budget: Budget::unlimited(),
        caller: 0,
        use_cache: true,
        trace: TraceHeaders::default(),
    };
    Task {
        sample: Sample {
            user_input: "When did the Halden Bridge open?".to_owned(),
            response: "The Halden Bridge opened in 1962. It is painted green.".to_owned(),
            retrieved_contexts: vec![Context { text: context.to_owned(), id: String::new() }],
            reference: "The Halden Bridge opened on 4 May 1962.".to_owned(),
            ..Sample::default()
        },
        selections: metrics.map(Selection::of).collect(),
        // The first judge is the default one.
        judge: evaluator.judge("").cloned(),
        // What the judge said by its deadline still has to be computed.
        answer_by: call.deadline.later(Duration::from_secs(1)),
        call,
        reason_language: None,
    }
}

/// Serves chat completions on a free port of this machine.
async fn start_stand_in() -> std::io::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let router = Router::new().route(
        "/v1/chat/completions",
        post(|Json(request): Json<Value>| async move { Json(complete(&request)) }),
    );
    tokio::spawn(async { axum::serve(listener, router).await });
    Ok(address)
}

fn complete(request: &Value) -> Value {
    let data = data_blocks(request["messages"][1]["content"].as_str().unwrap_or_default());
    // The name of the schema says which question it is.
    let answer = match request["response_format"]["json_schema"]["name"].as_str() {
        Some("claims") => {
            json!({ "claims": sentences(data.get("text").and_then(Value::as_str).unwrap_or_default()) })
        }
        Some("verification") => verify(&data),
        _ => Value::Null,
    };
    json!({
        "choices": [{ "message": { "content": answer.to_string() }, "finish_reason": "stop" }],
        "usage": { "prompt_tokens": request.to_string().len() / 4, "completion_tokens": answer.to_string().len() / 4 },
    })
}

/// The material of a question: lines of JSON, each between a line `<data name="…" id="…">` and its end.
fn data_blocks(message: &str) -> HashMap<String, Value> {
    let blocks = message.split("<data name=\"").skip(1);
    let blocks = blocks.filter_map(|block| {
        let (name, rest) = block.split_once('"')?;
        let json = rest.lines().nth(1)?;
        Some((name.to_owned(), serde_json::from_str(json).ok()?))
    });
    blocks.collect()
}

/// A claim is supported where one sentence of a source has all of its longer words.
fn verify(data: &HashMap<String, Value>) -> Value {
    let list = |name: &str| data.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let verdicts = list("claims").into_iter().map(|claim| {
        let words: Vec<&str> = claim["text"].as_str().unwrap_or_default().split([' ', '.']).collect();
        let supports = |sentence: &&str| words.iter().all(|word| word.len() < 4 || sentence.contains(word));
        let found = list("sources").into_iter().find_map(|source| {
            let text = source["text"].as_str().unwrap_or_default().to_owned();
            let quote = sentences(&text).into_iter().find(supports)?.to_owned();
            Some((source["id"].clone(), quote))
        });
        let reason = if found.is_some() { "a sentence has its words" } else { "no sentence has its words" };
        let (sources, quote) = found.map(|(id, quote)| (vec![id], quote)).unwrap_or_default();
        json!({ "id": claim["id"], "supported": !sources.is_empty(), "sources": sources, "quote": quote, "reason": reason })
    });
    json!({ "verdicts": verdicts.collect::<Vec<_>>() })
}

fn sentences(text: &str) -> Vec<&str> {
    text.split_inclusive(". ").map(str::trim).collect()
}
