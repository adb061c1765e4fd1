//! Export to a collector, including one that is slow or silent, and the log of calls.

use std::{net::TcpListener, time::Duration};

use assay::{
    app::AppSettings,
    judge,
    proto::{
        GetServerInfoRequest, embedding_service_client::EmbeddingServiceClient,
        server_service_client::ServerServiceClient,
    },
    telemetry::otlp::{OtlpHeader, OtlpSignals, TraceSampling},
};
use futures::stream;
use http_body_util::Full;
use hyper_util::{client::legacy, rt::TokioExecutor};
use opentelemetry_proto::tonic::{
    metrics::v1::{AggregationTemporality, Metric, metric::Data, number_data_point::Value as Number},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use tonic::{Code, Request};

use crate::{
    evaluate_rpc::{request as evaluation, sample},
    secrets::Program,
    support::{
        app::{SMALL, TestApp, connect, item, request, run, until},
        certificates::Files,
        collector::{self, All, Collector, attribute, hex},
        judge::{Fault, StandIn},
    },
};

const EMBED: &str = "assay.v1.EmbeddingService/Embed";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

fn traced<T>(message: T, flags: &str) -> Request<T> {
    let mut request = Request::new(message);
    let parent = format!("00-{TRACE}-{CALLER}-{flags}");
    request.metadata_mut().insert("traceparent", parent.parse().expect("ASCII"));
    request.metadata_mut().insert("tracestate", "vendor=1".parse().expect("ASCII"));
    request
}

fn serving(collector: &Collector, change: impl FnOnce(&mut AppSettings)) -> TestApp {
    TestApp::serving_with(SMALL, |settings| {
        settings.otlp = Some(collector.settings());
        change(settings);
    })
}

fn judged(collector: &Collector, judge: &StandIn) -> TestApp {
    let judge = judge::JudgeSettings { name: "default".into(), ..judge.settings() };
    serving(collector, |settings| settings.judges = vec![judge])
}

fn is_child(child: &Span, parent: &Span) -> bool {
    child.parent_span_id == parent.span_id && child.trace_id == parent.trace_id
}

fn of(span: &Span, name: &str) -> String {
    attribute(&span.attributes, name).unwrap_or_default()
}

fn is_error(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error)
}

#[test]
fn a_call_is_one_trace_through_queue_and_forward_pass() {
    let collector = Collector::start();
    let mut app = serving(&collector, |settings| {
        let otlp = settings.otlp.as_mut().expect("it is set");
        otlp.resource = vec![("k8s.pod.name".into(), "pod-a".into())];
        otlp.headers = vec![OtlpHeader::new("X-Team", "planted-header".into()).expect("a header")];
    });
    let all = run(async {
        let text = "a planted text ".repeat(12);
        app.client().await.embed(traced(request([text.clone(), text]), "01")).await.expect("vectors");
        // All spans of the call are sent before the drain ends.
        assert!(app.drain().await);
        collector.all()
    });
    let server = all.span(EMBED);
    assert_eq!((hex(&server.trace_id), hex(&server.parent_span_id)), (TRACE.into(), CALLER.into()));
    assert_eq!((server.kind(), &*server.trace_state), (SpanKind::Server, "vendor=1"));
    assert_eq!(of(server, "rpc.system.name"), "grpc");
    assert_eq!(
        (of(server, "rpc.method"), of(server, "rpc.response.status_code")),
        (EMBED.into(), "OK".into())
    );
    assert!(!is_error(server) && !of(server, "assay.request_id").is_empty());
    let [tokenize, queue, compute] = ["tokenize", "queue", "compute"].map(|name| all.span(name));
    assert!([tokenize, queue, compute].iter().all(|span| is_child(span, server) && !is_error(span)));
    assert_eq!((of(compute, "assay.inputs"), of(compute, "assay.pass.inputs")), ("2".into(), "2".into()));
    assert!(queue.end_time_unix_nano.abs_diff(compute.start_time_unix_nano) < 1_000_000_000);
    let resource = &all.resource.as_ref().expect("a resource").attributes;
    let names = ["service.name", "k8s.pod.name", "service.version"].map(|name| attribute(resource, name));
    assert_eq!(names, ["assay", "pod-a", env!("CARGO_PKG_VERSION")].map(|value| Some(value.to_owned())));
    assert!(all.headers.iter().all(|headers| headers.get("x-team").is_some_and(|v| v == "planted-header")));
    assert!(!format!("{:?}{:?}", all.spans, all.events).contains("planted"));
}

