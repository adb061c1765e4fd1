//! Fair queueing between flows, weighted by tokens. It decides which request is admitted next and which inputs share the
//! next forward pass.
//!
//! Every job has a start tag: the later of the virtual time at its arrival and the end tag of the previous job of its flow.
//! Its end tag is the start tag plus its tokens. Jobs are served in the order of their end tags. The virtual time advances
//! by the tokens served, divided by the number of flows with waiting jobs. A short job of a new flow therefore overtakes
//! the long jobs of other flows, flows with waiting jobs receive equal shares of tokens, and the virtual time passes every
//! tag in the end, so new flows cannot starve a job. A cancelled job does not count: the jobs behind it move up.
//!
//! Bound: before the first job of a new flow, every other flow receives at most the tokens of that job plus one job.
//!
//! A queue may limit the tokens that count for the position of a job, so that a long job does not wait for its length in
//! every other flow. Its flow is still charged for all of them. The bound grows by the tokens by which the longest job of
//! any flow exceeds the limit.
//!
//! Source: Demers, Keshav and Shenker, Analysis and Simulation of a Fair Queueing Algorithm, SIGCOMM 1989. The limit is an
//! addition; docs/decisions/0014-bounded-penalty-of-long-texts.md compares policies.

use std::collections::{BTreeMap, HashMap, VecDeque};

/// Identifier of a flow: one unary call, one stream, or all evaluations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct FlowId(pub u64);

/// A queue of jobs of type `T` that is fair between flows.
pub(super) struct FairQueue<T> {
    /// Invariant: for each flow with a waiting job, the position and the arrival of its first job.
    heads: BTreeMap<(u64, u64), FlowId>,
    flows: HashMap<FlowId, FlowQueue<T>>,
    virtual_time: u64,
    arrivals: u64,
    jobs: usize,
    tokens: usize,
    /// Maximum tokens of a job that count for its position.
    position_limit: usize,
}

/// The queued jobs of one flow.
struct FlowQueue<T> {
    /// Finish tag of the job that left last, in units of the virtual time.
    end: u64,
    waiting: VecDeque<WaitingJob<T>>,
}

struct WaitingJob<T> {
    /// Sequence number of the job in the queue.
    arrival: u64,
    /// Virtual time of its arrival.
    since: u64,
    tokens: usize,
    job: T,
}

/// Identifies a queued job, so that it can be removed.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueTicket {
    flow: FlowId,
    arrival: u64,
}

/// Units of virtual time per token. Large, so that the division by the number of flows is precise.
const UNIT: u64 = 1 << 16;

/// Converts tokens to units of virtual time.
fn in_units(tokens: usize) -> u64 {
    (tokens as u64).saturating_mul(UNIT)
}

impl<T> FairQueue<T> {
    /// Creates a queue in which all tokens of a job count for its position.
    pub fn new() -> FairQueue<T> {
        FairQueue::with_position_limit(usize::MAX)
    }

    /// Creates a queue in which at most `position_limit` tokens of a job count for its position.
    pub fn with_position_limit(position_limit: usize) -> FairQueue<T> {
        FairQueue {
            heads: BTreeMap::new(),
            flows: HashMap::new(),
            virtual_time: 0,
            arrivals: 0,
            jobs: 0,
            tokens: 0,
            position_limit,
        }
    }

    /// Queues a job of `tokens` tokens at the end of its flow.
    pub fn push(&mut self, id: FlowId, tokens: usize, job: T) -> QueueTicket {
        self.arrivals += 1;
        let (arrival, since) = (self.arrivals, self.virtual_time);
        let flow = self.flows.entry(id).or_insert_with(FlowQueue::new);
        flow.waiting.push_back(WaitingJob { arrival, since, tokens, job });
        if flow.waiting.len() == 1 {
            self.heads.extend(flow.head(self.position_limit).map(|head| (head, id)));
        }
        self.jobs += 1;
        self.tokens += tokens;
        QueueTicket { flow: id, arrival }
    }

    pub fn is_empty(&self) -> bool {
        self.jobs == 0
    }

    /// Number of queued jobs.
    pub fn jobs(&self) -> usize {
        self.jobs
    }

    /// Tokens of all queued jobs.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Takes the next jobs: at most `limit` tokens, but at least one job. Jobs for which `keep` is false are dropped and
    /// do not count.
    pub fn next_batch(&mut self, limit: usize, keep: impl Fn(&T) -> bool) -> Vec<T> {
        self.take(limit, keep, 1).0
    }

    /// Takes the next jobs, at most `limit` tokens, and returns them with their number of tokens. Returns no job if the
    /// next one is longer than `limit`.
    pub fn next_short(&mut self, limit: usize, keep: impl Fn(&T) -> bool) -> (Vec<T>, usize) {
        self.take(limit, keep, 0)
    }

