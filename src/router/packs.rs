//! Packs: messages that differ in nothing but their bodies share a header.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::Router;
use super::misdeeds::{join, settle};
use crate::clock::realtime_nanos;
use crate::memory::Memory;
use crate::record::{HEADER, Header, Pack, kind, size_of_record};
use crate::{Core, Hub, Overflow, Timestamps};

const ROOM: &str = "room";

/// A hub with one sender and one receiver, who has joined, and its router.
struct Scene {
    hub: Hub,
    router: Router,
    from: Core,
    to: Core,
}

fn scene(timestamps: Timestamps) -> Scene {
    let hub = Hub::builder()
        .workers(2)
        .extra(0)
        .channels(4)
        .lane_bytes(8192)
        .queue_bytes(8192)
        .max_message(2000)
        .timestamps(timestamps)
        .overflow(Overflow::Block)
        .create()
        .expect("a hub");
    drop(hub.inner.router.lock().take());
    let mut router = Router::new(hub.inner.view.clone(), realtime_nanos, Memory::Own);
    let [mut from, mut to] = [0, 1].map(|w| hub.attach(w, 0).expect("a core"));
    join(&mut to, &mut router, ROOM);
    // What is sent later finds the lane's context set, and the queue empty.
    from.send(ROOM, b"first").expect("sent");
    settle(&mut router);
    while to.recv().expect("no loss").is_some() {}
    Scene {
        hub,
        router,
        from,
        to,
    }
}

impl Scene {
    /// Bytes of the receiver's queue that it has not taken.
    fn queued(&self) -> usize {
        self.hub.inner.view.control(1).load().tail()
    }

    /// Bytes of the sender's lane.
    fn published(&self) -> u64 {
        self.hub.inner.view.lane_word(0).tail()
    }
}

#[test]
fn alike_messages_sent_one_by_one_share_a_header_in_the_queue() {
    let mut at = scene(Timestamps::Off);
    let before = at.published();
    for n in 0..100u64 {
        at.from.send(ROOM, &n.to_le_bytes()).expect("sent");
    }
    assert_eq!(at.published() - before, 100 * 32, "each in its own record");
    settle(&mut at.router);
    assert_eq!(at.queued(), HEADER + 100 * 16);
    for n in 0..100u64 {
        let message = at.to.recv().expect("no loss").expect("a message");
        assert_eq!(
            (message.body, message.sender.worker),
            (&n.to_le_bytes()[..], 0)
        );
    }
}

#[test]
fn send_many_shares_a_header_in_the_lane_where_lengths_agree() {
    let mut at = scene(Timestamps::Batch);
    let bodies = [&b"four"[..], b"text", b"other", b"", b"", b"fives"];
    let before = at.published();
    assert_eq!(at.from.send_many(ROOM, &bodies), Ok(6));
    // Two in a pack, then one by one; empty bodies are never packed.
    let bytes = HEADER + 32 + 32 + HEADER + HEADER + 32;
    assert_eq!(at.published() - before, bytes as u64);
    settle(&mut at.router);
    let many = at.to.recv_many().expect("no loss").expect("messages");
    assert_eq!(many.map(|m| m.body).collect::<Vec<_>>(), bodies);
}

#[test]
fn packs_are_bounded_and_long_bodies_stay_alone() {
    let mut at = scene(Timestamps::Off);
    for (len, count) in [(255, 40), (256, 20), (16, 300), (1, 9)] {
        let bodies = vec![vec![7u8; len]; count];
        let taken = at.from.send_many(ROOM, &bodies).expect("room");
        settle(&mut at.router);
        let mut heard = 0;
        while let Some(many) = at.to.recv_many().expect("no loss") {
            heard += many.inspect(|m| assert_eq!(m.body, bodies[0])).count();
            settle(&mut at.router);
        }
        assert_eq!((heard, at.router.stats.violations), (taken, 0));
    }
}

/// Leaving in the middle of a pack: what is left of it is nobody's, and what comes after a new join
/// is whole.
#[test]
fn a_core_can_leave_in_the_middle_of_a_pack() {
    for taken in 0..5 {
        let mut at = scene(Timestamps::Off);
        at.from.send_many(ROOM, &[b"before"; 5]).expect("room");
        settle(&mut at.router);
        for _ in 0..taken {
            assert!(at.to.recv().expect("no loss").is_some());
        }
        at.to.leave(ROOM).expect("asked");
        assert!(at.to.recv().expect("no loss").is_none());
        join(&mut at.to, &mut at.router, ROOM);
        at.from.send_many(ROOM, &[b"after."; 3]).expect("room");
        settle(&mut at.router);
        let heard: Vec<_> = at
            .to
            .recv_many()
            .expect("no loss")
            .into_iter()
            .flatten()
            .collect();
        assert!(heard.len() == 3 && heard.iter().all(|m| m.body == b"after."));
    }
}

