//! Texts and ids that metrics compare.

/// A response and what it is compared with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair<'a> {
    /// The answer that is scored.
    pub response: &'a str,
    /// The expected answer.
    pub reference: &'a str,
}

/// Retrieved and expected contexts: texts or ids.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retrieval<'a> {
    /// The retrieved contexts, best first.
    pub retrieved: &'a [&'a str],
    /// The contexts that should have been retrieved.
    pub reference: &'a [&'a str],
}
