//! Caching, single-flight and separation of answers.

use assay::judge::store::StoreMode;
use futures::future::join_all;

use super::*;
use crate::support::judge::Asked;

/// Answers with the text of the question and the number of the sample.
fn echo(asked: &Asked) -> Value {
    let text = asked.part("contexts")[0]["text"].as_str().unwrap_or_default();
    json!({ "verdict": true, "reason": format!("{text}/{}", asked.sample) })
}

fn reason(reply: &Reply<Useful>) -> &str {
    &reply.verdict.as_ref().expect("a verdict").reason
}

#[tokio::test]
async fn a_repeated_question_is_a_cache_hit() {
    let bench = Bench::new();
    assert!(is_yes(&bench.ask().await));
    let second = bench.ask().await;
    assert!(is_yes(&second));
    assert_eq!((second.cost.calls, second.cost.cache_hits, second.cost.prompt_tokens), (0, 1, 0));
    assert_eq!(bench.stand_in.count(), 1);
}

#[tokio::test]
async fn a_request_can_bypass_the_cache() {
    let bench = Bench::new();
    for _ in 0..2 {
        let reply: Reply<Useful> = bench.judge.ask(&prompt("a"), &Call { use_cache: false, ..call() }).await;
        assert_eq!((reply.cost.calls, reply.cost.cache_hits), (1, 0));
    }
    assert_eq!(bench.stand_in.count(), 2);
}

#[tokio::test]
async fn concurrent_callers_share_one_question() {
    let bench = Bench::new();
    bench.stand_in.hold();
    let asking = join_all((0..20).map(|_| bench.ask()));
    let release = async {
        bench.stand_in.arrived(1).await;
        bench.stand_in.release();
    };
    let (replies, ()) = tokio::join!(asking, release);
    assert!(replies.iter().all(is_yes));
    assert_eq!(bench.stand_in.count(), 1);
    assert_eq!(replies.iter().map(|reply| reply.cost.calls).sum::<u32>(), 1);
    assert_eq!(replies.iter().map(|reply| reply.cost.cache_hits).sum::<u32>(), 19);
}

#[tokio::test]
async fn a_cancelled_caller_does_not_cancel_the_others() {
    let bench = Bench::new();
    bench.stand_in.hold();
    let first = tokio::spawn({
        let judge = bench.judge.clone();
        async move { judge.ask::<Useful>(&prompt("The sky is blue."), &call()).await }
    });
    bench.stand_in.arrived(1).await;
    let mut second = Box::pin(bench.ask());
    assert!(futures::poll!(second.as_mut()).is_pending());
    first.abort();
    assert!(first.await.is_err());
    bench.stand_in.release();
    assert!(is_yes(&second.await));
}

#[tokio::test]
async fn models_do_not_share_answers() {
    let dir = tempfile::tempdir().expect("a directory");
    let mode = StoreMode::Journal(dir.path().join("answers.jsonl"));
    let stand_in = StandIn::start();
    for (calls, model) in [(1, "one"), (1, "two"), (0, "one")] {
        let settings = JudgeSettings { model: model.to_owned(), store: mode.clone(), ..stand_in.settings() };
        let judge = start(settings);
        let reply: Reply<Useful> = judge.ask(&prompt("a"), &call()).await;
        assert_eq!(reply.cost.calls, calls, "{model}");
    }
}

#[tokio::test]
async fn errors_are_not_cached() {
    let bench = Bench::new();
    bench.stand_in.fail_once(Fault::Refusal);
    assert_eq!(error(bench.ask().await), JudgeError::Refused);
    assert!(is_yes(&bench.ask().await));
}

#[tokio::test]
async fn a_replay_returns_equal_verdicts_without_a_network() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("answers.jsonl");
    let stand_in = StandIn::with_brain(echo);
    let settings = JudgeSettings { store: StoreMode::Record(path.clone()), ..stand_in.settings() };
    let texts = ["天是蓝的。", "b", "c"];
    let ask = async |judge: &Judge| {
        let mut found: Vec<Useful> = Vec::new();
        for text in texts {
            found.push(judge.ask(&prompt(text), &call()).await.verdict.expect("a verdict"));
        }
        let samples = judge.ask_many(&prompt("many"), 3, &call()).await;
        found.extend(samples.into_iter().map(|reply: Reply<Useful>| reply.verdict.expect("a verdict")));
        found
    };
    let recorded = ask(&start(settings.clone())).await;
    drop(stand_in);
    let judge = start(JudgeSettings { store: StoreMode::Replay(path), ..settings });
    assert_eq!(ask(&judge).await, recorded);
    let unknown: Reply<Useful> = judge.ask(&prompt("unknown"), &call()).await;
    assert_eq!(error(unknown), JudgeError::NotRecorded);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_answers_are_never_mixed_up() {
    let bench = Bench::with(|settings| settings.initial_concurrency = 32);
    bench.stand_in.set_brain(echo);
    let asked = (0..200).map(|number| {
        let judge = bench.judge.clone();
        async move {
            let text = format!("text {number}");
            // Some ask for several samples at the same time, which must not affect the others.
            if number % 3 == 0 {
                let replies: Vec<Reply<Useful>> =
                    judge.ask_many(&prompt(&text), 1 + number % 4, &call()).await;
                assert_eq!(replies.len(), 1 + number % 4);
                assert!(replies.iter().all(|reply| reason(reply).starts_with(&format!("{text}/"))));
            } else {
                let reply: Reply<Useful> = judge.ask(&prompt(&text), &call()).await;
                assert_eq!(reason(&reply), format!("{text}/0"));
            }
        }
    });
    join_all(asked).await;
}

#[tokio::test]
async fn samples_are_independent_answers() {
    let bench = Bench::new();
    bench.stand_in.set_brain(echo);
    for _ in 0..2 {
        let replies: Vec<Reply<Useful>> = bench.judge.ask_many(&prompt("a"), 3, &call()).await;
        let mut reasons: Vec<_> = replies.iter().map(reason).collect();
        reasons.sort_unstable();
        assert_eq!(reasons, ["a/0", "a/1", "a/2"]);
    }
    assert_eq!(bench.stand_in.count(), 1, "each sample is remembered by its number");
}
