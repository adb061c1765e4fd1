//! The compute threads, which take batches from the queue and run forward passes. A panic fails only its own input.

use std::{
    cell::{Cell, RefCell},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

use super::{
    fair_queue::FlowId,
    gather::{EmbedCaller, Gather},
    metrics::EmbedMetrics,
    status::StatusHandle,
    token_semaphore::TokenPermit,
    vector::{Vector, VectorOptions},
    work_queue::{WorkItem, WorkQueue},
};
use crate::{
    log_limit::{LogLimit, Site},
    model::{Packed, Team},
    priority::Priority,
};

/// A forward pass: takes packed tokens and returns pooled states `[sequences * dimensions]`, or the reason of its failure.
/// It calls the last argument between two layers.
pub(super) type Forward = dyn Fn(&Packed, &Team, &dyn Fn()) -> Result<Vec<f32>, String> + Send + Sync;

/// Short inputs may preempt a forward pass with at most 1/8 of its tokens. They do not wait for the end of a long pass,
/// and the pass takes little longer.
const PREEMPTION_DIVISOR: usize = 8;

/// Maximum tokens of an input that count for its position in the queue: about three times the median length of passages.
const POSITION_TOKENS: usize = 96;

/// One input to be embedded.
pub(super) struct EmbedJob {
    /// Token ids, special tokens included.
    pub ids: Vec<u32>,
    pub options: VectorOptions,
    /// Index of the input in its request.
    pub index: usize,
    pub answers: Arc<Gather<Result<ComputedVector, ComputeDefect>>>,
    pub caller: Arc<EmbedCaller>,
    /// Time at which the job was queued.
    pub queued: Instant,
    /// Held until the job is answered or dropped, so that abandoned work counts as long as it is queued.
    pub permit: TokenPermit,
}

/// A computed vector and its timing.
pub(super) struct ComputedVector {
    pub vector: Vector,
    /// Time from queueing to the start of the forward pass.
    pub queue: Duration,
    /// Duration of the forward pass.
    pub compute: Duration,
    pub pass: ForwardPass,
}

/// A forward pass, which may compute inputs of several requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ForwardPass {
    /// Sequence number in this process.
    pub number: u64,
    pub started: Instant,
    pub inputs: usize,
    pub tokens: usize,
}

/// The forward pass of an input failed, also when it was computed alone. The cause is in the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct ComputeDefect;

/// The pool of compute threads.
pub(super) struct ComputeThreads {
    queue: Arc<WorkQueue<EmbedJob>>,
    stop: Arc<StopSignal>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Settings of the compute threads.
pub(super) struct ComputeSettings {
    /// Number of threads.
    pub threads: usize,
    /// Maximum tokens per forward pass.
    pub batch_tokens: usize,
    /// Token ids of a short text that every healthy thread can compute.
    pub probe: Vec<u32>,
}

struct ComputeWorker {
    queue: Arc<WorkQueue<EmbedJob>>,
    forward: Arc<Forward>,
    batch_tokens: usize,
    /// Number of forward passes started by all threads.
    passes: Arc<AtomicU64>,
    probe: Packed,
    status: StatusHandle,
    metrics: EmbedMetrics,
    stop: Arc<StopSignal>,
}

/// The inputs that may preempt one forward pass.
struct Preemption {
    /// Tokens that may still be computed between its layers.
    room: Cell<usize>,
    /// Batches that failed, each with the reason.
    failed: RefCell<Vec<(Vec<EmbedJob>, String)>>,
}

/// Interrupts the pauses between probes on all threads.
#[derive(Default)]
struct StopSignal {
    is_stopped: Mutex<bool>,
    changed: Condvar,
}

impl ComputeThreads {
    /// Starts the threads.
    ///
    /// # Errors
    /// An [`io::Error`] if the operating system cannot start a thread.
    pub fn start(
        settings: &ComputeSettings,
        forward: Arc<Forward>,
        status: &StatusHandle,
        metrics: &EmbedMetrics,
    ) -> io::Result<ComputeThreads> {
        let started = ComputeThreads {
            queue: Arc::new(WorkQueue::with_position_limit(POSITION_TOKENS, settings.threads)),
            stop: Arc::default(),
            threads: Mutex::default(),
        };
        let passes = Arc::<AtomicU64>::default();
        let mut probe = Packed::new();
        probe.push(&settings.probe);
        for index in 0..settings.threads {
            let worker = ComputeWorker {
                queue: Arc::clone(&started.queue),
                forward: Arc::clone(&forward),
                batch_tokens: settings.batch_tokens,
                passes: Arc::clone(&passes),
                probe: probe.clone(),
                status: status.clone(),
                metrics: metrics.clone(),
                stop: Arc::clone(&started.stop),
            };
            let thread = std::thread::Builder::new().name(format!("assay-compute-{index}"));
            let thread = thread.spawn(move || worker.run())?;
            started.threads.lock().push(thread);
        }
        Ok(started)
    }

