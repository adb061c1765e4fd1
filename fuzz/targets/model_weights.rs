#![no_main]

use std::sync::LazyLock;

use tempfile::TempDir;

/// Holds the files of the input that is being run.
static DIRECTORY: LazyLock<TempDir> = LazyLock::new(|| TempDir::new().expect("a temporary directory"));

libfuzzer_sys::fuzz_target!(|data: &[u8]| assay::fuzzing::model_weights(DIRECTORY.path(), data));
