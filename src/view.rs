//! The region seen through its layout: typed access to every part.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use crate::arena::GRANULE;
use crate::config::Config;
use crate::directory::Directory;
use crate::doorbell::{Bell, Sleep};
use crate::error::AdoptError;
use crate::fds::FdTable;
use crate::lane::LaneWord;
use crate::layout::{FIRST_OWNER, Layout, SLABS};
use crate::ledger::{Account, LedgerHead};
use crate::queue::ControlWord;
use crate::region::{Keep, OsError, Part, Region, Shared};
use crate::shared::{MAGIC, Mailbox, RegionHeader, SlotWord, VERSION};
use crate::slab::Returns;
use crate::subscriptions::Rows;
use crate::sync::Ordering;
use crate::ticket::{self, Floor, Tickets};

/// A mapped region with its configuration. Shared by everything in a process that uses it.
#[derive(Debug)]
pub(crate) struct View {
    pub config: Config,
    pub layout: Layout,
    pub header: Shared<RegionHeader>,
    pub ledger: Shared<LedgerHead>,
    pub tickets: Shared<Tickets>,
    /// Whether the router sleeps.
    pub sleep: Shared<Sleep>,
    /// The router's last cut.
    pub floor: Shared<Floor>,
    pub directory: Directory,
    pub rows: Rows,
    pub pins: Rows,
    region: Region,
    /// Keys of the name hash.
    seed: (u64, u64),
}

impl View {
    /// Makes a region for this configuration and puts an empty hub into it.
    pub fn create(config: &Config, layout: Layout) -> Result<Arc<Self>, OsError> {
        let region = Region::create(parts(config, &layout), config.populate)?;
        let view = Self::of(region, layout, config, random_seed()?);
        view.header.pulse.init()?;
        view.stamp();
        Ok(Arc::new(view))
    }

    /// The region in these memfds, which become its own; they are checked first.
    pub fn adopt(memfds: &[RawFd]) -> Result<Arc<Self>, AdoptError> {
        let sizes = memfds.iter().map(|&fd| Region::size_of(fd));
        let sizes: Vec<u64> = sizes.collect::<Result<_, _>>()?;
        let plan = Plan::read(*memfds.first().ok_or(AdoptError::Malformed)?)?;
        if !plan.parts.iter().map(|part| part.len as u64).eq(sizes) {
            return Err(AdoptError::Damaged);
        }
        let region = Region::adopt(plan.parts, memfds)?;
        let view = Self::of(region, plan.layout, &plan.config, plan.seed);
        Ok(Arc::new(view))
    }

    /// What the owner of `slot` needs of a region, out of the memfds of the parts that
    /// [`Self::parts_for`] names. They are checked first.
    pub fn partial(memfds: Vec<OwnedFd>, slot: usize) -> Result<Arc<Self>, AdoptError> {
        let first = memfds.first().ok_or(AdoptError::Malformed)?;
        let plan = Plan::read(first.as_raw_fd())?;
        if slot >= plan.layout.slots {
            return Err(AdoptError::Damaged);
        }
        let needed = parts_for(&plan.layout, plan.is_split(), slot);
        if needed.len() != memfds.len() {
            return Err(AdoptError::Damaged);
        }
        let mut own: Vec<Option<OwnedFd>> = plan.parts.iter().map(|_| None).collect();
        for (&part, memfd) in needed.iter().zip(memfds) {
            if Region::size_of(memfd.as_raw_fd())? != plan.parts[part].len as u64 {
                return Err(AdoptError::Damaged);
            }
            own[part] = Some(memfd);
        }
        let (is_split, own_part) = (plan.is_split(), needed.last().copied());
        let keep = |part| match is_split {
            true => keep(part, own_part),
            false => Keep::AsItIs,
        };
        let region = Region::partial(plan.parts, own, keep)?;
        Ok(Arc::new(Self::of(
            region,
            plan.layout,
            &plan.config,
            plan.seed,
        )))
    }

    /// The parts that a process needs which uses `slot` and its siblings; its own is the last.
    pub fn parts_for(&self, slot: usize) -> Vec<usize> {
        parts_for(&self.layout, self.region.is_split(), slot)
    }

    /// The memfds, by part.
    pub fn memfds(&self) -> &FdTable {
        self.region.memfds()
    }