    /// Queues jobs of one flow.
    pub fn push(&self, flow: FlowId, jobs: Vec<EmbedJob>) {
        self.queue.push(flow, jobs.into_iter().map(|job| (job.ids.len(), job)));
    }

    /// Number of queued inputs and their tokens.
    pub fn depth(&self) -> (usize, usize) {
        self.queue.depth()
    }

    /// Stops the threads after the queued jobs are done, and waits for them.
    pub fn stop(&self) {
        self.queue.close();
        self.stop.stop();
        for thread in self.threads.lock().drain(..) {
            // A panic was already logged.
            let _ = thread.join();
        }
    }
}

/// Stops the threads also if a later one could not be started.
impl Drop for ComputeThreads {
    fn drop(&mut self) {
        self.stop();
    }
}

impl ComputeWorker {
    fn run(&self) {
        Priority::Compute.apply();
        while let Some(work) = self.queue.next_pass(self.batch_tokens, |job| self.is_wanted(job)) {
            let work = || match work {
                WorkItem::Batch(batch, team) => self.compute(batch, team),
                WorkItem::Help(invitation) => invitation.help(),
            };
            // Panics of forward passes are caught separately; this keeps the thread alive after any other panic.
            if catch_unwind(AssertUnwindSafe(work)).is_err() {
                static LINES: LogLimit = LogLimit::new(Site::BatchPanic);
                if LINES.admits() {
                    tracing::error!("answering a batch panicked; its requests fail with UNAVAILABLE");
                }
            }
        }
    }

    fn is_wanted(&self, job: &EmbedJob) -> bool {
        let waiting = job.caller.is_waiting();
        if !waiting {
            self.metrics.dropped_before_compute();
        }
        waiting
    }

    fn compute(&self, batch: Vec<EmbedJob>, team: Team) {
        let packed = pack(&batch);
        let pass = self.begin(&packed);
        let preemption = Preemption {
            room: Cell::new(packed.ids().len() / PREEMPTION_DIVISOR),
            failed: RefCell::default(),
        };
        let states = self.pass(&packed, &team, &|| self.compute_short(&preemption, &team));
        // The helpers are idle again before an answered caller sends its next request.
        drop(team);
        match states {
            Ok(states) => self.answer(batch, &packed, pass, &states),
            Err(reason) => self.quarantine(batch, &reason),
        }
        for (batch, reason) in preemption.failed.into_inner() {
            self.quarantine(batch, &reason);
        }
    }

    /// Computes the next inputs between two layers of a forward pass. If that fails, they are kept for the end of the
    /// forward pass, whose callers and helpers must not wait for a quarantine.
    fn compute_short(&self, preemption: &Preemption, team: &Team) {
        let room = preemption.room.get();
        let (batch, tokens) = self.queue.next_short(room, |job| self.is_wanted(job));
        if batch.is_empty() {
            return;
        }
        preemption.room.set(room - tokens);
        self.metrics.preempted();
        let packed = pack(&batch);
        let pass = self.begin(&packed);
        match self.pass(&packed, team, &|| {}) {
            Ok(states) => self.answer(batch, &packed, pass, &states),
            Err(reason) => preemption.failed.borrow_mut().push((batch, reason)),
        }
    }