#[test]
fn an_evaluation_is_one_trace_and_its_scores_are_events() {
    let (collector, judge) = (Collector::start(), StandIn::start());
    let mut app = judged(&collector, &judge);
    judge.fail_once(Fault::Status(503));
    let all = run(async {
        let asked = evaluation(sample(), &["context_relevance", "exact_match", "semantic_similarity"]);
        app.evaluation_client().await.evaluate(traced(asked, "01")).await.expect("results");
        assert!(app.drain().await);
        collector.all()
    });
    let server = all.span("assay.v1.EvaluationService/Evaluate");
    let metric = all.span("evaluate context_relevance");
    assert!(is_child(metric, server));
    let chats = all.spans_named("chat stand-in");
    assert!(!chats.is_empty() && chats.iter().all(|chat| is_child(chat, metric) && !is_error(chat)));
    for (name, value) in [
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.provider.name", "openai"),
        ("gen_ai.request.model", "stand-in"),
        ("server.address", "127.0.0.1"),
    ] {
        assert_eq!(of(chats[0], name), value, "{name}");
    }
    assert!(of(chats[0], "gen_ai.usage.input_tokens").parse::<u64>().is_ok_and(|tokens| tokens > 0));
    let posts = all.spans_named("POST");
    let failed: Vec<&&Span> = posts.iter().filter(|post| is_error(post)).collect();
    let [failed] = failed[..] else { panic!("one failed: {posts:?}") };
    assert_eq!(of(failed, "http.response.status_code"), "503");
    assert_eq!(of(failed, "error.type"), "unavailable");
    let again = posts.iter().find(|post| of(post, "http.request.resend_count") == "1").expect("a retry");
    assert_eq!((of(again, "http.response.status_code"), again.kind()), ("200".into(), SpanKind::Client));
    assert_eq!(again.parent_span_id, failed.parent_span_id);
    // Each attempt sends its own span as the parent.
    let told: Vec<String> = judge
        .requests()
        .iter()
        .map(|logged| logged.asked.header("traceparent").expect("a parent").to_owned())
        .collect();
    for post in &posts {
        let parent = format!("00-{TRACE}-{}-01", hex(&post.span_id));
        assert!(told.contains(&parent), "{parent} is not in {told:?}");
    }
    // The embedding of a metric is its child.
    let similarity = all.span("evaluate semantic_similarity");
    assert!(all.spans_named("compute").iter().all(|span| is_child(span, similarity)));

    let event = |name: &str| {
        let named = |event: &&_| named_event(event, name);
        all.events.iter().find(named).unwrap_or_else(|| panic!("no event of {name}"))
    };
    let relevance = event("context_relevance");
    assert_eq!((&relevance.span_id, &relevance.trace_id), (&metric.span_id, &metric.trace_id));
    assert_eq!(relevance.event_name, "gen_ai.evaluation.result");
    let score = attribute(&relevance.attributes, "gen_ai.evaluation.score.value").expect("a score");
    assert_eq!(score, of(metric, "gen_ai.evaluation.score.value"));
    assert_eq!(attribute(&relevance.attributes, "gen_ai.response.id").as_deref(), Some("fox"));
    let label = attribute(&event("exact_match").attributes, "gen_ai.evaluation.score.label");
    assert_eq!(label.as_deref(), Some("fail"));
    assert_eq!(all.events.len(), 3);
    let everything = format!("{:?}{:?}", all.spans, all.events);
    assert!(!everything.contains("Red foxes") && !everything.contains("Europe"));
}

