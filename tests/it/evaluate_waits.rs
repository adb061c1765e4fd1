//! Samples that wait for a judge do not affect others, and end by their deadline.

use std::time::{Duration, Instant};

use assay::proto::{
    EvaluateResponse, EvaluateStreamRequest, MetricStatus, Sample, evaluate_stream_response::Event,
    evaluation_service_client::EvaluationServiceClient,
};
use futures::future::join_all;
use tonic::{Request, transport::Channel};

use crate::{
    evaluate_rpc::{request, result, sample},
    support::{
        app::{self, SMALL, TestApp, run},
        judge::StandIn,
        lag::{BareThread, Lag, check_lag},
    },
};

const STREAMS: usize = 64;
const WAIT: Duration = Duration::from_secs(8);

/// One sample in a stream of its own, with a deadline that only the server keeps.
async fn in_stream(channel: Channel, n: usize) -> (EvaluateResponse, Duration) {
    let begun = Instant::now();
    let sample = Sample { response: format!("There are {n} red foxes in Europe."), ..sample() };
    let metrics = ["faithfulness", "context_recall", "answer_relevancy", "bleu"];
    let message = EvaluateStreamRequest { id: n.to_string(), request: Some(request(sample, &metrics)) };
    let mut stream = Request::new(tokio_stream::iter([message]));
    let timeout = format!("{}m", WAIT.as_millis()).parse().expect("ASCII");
    stream.metadata_mut().insert("grpc-timeout", timeout);
    let answers = EvaluationServiceClient::new(channel).evaluate_stream(stream).await;
    let mut answers = answers.expect("a stream").into_inner();
    let mut told = None;
    while let Some(answer) = answers.message().await.expect("a good end") {
        if let Some(Event::Sample(response)) = answer.event {
            told = Some((response, begun.elapsed()));
        }
    }
    told.expect("what is known")
}

#[test]
fn streams_that_wait_for_a_hanging_judge_end_in_time() {
    let judge = StandIn::start();
    judge.hold();
    check_lag("64 streams that wait for the judge", || {
        let dir = app::random_model(SMALL);
        let mut settings = app::settings(dir.path().to_string_lossy());
        settings.judges = vec![judge.settings()];
        let app = TestApp::start_alone(settings);
        run(async {
            app.until_serving().await;
            let bare = BareThread::start();
            let channel = app.channel().await;
            let samples = join_all((0..STREAMS).map(|n| tokio::spawn(in_stream(channel.clone(), n))));
            let embeds = async {
                let mut client = app.client().await;
                let end = Instant::now() + WAIT / 2;
                while Instant::now() < end {
                    client.embed(app::request(["a short text"])).await.expect("a vector");
                }
            };
            let (samples, ()) = tokio::join!(samples, embeds);
            for sample in samples {
                let (response, took) = sample.expect("no panic");
                assert!(took <= WAIT, "{took:?}");
                for judged in ["faithfulness", "context_recall", "answer_relevancy"] {
                    let result = result(&response, judged);
                    assert_eq!((result.status(), result.score), (MetricStatus::Deadline, None), "{result:?}");
                }
                assert_eq!(result(&response, "bleu").status(), MetricStatus::Ok);
            }
            Lag::of(&app.info().await, bare)
        })
    });
    judge.release();
}
