//! The doorbell, and the router's way to sleep.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use loom::thread;

use super::hub::{Collect, Hub, LANES, Router, Sender};
use super::{AS_IT_IS, RACE, Weaker, fails, holds};
use crate::doorbell::Doorbell;
use crate::lane::LaneWord;
use crate::sync::{AtomicU64, Ordering, Stopped, stop_at};

/// What the router does before it sleeps.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sleep {
    /// As it does: arms its lanes and the doorbell, each by a compare-and-swap.
    Real,
    /// Does not arm the lanes that it finds empty.
    LanesUnarmed,
    /// Arms its lanes by stores.
    LanesByStore,
    /// Arms the doorbell by a look and a store.
    DoorbellByStore,
}

/// What the second sender does. The first is in the same leaf word.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Second {
    Rings,
    /// Stops for ever when its bit is in the leaf but not yet in the summary.
    StopsInBetween,
    /// The same, but returns as if all were well: so does the first.
    LeafOnly,
    /// Rings; both trust that whoever made the leaf non-zero sets the summary. The second stops
    /// in between.
    TrustsTheOther,
}

/// The router's lanes at the start: it looks at the first, the second must ring.
const ACTIVE: [bool; LANES] = [true, false];

/// **Claim: the router never sleeps with news of a sender that has returned, unless a notification
/// is under way. A sender that is stopped between the two levels of the doorbell takes nobody
/// else's news away.**
///
/// Two senders send one message each; the router makes up to two turns of passing, arming and
/// sleeping meanwhile, and wakes when it is notified.
fn router_sleeps(sleep: Sleep, second: Second, active: [bool; LANES]) -> impl Fn() + Send + Sync {
    move || {
        let hub = Arc::new(Hub::new(active));
        let senders = [0, 1].map(|slot| {
            let hub = hub.clone();
            thread::spawn(move || send(&hub, slot, second))
        });
        let mut router = Router::new(Collect::PerSender, active);
        let asleep = (0..2).any(|_| turn(&mut router, &hub, sleep));
        let returned = senders.map(|sender| sender.join().expect("no panic"));
        let stays = asleep && hub.eventfd.swap(0, Ordering::Acquire) == 0;
        if !stays {
            hub.bell.awake();
            router.finish(&hub);
        }
        for slot in 0..LANES {
            let told = router.delivered.contains(&(slot as u32));
            let how = if stays { "asleep" } else { "awake" };
            assert!(told || !returned[slot], "{how} without news of lane {slot}");
        }
    }
}

/// Sends the slot's number; true when the send returned.
fn send(hub: &Hub, slot: usize, second: Second) -> bool {
    let mut sender = Sender::new(slot, true);
    if second == Second::LeafOnly || (second == Second::StopsInBetween && slot == 1) {
        stop_at("doorbell.summary");
        let result = catch_unwind(AssertUnwindSafe(|| sender.send_unordered(hub, slot as u32)));
        return match result {
            Ok(()) => true, // the lane was not armed
            Err(end) if end.is::<Stopped>() => second == Second::LeafOnly,
            Err(panic) => resume_unwind(panic),
        };
    }
    if second == Second::TrustsTheOther {
        return send_trusting(hub, slot);
    }
    sender.send_unordered(hub, slot as u32);
    true
}

/// A send that sets the summary bit only if the leaf was zero.
fn send_trusting(hub: &Hub, slot: usize) -> bool {
    if !hub.lanes[slot].publish_one(slot as u32) {
        return true;
    }
    let [summary, leaf] = words(&hub.bell);
    if leaf.fetch_or(1 << slot, Ordering::SeqCst) != 0 {
        return true;
    }
    if slot == 1 {
        return false; // stopped
    }
    if summary.fetch_or(1, Ordering::SeqCst) & ASLEEP != 0 {
        hub.eventfd.fetch_add(1, Ordering::Release);
    }
    true
}

