//! Assay
pub mod deadline;
pub mod embed;
pub mod model;

/// The messages and services of `assay.v1`, generated from proto/.
pub mod proto {
    tonic::include_proto!("assay.v1");
}
