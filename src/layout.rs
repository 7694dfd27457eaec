//! Layout: where everything lies in the region.
//!
//! ```text
//! +--------------------+ 0
//! | header             | version, configuration, counters                router writes
//! | ledger             | what a successor needs, per slot                 router
//! | sleep, floor       | does the router sleep, its last cut              router
//! | mailboxes          | per slot: lane head, event word, answers         router
//! | directory          | hash table, entries (names, generations)         router
//! | subscriptions      | one row of slot bits per channel                 router
//! | pins               | the same for open handles                        router
//! | queue buffers      | per slot: two                                    router
//! | returns            | per slot: what of its slab it can use again      router
//! | arena              | what queues refer to                             router
//! +--------------------+
//! | slabs              | per slot: large messages, read where they are    its owner
//! +--------------------+
//! | common             | tickets                                          all, by RMW
//! +--------------------+
//! | worker 0           | bells, slot, lane and control words, lanes       worker 0, router
//! | worker 1 ...       |                                                  worker 1, router
//! +--------------------+
//! | extra slot 0 ...   | the same for one core                            its owner, router
//! +--------------------+ total
//! ```
//! Each box is a [`Part`] that can have a memfd of its own; in the last two, the router writes
//! by atomic read-modify-write, and resets what a dead owner left. Of the slabs, each core can write its
//! own, and read all.

use crate::arena::GRANULE;
use crate::config::Config;
use crate::doorbell::{self, Bell, Sleep};
use crate::error::ConfigError;
use crate::lane::LaneWord;
use crate::ledger::{Account, LedgerHead};
use crate::queue::{ControlWord, OVERHEAD};
use crate::record::{HEADER, NAME_MAX, STAMP_BYTES, round_up, size_of_record};
use crate::region::Part;
use crate::shared::{Entry, Mailbox, RegionHeader, SlotWord};
use crate::slab::Returns;
use crate::ticket::{Floor, Tickets};

/// Bytes of a page as far as the layout is concerned.
pub(crate) const PAGE: usize = 4096;

/// Offsets (bytes from the region's start) and sizes, all derived from a [`Config`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub slots: usize,
    pub channels: usize,
    /// 64-bit words of one subscription row.
    pub row_words: usize,
    /// Entries of the directory's hash table, a power of two.
    pub table_len: usize,
    /// Bytes of one lane's ring, a power of two.
    pub lane_capacity: usize,
    /// Bytes of it that small records cycle through.
    pub lane_window: usize,
    /// Bytes of one queue buffer.
    pub buffer_capacity: usize,
    /// The ledger's head; two accounts per slot follow, of its queue and its lane.
    pub ledger: usize,
    /// Whether the router sleeps.
    pub sleep: usize,
    /// Its last cut.
    pub floor: usize,
    pub mailboxes: usize,
    pub table: usize,
    pub entries: usize,
    pub subscriptions: usize,
    pub pins: usize,
    pub buffers: usize,
    /// Per slot, by granule of its slab: see `slab`.
    pub returns: usize,
    pub arena: usize,
    /// Bytes of it.
    pub arena_len: usize,
    /// Right behind the arena, so that one offset can mean a place in either.
    pub slabs: usize,
    /// Bytes of each.
    pub slab_len: usize,
    /// Start of what all write.
    pub common: usize,
    pub tickets: usize,
    pub workers: Group,
    pub extra: Group,
    pub total: usize,
}

/// Parts of one shape, one behind the other: those of the workers, or of the extra slots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Group {
    pub count: usize,
    /// Cores of each.
    pub cores: usize,
    /// Start of the first.
    pub start: usize,
    /// Bytes of each.
    pub stride: usize,
}

/// Where a slot's words are.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Number of the part among those of all owners, workers first.
    owner: usize,
    /// Start of the part.
    start: usize,
    /// Cores of the part, and which of them.
    cores: usize,
    core: usize,
}

impl Place {
    /// Start of the words.
    fn words(&self) -> usize {
        self.start + colour(self.owner)
    }
}

/// Bytes of one word of a slot: alone on its cache lines.
const WORD: usize = 128;

/// Hands out consecutive page-aligned parts; None once the size has overflowed.
struct Planner(Option<usize>);

impl Planner {
    fn part(&mut self, count: usize, each: usize) -> usize {
        let start = self.0;
        self.0 = start
            .zip(count.checked_mul(each))
            .and_then(|(at, bytes)| at.checked_add(bytes))
            .and_then(|end| end.checked_next_multiple_of(PAGE));
        start.unwrap_or(0)
    }
}

