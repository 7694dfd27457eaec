//! Records: the variable-length frames that travel through lanes and queues.
//!
//! ```text
//!  63        52 51          32 31                            0
//! +------------+--------------+-------------------------------+
//! | slot       | channel      | payload length in bytes       |  word 0
//! +------------+--------------+----------------+-------+------+
//! | ticket (48 bits)                           | flags | kind |  word 1
//! +--------------------------------------------+-------+------+
//! | payload, padded to a multiple of 16 bytes                 |
//! +-----------------------------------------------------------+
//! ```
//!
//! Little-endian, 16-byte aligned in a 16-byte aligned buffer. A sender leaves `slot` zero; the
//! router fills it in, so a receiver can trust it. The ticket carries the low 48 bits of the
//! counter; 2^47 draws lie between two tickets that could be confused (months at full speed).
//!
//! Who writes: the sender into its lane, the router into queues. Who reads: the router (checks
//! every field against its own knowledge), the receiving core (checks bounds).

#[cfg(not(loom))]
use crate::arena::Span;
use crate::sync::foreign;

/// Records start and end on multiples of this many bytes.
pub(crate) const ALIGN: usize = 16;
/// Bytes of the two header words.
pub(crate) const HEADER: usize = 16;
/// Bits of the ticket that a record carries.
pub(crate) const TICKET_BITS: u32 = 48;
/// Longest channel name in bytes.
pub(crate) const NAME_MAX: usize = 255;
/// Bytes of the timestamp that precedes the body when [`flags::TIMED`] is set.
pub(crate) const STAMP_BYTES: usize = 8;

/// Low [`TICKET_BITS`] bits.
pub(crate) const TICKET_MASK: u64 = (1 << TICKET_BITS) - 1;
const CHANNEL_SHIFT: u32 = 32;
pub(crate) const CHANNEL_MASK: u64 = (1 << 20) - 1;
const SLOT_SHIFT: u32 = 52;

/// What a record is. Values are part of the layout and never reused.
pub(crate) mod kind {
    /// Skips to the end of a lane's ring.
    pub const PAD: u8 = 1;
    /// A message to the channel in word 0.
    pub const MESSAGE: u8 = 2;
    /// Lane: the messages that follow go to `channel` in the generation held by the ticket field.
    pub const CONTEXT: u8 = 3;
    /// Lane: a message to a channel given by name; payload is one length byte, name, body.
    pub const NAMED: u8 = 4;
    /// Lane: subscribe to the channel named by the payload.
    pub const JOIN: u8 = 5;
    /// Lane: unsubscribe from the channel named by the payload.
    pub const LEAVE: u8 = 6;
    /// Lane: unsubscribe from everything.
    pub const LEAVE_ALL: u8 = 7;
    /// Lane: pin the channel named by the payload, so that a resolved handle stays valid.
    pub const OPEN: u8 = 8;
    /// Lane: unpin the channel in word 0; the payload is its generation (8 bytes).
    pub const CLOSE: u8 = 9;
    /// Lane: the core gives its slot back.
    pub const DETACH: u8 = 10;
    /// Queue: losses and answered operations up to this place; see `SyncPayload`.
    pub const SYNC: u8 = 11;
    /// Queue: time of the messages that follow, split over word 0 and word 1.
    pub const STAMP: u8 = 12;
    /// Queue: the records that follow lie in the arena; place and length in word 0 and word 1.
    pub const REFERENCE: u8 = 13;
    /// Messages of one sender to one channel with one ticket and of one length: their bodies one
    /// behind the other, each padded; see `Pack`.
    pub const PACK: u8 = 14;
    /// A message whose body lies in its sender's slab; see `Placed`.
    pub const PLACED: u8 = 15;
    /// Lane: a [`PACK`] that its sender still adds to; see `lane`.
    pub const RUN: u8 = 16;
    // Kept free for request/reply, work channels, direct messages, retained values, expiry and
    // bridges: 17..=63. Values from 64 on are for the application-defined future.
}

/// Flag bits of a record.
pub(crate) mod flags {
    /// The payload starts with the sender's timestamp (8 bytes, ns since the epoch).
    pub const TIMED: u8 = 1;
    /// The sender of this operation wants its eventfd rung when it is answered.
    pub const NOTIFY: u8 = 2;
}

/// Both header words, read once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub w0: u64,
    pub w1: u64,
}

impl Header {
    /// A header; `len` is the payload length in bytes, `ticket` is truncated to 48 bits.
    #[inline]
    pub fn new(kind: u8, flags: u8, channel: u32, len: usize, ticket: u64) -> Self {
        debug_assert!(len <= u32::MAX as usize && u64::from(channel) <= CHANNEL_MASK);
        Self {
            w0: len as u64 | u64::from(channel) << CHANNEL_SHIFT,
            w1: u64::from(kind) | u64::from(flags) << 8 | (ticket & TICKET_MASK) << 16,
        }
    }

