//! Threads that share the steps of one forward pass.
//!
//! The leader hands a step to every helper that stands ready and takes part itself; parts are claimed one by one,
//! so nobody waits for a helper that comes late or is taken off its core between two steps.

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

/// The most helpers beside a leader.
const MAX_HELPERS: usize = 63;

/// Rounds of waiting before the core is offered to other threads.
const SPINS: u32 = 4096;

/// Of a member that has not computed anything yet.
const UNKNOWN: f32 = 0.0;

/// Who computes one forward pass: the calling thread, and those that help it.
pub struct Team {
    session: Option<Arc<TeamSession>>,
}

/// The place where helpers stand ready.
struct TeamSession {
    mailboxes: Vec<Mailbox>,
    joined: AtomicUsize,
    closed: AtomicBool,
    /// Rows a second of each member: cores of one machine differ, and the same core from one moment to the next.
    throughputs: Vec<MemberThroughput>,
}

/// A number in f32; what is read late does no harm.
struct MemberThroughput(AtomicU32);

/// One helper's mailbox, in a cache line of its own.
#[repr(align(128))]
struct Mailbox(AtomicPtr<TeamStep>);

/// A step in hand: lives on the leader's stack until every helper is done with it.
struct TeamStep {
    /// Valid as long as the step is.
    work: *const (dyn Fn(usize, usize) + Sync),
    count: usize,
    next: AtomicUsize,
    helpers: AtomicUsize,
    panicked: AtomicBool,
}

/// Lets a thread help; from [`Team::with_helpers`].
#[derive(Clone)]
pub struct Invitation(Arc<TeamSession>);

impl Team {
    /// The calling thread without helpers.
    pub const fn alone() -> Team {
        Team { session: None }
    }

    /// At most `helpers` threads may accept the invitation, at any time until the team is dropped.
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

    /// The most threads that take part.
    pub fn size(&self) -> usize {
        1 + self.session.as_ref().map_or(0, |session| session.mailboxes.len())
    }

    /// How many take part by now.
    pub fn present(&self) -> usize {
        1 + self.session.as_ref().map_or(0, |session| session.present())
    }

    /// Moves the bounds between parts of one member each, in multiples of `unit`, to where all would have ended at once;
    /// none becomes empty. What would move by less than a unit stays, and all does while somebody's pace is unknown.
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
            let (least, most) = (bounds[member - 1] + unit, (total / unit - (members - member)) * unit);
            bounds[member] = bounds[member].clamp(least, most);
        }
    }

    /// A member computed so many rows in that time.
    pub(super) fn observe(&self, member: usize, rows: usize, time: Duration) {
        if let Some(session) = &self.session {
            session.throughputs[member].add(rows as f32 / time.as_secs_f32().max(1e-6));
        }
    }

    /// Calls `work(member, index)` once for each index below `count`; members are below [`Team::size`], and no
    /// two threads have the same at a time.
    ///
    /// # Panics
    /// If `work` does, on whatever thread.
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
    /// Helps until the team is dropped; at once back where all places are taken.
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
            // SAFETY: whoever takes a step from the mail is counted in its `helpers`, and the leader keeps the step
            // until the count is 0.
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

    /// The mean with what was known: a thread that was off its core once is not slow for long.
    fn add(&self, rows_a_second: f32) {
        let known = self.get();
        self.set(if known == UNKNOWN { rows_a_second } else { f32::midpoint(known, rows_a_second) });
    }
}

impl TeamSession {
    /// Helpers that came.
    fn present(&self) -> usize {
        self.joined.load(Ordering::Acquire).min(self.mailboxes.len())
    }

    fn lead(&self, count: usize, work: &(dyn Fn(usize, usize) + Sync)) {
        let helpers = self.present().min(count - 1);
        // SAFETY: only the lifetime is dropped; the step ends before this function does.
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
            // A helper that has not begun has nothing left to do.
            if mail.compare_exchange(address, null_mut(), Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                step.helpers.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let mut spins = 0;
        while step.helpers.load(Ordering::Acquire) > 0 {
            wait(&mut spins);
        }
        if step.panicked.load(Ordering::Relaxed) {
            resume_unwind(Box::new("a part of a step panicked; the message stands before this"));
        }
    }
}

impl TeamStep {
    /// Claims parts until none is left.
    fn run(&self, member: usize) {
        // SAFETY: the leader keeps what `work` points to while the step lives.
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
    fn each_part_runs_once_alone_and_with_helpers() {
        check_each_part_runs_once(&Team::alone());
        with_team(3, |team| (0..200).for_each(|_| check_each_part_runs_once(team)));
    }

    #[test]
    fn a_team_without_anyone_who_came_does_all_itself() {
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
    fn who_is_faster_gets_more_and_nobody_gets_nothing() {
        check_division(&[UNKNOWN, 5.0], 127, &[0, 64, 127]);
        check_division(&[5.0, 4.0], 127, &[0, 64, 127]);
        check_division(&[5.0, 5.0], 127, &[0, 64, 127]);
        check_division(&[3.0, 1.0], 127, &[0, 96, 127]);
        check_division(&[1e-3, 1e9], 127, &[0, 16, 127]);
        check_division(&[1e9, 1e-3], 127, &[0, 96, 127]);
        check_division(&[1.0, 1e9, 1.0], 144, &[0, 16, 128, 144]);
    }

    #[test]
    fn a_pace_follows_what_is_seen() {
        let (team, _invitation) = Team::with_helpers(1);
        let throughput = || team.session.as_deref().expect("there are helpers").throughputs[1].get();
        assert_eq!(throughput(), UNKNOWN);
        team.observe(1, 100, Duration::from_secs(1));
        assert_eq!(throughput(), 100.0);
        team.observe(1, 50, Duration::from_secs(1));
        assert_eq!(throughput(), 75.0);
    }

    #[test]
    fn a_panic_of_any_part_reaches_the_leader_and_the_team_works_on() {
        with_team(2, |team| {
            let step = || {
                team.each(64, &|_, index| assert!(index != 63, "on purpose"));
            };
            assert!(catch_unwind(AssertUnwindSafe(step)).is_err());
            check_each_part_runs_once(team);
        });
    }
}
