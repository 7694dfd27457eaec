//! Ticket, publish and cut.

use std::sync::Arc;

use loom::sync::atomic::AtomicBool;
use loom::thread;

use super::hub::{Collect, Hub, LANES, Router, Sender, check};
use super::{AS_IT_IS, RACE, Weaker, fails, holds, holds_within};
use crate::sync::Ordering;

/// Every `SeqCst` between a send and the cut that sees it, as `AcqRel`.
const ACQ_REL: Weaker = &[
    ("ticket.peek", Ordering::AcqRel),
    ("ticket.draw", Ordering::AcqRel),
    ("ticket.cut", Ordering::AcqRel),
    ("lane.publish", Ordering::AcqRel),
    ("lane.read", Ordering::AcqRel),
    ("doorbell.ring", Ordering::AcqRel),
    ("doorbell.peek", Ordering::AcqRel),
    ("doorbell.take", Ordering::AcqRel),
];

/// Both lanes are active: no doorbell is rung.
const BOTH: [bool; LANES] = [true; LANES];

/// **Claim: if one send returned before another began, nobody sees them in the other order.**
///
/// One sender sends 1 and 2, the other 3 and then, if it sees that 2 was sent, 4. The router cuts
/// `passes` times meanwhile, and as often as it takes when both are done. If a lane is not
/// `active`, its first send rings; if one is, the router may do without a cut.
pub fn two_senders(
    how: Collect,
    reuses: bool,
    active: [bool; LANES],
    passes: usize,
) -> impl Fn() + Send + Sync {
    move || {
        let hub = Arc::new(Hub::new(active));
        let sent = Arc::new(AtomicBool::new(false));
        let first = thread::spawn({
            let (hub, sent) = (hub.clone(), sent.clone());
            move || {
                let mut sender = Sender::new(0, reuses);
                sender.send(&hub, 1);
                sender.send(&hub, 2);
                sent.store(true, Ordering::Release);
            }
        });
        let second = thread::spawn({
            let hub = hub.clone();
            move || {
                let mut sender = Sender::new(1, reuses);
                sender.send(&hub, 3);
                let after = sent.load(Ordering::Acquire);
                if after {
                    sender.send(&hub, 4);
                }
                after
            }
        });
        let mut router = Router::new(how, active);
        (0..passes).for_each(|_| router.pass(&hub));
        first.join().expect("no panic");
        let all = if second.join().expect("no panic") {
            4
        } else {
            3
        };
        router.finish(&hub);
        let sent: Vec<u32> = (1..=all).collect();
        check(&router.delivered, &sent, &[(1, 2), (3, 4), (2, 4)]);
    }
}

#[test]
fn a_cut_by_a_draw_keeps_the_order_of_sends() {
    holds(
        "one pass",
        AS_IT_IS,
        two_senders(Collect::Real, true, BOTH, 1),
    );
}

/// At most 5 preemptions: without a bound it holds in all of 1,259,367 executions, in two minutes.
#[test]
fn two_cuts_keep_the_order_of_sends() {
    holds_within("two passes", 5, two_senders(Collect::Real, true, BOTH, 2));
}

#[test]
fn cutting_at_the_loaded_counter_inverts() {
    let model = two_senders(Collect::CutWithoutDraw, true, BOTH, 1);
    fails("no draw", AS_IT_IS, "inversion", model);
}

#[test]
fn a_draw_without_seq_cst_inverts() {
    fails(
        "AcqRel",
        ACQ_REL,
        "inversion",
        two_senders(Collect::Real, true, BOTH, 1),
    );
}

/// One fence between two sends is what loom sees of the sender's `SeqCst`: it takes both of these.
#[test]
fn a_sender_without_seq_cst_inverts() {
    let weaker: Weaker = &[
        ("ticket.peek", Ordering::AcqRel),
        ("lane.publish", Ordering::AcqRel),
    ];
    fails(
        "sender",
        weaker,
        "inversion",
        two_senders(Collect::Real, true, BOTH, 1),
    );
}

#[test]
fn a_router_without_seq_cst_inverts() {
    let weaker: Weaker = &[
        ("ticket.cut", Ordering::AcqRel),
        ("doorbell.peek", Ordering::AcqRel),
        ("lane.read", Ordering::AcqRel),
    ];
    fails(
        "router",
        weaker,
        "inversion",
        two_senders(Collect::Real, true, BOTH, 1),
    );
}

#[test]
fn without_reuse_acq_rel_is_enough() {
    holds(
        "draws always",
        ACQ_REL,
        two_senders(Collect::Real, false, BOTH, 1),
    );
}

#[test]
fn without_release_at_publish_the_router_reads_half_a_record() {
    let weaker: Weaker = &[("lane.publish", Ordering::Relaxed)];
    fails(
        "publish",
        weaker,
        RACE,
        two_senders(Collect::Real, true, BOTH, 1),
    );
}

#[test]
fn without_acquire_at_the_tail_the_router_reads_half_a_record() {
    let weaker: Weaker = &[
        ("lane.read", Ordering::Relaxed),
        ("ticket.cut", Ordering::Relaxed),
    ];
    fails(
        "read",
        weaker,
        RACE,
        two_senders(Collect::Real, true, BOTH, 1),
    );
}
