//! Runs: messages alike behind one header, published one by one (see `crate::lane`).

use std::sync::Arc;

use super::misdeeds::{join, settle};
use super::sharing::Rng;
use super::{Router, STREAM};
use crate::clock::realtime_nanos;
use crate::memory::Memory;
use crate::{Core, Hub, Overflow};

const ROOM: &str = "room";

fn hub() -> (Hub, Router) {
    let hub = Hub::builder()
        .workers(4)
        .overflow(Overflow::Block)
        .create()
        .expect("a hub");
    drop(hub.inner.router.lock().take());
    let mut router = Router::new(Arc::clone(&hub.inner.view), realtime_nanos, Memory::Own);
    router.may_bias = true;
    (hub, router)
}

fn attach(hub: &Hub, router: &mut Router, worker: u32) -> Core {
    let core = hub.attach(worker, 0).expect("a core");
    // As if it were in another process: here there is one thread, which needs no barriers.
    hub.inner.view.lane_word(worker as usize).offer_bias(true);
    settle(router);
    core
}

/// A body of `len` bytes or more that says who sent it and which it is.
fn body(sender: u64, number: u64, len: usize) -> Vec<u8> {
    let mut body = (number << 8 | sender).to_le_bytes().to_vec();
    body.resize(len.max(8), number as u8);
    body
}

/// Takes all there is; every sender's messages come in order.
fn take(core: &mut Core, next: &mut [u64]) {
    while let Some(message) = core.recv().expect("nothing lost") {
        let (head, rest) = message.body.split_at(8);
        let head = u64::from_le_bytes(head.try_into().expect("eight bytes"));
        let (sender, number) = ((head & 255) as usize, head >> 8);
        assert_eq!(number, next[sender], "of sender {sender}");
        assert!(rest.iter().all(|&byte| byte == number as u8));
        next[sender] += 1;
    }
}

/// Streams of two senders in turn, of bodies of all lengths, with other requests in between; masters that
/// die anywhere and are followed by others, and senders that detach and come back.
fn stream(seed: u64) {
    let (hub, mut router) = hub();
    let mut senders: Vec<Core> = (0..2).map(|w| attach(&hub, &mut router, w)).collect();
    let mut receiver = attach(&hub, &mut router, 2);
    join(&mut receiver, &mut router, ROOM);
    let (mut rng, mut sent, mut next, mut met) = (Rng(seed), [0; 2], [0; 2], 0);
    for _ in 0..200 {
        let who = rng.in_range(0..2);
        match rng.in_range(0..20) {
            0 => {
                senders.remove(who); // what it has published is delivered
                while !hub.inner.view.slot(who).load().is_free() {
                    router.step();
                    take(&mut receiver, &mut next);
                }
                senders.insert(who, attach(&hub, &mut router, who as u32));
            }
            1 => {
                let ticket = senders[who].join_async("elsewhere").expect("asked");
                // The router may wait for the receiver's room first.
                let joined = loop {
                    router.step();
                    take(&mut receiver, &mut next);
                    if let Some(joined) = senders[who].join_result(ticket) {
                        break joined;
                    }
                };
                joined.expect("joined");
            }
            2 => senders[who].leave("elsewhere").unwrap_or_default(),
            _ => {}
        }
        let len = [8, 16, 24, 100, 200, 3000][rng.in_range(0..6)];
        for _ in 0..[1, 50, 3 * u64::from(STREAM)][rng.in_range(0..3)] {
            let body = body(who as u64, sent[who], len);
            while senders[who].send(ROOM, &body).is_err() {
                router.step();
                take(&mut receiver, &mut next);
            }
            sent[who] += 1;
            if rng.in_range(0..30) == 0 {
                router.step();
                met += u32::from(router.lanes[who].reader.run().is_some());
            }
            if rng.in_range(0..90) == 0 {
                take(&mut receiver, &mut next);
            }
            if rng.in_range(0..700) == 0 {
                // As if the master had died between two passes.
                router = Router::adopt(Arc::clone(&hub.inner.view), realtime_nanos, Memory::Own);
                router.may_bias = true;
                (0..3).for_each(|slot| router.look_at(slot));
            }
        }
    }
    for _ in 0..3 {
        settle(&mut router);
        take(&mut receiver, &mut next);
    }
    assert_eq!((next, router.stats.violations), (sent, 0));
    assert!(met > 100, "in the middle of a run {met} times");
}

#[test]
fn runs_come_whole_and_in_order_whoever_dies_or_leaves() {
    (1..=4).for_each(stream);
}

/// Sends `count` messages alike, and receives them.
fn send_alike(core: &mut Core, router: &mut Router, receiver: &mut Core, count: u32) {
    let mut next = [0];
    for number in 0..count.into() {
        core.send(ROOM, &body(0, number, 8)).expect("room");
        if number % 8 == 0 {
            router.step();
            take(receiver, &mut next);
        }
    }
    settle(router);
    take(receiver, &mut next);
    assert_eq!(next, [u64::from(count)]);
}

/// A hub, its router, and a sender in the middle of a run of which nothing has been routed.
fn in_a_run() -> (Hub, Router, Core, Core) {
    let (hub, mut router) = hub();
    let mut sender = attach(&hub, &mut router, 0);
    let mut receiver = attach(&hub, &mut router, 2);
    join(&mut receiver, &mut router, ROOM);
    send_alike(&mut sender, &mut router, &mut receiver, 4 * STREAM);
    assert!(router.lanes[0].reader.run().is_some());
    (hub, router, sender, receiver)
}

/// What a sender says of its runs harms nobody but itself.
#[test]
fn nonsense_about_runs_is_found_or_costs_its_sender_alone() {
    for cut in [1, 8, 24, 1 << 40, u64::MAX] {
        let (hub, mut router, mut sender, mut receiver) = in_a_run();
        let word = hub.inner.view.lane_word(0);
        word.cut_run(router.lanes[0].reader.head().wrapping_add(cut));
        for number in 0..9u64 {
            sender
                .send(ROOM, &body(0, number, 8))
                .unwrap_or_else(|e| assert_eq!(e, crate::SendError::Detached));
        }
        settle(&mut router);
        while receiver.recv().expect("nothing lost").is_some() {}
        assert!(router.stats.violations <= 1, "{:?}", router.stats);
        let mut other = attach(&hub, &mut router, 1);
        other.send(ROOM, b"unharmed").expect("room");
        settle(&mut router);
        let message = receiver.recv().expect("nothing lost").expect("a message");
        assert_eq!(message.body, b"unharmed");
    }
}

/// A worker that is killed in a send may have ended a run behind what it has published.
#[test]
fn the_next_owners_runs_end_where_it_says() {
    let (hub, mut router, mut owner, mut receiver) = in_a_run();
    let word = hub.inner.view.lane_word(0);
    for ahead in (0..100_000).step_by(3200) {
        drop(owner);
        settle(&mut router);
        word.cut_run(word.tail() + ahead);
        owner = attach(&hub, &mut router, 0);
        send_alike(&mut owner, &mut router, &mut receiver, 4 * STREAM);
        assert_eq!(router.stats.violations, 0);
    }
}
