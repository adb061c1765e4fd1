#![expect(clippy::disallowed_methods, reason = "a test waits for its futures")]

use super::*;

fn ticket(caller: u64, within: Duration) -> PoolTicket {
    PoolTicket { caller, deadline: Deadline::after(within) }
}

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn work_that_panics_costs_itself_alone() {
    let pool = Pool::start(1).expect("a thread");
    let failed = pool.run(ticket(0, SOON), Length::Short, |_| panic!("on purpose")).await;
    assert!(matches!(failed, Err::<(), _>(Failure::Defect)));
    assert_eq!(pool.run(ticket(0, SOON), Length::Short, |_| Ok(7)).await.expect("it goes on"), 7);
}

#[test]
fn a_pool_that_is_dropped_waits_for_what_its_threads_have_begun() {
    let pool = Pool::start(2).expect("threads");
    let (begin, begun) = mpsc::channel();
    let (finish, finished) = mpsc::channel::<()>();
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mark = Arc::clone(&done);
    let threads = pool.threads.as_ref().expect("it is there");
    threads.spawn(move || {
        begin.send(()).expect("it is waited for");
        finished.recv().expect_err("the other end is dropped");
        mark.store(true, std::sync::atomic::Ordering::SeqCst);
    });
    begun.recv().expect("it begins");
    drop(finish);
    drop(pool);
    assert!(done.load(std::sync::atomic::Ordering::SeqCst));
}

#[tokio::test]
async fn work_whose_deadline_passed_is_not_begun() {
    let pool = Pool::start(1).expect("a thread");
    let failed = pool.run(ticket(0, Duration::ZERO), Length::Long, |_| panic!("it began")).await;
    assert!(matches!(failed, Err::<(), _>(Failure::DeadlineExceeded)));
}

#[tokio::test]
async fn work_stops_when_its_caller_has_left() {
    let pool = Pool::start(1).expect("a thread");
    let (begin, begun) = oneshot::channel();
    let (mut begin, (stop, stopped)) = (Some(begin), oneshot::channel::<Cancelled>());
    let mut stop = Some(stop);
    let endless = move |cancellation: Cancellation<'_>| {
        let _ = begin.take().map(|begin| begin.send(()));
        loop {
            if let Err(why) = cancellation.check() {
                let _ = stop.take().map(|stop| stop.send(why));
                return Err::<Option<()>, _>(why);
            }
        }
    };
    let pending = pool.run_in_slices(ticket(0, Duration::from_secs(3600)), Length::Long, endless);
    tokio::select! {
        _ = pending => panic!("it has no end"),
        begun = begun => begun.expect("it begins"),
    }
    assert_eq!(stopped.await, Ok(Cancelled));
    assert_eq!(pool.run(ticket(0, SOON), Length::Short, |_| Ok(7)).await.expect("the thread is free"), 7);
}

#[tokio::test]
async fn another_caller_has_its_turn_between_the_slices_of_a_long_job() {
    let pool = Pool::start(1).expect("a thread");
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let endless = move |_: Cancellation<'_>| {
        let _ = tell.send(());
        Ok(None::<()>)
    };
    let long = pool.run_in_slices(ticket(1, Duration::from_secs(3600)), Length::Long, endless);
    let short = async {
        told.recv().await.expect("the long job has begun");
        pool.run(ticket(2, SOON), Length::Long, |_| Ok(7)).await.expect("its turn comes")
    };
    tokio::select! {
        _ = long => panic!("it has no end"),
        seven = short => assert_eq!(seven, 7),
    }
}

#[tokio::test]
async fn short_work_is_done_in_the_middle_of_a_long_slice_and_its_panic_ends_itself_alone() {
    let pool = Pool::start(1).expect("a thread");
    let (tell, told) = oneshot::channel();
    let (finish, finished) = mpsc::channel::<()>();
    let long = pool.run(ticket(1, SOON), Length::Long, move |cancellation| {
        let _ = tell.send(());
        while finished.try_recv() == Err(mpsc::TryRecvError::Empty) {
            cancellation.check()?;
        }
        Ok("done")
    });
    let short = async {
        told.await.expect("the long job has begun");
        let failed = pool.run(ticket(1, SOON), Length::Short, |_| panic!("on purpose")).await;
        assert!(matches!(failed, Err::<(), _>(Failure::Defect)));
        let seven = pool.run(ticket(1, SOON), Length::Short, |_| Ok(7)).await.expect("its turn comes");
        drop(finish);
        seven
    };
    let (long, short) = futures::join!(long, short);
    assert_eq!((long.expect("it ends"), short), ("done", 7));
}
