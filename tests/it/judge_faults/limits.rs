//! Concurrency, rate limits, budgets and circuit breaker.

use assay::judge::{BreakerState, BudgetKind, BudgetLimits, Prices};
use futures::future::join_all;
use prometheus_client::encoding::text::encode;

use super::*;
use crate::support::judge::RetryAfter;

/// Distinct questions.
async fn ask_each(judge: &Judge, count: usize, call: &Call) -> Vec<Reply<Useful>> {
    let prompts: Vec<Prompt> = (0..count).map(|number| prompt(&format!("text {number}"))).collect();
    join_all(prompts.iter().map(|prompt| judge.ask(prompt, call))).await
}

fn limited(limits: BudgetLimits) -> Call {
    Call { budget: Budget::new(limits), ..call() }
}

fn exhausted(reply: &Reply<Useful>) -> Option<BudgetKind> {
    match reply.verdict {
        Err(JudgeError::BudgetExhausted { which, .. }) => Some(which),
        _ => None,
    }
}

#[tokio::test]
async fn concurrent_requests_stay_within_the_limit() {
    let bench = Bench::with(|settings| {
        settings.max_concurrency = 3;
        settings.initial_concurrency = 3;
    });
    bench.stand_in.set_latency(Duration::from_millis(5));
    assert!(ask_each(&bench.judge, 40, &call()).await.iter().all(is_yes));
    assert!(bench.stand_in.max_in_flight() <= 3, "{}", bench.stand_in.max_in_flight());
    let status = bench.judge.status();
    assert_eq!((status.concurrency_limit, status.in_flight, status.waiting), (3, 0, 0));
}

#[tokio::test]
async fn the_limit_adapts_to_success_and_overload() {
    let bench = Bench::with(|settings| settings.initial_concurrency = 4);
    assert!(ask_each(&bench.judge, 60, &call()).await.iter().all(is_yes));
    let grown = bench.judge.status().concurrency_limit;
    assert!(grown > 4, "{grown}");
    bench.stand_in.fail_once(Fault::RateLimited(RetryAfter::Millis(1)));
    let reply: Reply<Useful> = bench.judge.ask(&prompt("more"), &call()).await;
    assert!(is_yes(&reply));
    assert_eq!(bench.judge.status().concurrency_limit, grown / 2);
}

#[tokio::test]
async fn a_full_queue_refuses_only_new_questions() {
    let bench = Bench::with(|settings| {
        settings.max_concurrency = 1;
        settings.initial_concurrency = 1;
        settings.queue = 2;
    });
    bench.stand_in.hold();
    let call = call();
    let asking = ask_each(&bench.judge, 5, &call);
    let release = async {
        bench.stand_in.arrived(1).await;
        bench.stand_in.release();
    };
    let (replies, ()) = tokio::join!(asking, release);
    assert_eq!(replies.iter().filter(|reply| is_yes(reply)).count(), 3);
    let refused = |reply: &&Reply<Useful>| matches!(reply.verdict, Err(JudgeError::QueueFull { .. }));
    assert_eq!(replies.iter().filter(refused).count(), 2);
    assert_eq!(bench.stand_in.count(), 3);
}

#[tokio::test]
async fn waiting_in_the_queue_ends_at_the_deadline() {
    let bench = Bench::with(|settings| {
        settings.max_concurrency = 1;
        settings.initial_concurrency = 1;
    });
    bench.stand_in.hold();
    let soon = call_within(Duration::from_millis(300));
    let replies = ask_each(&bench.judge, 2, &soon).await;
    assert!(replies.iter().all(|reply| reply.verdict == Err(JudgeError::DeadlineExceeded)), "{replies:?}");
    assert_eq!(replies.iter().map(|reply| reply.cost.calls).sum::<u32>(), 1);
    bench.stand_in.release();
    assert!(is_yes(&bench.ask().await));
    assert_eq!(bench.judge.status().in_flight, 0);
}

#[tokio::test]
async fn cancelled_callers_release_their_permits() {
    let bench = Bench::with(|settings| {
        settings.max_concurrency = 2;
        settings.initial_concurrency = 2;
    });
    bench.stand_in.hold();
    let judge = bench.judge.clone();
    let asking = tokio::spawn(async move { ask_each(&judge, 10, &call()).await.len() });
    bench.stand_in.arrived(2).await;
    asking.abort();
    assert!(asking.await.is_err());
    let status = bench.judge.status();
    assert_eq!((status.in_flight, status.waiting), (0, 0));
    bench.stand_in.release();
    assert!(is_yes(&bench.ask().await));
}

#[tokio::test]
async fn an_open_breaker_refuses_requests_until_a_probe_succeeds() {
    let bench = Bench::with(|settings| settings.attempts = 1);
    bench.stand_in.fail_always(Fault::Status(503));
    let failures = ask_each(&bench.judge, 8, &call()).await;
    assert!(failures.iter().all(|reply| reply.verdict.is_err()));
    let BreakerState::Open { retry_in } = bench.judge.status().breaker else { panic!("it is closed") };
    let before = bench.stand_in.count();
    let refused = bench.ask().await;
    assert_eq!((refused.cost.calls, bench.stand_in.count()), (0, before));
    assert!(matches!(error(refused), JudgeError::Unavailable { retry_in: Some(_), .. }));
    bench.stand_in.heal();
    tokio::time::sleep(retry_in).await;
    assert_eq!(bench.judge.status().breaker, BreakerState::HalfOpen);
    assert!(is_yes(&bench.ask().await));
    assert_eq!(bench.judge.status().breaker, BreakerState::Closed);
}

