//! Endpoints that take less than the whole protocol.

use assay::judge::Structured;

use super::*;

/// Asked twice, as what was learnt the first time costs nothing the second time.
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
async fn a_schema_is_asked_for_first() {
    check_learnt(&[], Structured::JsonSchema).await;
}

#[tokio::test]
async fn without_schemas_an_object_is_asked_for() {
    check_learnt(&["json_schema"], Structured::JsonObject).await;
}

#[tokio::test]
async fn without_formats_a_tool_is_asked_for() {
    check_learnt(&["json_schema", "json_object"], Structured::Tools).await;
}

#[tokio::test]
async fn without_anything_words_are_asked_for() {
    check_learnt(&["json_schema", "json_object", "tools"], Structured::Text).await;
}

#[tokio::test]
async fn parameters_that_are_not_taken_are_left_out() {
    for parameter in ["temperature", "seed", "max_tokens"] {
        check_learnt(&[parameter], Structured::JsonSchema).await;
    }
    check_learnt(&["temperature", "seed", "max_tokens", "json_schema"], Structured::JsonObject).await;
}

#[tokio::test]
async fn an_endpoint_that_ignores_the_format_is_told_it_in_words() {
    let bench = Bench::failing(Fault::IgnoresFormat);
    let reply = bench.ask().await;
    assert!(is_yes(&reply), "{:?}", reply.verdict);
    assert_eq!(reply.cost.calls, 2);
}

#[tokio::test]
async fn samples_come_in_one_call_where_the_endpoint_takes_n() {
    let bench = Bench::new();
    let replies: Vec<Reply<Useful>> = bench.judge.ask_many(&prompt("a"), 3, &call()).await;
    assert_eq!(replies.len(), 3);
    assert!(replies.iter().all(is_yes));
    assert_eq!(bench.stand_in.count(), 1);
    assert_eq!(bench.stand_in.last().samples, 3);
    assert!(bench.stand_in.last().body["temperature"].as_f64().is_some_and(|temperature| temperature > 0.0));
}

#[tokio::test]
async fn samples_are_whole_where_n_is_rejected_or_ignored() {
    for fault in [Fault::Rejects("n"), Fault::OneChoice] {
        let bench = Bench::failing(fault.clone());
        let replies: Vec<Reply<Useful>> = bench.judge.ask_many(&prompt("a"), 3, &call()).await;
        assert_eq!(replies.len(), 3, "{fault:?}");
        assert!(replies.iter().all(is_yes), "{fault:?}");
        let again: Vec<Reply<Useful>> = bench.judge.ask_many(&prompt("b"), 3, &call()).await;
        assert!(again.iter().all(is_yes), "{fault:?}");
    }
}