impl Layout {
    /// The layout of a hub with this configuration.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        config.check()?;
        let slots = config.slots() as usize;
        let channels = config.channels as usize;
        let row_words = slots.div_ceil(64);
        let table_len = (2 * channels).next_power_of_two();
        let largest = size_of_record(STAMP_BYTES + 1 + NAME_MAX + config.max_message) + HEADER;
        let lane_capacity = config.lane_bytes.max(2 * largest).next_power_of_two();
        let buffer_capacity = config
            .queue_bytes
            .max(OVERHEAD + largest)
            .next_multiple_of(PAGE);
        let mut plan = Planner(Some(0));
        plan.part(1, size_of::<RegionHeader>());
        let accounts = 2 * slots * size_of::<Account>();
        let ledger = plan.part(1, size_of::<LedgerHead>() + accounts);
        let sleep = plan.part(1, size_of::<Sleep>() + size_of::<Floor>());
        let floor = sleep + size_of::<Sleep>();
        let mailboxes = plan.part(slots, size_of::<Mailbox>());
        let table = plan.part(table_len, size_of::<u32>());
        let entries = plan.part(channels, size_of::<Entry>());
        let subscriptions = plan.part(channels * row_words, size_of::<u64>());
        let pins = plan.part(channels * row_words, size_of::<u64>());
        let buffers = plan.part(2 * slots, buffer_capacity);
        let arena_len = config.arena_bytes.next_multiple_of(GRANULE);
        let slab_len = config.slab_bytes.next_multiple_of(GRANULE);
        let returns = plan.part(slots, Returns::bytes(slab_len / GRANULE));
        let arena = plan.part(1, arena_len);
        let slabs = plan.part(slots, slab_len);
        if slab_len == 0 {
            plan.part(1, PAGE); // a part is never empty
        }
        let common = plan.0.unwrap_or(0);
        let tickets = plan.part(1, size_of::<Tickets>());
        let mut group = |count: u32, cores: u32| {
            let (count, cores) = (count as usize, cores as usize);
            let stride = words_bytes(cores) + cores * lane_capacity;
            let start = plan.part(count, stride);
            Group {
                count,
                cores,
                start,
                stride,
            }
        };
        let workers = group(config.workers, config.cores);
        let extra = group(config.extra, 1);
        let total = plan.0.filter(|&t| t <= isize::MAX as usize / 2);
        Ok(Self {
            slots,
            channels,
            row_words,
            table_len,
            lane_capacity,
            lane_window: round_up(config.lane_bytes),
            buffer_capacity,
            ledger,
            sleep,
            floor,
            mailboxes,
            table,
            entries,
            subscriptions,
            pins,
            buffers,
            returns,
            arena,
            arena_len,
            slabs,
            slab_len,
            common,
            tickets,
            workers,
            extra,
            total: total.ok_or(ConfigError::TooLarge {
                field: "the region",
                value: u64::MAX,
                max: isize::MAX as u64 / 2,
            })?,
        })
    }

    /// Bytes of all slabs.
    pub fn slabs_len(&self) -> usize {
        self.slots * self.slab_len
    }

    /// Where the slab of a slot is.
    pub fn slab(&self, slot: usize) -> std::ops::Range<usize> {
        let start = self.slabs + slot * self.slab_len;
        start..start + self.slab_len
    }

    /// The parts, in order: the router's, the slabs, the common one, one for each owner.
    pub fn parts(&self) -> Vec<Part> {
        let part = |name: String, start, len| Part { start, len, name };
        let mut parts = vec![
            part("corecast-router".into(), 0, self.slabs),
            part(
                "corecast-slabs".into(),
                self.slabs,
                self.common - self.slabs,
            ),
            part(
                "corecast-common".into(),
                self.common,
                self.workers.start - self.common,
            ),
        ];
        for (kind, group) in [("worker", &self.workers), ("extra", &self.extra)] {
            parts.extend((0..group.count).map(|i| {
                let start = group.start + i * group.stride;
                part(format!("corecast-{kind}-{i}"), start, group.stride)
            }));
        }
        parts
    }

    /// Number of the part that belongs to the owner of `slot`.
    pub fn part_of(&self, slot: usize) -> usize {
        FIRST_OWNER + self.place(slot).owner
    }

    /// Number of the slot's core among those of its owner.
    pub fn core_of(&self, slot: usize) -> usize {
        self.place(slot).core
    }

    /// All slots of the slot's owner.
    pub fn siblings(&self, slot: usize) -> std::ops::Range<usize> {
        let place = self.place(slot);
        let first = slot - place.core;
        first..first + place.cores
    }

    /// Offset of the [`Bell`] of a slot's core.
    pub fn bell(&self, slot: usize) -> usize {
        let place = self.place(slot);
        place.words() + place.core / doorbell::CORES * WORD
    }

    /// Offset of a slot's [`SlotWord`].
    pub fn slot_word(&self, slot: usize) -> usize {
        self.word(slot, 0)
    }

    /// Offset of a slot's [`LaneWord`].
    pub fn lane_word(&self, slot: usize) -> usize {
        self.word(slot, 1)
    }

    /// Offset of a slot's [`ControlWord`].
    pub fn control_word(&self, slot: usize) -> usize {
        self.word(slot, 2)
    }

    /// Offset of a slot's ring.
    pub fn lane_ring(&self, slot: usize) -> usize {
        let place = self.place(slot);
        place.start + words_bytes(place.cores) + place.core * self.lane_capacity
    }

    /// Offset of a slot's word in array number `array` of its part.
    fn word(&self, slot: usize, array: usize) -> usize {
        let place = self.place(slot);
        let bells = place.cores.div_ceil(doorbell::CORES);
        place.words() + (bells + array * place.cores + place.core) * WORD
    }

    fn place(&self, slot: usize) -> Place {
        let in_workers = self.workers.count * self.workers.cores;
        let (group, slot, before) = if slot < in_workers {
            (&self.workers, slot, 0)
        } else {
            (&self.extra, slot - in_workers, self.workers.count)
        };
        let index = slot / group.cores;
        Place {
            owner: before + index,
            start: group.start + index * group.stride,
            cores: group.cores,
            core: slot % group.cores,
        }
    }

    /// Offset of one of a slot's two queue buffers.
    pub fn buffer(&self, slot: usize, index: usize) -> usize {
        self.buffers + (2 * slot + index) * self.buffer_capacity
    }

    /// A fingerprint of all sizes and offsets, to tell layouts apart.
    pub fn hash(&self) -> u64 {
        use std::hash::{Hash, Hasher};
        let mut hasher = siphasher::sip::SipHasher13::new();
        (
            [self.slots, self.channels, self.row_words, self.table_len],
            [self.lane_capacity, self.lane_window, self.buffer_capacity],
            [self.ledger, self.mailboxes, self.table, self.entries],
            [self.subscriptions, self.pins, self.buffers, self.common],
            [self.tickets, self.sleep, self.arena_len, self.total],
            [self.returns, self.arena, self.slabs, self.slab_len],
            (&self.workers, &self.extra),
        )
            .hash(&mut hasher);
        hasher.finish()
    }
}