fn named_event(event: &opentelemetry_proto::tonic::logs::v1::LogRecord, name: &str) -> bool {
    attribute(&event.attributes, "gen_ai.evaluation.name").as_deref() == Some(name)
}

#[test]
fn an_unsampled_trace_has_no_spans_but_is_propagated() {
    let (collector, judge) = (Collector::start(), StandIn::start());
    let mut app = judged(&collector, &judge);
    let all = run(async {
        let asked = evaluation(sample(), &["context_relevance"]);
        app.evaluation_client().await.evaluate(traced(asked, "00")).await.expect("results");
        assert!(app.drain().await);
        collector.all()
    });
    assert!(all.spans.is_empty(), "{:?}", all.names());
    let told = judge.last().header("traceparent").expect("a parent").to_owned();
    assert!(told.starts_with(&format!("00-{TRACE}-")) && told.ends_with("-00"), "{told}");
    let [event] = &all.events[..] else { panic!("{:?}", all.events) };
    assert_eq!((hex(&event.trace_id), event.flags), (TRACE.into(), 0));
}

#[test]
fn the_sampler_always_off_creates_no_span() {
    let collector = Collector::start();
    let mut app = serving(&collector, |settings| {
        let otlp = settings.otlp.as_mut().expect("it is set");
        otlp.sampling = TraceSampling { follows_caller: false, ratio: 0.0 };
    });
    let all = run(async {
        app.client().await.embed(traced(request(["a"]), "01")).await.expect("vectors");
        assert!(app.drain().await);
        collector.all()
    });
    assert!(all.spans.is_empty(), "{:?}", all.names());
}

#[test]
fn failures_are_marked_and_probes_have_no_trace() {
    let collector = Collector::start();
    let mut app = serving(&collector, |_| ());
    let all = run(async {
        app.health().await.check(tonic_health::pb::HealthCheckRequest::default()).await.expect("an answer");
        let too_long = "word ".repeat(4000);
        let status = app.client().await.embed(request([too_long])).await.expect_err("refused");
        assert_eq!(status.code(), Code::InvalidArgument);
        let mut late = Request::new(request(["a"]));
        late.set_timeout(Duration::ZERO);
        app.client().await.embed(late).await.expect_err("too late");
        assert!(app.drain().await);
        collector.all()
    });
    let [first, second] = all.spans_named(EMBED)[..] else { panic!("{:?}", all.names()) };
    assert_eq!(of(first, "rpc.response.status_code"), "INVALID_ARGUMENT");
    assert!(!is_error(first), "the caller's own doing is no error of the server");
    assert_eq!(of(second, "error.type"), of(second, "rpc.response.status_code"));
    assert!(is_error(second) && first.parent_span_id.is_empty());
    assert!(all.names().iter().all(|name| !name.contains("grpc.")), "{:?}", all.names());
}

#[test]
fn a_stream_has_a_span_for_each_input_up_to_a_limit() {
    let collector = Collector::start();
    let mut app = serving(&collector, |settings| {
        settings.otlp.as_mut().expect("it is set").queue = 1 << 14;
    });
    let all = run(async {
        let items: Vec<_> = (0..400).map(|index| item(index, "a")).collect();
        let mut answers =
            app.client().await.embed_stream(stream::iter(items)).await.expect("a stream").into_inner();
        while answers.message().await.expect("a good end").is_some() {}
        assert!(app.drain().await);
        collector.all()
    });
    let server = all.span("assay.v1.EmbeddingService/EmbedStream");
    let inputs = all.spans_named("input");
    assert!(inputs.iter().all(|input| is_child(input, server)));
    let first = inputs[0];
    for name in ["admission", "tokenize", "queue", "compute"] {
        assert_eq!(all.spans_named(name).iter().filter(|span| is_child(span, first)).count(), 1, "{name}");
    }
    assert_eq!(all.spans.len(), 1001);
    assert!(of(server, "assay.spans_left_out").parse::<u64>().is_ok_and(|left_out| left_out >= 400));
}

