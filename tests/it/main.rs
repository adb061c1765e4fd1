#![allow(clippy::disallowed_methods, reason = "tests wait, read and write on their own threads")]

mod embed_rpc;
mod fixtures;
mod model_source;
mod stall;
mod support;
mod vectors;
