//! What goes over the wire, for whom, and who waits for it meanwhile.

use assay::{
    evaluate::{judged::aspect_critic::Criterion, metric::Metric, metrics::*, result::Status},
    judge::{Call, JudgeSettings},
    proto,
};
use futures::future::join_all;
use serde_json::json;
use tonic_health::pb::HealthCheckRequest;

use super::*;
use crate::support::{
    app::{SMALL, TestApp, request, run},
    evaluator::{call, score},
    judge::{Fault, StandIn},
};

fn evaluate_request() -> proto::EvaluateRequest {
    let sample = proto::Sample {
        user_input: "What is there to see?".to_owned(),
        response: "The sky is blue.".to_owned(),
        retrieved_contexts: vec![proto::Context { text: "The sky is blue.".to_owned(), id: String::new() }],
        ..proto::Sample::default()
    };
    let faithfulness =
        proto::MetricSelection { name: "faithfulness".to_owned(), ..proto::MetricSelection::default() };
    proto::EvaluateRequest { sample: Some(sample), metrics: vec![faithfulness], options: None }
}

#[test]
fn while_the_judge_thinks_the_reactor_serves_others() {
    const AT_ONCE: usize = 8;
    let judge = StandIn::start();
    judge.hold();
    let app = TestApp::serving_with(SMALL, |settings| {
        settings.reactor_threads = 1;
        let profile =
            JudgeSettings { initial_concurrency: AT_ONCE, max_concurrency: AT_ONCE, ..judge.settings() };
        settings.judges = vec![profile];
    });
    run(async {
        let channel = app.channel().await;
        let evaluations = (0..2 * AT_ONCE).map(|number| {
            let mut client = proto::evaluation_service_client::EvaluationServiceClient::new(channel.clone());
            let mut request = evaluate_request();
            // Questions that are alike would be asked once.
            request.sample.as_mut().expect("a sample").response = format!("The sky is blue{number}.");
            tokio::spawn(async move { client.evaluate(request).await })
        });
        let evaluations: Vec<_> = evaluations.collect();
        // A reactor that waits for one answer sends no second request.
        judge.arrived(AT_ONCE).await;
        let embedded = app.client().await.embed(request(["meanwhile"])).await.expect("vectors");
        assert_eq!(embedded.into_inner().embeddings.len(), 1);
        let health = HealthCheckRequest { service: String::new() };
        app.health().await.check(health).await.expect("an answer");
        assert_eq!((judge.count(), judge.in_flight()), (AT_ONCE, AT_ONCE), "nothing was answered yet");
        judge.release();
        for evaluation in evaluations {
            let response = evaluation.await.expect("no panic").expect("results").into_inner();
            assert_eq!(response.results.len(), 1);
            assert_eq!(response.results[0].score, Some(1.0));
        }
    });
}

#[tokio::test]
async fn two_models_at_one_endpoint_share_no_answer() {
    let judge = StandIn::with_brain(|asked| match asked.body["model"].as_str() {
        Some("lenient") => json!({ "reason": "", "verdict": true }),
        _ => json!({ "reason": "", "verdict": false }),
    });
    let profile =
        |model: &str| JudgeSettings { name: model.to_owned(), model: model.to_owned(), ..judge.settings() };
    let profiles = vec![profile("lenient"), profile("strict")];
    let bench = Bench::with_judges(judge, profiles, None);
    for (model, expected, calls) in
        [("lenient", 1.0, 1), ("strict", 0.0, 1), ("lenient", 1.0, 0), ("strict", 0.0, 0)]
    {
        let critic = Criterion { definition: "Is it short?".to_owned(), ..Criterion::default() };
        let mut task = bench.task(told_sample(), [Metric::from(AspectCritic(critic))]);
        task.judge = bench.evaluator.judge(model).cloned();
        task.call = Call { use_cache: true, ..call() };
        let evaluation = bench.evaluator.evaluate(task, |_| ()).await;
        assert_eq!(score(&evaluation.results[0]), Some(expected), "{model}");
        assert_eq!(evaluation.cost.calls, calls, "{model}");
    }
}

#[tokio::test]
async fn chinese_goes_over_the_wire_as_it_is() {
    let bench = Bench::start();
    let text = "天空是蓝色的，「海」也是𠮷🎉。";
    let metrics = [Metric::from(Faithfulness), Metric::from(ContextPrecision), Metric::from(AnswerAccuracy)];
    bench.evaluate(sample(text, &[text, "草是绿的。"], text), metrics).await;
    assert!(bench.judge.count() > 3);
    for logged in bench.judge.requests() {
        let raw = std::str::from_utf8(&logged.asked.raw).expect("UTF-8");
        assert!(raw.contains("天空是蓝色的，「海」也是𠮷🎉。"), "{raw}");
        assert!(!raw.contains("\\u"), "{raw}");
    }
}

fn critic(samples: usize) -> Metric {
    let definition = "Is it short?".to_owned();
    Metric::from(AspectCritic(Criterion { definition, samples, ..Criterion::default() }))
}

#[tokio::test]
async fn what_an_endpoint_does_not_give_at_once_is_asked_for_side_by_side() {
    for (fault, first_round) in [(Fault::OneChoice, vec![3, 1, 1]), (Fault::Rejects("n"), vec![3, 1, 1, 1])] {
        let bench = bench();
        bench.judge.fail_always(fault.clone());
        let result = bench.result(told_sample(), critic(3)).await;
        assert_eq!((result.status, result.judged, result.submitted), (Status::Ok, 3, 3), "{fault:?}");
        let sent = |from: usize| -> Vec<u64> {
            bench.judge.requests()[from..].iter().map(|logged| logged.asked.samples).collect()
        };
        assert_eq!(sent(0), first_round, "{fault:?}");
        // From now on `n` is left out, and all three are under way at once.
        let learnt = first_round.len();
        bench.judge.hold();
        let release = async {
            bench.judge.arrived(learnt + 3).await;
            bench.judge.release();
        };
        let (result, ()) = tokio::join!(bench.result(told_sample(), critic(3)), release);
        assert_eq!((result.status, result.judged), (Status::Ok, 3), "{fault:?}");
        assert_eq!(sent(learnt), [1, 1, 1], "{fault:?}");
        assert!(bench.judge.requests()[learnt..].iter().all(|logged| !logged.asked.uses("n")), "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_side_by_side_keep_their_own_n() {
    let bench = Bench::with_model().await;
    let evaluate = |number: usize| {
        let questions = if number.is_multiple_of(2) { 3 } else { 1 };
        let metric = Metric::from(AnswerRelevancy { questions });
        let sample = sample(&format!("{questions} questions, call {number}."), &[], "");
        let bench = &bench;
        async move { (questions, bench.result(sample, metric).await) }
    };
    for (questions, result) in join_all((0..100).map(evaluate)).await {
        assert_eq!((result.status, result.judged), (Status::Ok, questions), "{}", result.reason);
        assert_eq!(result.claims.len(), questions);
    }
    assert_eq!(bench.judge.count(), 100);
    for logged in bench.judge.requests() {
        let wanted = logged.asked.part("response").as_str().expect("a text").starts_with('3');
        assert_eq!(logged.asked.samples, if wanted { 3 } else { 1 });
        assert_eq!(logged.asked.uses("n"), wanted);
    }
}
