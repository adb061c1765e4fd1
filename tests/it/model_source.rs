//! Where a model's files come from, and what a hub in trouble does to a start.

use std::{
    cell::RefCell,
    fs::{self, File},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use assay::{
    model::source::{ModelFiles, Progress, Settings, SourceError, locate, verify},
    secret::Secret,
};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::support::hub::{Fault, Hub, MODEL_ID};

const WEIGHTS: &str = "model.safetensors";
const WEIGHTS_BYTES: usize = 300_000;
const FILES: [&str; 5] = ["config.json", "tokenizer.json", "modules.json", "1_Pooling/config.json", WEIGHTS];
const TOKEN: &str = "hf_only_for_the_hub";

/// A hub with a small model, and an empty cache.
struct Bench {
    hub: Hub,
    model: TempDir,
    cache: TempDir,
    settings: Settings,
}

impl Bench {
    fn new() -> Self {
        let (model, cache) = (model_dir(), TempDir::new().expect("a temporary directory"));
        let hub = Hub::start(model.path());
        let settings = Settings {
            endpoint: hub.endpoint(),
            connect_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(10),
            total_timeout: Duration::from_secs(60),
            backoff: Duration::from_millis(2),
            ..Settings::new(MODEL_ID, cache.path())
        };
        Self { hub, model, cache, settings }
    }

    /// With a cache that has the model already, and the requests for it forgotten.
    fn warm() -> (Self, ModelFiles, usize) {
        let bench = Self::new();
        let files = bench.locate().expect("a healthy hub");
        let asked = bench.hub.requests().len();
        (bench, files, asked)
    }

    fn impatient(mut self) -> Self {
        self.settings.idle_timeout = Duration::from_millis(300);
        self
    }

    fn locate(&self) -> Result<ModelFiles, SourceError> {
        locate(&self.settings, &CancellationToken::new(), &|_| ())
    }

    fn refused(&self) -> SourceError {
        self.locate().expect_err("no model to be had")
    }

    fn repo(&self) -> PathBuf {
        self.cache.path().join("models--test--model")
    }

    fn count(&self, request: &str) -> usize {
        self.hub.requests().iter().filter(|logged| *logged == request).count()
    }

    fn weights_etag(&self) -> String {
        let bytes = fs::read(self.model.path().join(WEIGHTS)).expect("weights of the model");
        Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn assert_whole(&self, files: &ModelFiles) {
        for file in FILES {
            let (served, located) = (self.model.path().join(file), files.dir.join(file));
            assert_eq!(fs::read(served).ok(), fs::read(&located).ok(), "{}", located.display());
        }
    }
}

fn model_dir() -> TempDir {
    let dir = TempDir::new().expect("a temporary directory");
    let weights: Vec<u8> =
        (0..WEIGHTS_BYTES as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let pooling = r#"[{"path": "", "type": "m.Transformer"}, {"path": "1_Pooling", "type": "m.Pooling"}]"#;
    write(dir.path(), "config.json", b"{\"model_type\": \"bert\"}");
    write(dir.path(), "tokenizer.json", b"{}");
    write(dir.path(), "modules.json", pooling.as_bytes());
    write(dir.path(), "1_Pooling/config.json", b"{\"pooling_mode_mean_tokens\": true}");
    write(dir.path(), WEIGHTS, &weights);
    for other in ["pytorch_model.bin", "onnx/model.onnx", "onnx/config.json", "README.md"] {
        write(dir.path(), other, b"not for us");
    }
    dir
}

fn write(dir: &Path, file: &str, bytes: &[u8]) {
    let path = dir.join(file);
    fs::create_dir_all(path.parent().expect("a file in a directory")).expect("a writable directory");
    fs::write(path, bytes).expect("a writable directory");
}

fn remove(dir: &Path, file: &str) {
    fs::remove_file(dir.join(file)).expect("a file of the model");
}

#[test]
fn a_directory_is_used_as_it_is() {
    let model = model_dir();
    let settings = Settings { offline: true, ..Settings::new(model.path().to_string_lossy(), "/nowhere") };
    let files = locate(&settings, &CancellationToken::new(), &|_| ()).expect("a whole directory");
    assert_eq!((files.dir.as_path(), files.revision), (model.path(), None));
}

#[test]
fn a_directory_that_lacks_something_says_what() {
    for missing in ["tokenizer.json", WEIGHTS, "1_Pooling/config.json"] {
        let model = model_dir();
        remove(model.path(), missing);
        let settings = Settings::new(model.path().to_string_lossy(), "/nowhere");
        let error = locate(&settings, &CancellationToken::new(), &|_| ()).expect_err("an incomplete model");
        assert!(error.is_permanent());
        assert!(error.to_string().contains(&format!("has no {missing}")), "{error}");
    }
}

#[test]
fn a_name_that_is_neither_directory_nor_id_is_refused() {
    let error = Settings::new("./no/such/dir", "/nowhere");
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
    assert!(text.contains("after 2 attempts: no bytes for 300ms"), "{text}");
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
        if let Progress::Retrying { pause, attempt, .. } = progress {
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
fn a_blob_of_the_wrong_length_is_fetched_again() {
    let bench = Bench::new();
    write(&bench.repo().join("blobs"), &bench.weights_etag(), b"cut off by somebody");
    bench.assert_whole(&bench.locate().expect("a healthy hub"));
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
        Progress::Fetching { fetched_bytes, total_bytes, .. } => Some((*fetched_bytes, *total_bytes)),
        _ => None,
    });
    let sizes = FILES.map(|file| fs::metadata(bench.model.path().join(file)).expect("a file").len());
    let total: u64 = sizes.iter().sum();
    assert_eq!(last, Some((total, total)));
}
