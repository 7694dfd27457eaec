//! A thread that stops for ever at step k, for every k: it holds nobody up.
//!
//! A step is an access to a protocol word, so a thread stopped before its k-th has done all before
//! and nothing after, as one that gets SIGSTOP or SIGKILL there. Each model is explored for k = 0,
//! 1, ... until the thread gets to its end in every execution.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicU64 as Count;

use loom::thread;

use super::hub::{Collect, Hub, LANES, Router, Sender};
use super::queue::{Queue, Reader, Writer};
use super::{AS_IT_IS, fails, holds_within};
use crate::sync::{AtomicU64, Ordering, Stopped, stop_after};

/// Preemptions in each execution, besides the stop.
const BOUND: usize = 2;
/// More steps than any thread here has.
const MANY: usize = 64;

/// Runs `act`, which ends before its `step`-th access if it gets there; true when it did not.
pub fn stopped_at(step: usize, act: impl FnOnce()) -> bool {
    stop_after(step);
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(()) => {
            stop_after(MANY);
            true
        }
        Err(end) if end.is::<Stopped>() => false,
        Err(panic) => resume_unwind(panic),
    }
}

/// Explores the model that `at` makes for each step, until one in which nobody stops.
pub fn at_every_step<M>(name: &str, at: impl Fn(usize, Arc<Count>) -> M)
where
    M: Fn() + Send + Sync + 'static,
{
    for step in 0..MANY {
        let stops = Arc::new(Count::new(0));
        holds_within(
            &format!("{name}, step {step}"),
            BOUND,
            at(step, stops.clone()),
        );
        if stops.load(Ordering::Relaxed) == 0 {
            assert!(step > 0, "{name}: no step at all");
            println!("{name}: stopped at each of {step} steps");
            return;
        }
    }
    panic!("{name}: more than {MANY} steps");
}

pub fn count(stops: &Count, came_to_its_end: bool) {
    stops.fetch_add(u64::from(!came_to_its_end), Ordering::Relaxed);
}

/// **Claim: what another sender has sent is delivered, and so is what the stopped one's sends that
/// returned have sent; the router waits for nobody.**
///
/// One sender sends 1 and 2 and stops at `step`, the other sends 3. The router passes meanwhile,
/// and as often as it takes when both are done or stopped.
fn a_sender(step: usize, stops: Arc<Count>) -> impl Fn() + Send + Sync {
    move || {
        let hub = Arc::new(Hub::new([false; LANES]));
        let first = thread::spawn({
            let (hub, stops) = (hub.clone(), stops.clone());
            move || {
                let mut returned = 0;
                let ended = stopped_at(step, || {
                    let mut sender = Sender::new(0, true);
                    for body in [1, 2] {
                        sender.send(&hub, body);
                        returned = body;
                    }
                });
                count(&stops, ended);
                returned
            }
        });
        let second = thread::spawn({
            let hub = hub.clone();
            move || Sender::new(1, true).send(&hub, 3)
        });
        let mut router = Router::new(Collect::Real, [false; LANES]);
        router.pass(&hub);
        let returned = first.join().expect("no panic");
        second.join().expect("no panic");
        router.finish(&hub);
        check_delivered(&router.delivered, returned);
    }
}

fn check_delivered(delivered: &[u32], returned: u32) {
    let of_first: Vec<u32> = delivered.iter().copied().filter(|&n| n != 3).collect();
    assert!(
        of_first.iter().copied().eq(1..=of_first.len() as u32),
        "{delivered:?}"
    );
    assert!(of_first.len() as u32 >= returned, "lost: {delivered:?}");
    let of_second = delivered.len() - of_first.len();
    assert_eq!(of_second, 1, "held up or doubled: {delivered:?}");
}

#[test]
fn a_sender_stopped_at_any_step_holds_nobody_up() {
    at_every_step("a sender stops", a_sender);
}

/// **Claim: the router publishes all it has, whatever the core has left undone.**
fn a_core(step: usize, stops: Arc<Count>) -> impl Fn() + Send + Sync {
    move || {
        let queue = Arc::new(Queue::new());
        let core = thread::spawn({
            let (queue, stops) = (queue.clone(), stops.clone());
            move || count(&stops, stopped_at(step, || Reader::new(false).run(&queue)))
        });
        let mut writer = Writer::new();
        for body in 1..=3 {
            writer.append(&queue, body);
            writer.publish(&queue, true);
        }
        core.join().expect("no panic");
        assert!(writer.moves <= 3, "moved more often than published");
    }
}

#[test]
fn a_core_stopped_at_any_step_of_a_flip_does_not_hold_up_the_router() {
    at_every_step("a core stops", a_core);
}

/// **Claim: sends return, and what they sent is there for whoever routes next.**
fn a_router(step: usize, stops: Arc<Count>) -> impl Fn() + Send + Sync {
    move || {
        let hub = Arc::new(Hub::new([false; LANES]));
        let router = thread::spawn({
            let (hub, stops) = (hub.clone(), stops.clone());
            move || {
                let mut router = Router::new(Collect::Real, [false; LANES]);
                let ended = stopped_at(step, || {
                    router.pass(&hub);
                    router.rest(&hub);
                });
                count(&stops, ended);
            }
        });
        let sender = thread::spawn({
            let hub = hub.clone();
            move || {
                let mut sender = Sender::new(0, true);
                [1, 2].into_iter().for_each(|body| sender.send(&hub, body));
            }
        });
        Sender::new(1, true).send(&hub, 3);
        router.join().expect("no panic");
        sender.join().expect("no panic");
        // A successor looks at all lanes, as a new master does.
        let mut successor = Router::new(Collect::Real, [true; LANES]);
        successor.finish(&hub);
        check_delivered(&successor.delivered, 2);
    }
}

#[test]
fn a_router_stopped_at_any_step_does_not_hold_up_a_send() {
    at_every_step("the router stops", a_router);
}

/// The control: senders that share a ring share a lock; one that stops within it stops all.
fn under_a_lock(step: usize) -> impl Fn() + Send + Sync {
    move || {
        let hub = Arc::new(Hub::new([true; LANES]));
        let lock = Arc::new(AtomicU64::new(0));
        let send = |slot: usize, body: u32, step: usize| {
            let (hub, lock) = (hub.clone(), lock.clone());
            move || {
                stopped_at(step, || {
                    for _ in 0..3 {
                        if lock.swap(1, Ordering::Acquire) == 0 {
                            Sender::new(slot, true).send(&hub, body);
                            lock.store(0, Ordering::Release);
                            return;
                        }
                        thread::yield_now();
                    }
                    panic!("held up by the stopped");
                })
            }
        };
        let first = thread::spawn(send(0, 1, step));
        let second = thread::spawn(send(1, 2, MANY));
        let ends = [first.join(), second.join()];
        assert!(ends.iter().all(Result::is_ok), "held up by the stopped");
    }
}

#[test]
fn a_lock_for_all_senders_would_hold_them_up() {
    fails("a lock", AS_IT_IS, "held up", under_a_lock(1));
}
