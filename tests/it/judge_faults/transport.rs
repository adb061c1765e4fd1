//! Failures between client and endpoint.

use std::time::Instant;

use assay::secret::Secret;

use super::*;
use crate::support::judge::RetryAfter;

/// Asserts that one fault is followed by a successful retry.
async fn check_retried(fault: Fault) {
    let bench = Bench::with(|settings| settings.attempt_timeout = Duration::from_secs(2));
    bench.stand_in.fail_once(fault.clone());
    let reply = bench.ask().await;
    assert!(is_yes(&reply), "{fault:?}: {:?}", reply.verdict);
    assert_eq!(sent(&reply.cost), (2, 1), "{fault:?}");
}

/// Asserts that the fault is not retried.
async fn check_final(fault: Fault, expected: JudgeError) {
    let bench = Bench::failing(fault.clone());
    let reply = bench.ask().await;
    assert_eq!(sent(&reply.cost), (1, 0), "{fault:?}");
    assert_eq!(error(reply), expected, "{fault:?}");
}

#[tokio::test]
async fn transient_errors_are_retried() {
    for status in [408, 409, 500, 502, 503, 504, 529] {
        check_retried(Fault::Status(status)).await;
    }
    for fault in [Fault::Reset, Fault::CutJson, Fault::Silent] {
        check_retried(fault).await;
    }
}

#[tokio::test]
async fn retry_after_is_honoured_in_every_form() {
    for after in [
        RetryAfter::Never,
        RetryAfter::Seconds(0),
        RetryAfter::Seconds(1),
        RetryAfter::Fraction(0.05),
        RetryAfter::Date(Duration::from_secs(1)),
        RetryAfter::Millis(20),
        RetryAfter::Text("soon"),
        RetryAfter::Text("-1"),
    ] {
        check_retried(Fault::RateLimited(after)).await;
    }
}

#[tokio::test]
async fn no_retry_waits_beyond_the_deadline() {
    for after in
        [RetryAfter::Seconds(86_400), RetryAfter::Text("99999999999999999999"), RetryAfter::Text("1e300")]
    {
        let bench = Bench::failing(Fault::RateLimited(after.clone()));
        let began = Instant::now();
        let reply: Reply<Useful> = bench.judge.ask(&prompt("a"), &call_within(Duration::from_secs(10))).await;
        let JudgeError::RateLimited { quota: false, .. } = error(reply) else { panic!("{after:?}") };
        assert!(began.elapsed() < Duration::from_secs(10), "{after:?}");
    }
}

#[tokio::test]
async fn an_exhausted_quota_is_not_retried() {
    let bench = Bench::failing(Fault::Quota);
    let reply = bench.ask().await;
    assert_eq!(sent(&reply.cost), (1, 0));
    assert!(matches!(error(reply), JudgeError::RateLimited { quota: true, .. }));
}

#[tokio::test]
async fn a_rejected_key_is_not_retried() {
    for status in [401, 403] {
        check_final(Fault::Status(status), JudgeError::Auth { status }).await;
    }
}

#[tokio::test]
async fn an_unknown_model_or_path_is_not_retried() {
    check_final(Fault::Status(404), JudgeError::Model { status: 404 }).await;
}

#[tokio::test]
async fn a_lasting_error_is_returned_after_the_last_attempt() {
    let bench = Bench::failing(Fault::Status(503));
    let reply = bench.ask().await;
    assert!(matches!(error(reply), JudgeError::Unavailable { .. }));
    assert!((2..=3).contains(&bench.stand_in.count()), "{}", bench.stand_in.count());
}

#[tokio::test]
async fn an_unreachable_judge_is_unavailable() {
    let bench = Bench::new();
    let Bench { stand_in, judge } = bench;
    drop(stand_in);
    let reply: Reply<Useful> = judge.ask(&prompt("a"), &call()).await;
    assert!(matches!(error(reply), JudgeError::Unavailable { .. }));
}

