//! Clients that exceed the limits of connections, messages or responses: each is stopped, and others are served.

mod answers;
mod connections;
mod messages;

/// The error code with which a server ends a connection that floods it.
const ENHANCE_YOUR_CALM: u32 = 11;

const EMBED: &str = "/assay.v1.EmbeddingService/Embed";
const EVALUATE: &str = "/assay.v1.EvaluationService/Evaluate";