    fn answer(&self, batch: Vec<EmbedJob>, packed: &Packed, pass: ForwardPass, states: &[f32]) {
        let compute = pass.started.elapsed();
        self.metrics.batch(packed, compute);
        let dimensions = states.len() / packed.sequences();
        for (job, state) in batch.into_iter().zip(states.chunks_exact(dimensions)) {
            job.answer(state, pass, compute);
        }
    }

    /// Computes each input of a failed batch alone, so that only the input that causes the failure fails. The thread is
    /// reported as unhealthy only if its probe fails too.
    fn quarantine(&self, batch: Vec<EmbedJob>, reason: &str) {
        static LINES: LogLimit = LogLimit::new(Site::Quarantine);
        if LINES.admits() {
            tracing::error!(
                reason,
                inputs = batch.len(),
                "a forward pass failed; its inputs are computed one by one"
            );
        }
        self.metrics.worker_failed();
        let mut failed = 0;
        for job in batch {
            let packed = pack(std::slice::from_ref(&job));
            let pass = self.begin(&packed);
            match self.pass(&packed, &Team::alone(), &|| {}) {
                Ok(state) => job.answer(&state, pass, pass.started.elapsed()),
                Err(reason) => {
                    static LINES: LogLimit = LogLimit::new(Site::Quarantine);
                    if LINES.admits() {
                        tracing::error!(
                            reason,
                            tokens = job.ids.len(),
                            "computing an input alone failed; its request fails with INTERNAL"
                        );
                    }
                    failed += 1;
                    job.answers.put(job.index, Err(ComputeDefect));
                }
            }
        }
        match self.pass(&self.probe, &Team::alone(), &|| {}) {
            Ok(_) => self.metrics.poisoned(failed),
            Err(reason) => {
                self.status.worker_failed(&reason);
                self.await_recovery(reason);
                self.status.worker_recovered();
            }
        }
    }

    /// Repeats the probe until it succeeds or the thread is stopped. `reason` is the failure of the last probe.
    fn await_recovery(&self, mut reason: String) {
        let mut pause = Duration::from_millis(100);
        loop {
            tracing::error!(
                reason,
                ?pause,
                "the health probe of a compute thread failed; the thread is unhealthy and probes again after the pause"
            );
            if self.stop.is_stopped_within(pause) {
                return;
            }
            match self.pass(&self.probe, &Team::alone(), &|| {}) {
                Ok(_) => return,
                Err(again) => reason = again,
            }
            pause = (pause * 2).min(Duration::from_secs(10));
        }
    }

    fn begin(&self, packed: &Packed) -> ForwardPass {
        let number = self.passes.fetch_add(1, Ordering::Relaxed);
        ForwardPass {
            number,
            started: Instant::now(),
            inputs: packed.sequences(),
            tokens: packed.ids().len(),
        }
    }

    fn pass(&self, packed: &Packed, team: &Team, between_layers: &dyn Fn()) -> Result<Vec<f32>, String> {
        let states = catch_unwind(AssertUnwindSafe(|| (self.forward)(packed, team, between_layers)))
            .unwrap_or_else(|panic| Err(format!("panic: {}", panic_message(&*panic))))?;
        if states.iter().all(|x| x.is_finite()) {
            Ok(states)
        } else {
            Err("the pooled states have values that are not finite".into())
        }
    }
}

impl StopSignal {
    fn stop(&self) {
        *self.is_stopped.lock() = true;
        self.changed.notify_all();
    }

