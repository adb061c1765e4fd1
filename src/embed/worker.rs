//! Compute threads: batches from the queue, forward passes, answers. A panic costs its own input alone.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::sync::OwnedSemaphorePermit;

use super::{
    batch::FlowId,
    gather::{Caller, Gather},
    metrics::Metrics,
    queue::{SharedQueue, Work},
    status::StatusHandle,
    vector::{Vector, VectorOptions},
};
use crate::{
    model::{Packed, Team},
    priority::Priority,
};

/// One forward pass: packed tokens in, `[sequences * dimensions]` pooled numbers out, or why not.
pub(super) type Forward = dyn Fn(&Packed, &Team) -> Result<Vec<f32>, String> + Send + Sync;

/// One input on its way to a vector.
pub(super) struct Job {
    pub ids: Vec<u32>,
    pub options: VectorOptions,
    pub index: usize,
    pub answers: Arc<Gather<Result<Computed, Defect>>>,
    pub caller: Arc<Caller>,
    pub queued: Instant,
    /// Held until the job is answered or dropped, so abandoned work counts as long as it waits.
    pub permit: OwnedSemaphorePermit,
}

pub(super) struct Computed {
    pub vector: Vector,
    pub queue: Duration,
    pub compute: Duration,
    pub pass: Pass,
}

/// The forward pass that an input went through, with inputs of whoever else waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pass {
    /// Of this process.
    pub number: u64,
    pub started: Instant,
    pub inputs: usize,
    pub tokens: usize,
}

/// The forward pass of this input failed, alone too. The cause is in the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Defect;

pub(super) struct ComputeThreads {
    queue: Arc<SharedQueue<Job>>,
    /// Closing it ends pauses between probes.
    stopping: Mutex<Option<mpsc::Sender<()>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

pub(super) struct Settings {
    pub threads: usize,
    /// The most tokens of one forward pass.
    pub batch_tokens: usize,
    /// Ids of a short text that every healthy worker can compute.
    pub probe: Vec<u32>,
}

struct Worker {
    queue: Arc<SharedQueue<Job>>,
    forward: Arc<Forward>,
    batch_tokens: usize,
    /// Forward passes that any thread began.
    passes: Arc<AtomicU64>,
    probe: Packed,
    status: StatusHandle,
    metrics: Metrics,
    stopping: Arc<Mutex<mpsc::Receiver<()>>>,
}

impl ComputeThreads {
    pub fn start(
        settings: &Settings,
        forward: Arc<Forward>,
        status: &StatusHandle,
        metrics: &Metrics,
    ) -> io::Result<ComputeThreads> {
        let (stop, stopping) = mpsc::channel();
        let stopping = Arc::new(Mutex::new(stopping));
        let started = ComputeThreads {
            queue: Arc::new(SharedQueue::new(settings.threads)),
            stopping: Mutex::new(Some(stop)),
            threads: Mutex::default(),
        };
        let passes = Arc::<AtomicU64>::default();
        let mut probe = Packed::new();
        probe.push(&settings.probe);
        for index in 0..settings.threads {
            let worker = Worker {
                queue: Arc::clone(&started.queue),
                forward: Arc::clone(&forward),
                batch_tokens: settings.batch_tokens,
                passes: Arc::clone(&passes),
                probe: probe.clone(),
                status: status.clone(),
                metrics: metrics.clone(),
                stopping: Arc::clone(&stopping),
            };
            let thread = std::thread::Builder::new().name(format!("assay-compute-{index}"));
            let thread = thread.spawn(move || worker.run())?;
            started.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok(started)
    }

    pub fn push(&self, flow: FlowId, jobs: Vec<Job>) {
        self.queue.push(flow, jobs.into_iter().map(|job| (job.ids.len(), job)));
    }

    /// Inputs and tokens that wait.
    pub fn depth(&self) -> (usize, usize) {
        self.queue.depth()
    }

    /// Ends the threads when what is queued is done, and waits for them.
    pub fn stop(&self) {
        self.queue.close();
        drop(self.stopping.lock().unwrap_or_else(PoisonError::into_inner).take());
        for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // A panic was logged where it happened.
            let _ = thread.join();
        }
    }
}

/// Also where a later thread could not be started.
impl Drop for ComputeThreads {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Worker {
    fn run(&self) {
        Priority::Compute.take();
        while let Some(work) = self.queue.next_pass(self.batch_tokens, |job| self.is_wanted(job)) {
            let work = || match work {
                Work::Batch(batch, team) => self.compute(batch, team),
                Work::Help(invitation) => invitation.help(),
            };
            // Forward passes have their own guard; this one keeps the thread whatever else goes wrong.
            if catch_unwind(AssertUnwindSafe(work)).is_err() {
                tracing::error!("answering a batch panicked; its calls are answered with UNAVAILABLE");
            }
        }
    }