    /// Takes jobs up to `limit` tokens. The first `at_least` jobs are taken regardless of their size.
    fn take(&mut self, limit: usize, keep: impl Fn(&T) -> bool, at_least: usize) -> (Vec<T>, usize) {
        let (mut batch, mut taken) = (Vec::new(), 0);
        let sharing = self.sharing();
        while let Some(next) = self.first() {
            let kept = keep(&next.job);
            if kept && batch.len() >= at_least && taken + next.tokens > limit {
                break;
            }
            let Some(next) = self.pop(kept) else { break };
            if kept {
                taken += next.tokens;
                batch.push(next.job);
            }
        }
        self.advance(taken, sharing);
        (batch, taken)
    }

    /// Takes the next job and its tokens. Returns `None` if it has more than `room` tokens; no other job overtakes it.
    pub fn next_within(&mut self, room: usize) -> Option<(usize, T)> {
        let sharing = self.sharing();
        self.first().filter(|next| next.tokens <= room)?;
        let next = self.pop(true)?;
        self.advance(next.tokens, sharing);
        Some((next.tokens, next.job))
    }

    /// Removes a cancelled job without charging its flow. Returns `None` if the job has already left.
    pub fn remove(&mut self, ticket: QueueTicket) -> Option<T> {
        let flow = self.flows.get_mut(&ticket.flow)?;
        let index = flow.waiting.binary_search_by_key(&ticket.arrival, |waiting| waiting.arrival).ok()?;
        if index == 0 {
            self.heads.remove(&flow.head(self.position_limit)?);
        }
        let removed = flow.waiting.remove(index)?;
        if index == 0 {
            self.heads.extend(flow.head(self.position_limit).map(|head| (head, ticket.flow)));
        }
        self.jobs -= 1;
        self.tokens -= removed.tokens;
        self.forget_idle_flows();
        Some(removed.job)
    }

    fn first(&self) -> Option<&WaitingJob<T>> {
        let (_, id) = self.heads.first_key_value()?;
        self.flows.get(id)?.waiting.front()
    }

    /// Takes the first job. Its tokens are charged to its flow only if `counts`.
    fn pop(&mut self, counts: bool) -> Option<WaitingJob<T>> {
        let (_, id) = self.heads.pop_first()?;
        let flow = self.flows.get_mut(&id)?;
        let next = flow.waiting.pop_front()?;
        if counts {
            flow.end = flow.start(&next).saturating_add(in_units(next.tokens));
        }
        self.heads.extend(flow.head(self.position_limit).map(|head| (head, id)));
        self.jobs -= 1;
        self.tokens -= next.tokens;
        Some(next)
    }

    /// Number of backlogged flows, at least 1.
    fn sharing(&self) -> u64 {
        self.heads.len().max(1) as u64
    }

    fn advance(&mut self, tokens: usize, sharing: u64) {
        self.virtual_time = self.virtual_time.saturating_add(in_units(tokens) / sharing);
        self.forget_idle_flows();
    }

    /// Drops the state of idle flows. A flow whose finish tag has passed would start at the current virtual time, like a
    /// new one, and no flow is owed service while the queue is empty.
    fn forget_idle_flows(&mut self) {
        if self.is_empty() {
            self.flows.clear();
        } else if self.flows.len() > 2 * self.jobs + 64 {
            let now = self.virtual_time;
            self.flows.retain(|_, flow| !flow.waiting.is_empty() || flow.end > now);
        }
    }
}

impl<T> FlowQueue<T> {
    fn new() -> FlowQueue<T> {
        FlowQueue { end: 0, waiting: VecDeque::new() }
    }

    /// Start tag of the first job.
    fn start(&self, first: &WaitingJob<T>) -> u64 {
        first.since.max(self.end)
    }

