//! The fixed shapes in the region, besides the protocol words of `ticket`, `doorbell`, `lane`
//! and `queue`: header, slot words, mailboxes, directory entries.

use crate::answer::Answer;
use crate::config::{CONFIG_WORDS, Config};
use crate::error::AdoptError;
use crate::process::Life;
use crate::pulse::Pulse;
use crate::stats::COUNTERS;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// First word of every region: "corecast" in ASCII.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"corecast");
/// Version of the layout and the protocol.
pub(crate) const VERSION: u64 = 7;

/// The first page. Written by the creator, then by the master.
#[repr(C, align(128))]
#[derive(Debug)]
pub(crate) struct RegionHeader {
    /// [`MAGIC`], stored last with Release.
    pub magic: AtomicU64,
    /// [`VERSION`].
    pub version: AtomicU64,
    /// [`crate::layout::Layout::hash`].
    pub layout_hash: AtomicU64,
    /// Keys of the name hash.
    pub seed: [AtomicU64; 2],
    /// The master, see [`MasterState`].
    pub master: AtomicU64,
    /// Masters so far: whose router is of an earlier one has missed something.
    pub reign: AtomicU64,
    /// Beats while the master's thread lives. On a line that is otherwise written once.
    pub pulse: Pulse,
    /// Which program's pool the router is in, see `assist`; 0: in none.
    pub assist: AtomicU64,
    _pad: [u64; 3],
    /// Counters of the router, see [`crate::Stats`]. Lines of their own.
    pub counters: [AtomicU64; COUNTERS],
    /// The configuration, see [`crate::Config`].
    pub config: [AtomicU64; CONFIG_WORDS],
}

impl RegionHeader {
    /// 64-bit words of it.
    pub const WORDS: usize = size_of::<Self>() / 8;
    /// The place of `layout_hash` among them.
    pub const LAYOUT_HASH: usize = std::mem::offset_of!(Self, layout_hash) / 8;

    /// What the words of a header say of their region: configuration and keys of the name hash.
    pub fn describes(words: &[u64; Self::WORDS]) -> Result<(Config, (u64, u64)), AdoptError> {
        const SEED: usize = std::mem::offset_of!(RegionHeader, seed) / 8;
        const CONFIG: usize = std::mem::offset_of!(RegionHeader, config) / 8;
        let found = if words[0] == MAGIC { words[1] } else { 0 };
        if found != VERSION {
            let expected = VERSION;
            return Err(AdoptError::Version { found, expected });
        }
        let config = words[CONFIG..].first_chunk().and_then(Config::from_words);
        let config = config.ok_or(AdoptError::Damaged)?;
        Ok((config, (words[SEED], words[SEED + 1])))
    }
}

/// `RegionHeader::master`: who routes. Changed by CAS only, so that there is one master.
///
/// ```text
///  63 62 61          40 39                        0
/// +-----+--------------+---------------------------+
/// |state| pid          | birth, see [`Life`]       |
/// +-----+--------------+---------------------------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MasterState {
    /// No master has started yet.
    None,
    /// This one runs, or has died.
    Running(Life),
    /// The master has stopped.
    Gone,
}

impl MasterState {
    pub fn load(word: &AtomicU64) -> Self {
        // SYNC(master.state): pairs with `change`; says only who runs.
        let word = word.load(Ordering::Acquire);
        match word >> 62 {
            0 => Self::None,
            1 => Self::Running(Life::from_bits(word & !(3 << 62))),
            _ => Self::Gone,
        }
    }

    /// Replaces what was `seen` by `self`; false when it is no longer so.
    pub fn change(self, word: &AtomicU64, seen: Self) -> bool {
        // SYNC(master.state): Acquire pairs with the Release of the last master: what it did is
        // done. Release: whoever sees us gone sees what we did.
        word.compare_exchange(
            seen.pack(),
            self.pack(),
            Ordering::AcqRel,
            // Relaxed: somebody else is the master; nothing is read through it.
            Ordering::Relaxed,
        )
        .is_ok()
    }

