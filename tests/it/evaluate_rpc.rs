//! Evaluate and ListMetrics over the network.

use std::{collections::HashMap, time::Duration};

use assay::{
    evaluate::{definition::MetricFamily, metric::Metric},
    proto::{
        Budget, Context, CriterionOptions, EvaluateOptions, EvaluateRequest, EvaluateResponse,
        ListMetricsRequest, MetricResult, MetricSelection, MetricStatus, RougeOptions, Sample,
        SemanticSimilarityOptions, claim::Origin, evaluation_service_client::EvaluationServiceClient,
        metric_info, metric_selection::Options,
    },
};
use hyper_util::{client::legacy, rt::TokioExecutor};
use prost::Message;
use tonic::{Code, Request, Status};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use crate::support::{
    app::{Details, SMALL, TestApp, details, run, until},
    judge::StandIn,
};

pub fn metric(name: &str) -> MetricSelection {
    MetricSelection { name: name.into(), ..MetricSelection::default() }
}

fn contexts(texts: &[&str]) -> Vec<Context> {
    let context = |(index, &text): (usize, &&str)| Context { text: text.into(), id: format!("doc-{index}") };
    texts.iter().enumerate().map(context).collect()
}

/// With all that any metric needs.
pub fn sample() -> Sample {
    Sample {
        user_input: "Where do red foxes live?".into(),
        response: "Red foxes live in Europe. They also live in Asia.".into(),
        retrieved_contexts: contexts(&["Red foxes live in Europe and Asia.", "Foxes are omnivores."]),
        reference: "Red foxes live in Europe, Asia and North America.".into(),
        reference_contexts: contexts(&["Red foxes live in Europe and Asia."]),
        rubrics: HashMap::from([("1".into(), "wrong".into()), ("2".into(), "right".into())]),
        id: "fox".into(),
        ..Sample::default()
    }
}

pub fn request(sample: Sample, metrics: &[&str]) -> EvaluateRequest {
    let metrics = metrics.iter().map(|name| metric(name)).collect();
    EvaluateRequest { sample: Some(sample), metrics, options: None }
}

async fn evaluate(app: &TestApp, request: EvaluateRequest) -> EvaluateResponse {
    app.evaluation_client().await.evaluate(request).await.expect("results").into_inner()
}

async fn refusal(app: &TestApp, request: EvaluateRequest) -> Details {
    let status = app.evaluation_client().await.evaluate(request).await.expect_err("a refusal");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    details(&status)
}

pub fn result<'a>(response: &'a EvaluateResponse, label: &str) -> &'a MetricResult {
    let found = response.results.iter().find(|result| result.label == label);
    found.unwrap_or_else(|| panic!("no {label} in {:?}", response.results))
}

fn error(result: &MetricResult) -> Status {
    let error = result.error.clone().unwrap_or_else(|| panic!("{result:?} has no error"));
    Status::with_details(error.code.into(), error.message.clone(), error.encode_to_vec().into())
}

/// Fields and descriptions of all violations, in order of their fields.
fn violations(app: &TestApp, request: EvaluateRequest) -> (Vec<String>, String) {
    let mut details = run(refusal(app, request));
    details.fields.sort_unstable();
    (details.fields, details.descriptions.join("\n"))
}

fn check_parts(all: &str, parts: &[&str]) {
    for part in parts {
        assert!(all.contains(part), "{part} is not in:\n{all}");
    }
    assert!(!all.contains("nonsense") && !all.contains("nobody") && !all.contains("not a tag"));
}

