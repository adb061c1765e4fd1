//! Assay
pub mod model;
