//! Lanes: one single-producer single-consumer ring of records per core.
//!
//! Together the lanes of a hub are its logical ring; the ticket in each record gives the order.
//! A lane has one producer, so a sender that dies leaves nothing half-published: bytes beyond the
//! published tail do not exist for the router.
//!
//! ```text
//!            head (router)             tail (publish word)
//!              |                          |
//!   ...free... [record][record][record]...|....free....|PAD -> offset 0
//!   0                                          window                       capacity
//! ```
//!
//! The ring is large enough for the largest message, but a lane normally cycles through its first
//! `window` bytes only: the producer skips to the start with a PAD record when it would leave the
//! window. So small messages keep few pages and few cache lines busy.
//!
//! Invariants: `head <= tail <= head + capacity`, both are byte positions that only grow (and may
//! pass 2^64, so differences count), multiples of 16; a record never wraps. Who writes: the core its publish word and the ring; the router the
//! head, and the armed bit by CAS.
//!
//! # Bias
//! The swap that publishes waits until all that was just written has left the store buffer, which
//! makes it most of a send. It must be one, because a store could wipe out an armed bit set meanwhile.
//! So while a lane streams, the router biases it towards its sender: it says that it will not arm the
//! lane before it has revoked that, and the sender publishes by a plain store. To revoke it the router
//! takes its word back, then calls [`barrier::heavy`], then looks at the tail again and may arm. The
//! sender stores its tail, then looks whether the router's word still stands: either the router sees
//! that tail, or the sender sees that it does not, takes the swap again, and rings at once: its store
//! may have wiped out the bit.
//!
//! A send that has published by a store has returned when its tail may still be in the store buffer.
//! What the sender does next is behind it there, so whoever can tell that the send has returned finds
//! the tail in place.

use crate::barrier;
#[cfg(not(loom))]
use crate::record::{ALIGN, Header, kind, prefetch_write};
use crate::sync::{AtomicU64, Ordering, order};

/// The word by which a core publishes its records.
///
/// ```text
///  63                                       4    3 2     1        0
/// +------------------------------------------+------+---------+-------+
/// | tail / 16 (the low four bits are zero)   | zero | waiting | armed |
/// +------------------------------------------+------+---------+-------+
/// ```
/// * armed: the router found this lane empty and will not look at it again until its doorbell
///   rings. Set by the router's CAS, cleared by the core's publish.
/// * waiting: the core sleeps until its `event` word changes (lane full, or an answer awaited).
///   Set by the core, cleared by the router before it wakes the core.
///
/// The second word is what the router and the owner have agreed on: [`NO_BIAS`] of an owner whose
/// process does not answer to barriers, [`UNBIASED`], [`BIASED`], or [`EAGER`]: not biased, but whoever
/// rings may make it so. Written by both.
#[repr(C, align(128))]
#[derive(Debug)]
pub(crate) struct LaneWord(AtomicU64, AtomicU64);

const ARMED: u64 = 1;
const WAITING: u64 = 2;
const FLAGS: u64 = 15;

const NO_BIAS: u64 = 0;
const UNBIASED: u64 = 1;
const BIASED: u64 = 2;
const EAGER: u64 = 3;

/// What the router read from a [`LaneWord`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Published(u64);

impl Published {
    /// The tail: bytes, monotonic.
    #[inline]
    pub fn tail(self) -> u64 {
        self.0 & !FLAGS
    }

    #[inline]
    pub fn is_waiting(self) -> bool {
        self.0 & WAITING != 0
    }
}

impl LaneWord {
    #[cfg(any(test, loom))]
    pub fn new() -> Self {
        Self(AtomicU64::new(ARMED), AtomicU64::new(UNBIASED))
    }

    /// Core: publishes everything below `tail`; true when the doorbell must be rung.
    #[inline]
    #[must_use]
    pub fn publish(&self, tail: u64) -> bool {
        // SYNC(lane.publish): pairs with `read`; publishes the records. A swap, not a store: it
        // must see the armed bit, and a store could overwrite one set meanwhile. SeqCst: ordered
        // after the ticket's draw and before the send's return, see `ticket`.
        self.0.swap(tail, order("lane.publish", Ordering::SeqCst)) & ARMED != 0
    }

