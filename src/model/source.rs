//! Where the model's files come from.
use std::path::PathBuf;
/// Files.
pub struct ModelFiles {
    pub dir: PathBuf,
    pub id: String,
    pub revision: Option<String>,
}
#[derive(Clone, Debug)]
pub struct Settings {
    pub model: String,
}
pub enum Progress {
    A,
}
impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("x")
    }
}
impl Progress {
    pub fn bytes(&self) -> Option<(u64, u64)> {
        None
    }
}
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct SourceError;
impl SourceError {
    pub fn is_permanent(&self) -> bool {
        false
    }
}
pub fn locate(
    _s: &Settings,
    _c: &tokio_util::sync::CancellationToken,
    _p: &dyn Fn(Progress),
) -> Result<ModelFiles, SourceError> {
    Err(SourceError)
}
