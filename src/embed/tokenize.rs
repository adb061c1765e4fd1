//! Threads that cut texts into tokens, so that neither the reactor nor the compute threads do.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use tokio::sync::oneshot;

use super::{
    batch::FlowId,
    gather::{Caller, Gather},
    metrics::Metrics,
    queue::SharedQueue,
};

/// Work on texts, spread over threads; callers share them fairly by bytes.
pub(super) struct TextThreads {
    queue: Arc<SharedQueue<Task>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Task {
    caller: Arc<Caller>,
    run: Box<dyn FnOnce() + Send>,
}

/// Bytes that a thread takes from the queue at a time.
const BYTES_AT_A_TIME: usize = 4096;

impl TextThreads {
    pub fn start(count: usize, metrics: &Metrics) -> io::Result<TextThreads> {
        let started = TextThreads { queue: Arc::new(SharedQueue::new()), threads: Mutex::default() };
        for index in 0..count {
            let (queue, metrics) = (Arc::clone(&started.queue), metrics.clone());
            let thread = std::thread::Builder::new().name(format!("assay-text-{index}"));
            let thread = thread.spawn(move || work(&queue, &metrics))?;
            started.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok(started)
    }

    /// Applies `apply` to each text; the answers come in the order of the texts. The receiver gets an error if
    /// the caller is gone, the threads are stopped, or `apply` panicked.
    pub fn map<T: Send + 'static>(
        &self,
        flow: FlowId,
        caller: &Arc<Caller>,
        texts: Vec<String>,
        apply: impl Fn(&str) -> T + Send + Sync + 'static,
    ) -> oneshot::Receiver<Vec<T>> {
        let (gather, receiver) = Gather::new(texts.len());
        let apply = Arc::new(apply);
        let tasks = texts.into_iter().enumerate().map(|(index, text)| {
            let (gather, apply) = (Arc::clone(&gather), Arc::clone(&apply));
            let bytes = text.len().max(1);
            let run = Box::new(move || gather.put(index, apply(&text)));
            (bytes, Task { caller: Arc::clone(caller), run })
        });
        self.queue.push(flow, tasks);
        receiver
    }

    /// Ends the threads and waits for them.
    pub fn stop(&self) {
        self.queue.close();
        for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // A panic was logged where it happened.
            let _ = thread.join();
        }
    }
}

/// Also where a later thread could not be started, or a part that comes after.
impl Drop for TextThreads {
    fn drop(&mut self) {
        self.stop();
    }
}

fn work(queue: &SharedQueue<Task>, metrics: &Metrics) {
    let wanted = |task: &Task| {
        let waiting = task.caller.is_waiting();
        if !waiting {
            metrics.dropped_before_tokenizing();
        }
        waiting
    };
    while let Some(tasks) = queue.next_batch(BYTES_AT_A_TIME, wanted) {
        for task in tasks {
            if catch_unwind(AssertUnwindSafe(task.run)).is_err() {
                tracing::error!("cutting a text into tokens panicked; its call is answered with INTERNAL");
            }
        }
    }
}
