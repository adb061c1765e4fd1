//! Answers scored: by their words alone, or with a judge that reads them.

pub mod lexical;
pub mod text;