#[tokio::test]
async fn a_silent_judge_is_abandoned_at_the_deadline() {
    let bench = Bench::failing(Fault::Silent);
    let began = Instant::now();
    let reply: Reply<Useful> = bench.judge.ask(&prompt("a"), &call_within(Duration::from_millis(300))).await;
    assert_eq!(error(reply), JudgeError::DeadlineExceeded);
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn an_endless_body_is_abandoned_at_its_size_limit() {
    let bench = Bench::with(|settings| settings.max_body_bytes = 256 << 10);
    bench.stand_in.fail_always(Fault::Endless);
    let began = Instant::now();
    let reply = bench.ask().await;
    assert!(reply.verdict.is_err());
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn a_slow_body_does_not_extend_the_timeout() {
    let bench = Bench::with(|settings| settings.attempt_timeout = Duration::from_millis(300));
    bench.stand_in.fail_once(Fault::Slow { pause: Duration::from_secs(1) });
    let reply = bench.ask().await;
    assert!(is_yes(&reply), "{:?}", reply.verdict);
    assert_eq!(sent(&reply.cost), (2, 1));
}

#[tokio::test]
async fn blank_lines_before_an_answer_are_ignored() {
    let bench = Bench::failing(Fault::BlankLines(1000));
    let reply = bench.ask().await;
    assert!(is_yes(&reply), "{:?}", reply.verdict);
    assert_eq!(sent(&reply.cost), (1, 0));
}

#[tokio::test]
async fn a_key_is_not_sent_to_another_origin() {
    let target = StandIn::start();
    let bench = Bench::with(|settings| settings.key = Some(Secret::new("sk-secret")));
    bench.stand_in.fail_always(Fault::Redirect(307, format!("{}/chat/completions", target.url())));
    let reply = bench.ask().await;
    let text = error(reply).to_string();
    assert!(!text.contains("sk-secret"), "{text}");
    assert_eq!(target.count(), 0);
    assert_eq!(bench.stand_in.last().header("authorization"), Some("Bearer sk-secret"));
}

/// Error detail of a redirect that was not followed.
async fn refused_redirect(status: u16, location: &str) -> String {
    let bench = Bench::failing(Fault::Redirect(status, location.to_owned()));
    let reply = bench.ask().await;
    assert_eq!(sent(&reply.cost), (1, 0), "another attempt would be sent the same way");
    let JudgeError::Unavailable { detail, retry_in: None } = error(reply) else {
        panic!("{status} {location}")
    };
    assert!(detail.contains(&status.to_string()), "{detail}");
    detail
}

#[tokio::test]
async fn texts_are_not_sent_to_another_origin() {
    let target = StandIn::start();
    let origin = target.url().trim_end_matches("/v1").to_owned();
    for status in [301, 302, 303, 307, 308] {
        let location = format!("{}/chat/completions?planted#planted", target.url());
        let detail = refused_redirect(status, &location).await;
        assert!(detail.contains(&format!("another origin, {origin}; set judge-url")), "{detail}");
        assert!(!detail.contains("planted") && !detail.contains("completions"), "{detail}");
    }
    let with_user = target.url().replace("http://", "https://me:planted@");
    let detail = refused_redirect(307, &with_user).await;
    assert!(detail.contains("https://127.0.0.1") && !detail.contains("planted"), "{detail}");
    let detail = refused_redirect(308, &format!("http://{}/", "a".repeat(10_000))).await;
    assert!(detail.len() < 400, "{}", detail.len());
    let detail = refused_redirect(308, "mailto:planted@host").await;
    assert!(detail.contains("another origin, mailto:") && !detail.contains("planted"), "{detail}");
    assert_eq!(target.count(), 0);
}

#[tokio::test]
async fn a_redirect_within_the_origin_is_followed() {
    for status in [307, 308] {
        let bench = Bench::with(|settings| settings.key = Some(Secret::new("sk-secret")));
        bench.stand_in.fail_times(3, Fault::Redirect(status, "/v1/chat/completions".to_owned()));
        let reply = bench.ask().await;
        assert!(is_yes(&reply), "{:?}", reply.verdict);
        let requests = bench.stand_in.requests();
        assert_eq!(requests.len(), 4, "{status}");
        for request in &requests {
            assert_eq!(request.asked.body, requests[0].asked.body, "{status}");
            assert_eq!(request.asked.header("authorization"), Some("Bearer sk-secret"));
        }
    }
}

#[tokio::test]
async fn other_redirects_are_refused() {
    for status in [301, 302, 303] {
        let detail = refused_redirect(status, "/v1/elsewhere").await;
        assert!(detail.contains("only 307 and 308 do"), "{detail}");
    }
    let bench = Bench::failing(Fault::Redirect(307, "/v1/chat/completions".to_owned()));
    let text = error(bench.ask().await).to_string();
    assert!(text.contains("after 3 redirects at http://127.0.0.1"), "{text}");
    assert_eq!(bench.stand_in.count(), 4);
}

#[tokio::test]
async fn a_body_with_too_many_chunks_is_abandoned() {
    let bench = Bench::failing(Fault::BlankLines(70_000));
    let detail = error(bench.ask().await).to_string();
    assert!(detail.contains("more than 65536 chunks"), "{detail}");
}

#[tokio::test]
async fn a_body_with_too_many_values_is_not_parsed() {
    let bench = Bench::failing(Fault::Body { status: 200, body: format!("[{}0]", "0,".repeat(2_000_000)) });
    let detail = error(bench.ask().await).to_string();
    assert!(detail.contains("more than 65536 values"), "{detail}");
}

#[tokio::test]
async fn impossible_token_counts_do_not_overflow() {
    let usage = json!({ "prompt_tokens": u64::MAX, "completion_tokens": u64::MAX });
    let message = json!({ "content": r#"{"verdict": true}"# });
    let body =
        json!({ "choices": [{ "message": message, "finish_reason": "stop" }], "usage": usage }).to_string();
    let bench = Bench::with(|settings| settings.tokens_per_minute = Some(4_000_000_000));
    bench.stand_in.fail_always(Fault::Body { status: 200, body });
    assert!(is_yes(&bench.ask().await));
}

#[tokio::test]
async fn an_answer_without_usage_is_accepted() {
    let bench = Bench::failing(Fault::NoUsage);
    assert!(is_yes(&bench.ask().await));
}

#[tokio::test]
async fn tokens_are_counted_as_reported() {
    let bench = Bench::new();
    let cost = bench.ask().await.cost;
    assert_eq!((cost.completion_tokens, cost.reasoning_tokens, cost.cache_hits), (10, 4, 0));
    assert!(cost.prompt_tokens > 0 && cost.cached_tokens == cost.prompt_tokens / 2, "{cost:?}");
}

#[tokio::test]
async fn an_error_does_not_contain_the_text() {
    let echo = json!({ "error": { "message": "bad text: The sky is blue." } }).to_string();
    for status in [400, 422, 500] {
        let bench = Bench::failing(Fault::Body { status, body: echo.clone() });
        let text = format!("{:?}", error(bench.ask().await));
        assert!(!text.contains("sky"), "{text}");
    }
}

#[tokio::test]
async fn a_body_without_a_completion_is_an_error() {
    for body in ["", "<html>hello</html>", "[]", "{}", r#"{"choices":[]}"#, "null", r#"{"choices":"a"}"#] {
        let bench = Bench::failing(Fault::Body { status: 200, body: body.to_owned() });
        let reply = bench.ask().await;
        assert!(
            matches!(reply.verdict, Err(JudgeError::Unavailable { .. } | JudgeError::Unreadable { .. })),
            "{body}"
        );
    }
}