#[test]
fn all_violations_of_sample_and_options_have_field_paths() {
    let app = TestApp::serving(SMALL);
    let sample = Sample {
        response: "x".repeat(200_000),
        language: "not a tag".into(),
        rubrics: HashMap::from([("good".into(), "right".into())]),
        retrieved_contexts: vec![Context::default(); 129],
        ..Sample::default()
    };
    let metrics = vec![metric("faithfulness"), metric("context_precision"), metric("bleu")];
    let request = EvaluateRequest { sample: Some(sample), metrics, options: None };
    let (fields, all) = violations(&app, request);
    let expected = [
        "sample.language",
        "sample.reference",
        "sample.response",
        "sample.retrieved_contexts",
        "sample.retrieved_contexts",
        "sample.rubrics",
        "sample.rubrics",
        "sample.user_input",
    ];
    assert_eq!(fields, expected);
    check_parts(&all, &["needed by faithfulness, context_precision"]);
    let options = EvaluateOptions {
        judge: "nobody".into(),
        budget: Some(Budget { usd: Some(-1.0), ..Budget::default() }),
        reason_language: "de".into(),
        ..EvaluateOptions::default()
    };
    let (fields, all) = violations(&app, EvaluateRequest { options: Some(options), ..request_of_all() });
    assert_eq!(fields, ["options.budget.usd", "options.judge", "options.reason_language"]);
    check_parts(&all, &["configured judges: none"]);
}

fn request_of_all() -> EvaluateRequest {
    EvaluateRequest { sample: Some(sample()), ..EvaluateRequest::default() }
}

#[test]
fn all_violations_of_metrics_have_field_paths() {
    let app = TestApp::serving(SMALL);
    let rouge = Options::Rouge(RougeOptions { variant: 99, ..RougeOptions::default() });
    let criterion = CriterionOptions { definition: String::new(), samples: Some(2), ..Default::default() };
    let threshold = SemanticSimilarityOptions { threshold: Some(f64::NAN) };
    let with = |name: &str, options| MetricSelection { options: Some(options), ..metric(name) };
    let metrics = vec![
        metric("nonsense"),
        with("bleu", rouge.clone()),
        with("rouge", rouge),
        with("aspect_critic", Options::Criterion(criterion)),
        with("semantic_similarity", Options::SemanticSimilarity(threshold)),
        MetricSelection { label: "l".repeat(257), ..metric("faithfulness") },
        with("lexical", Options::Criterion(CriterionOptions::default())),
        metric("discrete"),
    ];
    let (fields, all) = violations(&app, EvaluateRequest { metrics, ..request_of_all() });
    let expected = [
        "metrics[0].name",
        "metrics[1].rouge",
        "metrics[2].rouge.variant",
        "metrics[3].criterion.definition",
        "metrics[3].criterion.samples",
        "metrics[4].semantic_similarity.threshold",
        "metrics[5].label",
        "metrics[6]",
        "metrics[7].discrete.instruction",
        "metrics[7].discrete.values",
    ];
    assert_eq!(fields, expected);
    check_parts(&all, &["ListMetrics", "groups: all", "bleu takes the options bleu"]);
    let misspelt = EvaluateRequest { metrics: vec![metric("faithfullness")], ..request_of_all() };
    check_parts(&violations(&app, misspelt).1, &["did you mean faithfulness?"]);
}

#[test]
fn a_requirement_of_one_of_several_fields_is_reported() {
    let app = TestApp::serving(SMALL);
    let sample = Sample { response: String::new(), reference: " ".into(), ..sample() };
    let details = run(refusal(&app, request(sample, &["context_precision"])));
    assert_eq!(details.fields, ["sample.reference"]);
    assert_eq!(details.descriptions, ["context_precision needs one of reference, response"]);
}

#[test]
fn without_a_judge_only_judged_metrics_have_no_score() {
    let app = TestApp::serving(SMALL);
    run(async {
        let response = evaluate(&app, request(sample(), &[])).await;
        assert_eq!((response.id.as_str(), response.judge.as_str()), ("fox", ""));
        assert!(!response.embedding_model.is_empty());
        assert_eq!(response.language, "en");
        for result in &response.results {
            let definition = Metric::named(&result.metric).expect("a metric").definition();
            if definition.judge_calls > 0 {
                assert_eq!(result.status(), MetricStatus::JudgeNotConfigured, "{result:?}");
                let status = error(result);
                let reason = details(&status).reason;
                assert_eq!(
                    (status.code(), reason.as_str()),
                    (Code::FailedPrecondition, "JUDGE_NOT_CONFIGURED")
                );
                assert!(status.message().contains("--judge-url"), "{status:?}");
            } else {
                let fine = matches!(result.status(), MetricStatus::Ok | MetricStatus::NotApplicable);
                assert!(fine && result.error.is_none(), "{result:?}");
            }
            assert_eq!(result.score.is_some(), result.status() == MetricStatus::Ok, "{result:?}");
        }
        assert!(response.results.len() > 20, "{}", response.results.len());
    });
}

