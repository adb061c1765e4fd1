//! What a hub in trouble does to a first start.

use std::{
    cell::RefCell,
    io::Write,
    net::TcpStream,
    time::{Duration, Instant},
};

use assay::model::source::{FetchProgress, SourceError, locate};
use assay::secret::Secret;
use tokio_util::sync::CancellationToken;

use super::bench::{Bench, TOKEN, WEIGHTS};
use crate::support::hub::Fault;

#[test]
fn storage_on_another_host_never_sees_the_token() {
    let mut bench = Bench::new();
    bench.hub.require_token(TOKEN);
    bench.hub.use_storage();
    bench.settings.token = Some(Secret::new(TOKEN));
    bench.assert_whole(&bench.locate().expect("a healthy hub"));
    assert_eq!(bench.count("GET storage model.safetensors"), 1);
    assert!(!bench.hub.storage_saw_token());
}

#[test]
fn the_stand_in_would_notice_a_token_at_storage() {
    let bench = Bench::new();
    let mut storage = TcpStream::connect(bench.hub.storage_address()).expect("storage listens");
    write!(storage, "GET /{WEIGHTS} HTTP/1.0\r\nAuthorization: Bearer {TOKEN}\r\n\r\n")
        .expect("an open connection");
    bench.hub.wait_for("GET storage");
    assert!(bench.hub.storage_saw_token());
}

#[test]
fn a_cut_on_the_way_from_storage_is_resumed() {
    let bench = Bench::new();
    bench.hub.use_storage();
    bench.hub.set_fault_times(Fault::Short { after_bytes: 1000 }, 1);
    bench.assert_whole(&bench.locate().expect("one cut"));
    assert_eq!(bench.count("GET storage model.safetensors from 1000"), 1);
}

#[test]
fn a_silent_hub_is_given_up_by_name() {
    let mut bench = Bench::new().impatient();
    bench.settings.attempts = 2;
    bench.hub.set_fault(Fault::Silent);
    let error = bench.refused();
    let text = error.to_string();
    assert!(!error.is_permanent());
    assert!(text.contains("after 2 attempts: no data received for 300ms"), "{text}");
    assert!(text.contains(&bench.hub.endpoint()), "{text}");
    assert_eq!(bench.count("GET list"), 2);
}

#[test]
fn a_stall_in_the_body_is_resumed() {
    let bench = Bench::new().impatient();
    bench.hub.set_fault_times(Fault::Stall { after_bytes: 1000 }, 1);
    bench.assert_whole(&bench.locate().expect("one stall"));
    assert_eq!(bench.count("GET model.safetensors from 1000"), 1);
}

#[test]
fn three_times_503_is_endured() {
    let bench = Bench::new();
    bench.hub.set_fault_times(Fault::Unavailable { retry_after_seconds: None }, 3);
    bench.assert_whole(&bench.locate().expect("the fourth attempt"));
    assert_eq!(bench.count("GET list"), 4);
}

#[test]
fn attempts_are_counted_and_end() {
    let mut bench = Bench::new();
    bench.settings.attempts = 3;
    bench.hub.set_fault(Fault::Unavailable { retry_after_seconds: None });
    let error = bench.refused();
    assert!(error.to_string().contains("after 3 attempts") && error.to_string().contains("503"), "{error}");
    assert_eq!(bench.count("GET list"), 3);
}

#[test]
fn the_pause_that_a_server_asks_for_is_kept() {
    let bench = Bench::new();
    bench.hub.set_fault(Fault::Unavailable { retry_after_seconds: Some(100) });
    let cancel = CancellationToken::new();
    let pauses = RefCell::new(Vec::new());
    let outcome = locate(&bench.settings, &cancel, &|progress| {
        if let FetchProgress::Retrying { pause, attempt, .. } = progress {
            pauses.borrow_mut().push((pause, attempt));
            cancel.cancel();
        }
    });
    assert!(matches!(outcome, Err(SourceError::Cancelled)), "{outcome:?}");
    assert_eq!(*pauses.borrow(), [(Duration::from_secs(100), 2)]);
}

#[test]
fn a_short_body_is_fetched_again() {
    let bench = Bench::new();
    bench.hub.set_fault_times(Fault::Short { after_bytes: 1000 }, 1);
    bench.assert_whole(&bench.locate().expect("one short body"));
    assert_eq!(bench.count("GET model.safetensors from 1000"), 1);
}

