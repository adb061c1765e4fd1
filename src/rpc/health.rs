//! grpc.health.v1, the whole specification.

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

/// Serving as soon as the model is; `""` stands for all of it.
pub(crate) const SERVICES: [&str; 4] =
    ["", "assay.v1.EmbeddingService", "assay.v1.EvaluationService", "assay.v1.ServerService"];
/// Serving as long as the reactor answers.
pub(crate) const LIVENESS: &str = "liveness";

/// What health is made of; cloned to the admin port.
#[derive(Clone)]
pub(crate) struct Health {
    pub embedder: watch::Receiver<embed::EmbedderStatus>,
    pub reactor: stall::Reader,
    /// From here on nothing new should be sent to us.
    pub draining: CancellationToken,
    /// From here on watchers are ended.
    pub closing: CancellationToken,
}

impl Health {
    /// Whether calls should be sent to us.
    pub fn is_ready(&self) -> bool {
        self.embedder.borrow().is_serving() && !self.draining.is_cancelled()
    }

    /// What it does or waits for, in words.
    pub fn detail(&self) -> String {
        if self.draining.is_cancelled() {
            return "shutting down".into();
        }
        self.embedder.borrow().detail.clone()
    }

    /// Whether the reactor answers.
    pub fn is_alive(&self) -> bool {
        self.reactor.is_alive()
    }

    /// None for a name that is not known.
    fn of(&self, service: &str) -> Option<ServingStatus> {
        let serving = match service {
            LIVENESS => self.is_alive(),
            known if SERVICES.contains(&known) => self.is_ready(),
            _ => return None,
        };
        Some(if serving { ServingStatus::Serving } else { ServingStatus::NotServing })
    }

    /// Until something may have changed; false once watchers are ended.
    async fn changed(&mut self) -> bool {
        let draining = self.draining.clone();
        tokio::select! {
            () = self.closing.cancelled() => false,
            changed = self.embedder.changed() => changed.is_ok(),
            () = draining.cancelled(), if !draining.is_cancelled() => true,
            // Liveness has no signal of its own: a frozen reactor can't send one.
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
        let serving = self.of(&request.get_ref().service);
        serving.map(response).map(Response::new).ok_or_else(|| Status::not_found("the service is not known"))
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

struct Watcher {
    health: Health,
    service: String,
    last: Option<ServingStatus>,
    closing: bool,
    ended: bool,
}

impl Watcher {
    /// The next change of status; the first is what holds now.
    async fn next(mut self) -> Option<(Result<HealthCheckResponse, Status>, Watcher)> {
        if self.ended {
            return None;
        }
        loop {
            let now = self.health.of(&self.service).unwrap_or(ServingStatus::ServiceUnknown);
            if self.last.replace(now) != Some(now) {
                return Some((Ok(response(now)), self));
            }
            // Ended only after the last change was told.
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
