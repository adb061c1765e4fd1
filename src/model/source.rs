//! Where the model's files come from.
use std::path::PathBuf;
/// Files.
pub struct ModelFiles {
    pub dir: PathBuf,
    pub id: String,
    pub revision: Option<String>,
}
