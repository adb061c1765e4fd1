//! Location and download of model files, and the errors when that fails.

mod cache;
mod faults;
mod fixture;
mod limits;

use std::{cell::RefCell, fs};

use assay::model::source::{FetchProgress, SourceError, SourceSettings, locate};
use assay::secret::Secret;
use tokio_util::sync::CancellationToken;

use self::fixture::{FILES, HubFixture, TOKEN, WEIGHTS, model_dir, remove, write};

#[test]
fn a_local_directory_is_used() {
    let model = model_dir();
    let settings =
        SourceSettings { offline: true, ..SourceSettings::new(model.path().to_string_lossy(), "/nowhere") };
    let files = locate(&settings, &CancellationToken::new(), &|_| ()).expect("a whole directory");
    assert_eq!((files.dir.as_path(), files.revision), (model.path(), None));
}

#[test]
fn an_incomplete_directory_names_the_missing_file() {
    for missing in ["tokenizer.json", WEIGHTS, "1_Pooling/config.json"] {
        let model = model_dir();
        remove(model.path(), missing);
        let settings = SourceSettings::new(model.path().to_string_lossy(), "/nowhere");
        let error = locate(&settings, &CancellationToken::new(), &|_| ()).expect_err("an incomplete model");
        assert!(error.is_permanent());
        assert!(error.to_string().contains(&format!("has no {missing}")), "{error}");
    }
}

#[test]
fn a_name_that_is_neither_directory_nor_id_is_rejected() {
    let error = SourceSettings::new("./no/such/dir", "/nowhere");
    let error = locate(&error, &CancellationToken::new(), &|_| ()).expect_err("no such directory");
    assert!(matches!(error, SourceError::BadId { .. }) && error.is_permanent(), "{error}");
}

#[test]
fn a_first_start_downloads_only_the_files_of_the_model() {
    let (fixture, files, _) = HubFixture::warm();
    fixture.assert_whole(&files);
    let requests = fixture.hub.requests();
    for other in ["onnx", ".bin", "README"] {
        assert!(!requests.iter().any(|request| request.contains(other)), "{requests:?}");
    }
    assert_eq!(fixture.count("GET model.safetensors"), 1);
}

#[test]
fn shards_are_downloaded_with_their_index() {
    let fixture = HubFixture::new();
    remove(fixture.model.path(), WEIGHTS);
    let shard = "model-00001-of-00001.safetensors";
    write(fixture.model.path(), shard, b"shard");
    let index = format!(r#"{{"weight_map": {{"a": "{shard}"}}}}"#);
    write(fixture.model.path(), "model.safetensors.index.json", index.as_bytes());
    let files = fixture.locate().expect("a healthy hub");
    assert_eq!(fs::read(files.dir.join(shard)).ok().as_deref(), Some(b"shard".as_slice()));
}

#[test]
fn a_repository_with_only_pickles_is_rejected_undownloaded() {
    let fixture = HubFixture::new();
    remove(fixture.model.path(), WEIGHTS);
    let error = fixture.refused();
    assert!(error.is_permanent());
    let text = error.to_string();
    assert!(text.contains("only pytorch_model.bin; Assay reads safetensors"), "{text}");
    assert!(text.contains(&fixture.hub.endpoint()), "{text}");
    assert_eq!(fixture.hub.requests(), ["GET list"]);
}

#[test]
fn an_unknown_model_or_revision_is_a_permanent_error() {
    let mut fixture = HubFixture::new();
    fixture.settings.revision = Some("no-such-branch".to_owned());
    let error = fixture.refused();
    assert!(matches!(error, SourceError::NotFound { .. }) && error.is_permanent(), "{error}");
    fixture.settings.model = "test/unknown".to_owned();
    let error = fixture.refused();
    assert!(matches!(error, SourceError::NotFound { .. }) && error.is_permanent(), "{error}");
    assert_eq!(fixture.hub.requests().len(), 2, "no use in trying again");
}

#[test]
fn a_gated_model_needs_a_token() {
    let mut fixture = HubFixture::new();
    fixture.hub.require_token(TOKEN);
    let error = fixture.refused();
    assert!(error.is_permanent());
    assert!(error.to_string().contains("set HF_TOKEN"), "{error}");
    fixture.settings.token = Some(Secret::new("hf_of_somebody_else"));
    let error = fixture.refused();
    assert!(!format!("{error} {error:?} {:?}", fixture.settings).contains("somebody_else"), "{error}");
    fixture.settings.token = Some(Secret::new(TOKEN));
    fixture.assert_whole(&fixture.locate().expect("the right token"));
}

#[test]
fn progress_names_the_request_and_counts_all_bytes() {
    let fixture = HubFixture::new();
    let told = RefCell::new(Vec::new());
    locate(&fixture.settings, &CancellationToken::new(), &|progress| told.borrow_mut().push(progress))
        .expect("a healthy hub");
    let told = told.into_inner();
    let waiting =
        format!("GET {WEIGHTS} from {}: waiting for the first byte, attempt 1", fixture.hub.endpoint());
    assert!(told.iter().any(|progress| progress.to_string() == waiting), "{told:?}");
    let last = told.iter().rev().find_map(|progress| match progress {
        FetchProgress::Fetching { fetched_bytes, total_bytes, .. } => Some((*fetched_bytes, *total_bytes)),
        _ => None,
    });
    let sizes = FILES.map(|file| fs::metadata(fixture.model.path().join(file)).expect("a file").len());
    let total: u64 = sizes.iter().sum();
    assert_eq!(last, Some((total, total)));
}