#[test]
fn identical_chinese_texts_score_one_in_all_text_metrics() {
    let app = TestApp::serving(SMALL);
    let text = "红狐生活在欧洲和亚洲。它们也生活在北美洲。";
    let sample = Sample { response: text.into(), reference: text.into(), ..Sample::default() };
    let metrics = [
        "bleu",
        "rouge",
        "chrf",
        "string_similarity",
        "exact_match",
        "string_presence",
        "token_f1",
        "semantic_similarity",
    ];
    let response = run(evaluate(&app, request(sample, &metrics)));
    assert_eq!(response.language, "zh");
    for (result, name) in response.results.iter().zip(metrics) {
        let score = result.score.unwrap_or_else(|| panic!("{result:?}"));
        assert!(result.metric == name && (score - 1.0).abs() < 1e-6, "{result:?}");
    }
}

#[test]
fn a_group_expands_in_place_and_keeps_its_label() {
    let app = TestApp::serving(SMALL);
    run(async {
        let vectors = MetricSelection { label: "v".into(), ..metric("vector") };
        let strict = MetricSelection { label: "strict".into(), ..metric("exact_match") };
        let metrics = vec![metric("bleu"), vectors, strict, metric("exact_match")];
        let response = evaluate(&app, EvaluateRequest { metrics, ..request(sample(), &[]) }).await;
        let labels: Vec<_> = response.results.iter().map(|r| (r.metric.as_str(), r.label.as_str())).collect();
        assert_eq!(
            labels,
            [
                ("bleu", "bleu"),
                ("semantic_similarity", "v"),
                ("embedding_groundedness", "v"),
                ("embedding_relevance", "v"),
                ("exact_match", "strict"),
                ("exact_match", "exact_match"),
            ]
        );
        let bare = Sample { response: "Red foxes.".into(), ..Sample::default() };
        let response = evaluate(&app, request(bare, &["vector"])).await;
        let statuses = response.results.iter().map(MetricResult::status);
        assert!(statuses.eq([MetricStatus::NotApplicable; 3]), "{response:?}");
        assert!(response.embedding_model.is_empty());
    });
}

#[test]
fn list_metrics_has_every_metric_and_its_requirements() {
    let app = TestApp::serving(SMALL);
    let response = run(async {
        let mut client = app.evaluation_client().await;
        client.list_metrics(ListMetricsRequest {}).await.expect("metrics").into_inner()
    });
    assert!(response.judges.is_empty());
    let all = Metric::all();
    assert_eq!(response.metrics.len(), all.len());
    for (info, metric) in response.metrics.iter().zip(&all) {
        let definition = metric.definition();
        assert_eq!(info.name, definition.name);
        assert_eq!(info.needs_judge, definition.family == MetricFamily::Judged, "{info:?}");
        assert!(info.family() != metric_info::Family::Unspecified, "{info:?}");
        assert!(info.definition_version > 0 && !info.definition.is_empty(), "{info:?}");
        assert!(info.lowest < info.highest, "{info:?}");
    }
    let fields = |name: &str| {
        let info = response.metrics.iter().find(|info| info.name == name).expect("a metric");
        info.required_fields.clone()
    };
    assert_eq!(fields("faithfulness"), ["user_input", "response", "retrieved_contexts"]);
    assert_eq!(fields("context_precision"), ["user_input", "retrieved_contexts", "reference or response"]);
    assert_eq!(fields("id_context_recall"), ["retrieved_contexts.id", "reference_contexts.id"]);
}

