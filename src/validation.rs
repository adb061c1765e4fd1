//! Checks of single values of a request. Each returns what is wrong, as the description of a validation error.

use std::{fmt, ops::RangeInclusive};

/// A text that must not be empty, of at most `limit` UTF-8 bytes.
pub(crate) fn text(text: &str, limit: usize) -> Option<String> {
    if text.is_empty() { Some("the text is empty".into()) } else { bytes(text, limit) }
}

/// A text of at most `limit` UTF-8 bytes.
pub(crate) fn bytes(text: &str, limit: usize) -> Option<String> {
    (text.len() > limit).then(|| format!("{} bytes, the limit is {limit}", text.len()))
}

/// A number within a range. NaN is in none.
pub(crate) fn within<T: PartialOrd + fmt::Display>(value: &T, range: &RangeInclusive<T>) -> Option<String> {
    let (lowest, highest) = (range.start(), range.end());
    (!range.contains(value)).then(|| format!("{value}, the range is {lowest} to {highest}"))
}

/// A value of an enum of the protocol.
///
/// # Errors
/// The description of the validation error, if the enum has no such value.
pub(crate) fn known<E: TryFrom<i32>>(value: i32) -> Result<E, String> {
    E::try_from(value).map_err(|_| unknown_value(value))
}

/// The description of an enum value that the protocol does not have.
pub(crate) fn unknown_value(value: i32) -> String {
    format!("{value} is not a value of this enum")
}
