//! Validation errors of a request, up to the number that fits into a response.

use tonic::{Code, Status};
use tonic_types::{FieldViolation, StatusExt};

use super::error_info;

/// A validation error in one field of a request.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::rpc) struct Violation {
    /// Path of the field, such as `inputs[3]`.
    pub field: String,
    /// What is wrong with it, with value and limit, but never the caller's text.
    pub description: String,
}

/// The validation errors of one request. The first ones are kept and the others are counted, because a response must
/// fit into the 8 KiB of metadata that gRPC clients accept, and collecting errors must not cost more than the request.
#[derive(Debug, Default)]
pub(in crate::rpc) struct Violations {
    kept: Vec<Violation>,
    count: usize,
    bytes: usize,
}

/// Maximum number of validation errors in one response, and their maximum total size in bytes.
const VIOLATIONS: usize = 10;
const VIOLATION_BYTES: usize = 2560;
/// Maximum size of one description, and of one field path, in bytes.
const DESCRIPTION_BYTES: usize = 512;
/// Maximum size of the status message in bytes.
const MESSAGE_BYTES: usize = 1024;

impl Violations {
    /// Adds a validation error. `make` is called only if the error is kept.
    pub fn add(&mut self, make: impl FnOnce() -> Violation) {
        self.count += 1;
        if self.kept.len() == VIOLATIONS || self.bytes >= VIOLATION_BYTES {
            return;
        }
        let Violation { field, description } = make();
        let violation = Violation {
            field: truncate(field, DESCRIPTION_BYTES),
            description: truncate(description, DESCRIPTION_BYTES),
        };
        let bytes = self.bytes + violation.field.len() + violation.description.len();
        if bytes <= VIOLATION_BYTES || self.kept.is_empty() {
            self.bytes = bytes;
            self.kept.push(violation);
        } else {
            self.bytes = VIOLATION_BYTES;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// INVALID_ARGUMENT with the kept validation errors and the number of the others.
    pub fn into_status(self) -> Status {
        let Violations { kept, count, .. } = self;
        let message = match &kept[..] {
            [first, ..] if count == 1 => format!("{}: {}", first.field, first.description),
            [first, ..] => {
                format!("{}: {} (and {} more validation errors)", first.field, first.description, count - 1)
            }
            [] => "invalid request".into(),
        };
        let mut details = error_info("INVALID_REQUEST");
        let left_out = count - kept.len();
        let kept = kept.into_iter().map(|v| FieldViolation::new(v.field, v.description));
        let more = (left_out > 0)
            .then(|| FieldViolation::new("", format!("{left_out} more validation errors omitted")));
        details.set_bad_request(kept.chain(more).collect::<Vec<_>>());
        Status::with_error_details(Code::InvalidArgument, truncate(message, MESSAGE_BYTES), details)
    }
}

/// The first `max_bytes` bytes of `text`; `...` marks omitted text.
fn truncate(mut text: String, max_bytes: usize) -> String {
    if text.len() > max_bytes {
        text.truncate(text.floor_char_boundary(max_bytes - 3));
        text.push_str("...");
    }
    text
}