    /// A [`kind::STAMP`] record: 32 bits of the time in each word.
    pub fn stamp(nanos: u64) -> Self {
        Self {
            w0: (nanos & 0xffff_ffff) << 32,
            w1: u64::from(kind::STAMP) | (nanos >> 32) << 16,
        }
    }

    /// The time of a [`kind::STAMP`] record, ns since the epoch.
    pub fn stamp_nanos(self) -> u64 {
        self.w0 >> 32 | (self.w1 >> 16) << 32
    }

    /// A [`kind::REFERENCE`] record: the offset in units of 16 bytes in word 0, the length in word 1.
    #[cfg(not(loom))]
    #[inline]
    pub fn reference(span: Span) -> Self {
        debug_assert!(span.offset % ALIGN == 0);
        Self {
            w0: (span.offset as u64 / ALIGN as u64) << 32,
            w1: u64::from(kind::REFERENCE) | (span.len as u64) << 16,
        }
    }

    /// What a [`kind::REFERENCE`] record refers to; to be checked against the arena.
    #[cfg(not(loom))]
    pub fn span(self) -> Span {
        Span {
            offset: (self.w0 >> 32) as usize * ALIGN,
            len: (self.w1 >> 16) as usize,
        }
    }

    #[inline]
    pub fn kind(self) -> u8 {
        self.w1 as u8
    }

    #[inline]
    pub fn flags(self) -> u8 {
        (self.w1 >> 8) as u8
    }

    /// True for a message without flags.
    #[inline]
    pub fn is_plain_message(self) -> bool {
        self.w1 as u16 == u16::from(kind::MESSAGE)
    }

    /// True for a message that can be part of a [`kind::PACK`].
    #[inline]
    pub fn is_packable(self) -> bool {
        self.is_plain_message() && (1..=Pack::BODY_MAX).contains(&self.len())
    }

    /// The [`kind::PACK`] of messages with this header, which is packable, in `bytes` of payload.
    #[inline]
    pub fn packed(self, bytes: usize) -> Self {
        debug_assert!(self.is_packable() && bytes % round_up(self.len()) == 0);
        Self {
            w0: self.w0 & !0xffff_ffff | bytes as u64,
            w1: self.w1 & !0xffff | u64::from(kind::PACK) | (self.len() as u64) << 8,
        }
    }

    /// The same as a record of another kind.
    #[inline]
    pub fn with_kind(self, kind: u8) -> Self {
        Self {
            w1: self.w1 & !0xff | u64::from(kind),
            ..self
        }
    }

    /// The same with `len` bytes of payload.
    #[inline]
    pub fn with_len(self, len: usize) -> Self {
        Self {
            w0: self.w0 & !0xffff_ffff | len as u64,
            ..self
        }
    }

    /// The header of each message in a [`kind::PACK`].
    pub fn unpacked(self) -> Self {
        Self {
            w0: self.w0 & !0xffff_ffff | u64::from(self.flags()),
            w1: self.w1 & !0xffff | u64::from(kind::MESSAGE),
        }
    }

    /// What is in a [`kind::PACK`]; None when it is something else, or no pack can be like that.
    #[inline]
    pub fn pack(self) -> Option<Pack> {
        let (body, bytes) = (usize::from(self.flags()), self.len());
        if self.kind() != kind::PACK || body == 0 || bytes == 0 {
            return None;
        }
        let step = round_up(body);
        // In 32 bits, which divide faster.
        let (count, rest) = (bytes as u32 / step as u32, bytes as u32 % step as u32);
        (rest == 0).then_some(Pack { body, step, count })
    }

    /// Messages in this record, if it is one of messages.
    pub fn messages(self) -> u32 {
        self.pack().map_or(1, |pack| pack.count)
    }

    /// Payload length in bytes.
    #[inline]
    pub fn len(self) -> usize {
        self.w0 as u32 as usize
    }

    /// Bytes the whole record takes.
    #[inline]
    pub fn size(self) -> usize {
        size_of_record(self.len())
    }

    #[inline]
    pub fn channel(self) -> u32 {
        (self.w0 >> CHANNEL_SHIFT & CHANNEL_MASK) as u32
    }

    #[inline]
    pub fn slot(self) -> u32 {
        (self.w0 >> SLOT_SHIFT) as u32
    }

    /// Slot and channel together.
    #[inline]
    pub fn origin(self) -> u32 {
        (self.w0 >> 32) as u32
    }