    /// Waits for `pause` or until stopped. Returns whether it was stopped. Several threads may wait concurrently.
    fn is_stopped_within(&self, pause: Duration) -> bool {
        let mut is_stopped = self.is_stopped.lock();
        let _ = self.changed.wait_while_for(&mut is_stopped, |is_stopped| !*is_stopped, pause);
        *is_stopped
    }
}

impl EmbedJob {
    fn answer(self, state: &[f32], pass: ForwardPass, compute: Duration) {
        let queue = pass.started.saturating_duration_since(self.queued);
        let vector = Vector::new(state, self.options);
        let EmbedJob { permit, answers, index, .. } = self;
        // The permit is released before the caller is answered, so that its next request finds the room free.
        drop(permit);
        answers.put(index, Ok(ComputedVector { vector, queue, compute, pass }));
    }
}

fn pack(batch: &[EmbedJob]) -> Packed {
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
    use std::sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    };

    use prometheus_client::registry::Registry;
    use tokio::sync::oneshot;

    use super::*;
    use crate::{
        deadline::Deadline,
        embed::{
            gather::CancelOnDrop,
            status::{EmbedderStatus, Phase},
            token_semaphore::TokenSemaphore,
            vector::VectorEncoding,
        },
    };

    const PROBE: u32 = 7;
    const CULPRIT: u32 = 666;
    const FLOW: FlowId = FlowId(0);

    type Answers = oneshot::Receiver<Vec<Result<ComputedVector, ComputeDefect>>>;

    /// One compute thread, and the status that it reports to.
    fn start(
        forward: impl Fn(&Packed) -> Result<Vec<f32>, String> + Send + Sync + 'static,
    ) -> (ComputeThreads, StatusHandle) {
        let (threads, status, _) = start_many(1, forward);
        (threads, status)
    }

    fn start_many(
        count: usize,
        forward: impl Fn(&Packed) -> Result<Vec<f32>, String> + Send + Sync + 'static,
    ) -> (ComputeThreads, StatusHandle, EmbedMetrics) {
        start_with(count, move |packed, _| forward(packed))
    }

    fn start_with(
        count: usize,
        forward: impl Fn(&Packed, &dyn Fn()) -> Result<Vec<f32>, String> + Send + Sync + 'static,
    ) -> (ComputeThreads, StatusHandle, EmbedMetrics) {
        let status = StatusHandle::new();
        status.enter(Phase::Ready, "serving");
        let settings = ComputeSettings { threads: count, batch_tokens: 100, probe: vec![PROBE] };
        let metrics = EmbedMetrics::register(&mut Registry::default());
        let threads = ComputeThreads::start(
            &settings,
            Arc::new(move |packed: &Packed, _: &Team, between_layers: &dyn Fn()| {
                forward(packed, between_layers)
            }),
            &status,
            &metrics,
        );
        (threads.expect("a thread"), status, metrics)
    }

    /// Two numbers per sequence: its first id and its length.
    fn states(packed: &Packed) -> Vec<f32> {
        let bounds = packed.offsets().windows(2);
        bounds.flat_map(|b| [packed.ids()[b[0]] as f32, (b[1] - b[0]) as f32]).collect()
    }

    fn push(threads: &ComputeThreads, inputs: &[u32]) -> (Answers, Arc<EmbedCaller>) {
        push_in(threads, FLOW, inputs.iter().map(|&id| vec![id]).collect())
    }

    fn push_in(threads: &ComputeThreads, flow: FlowId, inputs: Vec<Vec<u32>>) -> (Answers, Arc<EmbedCaller>) {
        let caller = EmbedCaller::new(Deadline::after(Duration::from_secs(60)));
        let (answers, receiver) = Gather::new(inputs.len());
        let options =
            VectorOptions { dimensions: 2, normalize: false, encoding: VectorEncoding::Float32Values };
        let gate = TokenSemaphore::new(inputs.len());
        let job = |(index, ids)| EmbedJob {
            ids,
            options,
            index,
            answers: Arc::clone(&answers),
            caller: Arc::clone(&caller),
            queued: Instant::now(),
            permit: gate.try_acquire(1).expect("one for each"),
        };
        threads.push(flow, inputs.into_iter().enumerate().map(job).collect());
        (receiver, caller)
    }

