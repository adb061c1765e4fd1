//! What values a setting takes, and between which bounds.

use std::time::Duration;

/// The form of a setting's value. Numbers, sizes and durations have bounds, so that no value that passes can make the
/// server panic or overflow later.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// Free text, read by the module that it belongs to. Holds the placeholder of the help.
    Text(&'static str),
    /// An http or https URL. Its user, password and query are never shown.
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
    /// A decimal number, with the placeholder of the help.
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

pub(super) const fn count(min: u64, max: u64) -> Kind {
    Kind::Count { min, max }
}

pub(super) const fn bytes(min: u64, max: u64) -> Kind {
    Kind::Bytes { min, max }
}

pub(super) const fn duration(min: Duration, max: Duration) -> Kind {
    Kind::Duration { min, max }
}

pub(super) const fn decimal(placeholder: &'static str, min: f64, max: f64) -> Kind {
    Kind::Decimal { placeholder, min, max }
}

impl Kind {
    /// What stands for the value in the help.
    pub fn placeholder(self) -> &'static str {
        match self {
            Kind::Text(placeholder) | Kind::Decimal { placeholder, .. } => placeholder,
            Kind::Url => "URL",
            Kind::Bool => "BOOL",
            Kind::Count { .. } => "N",
            Kind::Bytes { .. } => "BYTES",
            Kind::Duration { .. } => "DURATION",
        }
    }

    /// The bounds as they would be typed, such as `1KiB to 16MiB`. None where there are none.
    pub fn range(self) -> Option<String> {
        match self {
            Kind::Text(_) | Kind::Url | Kind::Bool => None,
            Kind::Count { min, max } => Some(format!("{min} to {max}")),
            Kind::Bytes { min, max } => Some(format!("{} to {}", size(min), size(max))),
            Kind::Duration { min, max } => {
                let [min, max] = [min, max].map(humantime::format_duration);
                Some(format!("{min} to {max}"))
            }
            Kind::Decimal { min, max, .. } => Some(format!("{min} to {max}")),
        }
    }

    /// Reads a whole number or a size.
    ///
    /// # Errors
    /// What is needed, with the bounds.
    pub fn whole(self, text: &str) -> Result<u64, String> {
        let (parsed, min, max) = match self {
            Kind::Count { min, max } => (text.parse().ok(), min, max),
            Kind::Bytes { min, max } => {
                (text.parse().ok().map(|size: bytesize::ByteSize| size.as_u64()), min, max)
            }
            _ => (None, 0, 0),
        };
        parsed.filter(|number| (min..=max).contains(number)).ok_or_else(|| self.needed())
    }

    /// Reads a duration.
    ///
    /// # Errors
    /// What is needed, with the bounds.
    pub fn duration(self, text: &str) -> Result<Duration, String> {
        let Kind::Duration { min, max } = self else { return Err(self.needed()) };
        let parsed = humantime::parse_duration(text).ok();
        parsed.filter(|duration| (min..=max).contains(duration)).ok_or_else(|| self.needed())
    }

    /// Reads a decimal number.
    ///
    /// # Errors
    /// What is needed, with the bounds.
    pub fn decimal(self, text: &str) -> Result<f64, String> {
        let Kind::Decimal { min, max, .. } = self else { return Err(self.needed()) };
        text.parse().ok().filter(|number| (min..=max).contains(number)).ok_or_else(|| self.needed())
    }

    /// A count, size or duration as a number that can be compared with another of its kind.
    pub fn amount(self, text: &str) -> Option<u128> {
        match self {
            Kind::Duration { .. } => self.duration(text).ok().map(|duration| duration.as_nanos()),
            _ => self.whole(text).ok().map(u128::from),
        }
    }

    /// The smallest value of a count or a size.
    pub fn least(self) -> u64 {
        match self {
            Kind::Count { min, .. } | Kind::Bytes { min, .. } => min,
            _ => 0,
        }
    }

    /// What to say of a value that is no such thing, or beyond the bounds.
    pub fn needed(self) -> String {
        let range = self.range().unwrap_or_default();
        match self {
            Kind::Text(_) => "a text is needed".to_owned(),
            Kind::Url => "a URL that begins with http:// or https:// is needed".to_owned(),
            Kind::Bool => "true or false is needed".to_owned(),
            Kind::Count { .. } => format!("a whole number from {range} is needed"),
            Kind::Bytes { .. } => format!("a size from {range} is needed"),
            Kind::Duration { .. } => format!("a duration from {range} is needed, with its unit: ms, s, m, h"),
            Kind::Decimal { .. } => format!("a number from {range} is needed"),
        }
    }
}

/// A size as it would be typed: 131072 is 128KiB.
fn size(bytes: u64) -> String {
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
    fn bounds_are_included_and_nothing_beyond_them_passes() {
        let kind = bytes(KIB, 16 * MIB);
        assert_eq!(
            (kind.whole("1KiB"), kind.whole("16MiB"), kind.whole("4096")),
            (Ok(KIB), Ok(16 * MIB), Ok(4096))
        );
        for bad in
            ["1023", "0", "16.1MiB", "16EiB", "99999999EiB", "-1", "", "a", "1 KiB KiB", "NaN", "1e400"]
        {
            assert_eq!(kind.whole(bad), Err("a size from 1KiB to 16MiB is needed".into()), "{bad}");
        }
        let kind = count(1, u64::MAX);
        assert_eq!(kind.whole("18446744073709551615"), Ok(u64::MAX));
        assert!(
            ["0", "18446744073709551616", "-1", "1.5", "٣", "1_000"]
                .iter()
                .all(|bad| kind.whole(bad).is_err())
        );
        let kind = duration(MILLISECOND, DAY);
        assert_eq!((kind.duration("1ms"), kind.duration("1day")), (Ok(MILLISECOND), Ok(DAY)));
        for bad in ["0s", "999us", "25h", "999999999h", "99999999999999999999h", "-1s", "5", "soon", ""] {
            let needed = "a duration from 1ms to 1day is needed, with its unit: ms, s, m, h";
            assert_eq!(kind.duration(bad), Err(needed.into()), "{bad}");
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
    fn a_value_of_another_kind_is_an_error() {
        for kind in [Kind::Text("FILE"), Kind::Url, Kind::Bool, count(1, 2), duration(MILLISECOND, DAY)] {
            assert!(kind.decimal("1").is_err());
            assert!(kind.whole("").is_err() && kind.duration("").is_err());
        }
    }
}
