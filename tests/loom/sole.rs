//! The pass over the only active lane, which needs no cut, and its change to the pass with one.

use std::sync::Arc;

use loom::sync::atomic::AtomicBool;
use loom::thread;

use super::hub::{Collect, Hub, LANES, Router, Sender, check};
use super::ticket::two_senders;
use super::{AS_IT_IS, RACE, Weaker, fails, holds, holds_within};
use crate::sync::Ordering;

/// The lane of the sole sender is active, the other's is armed.
const SOLE: [bool; LANES] = [true, false];

/// **Claim: what the sole-lane pass delivers does not overtake a send of a lane that had to ring.**
///
/// The lane of the other sender is armed: it sends 3 and rings. The sole sender sends 1 and then,
/// if it sees that 3 was sent, 2 (reusing its ticket if it can). The router makes two passes
/// meanwhile.
fn sole_sender_second(how: Collect) -> impl Fn() + Send + Sync {
    move || {
        let hub = Arc::new(Hub::new(SOLE));
        let sent = Arc::new(AtomicBool::new(false));
        let other = thread::spawn({
            let (hub, sent) = (hub.clone(), sent.clone());
            move || {
                Sender::new(1, true).send(&hub, 3);
                sent.store(true, Ordering::Release);
            }
        });
        let sole = thread::spawn({
            let hub = hub.clone();
            move || {
                let mut sender = Sender::new(0, true);
                sender.send(&hub, 1);
                let after = sent.load(Ordering::Acquire);
                if after {
                    sender.send(&hub, 2);
                }
                after
            }
        });
        let mut router = Router::new(how, SOLE);
        (0..2).for_each(|_| router.pass(&hub));
        other.join().expect("no panic");
        let after = sole.join().expect("no panic");
        router.finish(&hub);
        let sent: &[u32] = if after { &[1, 2, 3] } else { &[1, 3] };
        check(&router.delivered, sent, &[(1, 2), (3, 2)]);
    }
}

/// The sole sender, and its hub.
fn unbiased() -> (Hub, Sender) {
    (Hub::new(SOLE), Sender::new(0, true))
}

/// **Claim: nor does a send of a lane that rings overtake what the sole sender sent before, reusing
/// its ticket.**
///
/// The sole sender sends 1 and 2. The other sends 3, if it sees that 2 was sent. The router
/// makes two passes meanwhile: one may be without a cut, the next with one.
pub fn sole_sender_first(how: Collect, start: fn() -> (Hub, Sender)) -> impl Fn() + Send + Sync {
    move || {
        let (hub, mut sender) = start();
        let hub = Arc::new(hub);
        let sent = Arc::new(AtomicBool::new(false));
        let sole = thread::spawn({
            let (hub, sent) = (hub.clone(), sent.clone());
            move || {
                sender.send(&hub, 1);
                sender.send(&hub, 2);
                sent.store(true, Ordering::Release);
            }
        });
        let other = thread::spawn({
            let hub = hub.clone();
            move || {
                let after = sent.load(Ordering::Acquire);
                if after {
                    Sender::new(1, true).send(&hub, 3);
                }
                after
            }
        });
        let mut router = Router::new(how, SOLE);
        (0..2).for_each(|_| router.pass(&hub));
        sole.join().expect("no panic");
        let after = other.join().expect("no panic");
        router.finish(&hub);
        let sent: &[u32] = if after { &[1, 2, 3] } else { &[1, 2] };
        check(&router.delivered, sent, &[(1, 2), (2, 3)]);
    }
}

/// **Claim: a lane that must ring is found by the cut that could deliver what was sent after.**
///
/// One lane is armed: its sender sends 1 and rings. The other is active: its sender sends 2, if it
/// sees that 1 was sent. The router cuts all the same.
fn both_ring(how: Collect) -> impl Fn() + Send + Sync {
    move || {
        let hub = Arc::new(Hub::new(SOLE));
        let sent = Arc::new(AtomicBool::new(false));
        let first = thread::spawn({
            let (hub, sent) = (hub.clone(), sent.clone());
            move || {
                Sender::new(1, true).send(&hub, 1);
                sent.store(true, Ordering::Release);
            }
        });
        let second = thread::spawn({
            let hub = hub.clone();
            move || {
                let after = sent.load(Ordering::Acquire);
                if after {
                    Sender::new(0, true).send(&hub, 2);
                }
                after
            }
        });
        let mut router = Router::new(how, SOLE);
        router.pass(&hub);
        first.join().expect("no panic");
        let after = second.join().expect("no panic");
        router.finish(&hub);
        let sent: &[u32] = if after { &[1, 2] } else { &[1] };
        check(&router.delivered, sent, &[(1, 2)]);
    }
}

#[test]
fn a_sole_lane_pass_does_not_overtake_a_ringing_sender() {
    holds("sole second", AS_IT_IS, sole_sender_second(Collect::Real));
}

#[test]
fn a_sole_lane_pass_that_ignores_the_doorbell_overtakes() {
    let model = sole_sender_second(Collect::SoleWithoutDoorbell);
    fails("no doorbell", AS_IT_IS, "inversion", model);
}

#[test]
fn a_sole_lane_pass_that_looks_at_the_doorbell_first_overtakes() {
    let model = sole_sender_second(Collect::SoleDoorbellFirst);
    fails("doorbell first", AS_IT_IS, "inversion", model);
}

#[test]
fn a_sole_lane_pass_without_acquire_reads_half_a_record() {
    let weaker: Weaker = &[
        ("lane.read", Ordering::Relaxed),
        ("doorbell.peek", Ordering::Relaxed),
    ];
    fails("relaxed", weaker, RACE, sole_sender_second(Collect::Real));
}

#[test]
fn a_ringing_sender_does_not_overtake_the_sole_one() {
    holds(
        "sole first",
        AS_IT_IS,
        sole_sender_first(Collect::Real, unbiased),
    );
}

/// At most 5 preemptions: without a bound, one pass instead of two holds in all of 22,509
/// executions.
#[test]
fn a_sole_sender_and_one_that_rings_keep_the_order_of_sends() {
    let model = two_senders(Collect::Real, true, SOLE, 2);
    holds_within("sole and ringing", 5, model);
}

/// At most 5 preemptions: without a bound, one pass instead of two holds in all of 428,749
/// executions, in a minute.
#[test]
fn two_senders_that_ring_keep_the_order_of_sends() {
    let model = two_senders(Collect::Real, true, [false; LANES], 2);
    holds_within("both ringing", 5, model);
}

#[test]
fn a_cut_finds_the_lanes_that_rang_before() {
    holds("ring and cut", AS_IT_IS, both_ring(Collect::AlwaysCut));
}

#[test]
fn a_doorbell_taken_before_the_cut_inverts() {
    let model = both_ring(Collect::DoorbellBeforeCut);
    fails("doorbell before cut", AS_IT_IS, "inversion", model);
}
