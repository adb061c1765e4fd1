//! What scoring has to know about a text: its language, its sentences and words, where a quote stands, whether it
//! answers at all.

mod language;
mod locate;
mod normalize;
mod refusal;
mod sentences;
mod words;

pub use language::{Language, detect};
pub use locate::{Haystack, code_points, locate};
pub use normalize::normalize;
pub use refusal::is_refusal;
pub use sentences::sentences;
pub use words::{characters, load, words};
