//! The control word of a queue: publish, flip, arm.

use std::sync::Arc;

use loom::thread;

use super::{AS_IT_IS, Plain, RACE, Weaker, fails, holds};
use crate::queue::{Control, ControlWord, Flip};
use crate::sync::{AtomicU64, Ordering};

/// Messages that a buffer holds.
const CAPACITY: usize = 4;
/// Bytes per message: the unit of the tail.
const SIZE: usize = 16;
/// The armed bit, for a core that sets it the wrong way.
const ARMED: u64 = 2;
/// The dozing bit, likewise.
const DOZING: u64 = 8;

pub struct Queue {
    pub word: ControlWord,
    /// A cell per message: the router writes beyond the tail while the core reads below it.
    buffers: [[Plain<u32>; CAPACITY]; 2],
    /// Notifications that the core has not taken.
    eventfd: AtomicU64,
    /// The kernel's side of the futex: a core sleeps there.
    asleep: loom::sync::Mutex<bool>,
}

impl Queue {
    pub fn new() -> Self {
        Self {
            word: ControlWord::new(),
            buffers: Default::default(),
            eventfd: AtomicU64::new(0),
            asleep: loom::sync::Mutex::new(false),
        }
    }
}

/// The router's end, as in `queue/writer.rs`; counts messages where that counts bytes.
pub struct Writer {
    guess: Control,
    tail: usize,
    published: usize,
    /// Publications so far; the control word has the low bits.
    number: u64,
    /// Times that pending messages were moved to the other buffer.
    pub moves: usize,
}

impl Writer {
    pub fn new() -> Self {
        Self {
            guess: Control::EMPTY,
            tail: 0,
            published: 0,
            number: 0,
            moves: 0,
        }
    }

    /// One that has published these batches; message 1 for no wake-up if it is `silent`.
    fn publishing(queue: &Queue, batches: &[&[u32]], silent: bool) -> Self {
        let mut writer = Self::new();
        for &batch in batches {
            batch.iter().for_each(|&body| writer.append(queue, body));
            writer.publish(queue, !silent || batch != [1]);
        }
        writer
    }

    pub fn append(&mut self, queue: &Queue, body: u32) {
        queue.buffers[self.guess.index()][self.tail].set(body);
        self.tail += 1;
    }

    pub fn publish(&mut self, queue: &Queue, wakes: bool) {
        loop {
            let next = self.guess.published(self.tail * SIZE, false, !wakes);
            let next = next.numbered(self.number + 1);
            match queue.word.publish(self.guess, next) {
                Ok(()) => break self.published_as(queue, next),
                Err(actual) => self.adopt(queue, actual),
            }
        }
    }

    fn published_as(&mut self, queue: &Queue, next: Control) {
        if self.guess.is_armed() && !next.is_armed() {
            if self.guess.is_dozing() {
                *queue.asleep.lock().expect("no panic") = false;
            } else {
                // Release: a system call orders at least as much.
                queue.eventfd.fetch_add(1, Ordering::Release);
            }
        }
        self.guess = next;
        self.number += 1;
        self.published = self.tail;
    }

    fn adopt(&mut self, queue: &Queue, actual: Control) {
        let (from, to) = (self.guess.index(), actual.index());
        self.guess = actual;
        if from == to {
            return;
        }
        let pending = self.published..self.tail;
        self.tail = pending.len();
        self.published = 0;
        self.moves += 1;
        for (new, old) in pending.enumerate() {
            queue.buffers[to][new].set(queue.buffers[from][old].get());
        }
    }
}

/// The core's end, as in `queue/reader.rs`.
pub struct Reader {
    /// Whether arming goes wrong: by a store.
    arms_by_store: bool,
    front: usize,
    /// Messages of the front that were received last and so are still borrowed.
    held: Vec<u32>,
    received: Vec<u32>,
    flips: usize,
}

impl Reader {
    pub fn new(arms_by_store: bool) -> Self {
        Self {
            arms_by_store,
            front: 1,
            held: Vec::new(),
            received: Vec::new(),
            flips: 0,
        }
    }

    /// Receives everything; then the queue is armed.
    fn drain(&mut self, queue: &Queue) {
        loop {
            // Received messages stay valid until the next call: the buffer is ours until we flip.
            assert_eq!(self.held, self.read(queue, self.held.len()), "overwritten");
            let old = match self.flip_or_arm(queue) {
                Flip::Flipped(old) => old,
                Flip::Armed => return,
            };
            self.flips += 1;
            self.front = old.index();
            self.held = self.read(queue, old.tail() / SIZE);
            self.received.extend(&self.held);
        }
    }

    fn read(&self, queue: &Queue, count: usize) -> Vec<u32> {
        queue.buffers[self.front][..count]
            .iter()
            .map(Plain::get)
            .collect()
    }

