//! Where a model's files come from, and what is said when they cannot.

mod bench;
mod cache;
mod limits;
mod trouble;

use std::{cell::RefCell, fs};

use assay::model::source::{FetchProgress, SourceError, SourceSettings, locate};
use assay::secret::Secret;
use tokio_util::sync::CancellationToken;

use self::bench::{Bench, FILES, TOKEN, WEIGHTS, model_dir, remove, write};

#[test]
fn a_directory_is_used_as_it_is() {
    let model = model_dir();
    let settings =
        SourceSettings { offline: true, ..SourceSettings::new(model.path().to_string_lossy(), "/nowhere") };
    let files = locate(&settings, &CancellationToken::new(), &|_| ()).expect("a whole directory");
    assert_eq!((files.dir.as_path(), files.revision), (model.path(), None));
}

#[test]
fn a_directory_that_lacks_something_says_what() {
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
fn a_name_that_is_neither_directory_nor_id_is_refused() {
    let error = SourceSettings::new("./no/such/dir", "/nowhere");
    let error = locate(&error, &CancellationToken::new(), &|_| ()).expect_err("no such directory");
    assert!(matches!(error, SourceError::BadId { .. }) && error.is_permanent(), "{error}");
}

#[test]
fn a_first_start_fetches_what_a_model_needs_and_no_more() {
    let (bench, files, _) = Bench::warm();
    bench.assert_whole(&files);
    let requests = bench.hub.requests();
    for other in ["onnx", ".bin", "README"] {
        assert!(!requests.iter().any(|request| request.contains(other)), "{requests:?}");
    }
    assert_eq!(bench.count("GET model.safetensors"), 1);
}

#[test]
fn shards_are_fetched_with_their_index() {
    let bench = Bench::new();
    remove(bench.model.path(), WEIGHTS);
    let shard = "model-00001-of-00001.safetensors";
    write(bench.model.path(), shard, b"shard");
    let index = format!(r#"{{"weight_map": {{"a": "{shard}"}}}}"#);
    write(bench.model.path(), "model.safetensors.index.json", index.as_bytes());
    let files = bench.locate().expect("a healthy hub");
    assert_eq!(fs::read(files.dir.join(shard)).ok().as_deref(), Some(b"shard".as_slice()));
}

#[test]
fn a_repository_with_pickles_alone_is_refused_before_any_download() {
    let bench = Bench::new();
    remove(bench.model.path(), WEIGHTS);
    let error = bench.refused();
    assert!(error.is_permanent());
    let text = error.to_string();
    assert!(text.contains("only pytorch_model.bin; Assay reads safetensors"), "{text}");
    assert!(text.contains(&bench.hub.endpoint()), "{text}");
    assert_eq!(bench.hub.requests(), ["GET list"]);
}

#[test]
fn an_unknown_model_or_revision_is_permanent() {
    let mut bench = Bench::new();
    bench.settings.revision = Some("no-such-branch".to_owned());
    let error = bench.refused();
    assert!(matches!(error, SourceError::NotFound { .. }) && error.is_permanent(), "{error}");
    bench.settings.model = "test/unknown".to_owned();
    let error = bench.refused();
    assert!(matches!(error, SourceError::NotFound { .. }) && error.is_permanent(), "{error}");
    assert_eq!(bench.hub.requests().len(), 2, "no use in trying again");
}

#[test]
fn a_gated_model_asks_for_a_token_and_opens_with_it() {
    let mut bench = Bench::new();
    bench.hub.require_token(TOKEN);
    let error = bench.refused();
    assert!(error.is_permanent());
    assert!(error.to_string().contains("set HF_TOKEN"), "{error}");
    bench.settings.token = Some(Secret::new("hf_of_somebody_else"));
    let error = bench.refused();
    assert!(!format!("{error} {error:?} {:?}", bench.settings).contains("somebody_else"), "{error}");
    bench.settings.token = Some(Secret::new(TOKEN));
    bench.assert_whole(&bench.locate().expect("the right token"));
}

#[test]
fn progress_names_the_request_and_counts_all_bytes() {
    let bench = Bench::new();
    let told = RefCell::new(Vec::new());
    locate(&bench.settings, &CancellationToken::new(), &|progress| told.borrow_mut().push(progress))
        .expect("a healthy hub");
    let told = told.into_inner();
    let waiting =
        format!("GET {WEIGHTS} from {}: waiting for the first byte, attempt 1", bench.hub.endpoint());
    assert!(told.iter().any(|progress| progress.to_string() == waiting), "{told:?}");
    let last = told.iter().rev().find_map(|progress| match progress {
        FetchProgress::Fetching { fetched_bytes, total_bytes, .. } => Some((*fetched_bytes, *total_bytes)),
        _ => None,
    });
    let sizes = FILES.map(|file| fs::metadata(bench.model.path().join(file)).expect("a file").len());
    let total: u64 = sizes.iter().sum();
    assert_eq!(last, Some((total, total)));
}