#[tokio::test]
async fn rejected_requests_do_not_open_the_breaker() {
    let bench = Bench::failing(Fault::Status(413));
    let replies = ask_each(&bench.judge, 20, &call()).await;
    assert!(replies.iter().all(|reply| reply.verdict == Err(JudgeError::Rejected { status: 413 })));
    assert_eq!(bench.judge.status().breaker, BreakerState::Closed);
}

#[tokio::test]
async fn retries_are_bounded_by_the_retry_budget() {
    let bench = Bench::with(|settings| settings.attempts = 2);
    bench.stand_in.fail_always(Fault::RateLimited(RetryAfter::Millis(0)));
    let replies = ask_each(&bench.judge, 100, &call()).await;
    assert!(replies.iter().all(|reply| reply.verdict.is_err()));
    let retries: u32 = replies.iter().map(|reply| reply.cost.retries).sum();
    // On a slow machine another second may have added to the retry budget.
    assert!((10..=40).contains(&retries), "{retries}");
}

#[tokio::test]
async fn an_exhausted_budget_sends_no_request() {
    let bench = Bench::new();
    let call = limited(BudgetLimits { calls: Some(2), ..BudgetLimits::default() });
    let replies = ask_each(&bench.judge, 5, &call).await;
    assert_eq!(replies.iter().filter(|reply| is_yes(reply)).count(), 2);
    assert_eq!(replies.iter().filter_map(exhausted).collect::<Vec<_>>(), [BudgetKind::Calls; 3]);
    assert_eq!((bench.stand_in.count(), call.budget.spent().calls), (2, 2));
}

#[tokio::test]
async fn tokens_and_dollars_are_budgeted() {
    let prices = Prices { prompt_usd: 1.0, cached_prompt_usd: 0.5, completion_usd: 2.0 };
    let bench = Bench::with(|settings| settings.prices = Some(prices));
    let first = bench.ask().await.cost;
    let used = first.prompt_tokens + first.completion_tokens;
    let usd = first.usd.expect("a price");
    assert!(usd > 0.0 && used > 0);
    for (which, limits) in [
        (BudgetKind::Tokens, BudgetLimits { tokens: Some(used * 4), ..BudgetLimits::default() }),
        (BudgetKind::Usd, BudgetLimits { usd: Some(usd * 8.0), ..BudgetLimits::default() }),
    ] {
        let call = Call { use_cache: false, ..limited(limits) };
        let mut answered = 0;
        let refused = loop {
            let reply: Reply<Useful> = bench.judge.ask(&prompt("a"), &call).await;
            match is_yes(&reply) {
                true => answered += 1,
                false => break reply,
            }
        };
        assert_eq!(exhausted(&refused), Some(which));
        assert!((1..=8).contains(&answered), "{which}: {answered}");
        assert_eq!(refused.cost.calls, 0);
    }
}

#[tokio::test]
async fn a_rate_limit_delays_requests_and_drops_none() {
    let bench = Bench::with(|settings| settings.requests_per_minute = Some(600));
    let replies = ask_each(&bench.judge, 64, &call()).await;
    assert!(replies.iter().all(is_yes));
    let requests = bench.stand_in.requests();
    let (first, last) = (requests[0].started, requests[63].started);
    // A burst of 60, then four more at ten per second.
    assert!(last - first > Duration::from_millis(250), "{:?}", last - first);
}

#[tokio::test]
async fn trace_headers_are_forwarded() {
    let bench = Bench::new();
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let trace = TraceHeaders {
        request_id: Some("r-1".into()),
        traceparent: Some(traceparent.into()),
        tracestate: None,
    };
    let reply: Reply<Useful> = bench.judge.ask(&prompt("a"), &Call { trace, ..call() }).await;
    assert!(is_yes(&reply));
    let asked = bench.stand_in.last();
    assert_eq!(asked.header("x-request-id"), Some("r-1"));
    assert_eq!(asked.header("traceparent"), Some(traceparent));
    assert_eq!(asked.header("user-agent"), Some(concat!("assay/", env!("CARGO_PKG_VERSION"))));
    assert_eq!(asked.header("authorization"), None);
}

#[tokio::test]
async fn attempts_and_tokens_are_counted() {
    let stand_in = StandIn::start();
    let mut registry = Registry::default();
    let judge = Judge::start(stand_in.settings(), &mut registry).expect("sound settings");
    stand_in.fail_once(Fault::Status(503));
    for _ in 0..2 {
        let reply: Reply<Useful> = judge.ask(&prompt("a"), &call()).await;
        assert!(is_yes(&reply));
    }
    let mut text = String::new();
    encode(&mut text, &registry).expect("metrics");
    for line in [
        r#"assay_judge_attempts_total{judge="test",outcome="unavailable"} 1"#,
        r#"assay_judge_attempts_total{judge="test",outcome="ok"} 1"#,
        r#"assay_judge_retries_total{judge="test"} 1"#,
        r#"assay_judge_cache_hits_total{judge="test"} 1"#,
        r#"assay_judge_breaker_open{judge="test"} 0"#,
        r#"assay_judge_in_flight_requests{judge="test"} 0"#,
        r#"assay_judge_attempt_seconds_count{judge="test"} 2"#,
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}
