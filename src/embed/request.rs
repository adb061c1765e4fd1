//! Options, scheduling identity and result of one embedding request.

use std::{sync::Arc, time::Duration};

use super::{
    admission::AdmissionClass,
    fair_queue::FlowId,
    vector::{Vector, VectorOptions},
};
use crate::{deadline::Deadline, model::Truncation};

/// Scheduling identity and deadline of a request.
#[derive(Clone, Copy)]
pub(super) struct RequestScheduling {
    pub flow: Flow,
    pub deadline: Deadline,
}

/// Options for the inputs of one request. The caller has checked them against the model.
#[derive(Clone, Debug)]
pub struct InputOptions {
    /// Prefix of each text.
    pub prompt: Arc<str>,
    /// Handling of inputs that are too long.
    pub truncation: Truncation,
    /// Form of the vectors.
    pub vector: VectorOptions,
}

/// Vectors of one request, and the time spent in each stage.
#[derive(Debug)]
pub struct Embedded {
    /// One entry per input, in the order of the inputs.
    pub inputs: Vec<EmbeddedInput>,
    /// Time to tokenize all inputs.
    pub tokenize: Duration,
    /// Longest wait of an input for its forward pass.
    pub queue: Duration,
    /// Longest forward pass of an input.
    pub compute: Duration,
}

/// Vector of one input.
#[derive(Debug)]
pub struct EmbeddedInput {
    /// The vector, in the requested encoding.
    pub vector: Vector,
    /// Number of tokens after truncation, special tokens included.
    pub tokens: usize,
    /// True if tokens were removed.
    pub truncated: bool,
}

/// Flow of a request in the fair queues, with its admission class. One stream is one flow, and so is one sample of an
/// evaluation.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    pub(super) class: AdmissionClass,
    pub(super) id: FlowId,
}

/// Flow of all evaluations in the compute queue.
pub(super) const EVALUATIONS: FlowId = FlowId(0);

impl Flow {
    /// Flow in the compute queue. All evaluations share one flow, so an Embed request waits for at most one of their
    /// texts. Admission decides which evaluation is next, and admits little more than the threads compute at a time.
    pub(super) fn compute_flow(self) -> FlowId {
        match self.class {
            AdmissionClass::Evaluation => EVALUATIONS,
            AdmissionClass::Call | AdmissionClass::Stream | AdmissionClass::Tokenize => self.id,
        }
    }
}
