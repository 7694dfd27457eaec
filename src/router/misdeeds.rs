//! What misbehaving workers did to the router, or to each other through it, before it was mended.

use super::Router;
use crate::clock::realtime_nanos;
use crate::memory::Memory;
use crate::sync::{AtomicU64, Ordering};
use crate::{Core, Hub};

/// A hub of workers with one core each, its router, and passes until nothing moves.
fn driven(workers: u32) -> (Hub, Router) {
    let hub = Hub::builder()
        .workers(workers)
        .extra(0)
        .channels(4)
        .create();
    let hub = hub.expect("a hub");
    drop(hub.inner.router.lock().take());
    let router = Router::new(hub.inner.view.clone(), realtime_nanos, Memory::Own);
    (hub, router)
}

pub(super) fn settle(router: &mut Router) {
    // Enough for a lane to be found idle and armed.
    for _ in 0..20 {
        router.step();
    }
}

/// The core joins the channel.
pub(super) fn join(core: &mut Core, router: &mut Router, name: &str) {
    let ticket = core.join_async(name).expect("asked");
    settle(router);
    core.join_result(ticket).expect("answered").expect("joined");
}

/// The next owner of slot 0 joins, sends and receives.
fn check_heir(hub: &Hub, router: &mut Router) {
    assert!(hub.inner.view.slot(0).load().is_free());
    let mut heir = hub.attach(0, 0).expect("a core");
    join(&mut heir, router, "room");
    heir.send("room", b"hello").expect("sent");
    settle(router);
    assert_eq!(
        heir.recv().expect("no loss").expect("a message").body,
        b"hello"
    );
    settle(router);
}

/// The slot kept the tail that its owner had been quarantined for: the next owner started
/// from there, and close below 2^64 it never had room, or, in a debug build, panicked.
#[test]
fn the_next_owner_does_not_inherit_an_impossible_tail() {
    for tail in [u64::MAX, u64::MAX - 100_000, 1 << 63, 1 << 40] {
        let (hub, mut router) = driven(1);
        let mut core = hub.attach(0, 0).expect("a core");
        core.send("room", b"by the book").expect("sent");
        let _rings = hub.inner.view.lane_word(0).publish(tail & !15);
        settle(&mut router);
        assert_eq!((router.stats.quarantined, router.stats.violations), (1, 1));
        drop(core);
        router.reap(0);
        settle(&mut router);
        check_heir(&hub, &mut router);
    }
}

/// Overwrites a shared word as no correct process does.
pub(super) fn overwrite<T>(word: &T, value: u64) {
    assert!(size_of::<T>() >= size_of::<u64>());
    // SAFETY: repr(C), and the atomic is the first field of all that is passed here.
    let raw = unsafe { &*std::ptr::from_ref(word).cast::<AtomicU64>() };
    raw.store(value, Ordering::SeqCst);
}

/// A slot word in a state that does not exist was nobody's: never freed, never taken.
#[test]
fn a_damaged_slot_word_is_repaired() {
    let (hub, mut router) = driven(1);
    let core = hub.attach(0, 0).expect("a core");
    let word = hub.inner.view.slot(0);
    overwrite(word.get(), 77 << 32 | 1);
    settle(&mut router);
    assert_eq!(router.stats.violations, 1);
    assert_eq!(router.owner_pid(0), None);
    drop(core);
    settle(&mut router);
    check_heir(&hub, &mut router);
}

/// Two lanes with the same ticket, which only a forger or a broken counter can make, kept the
/// router in its merge for ever.
#[test]
fn equal_tickets_in_two_lanes_do_not_stop_the_router() {
    let (hub, mut router) = driven(3);
    let [mut a, mut b, mut to] = [0, 1, 2].map(|w| hub.attach(w, 0).expect("a core"));
    join(&mut to, &mut router, "room");
    let tickets = hub.inner.view.tickets;
    let drawn = tickets.peek();
    a.send("room", b"one").expect("sent");
    tickets.start(&hub.inner.view.floor, drawn);
    b.send("room", b"two").expect("sent");
    settle(&mut router);
    let mut heard = 0;
    while to.recv().expect("no loss").is_some() {
        heard += 1;
    }
    assert_eq!((heard, router.stats.violations), (2, 0));
    drop((a, b, to));
}
