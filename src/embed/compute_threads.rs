//! Compute threads: batches from the queue, forward passes, answers. A panic costs its own input alone.

use std::{
    cell::Cell,
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

/// One forward pass: packed tokens in, `[sequences * dimensions]` pooled numbers out, or why not. It calls the last
/// argument between its layers.
pub(super) type Forward = dyn Fn(&Packed, &Team, &dyn Fn()) -> Result<Vec<f32>, String> + Send + Sync;

/// A forward pass of so many tokens may be preempted for one: short inputs do not wait for the end of a long pass, and
/// no pass becomes much longer by them.
const PREEMPTED_SHARE: usize = 8;

/// One input on its way to a vector.
pub(super) struct EmbedJob {
    pub ids: Vec<u32>,
    pub options: VectorOptions,
    pub index: usize,
    pub answers: Arc<Gather<Result<ComputedVector, ComputeDefect>>>,
    pub caller: Arc<EmbedCaller>,
    pub queued: Instant,
    /// Held until the job is answered or dropped, so abandoned work counts as long as it waits.
    pub permit: TokenPermit,
}

pub(super) struct ComputedVector {
    pub vector: Vector,
    pub queue: Duration,
    pub compute: Duration,
    pub pass: ForwardPass,
}

/// The forward pass that an input went through, with inputs of whoever else waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ForwardPass {
    /// Of this process.
    pub number: u64,
    pub started: Instant,
    pub inputs: usize,
    pub tokens: usize,
}

/// The forward pass of this input failed, alone too. The cause is in the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct ComputeDefect;