/// Number of the part that holds the slabs.
pub(crate) const SLABS: usize = 1;
/// Number of the first part that belongs to an owner of slots.
pub(crate) const FIRST_OWNER: usize = 3;

/// Where the words of an owner's part begin in it. Not all alike: the router reads the words of
/// all owners, and lines with the same offset in their pages share one set of the L1 cache.
const fn colour(owner: usize) -> usize {
    owner % COLOURS * WORD
}

const COLOURS: usize = PAGE / WORD;

/// Bytes for the words of a part's cores, wherever its colour has them begin.
const fn words_bytes(cores: usize) -> usize {
    let words = cores.div_ceil(doorbell::CORES) + 3 * cores;
    ((COLOURS - 1 + words) * WORD).next_multiple_of(PAGE)
}

const _: () = {
    assert!(size_of::<Bell>() == WORD);
    assert!(size_of::<SlotWord>() == WORD);
    assert!(size_of::<LaneWord>() == WORD);
    assert!(size_of::<ControlWord>() == WORD);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_page_aligned_and_do_not_overlap() {
        let config = Config {
            workers: 3,
            cores: 5,
            ..Config::default()
        };
        let l = Layout::new(&config).expect("a valid configuration");
        let starts = [
            l.ledger,
            l.sleep,
            l.mailboxes,
            l.table,
            l.entries,
            l.subscriptions,
            l.pins,
            l.buffers,
            l.returns,
            l.arena,
            l.slabs,
            l.common,
            l.tickets,
            l.workers.start,
            l.extra.start,
            l.total,
        ];
        assert!(starts.is_sorted() && starts.iter().all(|s| s % PAGE == 0));
        let mut end = 0;
        for part in l.parts() {
            assert_eq!((part.start, part.len % PAGE), (end, 0), "{part:?}");
            end += part.len;
        }
        assert_eq!(end, l.total);
    }

    #[test]
    fn what_a_slot_has_lies_in_its_owners_part_and_overlaps_nothing() {
        let l = Layout::new(&Config {
            workers: 40,
            cores: 3,
            extra: 5,
            ..Config::default()
        })
        .expect("valid");
        let mut taken = Vec::new();
        for slot in 0..l.slots {
            let part = &l.parts()[l.part_of(slot)];
            if l.core_of(slot) == 0 {
                taken.push((l.bell(slot), WORD));
            }
            let words = [l.slot_word(slot), l.lane_word(slot), l.control_word(slot)];
            let ring = (l.lane_ring(slot), l.lane_capacity);
            for (at, len) in words.map(|at| (at, WORD)).into_iter().chain([ring]) {
                assert!(part.start <= at && at + len <= part.start + part.len);
                taken.push((at, len));
            }
        }
        taken.sort_unstable();
        assert!(taken.is_sorted_by(|a, b| a.0 + a.1 <= b.0));
    }

    #[test]
    fn a_lane_holds_two_of_the_largest_records() {
        for max_message in [1, 100, 1 << 20, 3 << 20] {
            let l = Layout::new(&Config {
                max_message,
                ..Config::default()
            })
            .expect("valid");
            assert!(l.lane_capacity >= 2 * size_of_record(STAMP_BYTES + 256 + max_message));
            assert!(l.lane_window <= l.lane_capacity);
        }
    }
}