#[test]
fn a_line_that_breaks_often_but_brings_bytes_gets_there() {
    let mut bench = Bench::new();
    bench.settings.attempts = 2;
    bench.hub.set_fault(Fault::Short { after_bytes: 50_000 });
    bench.assert_whole(&bench.locate().expect("six pieces"));
    assert_eq!(bench.count("GET model.safetensors from 250000"), 1);
}

#[test]
fn a_server_without_ranges_sends_it_all_again() {
    let bench = Bench::new();
    bench.hub.ignore_ranges();
    bench.hub.set_fault_times(Fault::Short { after_bytes: 1000 }, 1);
    bench.assert_whole(&bench.locate().expect("one short body"));
    let asked = bench.hub.requests();
    let asked = asked.iter().filter(|request| request.starts_with("GET model.safetensors"));
    assert_eq!(asked.collect::<Vec<_>>(), ["GET model.safetensors", "GET model.safetensors from 1000"]);
}

#[test]
fn a_fetch_that_was_given_up_goes_on_in_the_next_run() {
    let mut bench = Bench::new().impatient();
    bench.settings.attempts = 1;
    bench.hub.set_fault_times(Fault::Stall { after_bytes: 5000 }, 1);
    let first = bench.locate();
    assert!(first.is_err(), "{first:?}");
    bench.hub.clear_fault();
    bench.assert_whole(&bench.locate().expect("a healthy hub"));
    assert_eq!(bench.count("GET model.safetensors from 5000"), 1);
}

#[test]
fn wrong_bytes_are_dropped_and_fetched_again() {
    let bench = Bench::new();
    bench.hub.set_fault_times(Fault::WrongBytes, 1);
    bench.assert_whole(&bench.locate().expect("right bytes the second time"));
    assert_eq!(bench.count("GET model.safetensors"), 2);
}

#[test]
fn wrong_bytes_each_time_end_with_both_checksums_and_leave_nothing() {
    let mut bench = Bench::new();
    bench.settings.attempts = 2;
    bench.hub.set_fault(Fault::WrongBytes);
    let SourceError::Corrupt { file, expected, found, .. } = bench.refused() else {
        panic!("not taken for corrupt");
    };
    assert_eq!((file.as_str(), &expected), (WEIGHTS, &bench.weights_etag()));
    assert!(found.len() == 64 && found != expected, "{found}");
    let blob = bench.repo().join("blobs").join(&expected);
    assert!(!blob.exists() && !blob.with_extension("incomplete").exists());
}

#[test]
fn a_hub_that_is_down_fails_a_first_start_by_name() {
    let mut bench = Bench::new();
    bench.settings.attempts = 2;
    bench.hub.set_fault(Fault::Refuse);
    let error = bench.refused();
    assert!(!error.is_permanent());
    let text = error.to_string();
    assert!(text.contains("refused") && text.contains(&bench.hub.endpoint()), "{text}");
    bench.hub.clear_fault();
    bench.assert_whole(&bench.locate().expect("the hub is back"));
}

#[test]
fn cancelling_ends_a_wait_at_once() {
    let bench = Bench::new();
    bench.hub.set_fault(Fault::Silent);
    let cancel = CancellationToken::new();
    std::thread::scope(|scope| {
        let located = scope.spawn(|| locate(&bench.settings, &cancel, &|_| ()));
        bench.hub.wait_for("GET list");
        let asked = Instant::now();
        cancel.cancel();
        let outcome = located.join().expect("no panic");
        assert!(matches!(outcome, Err(SourceError::Cancelled)), "{outcome:?}");
        assert!(asked.elapsed() < bench.settings.idle_timeout / 2);
    });
}

#[test]
fn the_total_limit_ends_a_fetch_that_never_would() {
    let mut bench = Bench::new();
    bench.settings.total_timeout = Duration::from_millis(300);
    bench.hub.set_fault(Fault::Silent);
    let error = bench.refused();
    assert!(matches!(error, SourceError::TimedOut { .. }), "{error}");
    assert!(error.to_string().contains(&bench.hub.endpoint()), "{error}");
}
