//! The arena: a block that a queue refers to is written again only when the core has done with it.

use std::sync::Arc;

use loom::thread;

use super::{AS_IT_IS, Plain, RACE, Weaker, fails, holds};
use crate::queue::{Control, ControlWord, Flip};
use crate::sync::Ordering;

/// Bytes of a reference: the unit of the tail.
const SIZE: usize = 16;

pub(super) struct Queue {
    pub word: ControlWord,
    /// What both publications can refer to.
    pub block: Plain<u32>,
}

/// The router's end, as in `queue/writer.rs`, with one reference at most in each buffer.
pub(super) struct Writer {
    guess: Control,
    number: u64,
    tail: usize,
    /// By buffer: it refers to the block.
    pub pins: [bool; 2],
    /// Whether the buffer that is pending refers to it.
    pending: bool,
}

impl Writer {
    pub fn new() -> Self {
        Self {
            guess: Control::EMPTY,
            number: 0,
            tail: 0,
            pins: [false; 2],
            pending: false,
        }
    }

    /// Publishes one more record, which refers to the block or not.
    pub fn publish(&mut self, queue: &Queue, refers: bool) {
        self.tail += SIZE;
        self.pending = refers;
        loop {
            let next = self.guess.published(self.tail, false, true);
            match queue
                .word
                .publish(self.guess, next.numbered(self.number + 1))
            {
                Ok(()) => {
                    self.guess = next.numbered(self.number + 1);
                    self.number += 1;
                    self.pins[self.guess.index()] |= std::mem::take(&mut self.pending);
                    return;
                }
                Err(actual) => self.adopt(actual, SIZE),
            }
        }
    }

    fn adopt(&mut self, actual: Control, pending: usize) {
        if actual.index() != self.guess.index() {
            self.pins[actual.index()] = false;
            self.tail = pending;
        }
        if actual.is_armed() {
            self.pins[actual.index() ^ 1] = false;
        }
        self.guess = actual;
    }

    /// As when the arena is full: what has the core done with?
    pub fn refresh(&mut self, queue: &Queue) {
        let actual = queue.word.load();
        self.adopt(actual, 0);
    }
}

/// The core's end, as in `queue/reader.rs`: reads what the front refers to until it flips or arms.
pub(super) fn receive(queue: &Queue, flips: usize) {
    for _ in 0..flips {
        match queue.word.flip_or_arm() {
            Flip::Armed => {}
            Flip::Flipped(_) => {
                // Whichever of the two it is, it stays so while it is borrowed.
                let first = queue.block.get();
                assert_eq!(queue.block.get(), first, "overwritten");
            }
        }
    }
}

/// **Claim: what a core reads in the arena is not being written: the block is used again only after
/// the core's word has shown that it has flipped away from it, or armed.**
///
/// The router writes the block and publishes a reference to it, then a record without one. It then
/// looks at the word, and writes the block again if nothing refers to it any more, or (`hasty`) in
/// any case. The core flips and reads, up to three times.
fn reuse(hasty: bool) -> impl Fn() + Send + Sync {
    move || {
        let queue = Arc::new(Queue {
            word: ControlWord::new(),
            block: Plain::default(),
        });
        queue.block.set(1);
        let mut writer = Writer::new();
        writer.publish(&queue, true);
        let core = thread::spawn({
            let queue = queue.clone();
            move || {
                receive(&queue, 1);
                // The second publication refers to nothing: it is taken, and nothing is read.
                let _ = queue.word.flip_or_arm();
                let _ = queue.word.flip_or_arm();
            }
        });
        writer.publish(&queue, false);
        writer.refresh(&queue);
        if hasty || !writer.pins.contains(&true) {
            queue.block.set(2);
        }
        core.join().expect("no panic");
    }
}

#[test]
fn a_block_is_written_again_only_when_it_has_been_read() {
    holds("arena", AS_IT_IS, reuse(false));
}

#[test]
fn a_block_written_again_without_looking_is_being_read() {
    fails("arena, hasty", AS_IT_IS, RACE, reuse(true));
}

#[test]
fn without_release_at_the_flip_a_block_is_written_while_it_is_read() {
    let weaker: Weaker = &[("queue.flip", Ordering::Acquire)];
    fails("arena, flip: Acquire", weaker, RACE, reuse(false));
}

#[test]
fn without_acquire_at_the_look_a_block_is_written_while_it_is_read() {
    let weaker: Weaker = &[("queue.load", Ordering::Relaxed)];
    fails("arena, look", weaker, RACE, reuse(false));
}