/// One turn of the master; true when it sleeps and has not been notified.
fn turn(router: &mut Router, hub: &Hub, sleep: Sleep) -> bool {
    router.pass(hub);
    let may_sleep = match sleep {
        Sleep::Real => router.rest(hub) && hub.bell.try_sleep(),
        Sleep::LanesUnarmed => hub.bell.try_sleep(),
        Sleep::LanesByStore => {
            for slot in (0..LANES).filter(|&slot| router.active[slot]) {
                lane_word(&hub.lanes[slot].word).store(router.heads[slot] | 1, Ordering::SeqCst);
            }
            router.active = [false; LANES];
            hub.bell.try_sleep()
        }
        Sleep::DoorbellByStore => {
            let free = router.rest(hub) && !hub.bell.is_rung();
            if free {
                words(&hub.bell)[0].store(ASLEEP, Ordering::SeqCst);
            }
            free
        }
    };
    if !may_sleep {
        return false;
    }
    if hub.eventfd.swap(0, Ordering::Acquire) == 0 {
        return true;
    }
    hub.bell.awake();
    false
}

/// The sleeping bit of the summary word.
const ASLEEP: u64 = 1 << 63;

/// The summary and the leaf, for doing things the wrong way.
fn words(bell: &Doorbell) -> [&AtomicU64; 2] {
    let start = std::ptr::from_ref(bell).cast::<u8>();
    // SAFETY: repr(C), and in the models it holds one summary and one leaf, of equal size, each
    // starting with its atomic.
    unsafe {
        [
            &*start.cast::<AtomicU64>(),
            &*start.add(size_of::<Doorbell>() / 2).cast::<AtomicU64>(),
        ]
    }
}

fn lane_word(word: &LaneWord) -> &AtomicU64 {
    // SAFETY: repr(C), and the atomic is its only field.
    unsafe { &*std::ptr::from_ref(word).cast::<AtomicU64>() }
}

#[test]
fn the_router_does_not_sleep_with_news() {
    let model = router_sleeps(Sleep::Real, Second::Rings, ACTIVE);
    holds("sleep", AS_IT_IS, model);
}

#[test]
fn two_ringers_and_a_sleeping_router() {
    let model = router_sleeps(Sleep::Real, Second::Rings, [false; LANES]);
    holds("sleep, both ring", AS_IT_IS, model);
}

#[test]
fn a_ringer_that_stops_between_leaf_and_summary_takes_nothing_away() {
    let model = router_sleeps(Sleep::Real, Second::StopsInBetween, [false; LANES]);
    holds("stopped ringer", AS_IT_IS, model);
}

#[test]
fn a_ringer_that_stops_does_not_disturb_an_active_lane() {
    let model = router_sleeps(Sleep::Real, Second::StopsInBetween, ACTIVE);
    holds("stopped ringer, active lane", AS_IT_IS, model);
}

#[test]
fn a_leaf_without_its_summary_is_not_found() {
    let model = router_sleeps(Sleep::Real, Second::LeafOnly, [false; LANES]);
    fails("leaf only", AS_IT_IS, "without news", model);
}

#[test]
fn trusting_another_ringer_for_the_summary_loses_news() {
    let model = router_sleeps(Sleep::Real, Second::TrustsTheOther, [false; LANES]);
    fails("trusting", AS_IT_IS, "news of lane 0", model);
}

#[test]
fn sleeping_without_arming_the_lanes_loses_news() {
    let model = router_sleeps(Sleep::LanesUnarmed, Second::Rings, ACTIVE);
    fails("lanes unarmed", AS_IT_IS, "asleep without news", model);
}

#[test]
fn arming_lanes_by_a_store_loses_news() {
    let model = router_sleeps(Sleep::LanesByStore, Second::Rings, ACTIVE);
    fails("lanes by store", AS_IT_IS, "news of lane", model);
}

#[test]
fn arming_the_doorbell_by_a_store_loses_news() {
    let model = router_sleeps(Sleep::DoorbellByStore, Second::Rings, ACTIVE);
    fails("doorbell by store", AS_IT_IS, "news of lane", model);
}

#[test]
fn without_release_at_publish_the_router_reads_half_a_record() {
    let weaker: Weaker = &[("lane.publish", Ordering::Relaxed)];
    let model = router_sleeps(Sleep::Real, Second::Rings, ACTIVE);
    fails("publish", weaker, RACE, model);
}
