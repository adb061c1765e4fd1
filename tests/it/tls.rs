//! TLS on the serving port: client authentication, and certificate rotation with calls in flight.

use std::{
    io::{Read as _, Write as _},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use assay::proto::{
    GetServerInfoRequest, embedding_service_client::EmbeddingServiceClient,
    server_service_client::ServerServiceClient,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::support::{
    app::{SMALL, TestApp, request, run, settings, until},
    certificates::{Authority, Certificate, Client, Files, client_config, handshake},
};

/// Looks at its files all the time.
const EVERY: Duration = Duration::from_millis(10);

fn start(files: &Files) -> (TestApp, tempfile::TempDir) {
    let model = tempfile::tempdir().expect("a directory");
    let mut settings = settings(model.path().to_string_lossy());
    files.apply(&mut settings);
    settings.rpc.security.reload_every = EVERY;
    (TestApp::start(settings), model)
}

async fn ask(channel: Channel) -> Result<(), tonic::Status> {
    ServerServiceClient::new(channel).get_server_info(GetServerInfoRequest {}).await.map(|_| ())
}

/// Over a connection of its own.
async fn answers(app: &TestApp, client: &Client) -> bool {
    match client.connect(app.address()).await {
        // By TLS 1.3, a client learns that it was refused when it asks.
        Ok(channel) => ask(channel).await.is_ok(),
        Err(_) => false,
    }
}

#[test]
fn certificates_are_rotated_under_load_and_no_call_fails() {
    let authority = Authority::new("of the server");
    let certificates: Vec<Certificate> = (0..4).map(|_| authority.server()).collect();
    let files = Files::new(&certificates[0]);
    let app = TestApp::serving_with(SMALL, |settings| {
        files.apply(settings);
        settings.rpc.security.reload_every = EVERY;
    });
    run(async {
        let (stop, calls) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let load = |fresh: bool| {
            let (stop, calls, address) = (stop.clone(), calls.clone(), app.address());
            let client = Client::new(&authority, None);
            tokio::spawn(async move {
                let mut channel = client.connect(address).await.expect("a connection");
                while !stop.is_cancelled() {
                    if fresh {
                        channel = client.connect(address).await.expect("a connection");
                    }
                    let mut client = EmbeddingServiceClient::new(channel.clone());
                    client.embed(request(["a text"])).await.expect("no call fails");
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let load: Vec<_> = [false, false, true, true].map(load).into();
        let observer = Client::new(&authority, None);
        for certificate in certificates.iter().cycle().skip(1).take(8) {
            let before = calls.load(Ordering::Relaxed);
            files.set_certificate(certificate);
            until("the new certificate", async || {
                answers(&app, &observer).await && observer.saw(certificate)
            })
            .await;
            until("calls after it", async || calls.load(Ordering::Relaxed) > before + 8).await;
        }
        stop.cancel();
        for load in load {
            load.await.expect("no call failed");
        }
        assert!(app.metric("assay_reloads_total", "what=\"tls\",outcome=\"ok\"").await >= 8.0);
        assert_eq!(app.metric("assay_tls_handshakes_total", "failed").await, 0.0);
        println!("{} calls over 8 rotations", calls.load(Ordering::Relaxed));
    });
}

#[test]
fn an_invalid_certificate_file_keeps_the_old_certificate() {
    let authority = Authority::new("of the server");
    let (old, new) = (authority.server(), authority.server());
    let files = Files::new(&old);
    let (app, _model) = start(&files);
    run(async {
        let client = Client::new(&authority, None);
        let failed = "what=\"tls\",outcome=\"failed\"";
        let bad = [("cert.pem", "no certificate"), ("cert.pem", &new.pem), ("key.pem", "no key")];
        for (count, (name, text)) in (1_u8..).zip(bad) {
            files.write(name, text);
            app.until_metric("assay_reloads_total", failed, |failed| failed >= f64::from(count)).await;
            assert!(answers(&app, &client).await && client.saw(&old));
        }
        files.set_certificate(&new);
        until("the new certificate", async || answers(&app, &client).await && client.saw(&new)).await;
    });
}

#[test]
fn only_clients_with_a_certificate_of_the_ca_can_connect() {
    let (authority, other) = (Authority::new("of all"), Authority::new("of others"));
    let files = Files::new(&authority.server());
    files.set_client_authority(&authority);
    let (app, _model) = start(&files);
    run(async {
        let known = Client::new(&authority, Some(&authority.client("spiffe://test/known")));
        let stranger = Client::new(&authority, Some(&other.client("spiffe://test/known")));
        assert!(answers(&app, &known).await);
        assert!(!answers(&app, &Client::new(&authority, None)).await);
        assert!(!answers(&app, &stranger).await);
        assert!(!answers(&app, &Client::new(&other, Some(&authority.client("spiffe://test/known")))).await);
        app.until_metric("assay_tls_handshakes_total", "failed", |failed| failed >= 3.0).await;

        // Its authority is no longer trusted: what is open stays, and nothing new is let in.
        let open = known.connect(app.address()).await.expect("a connection");
        ask(open.clone()).await.expect("an answer");
        files.set_client_authority(&other);
        until("the other authority", async || answers(&app, &stranger).await).await;
        assert!(!answers(&app, &known).await);
        ask(open).await.expect("an answer over the open connection");
    });
}

#[test]
fn plain_text_and_other_protocols_are_rejected() {
    let authority = Authority::new("of the server");
    let files = Files::new(&authority.server());
    let (app, _model) = start(&files);
    run(async {
        let plain = tonic::transport::Endpoint::from_shared(app.url()).expect("a URL").connect().await;
        match plain {
            Ok(channel) => assert!(ask(channel).await.is_err()),
            Err(error) => println!("{error}"),
        }
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let config = client_config(&authority, None, &[version]);
            let stream = handshake(app.address(), Arc::new(config)).await.expect("a handshake");
            assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        }
        let mut config = client_config(&authority, None, rustls::ALL_VERSIONS);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        handshake(app.address(), Arc::new(config)).await.expect_err("no HTTP/1.1");
    });
}

/// The first record of the answer to a client that knows this version at most: its type, and what is in it.
fn answer_to_hello(app: &TestApp, version: [u8; 2]) -> (u8, Vec<u8>) {
    let groups = [0, 10, 0, 4, 0, 2, 0, 29];
    let signatures = [0, 13, 0, 4, 0, 2, 4, 3];
    let mut hello = version.to_vec();
    hello.extend([7; 32]);
    // No session, one suite (ECDHE_ECDSA with AES-128-GCM), no compression.
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0, 0, 16]);
    hello.extend([groups, signatures].concat());
    let length = u8::try_from(hello.len()).expect("a short hello");
    let mut connection = std::net::TcpStream::connect(app.address()).expect("a connection");
    let head = [22, 3, 1, 0, length + 4, 1, 0, 0, length];
    connection.write_all(&[&head[..], &hello].concat()).expect("sent");
    let mut head = [0; 5];
    connection.read_exact(&mut head).expect("a record");
    let mut content = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
    connection.read_exact(&mut content).expect("the whole record");
    (head[0], content)
}

#[test]
fn a_tls_1_1_client_is_rejected() {
    let files = Files::new(&Authority::new("of the server").server());
    let (app, _model) = start(&files);
    let (alert, fatal, protocol_version) = (21, 2, 70);
    assert_eq!(answer_to_hello(&app, [3, 2]), (alert, vec![fatal, protocol_version]));
    let (handshake, server_hello) = (22, 2);
    let (kind, content) = answer_to_hello(&app, [3, 3]);
    assert_eq!((kind, content[0]), (handshake, server_hello), "{content:?}");
}

#[test]
fn a_server_does_not_start_with_invalid_tls_files() {
    let files = Files::new(&Authority::new("of the server").server());
    files.write("key.pem", "planted");
    let mut settings = settings("/nowhere");
    files.apply(&mut settings);
    let error = format!("{:#}", assay::app::App::start(settings).err().expect("refused"));
    assert!(error.contains("key.pem") && !error.contains("planted"), "{error}");
}
