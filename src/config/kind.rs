//! Value types of settings, with their ranges.

use std::time::Duration;

/// Type and range of a setting's value. Every number, size and duration has a range, so that no accepted value can make
/// the server panic or overflow later.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum ValueKind {
    /// Text that the module of the setting parses, with its placeholder in the help.
    Text(&'static str),
    /// An http or https URL. User, password and query are hidden in all output.
    Url,
    Bool,
    /// A whole number.
    Count {
        min: u64,
        max: u64,
    },
    /// A size in bytes, such as 64KiB.
    Bytes {
        min: u64,
        max: u64,
    },
    /// A duration such as 250ms.
    Duration {
        min: Duration,
        max: Duration,
    },
    /// A decimal number, with its placeholder in the help.
    Decimal {
        placeholder: &'static str,
        min: f64,
        max: f64,
    },
}

pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;
pub(super) const TIB: u64 = 1 << 40;
pub(super) const MILLISECOND: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_mins(1);
pub(super) const HOUR: Duration = Duration::from_hours(1);
pub(super) const DAY: Duration = Duration::from_hours(24);

pub(super) const fn count(min: u64, max: u64) -> ValueKind {
    ValueKind::Count { min, max }
}

pub(super) const fn bytes(min: u64, max: u64) -> ValueKind {
    ValueKind::Bytes { min, max }
}

pub(super) const fn duration(min: Duration, max: Duration) -> ValueKind {
    ValueKind::Duration { min, max }
}

pub(super) const fn decimal(placeholder: &'static str, min: f64, max: f64) -> ValueKind {
    ValueKind::Decimal { placeholder, min, max }
}

impl ValueKind {
    /// Placeholder of the value in the help.
    pub fn placeholder(self) -> &'static str {
        match self {
            ValueKind::Text(placeholder) | ValueKind::Decimal { placeholder, .. } => placeholder,
            ValueKind::Url => "URL",
            ValueKind::Bool => "BOOL",
            ValueKind::Count { .. } => "N",
            ValueKind::Bytes { .. } => "BYTES",
            ValueKind::Duration { .. } => "DURATION",
        }
    }

    /// The range as a user would type it, such as `1KiB to 16MiB`; `None` for texts, URLs and booleans.
    pub fn range(self) -> Option<String> {
        match self {
            ValueKind::Text(_) | ValueKind::Url | ValueKind::Bool => None,
            ValueKind::Count { min, max } => Some(format!("{min} to {max}")),
            ValueKind::Bytes { min, max } => Some(format!("{} to {}", format_size(min), format_size(max))),
            ValueKind::Duration { min, max } => {
                let [min, max] = [min, max].map(humantime::format_duration);
                Some(format!("{min} to {max}"))
            }
            ValueKind::Decimal { min, max, .. } => Some(format!("{min} to {max}")),
        }
    }

    /// Parses a whole number or a size.
    ///
    /// # Errors
    /// [`ValueKind::requirement`], if the text is no such value or is out of range.
    pub fn integer(self, text: &str) -> Result<u64, String> {
        let (parsed, min, max) = match self {
            ValueKind::Count { min, max } => (text.parse().ok(), min, max),
            ValueKind::Bytes { min, max } => {
                (text.parse().ok().map(|size: bytesize::ByteSize| size.as_u64()), min, max)
            }
            _ => (None, 0, 0),
        };
        parsed.filter(|number| (min..=max).contains(number)).ok_or_else(|| self.requirement())
    }

    /// Parses a duration.
    ///
    /// # Errors
    /// [`ValueKind::requirement`], if the text is no such value or is out of range.
    pub fn duration(self, text: &str) -> Result<Duration, String> {
        let ValueKind::Duration { min, max } = self else { return Err(self.requirement()) };
        let parsed = humantime::parse_duration(text).ok();
        parsed.filter(|duration| (min..=max).contains(duration)).ok_or_else(|| self.requirement())
    }

    /// Parses a decimal number.
    ///
    /// # Errors
    /// [`ValueKind::requirement`], if the text is no such value or is out of range.
    pub fn decimal(self, text: &str) -> Result<f64, String> {
        let ValueKind::Decimal { min, max, .. } = self else { return Err(self.requirement()) };
        text.parse().ok().filter(|number| (min..=max).contains(number)).ok_or_else(|| self.requirement())
    }

    /// Parses a count, a size or a duration (in nanoseconds) into a number, to compare it with another value of this kind.
    pub fn amount(self, text: &str) -> Option<u128> {
        match self {
            ValueKind::Duration { .. } => self.duration(text).ok().map(|duration| duration.as_nanos()),
            _ => self.integer(text).ok().map(u128::from),
        }
    }

    /// Minimum of a count or a size; 0 for other kinds.
    pub fn minimum(self) -> u64 {
        match self {
            ValueKind::Count { min, .. } | ValueKind::Bytes { min, .. } => min,
            _ => 0,
        }
    }

    /// Error message for a value of the wrong type or out of range.
    pub fn requirement(self) -> String {
        let range = self.range().unwrap_or_default();
        match self {
            ValueKind::Text(_) => "must be a text".to_owned(),
            ValueKind::Url => "must be a URL that begins with http:// or https://".to_owned(),
            ValueKind::Bool => "must be true or false".to_owned(),
            ValueKind::Count { .. } => format!("must be a whole number from {range}"),
            ValueKind::Bytes { .. } => format!("must be a size from {range}, such as 64KiB"),
            ValueKind::Duration { .. } => {
                format!("must be a duration from {range} with a unit: ms, s, m or h")
            }
            ValueKind::Decimal { .. } => format!("must be a number from {range}"),
        }
    }
}

