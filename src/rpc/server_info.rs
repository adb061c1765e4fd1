//! ServerService: server identity, configuration limits and runtime status.

use std::time::SystemTime;

use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{
    Limits,
    convert::{duration, saturating},
};
use crate::{
    embed::{self, Embedder, Phase},
    judge::{BreakerState, Judge, Structured},
    model::{KernelMeasurement, ModelInfo, Pooling},
    proto::{self, judge_info::Breaker, server_service_server::ServerService, warm_up::State},
    stall,
};

/// Configuration of the computation, as reported by GetServerInfo.
#[derive(Clone, Debug)]
pub struct ComputeInfo {
    /// Number of compute threads.
    pub threads: usize,
    /// Number of text threads.
    pub text_threads: usize,
    /// Maximum tokens per forward pass.
    pub batch_tokens: usize,
}

/// Handler of ServerService.
pub(super) struct ServerInfo {
    pub embedder: Embedder,
    pub judges: Vec<Judge>,
    pub reactor: stall::WatchdogReader,
    pub draining: CancellationToken,
    pub limits: Limits,
    pub compute: ComputeInfo,
    pub started: SystemTime,
}

#[tonic::async_trait]
impl ServerService for ServerInfo {
    async fn get_server_info(
        &self,
        _: Request<proto::GetServerInfoRequest>,
    ) -> Result<Response<proto::GetServerInfoResponse>, Status> {
        let warm_up = warm_up(&self.embedder.status().borrow(), self.draining.is_cancelled());
        Ok(Response::new(proto::GetServerInfoResponse {
            version: env!("CARGO_PKG_VERSION").into(),
            git_revision: env!("ASSAY_GIT_REVISION").into(),
            warm_up: Some(warm_up),
            model: self.embedder.model().map(model),
            limits: Some(limits(&self.limits)),
            compute: Some(compute(&self.compute, self.embedder.model())),
            reactor: Some(reactor(&self.reactor)),
            judge_configured: !self.judges.is_empty(),
            start_time: Some(self.started.into()),
            judges: self.judges.iter().map(judge).collect(),
        }))
    }
}

fn warm_up(status: &embed::EmbedderStatus, draining: bool) -> proto::WarmUp {
    let state = match status.phase {
        _ if draining => State::Draining,
        Phase::Fetching => State::Fetching,
        Phase::Loading => State::Loading,
        Phase::Warming => State::Warming,
        Phase::Ready => State::Ready,
        Phase::Retrying => State::Retrying,
        Phase::Unhealthy => State::Unhealthy,
    };
    let now = std::time::Instant::now();
    proto::WarmUp {
        state: state as i32,
        detail: status.detail.clone(),
        attempt: status.attempt,
        last_error: status.last_error.clone().unwrap_or_default(),
        fetched_bytes: status.fetched_bytes,
        total_bytes: status.total_bytes,
        elapsed: duration(status.took.unwrap_or_else(|| status.started.elapsed())),
        retry_in: status.retry_at.and_then(|at| duration(at.saturating_duration_since(now))),
    }
}

fn model(model: &ModelInfo) -> proto::ModelInfo {
    let pooling = match model.pooling {
        Pooling::Cls => proto::Pooling::Cls,
        Pooling::Mean => proto::Pooling::Mean,
        Pooling::LastToken => proto::Pooling::LastToken,
    };
    proto::ModelInfo {
        id: model.id.clone(),
        revision: model.revision.clone().unwrap_or_default(),
        sha256: model.sha256.clone(),
        architecture: model.architecture.clone(),
        dimensions: saturating(model.dimensions),
        max_tokens: saturating(model.max_tokens),
        pooling: pooling as i32,
        normalizes: model.normalizes,
        prompts: model.prompts.clone().into_iter().collect(),
        default_prompt_name: model.default_prompt_name.clone().unwrap_or_default(),
        parameters: model.parameters,
    }
}

fn judge(judge: &Judge) -> proto::JudgeInfo {
    let status = judge.status();
    let structured = status.structured.map(|structured| match structured {
        Structured::JsonSchema => "json_schema",
        Structured::JsonObject => "json_object",
        Structured::Tools => "tools",
        Structured::Text => "text",
    });
    let breaker = match status.breaker {
        BreakerState::Closed => Breaker::Closed,
        BreakerState::Open { .. } => Breaker::Open,
        BreakerState::HalfOpen => Breaker::HalfOpen,
    };
    proto::JudgeInfo {
        name: judge.name().into(),
        model: judge.model().into(),
        structured_output: structured.unwrap_or_default().into(),
        dropped_parameters: status.dropped.into_iter().map(str::to_owned).collect(),
        breaker: breaker as i32,
        concurrency_limit: saturating(status.concurrency_limit),
        in_flight: saturating(status.in_flight),
    }
}

fn limits(limits: &Limits) -> proto::Limits {
    proto::Limits {
        inputs: saturating(limits.inputs),
        input_bytes: saturating(limits.input_bytes),
        message_bytes: saturating(limits.message_bytes),
        queue_tokens: saturating(limits.queue_tokens),
        stream_inputs: saturating(limits.stream_inputs),
        connection_streams: limits.connection_streams,
        default_deadline: duration(limits.default_deadline),
        contexts: saturating(limits.contexts),
        stream_samples: saturating(limits.stream_samples),
        embed_cache_bytes: limits.embed_cache_bytes as u64,
    }
}

fn compute(compute: &ComputeInfo, model: Option<&ModelInfo>) -> proto::Compute {
    proto::Compute {
        threads: saturating(compute.threads),
        tokenizer_threads: saturating(compute.text_threads),
        precision: model.map(|model| model.precision.name().into()).unwrap_or_default(),
        kernel: model.map(|model| model.kernel.into()).unwrap_or_default(),
        batch_tokens: saturating(compute.batch_tokens),
        cosine_to_f32: model.map(|model| model.cosine).unwrap_or_default(),
        kernels: model.iter().flat_map(|model| &model.kernels).map(kernel).collect(),
    }
}

fn kernel(measured: &KernelMeasurement) -> proto::KernelMeasurement {
    proto::KernelMeasurement {
        kernel: measured.kernel.name.into(),
        precision: measured.kernel.precision.name().into(),
        time: duration(measured.time),
        cosine_to_f32: measured.cosine,
        recall: measured.recall,
        selected: measured.selected,
    }
}

fn reactor(reactor: &stall::WatchdogReader) -> proto::Reactor {
    let reading = reactor.snapshot();
    proto::Reactor {
        workers: saturating(reading.workers),
        lag_p50: duration(reading.lag_p50),
        lag_p99: duration(reading.lag_p99),
        lag_max: duration(reading.lag_max),
        stalls: reading.stalls,
    }
}