#[test]
fn a_silent_collector_does_not_delay_callers() {
    let deaf = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = deaf.local_addr().expect("an address");
    let mut app = TestApp::serving_with(SMALL, |settings| {
        let mut otlp = collector::settings(address);
        otlp.queue = 8;
        otlp.timeout = Duration::from_millis(50);
        settings.otlp = Some(otlp);
    });
    run(async {
        let client = app.client().await;
        for reason in ["failed", "queue_full"] {
            until(reason, async || {
                client.clone().embed(request(["a"])).await.expect("vectors");
                app.metric("assay_otlp_dropped_total", &format!("reason=\"{reason}\"")).await > 0.0
            })
            .await;
        }
        assert!(app.drain().await, "no call was cut off");
    });
}

#[test]
fn exported_metrics_equal_the_metrics_page() {
    let collector = Collector::start();
    let app = serving(&collector, |settings| {
        let otlp = settings.otlp.as_mut().expect("it is set");
        otlp.signals = OtlpSignals { traces: false, events: false, metrics: true };
        otlp.metrics_interval = Duration::from_millis(20);
    });
    let (all, page) = run(async {
        for _ in 0..3 {
            app.client().await.embed(request(["a"])).await.expect("vectors");
        }
        let arrived = |all: &All| value(all, "assay_rpc_started", EMBED) == Some(3.0) && calls(all) == 3;
        (collector.until("the metrics of three calls", arrived).await, app.get("/metrics").await.1)
    });
    assert!(all.spans.is_empty() && all.events.is_empty());
    // The exported metrics have the names and series that scrapers see.
    let written = |line: &str| line.strip_prefix("# TYPE ")?.split_once(' ').map(|(name, _)| name.to_owned());
    let names: Vec<String> = page.lines().filter_map(written).collect();
    for metric in &all.metrics {
        assert!(names.contains(&metric.name), "{} is not on the page", metric.name);
    }
    assert!(all.metrics.len() > 25, "{}", all.metrics.len());
    let seconds = named(&all, "assay_rpc_seconds");
    let Some(Data::Histogram(histogram)) = &seconds.data else { panic!("{seconds:?}") };
    assert_eq!(
        (&*seconds.unit, histogram.aggregation_temporality()),
        ("s", AggregationTemporality::Cumulative)
    );
    for point in &histogram.data_points {
        assert_eq!(point.bucket_counts.iter().sum::<u64>(), point.count);
        assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
        assert!(point.start_time_unix_nano > 0 && point.time_unix_nano > point.start_time_unix_nano);
    }
}

fn named<'a>(all: &'a All, name: &str) -> &'a Metric {
    all.metrics.iter().find(|metric| metric.name == name).unwrap_or_else(|| panic!("no {name}"))
}

/// Value of the series of a counter that has this label.
fn value(all: &All, name: &str, label: &str) -> Option<f64> {
    let metric = all.metrics.iter().find(|metric| metric.name == name)?;
    let Some(Data::Sum(sum)) = &metric.data else { panic!("{metric:?}") };
    assert!(sum.is_monotonic);
    let point = sum.data_points.iter().find(|point| {
        point
            .attributes
            .iter()
            .any(|one| attribute(std::slice::from_ref(one), &one.key).as_deref() == Some(label))
    });
    match point?.value {
        Some(Number::AsDouble(value)) => Some(value),
        other => panic!("{other:?}"),
    }
}

/// Number of observed embed calls.
fn calls(all: &All) -> u64 {
    let Some(Data::Histogram(histogram)) = &named(all, "assay_rpc_seconds").data else {
        panic!("a histogram")
    };
    let points = histogram.data_points.iter();
    points
        .filter(|point| attribute(&point.attributes, "method").as_deref() == Some(EMBED))
        .map(|p| p.count)
        .sum()
}

