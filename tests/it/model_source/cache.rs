//! The hub cache on disk: layout, offline starts, updates and concurrent processes.

use std::{
    fs::{self, File},
    path::Path,
    time::Duration,
};

use assay::model::source::{SourceError, verify};
use tokio_util::sync::CancellationToken;

use super::fixture::{HubFixture, WEIGHTS, WEIGHTS_BYTES, write};
use crate::support::hub::Fault;

#[test]
fn the_cache_has_the_layout_of_huggingface_hub() {
    let (fixture, files, _) = HubFixture::warm();
    let commit = fixture.hub.commit();
    assert_eq!(files.dir, fixture.repo().join("snapshots").join(&commit));
    assert_eq!(fs::read_to_string(fixture.repo().join("refs/main")).ok(), Some(commit));
    let link = |file| fs::read_link(files.dir.join(file)).expect("a link");
    assert_eq!(link(WEIGHTS), Path::new("../../blobs").join(fixture.weights_etag()));
    assert!(link("1_Pooling/config.json").starts_with("../../../blobs"));
    let mut blobs = fs::read_dir(fixture.repo().join("blobs")).expect("blobs").flatten();
    assert!(blobs.all(|blob| !blob.file_name().to_string_lossy().contains('.')));
}

#[test]
fn a_blob_of_the_wrong_length_is_downloaded_again() {
    let fixture = HubFixture::new();
    write(&fixture.repo().join("blobs"), &fixture.weights_etag(), b"cut off by somebody");
    fixture.assert_whole(&fixture.locate().expect("a healthy hub"));
}

#[test]
fn a_warm_cache_starts_with_every_fault_of_the_hub() {
    let unavailable = Fault::Unavailable { retry_after_seconds: Some(100) };
    for fault in [Fault::Refuse, Fault::Silent, unavailable] {
        let (fixture, files, _) = HubFixture::warm();
        let fixture = fixture.impatient();
        fixture.hub.set_fault(fault);
        assert_eq!(fixture.locate().expect("a warm cache"), files, "{fault:?}");
    }
}

#[test]
fn offline_mode_uses_the_cache_without_requests() {
    let (mut fixture, files, asked) = HubFixture::warm();
    fixture.settings.offline = true;
    assert_eq!(fixture.locate().expect("a warm cache"), files);
    assert_eq!(fixture.hub.requests().len(), asked);
}

#[test]
fn offline_mode_without_the_model_is_an_error() {
    let mut fixture = HubFixture::new();
    fixture.settings.offline = true;
    let error = fixture.refused();
    assert!(matches!(error, SourceError::NotCached { .. }) && error.is_permanent(), "{error}");
    assert!(error.to_string().contains("HF_HUB_OFFLINE"), "{error}");
    assert!(fixture.hub.requests().is_empty());
}

#[test]
fn an_up_to_date_cache_costs_one_request() {
    let (fixture, files, asked) = HubFixture::warm();
    assert_eq!(fixture.locate().expect("a warm cache"), files);
    assert_eq!(fixture.hub.requests()[asked..], ["GET list"]);
}

#[test]
fn a_cached_commit_needs_no_request() {
    let (mut fixture, files, asked) = HubFixture::warm();
    fixture.settings.revision = Some(fixture.hub.commit());
    assert_eq!(fixture.locate().expect("a warm cache"), files);
    assert_eq!(fixture.hub.requests().len(), asked);
}

#[test]
fn only_changed_files_of_a_new_commit_are_downloaded() {
    let (fixture, old, asked) = HubFixture::warm();
    write(fixture.model.path(), "config.json", b"{\"model_type\": \"other\"}");
    let new = fixture.locate().expect("a healthy hub");
    assert_ne!(new.revision, old.revision);
    fixture.assert_whole(&new);
    let gets =
        fixture.hub.requests().split_off(asked).into_iter().filter(|request| request.starts_with("GET"));
    assert_eq!(gets.collect::<Vec<_>>(), ["GET list", "GET config.json"]);
}

#[test]
fn a_failed_update_keeps_the_old_commit() {
    let (mut fixture, old, _) = HubFixture::warm();
    fixture.settings.attempts = 2;
    write(fixture.model.path(), WEIGHTS, b"other weights, of other length");
    fixture.hub.set_fault(Fault::WrongBytes);
    assert_eq!(fixture.locate().expect("a warm cache"), old);
    fixture.settings.offline = true;
    assert_eq!(fixture.locate().expect("a warm cache"), old, "the ref still means the whole snapshot");
}

#[test]
fn a_cached_model_starts_with_an_invalid_endpoint() {
    let (mut fixture, files, _) = HubFixture::warm();
    fixture.settings.endpoint = "hub without scheme".to_owned();
    assert_eq!(fixture.locate().expect("a warm cache"), files);
}

#[test]
fn damaged_weights_are_detected_and_downloaded_again() {
    let (fixture, files, _) = HubFixture::warm();
    let check = || verify(&files, &CancellationToken::new(), &|_| ());
    check().expect("whole files");
    write(&files.dir, WEIGHTS, &[7; WEIGHTS_BYTES]);
    let error = check().expect_err("damaged weights");
    assert!(matches!(error, SourceError::Damaged { .. }), "{error}");
    fixture.assert_whole(&fixture.locate().expect("a healthy hub"));
    check().expect("whole files");
}

#[test]
fn concurrent_processes_download_the_weights_once() {
    let fixture = HubFixture::new();
    std::thread::scope(|scope| {
        let both = [scope.spawn(|| fixture.locate()), scope.spawn(|| fixture.locate())];
        for one in both {
            fixture.assert_whole(&one.join().expect("no panic").expect("a healthy hub"));
        }
    });
    assert_eq!(fixture.count("GET model.safetensors"), 1);
}

#[test]
fn a_lock_that_is_never_released_is_reported() {
    let mut fixture = HubFixture::new();
    fixture.settings.idle_timeout = Duration::from_millis(300);
    let lock = fixture
        .cache
        .path()
        .join(".locks/models--test--model")
        .join(format!("{}.lock", fixture.weights_etag()));
    fs::create_dir_all(lock.parent().expect("a directory")).expect("a writable cache");
    let held = File::create(&lock).expect("a writable cache");
    held.lock().expect("a free lock");
    let error = fixture.refused();
    assert!(matches!(&error, SourceError::Locked { lock: named, .. } if *named == lock), "{error}");
    drop(held);
    fixture.assert_whole(&fixture.locate().expect("a free lock"));
}

#[test]
fn a_full_disk_is_reported_as_such() {
    let fixture = HubFixture::new();
    let partial = fixture.repo().join("blobs").join(format!("{}.incomplete", fixture.weights_etag()));
    fs::create_dir_all(partial.parent().expect("a directory")).expect("a writable cache");
    std::os::unix::fs::symlink("/dev/full", &partial).expect("a writable cache");
    let error = fixture.refused();
    assert!(matches!(error, SourceError::DiskFull { .. }) && error.is_permanent(), "{error:?}");
}
