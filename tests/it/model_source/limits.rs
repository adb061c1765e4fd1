//! Limits on what a hub may send, and cleanup when it sends more.

use std::{fs, os::unix::fs::symlink, path::PathBuf};

use assay::model::source::SourceError;

use super::fixture::{HubFixture, WEIGHTS};

/// Checks that the error names the setting.
fn too_large(fixture: &HubFixture, setting: &str) -> SourceError {
    let error = fixture.refused();
    assert!(matches!(error, SourceError::TooLarge { .. }) && error.is_permanent(), "{error}");
    assert!(error.to_string().contains(&format!("raise {setting} if")), "{error}");
    error
}

/// Partial files in the cache.
fn partials(fixture: &HubFixture) -> Vec<PathBuf> {
    let blobs: Vec<_> =
        fs::read_dir(fixture.repo().join("blobs")).map(|dir| dir.flatten().collect()).unwrap_or_default();
    let paths = blobs.into_iter().map(|blob| blob.path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "incomplete")).collect()
}

#[test]
fn an_endless_list_is_read_up_to_its_limit() {
    let mut fixture = HubFixture::new();
    fixture.settings.max_listing_bytes = 64 << 10;
    fixture.hub.list_without_end();
    too_large(&fixture, "hub-max-listing-bytes");
    assert_eq!(fixture.hub.requests(), ["GET list"], "no use in trying again");
}

#[test]
fn a_list_with_a_too_large_length_is_not_read() {
    let mut fixture = HubFixture::new();
    fixture.settings.max_listing_bytes = 100;
    too_large(&fixture, "hub-max-listing-bytes");
}

#[test]
fn a_list_of_too_many_files_is_rejected() {
    let fixture = HubFixture::new();
    fixture.hub.list_beside(60_000);
    let error = fixture.refused();
    assert!(error.to_string().contains("files, the limit is 50000") && error.is_permanent(), "{error}");
}

#[test]
fn too_large_files_are_rejected_before_the_download() {
    for (file, setting) in [(WEIGHTS, "hub-max-file-bytes"), ("modules.json", "hub-max-small-file-bytes")] {
        let mut fixture = HubFixture::new();
        let limit = if file == WEIGHTS {
            &mut fixture.settings.max_file_bytes
        } else {
            &mut fixture.settings.max_small_file_bytes
        };
        *limit = 50;
        let error = too_large(&fixture, setting);
        assert!(error.to_string().contains(file), "{error}");
        assert!(
            fixture.hub.requests().iter().all(|request| request.starts_with("HEAD") || request == "GET list")
        );
    }
}

#[test]
fn a_file_without_size_is_removed_above_its_limit() {
    let mut fixture = HubFixture::new();
    fixture.hub.hide_size("tokenizer.json", false);
    fixture.assert_whole(&fixture.locate().expect("a small file without a size"));

    fixture = HubFixture::new();
    fixture.settings.max_small_file_bytes = 3 << 20;
    fixture.hub.hide_size("tokenizer.json", true);
    let error = too_large(&fixture, "hub-max-small-file-bytes");
    assert!(error.to_string().contains("tokenizer.json"), "{error}");
    assert_eq!(partials(&fixture), Vec::<PathBuf>::new());
    assert_eq!(fixture.count("GET tokenizer.json"), 1, "no use in trying again");
}

#[test]
fn weights_without_size_and_checksum_are_rejected() {
    let fixture = HubFixture::new();
    fixture.hub.hide_size(WEIGHTS, false);
    let error = fixture.refused();
    assert!(error.to_string().contains("neither a size nor a checksum") && error.is_permanent(), "{error}");
    assert_eq!(fixture.count("GET model.safetensors"), 0);
}

#[test]
fn a_download_leaves_the_disk_reserve_free() {
    let mut fixture = HubFixture::new();
    fixture.settings.disk_reserve_bytes = u64::MAX;
    let error = fixture.refused();
    assert!(matches!(error, SourceError::DiskFull { .. }), "{error}");
    assert!(
        fixture.hub.requests().iter().all(|request| request.starts_with("HEAD") || request == "GET list")
    );
}

#[test]
fn a_full_disk_keeps_no_partial_file() {
    let fixture = HubFixture::new();
    // Writes to this device fail as on a full disk.
    let partial = fixture.repo().join("blobs").join(format!("{}.incomplete", fixture.weights_etag()));
    fs::create_dir_all(partial.parent().expect("blobs")).expect("a directory");
    symlink("/dev/full", &partial).expect("a link");
    let error = fixture.refused();
    assert!(matches!(error, SourceError::DiskFull { .. }) && error.is_permanent(), "{error}");
    assert_eq!(partials(&fixture), Vec::<PathBuf>::new());
    fixture.assert_whole(&fixture.locate().expect("room again"));
}
