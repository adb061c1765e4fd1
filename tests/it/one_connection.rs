//! Isolation of calls on one connection.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use assay::proto::{
    GetServerInfoRequest, embedding_service_client::EmbeddingServiceClient,
    server_service_client::ServerServiceClient,
};
use futures::{StreamExt, stream};
use tonic::Request;

use crate::support::app::{TestApp, item, run, until};

/// Below the limit of one input.
const TEXT_BYTES: usize = 100 << 10;

#[test]
fn a_blocked_stream_does_not_block_its_connection() {
    let (app, _dir) = TestApp::without_model();
    run(async {
        let channel = app.channel().await;
        let sent = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sent);
        let items = stream::iter(0..).map(move |n| {
            count.fetch_add(1, Ordering::Relaxed);
            item(n, "x".repeat(TEXT_BYTES))
        });
        // Nothing is answered, as there is no model to wait for.
        let mut request = Request::new(items);
        request.metadata_mut().insert("assay-wait-for-ready", "true".parse().expect("a value"));
        let mut client = EmbeddingServiceClient::new(channel.clone());
        let flood = tokio::spawn(async move { client.embed_stream(request).await.map(|_| ()) });
        let (mut last, mut still) = (0, 0);
        until("the flood to stand still", async || {
            // The first that cannot be sent any more waits for ever.
            let mut server = ServerServiceClient::new(channel.clone());
            server.get_server_info(GetServerInfoRequest {}).await.expect("an answer");
            let now = sent.load(Ordering::Relaxed);
            still = if now == last && now > 64 { still + 1 } else { 0 };
            last = now;
            still > 100
        })
        .await;
        flood.abort();
    });
}
