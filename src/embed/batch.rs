//! Which sequences share the next forward pass: fair queueing over callers, counted in tokens.
//!
//! Every job gets an end tag: its tokens after the later of the queue's virtual time and the end tag of its flow's
//! job before it. Jobs leave in the order of their tags, and the virtual time advances by the tokens that left,
//! divided by the flows that had work waiting. So a short job of a new flow goes before the long ones that others
//! have queued; flows with work waiting get equal shares of tokens; and as time passes every tag, no stream of
//! newcomers can hold a job back for ever.
//!
//! Bound: before a new flow's first job, each other flow gets at most as many tokens as that job has, and one job.
//!
//! Source: Demers, Keshav and Shenker, Analysis and Simulation of a Fair Queueing Algorithm, SIGCOMM 1989.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

/// Whose work it is: one unary call, or one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct FlowId(pub u64);

pub(super) struct FairQueue<T> {
    heap: BinaryHeap<Reverse<Entry<T>>>,
    flows: HashMap<FlowId, Flow>,
    virtual_time: u64,
    /// Flows with a job that waits.
    waiting_flows: u64,
    arrivals: u64,
    tokens: usize,
}

#[derive(Default)]
struct Flow {
    /// Where its work ends, in units of the virtual time.
    end: u64,
    waiting_jobs: usize,
}

/// Steps of the virtual time for one token, so that shares of it are exact enough.
const UNIT: u64 = 1 << 16;

struct Entry<T> {
    flow: FlowId,
    end: u64,
    arrival: u64,
    tokens: usize,
    job: T,
}

impl<T> FairQueue<T> {
    pub fn new() -> FairQueue<T> {
        FairQueue {
            heap: BinaryHeap::new(),
            flows: HashMap::new(),
            virtual_time: 0,
            waiting_flows: 0,
            arrivals: 0,
            tokens: 0,
        }
    }

    pub fn push(&mut self, id: FlowId, tokens: usize, job: T) {
        let flow = self.flows.entry(id).or_default();
        flow.end = self.virtual_time.max(flow.end) + tokens as u64 * UNIT;
        let end = flow.end;
        self.waiting_flows += u64::from(flow.waiting_jobs == 0);
        flow.waiting_jobs += 1;
        self.tokens += tokens;
        self.arrivals += 1;
        self.heap.push(Reverse(Entry { flow: id, end, arrival: self.arrivals, tokens, job }));
    }

    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    pub fn jobs(&self) -> usize {
        self.heap.len()
    }

    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Takes the next jobs, at most `limit` tokens of them, but at least one job; `keep` drops those whose
    /// callers left, which count for nothing.
    pub fn next_batch(&mut self, limit: usize, keep: impl Fn(&T) -> bool) -> Vec<T> {
        let (mut batch, mut taken) = (Vec::new(), 0);
        let sharing = self.waiting_flows.max(1);
        while let Some(Reverse(next)) = self.heap.peek() {
            let kept = keep(&next.job);
            if kept && !batch.is_empty() && taken + next.tokens > limit {
                break;
            }
            let Some(Reverse(entry)) = self.heap.pop() else { break };
            self.left(entry.flow, entry.tokens);
            if kept {
                taken += entry.tokens;
                batch.push(entry.job);
            }
        }
        self.virtual_time += taken as u64 * UNIT / sharing;
        self.forget_idle_flows();
        batch
    }

