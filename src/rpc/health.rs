//! The gRPC health checking protocol, grpc.health.v1.

use std::{pin::Pin, time::Duration};

use futures::{Stream, stream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_server,
};

use super::status;
use crate::{embed, stall};

/// Services that are serving while the model is ready and the server is not draining. `""` is the server as a whole.
pub(crate) const SERVICES: [&str; 4] =
    ["", "assay.v1.EmbeddingService", "assay.v1.EvaluationService", "assay.v1.ServerService"];
/// Service that is serving while the event loop responds.
pub(crate) const LIVENESS: &str = "liveness";

/// Sources of the health status. Shared by the serving port and the admin port.
#[derive(Clone)]
pub(crate) struct Health {
    pub embedder: watch::Receiver<embed::EmbedderStatus>,
    pub reactor: stall::WatchdogReader,
    /// Cancelled at the start of a shutdown: clients should send no new calls.
    pub draining: CancellationToken,
    /// Cancelled when connections close: watches end.
    pub closing: CancellationToken,
}

impl Health {
    /// Whether the server accepts calls: the model is ready and the server is not draining.
    pub fn is_ready(&self) -> bool {
        self.embedder.borrow().is_serving() && !self.draining.is_cancelled()
    }

    /// Description of the current step, for operators.
    pub fn detail(&self) -> String {
        if self.draining.is_cancelled() {
            return "shutting down".into();
        }
        self.embedder.borrow().detail.clone()
    }

    /// Whether the event loop responds.
    pub fn is_alive(&self) -> bool {
        self.reactor.is_alive()
    }

    /// The status of a service; None for an unknown name.
    fn serving_status(&self, service: &str) -> Option<ServingStatus> {
        let serving = match service {
            LIVENESS => self.is_alive(),
            known if SERVICES.contains(&known) => self.is_ready(),
            _ => return None,
        };
        Some(if serving { ServingStatus::Serving } else { ServingStatus::NotServing })
    }

    /// Waits until the status may have changed. Returns false when watches must end.
    async fn changed(&mut self) -> bool {
        let draining = self.draining.clone();
        tokio::select! {
            () = self.closing.cancelled() => false,
            changed = self.embedder.changed() => changed.is_ok(),
            () = draining.cancelled(), if !draining.is_cancelled() => true,
            // Liveness is polled, because a blocked event loop cannot send a signal.
            () = tokio::time::sleep(Duration::from_secs(1)) => true,
        }
    }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let serving = self.serving_status(&request.get_ref().service);
        serving.map(response).map(Response::new).ok_or_else(|| Status::not_found("unknown service"))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let watcher = Watcher {
            health: self.clone(),
            service: request.into_inner().service,
            last: None,
            closing: false,
            ended: false,
        };
        Ok(Response::new(Box::pin(stream::unfold(watcher, Watcher::next))))
    }
}

/// State of one health watch.
struct Watcher {
    health: Health,
    service: String,
    last: Option<ServingStatus>,
    closing: bool,
    ended: bool,
}

impl Watcher {
    /// The next change of status. The first item is the current status.
    async fn next(mut self) -> Option<(Result<HealthCheckResponse, Status>, Watcher)> {
        if self.ended {
            return None;
        }
        loop {
            let now = self.health.serving_status(&self.service).unwrap_or(ServingStatus::ServiceUnknown);
            if self.last.replace(now) != Some(now) {
                return Some((Ok(response(now)), self));
            }
            // The watch ends only after the last change was sent.
            if self.closing {
                self.ended = true;
                return Some((Err(status::draining()), self));
            }
            self.closing = !self.health.changed().await;
        }
    }
}

fn response(serving: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: serving as i32 }
}