#[test]
fn limits_are_reported_and_enforced() {
    let app = TestApp::serving_with(SMALL, |settings| {
        settings.rpc.limits.contexts = 3;
        settings.rpc.limits.sample_bytes = 1000;
        settings.rpc.limits.stream_samples = 5;
    });
    run(async {
        let info = app.info().await;
        let limits = info.limits.expect("limits");
        assert_eq!((limits.contexts, limits.stream_samples), (3, 5));
        assert!(!info.judge_configured && info.judges.is_empty());
        let four = Sample { retrieved_contexts: contexts(&["a", "b", "c", "d"]), ..sample() };
        let refused = refusal(&app, request(four, &["no_judge"])).await;
        assert_eq!(refused.fields, ["sample.retrieved_contexts"]);
        let long = Sample { reference: "x".repeat(999), ..sample() };
        assert_eq!(refusal(&app, request(long, &["no_judge"])).await.fields, ["sample"]);
        let many = vec!["bleu"; 65];
        assert_eq!(refusal(&app, request(sample(), &many)).await.fields, ["metrics"]);
        assert_eq!(evaluate(&app, request(sample(), &many[..64])).await.results.len(), 64);
        assert_eq!(refusal(&app, EvaluateRequest::default()).await.fields, ["sample"]);
    });
}

#[test]
fn without_a_model_only_vector_metrics_are_unavailable() {
    let (app, _dir) = TestApp::without_model();
    run(async {
        let response = evaluate(&app, request(sample(), &["bleu", "semantic_similarity"])).await;
        assert_eq!(result(&response, "bleu").status(), MetricStatus::Ok);
        let vectors = result(&response, "semantic_similarity");
        let status = error(vectors);
        assert_eq!((vectors.status(), status.code()), (MetricStatus::Failed, Code::Unavailable));
        assert_eq!(details(&status).reason, "NOT_READY");
        assert!(details(&status).retry_in.is_some());
    });
}

#[test]
fn judge_requests_carry_the_trace_of_the_call() {
    let judge = StandIn::start();
    let app = TestApp::serving_with(SMALL, |settings| settings.judges = vec![judge.settings()]);
    run(async {
        let mut asked = Request::new(request(sample(), &["faithfulness", "bleu"]));
        let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        asked.metadata_mut().insert("x-request-id", "call-7".parse().expect("a value"));
        asked.metadata_mut().insert("traceparent", traceparent.parse().expect("a value"));
        let response = app.evaluation_client().await.evaluate(asked).await.expect("results").into_inner();
        let faithfulness = result(&response, "faithfulness");
        assert_eq!((faithfulness.status(), faithfulness.score), (MetricStatus::Ok, Some(1.0)));
        assert!(!faithfulness.claims.is_empty() && faithfulness.judged == faithfulness.submitted);
        assert!(faithfulness.claims.iter().all(|claim| claim.origin() == Origin::Response));
        assert_eq!((response.judge.as_str(), response.judge_model.as_str()), ("test", "stand-in"));
        let cost = response.cost.expect("a cost");
        assert_eq!(cost.judge_calls as usize, judge.count());
        assert!(cost.prompt_tokens > 0 && cost.usd.is_none());
        assert_eq!(judge.last().header("x-request-id"), Some("call-7"));
        assert_eq!(judge.last().header("traceparent"), Some(traceparent));
        let info = app.info().await;
        assert!(info.judge_configured);
        assert_eq!((info.judges[0].name.as_str(), info.judges[0].in_flight), ("test", 0));
        assert!(!info.judges[0].structured_output.is_empty());
        let plain = evaluate(&app, request(sample(), &["bleu"])).await;
        assert_eq!(plain.judge, "");
    });
}

#[test]
fn a_budget_limits_the_judge_requests() {
    let judge = StandIn::start();
    let app = TestApp::serving_with(SMALL, |settings| settings.judges = vec![judge.settings()]);
    run(async {
        let budget = Some(Budget { judge_calls: Some(1), ..Budget::default() });
        let options = Some(EvaluateOptions { budget, ..EvaluateOptions::default() });
        let asked = EvaluateRequest { options, ..request(sample(), &["faithfulness", "bleu"]) };
        let response = evaluate(&app, asked).await;
        let faithfulness = result(&response, "faithfulness");
        assert_eq!(faithfulness.status(), MetricStatus::BudgetExhausted, "{faithfulness:?}");
        assert_eq!(details(&error(faithfulness)).reason, "BUDGET_EXHAUSTED");
        assert_eq!((result(&response, "bleu").status(), judge.count()), (MetricStatus::Ok, 1));
    });
}

