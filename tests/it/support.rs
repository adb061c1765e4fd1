pub mod app;
pub mod certificates;
pub mod collector;
pub mod command;
pub mod evaluator;
pub mod goldens;
pub mod hub;
pub mod judge;
pub mod lag;
pub mod random_model;
pub mod raw_http2;
pub mod server;

use std::path::PathBuf;

/// A path below tests/fixtures.
pub fn fixture(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}
