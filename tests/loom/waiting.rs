//! A core that waits, for room in its lane or for an answer.

use std::sync::Arc;
use std::sync::atomic::AtomicU64 as Count;

use loom::thread;

use super::stops::{at_every_step, count, stopped_at};
use super::{AS_IT_IS, Weaker, fails, holds};
use crate::answer::Answer;
use crate::lane::LaneWord;
use crate::sync::{AtomicU64, Ordering, order};

/// What the core has published.
const TAIL: u64 = 32;
/// The head at which the lane has room.
const ROOM: u64 = 16;

struct Shared {
    word: LaneWord,
    head: AtomicU64,
    answer: Answer,
    /// The futex: its value decides whether the core sleeps.
    event: AtomicU64,
}

impl Shared {
    fn new() -> Self {
        let word = LaneWord::new();
        let _ = word.publish(TAIL);
        Self {
            word,
            head: AtomicU64::new(0),
            answer: Answer::new(),
            event: AtomicU64::new(0),
        }
    }
}

/// What the core waits for, and what the router does about it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Router {
    /// Routes one record, then is blocked by a full queue: the lane stays active and unarmed.
    Blocked,
    /// Routes all, answers the last record, arms the lane.
    Arms,
    /// The same, leaving the look at the waiting bit to `arm` alone.
    ArmsOnly,
    /// The same, without waking the core when arming fails.
    ArmsAndForgets,
}

/// How the core goes to sleep.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Core {
    Real,
    /// Looks before it sets the waiting bit, not after.
    LooksFirst,
}

fn ready(shared: &Shared, router: Router) -> bool {
    // As in `LaneWriter::has_room`.
    let room = || shared.head.load(order("lane.head_load", Ordering::SeqCst)) >= ROOM;
    match router {
        Router::Blocked => room(),
        _ => shared.answer.result(1).is_some(),
    }
}

/// `Core::wait_for`: the event's value with which the core sleeps; None if it need not.
fn wait(shared: &Shared, core: Core, router: Router) -> Option<u64> {
    let seen = shared.event.load(Ordering::SeqCst);
    let early = core == Core::LooksFirst && ready(shared, router);
    shared.word.set_waiting();
    let late = core == Core::Real && ready(shared, router);
    (!early && !late).then_some(seen)
}

/// `Router::release` and `rest`, up to the router's sleep.
fn route(shared: &Shared, router: Router) {
    let head = if router == Router::Blocked {
        ROOM
    } else {
        TAIL
    };
    if router != Router::Blocked {
        shared.answer.put(1, 7);
    }
    // As in `Lane::store_head`.
    shared
        .head
        .store(head, order("lane.head", Ordering::SeqCst));
    let looks = !matches!(router, Router::ArmsOnly | Router::ArmsAndForgets);
    if looks && shared.word.read().is_waiting() && shared.word.take_waiting() {
        wake(shared);
    }
    while router != Router::Blocked && !shared.word.arm(head) {
        if router == Router::ArmsAndForgets {
            return;
        }
        if shared.word.take_waiting() {
            wake(shared);
        }
    }
}

/// `Master::wake`; tagged, so that a stop can come before it.
fn wake(shared: &Shared) {
    let order = order("mailbox.event", Ordering::SeqCst);
    shared.event.fetch_add(1, order);
}

/// **Claim: a core does not sleep on when what it waits for is there and the router rests.**
///
/// The core waits once; if it sleeps, then until the event's value changes.
fn waiting_core(core: Core, router: Router) -> impl Fn() + Send + Sync {
    move || {
        let shared = Arc::new(Shared::new());
        let waiter = thread::spawn({
            let shared = shared.clone();
            move || wait(&shared, core, router)
        });
        route(&shared, router);
        let slept_at = waiter.join().expect("no panic");
        let event = shared.event.load(Ordering::SeqCst);
        assert_ne!(slept_at, Some(event), "lost wake-up");
    }
}

/// Every `SeqCst` here as `AcqRel`.
const ACQ_REL: Weaker = &[
    ("lane.head", Ordering::Release),
    ("lane.head_load", Ordering::Acquire),
    ("lane.read", Ordering::Acquire),
    ("lane.waiting", Ordering::AcqRel),
    ("lane.take_waiting", Ordering::AcqRel),
    ("lane.arm", Ordering::AcqRel),
];

#[test]
fn room_made_by_a_blocked_router_wakes_the_waiting_core() {
    holds("room", AS_IT_IS, waiting_core(Core::Real, Router::Blocked));
}

#[test]
fn an_answer_wakes_the_waiting_core() {
    holds("answer", AS_IT_IS, waiting_core(Core::Real, Router::Arms));
}

#[test]
fn arming_alone_finds_the_waiting_core_and_needs_acq_rel_only() {
    holds(
        "arm only",
        ACQ_REL,
        waiting_core(Core::Real, Router::ArmsOnly),
    );
}

