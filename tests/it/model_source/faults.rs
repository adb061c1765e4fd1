//! A first start while the hub has faults: stalls, broken connections, errors and wrong bytes.

use std::{
    cell::RefCell,
    io::Write,
    net::TcpStream,
    time::{Duration, Instant},
};

use assay::model::source::{FetchProgress, SourceError, locate};
use assay::secret::Secret;
use tokio_util::sync::CancellationToken;

use super::fixture::{HubFixture, TOKEN, WEIGHTS};
use crate::support::hub::Fault;

#[test]
fn the_token_is_not_sent_to_the_storage_host() {
    let mut fixture = HubFixture::new();
    fixture.hub.require_token(TOKEN);
    fixture.hub.use_storage();
    fixture.settings.token = Some(Secret::new(TOKEN));
    fixture.assert_whole(&fixture.locate().expect("a healthy hub"));
    assert_eq!(fixture.count("GET storage model.safetensors"), 1);
    assert!(!fixture.hub.storage_saw_token());
}

#[test]
fn the_fake_storage_detects_a_token() {
    let fixture = HubFixture::new();
    let mut storage = TcpStream::connect(fixture.hub.storage_address()).expect("storage listens");
    write!(storage, "GET /{WEIGHTS} HTTP/1.0\r\nAuthorization: Bearer {TOKEN}\r\n\r\n")
        .expect("an open connection");
    fixture.hub.wait_for("GET storage");
    assert!(fixture.hub.storage_saw_token());
}

#[test]
fn a_broken_download_from_storage_is_resumed() {
    let fixture = HubFixture::new();
    fixture.hub.use_storage();
    fixture.hub.set_fault_times(Fault::Short { after_bytes: 1000 }, 1);
    fixture.assert_whole(&fixture.locate().expect("one cut"));
    assert_eq!(fixture.count("GET storage model.safetensors from 1000"), 1);
}

#[test]
fn a_silent_hub_is_reported_with_its_address() {
    let mut fixture = HubFixture::new().impatient();
    fixture.settings.attempts = 2;
    fixture.hub.set_fault(Fault::Silent);
    let error = fixture.refused();
    let text = error.to_string();
    assert!(!error.is_permanent());
    assert!(text.contains("after 2 attempts: no data received for 300ms"), "{text}");
    assert!(text.contains(&fixture.hub.endpoint()), "{text}");
    assert_eq!(fixture.count("GET list"), 2);
}

#[test]
fn a_stalled_download_is_resumed() {
    let fixture = HubFixture::new().impatient();
    fixture.hub.set_fault_times(Fault::Stall { after_bytes: 1000 }, 1);
    fixture.assert_whole(&fixture.locate().expect("one stall"));
    assert_eq!(fixture.count("GET model.safetensors from 1000"), 1);
}

#[test]
fn three_503_responses_are_retried() {
    let fixture = HubFixture::new();
    fixture.hub.set_fault_times(Fault::Unavailable { retry_after_seconds: None }, 3);
    fixture.assert_whole(&fixture.locate().expect("the fourth attempt"));
    assert_eq!(fixture.count("GET list"), 4);
}

#[test]
fn attempts_are_counted_and_limited() {
    let mut fixture = HubFixture::new();
    fixture.settings.attempts = 3;
    fixture.hub.set_fault(Fault::Unavailable { retry_after_seconds: None });
    let error = fixture.refused();
    assert!(error.to_string().contains("after 3 attempts") && error.to_string().contains("503"), "{error}");
    assert_eq!(fixture.count("GET list"), 3);
}

#[test]
fn a_retry_after_header_is_respected() {
    let fixture = HubFixture::new();
    fixture.hub.set_fault(Fault::Unavailable { retry_after_seconds: Some(100) });
    let cancel = CancellationToken::new();
    let pauses = RefCell::new(Vec::new());
    let outcome = locate(&fixture.settings, &cancel, &|progress| {
        if let FetchProgress::Retrying { pause, attempt, .. } = progress {
            pauses.borrow_mut().push((pause, attempt));
            cancel.cancel();
        }
    });
    assert!(matches!(outcome, Err(SourceError::Cancelled)), "{outcome:?}");
    assert_eq!(*pauses.borrow(), [(Duration::from_secs(100), 2)]);
}