/// Formats a size with the largest unit that divides it: 131072 is `128KiB`.
fn format_size(bytes: u64) -> String {
    let units = [(TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_include_their_bounds_and_nothing_beyond() {
        let kind = bytes(KIB, 16 * MIB);
        assert_eq!(
            (kind.integer("1KiB"), kind.integer("16MiB"), kind.integer("4096")),
            (Ok(KIB), Ok(16 * MIB), Ok(4096))
        );
        for bad in
            ["1023", "0", "16.1MiB", "16EiB", "99999999EiB", "-1", "", "a", "1 KiB KiB", "NaN", "1e400"]
        {
            assert_eq!(
                kind.integer(bad),
                Err("must be a size from 1KiB to 16MiB, such as 64KiB".into()),
                "{bad}"
            );
        }
        let kind = count(1, u64::MAX);
        assert_eq!(kind.integer("18446744073709551615"), Ok(u64::MAX));
        assert!(
            ["0", "18446744073709551616", "-1", "1.5", "٣", "1_000"]
                .iter()
                .all(|bad| kind.integer(bad).is_err())
        );
        let kind = duration(MILLISECOND, DAY);
        assert_eq!((kind.duration("1ms"), kind.duration("1day")), (Ok(MILLISECOND), Ok(DAY)));
        for bad in ["0s", "999us", "25h", "999999999h", "99999999999999999999h", "-1s", "5", "soon", ""] {
            let requirement = "must be a duration from 1ms to 1day with a unit: ms, s, m or h";
            assert_eq!(kind.duration(bad), Err(requirement.into()), "{bad}");
        }
        let kind = decimal("NUMBER", 0.0, 2.0);
        assert_eq!(
            (kind.decimal("0"), kind.decimal("0.25"), kind.decimal("2")),
            (Ok(0.0), Ok(0.25), Ok(2.0))
        );
        assert!(
            ["-0.1", "2.1", "NaN", "inf", "1e999", "some", ""].iter().all(|bad| kind.decimal(bad).is_err())
        );
    }

    #[test]
    fn parsing_a_value_of_another_kind_is_an_error() {
        for kind in [
            ValueKind::Text("FILE"),
            ValueKind::Url,
            ValueKind::Bool,
            count(1, 2),
            duration(MILLISECOND, DAY),
        ] {
            assert!(kind.decimal("1").is_err());
            assert!(kind.integer("").is_err() && kind.duration("").is_err());
        }
    }
}