    /// Core, if the lane was biased when it last looked: publishes everything below `tail`; false when
    /// the lane is no longer biased, and the doorbell must be rung.
    #[inline]
    #[must_use]
    pub fn publish_biased(&self, tail: u64) -> bool {
        // SYNC(lane.store): pairs with `read`; publishes the records. Release: whoever can tell that
        // the send has returned, by what this core does next, finds this store done. The processors
        // that we know have one order of stores for all observers (x86, ARMv8), so a later load of the
        // counter of tickets by such a one is behind it too, as `ticket` asks; the language has no
        // words for that.
        self.0.store(tail, order("lane.store", Ordering::Release));
        barrier::light();
        self.is_biased()
    }

    /// Core that is about to ring: biases the lane, if it is eager; true then. Until the router has
    /// heard the bell it cannot arm the lane for good, and once it has, it sees this.
    pub fn take_bias(&self) -> bool {
        // Relaxed, twice: the bell orders the store, see above. The router does not take EAGER back.
        let may = self.1.load(Ordering::Relaxed) == EAGER;
        if may {
            self.1.store(BIASED, Ordering::Relaxed);
        }
        may
    }

    /// True while the router will not arm the lane.
    #[inline]
    pub fn is_biased(&self) -> bool {
        // Relaxed: pairs with `revoke` by the barriers on both sides. Nothing is read through it.
        self.1.load(Ordering::Relaxed) == BIASED
    }

    /// A new owner: whether its process answers to barriers.
    pub fn offer_bias(&self, answers: bool) {
        let offer = if answers { UNBIASED } else { NO_BIAS };
        // Relaxed: the router looks after it has heard the bell.
        self.1.store(offer, Ordering::Relaxed);
    }

    /// Router: says that it will not arm the lane, which is not armed; false when its owner could not
    /// hear that this has ended.
    pub fn bias(&self) -> bool {
        // Relaxed, twice: whoever reads an old word goes on with the swap.
        let can = self.1.load(Ordering::Relaxed) != NO_BIAS;
        if can {
            self.1.store(BIASED, Ordering::Relaxed);
        }
        can
    }

    /// Router: takes that back. The lane may be armed after the next [`barrier::heavy`]. If `eager`, the
    /// owner may bias it again when it rings.
    pub fn revoke(&self, eager: bool) {
        let to = if eager { EAGER } else { UNBIASED };
        // Relaxed: ordered by that barrier, see `publish_biased`.
        self.1.store(to, Ordering::Relaxed);
    }

    /// Router: what has been published.
    #[inline]
    pub fn read(&self) -> Published {
        // SYNC(lane.read): pairs with `publish`. SeqCst: ordered after the router's cut.
        Published(self.0.load(order("lane.read", Ordering::SeqCst)))
    }

    /// Router: arms the lane if nothing beyond `seen` has been published and nobody waits; true
    /// also when it is armed already, as the lane of an owner that has not published yet is.
    #[inline]
    #[must_use]
    pub fn arm(&self, seen: u64) -> bool {
        // SYNC(lane.arm): pairs with the swap in `publish`: one of the two sees the other. SeqCst
        // also orders it after our store of the head: a producer that then finds the lane full
        // and sets `waiting` re-reads the head after its RMW on this word.
        let old = self.0.compare_exchange(
            seen,
            seen | ARMED,
            order("lane.arm", Ordering::SeqCst),
            // Relaxed: the lane stays active and is read again, or it is armed, and whoever
            // publishes next finds that and rings.
            Ordering::Relaxed,
        );
        old.is_ok() || old == Err(seen | ARMED)
    }

    /// Core: asks to be woken when the head moves or an answer is there.
    pub fn set_waiting(&self) {
        // SYNC(lane.waiting): pairs with `arm` and `take_waiting`; the caller re-checks its
        // condition after this RMW and before it sleeps.
        self.0
            .fetch_or(WAITING, order("lane.waiting", Ordering::SeqCst));
    }

    /// Router: clears the waiting bit before waking the core; true when it was set.
    pub fn take_waiting(&self) -> bool {
        // SYNC(lane.waiting): as above; ordered after the store of the head or the answer.
        self.0
            .fetch_and(!WAITING, order("lane.take_waiting", Ordering::SeqCst))
            & WAITING
            != 0
    }

    /// A new owner of the slot, or the router after reaping: where the lane stands.
    pub fn tail(&self) -> u64 {
        self.read().tail()
    }

    /// Router, with no live producer: leaves the lane empty at `tail` and armed.
    pub fn reset(&self, tail: u64) {
        // Relaxed: before the store that follows.
        self.1.store(NO_BIAS, Ordering::Relaxed);
        // SYNC(lane.reset): pairs with the next owner's Acquire of the slot word.
        self.0.store(tail | ARMED, Ordering::Release);
    }
}

