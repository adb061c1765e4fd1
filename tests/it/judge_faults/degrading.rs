//! Endpoints that support only a part of the protocol.

use assay::judge::Structured;

use super::*;

/// Asks two questions: the second one must need no degradation.
async fn check_learnt(rejected: &[&'static str], structured: Structured) {
    let bench = Bench::with(|settings| settings.seed = Some(7));
    for what in rejected {
        bench.stand_in.fail_when(|_| true, Fault::Rejects(what));
    }
    assert!(is_yes(&bench.ask().await), "{rejected:?}");
    assert_eq!(bench.judge.status().structured, Some(structured), "{rejected:?}");
    let learning = bench.stand_in.count();
    let reply: Reply<Useful> = bench.judge.ask(&prompt("other"), &call()).await;
    assert!(is_yes(&reply), "{rejected:?}");
    assert_eq!(sent(&reply.cost), (1, 0), "{rejected:?}");
    assert_eq!(bench.stand_in.count(), learning + 1);
    let asked = bench.stand_in.last();
    for what in rejected {
        assert!(!asked.uses(what), "{what}");
    }
    assert!(asked.schema.is_some(), "the form is shown, in some way");
}

#[tokio::test]
async fn json_schema_is_requested_first() {
    check_learnt(&[], Structured::JsonSchema).await;
}

#[tokio::test]
async fn json_object_is_the_fallback_for_json_schema() {
    check_learnt(&["json_schema"], Structured::JsonObject).await;
}

#[tokio::test]
async fn a_tool_call_is_the_fallback_for_response_formats() {
    check_learnt(&["json_schema", "json_object"], Structured::Tools).await;
}

#[tokio::test]
async fn the_prompt_is_the_last_fallback() {
    check_learnt(&["json_schema", "json_object", "tools"], Structured::Text).await;
}

#[tokio::test]
async fn rejected_parameters_are_dropped() {
    for parameter in ["temperature", "seed", "max_tokens"] {
        check_learnt(&[parameter], Structured::JsonSchema).await;
    }
    check_learnt(&["temperature", "seed", "max_tokens", "json_schema"], Structured::JsonObject).await;
}

#[tokio::test]
async fn an_ignored_schema_is_added_to_the_prompt() {
    let bench = Bench::failing(Fault::IgnoresFormat);
    let reply = bench.ask().await;
    assert!(is_yes(&reply), "{:?}", reply.verdict);
    assert_eq!(reply.cost.calls, 2);
}

#[tokio::test]
async fn samples_take_one_call_if_n_is_supported() {
    let bench = Bench::new();
    let replies: Vec<Reply<Useful>> = bench.judge.ask_many(&prompt("a"), 3, &call()).await;
    assert_eq!(replies.len(), 3);
    assert!(replies.iter().all(is_yes));
    assert_eq!(bench.stand_in.count(), 1);
    assert_eq!(bench.stand_in.last().samples, 3);
    assert!(bench.stand_in.last().body["temperature"].as_f64().is_some_and(|temperature| temperature > 0.0));
}

#[tokio::test]
async fn samples_are_complete_if_n_is_rejected_or_ignored() {
    for fault in [Fault::Rejects("n"), Fault::OneChoice] {
        let bench = Bench::failing(fault.clone());
        let replies: Vec<Reply<Useful>> = bench.judge.ask_many(&prompt("a"), 3, &call()).await;
        assert_eq!(replies.len(), 3, "{fault:?}");
        assert!(replies.iter().all(is_yes), "{fault:?}");
        let again: Vec<Reply<Useful>> = bench.judge.ask_many(&prompt("b"), 3, &call()).await;
        assert!(again.iter().all(is_yes), "{fault:?}");
    }
}