    /// Position of the first job among those of all flows, and its arrival.
    fn head(&self, position_limit: usize) -> Option<(u64, u64)> {
        let first = self.waiting.front()?;
        let tokens = in_units(first.tokens.min(position_limit));
        Some((self.start(first).saturating_add(tokens), first.arrival))
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
    fn a_short_call_overtakes_an_earlier_long_one() {
        let mut queue = FairQueue::new();
        for _ in 0..5 {
            queue.push(FlowId(1), 100, "long");
        }
        queue.next_batch(100, |_| true);
        queue.push(FlowId(2), 5, "short");
        assert_eq!(queue.next_batch(100, |_| true), ["short"]);
    }

    #[test]
    fn a_long_job_does_not_wait_for_its_length_in_every_flow() {
        let mut queue = FairQueue::with_position_limit(96);
        queue.push(FlowId(0), 512, "long");
        // 100 others, each of which asks again as soon as it is answered.
        let mut served = 0;
        for flow in 1..=100 {
            queue.push(FlowId(flow), 32, "short");
        }
        for flow in 101.. {
            if queue.next_batch(1, |_| true) == ["long"] {
                break;
            }
            served += 32;
            queue.push(FlowId(flow), 32, "short");
        }
        assert!((32 * 100..=96 * 101).contains(&served), "{served}");
    }

    #[test]
    fn a_short_job_overtakes_long_ones_of_many_flows() {
        let mut queue = FairQueue::new();
        (0..64).map(FlowId).for_each(|flow| {
            queue.push(flow, 128 << 10, "long");
        });
        (0..8).for_each(|_| drop(queue.next_batch(1, |_| true)));
        queue.push(FlowId(64), 20, "short");
        assert_eq!(queue.next_batch(1, |_| true), ["short"]);
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
    fn a_job_above_the_limit_is_taken_alone() {
        let mut queue = FairQueue::new();
        queue.push(FlowId(1), 500, "long");
        queue.push(FlowId(2), 5, "short");
        assert_eq!(drain(&mut queue, 100), [["short"], ["long"]]);
    }

    #[test]
    fn short_jobs_are_taken_up_to_the_limit_and_only_in_their_turn() {
        let mut queue = FairQueue::new();
        for (flow, tokens, name) in [(1, 100, "long"), (2, 5, "short"), (3, 6, "short"), (4, 20, "middle")] {
            queue.push(FlowId(flow), tokens, name);
        }
        assert_eq!(queue.next_short(4, |_| true), (vec![], 0));
        assert_eq!(queue.next_short(12, |_| true), (vec!["short", "short"], 11));
        assert_eq!(queue.next_short(12, |_| true), (vec![], 0));
        assert_eq!((queue.jobs(), queue.tokens()), (2, 120));
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
            queue.push(FlowId(0), 10, ());
        }
        let mut newcomers = 0;
        while queue.jobs() > 0 && newcomers < 1000 {
            newcomers += 1;
            queue.push(FlowId(newcomers), 10, ());
            queue.next_batch(10, |_| true);
            if queue.flows.get(&FlowId(0)).is_none_or(|flow| flow.waiting.is_empty()) {
                break;
            }
        }
        assert!(newcomers < 200, "{newcomers}");
    }

    #[test]
    fn no_job_overtakes_one_that_does_not_fit() {
        let mut queue = FairQueue::new();
        queue.push(FlowId(1), 10, "first");
        queue.push(FlowId(1), 1, "second");
        assert_eq!(queue.next_within(9), None);
        assert_eq!(queue.next_within(10), Some((10, "first")));
        assert_eq!(queue.next_within(10), Some((1, "second")));
        assert_eq!(queue.next_within(10), None);
    }

    #[test]
    fn a_removed_job_does_not_delay_the_jobs_behind_it() {
        let mut queue = FairQueue::new();
        let given_up: Vec<QueueTicket> = (0..50).map(|_| queue.push(FlowId(1), 100, "given up")).collect();
        queue.push(FlowId(1), 1, "wanted");
        queue.push(FlowId(2), 10, "other");
        assert!(given_up.iter().all(|&ticket| queue.remove(ticket).is_some()));
        assert!(given_up.iter().all(|&ticket| queue.remove(ticket).is_none()));
        assert_eq!(drain(&mut queue, 1), [["wanted"], ["other"]]);
        assert!(queue.is_empty() && queue.tokens() == 0 && queue.heads.is_empty());
    }

    #[test]
    fn jobs_of_any_size_do_not_overflow() {
        let mut queue = FairQueue::new();
        for flow in 0..3 {
            queue.push(FlowId(flow), usize::MAX / 4, flow);
        }
        assert_eq!(std::iter::from_fn(|| queue.next_within(usize::MAX)).count(), 3);
    }

    proptest! {
        #[test]
        fn removed_jobs_do_not_change_the_order_of_the_others(
            jobs in prop::collection::vec((0..5_u64, 1..200_usize, any::<bool>()), 1..100),
        ) {
            let (mut queue, mut without) = (FairQueue::new(), FairQueue::new());
            let mut removed = Vec::new();
            for (number, &(flow, tokens, stays)) in jobs.iter().enumerate() {
                let ticket = queue.push(FlowId(flow), tokens, number);
                if stays {
                    without.push(FlowId(flow), tokens, number);
                } else {
                    removed.push(ticket);
                }
            }
            for ticket in removed {
                prop_assert!(queue.remove(ticket).is_some());
            }
            let order = |queue: &mut FairQueue<usize>| -> Vec<usize> {
                std::iter::from_fn(|| queue.next_within(usize::MAX)).map(|(_, number)| number).collect()
            };
            prop_assert_eq!(order(&mut queue), order(&mut without));
        }

        #[test]
        fn jobs_leave_once_in_flow_order_within_the_limit(
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
        fn a_new_flow_waits_for_at_most_the_documented_bound(
            others in prop::collection::vec(1..200_usize, 1..20), own in 1..200_usize, served in 0..50_usize,
            limit in prop_oneof![Just(usize::MAX), 1..200_usize],
        ) {
            let mut queue = FairQueue::with_position_limit(limit);
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
            // A flow may be behind its share when the new flow arrives: by one job, and by what others have had early.
            let excess = others.iter().max().map_or(0, |longest| longest.saturating_sub(limit));
            for (tokens, job) in before.into_iter().zip(others) {
                prop_assert!(tokens <= own + 2 * job + excess, "{} tokens before {}, jobs of {}", tokens, own, job);
            }
        }
    }
}