/// How far ahead of the record being written its producer asks for the ring's cache lines, bytes.
/// The router had them last, and publishing waits until they have come back.
#[cfg(not(loom))]
pub(crate) const AHEAD: usize = 256;

/// The producer's end: lives in the core's own memory.
#[cfg(not(loom))]
#[derive(Debug)]
pub(crate) struct LaneWriter {
    ring: *mut u8,
    /// Bytes, a power of two, at least twice the largest record.
    capacity: usize,
    /// Bytes that a lane of small records cycles through; at most `capacity`.
    window: usize,
    /// Where the next record goes; at or beyond the published tail.
    tail: u64,
    /// The router's head when we last looked; never beyond it.
    head: u64,
}

#[cfg(not(loom))]
impl LaneWriter {
    /// The end of the lane whose ring is `capacity` bytes at `ring`, empty at `tail`.
    ///
    /// # Safety
    /// `ring` is writable for `capacity` bytes, 16-byte aligned, outlives the writer, and no other
    /// process writes it while this writer exists (the slot word makes this core its owner).
    pub unsafe fn new(ring: *mut u8, capacity: usize, window: usize, tail: u64) -> Self {
        debug_assert!(capacity.is_power_of_two() && window <= capacity);
        Self {
            ring,
            capacity,
            window,
            tail,
            head: tail,
        }
    }

    /// The position behind the last claimed record.
    #[inline]
    pub fn tail(&self) -> u64 {
        self.tail
    }

    /// Claims `size` contiguous bytes (a multiple of 16); None when the lane is full. What is
    /// claimed becomes visible with the next `publish` of [`Self::tail`].
    #[inline]
    pub fn claim(&mut self, size: usize, head: &AtomicU64) -> Option<*mut u8> {
        let (start, room) = self.straight();
        if size <= room {
            self.took(size);
            prefetch_write(start.wrapping_add(AHEAD));
            return Some(start);
        }
        self.claim_slowly(size, head)
    }

    /// Where the next record goes, and how many bytes can be claimed there by [`Self::took`]
    /// alone: within the window, and free when we last looked at the head.
    #[inline]
    pub fn straight(&self) -> (*mut u8, usize) {
        let offset = self.tail as usize & (self.capacity - 1);
        let free = self.capacity - self.tail.wrapping_sub(self.head) as usize;
        // Beyond the window lies what was too large for it.
        let room = self.window.saturating_sub(offset).min(free);
        (self.ring.wrapping_add(offset), room)
    }

    /// Claims the first `bytes` of what [`Self::straight`] gave.
    #[inline]
    pub fn took(&mut self, bytes: usize) {
        self.tail = self.tail.wrapping_add(bytes as u64);
    }

    /// Gives back what has been claimed, and not been published, since the tail was `tail`.
    pub fn give_back(&mut self, tail: u64) {
        self.tail = tail;
    }

    #[inline(never)]
    fn claim_slowly(&mut self, size: usize, head: &AtomicU64) -> Option<*mut u8> {
        let offset = self.tail as usize & (self.capacity - 1);
        let skip = self.skip(offset, size);
        if !self.has_room(skip + size, head) {
            return None;
        }
        if skip > 0 {
            let pad = Header::new(kind::PAD, 0, 0, skip - ALIGN, 0);
            // SAFETY: offset < capacity, both multiples of 16, so a header fits; [tail, tail+skip)
            // is free (has_room) and ours.
            unsafe { pad.write(self.ring.add(offset)) };
        }
        self.took(skip + size);
        let start = if skip > 0 { 0 } else { offset };
        // SAFETY: skip() made start + size <= capacity.
        Some(unsafe { self.ring.add(start) })
    }

    /// Bytes to pad so that a record of `size` does not wrap and stays in the window if it can.
    #[inline]
    fn skip(&self, offset: usize, size: usize) -> usize {
        // A record of more than half a window must be allowed beyond it: padding to the start
        // could otherwise need more room than an empty lane has.
        let end = if size <= self.window / 2 {
            self.window
        } else {
            self.capacity
        };
        if offset + size <= end {
            0
        } else {
            self.capacity - offset
        }
    }

    #[inline]
    fn has_room(&mut self, needed: usize, head: &AtomicU64) -> bool {
        let fits = |w: &Self| w.tail.wrapping_sub(w.head) as usize + needed <= w.capacity;
        if fits(self) {
            return true;
        }
        // SYNC(lane.head): pairs with the router's store; it has read all below. SeqCst: a core
        // that waits looks here after it has set `waiting`, and the router reads that after its
        // store; one of the two must see the other.
        let fresh = head.load(Ordering::SeqCst);
        // A head beyond our tail or behind our last look is damage; ignoring it keeps us safe.
        if self.tail.wrapping_sub(fresh) <= self.tail.wrapping_sub(self.head) {
            self.head = fresh;
        }
        fits(self)
    }
}

