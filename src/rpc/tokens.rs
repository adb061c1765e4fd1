//! Bearer tokens of a file: whose they are, and what they may call.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

/// Shorter ones could be guessed.
const SHORTEST: usize = 16;
/// Each call is compared with all of them.
const MOST: usize = 1024;
const LONGEST_NAME: usize = 64;

/// All that are valid, as digests.
#[derive(Debug)]
pub(super) struct Tokens {
    // Invariant: not empty, and no two have the same digest.
    grants: Vec<Grant>,
}

/// What a token is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    pub name: Arc<str>,
    digest: [u8; 32],
    /// None for all methods.
    methods: Option<Vec<&'static str>>,
}

impl Tokens {
    /// Lines of `name:token`, each with methods behind it if it is not good for all: `package.Service/Method`, or
    /// `package.Service/*`. Empty lines and those that begin with `#` say nothing. A name may have several tokens.
    ///
    /// # Errors
    /// The first line that is wrong, by its number; never what is in it, but for the name of a method.
    pub fn parse(text: &str, known: &[&'static str]) -> Result<Tokens, String> {
        let mut grants: Vec<Grant> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let grant = grant(line, known).map_err(|mistake| format!("line {}: {mistake}", index + 1))?;
            if grants.iter().any(|other| other.digest == grant.digest) {
                return Err(format!("line {}: another line has this token", index + 1));
            }
            grants.push(grant);
        }
        match grants.len() {
            0 => Err("there is no token in it".into()),
            1..=MOST => Ok(Tokens { grants }),
            more => Err(format!("{more} tokens, the most are {MOST}")),
        }
    }

    /// Takes as long whether there is such a token or not, and whichever it is.
    pub fn find(&self, token: &[u8]) -> Option<&Grant> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        let none = u32::MAX;
        let found = (0..).zip(&self.grants).fold(none, |found, (index, grant)| {
            let same: Choice = grant.digest.ct_eq(&digest);
            u32::conditional_select(&found, &index, same)
        });
        (found != none).then(|| &self.grants[found as usize])
    }
}

impl Grant {
    pub fn allows(&self, method: &str) -> bool {
        self.methods.as_ref().is_none_or(|methods| methods.contains(&method))
    }
}

fn grant(line: &str, known: &[&'static str]) -> Result<Grant, String> {
    let mut words = line.split_whitespace();
    let (name, token) = words
        .next()
        .and_then(|word| word.split_once(':'))
        .ok_or("name:token is needed, and methods behind it if it is not good for all")?;
    let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(is_name) {
        return Err(format!("a name has 1 to {LONGEST_NAME} letters, digits, dots, - and _"));
    }
    if token.len() < SHORTEST {
        return Err(format!("a token has {SHORTEST} characters or more"));
    }
    // RFC 6750, 2.1.
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b);
    if !token.bytes().all(is_token) {
        return Err("a token has letters, digits and -._~+/= alone".into());
    }
    let mut methods = Vec::new();
    for pattern in words {
        let service = pattern.strip_suffix('*').filter(|service| service.ends_with('/'));
        let before = methods.len();
        let fits = |method: &&str| service.map_or(*method == pattern, |service| method.starts_with(service));
        methods.extend(known.iter().copied().filter(fits));
        if methods.len() == before {
            return Err(format!("there is no method {pattern}"));
        }
    }
    let methods = (!methods.is_empty()).then_some(methods);
    Ok(Grant { name: name.into(), digest: Sha256::digest(token).into(), methods })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 3] = ["a.One/Get", "a.One/Put", "a.Two/Get"];
    const TOKEN: &str = "0123456789abcdef";

    #[test]
    fn a_token_has_a_name_and_may_be_good_for_some_methods() {
        let file =
            format!("# of tests\n\nall:{TOKEN}0\n  one:{TOKEN}1 a.One/*  a.Two/Get\r\none:{TOKEN}2\ttwo");
        assert_eq!(Tokens::parse(&file, &KNOWN).expect_err("refused"), "line 5: there is no method two");
        let tokens = Tokens::parse(&file.replace("\ttwo", " a.One/Put"), &KNOWN).expect("valid");
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
    fn a_mistake_is_named_by_its_line_and_never_shows_the_token() {
        for (file, part) in [
            (String::new(), "no token"),
            (format!("a:{TOKEN}\nplanted-{TOKEN}"), "line 2: name:token is needed"),
            (format!(":{TOKEN}"), "line 1: a name"),
            ("a:planted".into(), "16 characters"),
            (format!("a:planted-{TOKEN}-ü"), "alone"),
            (format!("a:{TOKEN}\nb:{TOKEN}"), "line 2: another line"),
        ] {
            let mistake = Tokens::parse(&file, &KNOWN).expect_err(part);
            assert!(mistake.contains(part) && !mistake.contains("planted"), "{mistake}");
        }
        let shown = format!("{:?}", Tokens::parse(&format!("a:{TOKEN}"), &KNOWN));
        assert!(!shown.contains(TOKEN), "{shown}");
    }
}