    /// Low 48 bits of the ticket.
    #[inline]
    pub fn ticket(self) -> u64 {
        self.w1 >> 16
    }

    /// The message that a [`kind::PLACED`] record stands for, of `len` bytes.
    pub fn placed_message(self, len: usize) -> Self {
        self.with_len(len).with_kind(kind::MESSAGE)
    }

    /// The inverse.
    pub fn message_placed(self) -> Self {
        self.with_len(Placed::BYTES).with_kind(kind::PLACED)
    }

    /// The same record with another ticket.
    pub fn with_ticket(self, ticket: u64) -> Self {
        Self {
            w1: self.w1 & 0xffff | (ticket & TICKET_MASK) << 16,
            ..self
        }
    }

    /// The same record as the router passes it on: to `channel`, from `slot`.
    #[inline]
    pub fn routed(self, channel: u32, slot: u32) -> Self {
        Self {
            w0: self.w0 & 0xffff_ffff
                | u64::from(channel) << CHANNEL_SHIFT
                | u64::from(slot) << SLOT_SHIFT,
            w1: self.w1,
        }
    }

    /// Reads the header at `at`, each word once.
    ///
    /// # Safety
    /// `at` is 8-byte aligned and 16 bytes are readable there.
    #[inline]
    pub unsafe fn read(at: *const u8) -> Self {
        let words = at.cast::<u64>();
        foreign(at, HEADER);
        // SAFETY: the caller's contract. Volatile: another process may own these bytes, and each
        // word must be loaded exactly once, or a check and a use could see different values.
        unsafe {
            Self {
                w0: words.read_volatile(),
                w1: words.add(1).read_volatile(),
            }
        }
    }

    /// Writes the header at `at`.
    ///
    /// # Safety
    /// `at` is 8-byte aligned, 16 bytes are writable there and nobody else accesses them.
    #[inline]
    pub unsafe fn write(self, at: *mut u8) {
        let words = at.cast::<u64>();
        // SAFETY: the caller's contract.
        unsafe {
            words.write(self.w0);
            words.add(1).write(self.w1);
        }
    }
}

/// The contents of a [`kind::PACK`]: sixteen bytes of header for all of its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pack {
    /// Bytes of each body, not zero: the record has it in the place of the flags.
    pub body: usize,
    /// Bytes from one body to the next.
    pub step: usize,
    /// Messages, at least one.
    pub count: u32,
}

impl Pack {
    /// Longest body, bytes.
    pub const BODY_MAX: usize = 255;
}

/// The payload of a [`kind::PLACED`] record, two 64-bit words: where what a message has for a payload is
/// instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    /// Bytes from the start of the sender's slab in a lane, from the arena's in a queue; a multiple of
    /// the alignment.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

impl Placed {
    /// Bytes in the record.
    pub const BYTES: usize = 16;

    /// Reads it at `at`, each word once; whatever it says is to be checked.
    ///
    /// # Safety
    /// As for [`Header::read`].
    pub unsafe fn read(at: *const u8) -> Self {
        // SAFETY: the caller's contract.
        let Header { w0, w1 } = unsafe { Header::read(at) };
        Self {
            offset: w0,
            len: w1,
        }
    }

    /// Writes it at `at`.
    ///
    /// # Safety
    /// As for [`Header::write`].
    pub unsafe fn write(self, at: *mut u8) {
        let words = Header {
            w0: self.offset,
            w1: self.len,
        };
        // SAFETY: the caller's contract.
        unsafe { words.write(at) };
    }

    /// What it says, from the start of whatever it counts from.
    #[cfg(not(loom))]
    pub fn span(self) -> Span {
        // Saturating: what was never written so is found to lie outside.
        Span {
            offset: usize::try_from(self.offset).unwrap_or(usize::MAX),
            len: usize::try_from(self.len).unwrap_or(usize::MAX),
        }
    }
}

/// Rounds up to the record alignment.
#[inline]
pub(crate) const fn round_up(bytes: usize) -> usize {
    (bytes + ALIGN - 1) & !(ALIGN - 1)
}

/// Bytes of a record with `len` bytes of payload.
#[inline]
pub(crate) const fn size_of_record(len: usize) -> usize {
    HEADER + round_up(len)
}