    /// The first number of each vector, `None` for a failed input.
    fn first_numbers(answers: Answers) -> Vec<Option<f32>> {
        let first = |computed: Result<ComputedVector, ComputeDefect>| match computed.ok()?.vector {
            Vector::Values(values) => Some(values[0]),
            other => panic!("{other:?}"),
        };
        answers.blocking_recv().expect("answers").into_iter().map(first).collect()
    }

    fn until(status: &StatusHandle, holds: impl FnMut(&EmbedderStatus) -> bool) {
        futures::executor::block_on(status.subscribe().wait_for(holds)).expect("the status handle exists");
    }

    /// Returns a function that tells whether the status has changed since.
    fn watch(status: &StatusHandle) -> impl Fn() -> bool {
        let changes = status.subscribe();
        move || changes.has_changed().expect("the status handle exists")
    }

    fn check_only_the_culprit_fails(fail: fn() -> Result<Vec<f32>, String>) {
        let (threads, status, metrics) = start_many(1, move |packed| match packed.ids() {
            ids if ids.contains(&CULPRIT) => fail(),
            _ => Ok(states(packed)),
        });
        let has_changed = watch(&status);
        let (answers, _caller) = push(&threads, &[1, CULPRIT, 2]);
        assert_eq!(first_numbers(answers), [Some(1.0), None, Some(2.0)]);
        // There is only one thread, so its probe is done when it takes the next job.
        let (answers, _caller) = push(&threads, &[3]);
        assert_eq!(first_numbers(answers), [Some(3.0)]);
        assert!(!has_changed(), "one failing input does not make the thread unhealthy");
        assert_eq!((metrics.poisoned_inputs(), status.subscribe().borrow().is_serving()), (1, true));
        threads.stop();
    }

    #[test]
    fn a_thread_is_unhealthy_until_its_probe_succeeds() {
        let broken = Arc::new(AtomicBool::new(true));
        let is_broken = Arc::clone(&broken);
        let (threads, status, metrics) = start_many(1, move |packed| match packed.ids() {
            [PROBE | CULPRIT] if is_broken.load(Ordering::Relaxed) => Err("on purpose".into()),
            _ => Ok(states(packed)),
        });
        let (answers, _caller) = push(&threads, &[CULPRIT]);
        assert_eq!(first_numbers(answers), [None]);
        until(&status, |status| status.phase == Phase::Unhealthy && !status.is_serving());
        broken.store(false, Ordering::Relaxed);
        until(&status, EmbedderStatus::is_serving);
        let (answers, _caller) = push(&threads, &[CULPRIT]);
        assert_eq!(first_numbers(answers), [Some(CULPRIT as f32)]);
        threads.stop();
        assert_eq!(metrics.poisoned_inputs(), 0, "the thread was broken, not the input");
    }

    #[test]
    fn pauses_between_probes_are_independent() {
        const LONG: Duration = Duration::from_secs(3600);
        let stop = StopSignal::default();
        let (begun, has_begun) = mpsc::channel();
        std::thread::scope(|scope| {
            let long = scope.spawn(|| {
                begun.send(()).expect("it is waited for");
                stop.is_stopped_within(LONG)
            });
            has_begun.recv().expect("it began");
            for _ in 0..100 {
                assert!(!stop.is_stopped_within(Duration::from_micros(100)));
            }
            stop.stop();
            assert!(long.join().expect("no panic") && stop.is_stopped_within(LONG));
        });
    }

    #[test]
    fn a_panic_fails_only_its_own_input() {
        check_only_the_culprit_fails(|| panic!("on purpose"));
    }

    #[test]
    fn errors_and_non_finite_values_fail_only_their_own_input() {
        check_only_the_culprit_fails(|| Err("on purpose".into()));
        check_only_the_culprit_fails(|| Ok(vec![f32::NAN, 0.0]));
    }

