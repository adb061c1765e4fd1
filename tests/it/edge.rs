//! Peers that take more than a caller has reason to: each is stopped, and the others are served.

mod answers;
mod connections;
mod messages;

/// The error code with which a server ends a connection that floods it.
const ENHANCE_YOUR_CALM: u32 = 11;

const EMBED: &str = "/assay.v1.EmbeddingService/Embed";
const EVALUATE: &str = "/assay.v1.EvaluationService/Evaluate";