    fn pack(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Running(life) => 1 << 62 | life.bits(),
            Self::Gone => 2 << 62,
        }
    }

    /// True when the master is the calling process `pid`.
    pub fn is_run_by(self, pid: u32) -> bool {
        matches!(self, Self::Running(life) if life.pid() == pid)
    }
}

/// Who holds a slot. Changed by CAS: a core takes a free slot, the router frees it.
///
/// ```text
///  63          40 39    32 31              0
/// +--------------+--------+-----------------+
/// | generation   | state  | pid             |
/// +--------------+--------+-----------------+
/// ```
/// State and pid change in one CAS, so a process killed right after it has left enough for the
/// slot to be reclaimed.
#[repr(C, align(128))]
#[derive(Debug)]
pub(crate) struct SlotWord(AtomicU64);

/// A value of a [`SlotWord`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder(u64);

const STATE_SHIFT: u32 = 32;
const GENERATION_SHIFT: u32 = 40;
const FREE: u64 = 0;
const LIVE: u64 = 1;
/// Held by a core whose lane was found damaged; freed when its process ends.
const QUARANTINED: u64 = 2;
/// Linux has no pid above this.
const PID_MAX: u32 = 1 << 22;

impl Holder {
    #[inline]
    pub fn pid(self) -> u32 {
        self.0 as u32
    }

    /// Counts the owners this slot has had, modulo 2^24.
    #[inline]
    pub fn generation(self) -> u32 {
        (self.0 >> GENERATION_SHIFT) as u32
    }

    /// The whole word, for the ledger.
    pub fn bits(self) -> u64 {
        self.0
    }

    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    fn state(self) -> u64 {
        self.0 >> STATE_SHIFT & 0xff
    }

    /// Free; a word that names somebody all the same is damaged.
    pub fn is_free(self) -> bool {
        self.state() == FREE && self.pid() == 0
    }

    /// Held by a core in good standing.
    pub fn is_live(self) -> bool {
        self.state() == LIVE
    }

    /// True when this is what the router made of `before`, its last owner's.
    pub fn is_freed(self, before: Holder) -> bool {
        self == Self::with(before.generation(), FREE, 0)
    }

    /// True when this is what a core makes of a free slot that was `before`.
    pub fn follows(self, before: Holder) -> bool {
        self == before.taken_by(self.pid()) && (1..=PID_MAX).contains(&self.pid())
    }

    fn with(generation: u32, state: u64, pid: u32) -> Self {
        let generation = u64::from(generation & 0xff_ffff);
        Self(generation << GENERATION_SHIFT | state << STATE_SHIFT | u64::from(pid))
    }

    fn taken_by(self, pid: u32) -> Self {
        Self::with(self.generation().wrapping_add(1), LIVE, pid)
    }
}

impl SlotWord {
    pub fn load(&self) -> Holder {
        // SYNC(slot): pairs with the CASes below.
        Holder(self.0.load(Ordering::Acquire))
    }

    /// Core: takes the slot if it is still as `seen` (free).
    pub fn take(&self, seen: Holder, pid: u32) -> Result<Holder, Holder> {
        let taken = seen.taken_by(pid);
        // SYNC(slot): Acquire pairs with `free`: what the router reset is reset. Release pairs
        // with the router's load after the doorbell.
        self.cas(seen, taken).map(|()| taken)
    }

    /// Router: frees the slot of `seen`.
    pub fn free(&self, seen: Holder) {
        // SYNC(slot): Release publishes the reset of lane and queue to the next owner. A failed
        // CAS means that a misbehaving worker changed the word: the router's own record decides.
        let free = Holder::with(seen.generation(), FREE, 0);
        if self.cas(seen, free).is_err() {
            self.0.store(free.0, Ordering::Release);
        }
    }

