//! The doorbell, and the router's way to sleep.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use loom::thread;

use super::hub::{Collect, Hub, LANES, Router, Sender};
use super::{AS_IT_IS, RACE, Weaker, fails, fails_within, holds_within};
use crate::sync::{AtomicU64, Ordering, Stopped, stop_at};

/// What the router does before it sleeps.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// As it does: arms its lanes by compare-and-swap, says that it sleeps, looks at the bells.
    Real,
    /// Does not arm the lanes that it finds empty.
    LanesUnarmed,
    /// Arms its lanes by stores.
    LanesByStore,
    /// Looks at the bells, then says that it sleeps.
    BellsFirst,
}

/// What the senders do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ring {
    Real,
    /// The second stops for ever before its bell.
    StopsBeforeBell,
    /// The second stops for ever between its bell and its look at the router.
    StopsInBetween,
    /// Do not look at the router, but return as if all were well.
    BellOnly,
    /// Look at the router, then ring their bells.
    RouterFirst,
    /// As they do; then the second overwrites all that it can: its own bell, many times.
    Scribbles,
}

/// The router's lanes at the start: it looks at the first, the second must ring.
const ACTIVE: [bool; LANES] = [true, false];

/// **Claim: the router never sleeps with news of a sender that has returned, unless a notification
/// is under way. Neither a sender that is stopped anywhere in its ring nor one that overwrites its
/// own bell takes anybody else's news away.**
///
/// Two senders send one message each; the router makes up to two turns of passing, arming and
/// sleeping meanwhile, and wakes when it is notified.
fn router_sleeps(rest: Rest, ring: Ring, active: [bool; LANES]) -> impl Fn() + Send + Sync {
    move || {
        let hub = Arc::new(Hub::new(active));
        let senders = [0, 1].map(|slot| {
            let hub = hub.clone();
            thread::spawn(move || send(&hub, slot, ring))
        });
        let mut router = Router::new(Collect::PerSender, active);
        let asleep = (0..2).any(|_| turn(&mut router, &hub, rest));
        let returned = senders.map(|sender| sender.join().expect("no panic"));
        let stays = asleep && hub.eventfd.swap(0, Ordering::Acquire) == 0;
        if !stays {
            hub.sleep.awake();
            router.finish(&hub);
        }
        for slot in 0..LANES {
            let told = router.delivered.contains(&(slot as u32));
            let how = if stays { "asleep" } else { "awake" };
            assert!(told || !returned[slot], "{how} without news of lane {slot}");
        }
    }
}

/// Sends the slot's number; true when the send returned whole.
fn send(hub: &Hub, slot: usize, ring: Ring) -> bool {
    match ring {
        Ring::StopsBeforeBell if slot == 1 => send_until(hub, slot, "doorbell.ring"),
        Ring::StopsInBetween if slot == 1 => send_until(hub, slot, "doorbell.asleep"),
        Ring::BellOnly => {
            if hub.lanes[slot].publish_one(slot as u32) {
                let _ = hub.bells[slot].ring(0, &hub.sleep);
            }
            true
        }
        Ring::RouterFirst => {
            if hub.lanes[slot].publish_one(slot as u32) {
                let asleep = word(&hub.sleep).load(Ordering::SeqCst) != 0;
                let _ = hub.bells[slot].ring(0, &hub.sleep);
                if asleep {
                    hub.notify();
                }
            }
            true
        }
        Ring::Scribbles if slot == 1 => {
            Sender::new(slot, true).send_unordered(hub, slot as u32);
            word(&hub.bells[slot]).store(u64::MAX, Ordering::Relaxed);
            word(&hub.bells[slot]).store(0, Ordering::Relaxed);
            false // what it has sent is its own loss
        }
        _ => {
            Sender::new(slot, true).send_unordered(hub, slot as u32);
            true
        }
    }
}

/// Sends until it comes to the place tagged `site`, if it does; true when it does not.
fn send_until(hub: &Hub, slot: usize, site: &'static str) -> bool {
    stop_at(site);
    let mut sender = Sender::new(slot, true);
    let result = catch_unwind(AssertUnwindSafe(|| sender.send_unordered(hub, slot as u32)));
    match result {
        Ok(()) => true, // the lane was not armed
        Err(end) if end.is::<Stopped>() => false,
        Err(panic) => resume_unwind(panic),
    }
}

