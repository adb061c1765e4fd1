//! How many questions a sample costs, in which order they go out, and what is left when something runs out.

use std::time::{Duration, Instant};

use assay::{
    deadline::Deadline,
    evaluate::{
        Evaluation,
        metric::Metric,
        metrics::*,
        result::{MetricResult, Status},
        sample::Sample,
    },
    judge::{Budget, BudgetLimits, Call},
};
use futures::future::join_all;
use tokio::sync::mpsc;

use crate::support::{
    app::{run, until},
    evaluator::{Bench, call, sample, score},
    judge::{Fault, Logged, comparing},
};

const FACTS: [&str; 4] = ["The sky is blue", "Grass is green", "Snow is black", "Snow is white"];

fn bench() -> Bench {
    let bench = Bench::start();
    bench.judge.set_brain(comparing(&FACTS));
    bench
}

fn five_contexts() -> Sample {
    sample(
        "The sky is blue. Grass is green. Snow is black.",
        &[
            "The sky is blue.",
            "Nothing here.",
            "Grass is green.",
            "Nor here.",
            "Snow is black, or Snow is white.",
        ],
        "The sky is blue. Snow is white.",
    )
}

/// RAGAS asks 28 questions for them.
fn six_metrics() -> [Metric; 6] {
    // Its similarity is a model's and costs the judge nothing.
    let claims_alone = AnswerCorrectness { similarity_weight: 0.0, ..Default::default() };
    [
        Metric::from(Faithfulness),
        Metric::from(ContextRecall),
        Metric::from(ContextPrecision),
        Metric::from(NoiseSensitivity::default()),
        Metric::from(claims_alone),
        Metric::from(FactualCorrectness::default()),
    ]
}

fn statuses(evaluation: &Evaluation) -> Vec<(&'static str, Status)> {
    let status = |result: &MetricResult| (result.metric.definition().name, result.status);
    evaluation.results.iter().map(status).collect()
}

/// The longest chain of requests of which each began after the one before had ended.
fn depth(requests: &[Logged]) -> usize {
    let mut depths: Vec<usize> = Vec::new();
    for request in requests {
        let before = |earlier: &Logged| earlier.ended.is_some_and(|ended| ended <= request.started);
        let longest = requests
            .iter()
            .zip(&depths)
            .filter(|(earlier, _)| before(earlier))
            .map(|(_, depth)| *depth)
            .max();
        depths.push(longest.unwrap_or(0) + 1);
    }
    depths.into_iter().max().unwrap_or(0)
}

/// From the first start to the last end.
fn wall(requests: &[Logged]) -> Duration {
    let first = requests.iter().map(|request| request.started).min().expect("a request");
    let last = requests.iter().filter_map(|request| request.ended).max().expect("an answer");
    last - first
}

#[test]
fn six_metrics_share_seven_questions_in_two_rounds() {
    const LATENCY: Duration = Duration::from_millis(200);
    let bench = bench();
    bench.judge.set_latency(LATENCY);
    let mut walls = Vec::new();
    // Once is enough: a machine that others use may be late, but nothing makes a chain of three look like two.
    for round in 1..=5 {
        let evaluation = run(bench.evaluate(five_contexts(), six_metrics()));
        assert!(statuses(&evaluation).iter().all(|(_, status)| *status == Status::Ok), "{evaluation:?}");
        assert_eq!(evaluation.cost.calls, 7);
        let requests = bench.judge.requests().split_off(7 * (round - 1));
        assert_eq!(requests.len(), 7);
        let (depth, wall) = (depth(&requests), wall(&requests));
        println!("{} questions, {depth} deep, {} ms", requests.len(), wall.as_millis());
        walls.push((depth, wall));
        if depth <= 2 && wall <= LATENCY.mul_f64(2.3) {
            return;
        }
    }
    panic!("never two deep within 2.3 latencies: {walls:?}");
}

#[tokio::test]
async fn the_six_metrics_have_the_scores_that_each_has_alone() {
    let bench = bench();
    let together = bench.evaluate(five_contexts(), six_metrics()).await;
    for (metric, shared) in six_metrics().into_iter().zip(&together.results) {
        let alone = bench.result(five_contexts(), metric).await;
        assert_eq!((score(&alone), alone.cost.calls), (score(shared), shared.cost.calls), "{shared:?}");
    }
}

#[tokio::test]
async fn samples_side_by_side_fill_the_judge_to_its_limit() {
    const LIMIT: usize = 16;
    let bench =
        Bench::with(|settings| (settings.initial_concurrency, settings.max_concurrency) = (LIMIT, LIMIT));
    bench.judge.set_brain(comparing(&FACTS));
    bench.judge.hold();
    let evaluations = join_all((0..32).map(|_| bench.evaluate(five_contexts(), six_metrics())));
    let release = async {
        bench.judge.arrived(LIMIT).await;
        let judge = bench.evaluator.judge("").expect("a judge");
        until("the first three questions of each sample", async || judge.status().waiting == 3 * 32 - LIMIT)
            .await;
        assert_eq!((bench.judge.count(), judge.status().in_flight), (LIMIT, LIMIT));
        bench.judge.release();
    };
    let (evaluations, ()) = tokio::join!(evaluations, release);
    assert!(evaluations.iter().flat_map(statuses).all(|(_, status)| status == Status::Ok));
    assert_eq!((bench.judge.max_in_flight(), bench.judge.count()), (LIMIT, 7 * 32));
}