    fn left(&mut self, id: FlowId, tokens: usize) {
        self.tokens -= tokens;
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.waiting_jobs -= 1;
            self.waiting_flows -= u64::from(flow.waiting_jobs == 0);
        }
    }

    /// A flow without waiting work that ended before now starts at the virtual time again, as an unknown one does;
    /// and where nobody waits, nobody is owed anything.
    fn forget_idle_flows(&mut self) {
        if self.heap.is_empty() {
            self.flows.clear();
        } else if self.flows.len() > 2 * self.heap.len() + 64 {
            let now = self.virtual_time;
            self.flows.retain(|_, flow| flow.waiting_jobs > 0 || flow.end > now);
        }
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.end, self.arrival).cmp(&(other.end, other.arrival))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drain(queue: &mut FairQueue<&'static str>, limit: usize) -> Vec<Vec<&'static str>> {
        std::iter::from_fn(|| Some(queue.next_batch(limit, |_| true)).filter(|b| !b.is_empty())).collect()
    }

    #[test]
    fn a_short_call_overtakes_a_long_one_that_came_before() {
        let mut queue = FairQueue::new();
        for _ in 0..5 {
            queue.push(FlowId(1), 100, "long");
        }
        queue.next_batch(100, |_| true);
        queue.push(FlowId(2), 5, "short");
        assert_eq!(queue.next_batch(100, |_| true), ["short"]);
    }

    #[test]
    fn two_busy_flows_share_tokens_equally() {
        let mut queue = FairQueue::new();
        for _ in 0..4 {
            queue.push(FlowId(1), 10, "a");
        }
        for _ in 0..4 {
            queue.push(FlowId(2), 10, "b");
        }
        assert_eq!(drain(&mut queue, 20), [["a", "b"], ["a", "b"], ["a", "b"], ["a", "b"]]);
    }

    #[test]
    fn a_job_above_the_limit_travels_alone() {
        let mut queue = FairQueue::new();
        queue.push(FlowId(1), 500, "long");
        queue.push(FlowId(2), 5, "short");
        assert_eq!(drain(&mut queue, 100), [["short"], ["long"]]);
    }

    #[test]
    fn jobs_without_a_caller_cost_nothing() {
        let mut queue = FairQueue::new();
        for name in ["left", "left", "stays"] {
            queue.push(FlowId(1), 100, name);
        }
        assert_eq!(queue.next_batch(100, |&name| name == "stays"), ["stays"]);
        assert!(queue.is_empty() && queue.tokens() == 0);
    }

    #[test]
    fn flows_that_are_done_are_forgotten_while_others_wait() {
        let mut queue = FairQueue::new();
        for flow in 0..10_000 {
            queue.push(FlowId(flow), 7, ());
            if flow > 3 {
                queue.next_batch(7, |_| true);
            }
        }
        assert!(!queue.is_empty() && queue.flows.len() < 100, "{}", queue.flows.len());
    }

    #[test]
    fn newcomers_do_not_starve_what_waits() {
        let mut queue = FairQueue::new();
        for _ in 0..10 {
            queue.push(FlowId(0), 10, true);
        }
        let mut newcomers = 0;
        while queue.jobs() > 0 && newcomers < 1000 {
            newcomers += 1;
            queue.push(FlowId(newcomers), 10, false);
            queue.next_batch(10, |_| true);
            if !queue.heap.iter().any(|entry| entry.0.job) {
                break;
            }
        }
        assert!(newcomers < 200, "{newcomers}");
    }

    proptest! {
        #[test]
        fn every_job_leaves_once_in_its_flows_order_and_batches_keep_the_limit(
            jobs in prop::collection::vec((0..5_u64, 1..200_usize), 1..100), limit in 1..400_usize,
        ) {
            let mut queue = FairQueue::new();
            for (number, &(flow, tokens)) in jobs.iter().enumerate() {
                queue.push(FlowId(flow), tokens, number);
            }
            prop_assert_eq!(queue.tokens(), jobs.iter().map(|job| job.1).sum::<usize>());
            let mut left = Vec::new();
            while !queue.is_empty() {
                let batch = queue.next_batch(limit, |_| true);
                let tokens: usize = batch.iter().map(|&number| jobs[number].1).sum();
                prop_assert!(batch.len() == 1 || tokens <= limit);
                left.extend(batch);
            }
            for flow in 0..5 {
                let of_flow = |numbers: &[usize]| -> Vec<usize> {
                    numbers.iter().copied().filter(|&number| jobs[number].0 == flow).collect()
                };
                prop_assert_eq!(of_flow(&left), of_flow(&(0..jobs.len()).collect::<Vec<_>>()));
            }
        }

        #[test]
        fn before_a_new_flow_each_other_gets_its_tokens_and_one_job_at_most(
            others in prop::collection::vec(1..200_usize, 1..20), own in 1..200_usize, served in 0..50_usize,
        ) {
            let mut queue = FairQueue::new();
            for (flow, &tokens) in others.iter().enumerate() {
                for _ in 0..200 {
                    queue.push(FlowId(flow as u64), tokens, flow);
                }
            }
            for _ in 0..served {
                queue.next_batch(1, |_| true);
            }
            let newcomer = others.len();
            queue.push(FlowId(newcomer as u64), own, newcomer);
            let mut before = vec![0; others.len()];
            while let Some(flow) = queue.next_batch(1, |_| true).pop().filter(|&flow| flow != newcomer) {
                before[flow] += others[flow];
            }
            // What a flow was behind its share when the newcomer came is one job, too.
            for (tokens, job) in before.into_iter().zip(others) {
                prop_assert!(tokens <= own + 2 * job, "{} tokens before {}, jobs of {}", tokens, own, job);
            }
        }
    }
}