#[test]
fn finished_metrics_are_returned_before_the_deadline() {
    let judge = StandIn::start();
    judge.hold();
    let app = TestApp::serving_with(SMALL, |settings| settings.judges = vec![judge.settings()]);
    run(async {
        let mut asked = Request::new(request(sample(), &["faithfulness", "bleu"]));
        asked.set_timeout(Duration::from_secs(2));
        let response = app.evaluation_client().await.evaluate(asked).await.expect("results").into_inner();
        assert_eq!(result(&response, "faithfulness").status(), MetricStatus::Deadline);
        assert_eq!(result(&response, "bleu").status(), MetricStatus::Ok);
        let mut late = Request::new(request(sample(), &["bleu"]));
        late.set_timeout(Duration::from_nanos(1));
        let http = legacy::Client::builder(TokioExecutor::new()).http2_only(true).build_http();
        let mut bare = EvaluationServiceClient::with_origin(http, app.url().parse().expect("a URL"));
        let status = bare.evaluate(late).await.expect_err("it is too late");
        assert_eq!(status.code(), Code::DeadlineExceeded);
    });
    judge.release();
}

#[test]
fn samples_above_the_limit_are_rejected_with_a_retry_delay() {
    let judge = StandIn::start();
    judge.hold();
    let app = TestApp::serving_with(SMALL, |settings| {
        settings.judges = vec![judge.settings()];
        settings.evaluate.evaluations = 1;
    });
    run(async {
        let mut client = app.evaluation_client().await;
        let first = tokio::spawn(async move { client.evaluate(request(sample(), &["faithfulness"])).await });
        until("the judge is asked", async || judge.in_flight() > 0).await;
        let second = app.evaluation_client().await.evaluate(request(sample(), &["bleu"])).await;
        let status = second.expect_err("there is no place");
        let details = details(&status);
        assert_eq!((status.code(), details.reason.as_str()), (Code::ResourceExhausted, "EVALUATIONS_FULL"));
        assert!(details.retry_in.is_some() && details.pushback_ms.is_some());
        judge.release();
        first.await.expect("no panic").expect("results");
    });
}

#[test]
fn an_unavailable_judge_affects_only_its_metrics() {
    let mut settings = StandIn::start().settings();
    settings.attempts = 1;
    let app = TestApp::serving_with(SMALL, |app| app.judges = vec![settings]);
    run(async {
        let response = evaluate(&app, request(sample(), &["faithfulness", "semantic_similarity"])).await;
        let faithfulness = result(&response, "faithfulness");
        let status = error(faithfulness);
        assert_eq!((faithfulness.status(), status.code()), (MetricStatus::Failed, Code::Unavailable));
        let details = details(&status);
        assert_eq!((details.reason.as_str(), details.retry_in.is_some()), ("JUDGE_UNAVAILABLE", true));
        assert_eq!(result(&response, "semantic_similarity").status(), MetricStatus::Ok);
        for service in ["", "assay.v1.EmbeddingService", "assay.v1.EvaluationService", "liveness"] {
            let check = HealthCheckRequest { service: service.into() };
            let health = app.health().await.check(check).await.expect("a known name").into_inner();
            assert_eq!(health.status(), ServingStatus::Serving, "{service}");
        }
    });
}

#[test]
fn a_judge_is_selected_by_name_only() {
    let (first, second) = (StandIn::start(), StandIn::start());
    let app = TestApp::serving_with(SMALL, |settings| {
        let strict = assay::judge::JudgeSettings { name: "strict".into(), ..second.settings() };
        settings.judges = vec![first.settings(), strict];
    });
    run(async {
        let choose = |name: &str| {
            let options = EvaluateOptions { judge: name.into(), ..EvaluateOptions::default() };
            EvaluateRequest { options: Some(options), ..request(sample(), &["refusal"]) }
        };
        assert_eq!(evaluate(&app, choose("strict")).await.judge, "strict");
        assert!(first.count() == 0 && second.count() > 0);
        assert_eq!(evaluate(&app, choose("")).await.judge, "test");
        let refused = refusal(&app, choose("http://elsewhere")).await;
        assert_eq!(refused.fields, ["options.judge"]);
        assert!(
            refused.descriptions[0].ends_with("configured judges: test, strict"),
            "{:?}",
            refused.descriptions
        );
    });
}