    fn flip_or_arm(&self, queue: &Queue) -> Flip {
        let seen = queue.word.load();
        if self.arms_by_store && seen.tail() == 0 {
            store(&queue.word, seen.index() as u64 | ARMED);
            return Flip::Armed;
        }
        queue.word.flip_or_arm()
    }

    /// Receives, and sleeps whenever there is nothing, until no notification comes.
    pub fn run(&mut self, queue: &Queue) {
        loop {
            self.drain(queue);
            if queue.eventfd.swap(0, Ordering::Acquire) == 0 {
                return; // asleep, for all it can see
            }
        }
    }
}

/// How a core that dozes goes about it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Doze {
    AsItIs,
    /// Sleeps without asking whether the word is still the same.
    Blindly,
    /// Says that it dozes by a store.
    ByStore,
}

impl Reader {
    /// Receives, until there is nothing and it sleeps.
    fn doze(&mut self, queue: &Queue, how: Doze) {
        loop {
            self.drain(queue);
            let seen = match how {
                Doze::ByStore => {
                    let seen = queue.word.load();
                    store(&queue.word, u64::from(seen.low()) | DOZING);
                    Some(queue.word.load())
                }
                _ => queue.word.doze(),
            };
            let Some(seen) = seen else { continue };
            // The kernel compares and puts to sleep, as one step for who wakes.
            let mut asleep = queue.asleep.lock().expect("no panic");
            *asleep = how == Doze::Blindly || queue.word.load().low() == seen.low();
            if *asleep {
                return;
            }
            drop(asleep);
            let _unnoticed = queue.word.rise();
        }
    }
}

/// **Claim: a core that dozes is not left asleep with something unread, and one whose time is up finds
/// what has come.**
fn router_and_dozer(how: Doze, silent: bool) -> impl Fn() + Send + Sync {
    move || {
        let queue = Arc::new(Queue::new());
        let core = thread::spawn({
            let queue = queue.clone();
            move || {
                let mut reader = Reader::new(false);
                reader.doze(&queue, how);
                reader
            }
        });
        let _writer = Writer::publishing(&queue, &[&[1], &[2]], silent);
        let mut reader = core.join().expect("no panic");
        let asleep = *queue.asleep.lock().expect("no panic");
        let unread = queue.word.load().tail() > 0;
        assert!(!(asleep && unread), "lost wake-up");
        let _unnoticed = queue.word.rise();
        assert!(!queue.word.load().is_dozing());
        reader.drain(&queue);
        assert_eq!(reader.received, [1, 2], "lost, doubled or disordered");
    }
}

#[test]
fn a_core_that_dozes_is_woken() {
    for silent in [false, true] {
        holds("doze", AS_IT_IS, router_and_dozer(Doze::AsItIs, silent));
    }
}

#[test]
fn a_core_that_falls_asleep_without_comparing_is_not_woken() {
    let model = router_and_dozer(Doze::Blindly, false);
    fails("doze, blindly", AS_IT_IS, "lost wake-up", model);
}

#[test]
fn a_core_that_says_so_by_a_store_loses_messages() {
    let model = router_and_dozer(Doze::ByStore, false);
    fails("doze by store", AS_IT_IS, "lost wake-up", model);
}

/// Writes the word as no correct end does.
fn store(word: &ControlWord, value: u64) {
    // SAFETY: repr(C), and the atomic is its only field.
    let raw = unsafe { &*std::ptr::from_ref(word).cast::<AtomicU64>() };
    raw.store(value, Ordering::SeqCst);
}

/// **Claim: every message arrives once, in order and whole; the core never sleeps with something
/// unread and no notification under way; a buffer that was handed back is not being read; pending
/// messages are moved at most once per flip.**
///
/// The router publishes 1, then 2 and 3, then 4. The core receives until it finds nothing and no
/// notification. If 1 is `silent`, it is not worth a wake-up (as the answer of a leave is not): it
/// leaves the queue armed.
fn router_and_core(arms_by_store: bool, silent: bool) -> impl Fn() + Send + Sync {
    move || {
        let queue = Arc::new(Queue::new());
        let core = thread::spawn({
            let queue = queue.clone();
            move || {
                let mut reader = Reader::new(arms_by_store);
                reader.run(&queue);
                reader
            }
        });
        let writer = Writer::publishing(&queue, &[&[1], &[2, 3], &[4]], silent);
        let mut reader = core.join().expect("no panic");
        assert!(
            writer.moves <= reader.flips,
            "moved more than once per flip"
        );
        let asleep = queue.eventfd.swap(0, Ordering::Acquire) == 0;
        let unread = queue.word.load().tail() > 0;
        assert!(!(asleep && unread), "lost wake-up");
        reader.drain(&queue);
        assert_eq!(reader.received, [1, 2, 3, 4], "lost, doubled or disordered");
    }
}

#[test]
fn nothing_is_lost_between_router_and_core() {
    holds("control word", AS_IT_IS, router_and_core(false, false));
}