    fn is_wanted(&self, job: &Job) -> bool {
        let waiting = job.caller.is_waiting();
        if !waiting {
            self.metrics.dropped_before_compute();
        }
        waiting
    }

    fn compute(&self, batch: Vec<Job>, team: Team) {
        let packed = pack(&batch);
        let pass = self.begin(&packed);
        let states = self.pass(&packed, &team);
        // Who helped is idle before a caller, once answered, asks for more.
        drop(team);
        match states {
            Ok(states) => {
                let compute = pass.started.elapsed();
                self.metrics.batch(&packed, compute);
                let dimensions = states.len() / packed.sequences();
                for (job, state) in batch.into_iter().zip(states.chunks_exact(dimensions)) {
                    job.answer(state, pass, compute);
                }
            }
            Err(reason) => self.quarantine(batch, &reason),
        }
    }

    /// Runs each input of a failed batch alone, so that only the culprit pays, then waits until a probe passes.
    fn quarantine(&self, batch: Vec<Job>, reason: &str) {
        tracing::error!(
            reason,
            inputs = batch.len(),
            "a forward pass failed; its inputs are tried one by one"
        );
        self.metrics.worker_failed();
        self.status.worker_failed(reason);
        for job in batch {
            let packed = pack(std::slice::from_ref(&job));
            let pass = self.begin(&packed);
            match self.pass(&packed, &Team::alone()) {
                Ok(state) => job.answer(&state, pass, pass.started.elapsed()),
                Err(reason) => {
                    tracing::error!(reason, tokens = job.ids.len(), "an input cannot be computed");
                    job.answers.put(job.index, Err(Defect));
                }
            }
        }
        self.await_recovery();
        self.status.worker_recovered();
    }

    fn await_recovery(&self) {
        let mut pause = Duration::from_millis(100);
        while let Err(reason) = self.pass(&self.probe, &Team::alone()) {
            tracing::error!(
                reason,
                ?pause,
                "a compute thread's probe failed; it is tried again after the pause"
            );
            if self.stopped_within(pause) {
                return;
            }
            pause = (pause * 2).min(Duration::from_secs(10));
        }
    }

    fn stopped_within(&self, pause: Duration) -> bool {
        let stopping = self.stopping.lock().unwrap_or_else(PoisonError::into_inner);
        stopping.recv_timeout(pause) == Err(mpsc::RecvTimeoutError::Disconnected)
    }

    fn begin(&self, packed: &Packed) -> Pass {
        let number = self.passes.fetch_add(1, Ordering::Relaxed);
        Pass { number, started: Instant::now(), inputs: packed.sequences(), tokens: packed.ids().len() }
    }

    fn pass(&self, packed: &Packed, team: &Team) -> Result<Vec<f32>, String> {
        let states = catch_unwind(AssertUnwindSafe(|| (self.forward)(packed, team)))
            .unwrap_or_else(|panic| Err(format!("panic: {}", panic_message(&*panic))))?;
        if states.iter().all(|x| x.is_finite()) {
            Ok(states)
        } else {
            Err("a vector has numbers that are not finite".into())
        }
    }
}

impl Job {
    fn answer(self, state: &[f32], pass: Pass, compute: Duration) {
        let queue = pass.started.saturating_duration_since(self.queued);
        let vector = Vector::new(state, self.options);
        let Job { permit, answers, index, .. } = self;
        // The room is free before the caller can know that it is.
        drop(permit);
        answers.put(index, Ok(Computed { vector, queue, compute, pass }));
    }
}

fn pack(batch: &[Job]) -> Packed {
    let mut packed = Packed::new();
    batch.iter().for_each(|job| packed.push(&job.ids));
    packed
}

pub(super) fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use prometheus_client::registry::Registry;
    use tokio::sync::{Semaphore, oneshot};

    use super::*;
    use crate::{
        deadline::Deadline,
        embed::{
            gather::LeaveOnDrop,
            status::{Phase, Status},
            vector::VectorEncoding,
        },
    };

    const PROBE: u32 = 7;
    const CULPRIT: u32 = 666;
    const FLOW: FlowId = FlowId(0);

    type Answers = oneshot::Receiver<Vec<Result<Computed, Defect>>>;

    /// One thread, and the status that it reports to.
    fn start(
        forward: impl Fn(&Packed) -> Result<Vec<f32>, String> + Send + Sync + 'static,
    ) -> (ComputeThreads, StatusHandle) {
        let status = StatusHandle::new();
        status.enter(Phase::Ready, "serving");
        let settings = Settings { threads: 1, batch_tokens: 100, probe: vec![PROBE] };
        let metrics = Metrics::register(&mut Registry::default());
        let threads = ComputeThreads::start(
            &settings,
            Arc::new(move |packed: &Packed, _team: &Team| forward(packed)),
            &status,
            &metrics,
        );
        (threads.expect("a thread"), status)
    }

