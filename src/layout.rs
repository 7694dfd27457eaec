//! Layout: where everything lies in the region.
//!
//! ```text
//! +--------------------+ 0
//! | header             | version, configuration, counters                router writes
//! | mailboxes          | per slot: lane head, event word, answers         router
//! | directory          | hash table, entries (names, generations)         router
//! | subscriptions      | one row of slot bits per channel                 router
//! | pins               | the same for open handles                        router
//! | queue buffers      | per slot: two                                    router
//! +--------------------+
//! | control            | tickets, doorbell, slot words, control words     all, by RMW
//! +--------------------+
//! | worker 0           | lane words, lanes                                worker 0
//! | worker 1 ...       | page aligned                                     worker 1
//! +--------------------+ total
//! ```
//! Every part starts on a page of its own, so that each page has one writing process, the
//! control words aside.

use crate::config::Config;
use crate::doorbell::Doorbell;
use crate::error::ConfigError;
use crate::lane::LaneWord;
use crate::queue::{ControlWord, OVERHEAD};
use crate::record::{HEADER, NAME_MAX, STAMP_BYTES, round_up, size_of_record};
use crate::shared::{Entry, Mailbox, RegionHeader, SlotWord};
use crate::ticket::Tickets;

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
    pub mailboxes: usize,
    pub table: usize,
    pub entries: usize,
    pub subscriptions: usize,
    pub pins: usize,
    pub buffers: usize,
    pub tickets: usize,
    pub doorbell: usize,
    pub slot_words: usize,
    pub control_words: usize,
    /// Start of worker 0's pages.
    pub workers: usize,
    /// Bytes from one worker's pages to the next's.
    pub worker_stride: usize,
    pub cores: usize,
    pub total: usize,
}

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
        let cores = config.cores as usize;
        let mut plan = Planner(Some(0));
        plan.part(1, size_of::<RegionHeader>());
        let mailboxes = plan.part(slots, size_of::<Mailbox>());
        let table = plan.part(table_len, size_of::<u32>());
        let entries = plan.part(channels, size_of::<Entry>());
        let subscriptions = plan.part(channels * row_words, size_of::<u64>());
        let pins = plan.part(channels * row_words, size_of::<u64>());
        let buffers = plan.part(2 * slots, buffer_capacity);
        let tickets = plan.part(1, size_of::<Tickets>());
        let doorbell = plan.part(1, size_of::<Doorbell>());
        let slot_words = plan.part(slots, size_of::<SlotWord>());
        let control_words = plan.part(slots, size_of::<ControlWord>());
        let words = (cores * size_of::<LaneWord>()).next_multiple_of(PAGE);
        let worker_stride = words + cores * lane_capacity;
        // The extra slots are laid out as workers of one core each... in pages of the same
        // stride, so that one formula finds every lane.
        let groups = config.workers as usize + (config.extra as usize).div_ceil(cores);
        let workers = plan.part(groups, worker_stride);
        let total = plan.0.filter(|&t| t <= isize::MAX as usize / 2);
        Ok(Self {
            slots,
            channels,
            row_words,
            table_len,
            lane_capacity,
            lane_window: round_up(config.lane_bytes),
            buffer_capacity,
            mailboxes,
            table,
            entries,
            subscriptions,
            pins,
            buffers,
            tickets,
            doorbell,
            slot_words,
            control_words,
            workers,
            worker_stride,
            cores,
            total: total.ok_or(ConfigError::TooLarge {
                field: "the region",
                value: u64::MAX,
                max: isize::MAX as u64 / 2,
            })?,
        })
    }

    /// Offset of a slot's lane word.
    pub fn lane_word(&self, slot: usize) -> usize {
        self.workers
            + slot / self.cores * self.worker_stride
            + slot % self.cores * size_of::<LaneWord>()
    }

    /// Offset of a slot's ring.
    pub fn lane_ring(&self, slot: usize) -> usize {
        let words = (self.cores * size_of::<LaneWord>()).next_multiple_of(PAGE);
        self.workers
            + slot / self.cores * self.worker_stride
            + words
            + slot % self.cores * self.lane_capacity
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
            [self.mailboxes, self.table, self.entries, self.subscriptions],
            [self.pins, self.buffers, self.tickets, self.doorbell],
            [self.slot_words, self.control_words, self.workers],
            [self.worker_stride, self.cores, self.total],
        )
            .hash(&mut hasher);
        hasher.finish()
    }
}

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
            l.mailboxes,
            l.table,
            l.entries,
            l.subscriptions,
            l.pins,
            l.buffers,
            l.tickets,
            l.doorbell,
            l.slot_words,
            l.control_words,
            l.workers,
            l.total,
        ];
        assert!(starts.is_sorted() && starts.iter().all(|s| s % PAGE == 0));
        assert!(l.lane_ring(l.slots - 1) + l.lane_capacity <= l.total);
        assert_eq!(
            l.lane_ring(5),
            l.lane_word(5) + PAGE,
            "worker 1 starts on its own page"
        );
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