/// Why the router stopped trusting a lane.
#[cfg(not(loom))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Violation;

/// The router's end of one lane: in the router's own memory, what it trusts.
#[cfg(not(loom))]
#[derive(Debug)]
pub(crate) struct LaneReader {
    ring: *const u8,
    capacity: usize,
    /// Everything below has been routed.
    head: u64,
    /// Snapshot of the published tail: `head <= end <= head + capacity`.
    end: u64,
}

/// A record in a lane, its header loaded once and checked.
#[cfg(not(loom))]
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaneRecord {
    pub header: Header,
    /// `header.len()` readable bytes.
    pub payload: *const u8,
}

#[cfg(not(loom))]
impl LaneReader {
    /// # Safety
    /// `ring` is readable for `capacity` bytes, 16-byte aligned, and outlives the reader.
    pub unsafe fn new(ring: *const u8, capacity: usize, head: u64) -> Self {
        Self {
            ring,
            capacity,
            head,
            end: head,
        }
    }

    #[inline]
    pub fn head(&self) -> u64 {
        self.head
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.head == self.end
    }

    /// Takes a published tail as the new end, if it can be one.
    #[inline]
    pub fn extend(&mut self, tail: u64) -> Result<(), Violation> {
        let ahead = tail.wrapping_sub(self.head);
        if ahead > self.capacity as u64 || tail.wrapping_sub(self.end) > self.capacity as u64 {
            return Err(Violation);
        }
        self.end = tail;
        Ok(())
    }

    /// The record at the head, PADs skipped; None at the end of the snapshot.
    #[inline]
    pub fn peek(&mut self) -> Result<Option<LaneRecord>, Violation> {
        while self.head != self.end {
            let record = self.at_head()?;
            if record.header.kind() != kind::PAD {
                return Ok(Some(record));
            }
            self.advance(record.header.size());
        }
        Ok(None)
    }

    /// The bytes from the head to the end of the snapshot or of the ring: (start, length). The
    /// length is zero or at least a header.
    #[inline]
    pub fn span(&self) -> (*const u8, usize) {
        let offset = self.head as usize & (self.capacity - 1);
        let len = (self.unread() as usize).min(self.capacity - offset);
        (self.ring.wrapping_add(offset), len)
    }

    /// Steps over a record of `size` bytes that `peek` returned, or over records in `span`.
    #[inline]
    pub fn advance(&mut self, size: usize) {
        debug_assert!(size as u64 <= self.unread());
        self.head = self.head.wrapping_add(size as u64);
    }

    /// A reader of its own, to look at what lies ahead without stepping over it.
    pub fn ahead(&self) -> Self {
        Self { ..*self }
    }

    /// Gives up what has been published and not been routed, whatever it holds.
    pub fn give_up(&mut self) {
        self.head = self.end;
    }

    /// Bytes of the snapshot that have not been routed.
    #[inline]
    fn unread(&self) -> u64 {
        self.end.wrapping_sub(self.head)
    }

