//! Conversion between protocol messages and domain types. Every limit of a request is checked here, once, and all
//! validation errors are collected.

pub(super) mod embedding;
pub(super) mod evaluation;
pub(super) mod results;

use super::{
    Limits,
    status::{Violation, Violations},
};
use crate::validation;

/// Maximum size of the id of a stream item, and of the label of a metric, in bytes.
pub(super) const ID_BYTES: usize = 256;

/// The id in the response: a too long `id` is truncated, and the response has the validation error.
pub(super) fn cut_id(id: &str) -> String {
    id[..id.floor_char_boundary(ID_BYTES)].to_owned()
}

/// Collector of the validation errors of one request.
#[derive(Default)]
struct Check(Violations);

impl Check {
    fn finish<T>(self, value: T) -> Result<T, tonic::Status> {
        if self.0.is_empty() { Ok(value) } else { Err(self.0.into_status()) }
    }

    fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.0.add(|| Violation { field: field.into(), description: description.into() });
    }

    /// Checks a required text.
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
        self.add(field, validation::unknown_value(value));
    }
}

pub(super) fn saturating(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

pub(super) fn duration(duration: std::time::Duration) -> Option<prost_types::Duration> {
    // Only durations of more than 290 billion years fail.
    duration.try_into().ok()
}
