//! A queue in the ledger: what the router records of it before each publication, and how a
//! successor goes on from there.
//!
//! ```text
//!  word 0   messages published | bytes published        in the back buffer, before
//!       1   messages pending   | bytes pending          what the publication adds
//!       2   losses told by what is published
//!       3   losses told by what is pending
//!       4   losses not told yet
//!       5   operations of the core answered
//!       6   publication (28 bits) | bytes of the front / 16 (28 bits) | full | owes a SYNC | index
//!                                                     as the publication leaves them
//! ```
//! The publication is one compare-and-swap of the control word, which counts it. What became of
//! it, a successor reads off the word:
//!
//! | the word carries | back buffer | then |
//! |---|---|---|
//! | the publication before | as recorded | all is there; publish |
//! | | the other one | the core took what was published; the rest moves over; publish |
//! | this publication | as recorded, tail > 0 | published, not yet taken |
//! | | the other one, tail > 0 | the core had flipped first: only the rest is there |
//! | | tail 0 | the core has taken everything |
//! | the publication after | | what was there has been discarded: it is lost, and owed |
//!
//! What the queue has pinned in the arena is read off the references in its buffers: in the back all
//! of it; in the front as far as it can have been filled, which may be more than the core still
//! reads. Granules pinned in vain are free again when the core flips or arms.
//!
//! The bytes that have to move are intact: they lie in the core's front beyond the tail it took,
//! and it cannot flip again before something is published.

use super::{Content, Control, QueueWriter};
use crate::arena::Arena;
use crate::ledger::{Words, pack, unpack};
use crate::record::{HEADER, Header, Placed, kind};

const INDEX: u64 = 1;
const OWES_SYNC: u64 = 2;
const FULL: u64 = 4;
const FRONT_SHIFT: u32 = 8;
const FRONT_MASK: u64 = (1 << 28) - 1;
const PUBLICATION_SHIFT: u32 = 36;

impl QueueWriter {
    /// Writes what the next publication will leave into the ledger, as part of `transaction`.
    #[inline]
    pub fn record(&mut self, transaction: u64) {
        let flag = |on: bool, bit: u64| if on { bit } else { 0 };
        let words = [
            pack(self.published.bytes as u32, self.published.messages),
            pack(self.pending.bytes as u32, self.pending.messages),
            self.published.lost,
            self.pending.lost,
            self.lost,
            self.ops_done,
            (self.publication + 1) << PUBLICATION_SHIFT
                | (self.front as u64 / 16) << FRONT_SHIFT
                | flag(self.full, FULL)
                | flag(self.owes_sync, OWES_SYNC)
                | self.guess.index() as u64,
        ];
        self.account.write(transaction, words);
    }

    /// Goes on where a dead predecessor has stopped. What it had recorded and not published is
    /// pending afterwards; see the table above.
    pub(super) fn resume(&mut self, state: Words, arena: &mut Arena) {
        let actual = self.word.load();
        (self.lost, self.ops_done) = (state[4], state[5]);
        self.owes_sync = state[6] & OWES_SYNC != 0;
        self.full = state[6] & FULL != 0;
        self.published = content(state[0], state[2]);
        self.pending = content(state[1], state[3]);
        if !self.is_possible() {
            return self.give_up(actual);
        }
        self.tail = self.published.bytes + self.pending.bytes;
        let front = self.filled_front(state[6], actual);
        self.guess = actual;
        self.wants_wake = true; // a wake-up too many harms nobody
        self.resume_back(state[6], actual);
        self.front = if actual.is_armed() { 0 } else { front };
        self.pin_again(arena);
    }

    /// Bytes of the front that can have been filled.
    fn filled_front(&self, state: u64, actual: Control) -> usize {
        if actual.index() as u64 != state & INDEX {
            return self.tail; // what was the back
        }
        let recorded = (state >> FRONT_SHIFT & FRONT_MASK) as usize * 16;
        // Or the core has flipped, the rest came after that, and it has flipped again.
        recorded.max(self.pending.bytes).min(self.capacity)
    }

    /// What became of the recorded publication.
    fn resume_back(&mut self, state: u64, actual: Control) {
        let publication = state >> PUBLICATION_SHIFT;
        let flipped = actual.index() as u64 != state & INDEX;
        self.publication = publication.wrapping_sub(1);
        if actual.carries(self.publication) {
            if flipped {
                self.move_pending(actual.index());
            }
        } else if actual.carries(publication) {
            self.publication = publication;
            self.is_published(flipped);
            if actual.tail() == 0 {
                self.back_is_empty(); // taken
            }
        } else if actual.carries(publication.wrapping_add(1)) {
            self.publication = publication.wrapping_add(1);
            self.is_published(flipped);
            self.lost += self.published.all_lost();
            self.owes_sync = true;
            self.back_is_empty();
        } else {
            self.give_up(actual);
        }
    }

    /// Pins what the buffers refer to, and weighs it.
    fn pin_again(&mut self, arena: &mut Arena) {
        let (back, published) = (self.guess.index(), self.published.bytes);
        self.published.weight = published + self.pin_part(back, 0, published, arena);
        self.pins[back].publish();
        self.pending.weight = self.pending.bytes + self.pin_part(back, published, self.tail, arena);
        self.pin_part(back ^ 1, 0, self.front, arena);
        self.pins[back ^ 1].publish();
    }

    /// Pins what the records in a part of a buffer refer to, as far as there are records. Returns
    /// by how many bytes it is more than the references.
    fn pin_part(&mut self, buffer: usize, mut at: usize, end: usize, arena: &mut Arena) -> usize {
        let mut more = 0;
        while at + HEADER <= end {
            // SAFETY: a header lies before `end`, which is within the buffer; the router alone
            // writes there, and positions are multiples of 16.
            let header = unsafe { Header::read(self.buffers[buffer].add(at)) };
            let (span, own) = match header.kind() {
                kind::REFERENCE => (header.span(), HEADER),
                kind::PLACED if header.len() == Placed::BYTES && at + 2 * HEADER <= end => {
                    // SAFETY: as above, the payload too.
                    let placed = unsafe { Placed::read(self.buffers[buffer].add(at + HEADER)) };
                    (placed.span(), Placed::BYTES)
                }
                _ => {
                    at = at.saturating_add(header.size());
                    continue;
                }
            };
            // One that finds no place any more lies beyond what the core can still read.
            if arena.contains(span) && !self.pins[buffer].is_full() {
                self.pins[buffer].push(arena, span.extent());
                more += span.len.saturating_sub(own);
            }
            at = at.saturating_add(header.size());
        }
        more
    }

    /// The recorded publication was made, after the core had `flipped` the buffers or before.
    fn is_published(&mut self, flipped: bool) {
        let pending = std::mem::take(&mut self.pending);
        if flipped {
            self.published = Content::default();
            self.full = false;
        }
        self.published.add(pending);
        self.tail = self.published.bytes;
    }

    /// Whole records that fit into a buffer.
    fn is_possible(&self) -> bool {
        let (a, b) = (self.published.bytes, self.pending.bytes);
        a % 16 == 0 && b % 16 == 0 && a.saturating_add(b) <= self.capacity
    }

    /// The ledger or the word is damaged: starts anew behind whatever the core makes of it.
    fn give_up(&mut self, actual: Control) {
        self.guess = actual;
        self.back_is_empty();
        self.is_damaged = true;
    }
}

fn content(counts: u64, lost: u64) -> Content {
    let (bytes, messages) = unpack(counts);
    Content {
        bytes: bytes as usize,
        weight: bytes as usize,
        messages,
        lost,
    }
}