/// One turn of the master; true when it sleeps and has not been notified.
fn turn(router: &mut Router, hub: &Hub, rest: Rest) -> bool {
    router.pass(hub);
    let may_sleep = match rest {
        Rest::Real => router.rest(hub) && hub.try_sleep(),
        Rest::LanesUnarmed => hub.try_sleep(),
        Rest::LanesByStore => {
            for slot in (0..LANES).filter(|&slot| router.active[slot]) {
                word(&hub.lanes[slot].word).store(router.heads[slot] | 1, Ordering::SeqCst);
            }
            router.active = [false; LANES];
            hub.try_sleep()
        }
        Rest::BellsFirst => {
            let rung = !router.rest(hub) || hub.is_rung();
            hub.sleep.try_sleep(|| rung)
        }
    };
    if !may_sleep {
        return false;
    }
    if hub.eventfd.swap(0, Ordering::Acquire) == 0 {
        return true;
    }
    hub.sleep.awake();
    false
}

/// The atomic of a protocol word, for doing things the wrong way.
fn word<T>(of: &T) -> &AtomicU64 {
    // SAFETY: all of them are repr(C), and an atomic is their first field.
    unsafe { &*std::ptr::from_ref(of).cast::<AtomicU64>() }
}

/// At most 4 preemptions: without a bound it holds as well, in a minute and a half.
#[test]
fn the_router_does_not_sleep_with_news() {
    let model = router_sleeps(Rest::Real, Ring::Real, ACTIVE);
    holds_within("sleep", 4, model);
}

/// At most 5 preemptions: without a bound it holds as well, in 45 seconds.
#[test]
fn two_ringers_and_a_sleeping_router() {
    let model = router_sleeps(Rest::Real, Ring::Real, [false; LANES]);
    holds_within("sleep, both ring", 5, model);
}

/// At most 4 preemptions: without a bound they hold as well, in 15 seconds.
#[test]
fn a_ringer_that_stops_takes_nothing_away() {
    for (name, ring) in [
        ("stopped before its bell", Ring::StopsBeforeBell),
        ("stopped behind its bell", Ring::StopsInBetween),
    ] {
        holds_within(name, 4, router_sleeps(Rest::Real, ring, ACTIVE));
        let armed = router_sleeps(Rest::Real, ring, [false; LANES]);
        holds_within(name, 4, armed);
    }
}

/// At most 3 preemptions: without a bound this takes hours.
#[test]
fn a_worker_that_overwrites_its_bell_takes_nothing_away() {
    let model = router_sleeps(Rest::Real, Ring::Scribbles, [false; LANES]);
    holds_within("scribbling", 3, model);
}

#[test]
fn ringing_without_a_look_at_the_router_loses_news() {
    let model = router_sleeps(Rest::Real, Ring::BellOnly, [false; LANES]);
    fails("bell only", AS_IT_IS, "asleep without news", model);
}

#[test]
fn looking_at_the_router_before_ringing_loses_news() {
    let model = router_sleeps(Rest::Real, Ring::RouterFirst, [false; LANES]);
    fails("router first", AS_IT_IS, "asleep without news", model);
}

#[test]
fn looking_at_the_bells_before_sleeping_loses_news() {
    let model = router_sleeps(Rest::BellsFirst, Ring::Real, [false; LANES]);
    fails("bells first", AS_IT_IS, "asleep without news", model);
}

#[test]
fn a_router_without_seq_cst_sleeps_with_news() {
    let weaker: Weaker = &[
        ("doorbell.sleep", Ordering::AcqRel),
        ("doorbell.peek", Ordering::AcqRel),
    ];
    let model = router_sleeps(Rest::Real, Ring::Real, [false; LANES]);
    fails("AcqRel router", weaker, "asleep without news", model);
}

#[test]
fn a_ringer_without_seq_cst_loses_its_wake_up() {
    let weaker: Weaker = &[
        ("doorbell.ring", Ordering::AcqRel),
        ("doorbell.asleep", Ordering::AcqRel),
    ];
    let model = router_sleeps(Rest::Real, Ring::Real, [false; LANES]);
    fails("AcqRel ringer", weaker, "asleep without news", model);
}

#[test]
fn sleeping_without_arming_the_lanes_loses_news() {
    let model = router_sleeps(Rest::LanesUnarmed, Ring::Real, ACTIVE);
    fails_within(
        "lanes unarmed",
        AS_IT_IS,
        Some(4),
        "asleep without news",
        model,
    );
}

#[test]
fn arming_lanes_by_a_store_loses_news() {
    let model = router_sleeps(Rest::LanesByStore, Ring::Real, ACTIVE);
    fails_within("lanes by store", AS_IT_IS, Some(4), "news of lane", model);
}

#[test]
fn without_release_at_publish_the_router_reads_half_a_record() {
    let weaker: Weaker = &[("lane.publish", Ordering::Relaxed)];
    let model = router_sleeps(Rest::Real, Ring::Real, ACTIVE);
    fails_within("publish", weaker, Some(4), RACE, model);
}