fn budget(calls: u32) -> Budget {
    Budget::new(BudgetLimits { calls: Some(calls), ..BudgetLimits::default() })
}

/// The metrics come with the dearest first.
async fn check_budget(calls: u32, expected: [Status; 4]) {
    let bench = bench();
    let metrics = [
        Metric::from(FactualCorrectness::default()),
        Metric::from(Faithfulness),
        Metric::from(ContextPrecision),
        Metric::from(TokenF1::default()),
    ];
    let mut task = bench.task(five_contexts(), metrics);
    task.call = Call { budget: budget(calls), ..call() };
    let evaluation = bench.evaluator.evaluate(task, |_| ()).await;
    let found: Vec<Status> = statuses(&evaluation).into_iter().map(|(_, status)| status).collect();
    assert_eq!(found, expected, "{calls} calls");
    assert!(bench.judge.count() <= calls as usize, "{} of {calls}", bench.judge.count());
    for result in &evaluation.results {
        assert_eq!(result.score.is_some(), result.status == Status::Ok, "{result:?}");
    }
}

#[tokio::test]
async fn a_small_budget_goes_to_the_cheap_metrics() {
    use Status::{BudgetExhausted as Out, Ok};
    check_budget(0, [Out, Out, Out, Ok]).await;
    check_budget(1, [Out, Out, Ok, Ok]).await;
    check_budget(2, [Out, Out, Ok, Ok]).await;
    check_budget(3, [Out, Ok, Ok, Ok]).await;
    check_budget(5, [Out, Ok, Ok, Ok]).await;
    // The claims of the response are shared with faithfulness.
    check_budget(6, [Ok, Ok, Ok, Ok]).await;
}

#[tokio::test]
async fn a_budget_that_is_large_enough_costs_no_time() {
    let bench = bench();
    bench.judge.hold();
    let mut task = bench.task(five_contexts(), six_metrics());
    task.call = Call { budget: budget(18), ..call() };
    let evaluation = bench.evaluator.evaluate(task, |_| ());
    let release = async {
        // All that needs no other answer.
        bench.judge.arrived(3).await;
        bench.judge.release();
    };
    let (evaluation, ()) = tokio::join!(evaluation, release);
    assert_eq!(evaluation.cost.calls, 7);
}

#[tokio::test]
async fn at_the_deadline_there_is_what_needs_no_judge() {
    let bench = bench();
    bench.judge.hold();
    let metrics = [
        Metric::from(Faithfulness),
        Metric::from(TokenF1::default()),
        Metric::from(ContextPrecision),
        Metric::from(Bleu::default()),
    ];
    let mut task = bench.task(five_contexts(), metrics);
    let limit = Duration::from_millis(500);
    let began = Instant::now();
    task.call = Call { deadline: Deadline::after(limit), ..call() };
    let evaluation = bench.evaluator.evaluate(task, |_| ()).await;
    // An attempt may take a minute, so that it is the deadline that ended it.
    assert!(began.elapsed() < limit * 20, "{:?}", began.elapsed());
    let expected = [Status::Deadline, Status::Ok, Status::Deadline, Status::Ok];
    assert_eq!(statuses(&evaluation).into_iter().map(|(_, status)| status).collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn what_one_question_spoils_is_the_metrics_that_need_it() {
    let bench = bench();
    let is_usefulness = |asked: &crate::support::judge::Asked| asked.verdict.as_deref() == Some("usefulness");
    bench.judge.fail_when(is_usefulness, Fault::Status(500));
    let evaluation = bench.evaluate(five_contexts(), six_metrics()).await;
    for (name, status) in statuses(&evaluation) {
        let expected = if name == "context_precision" { Status::Failed } else { Status::Ok };
        assert_eq!(status, expected, "{name}");
    }
    let failed = &evaluation.results[2];
    assert!(failed.failure.is_some() && !failed.reason.is_empty() && failed.score.is_none());
}

#[tokio::test]
async fn metrics_are_told_as_soon_as_they_are_known() {
    let bench = bench();
    bench.judge.hold();
    let metrics =
        [Metric::from(Faithfulness), Metric::from(TokenF1::default()), Metric::from(Bleu::default())];
    let (tell, mut told) = mpsc::unbounded_channel();
    let task = bench.task(five_contexts(), metrics);
    let evaluation = bench.evaluator.evaluate(task, move |result| {
        tell.send((result.metric.definition().name, result.status)).expect("somebody listens");
    });
    let listen = async {
        let mut early = vec![told.recv().await.expect("a metric"), told.recv().await.expect("another")];
        early.sort_unstable_by_key(|(name, _)| *name);
        assert_eq!(early, [("bleu", Status::Ok), ("token_f1", Status::Ok)]);
        assert_eq!(bench.judge.requests().iter().filter(|logged| logged.ended.is_some()).count(), 0);
        bench.judge.release();
        told.recv().await
    };
    let (evaluation, late) = tokio::join!(evaluation, listen);
    assert_eq!(late, Some(("faithfulness", Status::Ok)));
    assert_eq!(evaluation.results.len(), 3);
}