/// Log lines of calls by method, after the program has written all of them.
async fn logged(ratio: &str, traces: &[&str]) -> Vec<String> {
    let files = Files::empty();
    let nowhere = files.dir().to_string_lossy().into_owned();
    let program = Program::start(
        &files,
        &[
            ["--model", &nowhere],
            ["--listen", "127.0.0.1:0"],
            ["--admin-listen", "127.0.0.1:0"],
            ["--log", "debug"],
            ["--log-format", "json"],
            ["--log-sample-ratio", ratio],
            ["--log-slow-after", "1h"],
        ]
        .concat(),
    );
    let (address, _) = program.addresses().await;
    let channel = connect(format!("http://{address}")).await;
    for trace in traces {
        let mut asked = Request::new(GetServerInfoRequest {});
        let parent = format!("00-{trace}-{CALLER}-01");
        asked.metadata_mut().insert("traceparent", parent.parse().expect("ASCII"));
        ServerServiceClient::new(channel.clone()).get_server_info(asked).await.expect("an answer");
    }
    // Without a model the call fails, and failures are always logged; this is the last line.
    EmbeddingServiceClient::new(channel).embed(request(["a"])).await.expect_err("not ready");
    let answered = || {
        let log = program.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let lines = lines.filter(|line| line["message"] == "call finished");
        lines.map(|line| line["traceparent"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    until("the line of the failure", async || answered().iter().any(String::is_empty)).await;
    answered()
}

#[test]
fn log_lines_are_sampled_and_failures_always_logged() {
    const LOW: &str = "0af7651916cd43dd0000000000000001";
    const HIGH: &str = "0af7651916cd43ddffffffffffffffff";
    run(async {
        assert_eq!(logged("1", &[LOW, HIGH]).await.len(), 3);
        assert_eq!(logged("0", &[LOW, HIGH]).await, [""]);
        let half = logged("0.5", &[LOW, HIGH, LOW]).await;
        let low = format!("00-{LOW}-{CALLER}-01");
        assert_eq!(half, [&*low, &*low, ""]);
    });
}

/// Lines of /metrics without comments.
async fn series(app: &TestApp) -> usize {
    app.get("/metrics").await.1.lines().filter(|line| !line.starts_with('#')).count()
}

#[test]
fn callers_cannot_create_series() {
    let (collector, judge) = (Collector::start(), StandIn::start());
    let app = judged(&collector, &judge);
    let client = legacy::Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let odd = async |round: u32| {
        let request = http::Request::post(format!("{}/odd.Service{round}/Method{round}", app.url()))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", format!("agent-{round}"))
            .header("x-request-id", format!("id-{round}"))
            .header("x-caller", format!("caller-{round}"))
            .header("traceparent", format!("00-{round:032x}-{round:016x}-01"))
            .body(Full::<bytes::Bytes>::default());
        client.request(request.expect("a request")).await.expect("an answer");
        let mut channel = EmbeddingServiceClient::new(app.channel().await);
        let mut embed = Request::new(request_of(round));
        embed.metadata_mut().insert("x-request-id", format!("id-{round}").parse().expect("ASCII"));
        channel.embed(embed).await.expect("vectors");
        let mut asked = evaluation(sample(), &["exact_match", &format!("metric_{round}")]);
        asked.sample.as_mut().expect("a sample").id = format!("sample-{round}");
        let options = assay::proto::EvaluateOptions { judge: format!("judge-{round}"), ..Default::default() };
        asked.options = Some(options);
        app.evaluation_client().await.evaluate(asked).await.expect_err("there is no such metric");
    };
    run(async {
        // One call of each kind creates all series.
        odd(1).await;
        let before = series(&app).await;
        for round in 2..60 {
            odd(round).await;
        }
        assert_eq!(series(&app).await, before);
    });
}

fn request_of(round: u32) -> assay::proto::EmbedRequest {
    request([format!("text {round}")])
}
