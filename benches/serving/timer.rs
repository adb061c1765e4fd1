//! A timer with microsecond resolution; that of tokio rounds up to milliseconds.

use std::{io, os::fd::OwnedFd, time::Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

pub struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    #[expect(deprecated, reason = "an owned descriptor stays open, which is all that the safe form lacks")]
    pub fn new() -> io::Result<Timer> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Timer(AsyncFd::new(timerfd_create(TimerfdClockId::Monotonic, flags)?)?))
    }

    pub async fn until(&self, at: Instant) {
        while let Some(left) = at.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            let value = Timespec {
                tv_sec: i64::try_from(left.as_secs()).expect("a wait of minutes"),
                tv_nsec: left.subsec_nanos().into(),
            };
            let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
            timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once).expect("a timer of ours");
            let mut ready = self.0.readable().await.expect("the runtime runs");
            // Not due yet; wait again.
            let _ = rustix::io::read(self.0.get_ref(), &mut [0_u8; 8]);
            ready.clear_ready();
        }
    }
}