#[test]
fn a_truncated_response_is_retried() {
    let fixture = HubFixture::new();
    fixture.hub.set_fault_times(Fault::Short { after_bytes: 1000 }, 1);
    fixture.assert_whole(&fixture.locate().expect("one short body"));
    assert_eq!(fixture.count("GET model.safetensors from 1000"), 1);
}

#[test]
fn a_download_survives_many_broken_connections() {
    let mut fixture = HubFixture::new();
    fixture.settings.attempts = 2;
    fixture.hub.set_fault(Fault::Short { after_bytes: 50_000 });
    fixture.assert_whole(&fixture.locate().expect("six pieces"));
    assert_eq!(fixture.count("GET model.safetensors from 250000"), 1);
}

#[test]
fn without_range_support_the_file_is_sent_again() {
    let fixture = HubFixture::new();
    fixture.hub.ignore_ranges();
    fixture.hub.set_fault_times(Fault::Short { after_bytes: 1000 }, 1);
    fixture.assert_whole(&fixture.locate().expect("one short body"));
    let asked = fixture.hub.requests();
    let asked = asked.iter().filter(|request| request.starts_with("GET model.safetensors"));
    assert_eq!(asked.collect::<Vec<_>>(), ["GET model.safetensors", "GET model.safetensors from 1000"]);
}

#[test]
fn a_failed_download_is_resumed_in_the_next_run() {
    let mut fixture = HubFixture::new().impatient();
    fixture.settings.attempts = 1;
    fixture.hub.set_fault_times(Fault::Stall { after_bytes: 5000 }, 1);
    let first = fixture.locate();
    assert!(first.is_err(), "{first:?}");
    fixture.hub.clear_fault();
    fixture.assert_whole(&fixture.locate().expect("a healthy hub"));
    assert_eq!(fixture.count("GET model.safetensors from 5000"), 1);
}

#[test]
fn corrupt_bytes_are_downloaded_again() {
    let fixture = HubFixture::new();
    fixture.hub.set_fault_times(Fault::WrongBytes, 1);
    fixture.assert_whole(&fixture.locate().expect("right bytes the second time"));
    assert_eq!(fixture.count("GET model.safetensors"), 2);
}

#[test]
fn repeated_corruption_is_reported_with_both_checksums() {
    let mut fixture = HubFixture::new();
    fixture.settings.attempts = 2;
    fixture.hub.set_fault(Fault::WrongBytes);
    let SourceError::Corrupt { file, expected, found, .. } = fixture.refused() else {
        panic!("not taken for corrupt");
    };
    assert_eq!((file.as_str(), &expected), (WEIGHTS, &fixture.weights_etag()));
    assert!(found.len() == 64 && found != expected, "{found}");
    let blob = fixture.repo().join("blobs").join(&expected);
    assert!(!blob.exists() && !blob.with_extension("incomplete").exists());
}

#[test]
fn a_hub_that_is_down_is_reported_with_its_address() {
    let mut fixture = HubFixture::new();
    fixture.settings.attempts = 2;
    fixture.hub.set_fault(Fault::Refuse);
    let error = fixture.refused();
    assert!(!error.is_permanent());
    let text = error.to_string();
    assert!(text.contains("refused") && text.contains(&fixture.hub.endpoint()), "{text}");
    fixture.hub.clear_fault();
    fixture.assert_whole(&fixture.locate().expect("the hub is back"));
}

#[test]
fn cancellation_interrupts_a_wait() {
    let fixture = HubFixture::new();
    fixture.hub.set_fault(Fault::Silent);
    let cancel = CancellationToken::new();
    std::thread::scope(|scope| {
        let located = scope.spawn(|| locate(&fixture.settings, &cancel, &|_| ()));
        fixture.hub.wait_for("GET list");
        let asked = Instant::now();
        cancel.cancel();
        let outcome = located.join().expect("no panic");
        assert!(matches!(outcome, Err(SourceError::Cancelled)), "{outcome:?}");
        assert!(asked.elapsed() < fixture.settings.idle_timeout / 2);
    });
}

#[test]
fn the_total_timeout_ends_a_download() {
    let mut fixture = HubFixture::new();
    fixture.settings.total_timeout = Duration::from_millis(300);
    fixture.hub.set_fault(Fault::Silent);
    let error = fixture.refused();
    assert!(matches!(error, SourceError::TimedOut { .. }), "{error}");
    assert!(error.to_string().contains(&fixture.hub.endpoint()), "{error}");
}
