//! The innermost source of an error.

use std::error::Error;

/// Message of the innermost source of `error`; `None` if it has no source.
///
/// The outer errors of HTTP clients repeat the URL, which may hold a credential; the innermost one says what failed.
pub(crate) fn root_cause(error: &dyn Error) -> Option<String> {
    std::iter::successors(error.source(), |&cause| cause.source()).last().map(ToString::to_string)
}

#[cfg(test)]
mod tests {
    use std::{error::Error, fmt, io};

    use super::root_cause;

    #[derive(Debug)]
    struct Outer(io::Error);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("cannot reach https://user:password@host")
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn the_innermost_source_is_returned() {
        let error = Outer(io::Error::from(io::ErrorKind::ConnectionRefused));
        assert_eq!(root_cause(&error).as_deref(), Some("connection refused"));
        assert_eq!(root_cause(&error.0), None);
    }
}
