//! What queues share in the arena: read whole as long as anybody may read it, free afterwards.

use std::sync::Arc;

use super::Router;
use super::misdeeds::{join, settle};
use crate::arena::GRANULE;
use crate::clock::realtime_nanos;
use crate::memory::Memory;
use crate::{Core, Hub, Overflow, RecvError};

/// SplitMix64.
pub(super) struct Rng(pub u64);

impl Rng {
    pub fn in_range(&mut self, range: std::ops::Range<usize>) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let a = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let b = (a ^ a >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        range.start + (b ^ b >> 31) as usize % range.len()
    }
}

const ROOMS: [&str; 3] = ["one", "two", "three"];
const CORES: usize = 6;

/// A hub with an arena and slabs so small that they are often full, and its router.
fn hub(overflow: Overflow, granules: usize, slab: usize) -> (Hub, Router) {
    let hub = Hub::builder()
        .workers(CORES as u32 + 1)
        .extra(0)
        .channels(8)
        .queue_bytes(16 << 10)
        .lane_bytes(32 << 10)
        .arena_bytes(granules * GRANULE)
        .slab_bytes(slab * GRANULE)
        .max_message(20_000)
        .overflow(overflow);
    let hub = hub.create().expect("a hub");
    drop(hub.inner.router.lock().take());
    let router = Router::new(Arc::clone(&hub.inner.view), realtime_nanos, Memory::Own);
    (hub, router)
}

fn body(room: usize, number: u64, len: usize) -> Vec<u8> {
    let mut body = number.to_le_bytes().to_vec();
    body.push(room as u8);
    body.resize(9 + len, number as u8 ^ room as u8);
    body
}

fn number_of(body: &[u8]) -> (usize, u64) {
    let number = u64::from_le_bytes(body[..8].try_into().expect("a number"));
    let room = usize::from(body[8]);
    assert!(
        body[9..].iter().all(|&b| b == number as u8 ^ room as u8),
        "message {number} was overwritten"
    );
    (room, number)
}

/// A core in all rooms, and what it has to expect.
struct Listener {
    core: Option<Core>,
    /// Per room: the lowest number that may come.
    next: [u64; ROOMS.len()],
    taken: u64,
}

impl Listener {
    fn arrive(hub: &Hub, router: &mut Router, worker: u32, sent: &[u64; ROOMS.len()]) -> Self {
        let mut core = hub.attach(worker, 0).expect("a core");
        for room in ROOMS {
            join(&mut core, router, room);
        }
        Self {
            core: Some(core),
            next: *sent,
            taken: 0,
        }
    }

    /// Takes up to `most` messages; the last one is looked at again after `meanwhile`.
    fn take(&mut self, most: usize, lossless: bool, meanwhile: impl FnOnce()) {
        let core = self.core.as_mut().expect("attached");
        for _ in 1..most {
            match core.recv() {
                Ok(Some(message)) => {
                    let (room, number) = number_of(message.body);
                    assert_eq!(message.name, ROOMS[room].as_bytes());
                    let next = &mut self.next[room];
                    assert!(
                        number == *next || (!lossless && number > *next),
                        "{number} for {next}"
                    );
                    *next = number + 1;
                    self.taken += 1;
                }
                Ok(None) => return,
                Err(RecvError::Lagged(_)) => assert!(!lossless),
                Err(error) => panic!("{error}"),
            }
        }
        if let Ok(Some(message)) = core.recv() {
            let (room, number) = number_of(message.body);
            meanwhile();
            assert_eq!(
                number_of(message.body),
                (room, number),
                "while it was borrowed"
            );
            self.next[room] = number + 1;
            self.taken += 1;
        }
    }
}

/// Messages of all sizes to three rooms, six cores that read at their own pace, detach and come
/// back, and routers that die and are followed by others. So does the sender, if it has a slab.
fn storm(overflow: Overflow, granules: usize, slab: usize, seed: u8) -> crate::Stats {
    let (hub, mut router) = hub(overflow, granules, slab);
    let mut rng = Rng(seed.into());
    let mut sent = [0u64; ROOMS.len()];
    let mut from = hub.attach(CORES as u32, 0).expect("a core");
    let mut listeners: Vec<Listener> = (0..CORES as u32)
        .map(|worker| Listener::arrive(&hub, &mut router, worker, &sent))
        .collect();
    let lossless = overflow == Overflow::Block;
    for turn in 0..6000 {
        let room = rng.in_range(0..ROOMS.len());
        for _ in 0..rng.in_range(1..60) {
            let len = match rng.in_range(0..30) {
                0 => rng.in_range(0..19_000),
                1..4 => rng.in_range(0..3000),
                _ => 40,
            };
            let many = if len == 40 && rng.in_range(0..8) == 0 {
                rng.in_range(2..9)
            } else {
                1
            };
            let bodies: Vec<Vec<u8>> = (0..many as u64)
                .map(|i| body(room, sent[room] + i, len))
                .collect();
            sent[room] += from.send_many(ROOMS[room], &bodies).unwrap_or(0) as u64;
        }
        router.step();
        let who = rng.in_range(0..CORES);
        let most = rng.in_range(1..400);
        listeners[who].take(most, lossless, || {
            router.step();
        });
        match rng.in_range(0..100) {
            0 => {
                // As if the master had died between two passes.
                router = Router::adopt(Arc::clone(&hub.inner.view), realtime_nanos, Memory::Own);
                (0..=CORES).for_each(|slot| router.look_at(slot));
            }
            // Where the router waits for the slowest, nobody could be answered meanwhile.
            1 if turn < 5500 && !lossless => {
                listeners[who].core = None;
                settle(&mut router);
                listeners[who] = Listener::arrive(&hub, &mut router, who as u32, &sent);
            }
            2..4 if slab > 0 && !lossless => {
                settle(&mut router);
                drop(from);
                settle(&mut router);
                from = hub.attach(CORES as u32, 0).expect("a core");
            }
            _ => {}
        }
    }
    let drain = |router: &mut Router, listeners: &mut Vec<Listener>| {
        for _ in 0..400 {
            router.step();
            for listener in &mut *listeners {
                listener.take(10_000, lossless, || {});
            }
        }
    };
    drain(&mut router, &mut listeners);
    for (room, sent) in sent.iter_mut().enumerate() {
        from.send(ROOMS[room], &body(room, *sent, 7)).expect("room");
        *sent += 1;
    }
    drain(&mut router, &mut listeners);
    for listener in &listeners {
        assert_eq!(listener.next, sent, "everybody is up to date in the end");
    }
    check_nothing_is_pinned(&mut router, granules);
    router.stats
}