/// What no sender writes costs its sender the slot, and the router nothing.
#[test]
fn a_pack_that_cannot_be_is_a_violation() {
    let good = Header::new(kind::MESSAGE, 0, 0, 16, 0).packed(48);
    let with = |flags: u64, len: u64| Header {
        w0: good.w0 & !0xffff_ffff | len,
        w1: good.w1 & !0xff00 | flags << 8,
    };
    assert_eq!(with(16, 48), good);
    for (flags, len) in [
        (0, 48),
        (16, 0),
        (17, 48),
        (255, 48),
        (16, 40),
        (16, 4096),
        (16, !0 >> 33),
    ] {
        let mut at = scene(Timestamps::Off);
        at.from.send_many(ROOM, &[[1u8; 16]; 3]).expect("room");
        let end = at.published() as usize & (at.hub.inner.view.layout.lane_capacity - 1);
        let ring = at.hub.inner.view.ring(0);
        let header = with(flags, len);
        // SAFETY: the pack just published, which the router has not read; as a worker would that
        // has gone astray.
        unsafe {
            let record = ring.add(end - good.size());
            let index = Header::read(record).channel();
            header
                .routed(index, 0)
                .with_ticket(Header::read(record).ticket())
                .write(record);
        }
        settle(&mut at.router);
        assert_eq!(
            (at.router.stats.violations, at.router.stats.quarantined),
            (1, 1),
            "{flags} {len}"
        );
        assert_eq!(at.to.recv().expect("no loss").map(|m| m.body.len()), None);
    }
}

#[test]
fn headers_of_packs_say_what_is_in_them() {
    let message = Header::new(kind::MESSAGE, 0, 5, 17, 99);
    let pack = message.packed(96);
    let (body, step, count) = (17, 32, 3);
    assert_eq!(pack.pack(), Some(Pack { body, step, count }));
    assert_eq!((pack.messages(), message.messages()), (3, 1));
    assert_eq!((pack.size(), pack.unpacked()), (HEADER + 96, message));
    assert_eq!(pack.origin(), message.origin());
    assert!(message.is_packable() && message.pack().is_none());
    assert!(!Header::new(kind::MESSAGE, 0, 5, 0, 99).is_packable());
    assert!(!Header::new(kind::MESSAGE, 0, 5, 256, 99).is_packable());
    assert!(size_of_record(Pack::BODY_MAX) > Pack::BODY_MAX);
}

/// Bodies in the order in which they were sent.
#[derive(Default)]
struct Model {
    due: VecDeque<Vec<u8>>,
    number: u8,
}

impl Model {
    fn next(&mut self, len: usize) -> Vec<u8> {
        self.number = self.number.wrapping_add(1);
        vec![self.number; len]
    }

    fn check(&mut self, body: &[u8]) {
        assert_eq!(self.due.pop_front().as_deref(), Some(body));
    }
}

/// Lengths that are packed, that are not, and their limits.
const LENGTHS: [usize; 8] = [16, 16, 16, 0, 1, 255, 256, 700];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    /// However messages are sent, routed and received: the same bodies in the same order.
    #[test]
    fn what_is_sent_is_received_however_it_travels(
        stamps in 0usize..3,
        ops in proptest::collection::vec((0u8..6, 0usize..8, 1usize..40), 1..80),
    ) {
        let stamps = [Timestamps::Off, Timestamps::Batch, Timestamps::Message][stamps];
        let (mut at, mut model) = (scene(stamps), Model::default());
        for (what, which, n) in ops {
            let len = LENGTHS[which];
            match what {
                0 => {
                    for _ in 0..n {
                        let body = model.next(len);
                        if at.from.send(ROOM, &body).is_ok() {
                            model.due.push_back(body);
                        }
                    }
                }
                1 | 2 => {
                    let bodies: Vec<_> = (0..n)
                        .map(|i| model.next(if what == 1 { len } else { LENGTHS[(which + i / 3) % 8] }))
                        .collect();
                    let taken = at.from.send_many(ROOM, &bodies).unwrap_or(0);
                    model.due.extend(bodies.into_iter().take(taken));
                }
                3 => { at.router.step(); }
                4 => {
                    for _ in 0..n {
                        if let Some(message) = at.to.recv().expect("no loss") {
                            model.check(message.body);
                        }
                    }
                }
                _ => {
                    let many = at.to.recv_many().expect("no loss");
                    many.into_iter().flatten().take(n).for_each(|m| model.check(m.body));
                }
            }
        }
        while !model.due.is_empty() {
            settle(&mut at.router);
            let message = at.to.recv().expect("no loss").expect("a message that is due");
            model.check(message.body);
        }
        prop_assert_eq!((at.router.stats.violations, at.router.stats.lost), (0, 0));
    }
}
