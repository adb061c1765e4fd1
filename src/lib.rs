//! Assay: a gRPC sidecar that computes text embeddings and evaluates the answers of RAG systems.
//!
//! The modules in reading order:
//!
//! - [`config`] reads flags, environment variables and the file into the settings of each module.
//! - [`app`] builds all parts of the server, and defines the order in which they start and drain.
//! - [`rpc`] implements the gRPC services.
//! - [`embed`] queues and batches inputs, and computes embeddings on separate threads.
//! - [`evaluate`] computes metrics of samples.
//! - [`judge`] sends requests to a language model over HTTP.
//! - [`model`] loads and runs an embedding model.
//! - [`stall`] detects a blocked event loop.
//! - `admin` serves health checks and metrics on a separate thread.
//!
//! docs/ARCHITECTURE.md describes how they work together.

#![deny(missing_docs)]

mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod deadline;
mod descriptors;
pub mod embed;
pub mod evaluate;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod judge;
mod log_limit;
#[expect(clippy::disallowed_methods, reason = "models are read and computed on separate threads")]
pub mod model;
mod priority;
mod root_cause;
pub mod rpc;
pub mod secret;
pub mod stall;
pub mod telemetry;
pub mod trace;
mod validation;

/// Messages and services of `assay.v1`, generated from proto/.
pub mod proto {
    #![allow(clippy::all)]
    tonic::include_proto!("assay.v1");

    /// File descriptor set of `assay.v1`, with comments.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/assay.v1.bin"));
}
