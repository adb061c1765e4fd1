//! Validation errors of a request, as many as an answer can carry.

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

/// The validation errors of one request. The first ones are kept, and the others counted: an answer has to fit the
/// 8 KiB that gRPC clients take of metadata, and collecting must not cost more than the request did.
#[derive(Debug, Default)]
pub(in crate::rpc) struct Violations {
    kept: Vec<Violation>,
    count: usize,
    bytes: usize,
}

/// Validation errors of one answer, and bytes of all of them.
const VIOLATIONS: usize = 10;
const VIOLATION_BYTES: usize = 2560;
/// Bytes of one description, and of one field path.
const DESCRIPTION_BYTES: usize = 512;
/// Bytes of the message beside the details.
const MESSAGE_BYTES: usize = 1024;

impl Violations {
    /// Adds one. It is made only where it is kept.
    pub fn add(&mut self, make: impl FnOnce() -> Violation) {
        self.count += 1;
        if self.kept.len() == VIOLATIONS || self.bytes >= VIOLATION_BYTES {
            return;
        }
        let Violation { field, description } = make();
        let violation = Violation {
            field: cut(field, DESCRIPTION_BYTES),
            description: cut(description, DESCRIPTION_BYTES),
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

    /// INVALID_ARGUMENT with those that were kept, and the number of all.
    pub fn into_status(self) -> Status {
        let Violations { kept, count, .. } = self;
        let message = match &kept[..] {
            [first, ..] if count == 1 => format!("{}: {}", first.field, first.description),
            [first, ..] => format!("{}: {} (and {} more)", first.field, first.description, count - 1),
            [] => "the request is not valid".into(),
        };
        let mut details = error_info("INVALID_REQUEST");
        let left_out = count - kept.len();
        let kept = kept.into_iter().map(|v| FieldViolation::new(v.field, v.description));
        let more = (left_out > 0).then(|| FieldViolation::new("", format!("and {left_out} more")));
        details.set_bad_request(kept.chain(more).collect::<Vec<_>>());
        Status::with_error_details(Code::InvalidArgument, cut(message, MESSAGE_BYTES), details)
    }
}

/// At most `most` bytes of `text`; three dots stand for what is cut.
fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most - 3));
        text.push_str("...");
    }
    text
}
