//! Threads that share the steps of one forward pass.
//!
//! The leader publishes a step to every present helper and takes part itself. Parts are claimed one by one, so no thread
//! waits for a helper that joins late or is descheduled between two steps.

use std::{
    hint::spin_loop,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    ptr::null_mut,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

/// Maximum helpers of a leader.
const MAX_HELPERS: usize = 63;

/// Spins before a waiting thread yields its core.
const SPINS: u32 = 4096;

/// Throughput of a member that has not computed anything yet.
const UNKNOWN: f32 = 0.0;

/// The threads of one forward pass: the calling thread and its helpers.
pub struct Team {
    session: Option<Arc<TeamSession>>,
}

/// State shared by the leader and the helpers of one team.
struct TeamSession {
    mailboxes: Vec<Mailbox>,
    joined: AtomicUsize,
    closed: AtomicBool,
    /// Rows per second of each member. Cores of one machine differ, and the speed of a core changes over time.
    throughputs: Vec<MemberThroughput>,
}

/// Rows per second of a member, an atomic f32. Stale values are harmless.
struct MemberThroughput(AtomicU32);

/// Mailbox of one helper, in its own cache line.
#[repr(align(128))]
struct Mailbox(AtomicPtr<TeamStep>);

/// The current step. It lives on the stack of the leader until every helper is done with it.
struct TeamStep {
    /// Valid for the lifetime of the step.
    work: *const (dyn Fn(usize, usize) + Sync),
    count: usize,
    next: AtomicUsize,
    helpers: AtomicUsize,
    panicked: AtomicBool,
}

/// Invitation for a thread to help a team, from [`Team::with_helpers`].
#[derive(Clone)]
pub struct Invitation(Arc<TeamSession>);

impl Team {
    /// A team of only the calling thread.
    pub const fn alone() -> Team {
        Team { session: None }
    }

    /// A team of the calling thread and at most `helpers` threads, which can join at any time until the team is dropped.
    pub fn with_helpers(helpers: usize) -> (Team, Invitation) {
        let mailboxes = (0..helpers.min(MAX_HELPERS)).map(|_| Mailbox(AtomicPtr::new(null_mut()))).collect();
        let throughputs = (0..=helpers.min(MAX_HELPERS)).map(|_| MemberThroughput::new(UNKNOWN)).collect();
        let session = TeamSession {
            mailboxes,
            joined: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            throughputs,
        };
        let session = Arc::new(session);
        (Team { session: Some(Arc::clone(&session)) }, Invitation(session))
    }

    /// Maximum number of members.
    pub fn size(&self) -> usize {
        1 + self.session.as_ref().map_or(0, |session| session.mailboxes.len())
    }

    /// Number of members that have joined so far.
    pub fn present(&self) -> usize {
        1 + self.session.as_ref().map_or(0, |session| session.present())
    }

    /// Moves the bounds between the parts of the members, in multiples of `unit`, so that all members would have finished at
    /// the same time. No part becomes empty. A bound that would move by less than one unit stays, and all stay while the
    /// throughput of a member is unknown.
    pub(super) fn rebalance(&self, unit: usize, bounds: &mut [usize]) {
        let Some(TeamSession { throughputs, .. }) = self.session.as_deref() else { return };
        let members = bounds.len() - 1;
        let throughputs = || throughputs[..members].iter().map(MemberThroughput::get);
        if throughputs().any(|throughput| throughput == UNKNOWN) {
            return;
        }
        let all: f32 = throughputs().sum();
        let total = bounds[members];
        let mut before = 0.0;
        for (member, throughput) in (1..members).zip(throughputs()) {
            before += throughput;
            let fair = total as f32 * before / all;
            if (fair - bounds[member] as f32).abs() >= unit as f32 {
                bounds[member] = (fair / unit as f32).round() as usize * unit;
            }
            let (min, max) = (bounds[member - 1] + unit, (total / unit - (members - member)) * unit);
            bounds[member] = bounds[member].clamp(min, max);
        }
    }

    /// Records that a member computed `rows` rows in `time`.
    pub(super) fn observe(&self, member: usize, rows: usize, time: Duration) {
        if let Some(session) = &self.session {
            session.throughputs[member].add(rows as f32 / time.as_secs_f32().max(1e-6));
        }
    }

    /// Calls `work(member, index)` once for each index below `count`. Members are below [`Team::size`], and each is used by
    /// only one thread at a time.
    ///
    /// # Panics
    /// If `work` panics on any thread.
    pub(super) fn each(&self, count: usize, work: &(dyn Fn(usize, usize) + Sync)) {
        match &self.session {
            Some(session) if count > 1 => session.lead(count, work),
            _ => (0..count).for_each(|index| work(0, index)),
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        if let Some(session) = &self.session {
            session.closed.store(true, Ordering::Release);
        }
    }
}

impl Invitation {
    /// Helps until the team is dropped. Returns immediately if the team has all its helpers.
    pub fn help(&self) {
        let session = &*self.0;
        let index = session.joined.fetch_add(1, Ordering::AcqRel);
        let Some(Mailbox(mail)) = session.mailboxes.get(index) else { return };
        let mut spins = 0;
        while !session.closed.load(Ordering::Acquire) {
            let step = mail.swap(null_mut(), Ordering::Acquire);
            if step.is_null() {
                wait(&mut spins);
                continue;
            }
            spins = 0;
            // SAFETY: a thread that takes a step from its mailbox is counted in `helpers`, and the leader keeps the step
            // alive until the count is 0.
            let step = unsafe { &*step };
            step.run(index + 1);
            step.helpers.fetch_sub(1, Ordering::Release);
        }
    }
}

impl MemberThroughput {
    fn new(rows_a_second: f32) -> MemberThroughput {
        MemberThroughput(AtomicU32::new(rows_a_second.to_bits()))
    }

    fn get(&self) -> f32 {
        f32::from_bits(self.0.load(Ordering::Relaxed))
    }

    fn set(&self, rows_a_second: f32) {
        self.0.store(rows_a_second.to_bits(), Ordering::Relaxed);
    }

    /// Averages with the known value, so that a thread that was descheduled once does not count as slow for long.
    fn add(&self, rows_a_second: f32) {
        let known = self.get();
        self.set(if known == UNKNOWN { rows_a_second } else { f32::midpoint(known, rows_a_second) });
    }
}

impl TeamSession {
    /// Number of helpers that have joined.
    fn present(&self) -> usize {
        self.joined.load(Ordering::Acquire).min(self.mailboxes.len())
    }

    fn lead(&self, count: usize, work: &(dyn Fn(usize, usize) + Sync)) {
        let helpers = self.present().min(count - 1);
        // SAFETY: only the lifetime is erased; the step ends before this function returns.
        let work = unsafe {
            std::mem::transmute::<
                &(dyn Fn(usize, usize) + Sync),
                *const (dyn Fn(usize, usize) + Sync + 'static),
            >(work)
        };
        let step = TeamStep {
            work,
            count,
            next: AtomicUsize::new(0),
            helpers: AtomicUsize::new(helpers),
            panicked: AtomicBool::new(false),
        };
        let address = (&raw const step).cast_mut();
        for Mailbox(mail) in &self.mailboxes[..helpers] {
            mail.store(address, Ordering::Release);
        }
        step.run(0);
        for Mailbox(mail) in &self.mailboxes[..helpers] {
            // A helper that has not started has nothing left to do.
            if mail.compare_exchange(address, null_mut(), Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                step.helpers.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let mut spins = 0;
        while step.helpers.load(Ordering::Acquire) > 0 {
            wait(&mut spins);
        }
        if step.panicked.load(Ordering::Relaxed) {
            resume_unwind(Box::new("a part of a step panicked; see the message above"));
        }
    }
}

impl TeamStep {
    /// Claims and runs parts until none is left.
    fn run(&self, member: usize) {
        // SAFETY: the leader keeps the target of `work` alive as long as the step.
        let work = unsafe { &*self.work };
        let run = || {
            loop {
                let index = self.next.fetch_add(1, Ordering::Relaxed);
                if index >= self.count {
                    break;
                }
                work(member, index);
            }
        };
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            self.panicked.store(true, Ordering::Relaxed);
            self.next.store(self.count, Ordering::Relaxed);
        }
    }
}

fn wait(spins: &mut u32) {
    *spins += 1;
    if *spins < SPINS {
        spin_loop();
    } else {
        std::thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `body` with a team of which `helpers` threads are a part.
    fn with_team(helpers: usize, body: impl FnOnce(&Team)) {
        std::thread::scope(|scope| {
            let (team, invitation) = Team::with_helpers(helpers);
            for _ in 0..helpers {
                let invitation = invitation.clone();
                scope.spawn(move || invitation.help());
            }
            body(&team);
        });
    }

    fn check_each_part_runs_once(team: &Team) {
        for count in [0, 1, 2, 7, 1000] {
            let runs: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
            team.each(count, &|member, index| {
                assert!(member < team.size());
                runs[index].fetch_add(1, Ordering::Relaxed);
            });
            assert!(runs.iter().all(|runs| runs.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn each_part_runs_once_with_and_without_helpers() {
        check_each_part_runs_once(&Team::alone());
        with_team(3, |team| (0..200).for_each(|_| check_each_part_runs_once(team)));
    }

    #[test]
    fn a_leader_without_helpers_does_all_parts() {
        let (team, _invitation) = Team::with_helpers(4);
        check_each_part_runs_once(&team);
    }

    fn check_division(throughputs: &[f32], total: usize, expected: &[usize]) {
        let (team, _invitation) = Team::with_helpers(throughputs.len() - 1);
        let even = (0..throughputs.len())
            .map(|i| (total * i / throughputs.len()).next_multiple_of(16))
            .chain([total]);
        let mut bounds: Vec<usize> = even.collect();
        let session = team.session.as_deref().expect("there are helpers");
        session.throughputs.iter().zip(throughputs).for_each(|(throughput, &of)| throughput.set(of));
        team.rebalance(16, &mut bounds);
        assert_eq!(bounds, expected, "{throughputs:?}");
    }

    #[test]
    fn faster_members_get_more_rows_and_none_gets_nothing() {
        check_division(&[UNKNOWN, 5.0], 127, &[0, 64, 127]);
        check_division(&[5.0, 4.0], 127, &[0, 64, 127]);
        check_division(&[5.0, 5.0], 127, &[0, 64, 127]);
        check_division(&[3.0, 1.0], 127, &[0, 96, 127]);
        check_division(&[1e-3, 1e9], 127, &[0, 16, 127]);
        check_division(&[1e9, 1e-3], 127, &[0, 96, 127]);
        check_division(&[1.0, 1e9, 1.0], 144, &[0, 16, 128, 144]);
    }

    #[test]
    fn throughput_follows_observations() {
        let (team, _invitation) = Team::with_helpers(1);
        let throughput = || team.session.as_deref().expect("there are helpers").throughputs[1].get();
        assert_eq!(throughput(), UNKNOWN);
        team.observe(1, 100, Duration::from_secs(1));
        assert_eq!(throughput(), 100.0);
        team.observe(1, 50, Duration::from_secs(1));
        assert_eq!(throughput(), 75.0);
    }

    #[test]
    fn a_panic_reaches_the_leader_and_the_team_survives() {
        with_team(2, |team| {
            let step = || {
                team.each(64, &|_, index| assert!(index != 63, "on purpose"));
            };
            assert!(catch_unwind(AssertUnwindSafe(step)).is_err());
            check_each_part_runs_once(team);
        });
    }
}
