//! Assay: a sidecar that turns text into vectors behind gRPC, and never blocks its callers doing so.
//!
//! In reading order: [`config`] reads flags, environment and file into each module's `Settings`; [`app`] builds
//! the parts and owns their start and drain order; `rpc` is the protocol's edge; [`embed`] queues, batches and
//! computes on threads of its own; [`judge`] asks a language model over HTTP; [`model`] is a loaded model;
//! [`stall`] watches the reactor; `admin` serves probes and metrics from a thread of its own.
//! docs/ARCHITECTURE.md has the picture.

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
#[expect(clippy::disallowed_methods, reason = "models are read and computed on threads of their own")]
pub mod model;
mod priority;
mod root_cause;
pub mod rpc;
pub mod secret;
pub mod stall;
pub mod telemetry;
pub mod trace;
mod validation;

/// The messages and services of `assay.v1`, generated from proto/.
pub mod proto {
    #![allow(clippy::all)]
    tonic::include_proto!("assay.v1");

    /// Descriptors of all of it, comments included.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/assay.v1.bin"));
}
