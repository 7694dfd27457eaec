//! The region seen through its layout: typed access to every part.

use std::sync::Arc;

use crate::config::Config;
use crate::directory::Directory;
use crate::doorbell::Doorbell;
use crate::lane::LaneWord;
use crate::layout::Layout;
use crate::queue::ControlWord;
use crate::region::{OsError, Region, Shared};
use crate::shared::{MAGIC, Mailbox, RegionHeader, SlotWord, VERSION};
use crate::subscriptions::Rows;
use crate::sync::Ordering;
use crate::ticket::Tickets;

/// A mapped region with its configuration. Shared by everything in a process that uses it.
#[derive(Debug)]
pub(crate) struct View {
    pub config: Config,
    pub layout: Layout,
    pub header: Shared<RegionHeader>,
    pub tickets: Shared<Tickets>,
    pub doorbell: Shared<Doorbell>,
    pub directory: Directory,
    pub rows: Rows,
    pub pins: Rows,
    region: Region,
}

impl View {
    /// Makes a region for this configuration and puts an empty hub into it.
    pub fn create(config: &Config, layout: Layout) -> Result<Arc<Self>, OsError> {
        let region = Region::create(layout.total, config.populate)?;
        let seed = random_seed()?;
        // SAFETY: the layout has these parts at these offsets, all made of atomics; everything
        // that holds them also holds the view, which keeps the region.
        let view = unsafe {
            Self {
                header: region.words(0),
                tickets: region.words(layout.tickets),
                doorbell: region.words(layout.doorbell),
                directory: Directory::new(
                    region.words(layout.table),
                    layout.table_len,
                    region.words(layout.entries),
                    layout.channels,
                    seed,
                ),
                rows: Rows::new(
                    region.words(layout.subscriptions),
                    layout.row_words,
                    layout.channels,
                ),
                pins: Rows::new(region.words(layout.pins), layout.row_words, layout.channels),
                config: config.clone(),
                layout,
                region,
            }
        };
        view.stamp(seed);
        Ok(Arc::new(view))
    }

    /// Writes the header, the magic last.
    fn stamp(&self, seed: (u64, u64)) {
        let header = self.header;
        // Relaxed: published by the magic.
        header.version.store(VERSION, Ordering::Relaxed);
        header
            .layout_hash
            .store(self.layout.hash(), Ordering::Relaxed);
        header.seed[0].store(seed.0, Ordering::Relaxed);
        header.seed[1].store(seed.1, Ordering::Relaxed);
        for slot in 0..self.layout.slots {
            self.lane_word(slot).reset(0);
        }
        // SYNC(region.magic): pairs with the Acquire in `check_version`.
        header.magic.store(MAGIC, Ordering::Release);
    }

    /// Checks that the region was made by this version; otherwise its version (0: no region).
    pub fn check_version(&self) -> Result<(), u64> {
        let header = self.header;
        // SYNC(region.magic): pairs with the Release in `stamp`.
        if header.magic.load(Ordering::Acquire) != MAGIC {
            return Err(0);
        }
        // Relaxed: ordered by the Acquire above.
        let version = header.version.load(Ordering::Relaxed);
        let same_layout = header.layout_hash.load(Ordering::Relaxed) == self.layout.hash();
        if version != VERSION || !same_layout {
            return Err(version);
        }
        Ok(())
    }

    pub fn slot(&self, slot: usize) -> Shared<SlotWord> {
        self.nth(self.layout.slot_words, slot)
    }

    pub fn mailbox(&self, slot: usize) -> Shared<Mailbox> {
        self.nth(self.layout.mailboxes, slot)
    }

    pub fn control(&self, slot: usize) -> Shared<ControlWord> {
        self.nth(self.layout.control_words, slot)
    }

    pub fn lane_word(&self, slot: usize) -> Shared<LaneWord> {
        assert!(slot < self.layout.slots);
        // SAFETY: the layout has a lane word for each slot there.
        unsafe { self.region.words(self.layout.lane_word(slot)) }
    }

    /// The ring of a slot's lane, `layout.lane_capacity` bytes.
    pub fn ring(&self, slot: usize) -> *mut u8 {
        assert!(slot < self.layout.slots);
        self.region.at(self.layout.lane_ring(slot))
    }

    /// The two buffers of a slot's queue, `layout.buffer_capacity` bytes each.
    pub fn buffers(&self, slot: usize) -> [*mut u8; 2] {
        assert!(slot < self.layout.slots);
        [0, 1].map(|i| self.region.at(self.layout.buffer(slot, i)))
    }

    fn nth<T: Sync>(&self, start: usize, slot: usize) -> Shared<T> {
        assert!(slot < self.layout.slots);
        // SAFETY: the layout has one T for each slot from `start` on.
        unsafe { self.region.words(start + slot * size_of::<T>()) }
    }
}

/// Keys for the name hash, so that nobody can prepare names that collide.
fn random_seed() -> Result<(u64, u64), OsError> {
    let mut bytes = [0u8; 16];
    // SAFETY: fills 16 bytes of a live local.
    let n = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if n != bytes.len() as isize {
        return Err(OsError::last("getrandom"));
    }
    let whole = u128::from_le_bytes(bytes);
    Ok((whole as u64, (whole >> 64) as u64))
}
