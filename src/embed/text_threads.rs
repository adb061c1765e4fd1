//! Threads for tokenization, which keep this work off the reactor and the compute threads.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::JoinHandle,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{
    fair_queue::FlowId,
    gather::{EmbedCaller, Gather},
    metrics::EmbedMetrics,
    work_queue::WorkQueue,
};
use crate::{
    log_limit::{LogLimit, Site},
    priority::Priority,
};

/// A pool of threads that process texts. Flows share it fairly, weighted by bytes.
pub(super) struct TextThreads {
    queue: Arc<WorkQueue<TextTask>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// The processing of one text.
struct TextTask {
    caller: Arc<EmbedCaller>,
    run: Box<dyn FnOnce() + Send>,
}

/// Maximum bytes that a thread takes from the queue at once.
const BATCH_BYTES: usize = 4096;
/// Maximum bytes of all texts of a request that are processed on the calling thread. That is less than 100 µs of work,
/// about the cost of handing over to another thread and back.
const INLINE_BYTES: usize = 96;
/// Maximum bytes of a word that is processed on the calling thread. The `tokenizers` crate looks up every part of a word
/// in the vocabulary, which took 660 µs for a word of 99 letters.
const INLINE_WORD_BYTES: usize = 16;

impl TextThreads {
    /// Starts `count` threads named `name` and a number.
    ///
    /// # Errors
    /// An [`io::Error`] if the operating system cannot start a thread.
    pub fn start(
        name: &str,
        count: usize,
        priority: Priority,
        metrics: &EmbedMetrics,
    ) -> io::Result<TextThreads> {
        let started = TextThreads { queue: Arc::new(WorkQueue::new(count)), threads: Mutex::default() };
        for index in 0..count {
            let (queue, metrics) = (Arc::clone(&started.queue), metrics.clone());
            let thread = std::thread::Builder::new().name(format!("{name}-{index}"));
            let thread = thread.spawn(move || work(&queue, priority, &metrics))?;
            started.threads.lock().push(thread);
        }
        Ok(started)
    }

    /// Applies `apply` to each text and sends the results in the order of the texts. Very short texts are processed
    /// immediately on the calling thread. The receiver gets an error if the caller is gone, the threads are stopped or
    /// `apply` panics.
    pub fn map<T: Send + 'static>(
        &self,
        flow: FlowId,
        caller: &Arc<EmbedCaller>,
        texts: Vec<String>,
        apply: impl Fn(&str) -> T + Send + Sync + 'static,
    ) -> oneshot::Receiver<Vec<T>> {
        let (gather, receiver) = Gather::new(texts.len());
        if are_short(&texts) {
            run(|| texts.iter().enumerate().for_each(|(index, text)| gather.put(index, apply(text))));
            return receiver;
        }
        let apply = Arc::new(apply);
        let tasks = texts.into_iter().enumerate().map(|(index, text)| {
            let (gather, apply) = (Arc::clone(&gather), Arc::clone(&apply));
            let bytes = text.len().max(1);
            let run = Box::new(move || gather.put(index, apply(&text)));
            (bytes, TextTask { caller: Arc::clone(caller), run })
        });
        self.queue.push(flow, tasks);
        receiver
    }

    /// Stops the threads and waits for them.
    pub fn stop(&self) {
        self.queue.close();
        for thread in self.threads.lock().drain(..) {
            // A panic was already logged.
            let _ = thread.join();
        }
    }
}

/// Stops the threads also if a later part of the start fails.
impl Drop for TextThreads {
    fn drop(&mut self) {
        self.stop();
    }
}

fn are_short(texts: &[String]) -> bool {
    let mut words = texts.iter().flat_map(|text| text.split_whitespace());
    let bytes: usize = texts.iter().map(String::len).sum();
    bytes <= INLINE_BYTES && words.all(|word| word.len() <= INLINE_WORD_BYTES)
}

fn work(queue: &WorkQueue<TextTask>, priority: Priority, metrics: &EmbedMetrics) {
    priority.apply();
    let wanted = |task: &TextTask| {
        let waiting = task.caller.is_waiting();
        if !waiting {
            metrics.dropped_before_tokenizing();
        }
        waiting
    };
    while let Some(tasks) = queue.next_batch(BATCH_BYTES, wanted) {
        for task in tasks.into_iter().filter(wanted) {
            run(task.run);
        }
    }
}

fn run(task: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(task)).is_err() {
        static LINES: LogLimit = LogLimit::new(Site::Tokenize);
        if LINES.admits() {
            tracing::error!("tokenizing a text panicked; its request fails with INTERNAL");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::deadline::Deadline;

    fn map<T: Send + 'static>(
        texts: &[&str],
        apply: impl Fn(&str) -> T + Send + Sync + 'static,
    ) -> Option<Vec<T>> {
        let threads =
            TextThreads::start("text", 2, Priority::Text, &EmbedMetrics::register(&mut Default::default()))
                .expect("threads");
        let caller = EmbedCaller::new(Deadline::after(Duration::from_secs(60)));
        let texts = texts.iter().map(|&text| text.to_owned()).collect();
        threads.map(FlowId(0), &caller, texts, apply).blocking_recv().ok()
    }

    #[test]
    fn short_texts_run_inline_and_long_ones_on_a_thread() {
        let here = std::thread::current().id();
        let is_here = move |_: &str| std::thread::current().id() == here;
        assert_eq!(map(&["a", "b"], is_here), Some(vec![true; 2]));
        assert_eq!(map(&["a", &"b ".repeat(INLINE_BYTES / 2)], is_here), Some(vec![false; 2]));
        assert_eq!(map(&["a", &"b".repeat(INLINE_WORD_BYTES + 1)], is_here), Some(vec![false; 2]));
    }

    #[test]
    fn results_are_in_order_and_a_panic_fails_only_its_call() {
        for length in [1, INLINE_BYTES] {
            let texts = ["a", "b", "c"].map(|text| text.repeat(length));
            let texts = texts.each_ref().map(String::as_str);
            let first = |text: &str| text[..1].to_owned();
            assert_eq!(map(&texts, first), Some(["a", "b", "c"].map(str::to_owned).to_vec()));
            assert_eq!(map(&texts, |text| assert!(!text.starts_with('b'))), None);
        }
    }
}