/// All cores have read everything and armed: only the stage may hold something.
fn check_nothing_is_pinned(router: &mut Router, granules: usize) {
    for queue in router.queues.iter_mut() {
        queue.refresh(&mut router.arena);
        assert!(!queue.has_pins());
    }
    let held = router.stage.chunk_bytes() / GRANULE;
    let pinned = router.arena.pinned();
    assert!(
        pinned == 0 || pinned == held.min(granules),
        "{pinned} granules are still pinned"
    );
}

#[test]
fn what_is_shared_stays_whole_while_it_is_read_and_is_free_afterwards() {
    for (seed, overflow) in [Overflow::DropNewest, Overflow::DropOldest, Overflow::Block]
        .into_iter()
        .enumerate()
    {
        let stats = storm(overflow, 24, 0, seed as u8);
        assert!(stats.shared > 1000, "{stats:?}");
        // Those who read least and lose most keep it full.
        assert!(
            overflow != Overflow::DropNewest || stats.unshared > 1000,
            "{stats:?}"
        );
    }
}

#[test]
fn an_arena_that_is_too_small_or_missing_only_means_copies() {
    for granules in [0, 1, 7] {
        let stats = storm(Overflow::Block, granules, 0, 9);
        assert!(
            stats.unshared > 100 && (granules > 1 || stats.shared < 1000),
            "{stats:?}"
        );
    }
}

#[test]
fn what_lies_in_a_slab_stays_whole_while_it_is_read_whoever_owns_it_by_then() {
    for (seed, overflow) in [Overflow::DropNewest, Overflow::DropOldest, Overflow::Block]
        .into_iter()
        .enumerate()
    {
        for slab in [8, 64] {
            storm(overflow, 24, slab, seed as u8);
        }
    }
}

/// A core that never reads keeps what its queue may hold, and no more, from the others.
#[test]
fn a_stopped_core_pins_no_more_than_its_queue_may_hold() {
    let (hub, mut router) = hub(Overflow::DropNewest, 64, 0);
    let mut from = hub.attach(CORES as u32, 0).expect("a core");
    let sent = [0; ROOMS.len()];
    let _stopped = Listener::arrive(&hub, &mut router, 0, &sent);
    let mut reader = Listener::arrive(&hub, &mut router, 1, &sent);
    for number in 0..20_000 {
        from.send(ROOMS[0], &body(0, number, 100)).expect("sent");
        if number % 50 == 49 {
            router.step();
            reader.take(usize::MAX, true, || {});
        }
    }
    reader.take(usize::MAX, true, || {});
    assert_eq!(reader.next[0], 20_000);
    let stats = router.stats;
    assert_eq!(stats.unshared, 0, "{stats:?}");
    assert!(stats.shared > 200 && stats.lost > 15_000, "{stats:?}");
    // 16 KiB in runs, each with up to a granule cut off at both ends, and the stage's chunk.
    assert!(
        router.arena.pinned() <= 4 + 4 + 8,
        "{}",
        router.arena.pinned()
    );
}

/// What a dead core had not read is free when its slot is.
#[test]
fn a_dead_core_pins_nothing() {
    let (hub, mut router) = hub(Overflow::DropNewest, 32, 0);
    let mut from = hub.attach(CORES as u32, 0).expect("a core");
    let mut listener = Listener::arrive(&hub, &mut router, 0, &[0; ROOMS.len()]);
    for number in 0..100 {
        from.send(ROOMS[0], &body(0, number, 100)).expect("sent");
        if number % 30 == 0 {
            router.step();
            listener.take(2, true, || {});
        }
    }
    router.step();
    assert!(router.queues[0].has_pins());
    router.reap(0);
    settle(&mut router);
    check_nothing_is_pinned(&mut router, 32);
    std::mem::forget(listener); // its process is dead, so nobody detaches
}