    #[test]
    fn stopping_interrupts_the_pause_between_probes() {
        let (threads, status) = start(|_| Err("for ever".into()));
        let (answers, _caller) = push(&threads, &[1]);
        assert_eq!(first_numbers(answers), [None]);
        until(&status, |status| status.phase == Phase::Unhealthy);
        threads.stop();
    }

    #[test]
    fn a_failed_preemption_does_not_delay_the_preempted_pass() {
        let (begun, has_begun) = mpsc::channel();
        let (go, may_go) = mpsc::channel::<()>();
        let may_go = Mutex::new(may_go);
        let failures = AtomicUsize::new(0);
        let (threads, ..) = start_with(1, move |packed, between_layers| {
            let wait = || may_go.lock().recv().map_err(|e| e.to_string());
            if packed.ids().len() >= 64 {
                begun.send(()).map_err(|e| e.to_string())?;
                wait()?;
                between_layers();
            } else if packed.ids().contains(&CULPRIT) {
                // The test would hang here if the input were computed alone before the long one is answered.
                if failures.fetch_add(1, Ordering::Relaxed) > 0 {
                    wait()?;
                }
                return Err("on purpose".into());
            }
            Ok(states(packed))
        });
        let (long, _caller) = push_in(&threads, FLOW, vec![vec![1; 64]]);
        has_begun.recv().expect("the long pass");
        let (short, _caller) = push_in(&threads, FlowId(1), vec![vec![CULPRIT]]);
        go.send(()).expect("the thread waits");
        assert_eq!(first_numbers(long), [Some(1.0)]);
        go.send(()).expect("the thread waits");
        assert_eq!(first_numbers(short), [None]);
        threads.stop();
    }

    #[test]
    fn a_short_input_preempts_a_long_pass() {
        let (begun, has_begun) = mpsc::channel();
        let (go, may_go) = mpsc::channel::<()>();
        let may_go = Mutex::new(may_go);
        let (threads, ..) = start_with(1, move |packed, between_layers| {
            if packed.ids().len() >= 64 {
                begun.send(()).map_err(|e| e.to_string())?;
                may_go.lock().recv().map_err(|e| e.to_string())?;
                between_layers();
                // The test would hang here if the short input were not done yet.
                may_go.lock().recv().map_err(|e| e.to_string())?;
            }
            Ok(states(packed))
        });
        let (long, _caller) = push_in(&threads, FLOW, vec![vec![1; 64]]);
        has_begun.recv().expect("the long pass");
        let (short, _caller) = push_in(&threads, FlowId(1), vec![vec![2; PREEMPTION_DIVISOR]]);
        let (middle, _caller) = push_in(&threads, FlowId(2), vec![vec![3; PREEMPTION_DIVISOR + 1]]);
        go.send(()).expect("the thread waits");
        assert_eq!(first_numbers(short), [Some(2.0)]);
        go.send(()).expect("the thread waits");
        assert_eq!((first_numbers(long), first_numbers(middle)), (vec![Some(1.0)], vec![Some(3.0)]));
        threads.stop();
    }

    #[test]
    fn a_cancelled_caller_costs_no_forward_pass() {
        let passes = Arc::new(AtomicUsize::new(0));
        let (begun, has_begun) = mpsc::channel();
        let (go, may_go) = mpsc::channel::<()>();
        let (counted, may_go) = (Arc::clone(&passes), Mutex::new(may_go));
        let (threads, _status) = start(move |packed| {
            counted.fetch_add(1, Ordering::Relaxed);
            begun.send(()).map_err(|e| e.to_string())?;
            may_go.lock().recv().map_err(|e| e.to_string())?;
            Ok(states(packed))
        });
        let (first, _caller) = push(&threads, &[1]);
        has_begun.recv().expect("the first pass");
        let (left, caller) = push(&threads, &[2, 3]);
        drop(CancelOnDrop(caller));
        go.send(()).expect("the thread waits");
        assert_eq!(first_numbers(first), [Some(1.0)]);
        assert!(left.blocking_recv().is_err());
        threads.stop();
        assert_eq!(passes.load(Ordering::Relaxed), 1);
    }
}
