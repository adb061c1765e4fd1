//! Scores for the answers of retrieval-augmented systems.

pub mod judged;
pub mod lexical;
pub mod metric;
pub mod result;
pub mod sample;
pub mod score;
pub mod text;
pub mod vector;
