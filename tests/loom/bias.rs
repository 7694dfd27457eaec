//! A lane that is biased towards its sender: who publishes by a store, and how the router arms it.
//!
//! `barrier::heavy` is the kernel's: it puts a barrier into the sender wherever it is. A model cannot;
//! there both halves are fences, which is what a pair of them amounts to. And loom may let an exchange
//! overlook a plain store that came before it, and then forget the store: executions in which the
//! sender's last tail is not there in the end are none.

use std::sync::Arc;

use loom::thread;

use super::hub::{Bias, Collect, Heed, Hub, Router, SIZE, Sender};
use super::sole::sole_sender_first;
use super::{AS_IT_IS, RACE, Weaker, fails, fails_within, holds};
use crate::barrier;
use crate::sync::Ordering;

const ASLEEP: &str = "asleep without news";

/// How the router arms a lane that may be biased.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Arm {
    /// As it does: revokes, has a barrier, arms.
    Real,
    /// Does not look whether the owner has biased it.
    Unaware,
    /// Arms, then revokes.
    First,
}

/// How things stand at the start.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    /// The lane is biased, and the sender knows.
    Biased,
    /// The lane is armed, and was biased before: the sender may take the bias when it rings.
    Eager,
}

impl Start {
    fn is_biased(self) -> bool {
        self == Self::Biased
    }

    fn hub(self) -> Hub {
        let hub = Hub::new([self.is_biased(), false]);
        let word = &hub.lanes[0].word;
        assert!(word.bias());
        if !self.is_biased() {
            word.revoke(true);
        }
        hub
    }

    fn sender(self, how: Heed) -> Sender {
        let is_on = self.is_biased();
        Sender::with_bias(0, Bias { is_on, how })
    }
}

/// `Master::may_sleep`; true when it sleeps.
fn sleeps(router: &mut Router, hub: &Hub, biased: &mut bool, arm: Arm) -> bool {
    let word = &hub.lanes[0].word;
    let may_be_biased = *biased || (arm != Arm::Unaware && word.is_biased());
    if arm == Arm::First && !router.rest(hub) {
        return false;
    }
    if router.active[0] && may_be_biased {
        word.revoke(true);
        let _ = barrier::heavy();
        *biased = false;
    }
    router.rest(hub) && hub.try_sleep()
}

/// **Claim: the router does not sleep with news of a sender that has returned, unless a notification is
/// under way, though the sender publishes by a store.**
///
/// The sender sends two messages; the router makes two turns of passing, arming and sleeping meanwhile,
/// and wakes when it is notified.
fn router_sleeps(start: Start, heed: Heed, arm: Arm) -> impl Fn() + Send + Sync {
    move || {
        let hub = Arc::new(start.hub());
        let sender = thread::spawn({
            let hub = hub.clone();
            move || {
                let mut sender = start.sender(heed);
                sender.send_unordered(&hub, 1);
                sender.send_unordered(&hub, 2);
            }
        });
        let mut router = Router::new(Collect::PerSender, [start.is_biased(), false]);
        let mut biased = start.is_biased();
        let mut asleep = start == Start::Eager && hub.try_sleep();
        for _ in 0..2 {
            if asleep {
                if hub.eventfd.swap(0, Ordering::Acquire) == 0 {
                    continue;
                }
                hub.sleep.awake();
            }
            router.pass(&hub);
            asleep = sleeps(&mut router, &hub, &mut biased, arm);
        }
        sender.join().expect("no panic");
        let stays = asleep && hub.eventfd.swap(0, Ordering::Acquire) == 0;
        if !stays {
            hub.sleep.awake();
            router.finish(&hub);
        }
        if hub.lanes[0].word.read().tail() != 2 * SIZE {
            return;
        }
        let told = router.delivered.len();
        assert!(
            told == 2,
            "{}: {told} of 2",
            if stays { ASLEEP } else { "awake" }
        );
    }
}

/// **Claim: what a biased sender publishes keeps the order of sends**, as that of any sole sender.
fn biased_first() -> impl Fn() + Send + Sync {
    let start = || (Start::Biased.hub(), Start::Biased.sender(Heed::Real));
    sole_sender_first(Collect::Real, start)
}

#[test]
fn a_biased_lane_is_not_slept_on() {
    let model = router_sleeps(Start::Biased, Heed::Real, Arm::Real);
    holds("biased", AS_IT_IS, model);
}

#[test]
fn nor_is_one_whose_sender_takes_the_bias_when_it_rings() {
    let model = router_sleeps(Start::Eager, Heed::Real, Arm::Real);
    holds("eager", AS_IT_IS, model);
}

#[test]
fn without_its_half_of_the_barrier_the_sender_is_not_heard() {
    let weaker: Weaker = &[("barrier.light", Ordering::Relaxed)];
    let model = router_sleeps(Start::Biased, Heed::Real, Arm::Real);
    fails("no light barrier", weaker, ASLEEP, model);
}

/// The exchange that arms would do for a barrier of the router's own; the kernel's acts on the sender.
#[test]
fn without_its_half_of_the_barrier_the_router_does_not_hear() {
    let weaker: Weaker = &[
        ("barrier.heavy", Ordering::Relaxed),
        ("lane.arm", Ordering::AcqRel),
    ];
    let model = router_sleeps(Start::Biased, Heed::Real, Arm::Real);
    fails("no heavy barrier", weaker, ASLEEP, model);
}

#[test]
fn a_sender_that_does_not_ring_when_the_bias_has_ended_is_not_heard() {
    let model = router_sleeps(Start::Biased, Heed::Silently, Arm::Real);
    fails("silent", AS_IT_IS, ASLEEP, model);
}

#[test]
fn arming_before_the_bias_is_revoked_loses_news() {
    let model = router_sleeps(Start::Biased, Heed::Real, Arm::First);
    fails("armed first", AS_IT_IS, ASLEEP, model);
}

#[test]
fn arming_without_a_look_at_the_bias_loses_news() {
    let model = router_sleeps(Start::Eager, Heed::Real, Arm::Unaware);
    fails("unaware", AS_IT_IS, ASLEEP, model);
}

#[test]
fn taking_the_bias_after_ringing_loses_news() {
    let model = router_sleeps(Start::Eager, Heed::RingsFirst, Arm::Real);
    fails_within("rings first", AS_IT_IS, Some(4), ASLEEP, model);
}

#[test]
fn a_biased_sender_is_not_overtaken() {
    holds("biased first", AS_IT_IS, biased_first());
}

/// Whoever sees that a send has returned sees what it published, whatever barriers there are.
#[test]
fn nor_is_it_without_a_barrier() {
    let weaker: Weaker = &[("barrier.light", Ordering::Relaxed)];
    holds("biased first, no barrier", weaker, biased_first());
}

#[test]
fn without_release_at_the_store_the_router_reads_half_a_record() {
    let weaker: Weaker = &[
        ("lane.store", Ordering::Relaxed),
        ("barrier.light", Ordering::Relaxed),
    ];
    fails("relaxed store", weaker, RACE, biased_first());
}
