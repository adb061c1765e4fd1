//! Between proto and domain. Every limit of a request is checked here, once, and all mistakes are named.

pub(super) mod embedding;
pub(super) mod evaluation;
pub(super) mod results;

use super::{
    Limits,
    status::{Violation, Violations},
};
use crate::validation;

/// The longest id of a stream item, and the longest label of a metric, in bytes.
pub(super) const ID_BYTES: usize = 256;

/// `id` as it is answered: one that is too long is cut, and its answer tells so.
pub(super) fn cut_id(id: &str) -> String {
    id[..id.floor_char_boundary(ID_BYTES)].to_owned()
}

/// The validation errors of one request, as they are found.
#[derive(Default)]
struct Check(Violations);

impl Check {
    fn finish<T>(self, value: T) -> Result<T, tonic::Status> {
        if self.0.is_empty() { Ok(value) } else { Err(self.0.into_status()) }
    }

    fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.0.add(|| Violation { field: field.into(), description: description.into() });
    }

    /// A text that must be there.
    fn text(&mut self, field: impl Fn() -> String, text: &str, limits: &Limits) {
        if let Some(description) = validation::text(text, limits.input_bytes) {
            self.add(field(), description);
        }
    }

    fn bytes(&mut self, field: impl Fn() -> String, text: &str, limit: usize) {
        if let Some(description) = validation::bytes(text, limit) {
            self.add(field(), description);
        }
    }

    fn unknown_value(&mut self, field: impl Into<String>, value: i32) {
        self.add(field, format!("{value} is not a value of this enum"));
    }
}

pub(super) fn saturating(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

pub(super) fn duration(duration: std::time::Duration) -> Option<prost_types::Duration> {
    // Only durations of more than 290 billion years fail.
    duration.try_into().ok()
}
