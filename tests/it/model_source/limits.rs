//! What a hub may send, and what is left behind when it sends more.

use std::{fs, os::unix::fs::symlink, path::PathBuf};

use assay::model::source::SourceError;

use super::bench::{Bench, WEIGHTS};

/// The error, and the setting that it names.
fn too_large(bench: &Bench, setting: &str) -> SourceError {
    let error = bench.refused();
    assert!(matches!(error, SourceError::TooLarge { .. }) && error.is_permanent(), "{error}");
    assert!(error.to_string().contains(&format!("raise {setting} if")), "{error}");
    error
}

/// Partial files that are there.
fn partials(bench: &Bench) -> Vec<PathBuf> {
    let blobs: Vec<_> =
        fs::read_dir(bench.repo().join("blobs")).map(|dir| dir.flatten().collect()).unwrap_or_default();
    let paths = blobs.into_iter().map(|blob| blob.path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "incomplete")).collect()
}

#[test]
fn a_list_without_an_end_is_read_up_to_its_limit() {
    let mut bench = Bench::new();
    bench.settings.max_listing_bytes = 64 << 10;
    bench.hub.list_without_end();
    too_large(&bench, "hub-max-listing-bytes");
    assert_eq!(bench.hub.requests(), ["GET list"], "no use in trying again");
}

#[test]
fn a_list_that_announces_too_much_is_not_read() {
    let mut bench = Bench::new();
    bench.settings.max_listing_bytes = 100;
    too_large(&bench, "hub-max-listing-bytes");
}

#[test]
fn a_list_of_too_many_files_is_refused() {
    let bench = Bench::new();
    bench.hub.list_beside(60_000);
    let error = bench.refused();
    assert!(error.to_string().contains("files, the limit is 50000") && error.is_permanent(), "{error}");
}

#[test]
fn files_that_are_too_large_are_refused_before_a_byte_of_them_is_fetched() {
    for (file, setting) in [(WEIGHTS, "hub-max-file-bytes"), ("modules.json", "hub-max-small-file-bytes")] {
        let mut bench = Bench::new();
        let limit = if file == WEIGHTS {
            &mut bench.settings.max_file_bytes
        } else {
            &mut bench.settings.max_small_file_bytes
        };
        *limit = 50;
        let error = too_large(&bench, setting);
        assert!(error.to_string().contains(file), "{error}");
        assert!(
            bench.hub.requests().iter().all(|request| request.starts_with("HEAD") || request == "GET list")
        );
    }
}

#[test]
fn a_file_without_size_is_fetched_up_to_its_limit_and_then_removed() {
    let mut bench = Bench::new();
    bench.hub.hide_size("tokenizer.json", false);
    bench.assert_whole(&bench.locate().expect("a small file without a size"));

    bench = Bench::new();
    bench.settings.max_small_file_bytes = 3 << 20;
    bench.hub.hide_size("tokenizer.json", true);
    let error = too_large(&bench, "hub-max-small-file-bytes");
    assert!(error.to_string().contains("tokenizer.json"), "{error}");
    assert_eq!(partials(&bench), Vec::<PathBuf>::new());
    assert_eq!(bench.count("GET tokenizer.json"), 1, "no use in trying again");
}

#[test]
fn weights_without_size_and_checksum_are_refused() {
    let bench = Bench::new();
    bench.hub.hide_size(WEIGHTS, false);
    let error = bench.refused();
    assert!(error.to_string().contains("neither a size nor a checksum") && error.is_permanent(), "{error}");
    assert_eq!(bench.count("GET model.safetensors"), 0);
}

#[test]
fn a_download_leaves_the_reserve_of_the_volume() {
    let mut bench = Bench::new();
    bench.settings.disk_reserve_bytes = u64::MAX;
    let error = bench.refused();
    assert!(matches!(error, SourceError::DiskFull { .. }), "{error}");
    assert!(bench.hub.requests().iter().all(|request| request.starts_with("HEAD") || request == "GET list"));
}

#[test]
fn a_disk_that_is_full_is_left_without_a_partial_file() {
    let bench = Bench::new();
    // Writes fail there as on a full disk.
    let partial = bench.repo().join("blobs").join(format!("{}.incomplete", bench.weights_etag()));
    fs::create_dir_all(partial.parent().expect("blobs")).expect("a directory");
    symlink("/dev/full", &partial).expect("a link");
    let error = bench.refused();
    assert!(matches!(error, SourceError::DiskFull { .. }) && error.is_permanent(), "{error}");
    assert_eq!(partials(&bench), Vec::<PathBuf>::new());
    bench.assert_whole(&bench.locate().expect("room again"));
}
