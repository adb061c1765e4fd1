//! Credentials that cannot appear in logs or other text by accident.

use std::fmt;

/// A token or key. `Debug` hides the value, and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a credential.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// Returns the value, to be used only for the header that carries it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

const HIDDEN: &str = "(hidden)";

/// Redacts user, password, query and fragment of a URL, any of which may be a credential.
///
/// Accepts any text. A `@` after a `?` or `#` may belong to a password that was not escaped; then only the scheme is
/// kept.
pub(crate) fn shown_url(url: &str) -> String {
    let (head, tail) = url.split_at(url.find(['?', '#']).unwrap_or(url.len()));
    let scheme = head.split_once("://").map_or("", |(scheme, _)| scheme);
    if tail.contains('@') {
        return format!("{scheme}://{HIDDEN}");
    }
    let mark = tail.chars().next().map_or(String::new(), |mark| format!("{mark}{HIDDEN}"));
    match head.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://{HIDDEN}@{host}{mark}"),
        None => format!("{head}{mark}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Secret, shown_url};

    #[test]
    fn credentials_are_redacted_from_urls() {
        for (url, shown) in [
            ("https://host:1/v1", "https://host:1/v1"),
            ("https://host/v1?api-key=planted", "https://host/v1?(hidden)"),
            ("https://host?planted", "https://host?(hidden)"),
            ("https://host/v1#planted", "https://host/v1#(hidden)"),
            ("https://me:planted@host/v1", "https://(hidden)@host/v1"),
            ("https://me:p@planted@host", "https://(hidden)@host"),
            ("https://me:planted@host/v1?planted", "https://(hidden)@host/v1?(hidden)"),
            ("https://host/v1?a=b@planted", "https://(hidden)"),
            ("https://me:planted?planted@host", "https://(hidden)"),
            ("https://me:planted#planted@host", "https://(hidden)"),
            ("https://me:p@planted?planted@host", "https://(hidden)"),
            ("me:planted@host", "://(hidden)@host"),
            ("", ""),
        ] {
            assert_eq!(shown_url(url), shown, "{url}");
        }
    }

    #[test]
    fn debug_hides_the_value() {
        assert_eq!(format!("{:?}", Secret::new("hf_abc")), "Secret(hidden)");
    }
}