#[test]
fn a_look_at_the_waiting_bit_without_seq_cst_loses_the_wake_up() {
    fails(
        "room, AcqRel",
        ACQ_REL,
        "lost wake-up",
        waiting_core(Core::Real, Router::Blocked),
    );
}

/// The language orders a `SeqCst` access with other `SeqCst` accesses only, the model's fences
/// order it with all. Hence this: the second look stays ahead without the fence of the first step.
#[test]
fn a_second_look_with_seq_cst_does_not_lean_on_a_fence() {
    let weaker: Weaker = &[("lane.waiting", Ordering::AcqRel)];
    holds(
        "second look",
        weaker,
        waiting_core(Core::Real, Router::Blocked),
    );
}

#[test]
fn a_second_look_without_seq_cst_loses_the_wake_up() {
    let weaker: Weaker = &[
        ("lane.waiting", Ordering::AcqRel),
        ("lane.head_load", Ordering::Acquire),
    ];
    fails(
        "second look",
        weaker,
        "lost wake-up",
        waiting_core(Core::Real, Router::Blocked),
    );
}

#[test]
fn arming_without_release_loses_the_wake_up() {
    let weaker: Weaker = &[
        ("lane.head", Ordering::Release),
        ("lane.arm", Ordering::Relaxed),
        ("lane.waiting", Ordering::Relaxed),
    ];
    fails(
        "arm, relaxed",
        weaker,
        "lost wake-up",
        waiting_core(Core::Real, Router::ArmsOnly),
    );
}

#[test]
fn looking_before_the_waiting_bit_is_set_loses_the_wake_up() {
    let model = waiting_core(Core::LooksFirst, Router::Blocked);
    fails("looks first", AS_IT_IS, "lost wake-up", model);
}

#[test]
fn arming_that_ignores_the_waiting_bit_loses_the_wake_up() {
    let model = waiting_core(Core::Real, Router::ArmsAndForgets);
    fails("arms and forgets", AS_IT_IS, "lost wake-up", model);
}

/// **Claim: the router does its work and rests, wherever a core that goes to sleep has stopped.**
fn stopping_core(step: usize, stops: Arc<Count>, router: Router) -> impl Fn() + Send + Sync {
    move || {
        let shared = Arc::new(Shared::new());
        let waiter = thread::spawn({
            let (shared, stops) = (shared.clone(), stops.clone());
            move || {
                let ended = stopped_at(step, || {
                    let _slept = wait(&shared, Core::Real, router);
                });
                count(&stops, ended);
            }
        });
        route(&shared, router);
        waiter.join().expect("no panic");
        assert!(ready(&shared, router), "held up by the stopped");
    }
}

#[test]
fn a_core_stopped_at_any_step_of_going_to_sleep_does_not_hold_up_the_router() {
    at_every_step("a core stops, room", |step, stops| {
        stopping_core(step, stops, Router::Blocked)
    });
    at_every_step("a core stops, answer", |step, stops| {
        stopping_core(step, stops, Router::Arms)
    });
}

/// **Claim: a core that waits does not sleep on when its router has stopped at any step and a
/// successor, which wakes whoever may have been about to be woken, rests.**
fn stopping_router(
    step: usize,
    stops: Arc<Count>,
    router: Router,
    wakes: bool,
) -> impl Fn() + Send + Sync {
    move || {
        let shared = Arc::new(Shared::new());
        let waiter = thread::spawn({
            let shared = shared.clone();
            move || wait(&shared, Core::Real, router)
        });
        count(&stops, stopped_at(step, || route(&shared, router)));
        // `Router::resume`: all events, then the same work once more.
        if wakes {
            wake(&shared);
        }
        route(&shared, router);
        let slept_at = waiter.join().expect("no panic");
        let event = shared.event.load(Ordering::SeqCst);
        assert_ne!(slept_at, Some(event), "lost wake-up");
    }
}

#[test]
fn a_router_stopped_at_any_step_leaves_no_core_asleep_to_its_successor() {
    at_every_step("the router stops, room", |step, stops| {
        stopping_router(step, stops, Router::Blocked, true)
    });
    at_every_step("the router stops, answer", |step, stops| {
        stopping_router(step, stops, Router::Arms, true)
    });
}

/// The control: the router has taken the waiting bit and stops before it wakes.
#[test]
fn a_successor_that_wakes_nobody_leaves_a_core_asleep() {
    let found = (0..8).any(|step| {
        let model = stopping_router(step, Arc::default(), Router::Blocked, false);
        std::panic::catch_unwind(|| {
            fails(
                "a successor that wakes nobody",
                AS_IT_IS,
                "lost wake-up",
                model,
            );
        })
        .is_ok()
    });
    assert!(found, "no step at which the wake-up is lost");
}