/// Copies `len` payload bytes; short ones without calling into libc, and in words: a body was
/// mostly written a moment ago, and a load wider than the stores before it waits until they have
/// left the store buffer.
///
/// # Safety
/// `src` is readable and `dst` writable for `len` bytes, and they do not overlap.
#[inline]
pub(crate) unsafe fn copy(src: *const u8, dst: *mut u8, len: usize) {
    foreign(src, len);
    // SAFETY: the caller's contract; the two words of a body of 8 to 16 bytes may overlap.
    unsafe {
        if (8..=16).contains(&len) {
            let (first, last) = (
                one_load(src.cast::<u64>().read_unaligned()),
                one_load(src.add(len - 8).cast::<u64>().read_unaligned()),
            );
            dst.cast::<u64>().write_unaligned(first);
            dst.add(len - 8).cast::<u64>().write_unaligned(last);
        } else {
            std::ptr::copy_nonoverlapping(src, dst, len);
        }
    }
}

/// Keeps the compiler from joining the load of `word` with that of its neighbour.
#[inline]
fn one_load(mut word: u64) -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: no instruction at all; only the optimiser loses track of the value.
    unsafe {
        std::arch::asm!("/* {} */", inout(reg) word, options(pure, nomem, nostack, preserves_flags));
    }
    word
}

/// Asks for the cache line at `at`, which is about to be read. Any address will do.
#[inline(always)]
pub(crate) fn prefetch_read(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint; it accesses nothing.
    unsafe {
        std::arch::asm!("prefetcht0 [{}]", in(reg) at, options(readonly, nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Asks for the cache line at `at`, which is about to be written, for this processor alone.
#[inline(always)]
pub(crate) fn prefetch_write(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint; it accesses nothing, and processors without it take it for a no-op.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) at, options(readonly, nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Copies whole records (`len` is a multiple of 16) between two aligned buffers.
///
/// # Safety
/// As for [`copy`]; both pointers are 16-byte aligned and `len` is a multiple of 16.
#[inline]
pub(crate) unsafe fn copy_records(src: *const u8, dst: *mut u8, len: usize) {
    const FEW: usize = 8 * ALIGN;
    foreign(src, len);
    // SAFETY: the caller's contract.
    unsafe {
        if len > FEW {
            std::ptr::copy_nonoverlapping(src, dst, len);
            return;
        }
        let (from, to) = (src.cast::<u128>(), dst.cast::<u128>());
        if len == ALIGN {
            to.write(from.read());
            return;
        }
        for i in 0..len / ALIGN {
            to.add(i).write(from.add(i).read());
        }
    }
}

/// The payload of a [`kind::SYNC`] record, two 64-bit words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SyncPayload {
    /// Messages lost to this core at this place of the stream.
    pub lost: u64,
    /// Operations (join, leave, ...) of this core that took effect before this place.
    pub ops_done: u64,
}

impl SyncPayload {
    /// Bytes in the record.
    pub const BYTES: usize = 16;
}

/// The full ticket nearest to `reference` whose low 48 bits are `low`.
#[inline]
pub(crate) fn full_ticket(low: u64, reference: u64) -> u64 {
    let delta = low.wrapping_sub(reference) << (64 - TICKET_BITS);
    // Arithmetic shift: the difference as a signed 48-bit number.
    reference.wrapping_add(((delta as i64) >> (64 - TICKET_BITS)) as u64)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn header_fields_survive_packing(
            kind in 1u8..64, flags: u8, channel in 0u32..(1 << 20), len in 0usize..u32::MAX as usize,
            ticket in 0u64..(1 << 48), slot in 0u32..4096,
        ) {
            let h = Header::new(kind, flags, channel, len, ticket).routed(channel, slot);
            prop_assert_eq!(
                (h.kind(), h.flags(), h.channel(), h.len(), h.ticket(), h.slot()),
                (kind, flags, channel, len, ticket, slot)
            );
        }

        #[test]
        fn stamp_keeps_all_64_bits(nanos: u64) {
            let stamp = Header::stamp(nanos);
            prop_assert_eq!((stamp.kind(), stamp.len(), stamp.stamp_nanos()), (kind::STAMP, 0, nanos));
        }

        #[test]
        fn full_ticket_is_recovered_within_half_the_range(
            reference: u64, delta in -(1i64 << 46)..(1i64 << 46),
        ) {
            let ticket = reference.wrapping_add(delta as u64);
            prop_assert_eq!(full_ticket(ticket & TICKET_MASK, reference), ticket);
        }
    }

    #[test]
    fn a_reference_keeps_its_span() {
        for (offset, len) in [(0, 16), (16, 48), ((64 << 30) - 16, 1 << 30)] {
            let span = Span { offset, len };
            let header = Header::reference(span);
            assert_eq!((header.span(), header.kind()), (span, kind::REFERENCE));
            assert_eq!(header.size(), HEADER, "no payload");
        }
    }

    #[test]
    fn record_sizes_are_multiples_of_the_alignment() {
        for (len, size) in [(0, 16), (1, 32), (16, 32), (17, 48)] {
            assert_eq!(size_of_record(len), size);
        }
    }
}