#[test]
fn what_is_published_silently_comes_with_the_next_wake_up() {
    holds("silent publish", AS_IT_IS, router_and_core(false, true));
}

#[test]
fn success_of_publish_needs_no_acquire() {
    let weaker: Weaker = &[("queue.publish", Ordering::Release)];
    holds("publish: Release", weaker, router_and_core(false, false));
}

#[test]
fn arming_by_a_store_loses_messages() {
    fails(
        "arm by store",
        AS_IT_IS,
        "lost",
        router_and_core(true, false),
    );
}

#[test]
fn without_release_at_publish_the_core_reads_half_a_message() {
    let weaker: Weaker = &[("queue.publish", Ordering::Relaxed)];
    fails("publish", weaker, RACE, router_and_core(false, false));
}

#[test]
fn without_acquire_at_the_flip_the_core_reads_half_a_message() {
    let weaker: Weaker = &[("queue.flip", Ordering::Release)];
    fails("flip: Release", weaker, RACE, router_and_core(false, false));
}

#[test]
fn without_release_at_the_flip_the_router_writes_what_is_being_read() {
    let weaker: Weaker = &[("queue.flip", Ordering::Acquire)];
    fails("flip: Acquire", weaker, RACE, router_and_core(false, false));
}

#[test]
fn without_acquire_at_the_failed_publish_the_router_writes_what_is_being_read() {
    let weaker: Weaker = &[("queue.publish_failed", Ordering::Relaxed)];
    fails(
        "publish failed",
        weaker,
        RACE,
        router_and_core(false, false),
    );
}

/// **Claim: a router that waits for room in a queue is told of the flip that makes it.**
///
/// The buffer is full and published. The router marks it full and goes to sleep; the core flips,
/// and rings if it finds the mark.
fn full_buffer(marks: bool) -> impl Fn() + Send + Sync {
    move || {
        let queue = Arc::new(Queue::new());
        let rung = Arc::new(AtomicU64::new(0));
        let mut writer = Writer::new();
        writer.append(&queue, 1);
        writer.publish(&queue, true);
        let core = thread::spawn({
            let (queue, rung) = (queue.clone(), rung.clone());
            move || {
                if matches!(queue.word.flip_or_arm(), Flip::Flipped(old) if old.is_full()) {
                    rung.fetch_add(1, Ordering::Release);
                }
            }
        });
        let marked = writer.guess.published(SIZE, marks, false);
        let asleep = queue.word.publish(writer.guess, marked).is_ok();
        core.join().expect("no panic");
        let told = rung.load(Ordering::Acquire) > 0;
        assert!(!asleep || told, "lost wake-up");
    }
}

#[test]
fn a_flip_that_makes_room_is_told() {
    holds("full", AS_IT_IS, full_buffer(true));
}

#[test]
fn a_flip_that_makes_room_is_not_told_to_a_router_that_did_not_ask() {
    fails(
        "full, unmarked",
        AS_IT_IS,
        "lost wake-up",
        full_buffer(false),
    );
}

/// **Claim: a successor makes exactly those publications that its predecessor recorded and did not
/// live to make, wherever the core has got to meanwhile.**
///
/// The first router publishes 1, appends 2, and dies before it publishes that, or after it
/// (`made`). The core receives all the while. The successor knows what was recorded (`Writer` as it
/// was then) and looks at the number in the control word, or (`looks` false) takes the publication
/// for not made.
fn succession(made: bool, looks: bool) -> impl Fn() + Send + Sync {
    move || {
        let queue = Arc::new(Queue::new());
        let core = thread::spawn({
            let queue = queue.clone();
            move || {
                let mut reader = Reader::new(false);
                reader.drain(&queue);
                reader.drain(&queue);
                reader
            }
        });
        let mut writer = Writer::new();
        writer.append(&queue, 1);
        writer.publish(&queue, true);
        writer.append(&queue, 2);
        let recorded = Writer { ..writer };
        if made {
            writer.publish(&queue, true);
        }
        resume(recorded, looks, &queue);
        let mut reader = core.join().expect("no panic");
        reader.drain(&queue);
        assert_eq!(reader.received, [1, 2], "lost or doubled");
    }
}

/// As in `queue/writer/resume.rs`.
fn resume(mut recorded: Writer, looks: bool, queue: &Queue) {
    let actual = queue.word.load();
    if looks && actual.carries(recorded.number + 1) {
        return;
    }
    recorded.adopt(queue, actual);
    recorded.publish(queue, true);
}

#[test]
fn a_successor_makes_up_for_a_publication_that_was_not_made() {
    holds("succession, not made", AS_IT_IS, succession(false, true));
}

#[test]
fn a_successor_does_not_repeat_a_publication_that_was_made() {
    holds("succession, made", AS_IT_IS, succession(true, true));
}

#[test]
fn a_successor_that_does_not_look_at_the_number_repeats_a_publication() {
    let model = succession(true, false);
    fails("succession, blind", AS_IT_IS, "lost or doubled", model);
}
