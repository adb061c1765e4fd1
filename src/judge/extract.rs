//! Verdicts out of what a judge wrote (pure).

use super::{Verdict, wire::Message};

/// Why a message holds no verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// The answer hit its length limit before a whole verdict stood there.
    Truncated,
    /// The judge, or a filter in front of it, declined.
    Refused,
    /// What is wrong, in words a judge can act on when it is asked again; none of its own text.
    Unreadable(String),
}

pub(super) fn verdict<V: Verdict>(message: &Message) -> Result<V, Unread> {
    let content = message.content.as_deref().unwrap_or_default();
    serde_json::from_str(content).map_err(|_| Unread::Unreadable("it is not JSON".into()))
}