    fn of(region: Region, layout: Layout, config: &Config, seed: (u64, u64)) -> Self {
        if config.huge_pages {
            let end = layout.arena + layout.arena_len;
            region.advise_huge(layout.buffers..end, config.populate);
        }
        // SAFETY: the layout has these parts at these offsets, all made of atomics; everything
        // that holds them also holds the view, which keeps the region.
        unsafe {
            Self {
                header: region.words(0),
                ledger: region.words(layout.ledger),
                tickets: region.words(layout.tickets),
                sleep: region.words(layout.sleep),
                floor: region.words(layout.floor),
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
                seed,
            }
        }
    }

    /// Writes the header, the magic last.
    fn stamp(&self) {
        let header = self.header;
        // Relaxed: published by the magic.
        header.version.store(VERSION, Ordering::Relaxed);
        header
            .layout_hash
            .store(self.layout.hash(), Ordering::Relaxed);
        header.seed[0].store(self.seed.0, Ordering::Relaxed);
        header.seed[1].store(self.seed.1, Ordering::Relaxed);
        for (word, value) in header.config.iter().zip(self.config.to_words()) {
            word.store(value, Ordering::Relaxed);
        }
        if self.config.assist {
            self.sleep.stop();
        }
        self.tickets.start(&self.floor, ticket::clock());
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

    /// In a forked child: leaves it write access to the part of `worker` alone, besides what all
    /// write. A helper (None) has no part until it takes a slot.
    pub fn isolate(&self, worker: Option<u32>) -> Result<(), OsError> {
        if !self.region.is_split() {
            return Ok(());
        }
        let own = worker.map(|worker| FIRST_OWNER + worker as usize);
        let helpers = FIRST_OWNER + self.layout.workers.count;
        let hold = |part| own.is_none() || part >= helpers;
        self.region.restrict(|part| keep(part, own), hold)?;
        if let Some(own) = own {
            // Never given back: the worker attaches and detaches as it likes.
            self.region.borrow(own)?;
        }
        Ok(())
    }

    /// Access to a slot's words and lane for as long as the result lives; None if this process
    /// has given that up for good.
    pub fn enter(self: &Arc<Self>, slot: usize) -> Result<Option<Access>, OsError> {
        let part = self.part_of(slot);
        let has = self.region.borrow(part)?;
        Ok(has.then(|| Access {
            view: Arc::clone(self),
            part,
            slab: None,
            pid: std::process::id(),
        }))
    }

    /// True when this process may write all of the region, as the master must.
    pub fn is_whole(&self) -> bool {
        self.region.is_whole()
    }

    fn allow_slab(&self, slot: usize, write: bool) -> Result<(), OsError> {
        let slab = self.layout.slab(slot);
        match self.region.is_split() {
            true => self.region.allow(SLABS, slab, write),
            false => Ok(()),
        }
    }

    fn part_of(&self, slot: usize) -> usize {
        if self.region.is_split() {
            self.layout.part_of(slot)
        } else {
            0
        }
    }

    pub fn slot(&self, slot: usize) -> Shared<SlotWord> {
        self.word_of(slot, Layout::slot_word)
    }

    /// The bell of a slot's owner that has a bit for the slot's core.
    pub fn bell(&self, slot: usize) -> Shared<Bell> {
        self.word_of(slot, Layout::bell)
    }

    /// Rings the bell of a slot; true when the router sleeps and must be notified.
    #[must_use]
    pub fn ring_bell(&self, slot: usize) -> bool {
        self.bell(slot).ring(self.layout.core_of(slot), &self.sleep)
    }

    pub fn mailbox(&self, slot: usize) -> Shared<Mailbox> {
        self.nth(self.layout.mailboxes, self.layout.slots, slot)
    }

    /// The ledger's account of a slot's queue.
    pub fn queue_account(&self, slot: usize) -> Shared<Account> {
        self.account(2 * slot)
    }

    /// The ledger's account of a slot's lane.
    pub fn lane_account(&self, slot: usize) -> Shared<Account> {
        self.account(2 * slot + 1)
    }

    pub fn control(&self, slot: usize) -> Shared<ControlWord> {
        self.word_of(slot, Layout::control_word)
    }

    pub fn lane_word(&self, slot: usize) -> Shared<LaneWord> {
        self.word_of(slot, Layout::lane_word)
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

    /// The arena: its start and its length in bytes.
    pub fn arena(&self) -> (*mut u8, usize) {
        (self.region.at(self.layout.arena), self.layout.arena_len)
    }

    /// What queues can refer to, the arena and the slabs behind it: start and length in bytes.
    pub fn referable(&self) -> (*const u8, usize) {
        let (start, len) = self.arena();
        (start.cast_const(), len + self.layout.slabs_len())
    }

    /// Where the slab of a slot begins, of as many granules as it has [`Self::returns`].
    pub fn slab(&self, slot: usize) -> *mut u8 {
        assert!(slot < self.layout.slots);
        self.region.at(self.layout.slab(slot).start)
    }

    /// What the router says of a slot's slab.
    pub fn returns(&self, slot: usize) -> Returns {
        assert!(slot < self.layout.slots);
        let granules = self.layout.slab_len / GRANULE;
        let offset = self.layout.returns + slot * Returns::bytes(granules);
        // SAFETY: the layout has so many words for each slot there.
        unsafe {
            let first = self.region.words(offset + Returns::bytes(0));
            Returns::new(self.region.words(offset), first, granules)
        }
    }

    /// The word of a slot that the layout has at `offset`, which is one of its own functions.
    fn word_of<T: Sync>(&self, slot: usize, offset: fn(&Layout, usize) -> usize) -> Shared<T> {
        assert!(slot < self.layout.slots);
        // SAFETY: the layout has a T for each slot at the offset that it gives for it.
        unsafe { self.region.words(offset(&self.layout, slot)) }
    }

    /// Number `index` of `count` that lie side by side from `start` on.
    fn nth<T: Sync>(&self, start: usize, count: usize, index: usize) -> Shared<T> {
        assert!(index < count);
        // SAFETY: the layout has `count` T from `start` on.
        unsafe { self.region.words(start + index * size_of::<T>()) }
    }

    fn account(&self, index: usize) -> Shared<Account> {
        let start = self.layout.ledger + size_of::<LedgerHead>();
        self.nth(start, 2 * self.layout.slots, index)
    }
}

/// A region as its header describes it.
struct Plan {
    config: Config,
    layout: Layout,
    parts: Vec<Part>,
    seed: (u64, u64),
}

impl Plan {
    /// Reads it from the memfd of the first part, and believes nothing else.
    fn read(memfd: RawFd) -> Result<Self, AdoptError> {
        let words = Region::peek(memfd)?;
        let (config, seed) = RegionHeader::describes(&words)?;
        let layout = Layout::new(&config).map_err(|_| AdoptError::Damaged)?;
        if words[RegionHeader::LAYOUT_HASH] != layout.hash() {
            return Err(AdoptError::Damaged);
        }
        Ok(Self {
            parts: parts(&config, &layout),
            config,
            layout,
            seed,
        })
    }

    fn is_split(&self) -> bool {
        self.parts.len() > 1
    }
}

/// What a worker keeps of a part, if its own part is `own`.
fn keep(part: usize, own: Option<usize>) -> Keep {
    match part {
        0 | SLABS => Keep::ToRead,
        _ if part < FIRST_OWNER || Some(part) == own => Keep::AsItIs,
        _ => Keep::Nothing,
    }
}

fn parts_for(layout: &Layout, is_split: bool, slot: usize) -> Vec<usize> {
    match is_split {
        true => (0..FIRST_OWNER).chain([layout.part_of(slot)]).collect(),
        false => vec![0],
    }
}

/// This process uses what the owner of a slot writes.
#[derive(Debug)]
pub(crate) struct Access {
    view: Arc<View>,
    part: usize,
    /// The slot whose slab it can write.
    slab: Option<usize>,
    pid: u32,
}

impl Access {
    /// The slot has become this process's: its slab can be written from here on.
    pub fn take_slab(&mut self, slot: usize) -> Result<(), OsError> {
        self.view.allow_slab(slot, true)?;
        self.slab = Some(slot);
        Ok(())
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        // A forked child's copy says nothing about the child.
        if self.pid != std::process::id() {
            return;
        }
        self.view.region.give_back(self.part);
        if let Some(slot) = self.slab {
            // Failing leaves a mapping that nobody uses.
            let _ = self.view.allow_slab(slot, false);
        }
    }
}

/// The parts that get memfds: each its own, or one for all.
fn parts(config: &Config, layout: &Layout) -> Vec<Part> {
    if config.isolation {
        return layout.parts();
    }
    vec![Part {
        start: 0,
        len: layout.total,
        name: "corecast".into(),
    }]
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
