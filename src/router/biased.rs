//! Lanes that stream are biased towards their senders, and are not armed before that has ended.

use super::{Router, STREAM};
use crate::clock::realtime_nanos;
use crate::memory::Memory;
use crate::{Core, Hub};

/// A hub, its router, and a core that has nothing but its own channel to send to.
fn hub() -> (Hub, Router, Core) {
    let hub = Hub::builder().workers(2).create().expect("a hub");
    drop(hub.inner.router.lock().take());
    let mut router = Router::new(hub.inner.view.clone(), realtime_nanos, Memory::Own);
    router.may_bias = true;
    let core = hub.attach(0, 0).expect("a core");
    // As if it were in another process: here there is one thread, which needs no barriers.
    hub.inner.view.lane_word(0).offer_bias(true);
    passes(&mut router);
    (hub, router, core)
}

/// Enough for a lane to be found idle and, if it may be, armed.
fn passes(router: &mut Router) {
    for _ in 0..20 {
        router.step();
    }
}

fn stream(core: &mut Core, router: &mut Router) {
    for _ in 0..2 * STREAM {
        core.send("nobody", b"16 bytes of text").expect("room");
        router.step();
    }
}

/// As a master does it.
fn come_to_rest(router: &mut Router) -> usize {
    let mut barriers = 0;
    while !router.rest() {
        router.step();
        if router.outcome.barrier {
            barriers += 1;
            router.settle();
        }
    }
    barriers
}

#[test]
fn a_lane_is_biased_while_it_streams_and_armed_afterwards() {
    let (hub, mut router, mut core) = hub();
    let (word, bell) = (hub.inner.view.lane_word(0), hub.inner.view.bell(0));
    core.send("nobody", b"just one").expect("sent");
    passes(&mut router);
    assert!(!word.is_biased());
    assert_eq!(come_to_rest(&mut router), 0, "armed already");
    stream(&mut core, &mut router);
    assert!(word.is_biased());
    // Idle for longer than lanes are left alone: revoked, but not armed.
    passes(&mut router);
    assert!(!word.is_biased() && router.outcome.barrier && !router.active.is_empty());
    // What the sender stores now, and rings for, is found.
    core.send("nobody", b"by a store").expect("sent");
    assert_ne!(bell.rung(), 0);
    assert!(word.is_biased(), "taken by the sender, whose lane streams");
    let before = router.stats.messages;
    passes(&mut router);
    assert_eq!(router.stats.messages, before + 1);
    assert!(come_to_rest(&mut router) > 0);
    assert!(router.active.is_empty() && !word.is_biased());
    // Armed, and eager: the next rings, and has the bias again.
    core.send("nobody", b"again").expect("sent");
    assert!(bell.rung() != 0 && word.is_biased());
    passes(&mut router);
    assert_eq!(come_to_rest(&mut router), 1);
    // That was no stream.
    core.send("nobody", b"one more").expect("sent");
    assert!(bell.rung() != 0 && !word.is_biased());
}

#[test]
fn a_successor_finds_a_biased_lane_and_does_not_arm_it_at_once() {
    let (hub, mut router, mut core) = hub();
    stream(&mut core, &mut router);
    core.send("nobody", b"unread").expect("sent");
    drop(router);
    let view = hub.inner.view.clone();
    let mut router = Router::adopt(view, realtime_nanos, Memory::Own);
    router.look_at(0);
    passes(&mut router);
    assert_eq!(router.stats.messages, u64::from(2 * STREAM) + 1);
    assert!(router.outcome.barrier && !router.active.is_empty());
    assert!(come_to_rest(&mut router) > 0 && router.active.is_empty());
    core.send("nobody", b"rings").expect("sent");
    assert_ne!(hub.inner.view.bell(0).rung(), 0);
}

#[test]
fn the_next_owner_of_a_slot_starts_without_bias() {
    let (hub, mut router, mut core) = hub();
    stream(&mut core, &mut router);
    assert!(hub.inner.view.lane_word(0).is_biased());
    core.detach().expect("detached");
    passes(&mut router);
    assert!(!hub.inner.view.lane_word(0).is_biased());
    let mut heir = hub.attach(0, 0).expect("the slot is free");
    heir.send("nobody", b"rings").expect("sent");
    assert_ne!(hub.inner.view.bell(0).rung(), 0);
    // What its predecessor's bias still asks for is nothing to it.
    router.settle();
    passes(&mut router);
    assert_eq!(come_to_rest(&mut router), 0);
}

/// It would be its successor's lane by the time it stored that.
#[test]
fn a_core_that_detaches_does_not_take_the_bias() {
    let (hub, mut router, mut core) = hub();
    stream(&mut core, &mut router);
    passes(&mut router); // revoked
    core.detach().expect("detached");
    assert!(!hub.inner.view.lane_word(0).is_biased());
    assert_ne!(hub.inner.view.bell(0).rung(), 0);
}

/// Where the kernel has no barriers, or in assist mode, where everybody arms lanes.
#[test]
fn without_barriers_no_lane_is_biased() {
    let (hub, mut router, mut core) = hub();
    router.may_bias = false;
    stream(&mut core, &mut router);
    assert!(!hub.inner.view.lane_word(0).is_biased());
    passes(&mut router);
    assert!(router.active.is_empty(), "armed");
}
