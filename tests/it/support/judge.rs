//! A stand-in for a judge: a chat-completions endpoint with a scripted mind, and faults that a test switches.
//!
//! It has a thread and runtime of its own, so a test that blocks its reactor doesn't block the judge. Whatever
//! it is asked, it answers from [`Asked`], which is read from the request as a model reads it: from the marks
//! around the data, and from the schema wherever the request shows one.

mod answer;
mod asked;
mod brain;
mod comparing;
mod fault;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use assay::judge::JudgeSettings;
use serde_json::Value;
use tokio::sync::watch;

pub use self::{
    asked::Asked,
    brain::honest,
    comparing::comparing,
    fault::{Fault, RetryAfter, Twist, Wrap},
};
use super::server::Server;

/// Gives the verdict, as the JSON that the judge is to write.
pub type Brain = dyn Fn(&Asked) -> Value + Send + Sync;

pub struct StandIn {
    shared: Arc<Shared>,
    server: Server,
}

/// One request, in the order of arrival.
#[derive(Clone, Debug)]
pub struct Logged {
    pub asked: Asked,
    pub started: Instant,
    /// None while it is under way. A caller that hangs up ends it too.
    pub ended: Option<Instant>,
}

struct Shared {
    brain: Mutex<Arc<Brain>>,
    rules: Mutex<Vec<Rule>>,
    latency: Mutex<Duration>,
    log: Mutex<Log>,
    arrived: watch::Sender<usize>,
    held: watch::Sender<bool>,
}

#[derive(Default)]
struct Log {
    requests: Vec<Logged>,
    in_flight: usize,
    max_in_flight: usize,
}

/// When something goes wrong, and how often.
struct Rule {
    concerns: Box<dyn Fn(&Asked) -> bool + Send + Sync>,
    fault: Fault,
    times: usize,
}

impl StandIn {
    /// Answers everything as [`honest`] does.
    pub fn start() -> StandIn {
        StandIn::with_brain(honest)
    }

    pub fn with_brain(brain: impl Fn(&Asked) -> Value + Send + Sync + 'static) -> StandIn {
        let shared = Arc::new(Shared {
            brain: Mutex::new(Arc::new(brain)),
            rules: Mutex::default(),
            latency: Mutex::default(),
            log: Mutex::default(),
            arrived: watch::Sender::new(0),
            held: watch::Sender::new(false),
        });
        let server = Server::start(([127, 0, 0, 1], 0).into(), answer::router(&shared));
        StandIn { shared, server }
    }

    /// The base URL.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.server.address)
    }

    /// Of a client that loses no time between attempts.
    pub fn settings(&self) -> JudgeSettings {
        JudgeSettings {
            backoff: Duration::from_millis(5),
            ..JudgeSettings::new("test", self.url(), "stand-in")
        }
    }

    pub fn set_brain(&self, brain: impl Fn(&Asked) -> Value + Send + Sync + 'static) {
        *lock(&self.shared.brain) = Arc::new(brain);
    }

    /// How long it thinks about each request.
    pub fn set_latency(&self, latency: Duration) {
        *lock(&self.shared.latency) = latency;
    }

    /// Takes requests and answers none until `release`.
    pub fn hold(&self) {
        self.shared.held.send_replace(true);
    }

    pub fn release(&self) {
        self.shared.held.send_replace(false);
    }

    /// The next request meets this fault. Several wait in line.
    pub fn fail_once(&self, fault: Fault) {
        self.fail_times(1, fault);
    }

    pub fn fail_times(&self, times: usize, fault: Fault) {
        lock(&self.shared.rules).push(Rule { concerns: Box::new(|_| true), fault, times });
    }

    pub fn fail_always(&self, fault: Fault) {
        self.fail_when(|_| true, fault);
    }

    /// Every request that is like this meets the fault.
    pub fn fail_when(&self, concerns: impl Fn(&Asked) -> bool + Send + Sync + 'static, fault: Fault) {
        lock(&self.shared.rules).push(Rule { concerns: Box::new(concerns), fault, times: usize::MAX });
    }

    pub fn heal(&self) {
        lock(&self.shared.rules).clear();
    }

    pub fn requests(&self) -> Vec<Logged> {
        lock(&self.shared.log).requests.clone()
    }

    pub fn count(&self) -> usize {
        lock(&self.shared.log).requests.len()
    }

    pub fn last(&self) -> Asked {
        lock(&self.shared.log).requests.last().expect("a request").asked.clone()
    }

    pub fn in_flight(&self) -> usize {
        lock(&self.shared.log).in_flight
    }

    pub fn max_in_flight(&self) -> usize {
        lock(&self.shared.log).max_in_flight
    }

    /// Waits until so many requests have come.
    pub async fn arrived(&self, count: usize) {
        let mut arrived = self.shared.arrived.subscribe();
        let waited = tokio::time::timeout(super::app::LIMIT, arrived.wait_for(|arrived| *arrived >= count));
        waited.await.unwrap_or_else(|_| panic!("{} of {count} requests", self.count())).expect("a server");
    }
}

/// A test that failed with the lock held must not hide its own message.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