    /// Router: marks the holder as one whose lane is no longer read.
    pub fn quarantine(&self, seen: Holder) -> Holder {
        let marked = Holder::with(seen.generation(), QUARANTINED, seen.pid());
        // A failed CAS means that the worker has overwritten the word as well: what it claims now
        // must not change who the router thinks it is.
        if self.cas(seen, marked).is_err() {
            // SYNC(slot): pairs with the core's Acquire; carries no data.
            self.0.store(marked.0, Ordering::Release);
        }
        marked
    }

    fn cas(&self, old: Holder, new: Holder) -> Result<(), Holder> {
        self.0
            .compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Acquire)
            .map(|_| ())
            .map_err(Holder)
    }
}

/// When the process of one owner of a slot started.
///
/// ```text
///  63          40 39     20 19      0
/// +--------------+---------+---------+
/// | generation   | 0     1 | tick    |     all zero: unknown
/// +--------------+---------+---------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Born(u64);

impl Born {
    const KNOWN: u64 = 1 << 20;

    /// `tick` is what `process::start_tick` says of the owner.
    pub fn of(owner: Holder, tick: u64) -> Self {
        let generation = u64::from(owner.generation());
        Self(generation << GENERATION_SHIFT | Self::KNOWN | tick & (Self::KNOWN - 1))
    }

    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub fn bits(self) -> u64 {
        self.0
    }

    /// The tick at which `owner` started, if it is that owner's.
    pub fn tick(self, owner: Holder) -> Option<u64> {
        let tick = self.0 & (Self::KNOWN - 1);
        (self == Self::of(owner, tick)).then_some(tick)
    }
}

/// Joins and opens of one core that can be unanswered at a time.
pub(crate) const ANSWERS: usize = 64;

/// What the router tells one core besides messages. Written by the router only.
#[repr(C, align(128))]
#[derive(Debug)]
pub(crate) struct Mailbox {
    /// The lane's head: bytes, monotonic. Everything below has been routed.
    pub head: AtomicU64,
    /// When the slot's owner started, for a successor: pids are used again. See [`Born`].
    pub born: AtomicU64,
    /// Futex: counts the times this core was woken from a wait.
    pub event: AtomicU32,
    _pad: [u32; 27],
    /// Answers to joins and opens; ask number `n` is at `n % ANSWERS`.
    pub answers: [Answer; ANSWERS],
}

impl Answer {
    /// Core: the answer to `ask`, once it is there.
    pub fn get(&self, ask: u64) -> Option<Option<crate::ChannelId>> {
        let result = self.result(ask)?;
        Some((result != 0).then_some(crate::ChannelId {
            index: result as u32,
            generation: (result >> 32) as u32,
        }))
    }
}

/// 64-bit words of a name.
pub(crate) const NAME_WORDS: usize = 32;

/// One channel of the directory. Written by the router only.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct Entry {
    /// Generation << 1 | in use. Even while the rest is being written.
    pub state: AtomicU64,
    /// Hash of the name.
    pub hash: AtomicU64,
    /// Bytes of the name, 1 to 255.
    pub len: AtomicU64,
    /// The name, zero padded. Atomics, because a core may read while the router rewrites it; such
    /// a reader finds `state` changed and starts over.
    pub name: [AtomicU64; NAME_WORDS],
}

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<RegionHeader>() <= crate::layout::PAGE);
    assert!(offset_of!(RegionHeader, counters) == 128);
    assert!(size_of::<SlotWord>() == 128 && align_of::<SlotWord>() == 128);
    assert!(size_of::<Mailbox>() == 128 + 16 * ANSWERS);
    assert!(offset_of!(Mailbox, head) == 0 && offset_of!(Mailbox, event) == 16);
    assert!(offset_of!(Mailbox, answers) == 128);
    assert!(size_of::<Entry>() == 320 && offset_of!(Entry, name) == 24);
    assert!(size_of::<crate::queue::ControlWord>() == 128);
    assert!(size_of::<crate::lane::LaneWord>() == 128);
    assert!(size_of::<crate::ticket::Tickets>() == 128);
    assert!(size_of::<crate::doorbell::Sleep>() == 128);
};
