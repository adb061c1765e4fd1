//! Fixture of the tests: a hub with a small model, and an empty cache.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use assay::model::source::{ModelFiles, SourceError, SourceSettings, locate};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::support::hub::{Hub, MODEL_ID};

pub const WEIGHTS: &str = "model.safetensors";
pub const WEIGHTS_BYTES: usize = 300_000;
pub const FILES: [&str; 5] =
    ["config.json", "tokenizer.json", "modules.json", "1_Pooling/config.json", WEIGHTS];
pub const TOKEN: &str = "hf_only_for_the_hub";

/// A hub with a small model, and an empty cache.
pub struct HubFixture {
    pub hub: Hub,
    pub model: TempDir,
    pub cache: TempDir,
    pub settings: SourceSettings,
}

impl HubFixture {
    pub fn new() -> Self {
        let (model, cache) = (model_dir(), TempDir::new().expect("a temporary directory"));
        let hub = Hub::start(model.path());
        let settings = SourceSettings {
            endpoint: hub.endpoint(),
            connect_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(10),
            total_timeout: Duration::from_secs(60),
            backoff: Duration::from_millis(2),
            ..SourceSettings::new(MODEL_ID, cache.path())
        };
        Self { hub, model, cache, settings }
    }

    /// A fixture whose cache already has the model, and the number of requests so far.
    pub fn warm() -> (Self, ModelFiles, usize) {
        let fixture = Self::new();
        let files = fixture.locate().expect("a healthy hub");
        let asked = fixture.hub.requests().len();
        (fixture, files, asked)
    }

    pub fn impatient(mut self) -> Self {
        self.settings.idle_timeout = Duration::from_millis(300);
        self
    }

    pub fn locate(&self) -> Result<ModelFiles, SourceError> {
        locate(&self.settings, &CancellationToken::new(), &|_| ())
    }

    pub fn refused(&self) -> SourceError {
        self.locate().expect_err("no model to be had")
    }

    pub fn repo(&self) -> PathBuf {
        self.cache.path().join("models--test--model")
    }

    pub fn count(&self, request: &str) -> usize {
        self.hub.requests().iter().filter(|logged| *logged == request).count()
    }

    pub fn weights_etag(&self) -> String {
        let bytes = fs::read(self.model.path().join(WEIGHTS)).expect("weights of the model");
        Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub fn assert_whole(&self, files: &ModelFiles) {
        for file in FILES {
            let (served, located) = (self.model.path().join(file), files.dir.join(file));
            assert_eq!(fs::read(served).ok(), fs::read(&located).ok(), "{}", located.display());
        }
    }
}

pub fn model_dir() -> TempDir {
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

pub fn write(dir: &Path, file: &str, bytes: &[u8]) {
    let path = dir.join(file);
    fs::create_dir_all(path.parent().expect("a file in a directory")).expect("a writable directory");
    fs::write(path, bytes).expect("a writable directory");
}

pub fn remove(dir: &Path, file: &str) {
    fs::remove_file(dir.join(file)).expect("a file of the model");
}