pub(super) struct ComputeThreads {
    queue: Arc<WorkQueue<EmbedJob>>,
    stop: Arc<StopSignal>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

pub(super) struct ComputeSettings {
    pub threads: usize,
    /// The most tokens of one forward pass.
    pub batch_tokens: usize,
    /// Ids of a short text that every healthy worker can compute.
    pub probe: Vec<u32>,
}

struct ComputeWorker {
    queue: Arc<WorkQueue<EmbedJob>>,
    forward: Arc<Forward>,
    batch_tokens: usize,
    /// Forward passes that any thread began.
    passes: Arc<AtomicU64>,
    probe: Packed,
    status: StatusHandle,
    metrics: EmbedMetrics,
    stop: Arc<StopSignal>,
}

/// Ends the pauses between probes, of all threads at once.
#[derive(Default)]
struct StopSignal {
    is_stopped: Mutex<bool>,
    changed: Condvar,
}

impl ComputeThreads {
    pub fn start(
        settings: &ComputeSettings,
        forward: Arc<Forward>,
        status: &StatusHandle,
        metrics: &EmbedMetrics,
    ) -> io::Result<ComputeThreads> {
        let started = ComputeThreads {
            queue: Arc::new(WorkQueue::new(settings.threads)),
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

    pub fn push(&self, flow: FlowId, jobs: Vec<EmbedJob>) {
        self.queue.push(flow, jobs.into_iter().map(|job| (job.ids.len(), job)));
    }

    /// Inputs and tokens that wait.
    pub fn depth(&self) -> (usize, usize) {
        self.queue.depth()
    }

    /// Ends the threads when what is queued is done, and waits for them.
    pub fn stop(&self) {
        self.queue.close();
        self.stop.stop();
        for thread in self.threads.lock().drain(..) {
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

impl ComputeWorker {
    fn run(&self) {
        Priority::Compute.take();
        while let Some(work) = self.queue.next_pass(self.batch_tokens, |job| self.is_wanted(job)) {
            let work = || match work {
                WorkItem::Batch(batch, team) => self.compute(batch, team),
                WorkItem::Help(invitation) => invitation.help(),
            };
            // Forward passes have their own guard; this one keeps the thread whatever else goes wrong.
            if catch_unwind(AssertUnwindSafe(work)).is_err() {
                static LINES: LogLimit = LogLimit::new(Site::BatchPanic);
                if LINES.admits() {
                    tracing::error!("answering a batch panicked; its calls are answered with UNAVAILABLE");
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
        let room = Cell::new(packed.ids().len() / PREEMPTED_SHARE);
        let states = self.pass(&packed, &team, &|| self.compute_short(&room, &team));
        // Who helped is idle before a caller, once answered, asks for more.
        drop(team);
        self.answer(batch, &packed, pass, states);
    }

    /// Computes the short inputs whose turn it is, between two layers of the pass of `team`.
    fn compute_short(&self, room: &Cell<usize>, team: &Team) {
        let (batch, tokens) = self.queue.next_short(room.get(), |job| self.is_wanted(job));
        if batch.is_empty() {
            return;
        }
        room.set(room.get() - tokens);
        self.metrics.preempted();
        let packed = pack(&batch);
        let pass = self.begin(&packed);
        let states = self.pass(&packed, team, &|| {});
        self.answer(batch, &packed, pass, states);
    }

    fn answer(
        &self,
        batch: Vec<EmbedJob>,
        packed: &Packed,
        pass: ForwardPass,
        states: Result<Vec<f32>, String>,
    ) {
        match states {
            Ok(states) => {
                let compute = pass.started.elapsed();
                self.metrics.batch(packed, compute);
                let dimensions = states.len() / packed.sequences();
                for (job, state) in batch.into_iter().zip(states.chunks_exact(dimensions)) {
                    job.answer(state, pass, compute);
                }
            }
            Err(reason) => self.quarantine(batch, &reason),
        }
    }

    /// Runs each input of a failed batch alone, so that only the culprit pays. The thread is broken, and says so, only
    /// where its probe fails too.
    fn quarantine(&self, batch: Vec<EmbedJob>, reason: &str) {
        static LINES: LogLimit = LogLimit::new(Site::Quarantine);
        if LINES.admits() {
            tracing::error!(
                reason,
                inputs = batch.len(),
                "a forward pass failed; its inputs are tried one by one"
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
                        tracing::error!(reason, tokens = job.ids.len(), "an input cannot be computed");
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

    /// Until a probe passes, or the thread is to stop; `reason` is why the last one failed.
    fn await_recovery(&self, mut reason: String) {
        let mut pause = Duration::from_millis(100);
        loop {
            tracing::error!(
                reason,
                ?pause,
                "a compute thread's probe failed; it is tried again after the pause"
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
            Err("a vector has numbers that are not finite".into())
        }
    }
}

impl StopSignal {
    fn stop(&self) {
        *self.is_stopped.lock() = true;
        self.changed.notify_all();
    }

    /// Any number of threads wait side by side.
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
        // The room is free before the caller can know that it is.
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

    /// One thread, and the status that it reports to.
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

    /// Two numbers a sequence: its first id and its length.
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

    /// The first number of each vector, none for a defect.
    fn first_numbers(answers: Answers) -> Vec<Option<f32>> {
        let first = |computed: Result<ComputedVector, ComputeDefect>| match computed.ok()?.vector {
            Vector::Values(values) => Some(values[0]),
            other => panic!("{other:?}"),
        };
        answers.blocking_recv().expect("answers").into_iter().map(first).collect()
    }

    fn until(status: &StatusHandle, holds: impl FnMut(&EmbedderStatus) -> bool) {
        futures::executor::block_on(status.subscribe().wait_for(holds)).expect("it is still told");
    }

    /// Whether the status has changed since.
    fn watch(status: &StatusHandle) -> impl Fn() -> bool {
        let changes = status.subscribe();
        move || changes.has_changed().expect("it is still told")
    }

    fn check_only_the_culprit_pays(fail: fn() -> Result<Vec<f32>, String>) {
        let (threads, status, metrics) = start_many(1, move |packed| match packed.ids() {
            ids if ids.contains(&CULPRIT) => fail(),
            _ => Ok(states(packed)),
        });
        let has_changed = watch(&status);
        let (answers, _caller) = push(&threads, &[1, CULPRIT, 2]);
        assert_eq!(first_numbers(answers), [Some(1.0), None, Some(2.0)]);
        // The thread is one, so it has done with its probe when it takes more.
        let (answers, _caller) = push(&threads, &[3]);
        assert_eq!(first_numbers(answers), [Some(3.0)]);
        assert!(!has_changed(), "one input says nothing about health");
        assert_eq!((metrics.poisoned_inputs(), status.subscribe().borrow().is_serving()), (1, true));
        threads.stop();
    }

    #[test]
    fn a_failed_probe_is_told_and_one_that_passes_brings_the_thread_back() {
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
    fn a_pause_between_probes_does_not_wait_for_that_of_another_thread() {
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
    fn a_panic_costs_its_own_input_alone() {
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
    fn a_short_input_preempts_a_long_pass_between_two_layers() {
        let (begun, has_begun) = mpsc::channel();
        let (go, may_go) = mpsc::channel::<()>();
        let may_go = Mutex::new(may_go);
        let (threads, ..) = start_with(1, move |packed, between_layers| {
            if packed.ids().len() >= 64 {
                begun.send(()).map_err(|e| e.to_string())?;
                may_go.lock().recv().map_err(|e| e.to_string())?;
                between_layers();
                // Were the short one not done by now, the test would wait for ever.
                may_go.lock().recv().map_err(|e| e.to_string())?;
            }
            Ok(states(packed))
        });
        let (long, _caller) = push_in(&threads, FLOW, vec![vec![1; 64]]);
        has_begun.recv().expect("the long pass");
        let (short, _caller) = push_in(&threads, FlowId(1), vec![vec![2; PREEMPTED_SHARE]]);
        let (middle, _caller) = push_in(&threads, FlowId(2), vec![vec![3; PREEMPTED_SHARE + 1]]);
        go.send(()).expect("the thread waits");
        assert_eq!(first_numbers(short), [Some(2.0)]);
        go.send(()).expect("the thread waits");
        assert_eq!((first_numbers(long), first_numbers(middle)), (vec![Some(1.0)], vec![Some(3.0)]));
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
