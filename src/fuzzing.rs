//! Entry points of the fuzz targets in fuzz/: one function for each kind of input that comes from outside.
//!
//! Each takes raw bytes, and panics only where the code under test has a defect.

pub use crate::{
    cli::fuzzing::dataset_rows,
    config::fuzzing::config_file,
    judge::fuzzing::{judge_answer, judge_response},
    model::fuzzing::{model_manifest, model_weights},
    rpc::fuzzing::request,
};
