//! Tokenize under load: requests of any size, with concurrent callers.

use assay::proto::{TokenizeRequest, TokenizeResponse};
use futures::future::join_all;
use tonic::{Code, Status};

use crate::support::app::{SMALL, TestApp, details, request, run, until};

/// Tokens of all Tokenize requests together, and of one.
const LIMIT: usize = 4096;

fn server() -> TestApp {
    TestApp::serving_with(SMALL, |settings| settings.embed.queue_tokens = 2 * LIMIT)
}

/// Two tokens each.
fn words(count: usize) -> String {
    "word ".repeat(count)
}

async fn tokenize(app: &TestApp, inputs: Vec<String>) -> Result<TokenizeResponse, Status> {
    let request = TokenizeRequest { inputs, ..TokenizeRequest::default() };
    Ok(app.client().await.tokenize(request).await?.into_inner())
}

#[test]
fn a_request_above_the_token_limit_is_told_to_split() {
    let app = server();
    run(async {
        // One text may have many times the tokens that the model takes.
        let few = tokenize(&app, vec![words(LIMIT / 2), "x".into()]).await;
        let many = tokenize(&app, vec![words(20), words(5 * LIMIT)]).await;
        for answer in [few, many] {
            let status = answer.map(|response| response.results.len()).expect_err("too many");
            let details = details(&status);
            assert_eq!(
                (status.code(), &details.fields[..]),
                (Code::InvalidArgument, &["inputs".to_owned()][..])
            );
            let told = &details.descriptions[0];
            assert!(
                told.contains("limit per request is 4096") && told.contains("split the request"),
                "{told}"
            );
        }
        let response = tokenize(&app, vec![words(LIMIT / 4), words(LIMIT / 8)]).await.expect("tokens");
        let tokens: Vec<usize> = response.results.iter().map(|result| result.tokens.len()).collect();
        assert_eq!(tokens, [LIMIT / 2 + 2, LIMIT / 4 + 2]);
        app.until_metric("assay_admitted_tokenize_tokens", "", |held| held == 0.0).await;
    });
}

#[test]
fn long_requests_do_not_block_short_ones_or_embeddings() {
    let app = server();
    run(async {
        let long = join_all((0..20).map(|_| tokenize(&app, vec![words(LIMIT / 2 - 50)])));
        let polite = async {
            app.until_metric("assay_admitted_tokenize_tokens", "", |held| held > 0.0).await;
            let mut client = app.client().await;
            for _ in 0..50 {
                tokenize(&app, vec!["a few words".into()]).await.expect("tokens");
                client.embed(request(["a few words"])).await.expect("a vector");
            }
        };
        let (long, ()) = futures::join!(long, polite);
        for response in long {
            assert_eq!(response.expect("tokens").results[0].tokens.len(), LIMIT - 98);
        }
        assert_eq!(app.metric("assay_queue_refusals_total", "").await, 0.0);
    });
}

#[test]
fn cancelled_calls_cost_no_further_tokenization() {
    let app = TestApp::serving(SMALL);
    run(async {
        let inputs = vec![words(400); 256];
        let mut client = app.client().await;
        let request = TokenizeRequest { inputs, ..TokenizeRequest::default() };
        let leaving = tokio::spawn(async move { client.tokenize(request).await });
        app.until_metric("assay_admitted_tokenize_tokens", "", |held| held > 0.0).await;
        leaving.abort();
        app.until_metric("assay_admitted_tokenize_tokens", "", |held| held == 0.0).await;
        app.until_metric("assay_dropped_total", "phase=\"tokenize\"", |dropped| dropped > 0.0).await;
    });
}

#[test]
fn an_unlimited_queue_is_unlimited() {
    let app = TestApp::serving_with(SMALL, |settings| settings.embed.queue_tokens = usize::MAX);
    run(async {
        app.client().await.embed(request(["x"])).await.expect("a vector");
        tokenize(&app, vec!["x".into()]).await.expect("tokens");
        until("an empty queue", async || app.metric("assay_admitted_call_tokens", "").await == 0.0).await;
    });
}
