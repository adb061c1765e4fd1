//! Bearer tokens from a file, with the methods that each authorizes.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

/// Minimum length of a token, so that it cannot be guessed.
const MIN_TOKEN_CHARS: usize = 16;
/// Maximum number of tokens, because each call is compared with all of them.
const MAX_TOKENS: usize = 1024;
/// Maximum length of the name of a token.
const MAX_NAME_CHARS: usize = 64;

/// Digests of all valid tokens.
#[derive(Debug)]
pub(super) struct BearerTokens {
    // Invariant: not empty, and no two have the same digest.
    grants: Vec<TokenGrant>,
}

/// Authorization of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TokenGrant {
    pub name: Arc<str>,
    digest: [u8; 32],
    /// Authorized methods; None for all.
    methods: Option<Vec<&'static str>>,
}

impl BearerTokens {
    /// Parses lines of `name:token`, optionally followed by the authorized methods: `package.Service/Method` or
    /// `package.Service/*`. Empty lines and lines that start with `#` are ignored. A name may have several tokens.
    ///
    /// # Errors
    /// Number and error of the first invalid line. The message never contains a token.
    pub fn parse(text: &str, known: &[&'static str]) -> Result<BearerTokens, String> {
        let mut grants: Vec<TokenGrant> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let grant = grant(line, known).map_err(|error| format!("line {}: {error}", index + 1))?;
            if grants.iter().any(|other| other.digest == grant.digest) {
                return Err(format!("line {}: duplicate token", index + 1));
            }
            grants.push(grant);
        }
        match grants.len() {
            0 => Err("no token in the file".into()),
            1..=MAX_TOKENS => Ok(BearerTokens { grants }),
            more => Err(format!("{more} tokens, the limit is {MAX_TOKENS}")),
        }
    }

    /// Finds the authorization of a token in constant time.
    pub fn find(&self, token: &[u8]) -> Option<&TokenGrant> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        let none = u32::MAX;
        let found = (0..).zip(&self.grants).fold(none, |found, (index, grant)| {
            let same: Choice = grant.digest.ct_eq(&digest);
            u32::conditional_select(&found, &index, same)
        });
        (found != none).then(|| &self.grants[found as usize])
    }
}

impl TokenGrant {
    /// Whether the token authorizes `method`.
    pub fn allows(&self, method: &str) -> bool {
        self.methods.as_ref().is_none_or(|methods| methods.contains(&method))
    }
}

fn grant(line: &str, known: &[&'static str]) -> Result<TokenGrant, String> {
    let mut words = line.split_whitespace();
    let (name, token) = words
        .next()
        .and_then(|word| word.split_once(':'))
        .ok_or("expected name:token, optionally followed by methods")?;
    let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > MAX_NAME_CHARS || !name.bytes().all(is_name) {
        return Err(format!(
            "invalid token name; it must have 1 to {MAX_NAME_CHARS} letters, digits, ., - or _"
        ));
    }
    if token.len() < MIN_TOKEN_CHARS {
        return Err(format!("token too short; it must have at least {MIN_TOKEN_CHARS} characters"));
    }
    // RFC 6750, 2.1.
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b);
    if !token.bytes().all(is_token) {
        return Err("invalid token character; allowed are letters, digits and -._~+/=".into());
    }
    let mut methods = Vec::new();
    for pattern in words {
        let service = pattern.strip_suffix('*').filter(|service| service.ends_with('/'));
        let before = methods.len();
        let fits = |method: &&str| service.map_or(*method == pattern, |service| method.starts_with(service));
        methods.extend(known.iter().copied().filter(fits));
        if methods.len() == before {
            return Err(format!("unknown method {pattern}"));
        }
    }
    let methods = (!methods.is_empty()).then_some(methods);
    Ok(TokenGrant { name: name.into(), digest: Sha256::digest(token).into(), methods })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 3] = ["a.One/Get", "a.One/Put", "a.Two/Get"];
    const TOKEN: &str = "0123456789abcdef";

    #[test]
    fn a_token_authorizes_all_or_some_methods() {
        let file =
            format!("# of tests\n\nall:{TOKEN}0\n  one:{TOKEN}1 a.One/*  a.Two/Get\r\none:{TOKEN}2\ttwo");
        assert_eq!(BearerTokens::parse(&file, &KNOWN).expect_err("refused"), "line 5: unknown method two");
        let tokens = BearerTokens::parse(&file.replace("\ttwo", " a.One/Put"), &KNOWN).expect("valid");
        let allowed = |token: &str| {
            let grant = tokens.find(token.as_bytes())?;
            Some((&*grant.name, KNOWN.map(|method| grant.allows(method))))
        };
        assert_eq!(allowed(&format!("{TOKEN}0")), Some(("all", [true; 3])));
        assert_eq!(allowed(&format!("{TOKEN}1")), Some(("one", [true; 3])));
        assert_eq!(allowed(&format!("{TOKEN}2")), Some(("one", [false, true, false])));
        assert_eq!(allowed(TOKEN), None);
        assert_eq!(allowed(""), None);
    }

    #[test]
    fn an_error_names_the_line_and_never_the_token() {
        for (file, part) in [
            (String::new(), "no token"),
            (format!("a:{TOKEN}\nplanted-{TOKEN}"), "line 2: expected name:token"),
            (format!(":{TOKEN}"), "line 1: invalid token name"),
            ("a:planted".into(), "16 characters"),
            (format!("a:planted-{TOKEN}-ü"), "token character"),
            (format!("a:{TOKEN}\nb:{TOKEN}"), "line 2: duplicate token"),
        ] {
            let error = BearerTokens::parse(&file, &KNOWN).expect_err(part);
            assert!(error.contains(part) && !error.contains("planted"), "{error}");
        }
        let shown = format!("{:?}", BearerTokens::parse(&format!("a:{TOKEN}"), &KNOWN));
        assert!(!shown.contains(TOKEN), "{shown}");
    }
}
