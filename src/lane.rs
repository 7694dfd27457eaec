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
//! # Runs
//! Between processors that are far from each other each line of the ring costs its sender 50 to 100 ns,
//! whatever is prefetched. So who streams messages alike, and is alone in it, writes them half as long: a
//! RUN record is a header with room for many bodies behind it, and each send publishes one body more.
//!
//! ```text
//!   [RUN: 250 x 16 bytes][body][body][body]......................
//!                              head        tail            end
//! ```
//! The router takes what is published of it as a pack, remembers the header, and goes on from the middle.
//! A sender that has something else to say first ends the run: it writes where into the word's line, before
//! it publishes what comes behind, and begins no other run until the router is beyond that place. The
//! router looks there after it has read the tail; an older end lies behind its head.
//!
//! Invariants: `head <= tail <= head + capacity`, both are byte positions that only grow (and may
//! pass 2^64, so differences count), multiples of 16; a record never wraps. Who writes: the core the
//! ring and its publish word; the router the head, and bits of that word by CAS (see `word`).

mod word;

#[cfg(not(loom))]
use crate::record::{ALIGN, HEADER, Header, kind, prefetch_write};
#[cfg(not(loom))]
use crate::sync::{AtomicU64, Ordering};
#[cfg_attr(loom, allow(unused_imports))] // the models use it, the library does not
pub(crate) use word::LaneWord;

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
    /// Up to here bytes can be claimed one behind the other: within the window, and free when we last
    /// looked at the head. Behind the tail where that is beyond the window.
    limit: u64,
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
        let mut new = Self {
            ring,
            capacity,
            window,
            tail,
            head: tail,
            limit: tail,
        };
        new.set_limit();
        new
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
        match self.claim_straight(size) {
            None => self.claim_slowly(size, head),
            claimed => claimed,
        }
    }

    /// The same where neither padding nor a look at the head is needed.
    #[inline]
    pub fn claim_straight(&mut self, size: usize) -> Option<*mut u8> {
        let (start, room) = self.straight();
        if (size as i64) > room {
            return None;
        }
        self.took(size);
        prefetch_write(start.wrapping_add(AHEAD));
        Some(start)
    }

    /// Where the next record goes, and how many bytes can be claimed there by [`Self::took`]
    /// alone: within the window, and free when we last looked at the head. Not positive: none.
    #[inline]
    pub fn straight(&self) -> (*mut u8, i64) {
        let offset = self.tail as usize & (self.capacity - 1);
        let room = self.limit.wrapping_sub(self.tail) as i64;
        (self.ring.wrapping_add(offset), room)
    }

    /// After the head has moved, or the tail other than by [`Self::took`].
    fn set_limit(&mut self) {
        let offset = self.tail & (self.capacity as u64 - 1);
        let free = self.capacity as u64 - self.tail.wrapping_sub(self.head);
        // Beyond the window lies what was too large for it.
        let room = (self.window as i64 - offset as i64).min(free as i64);
        self.limit = self.tail.wrapping_add(room as u64);
    }

    /// Claims the first `bytes` of what [`Self::straight`] gave.
    #[inline]
    pub fn took(&mut self, bytes: usize) {
        self.tail = self.tail.wrapping_add(bytes as u64);
    }

    /// Claims the next `step` bytes of a run, which has them.
    #[inline]
    pub fn append(&mut self, step: usize) -> *mut u8 {
        let (start, _) = self.straight();
        self.took(step);
        prefetch_write(start.wrapping_add(AHEAD));
        start
    }

    /// True when the router has given back what lies at `position`, as far as is known or `head` says.
    pub fn is_routed(&mut self, position: u64, head: &AtomicU64) -> bool {
        let is_routed = |w: &Self| w.head.wrapping_sub(position) as i64 > 0;
        if !is_routed(self) {
            self.look_at_head(head);
            self.set_limit();
        }
        is_routed(self)
    }

    /// The record of `size` bytes that was claimed last.
    pub fn before_tail(&self, size: usize) -> *mut u8 {
        let start = self.tail.wrapping_sub(size as u64);
        self.ring.wrapping_add(start as usize & (self.capacity - 1))
    }

    /// Gives back what has been claimed, and not been published, since the tail was `tail`.
    pub fn give_back(&mut self, tail: u64) {
        self.tail = tail;
        self.set_limit();
    }

    #[inline(never)]
    fn claim_slowly(&mut self, size: usize, head: &AtomicU64) -> Option<*mut u8> {
        let offset = self.tail as usize & (self.capacity - 1);
        let skip = self.skip(offset, size);
        if !self.has_room(skip + size, head) {
            self.set_limit();
            return None;
        }
        if skip > 0 {
            let pad = Header::new(kind::PAD, 0, 0, skip - ALIGN, 0);
            // SAFETY: offset < capacity, both multiples of 16, so a header fits; [tail, tail+skip)
            // is free (has_room) and ours.
            unsafe { pad.write(self.ring.add(offset)) };
        }
        self.took(skip + size);
        self.set_limit();
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
        self.look_at_head(head);
        fits(self)
    }

    fn look_at_head(&mut self, head: &AtomicU64) {
        // SYNC(lane.head): pairs with the router's store; it has read all below. SeqCst: a core
        // that waits looks here after it has set `waiting`, and the router reads that after its
        // store; one of the two must see the other.
        let fresh = head.load(Ordering::SeqCst);
        // A head beyond our tail or behind our last look is damage; ignoring it keeps us safe.
        if self.tail.wrapping_sub(fresh) <= self.tail.wrapping_sub(self.head) {
            self.head = fresh;
        }
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
    /// The run that the head is in.
    run: Option<Run>,
}

