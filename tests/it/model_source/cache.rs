//! What the cache promises, to this process and to others beside it.

use std::{
    fs::{self, File},
    path::Path,
    time::Duration,
};

use assay::model::source::{SourceError, verify};
use tokio_util::sync::CancellationToken;

use super::bench::{Bench, WEIGHTS, WEIGHTS_BYTES, write};
use crate::support::hub::Fault;

#[test]
fn the_cache_has_the_standard_layout() {
    let (bench, files, _) = Bench::warm();
    let commit = bench.hub.commit();
    assert_eq!(files.dir, bench.repo().join("snapshots").join(&commit));
    assert_eq!(fs::read_to_string(bench.repo().join("refs/main")).ok(), Some(commit));
    let link = |file| fs::read_link(files.dir.join(file)).expect("a link");
    assert_eq!(link(WEIGHTS), Path::new("../../blobs").join(bench.weights_etag()));
    assert!(link("1_Pooling/config.json").starts_with("../../../blobs"));
    let mut blobs = fs::read_dir(bench.repo().join("blobs")).expect("blobs").flatten();
    assert!(blobs.all(|blob| !blob.file_name().to_string_lossy().contains('.')));
}

#[test]
fn a_blob_of_the_wrong_length_is_fetched_again() {
    let bench = Bench::new();
    write(&bench.repo().join("blobs"), &bench.weights_etag(), b"cut off by somebody");
    bench.assert_whole(&bench.locate().expect("a healthy hub"));
}

#[test]
fn a_warm_cache_starts_whatever_the_hub_does() {
    let unavailable = Fault::Unavailable { retry_after_seconds: Some(100) };
    for fault in [Fault::Refuse, Fault::Silent, unavailable] {
        let (bench, files, _) = Bench::warm();
        let bench = bench.impatient();
        bench.hub.set_fault(fault);
        assert_eq!(bench.locate().expect("a warm cache"), files, "{fault:?}");
    }
}

#[test]
fn offline_uses_the_cache_and_asks_nobody() {
    let (mut bench, files, asked) = Bench::warm();
    bench.settings.offline = true;
    assert_eq!(bench.locate().expect("a warm cache"), files);
    assert_eq!(bench.hub.requests().len(), asked);
}

#[test]
fn offline_without_the_model_says_so() {
    let mut bench = Bench::new();
    bench.settings.offline = true;
    let error = bench.refused();
    assert!(matches!(error, SourceError::NotCached { .. }) && error.is_permanent(), "{error}");
    assert!(error.to_string().contains("HF_HUB_OFFLINE"), "{error}");
    assert!(bench.hub.requests().is_empty());
}

#[test]
fn a_cache_that_is_up_to_date_costs_one_question() {
    let (bench, files, asked) = Bench::warm();
    assert_eq!(bench.locate().expect("a warm cache"), files);
    assert_eq!(bench.hub.requests()[asked..], ["GET list"]);
}

#[test]
fn a_cached_commit_asks_nobody() {
    let (mut bench, files, asked) = Bench::warm();
    bench.settings.revision = Some(bench.hub.commit());
    assert_eq!(bench.locate().expect("a warm cache"), files);
    assert_eq!(bench.hub.requests().len(), asked);
}

#[test]
fn a_new_commit_is_fetched_without_what_did_not_change() {
    let (bench, old, asked) = Bench::warm();
    write(bench.model.path(), "config.json", b"{\"model_type\": \"other\"}");
    let new = bench.locate().expect("a healthy hub");
    assert_ne!(new.revision, old.revision);
    bench.assert_whole(&new);
    let gets = bench.hub.requests().split_off(asked).into_iter().filter(|request| request.starts_with("GET"));
    assert_eq!(gets.collect::<Vec<_>>(), ["GET list", "GET config.json"]);
}

#[test]
fn a_new_commit_that_cannot_be_fetched_leaves_the_old_one() {
    let (mut bench, old, _) = Bench::warm();
    bench.settings.attempts = 2;
    write(bench.model.path(), WEIGHTS, b"other weights, of other length");
    bench.hub.set_fault(Fault::WrongBytes);
    assert_eq!(bench.locate().expect("a warm cache"), old);
    bench.settings.offline = true;
    assert_eq!(bench.locate().expect("a warm cache"), old, "the ref still means the whole snapshot");
}

#[test]
fn a_cached_model_starts_although_the_endpoint_makes_no_sense() {
    let (mut bench, files, _) = Bench::warm();
    bench.settings.endpoint = "hub without scheme".to_owned();
    assert_eq!(bench.locate().expect("a warm cache"), files);
}

#[test]
fn weights_damaged_in_the_cache_are_found_and_fetched_again() {
    let (bench, files, _) = Bench::warm();
    let check = || verify(&files, &CancellationToken::new(), &|_| ());
    check().expect("whole files");
    write(&files.dir, WEIGHTS, &[7; WEIGHTS_BYTES]);
    let error = check().expect_err("damaged weights");
    assert!(matches!(error, SourceError::Damaged { .. }), "{error}");
    bench.assert_whole(&bench.locate().expect("a healthy hub"));
    check().expect("whole files");
}

#[test]
fn two_at_once_fetch_the_weights_once() {
    let bench = Bench::new();
    std::thread::scope(|scope| {
        let both = [scope.spawn(|| bench.locate()), scope.spawn(|| bench.locate())];
        for one in both {
            bench.assert_whole(&one.join().expect("no panic").expect("a healthy hub"));
        }
    });
    assert_eq!(bench.count("GET model.safetensors"), 1);
}

#[test]
fn a_lock_that_is_never_freed_ends_by_name() {
    let mut bench = Bench::new();
    bench.settings.idle_timeout = Duration::from_millis(300);
    let lock =
        bench.cache.path().join(".locks/models--test--model").join(format!("{}.lock", bench.weights_etag()));
    fs::create_dir_all(lock.parent().expect("a directory")).expect("a writable cache");
    let held = File::create(&lock).expect("a writable cache");
    held.lock().expect("a free lock");
    let error = bench.refused();
    assert!(matches!(&error, SourceError::Locked { lock: named, .. } if *named == lock), "{error}");
    drop(held);
    bench.assert_whole(&bench.locate().expect("a free lock"));
}

#[test]
fn a_full_disk_is_called_that() {
    let bench = Bench::new();
    let partial = bench.repo().join("blobs").join(format!("{}.incomplete", bench.weights_etag()));
    fs::create_dir_all(partial.parent().expect("a directory")).expect("a writable cache");
    std::os::unix::fs::symlink("/dev/full", &partial).expect("a writable cache");
    let error = bench.refused();
    assert!(matches!(error, SourceError::DiskFull { .. }) && error.is_permanent(), "{error:?}");
}