    /// Two numbers a sequence: its first id and its length.
    fn states(packed: &Packed) -> Vec<f32> {
        let bounds = packed.offsets().windows(2);
        bounds.flat_map(|b| [packed.ids()[b[0]] as f32, (b[1] - b[0]) as f32]).collect()
    }

    fn push(threads: &ComputeThreads, inputs: &[u32]) -> (Answers, Arc<Caller>) {
        let caller = Caller::new(Deadline::after(Duration::from_secs(60)));
        let (answers, receiver) = Gather::new(inputs.len());
        let options =
            VectorOptions { dimensions: 2, normalize: false, encoding: VectorEncoding::Float32Values };
        let permits = Arc::new(Semaphore::new(inputs.len()));
        let job = |(index, &id)| Job {
            ids: vec![id],
            options,
            index,
            answers: Arc::clone(&answers),
            caller: Arc::clone(&caller),
            queued: Instant::now(),
            permit: Arc::clone(&permits).try_acquire_owned().expect("one for each"),
        };
        threads.push(FLOW, inputs.iter().enumerate().map(job).collect());
        (receiver, caller)
    }

    /// The first number of each vector, none for a defect.
    fn first_numbers(answers: Answers) -> Vec<Option<f32>> {
        let first = |computed: Result<Computed, Defect>| match computed.ok()?.vector {
            Vector::Values(values) => Some(values[0]),
            other => panic!("{other:?}"),
        };
        answers.blocking_recv().expect("answers").into_iter().map(first).collect()
    }

    fn until(status: &StatusHandle, holds: impl FnMut(&Status) -> bool) {
        futures::executor::block_on(status.subscribe().wait_for(holds)).expect("it is still told");
    }

    fn check_only_the_culprit_pays(fail: fn() -> Result<Vec<f32>, String>) {
        let broken = Arc::new(AtomicBool::new(true));
        let is_broken = Arc::clone(&broken);
        let (threads, status) = start(move |packed| match packed.ids() {
            [PROBE] if is_broken.load(Ordering::Relaxed) => fail(),
            ids if ids.contains(&CULPRIT) => fail(),
            _ => Ok(states(packed)),
        });
        let (answers, _caller) = push(&threads, &[1, CULPRIT, 2]);
        assert_eq!(first_numbers(answers), [Some(1.0), None, Some(2.0)]);
        until(&status, |status| status.phase == Phase::Unhealthy && !status.is_serving());
        broken.store(false, Ordering::Relaxed);
        until(&status, Status::is_serving);
        let (answers, _caller) = push(&threads, &[3]);
        assert_eq!(first_numbers(answers), [Some(3.0)]);
        threads.stop();
    }

    #[test]
    fn a_panic_costs_its_own_input_alone_and_a_probe_brings_the_thread_back() {
        check_only_the_culprit_pays(|| panic!("on purpose"));
    }

    #[test]
    fn an_error_and_numbers_that_are_not_finite_cost_their_own_input_alone() {
        check_only_the_culprit_pays(|| Err("on purpose".into()));
        check_only_the_culprit_pays(|| Ok(vec![f32::NAN, 0.0]));
    }

    #[test]
    fn a_thread_that_waits_for_its_probe_is_stopped_at_once() {
        let (threads, status) = start(|_| Err("for ever".into()));
        let (answers, _caller) = push(&threads, &[1]);
        assert_eq!(first_numbers(answers), [None]);
        until(&status, |status| status.phase == Phase::Unhealthy);
        threads.stop();
    }

    #[test]
    fn a_caller_that_left_costs_no_forward_pass() {
        let passes = Arc::new(AtomicUsize::new(0));
        let (begun, has_begun) = mpsc::channel();
        let (go, may_go) = mpsc::channel::<()>();
        let (counted, may_go) = (Arc::clone(&passes), Mutex::new(may_go));
        let (threads, _status) = start(move |packed| {
            counted.fetch_add(1, Ordering::Relaxed);
            begun.send(()).map_err(|e| e.to_string())?;
            may_go.lock().map_err(|e| e.to_string())?.recv().map_err(|e| e.to_string())?;
            Ok(states(packed))
        });
        let (first, _caller) = push(&threads, &[1]);
        has_begun.recv().expect("the first pass");
        let (left, caller) = push(&threads, &[2, 3]);
        drop(LeaveOnDrop(caller));
        go.send(()).expect("the thread waits");
        assert_eq!(first_numbers(first), [Some(1.0)]);
        assert!(left.blocking_recv().is_err());
        threads.stop();
        assert_eq!(passes.load(Ordering::Relaxed), 1);
    }
}
