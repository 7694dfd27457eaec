//! Counters close to where they wrap, and clocks that jump.

use std::cell::Cell;

use super::Router;
use super::misdeeds::{join, overwrite, settle};
use crate::clock::realtime_nanos;
use crate::memory::Memory;
use crate::sync::Ordering;
use crate::{Core, Hub, Timestamps};

/// A hub of three slots whose tickets, lane positions and owner generations are about to pass
/// `limit` (2^64 as 0), and its router.
fn hub_just_below(limit: u64) -> (Hub, Router) {
    let hub = Hub::builder()
        .workers(3)
        .extra(0)
        .channels(4)
        .lane_bytes(4096);
    let hub = hub.max_message(500).create().expect("a hub");
    drop(hub.inner.router.lock().take());
    let view = &hub.inner.view;
    view.tickets.start(&view.floor, limit.wrapping_sub(300));
    let position = limit.wrapping_sub(20_000) & !15;
    for slot in 0..view.layout.slots {
        view.lane_word(slot).reset(position);
        view.mailbox(slot).head.store(position, Ordering::SeqCst);
        overwrite(view.slot(slot).get(), 0xff_fffe << 40);
    }
    let router = Router::new(view.clone(), realtime_nanos, Memory::Own);
    (hub, router)
}

fn joined(hub: &Hub, router: &mut Router, worker: u32) -> Core {
    let mut core = hub.attach(worker, 0).expect("a core");
    join(&mut core, router, "room");
    core
}

/// Two senders take turns; returns what the third core heard: sender and number.
fn exchange(senders: &mut [Core; 2], to: &mut Core, router: &mut Router) -> Vec<(u32, u32)> {
    let mut heard = Vec::new();
    for n in 0..1500u32 {
        let sender = &mut senders[(n % 2) as usize];
        sender
            .send("room", &[n.to_le_bytes(); 7].concat())
            .expect("sent");
        if n % 11 == 0 || n > 1490 {
            router.step();
            router.step();
        }
        while let Some(message) = to.recv().expect("no loss") {
            let n = message.body[..4].try_into().expect("four bytes");
            heard.push((message.sender.worker, u32::from_le_bytes(n)));
        }
    }
    heard
}

#[test]
fn counters_may_pass_every_limit() {
    for limit in [1 << 32, 1 << 47, 1 << 48, 1 << 63, 0] {
        let (hub, mut router) = hub_just_below(limit);
        // Three owners each: the generation of 24 bits wraps.
        for _ in 0..3 {
            let mut senders = [0, 1].map(|w| hub.attach(w, 0).expect("a core"));
            let mut to = joined(&hub, &mut router, 2);
            let heard = exchange(&mut senders, &mut to, &mut router);
            // In the order of sending, because each send returned before the next began.
            let sent: Vec<_> = (0..1500).map(|n| (n % 2, n)).collect();
            assert_eq!(heard, sent, "around {limit:#x}");
            drop((senders, to));
            settle(&mut router);
        }
        let stats = router.stats;
        assert_eq!(
            (stats.violations, stats.lost, stats.cores),
            (0, 0, 0),
            "{stats:?}"
        );
    }
}

thread_local! {
    static TIME: Cell<usize> = const { Cell::new(0) };
}

/// Forwards, back, standing still, and to both ends.
const TIMES: [u64; 7] = [1_000, 5_000_000_000, 7, 7, u64::MAX, 0, 1 << 63];

fn jumping_clock() -> u64 {
    TIME.set(TIME.get() + 1);
    TIMES[TIME.get() % TIMES.len()]
}

#[test]
fn a_clock_that_jumps_costs_no_message() {
    let hub = Hub::builder()
        .workers(3)
        .extra(0)
        .timestamps(Timestamps::Batch);
    let hub = hub.create().expect("a hub");
    drop(hub.inner.router.lock().take());
    let mut router = Router::new(hub.inner.view.clone(), jumping_clock, Memory::Own);
    let mut senders = [0, 1].map(|w| hub.attach(w, 0).expect("a core"));
    let mut to = joined(&hub, &mut router, 2);
    let heard = exchange(&mut senders, &mut to, &mut router);
    let sent: Vec<_> = (0..1500).map(|n| (n % 2, n)).collect();
    assert_eq!(heard, sent);
    assert!(TIME.get() > TIMES.len(), "the clock was asked");
    drop((senders, to));
}