    #[inline]
    fn at_head(&self) -> Result<LaneRecord, Violation> {
        let offset = self.head as usize & (self.capacity - 1);
        // SAFETY: offset < capacity and both are multiples of 16, so a header fits.
        let at = unsafe { self.ring.add(offset) };
        // SAFETY: as above. The producer may misbehave and write here; the header is loaded once.
        let header = unsafe { Header::read(at) };
        let size = header.size();
        if size as u64 > self.unread() || offset + size > self.capacity {
            return Err(Violation);
        }
        Ok(LaneRecord {
            header,
            payload: at.wrapping_add(ALIGN),
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::record::size_of_record;
    use crate::sync::AtomicU64;

    #[repr(align(16))]
    struct Ring([u8; 1024]);

    fn lane(ring: &mut Ring, window: usize) -> (LaneWriter, LaneReader) {
        let base = ring.0.as_mut_ptr();
        // SAFETY: the ring outlives both ends in every test here and nobody else touches it.
        unsafe {
            (
                LaneWriter::new(base, 1024, window, 0),
                LaneReader::new(base, 1024, 0),
            )
        }
    }

    fn push(w: &mut LaneWriter, head: &AtomicU64, body: &[u8]) -> bool {
        let Some(at) = w.claim(size_of_record(body.len()), head) else {
            return false;
        };
        // SAFETY: claim gave us room for header and body.
        unsafe {
            Header::new(kind::MESSAGE, 0, 1, body.len(), 0).write(at);
            std::ptr::copy_nonoverlapping(body.as_ptr(), at.add(ALIGN), body.len());
        }
        true
    }

    fn pop(r: &mut LaneReader, head: &AtomicU64) -> Option<Vec<u8>> {
        let record = r.peek().expect("a well-formed lane")?;
        // SAFETY: peek checked the length.
        let body = unsafe { std::slice::from_raw_parts(record.payload, record.header.len()) };
        r.advance(record.header.size());
        head.store(r.head(), Ordering::Release);
        Some(body.to_vec())
    }

    #[test]
    fn records_come_out_as_they_went_in_over_many_laps() {
        let mut ring = Ring([0; 1024]);
        let (mut w, mut r) = lane(&mut ring, 256);
        let head = AtomicU64::new(0);
        for lap in 0..1000usize {
            // Sizes up to half the ring, the largest that is promised to fit.
            let body = vec![lap as u8; lap * 7 % 490];
            assert!(push(&mut w, &head, &body), "lap {lap}");
            r.extend(w.tail()).expect("valid tail");
            assert_eq!(pop(&mut r, &head), Some(body));
            assert_eq!(pop(&mut r, &head), None);
        }
    }

    #[test]
    fn small_records_stay_in_the_window() {
        let mut ring = Ring([0xee; 1024]);
        let (mut w, mut r) = lane(&mut ring, 256);
        let head = AtomicU64::new(0);
        for lap in 0..100u8 {
            assert!(push(&mut w, &head, &[lap; 20]));
            r.extend(w.tail()).expect("valid tail");
            assert_eq!(pop(&mut r, &head), Some(vec![lap; 20]));
        }
        assert!(ring.0[256 + ALIGN..].iter().all(|&b| b == 0xee));
    }

    #[test]
    fn full_lane_refuses_and_leaves_tail_unchanged() {
        let mut ring = Ring([0; 1024]);
        let (mut w, mut r) = lane(&mut ring, 1024);
        let head = AtomicU64::new(0);
        while push(&mut w, &head, &[1; 16]) {}
        let tail = w.tail();
        assert!(!push(&mut w, &head, &[2; 16]));
        assert_eq!(w.tail(), tail);
        r.extend(tail).expect("valid tail");
        assert!(pop(&mut r, &head).is_some());
        assert!(push(&mut w, &head, &[3; 16]), "room is back");
    }

    #[test]
    fn impossible_tails_and_lengths_are_violations() {
        let mut ring = Ring([0; 1024]);
        let (mut w, mut r) = lane(&mut ring, 1024);
        let head = AtomicU64::new(0);
        assert_eq!(r.extend(1040), Err(Violation), "more than a ring ahead");
        assert!(push(&mut w, &head, &[1; 16]));
        r.extend(w.tail()).expect("valid tail");
        assert_eq!(r.extend(16), Err(Violation), "a tail that moves back");
        for len in [17, 4096, u32::MAX as usize] {
            // SAFETY: the first record's header is there.
            unsafe { Header::new(kind::MESSAGE, 0, 1, len, 0).write(ring.0.as_mut_ptr()) };
            assert!(r.peek().is_err(), "length {len} reaches beyond the tail");
        }
    }

    #[test]
    fn a_bias_is_given_taken_back_and_taken_again() {
        let word = LaneWord::new();
        word.reset(0);
        assert!(!word.bias(), "nobody has said that it answers to barriers");
        word.offer_bias(true);
        assert!(!word.take_bias(), "only where it was given before");
        assert!(word.publish(32) && word.bias() && word.is_biased());
        assert!(word.publish_biased(64));
        assert_eq!(word.tail(), 64);
        word.revoke(true);
        assert!(!word.publish_biased(96), "must ring");
        assert!(word.take_bias() && word.is_biased());
        word.revoke(false);
        assert!(!word.take_bias() && word.arm(96));
        word.reset(96);
        assert!(!word.is_biased() && !word.bias());
    }

    #[test]
    fn arming_fails_when_something_was_published_and_publish_reports_it() {
        let word = LaneWord::new();
        assert!(word.publish(32), "a fresh lane is armed");
        assert!(!word.publish(64));
        assert!(!word.arm(32));
        assert!(word.arm(64));
        assert!(word.publish(96));
        word.set_waiting();
        assert!(!word.arm(96), "a waiting core must be woken first");
        assert!(word.take_waiting() && !word.take_waiting());
        assert!(word.arm(96));
    }
}