/// The rest of a run, as the router has claimed and checked it.
#[cfg(not(loom))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Of a pack of its messages.
    header: Header,
    /// Bytes from one message to the next.
    step: usize,
    /// Where it ends, unless it is cut before.
    end: u64,
}

#[cfg(not(loom))]
impl Run {
    /// What is to be known of a run beyond its lane's position `head` and context, in two words: below
    /// 2^28, and below 2^56. Zeroes: none.
    pub fn words(run: Option<Self>, head: u64) -> [u64; 2] {
        run.map_or([0; 2], |run| {
            let left = run.end.wrapping_sub(head) / ALIGN as u64;
            [
                left,
                run.header.ticket() << 8 | u64::from(run.header.flags()),
            ]
        })
    }

    /// The inverse.
    pub fn from_words([left, word]: [u64; 2], head: u64, channel: u32) -> Option<Self> {
        // No more than fits into a header, whatever there is.
        let (left, body) = ((left as u32 & !0 >> 4) * ALIGN as u32, word as u8);
        let header = Header::new(kind::PACK, body, channel, left as usize, word >> 8);
        let step = header.pack()?.step;
        Some(Self {
            header,
            step,
            end: head.wrapping_add(left.into()),
        })
    }
}

/// A record in a lane, its header loaded once and checked.
#[cfg(not(loom))]
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaneRecord {
    pub header: Header,
    /// `header.len()` readable bytes.
    pub payload: *const u8,
    /// Bytes that it takes in the lane.
    pub size: usize,
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
            run: None,
        }
    }

    /// The run that the head is in.
    #[inline]
    pub fn run(&self) -> Option<Run> {
        self.run
    }

    /// A successor: the head is in such a run.
    pub fn resume(&mut self, run: Option<Run>) {
        self.run = run;
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

    /// The record at the head, PADs skipped; None at the end of the snapshot. What has been published of
    /// a run is a pack.
    #[inline]
    pub fn peek(&mut self, word: &LaneWord) -> Result<Option<LaneRecord>, Violation> {
        while self.head != self.end {
            if let Some(run) = self.run {
                match self.of_run(run, word)? {
                    None => self.run = None,
                    some => return Ok(some),
                }
                continue;
            }
            let record = self.at_head()?;
            match record.header.kind() {
                kind::PAD => self.advance(record.size),
                kind::RUN => self.enter(record.header)?,
                _ => return Ok(Some(record)),
            }
        }
        Ok(None)
    }

    /// A run begins at the head.
    #[inline(never)]
    fn enter(&mut self, header: Header) -> Result<(), Violation> {
        let header = header.with_kind(kind::PACK);
        let step = header.pack().ok_or(Violation)?.step;
        self.advance(HEADER);
        self.run = Some(Run {
            header,
            step,
            end: self.head.wrapping_add(header.len() as u64),
        });
        Ok(())
    }

    /// What has been published of the run, and not been routed; None when it has ended.
    #[inline(never)]
    fn of_run(&mut self, mut run: Run, word: &LaneWord) -> Result<Option<LaneRecord>, Violation> {
        let (cut, left) = (word.run_cut(), run.end.wrapping_sub(self.head));
        // An older cut is behind the head.
        if cut.wrapping_sub(self.head) < left {
            run.end = cut;
            self.run = Some(run);
        }
        let left = run.end.wrapping_sub(self.head).min(self.unread()) as usize;
        if left == 0 {
            return Ok(None);
        }
        let bytes = left - left % run.step;
        let offset = self.head as usize & (self.capacity - 1);
        if bytes == 0 || offset + bytes > self.capacity {
            return Err(Violation);
        }
        Ok(Some(LaneRecord {
            header: run.header.with_len(bytes),
            payload: self.ring.wrapping_add(offset),
            size: bytes,
        }))
    }

    /// The bytes from the head to the end of the snapshot or of the ring: (start, length). The
    /// length is zero, as in a run, or at least a header.
    #[inline]
    pub fn span(&self) -> (*const u8, usize) {
        let offset = self.head as usize & (self.capacity - 1);
        let len = (self.unread() as usize).min(self.capacity - offset);
        let len = if self.run.is_some() { 0 } else { len };
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
        (self.head, self.run) = (self.end, None);
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
        // Of a run only what is published must be there, see `of_run`.
        let size = match header.kind() {
            kind::RUN => HEADER,
            _ => header.size(),
        };
        if size as u64 > self.unread() || offset + size > self.capacity {
            return Err(Violation);
        }
        Ok(LaneRecord {
            header,
            payload: at.wrapping_add(ALIGN),
            size,
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
        let record = r.peek(&LaneWord::new()).expect("a well-formed lane")?;
        // SAFETY: peek checked the length.
        let body = unsafe { std::slice::from_raw_parts(record.payload, record.header.len()) };
        r.advance(record.size);
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
            assert!(
                r.peek(&LaneWord::new()).is_err(),
                "length {len} reaches beyond the tail"
            );
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
