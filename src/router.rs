//! The router: one pass takes what the cores have published, in ticket order, and puts it into
//! the queues of the subscribed cores.
//!
//! [`Router::step`] makes no system call and no allocation, takes no lock and knows no thread:
//! the master's thread, a host's own loop, tests and models all call the same code. What needs a
//! system call (eventfds, futexes, pidfds) it only reports, in [`Outcome`].
//!
//! A pass:
//! 1. **collect**: find the lanes with news. If only one lane is active, read its tail and then
//!    the doorbell: nothing else rung means that nothing published before is missing, and no
//!    ticket need be drawn. Otherwise draw a ticket T, then take the doorbell, then read the tails.
//! 2. **route**: records below T, smallest ticket first. Runs of small messages to one channel
//!    are staged and appended to each queue with one copy; operations take effect in their place.
//! 3. **publish**: commit to the ledger what has been routed, then one compare-and-swap per queue
//!    that got something (see `transaction`; a pass of much traffic does so several times).
//! 4. **release**: store the lanes' heads; arm lanes that stay empty.
//!
//! Invariants: everything the router believes (heads, tails, holders, contexts) is in its own
//! memory; what workers wrote is checked before use, and a worker that wrote nonsense is
//! quarantined, never the reason for a panic.

mod adopt;
mod arm;
mod bells;
#[cfg(test)]
mod biased;
mod collect;
mod deliver;
#[cfg(test)]
mod extremes;
mod lent;
mod merge;
#[cfg(test)]
mod misdeeds;
mod ops;
#[cfg(test)]
mod packs;
#[cfg(test)]
mod placed;
#[cfg(test)]
mod runs;
mod sabotage;
#[cfg(test)]
mod sharing;
mod slot_set;
mod slots;
mod stage;
mod transaction;

use std::sync::Arc;

use crate::arena::Arena;
use crate::config::Timestamps;
use crate::directory::{ChannelId, DirectoryWriter};
use crate::lane::{LaneReader, LaneRecord, LaneWord, Run, Violation};
use crate::layout::Layout;
use crate::ledger;
use crate::memory::{Block, Memory};
use crate::queue::QueueWriter;
use crate::record::{full_ticket, kind};
use crate::region::Shared;
use crate::shared::{Holder, Mailbox};
use crate::stats::{ASSISTED, Stats};
use crate::subscriptions::Subscriptions;
use crate::sync::Ordering;
use crate::ticket;
use crate::view::View;
use bells::Bells;
use deliver::Small;
use lent::Lent;
use merge::Merge;
#[cfg(debug_assertions)]
pub use sabotage::Sabotage;
pub(crate) use slot_set::{MAX_SLOTS, SlotSet};
use stage::Stage;
pub(crate) use stage::longest_record;
use transaction::queue_writer;

/// Bytes of records appended before the queues are published: more falls out of the L2 cache at
/// high fan-out, less pays a compare-and-swap too often.
const OP_BYTES: usize = 16 << 10;
/// Bytes of records one pass routes at most, so that sleepers are woken in time.
const PASS_BYTES: usize = 128 << 10;
/// Passes that a lane may be found empty before it is armed: arming costs the sender a doorbell.
const IDLE_PASSES: u8 = 8;
/// Messages that a lane brings without being armed in between before it is biased: revoking that
/// costs as much as a few hundred sends save by it.
const STREAM: u32 = 1024;

/// What a pass leaves for the master to do.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Cores that were armed and got something.
    pub wakes: Wakes,
    /// Cores that wait for room or an answer: bump and wake their event words.
    pub events: SlotSet,
    /// Slots that got or lost an owner: look at the process behind them.
    pub owners: SlotSet,
    /// Lanes are no longer biased: call [`barrier::heavy`], then [`Router::settle`].
    ///
    /// [`barrier::heavy`]: crate::barrier::heavy
    pub barrier: bool,
}

/// Cores to notify.
#[derive(Debug)]
pub(crate) struct Wakes {
    /// Write their eventfds.
    pub others: SlotSet,
    /// Wake who sleeps on their control words.
    pub dozers: SlotSet,
}

impl Wakes {
    const fn new() -> Self {
        Self {
            others: SlotSet::new(),
            dozers: SlotSet::new(),
        }
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.others.is_empty() && self.dozers.is_empty()
    }

    pub fn len(&self) -> usize {
        self.others.len() + self.dozers.len()
    }
}

/// Whether a lane is biased towards its sender, see `lane`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bias {
    No,
    Yes,
    /// It has been revoked, and the barrier is still to come: the lane cannot be armed yet.
    Revoked,
}

/// What the router knows about the owner of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Free,
    Live,
    /// Dead or detached: deliver what it published, then free the slot.
    Leaving,
    /// Its lane was damaged: ignore it until its process ends.
    Quarantined,
}

/// The router's private state of one lane and its owner.
#[derive(Debug)]
struct Lane {
    reader: LaneReader,
    word: Shared<LaneWord>,
    mailbox: Shared<Mailbox>,
    standing: Standing,
    /// The slot word when its owner was noticed.
    holder: Holder,
    /// The channel that messages without a name go to.
    context: Option<ChannelId>,
    /// `Router::removals` when the context was last found current.
    checked_at: u64,
    /// Joins and opens answered.
    asks: u64,
    /// The last answer, see [`crate::answer::Answer`].
    answer: u64,
    account: ledger::Entry,
    /// The head in the ledger.
    recorded: u64,
    /// Something besides the head differs from the ledger.
    is_changed: bool,
    /// Where the first of its records in the stage begins: what lies there has not been routed.
    staged: Option<Position>,
    /// The head as stored in the mailbox.
    released: u64,
    /// Consecutive passes that found nothing.
    idle: u8,
    /// Messages since it was last armed, modulo 2^32.
    streamed: u32,
    bias: Bias,
}

/// A place in a lane, and what counts there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    head: u64,
    context: Option<ChannelId>,
    /// The run that the head is in.
    run: Option<Run>,
}

/// How far the routing of a lane went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    /// Nothing (more) below the limit.
    Done,
    /// A queue has no room and the policy is to wait.
    Blocked,
    /// The pass has routed its share.
    Enough,
}

/// The router. One process holds it at a time: the master.
#[derive(Debug)]
pub(crate) struct Router {
    view: Arc<View>,
    directory: DirectoryWriter,
    subscriptions: Subscriptions,
    lanes: Block<Lane>,
    queues: Block<QueueWriter>,
    arena: Arena,
    /// What is out of the cores' slabs.
    lent: Lent,
    bells: Bells,
    /// Lanes that are not armed: they may have news without ringing.
    active: SlotSet,
    leaving: SlotSet,
    /// Lanes whose bias has been revoked since the last barrier.
    revoked: SlotSet,
    /// Whoever runs this router can call the barrier: lanes may be biased.
    pub may_bias: bool,
    /// Lanes with records below the cut, smallest ticket first.
    merge: Merge,
    stage: Stage,
    /// What may be staged in a run.
    small: Small,
    /// Queues with unpublished changes.
    dirty: SlotSet,
    /// Lanes that may have changed since the last transaction.
    touched: SlotSet,
    /// Lanes with records in the stage.
    staged: SlotSet,
    /// The last transaction committed.
    transaction: u64,
    /// The slot whose join or open the next transaction contains.
    answering: Option<usize>,
    /// Bytes appended since the queues were last published.
    unpublished: usize,
    /// Bytes this pass may still route.
    budget: usize,
    /// The last cut plus one: no ticket below it is drawn any more.
    floor: u64,
    cuts: u32,
    sole_passes: u32,
    /// The full queue that routing waits for.
    blocked_on: Option<usize>,
    /// A record was sent after the cut of this pass, and waits for the next.
    deferred: bool,
    /// The last pass has left something to do that nobody will ring for.
    pub is_left: bool,
    /// Channels removed so far: contexts checked before may be stale.
    removals: u64,
    /// Time of this pass, ns; 0 until needed.
    now: u64,
    clock: fn() -> u64,
    /// Number of the master it served last, see `RegionHeader::reign`.
    pub reign: u64,
    #[cfg(debug_assertions)]
    pub sabotage: Sabotage,
    pub outcome: Outcome,
    pub stats: Stats,
    /// As they are in the region.
    stored: Stats,
}

// SAFETY: its raw pointers go to the region, which `view` keeps mapped, and to parts that only
// the one router writes (queues) or reads as its own end (lanes).
unsafe impl Send for Router {}

impl Router {
    /// A router for a new region, whose state is in `memory`.
    pub fn new(view: Arc<View>, clock: fn() -> u64, memory: Memory) -> Self {
        let slots = view.layout.slots;
        let committed = view.ledger.committed();
        let (base, bytes) = view.arena();
        // SAFETY: the view's region holds the arena and outlives the router; only the master's
        // process writes it.
        let mut arena = unsafe { Arena::new(base, bytes, view.layout.slabs_len(), memory) };
        Self {
            directory: DirectoryWriter::new(view.directory, memory),
            subscriptions: Subscriptions::new(view.rows, view.pins, slots, memory),
            lanes: Block::new(memory, slots, |s| Lane::new(&view, s, committed)),
            queues: Block::new(memory, slots, |s| {
                queue_writer(&view, s, committed, &mut arena)
            }),
            arena,
            lent: Lent::new(&view.layout, memory),
            bells: Bells::new(&view, memory),
            active: SlotSet::new(),
            leaving: SlotSet::new(),
            revoked: SlotSet::new(),
            may_bias: false,
            merge: Merge::new(memory, slots),
            stage: Stage::new(&view.config, memory),
            small: Small::new(&view.config),
            dirty: SlotSet::new(),
            touched: SlotSet::new(),
            staged: SlotSet::new(),
            transaction: committed,
            answering: None,
            unpublished: 0,
            budget: 0,
            floor: view.floor.load(),
            cuts: 0,
            sole_passes: 0,
            blocked_on: None,
            deferred: false,
            is_left: false,
            removals: 0,
            now: 0,
            clock,
            reign: 0,
            #[cfg(debug_assertions)]
            sabotage: Sabotage::default(),
            outcome: Outcome {
                wakes: Wakes::new(),
                events: SlotSet::new(),
                owners: SlotSet::new(),
                barrier: false,
            },
            stats: Stats::default(),
            stored: Stats::default(),
            view,
        }
    }

    /// Bytes of a pool for a router and its state, at most.
    pub fn footprint(layout: &Layout) -> usize {
        let Layout {
            slots, channels, ..
        } = *layout;
        Block::<Self>::footprint(1)
            + Block::<Lane>::footprint(slots)
            + Block::<QueueWriter>::footprint(slots)
            + DirectoryWriter::footprint(channels)
            + Subscriptions::footprint(slots, channels)
            + Arena::footprint(layout.arena_len, layout.slabs_len())
            + Lent::footprint(layout)
            + Bells::footprint(slots)
            + Merge::footprint(slots)
            + Stage::footprint()
    }

    /// One pass. True when it found something or something is left to do: call it again.
    pub fn step(&mut self) -> bool {
        let cut = self.collect();
        self.is_left = false;
        if self.is_idle() {
            return false;
        }
        self.now = 0;
        self.budget = PASS_BYTES;
        (self.blocked_on, self.deferred) = (None, false);
        let flow = self.route(cut);
        self.publish();
        let moved = self.release();
        self.finish_leaving();
        self.is_left = flow == Flow::Enough || self.unblocked() || self.deferred;
        let progress = moved || self.stats != self.stored || self.is_left;
        if progress {
            self.stats.passes += 1;
            self.stats.store(&self.stored, &self.view.header.counters);
            self.stored = self.stats;
        }
        progress
    }

    /// Bytes of records that the last pass which found something has routed, at most.
    pub fn routed_bytes(&self) -> usize {
        PASS_BYTES - self.budget
    }

    /// A helper has done what there was to do.
    pub fn count_help(&mut self) {
        self.stats.assisted += 1;
        self.stored.assisted = self.stats.assisted;
        // Relaxed: as in `Stats::store`.
        let counter = &self.view.header.counters[ASSISTED];
        counter.store(self.stats.assisted, Ordering::Relaxed);
    }

    /// A core must be notified.
    fn wake(&mut self, slot: usize, dozes: bool) {
        if dozes {
            self.outcome.wakes.dozers.insert(slot);
        } else {
            self.outcome.wakes.others.insert(slot);
        }
        self.stats.wakes += 1;
    }

    fn is_idle(&self) -> bool {
        self.active.is_empty()
            && self.dirty.is_empty()
            && self.touched.is_empty()
            && self.stage.is_empty()
    }

    fn route(&mut self, cut: Option<u64>) -> Flow {
        if self.flush() == Flow::Blocked {
            return Flow::Blocked;
        }
        let flow = match cut {
            Some(cut) => self.merge(cut),
            None => self.one_by_one(),
        };
        if flow == Flow::Blocked {
            return flow;
        }
        if self.flush() == Flow::Blocked {
            return Flow::Blocked;
        }
        flow
    }

    /// Lanes one after the other, each as far as it goes.
    fn one_by_one(&mut self) -> Flow {
        let mut from = 0;
        while let Some(slot) = self.active.next(from) {
            from = slot + 1;
            let flow = self.drain(slot, None);
            if flow != Flow::Done {
                return flow;
            }
        }
        Flow::Done
    }

    /// All active lanes, smallest ticket first, up to the cut.
    fn merge(&mut self, cut: u64) -> Flow {
        self.merge.clear();
        let mut from = 0;
        while let Some(slot) = self.active.next(from) {
            from = slot + 1;
            self.enter(slot, cut);
        }
        while let Some((own, slot)) = self.merge.pop() {
            // No two lanes have a ticket in common, unless one of them forged it: the lane that
            // comes first must get on then too.
            let limit = match self.merge.first() {
                Some((next, _)) if next != own => next,
                Some(_) => own.wrapping_add(1),
                None => 0,
            };
            let slot = slot as usize;
            let head = self.lanes[slot].reader.head();
            let flow = self.drain(slot, Some((limit, cut)));
            if flow != Flow::Done {
                return flow;
            }
            if self.lanes[slot].reader.head() == head {
                // Its first record had the smallest ticket a moment ago. A lane that changes its
                // mind each time it is looked at would keep this loop going for ever.
                self.quarantine(slot);
                continue;
            }
            self.enter(slot, cut);
        }
        Flow::Done
    }

    /// Puts a lane into the merge if its next record is below the cut.
    fn enter(&mut self, slot: usize, cut: u64) {
        self.touched.insert(slot);
        match self.next_ticketed(slot) {
            Ok(None) => {}
            Ok(Some(record)) => {
                let ticket = full_ticket(record.header.ticket(), cut);
                if ticket.wrapping_sub(cut) as i64 >= 0 {
                    // Its lane is not armed, so nobody will ring for it.
                    self.deferred = true;
                    self.check_future(slot, ticket);
                } else {
                    // Distance to the cut, reversed, so that a wrapped counter sorts right.
                    self.merge.push((ticket.wrapping_sub(cut), slot as u32));
                }
            }
            Err(Violation) => self.quarantine(slot),
        }
    }

    /// The lane's next record that has a ticket. A context has the generation in its place; it
    /// concerns its own lane only and so takes effect as soon as it is seen.
    #[inline(always)]
    fn next_ticketed(&mut self, slot: usize) -> Result<Option<LaneRecord>, Violation> {
        loop {
            let lane = &mut self.lanes[slot];
            let record = match lane.reader.peek(&lane.word)? {
                Some(record) if record.header.kind() == kind::CONTEXT => record,
                other => return Ok(other),
            };
            self.context(slot, record)?;
            self.lanes[slot].reader.advance(record.size);
        }
    }

    /// A record at or above the cut waits for the next pass, if it can exist at all.
    fn check_future(&mut self, slot: usize, ticket: u64) {
        let drawn = self.view.tickets.drawn(self.floor, ticket::clock);
        if ticket.wrapping_sub(drawn) as i64 >= 0 {
            self.quarantine(slot);
        }
    }

    /// Routes one lane's records; with `Some((limit, cut))` only while their tickets, counted from
    /// the cut, are below `limit`.
    fn drain(&mut self, slot: usize, limit: Option<(u64, u64)>) -> Flow {
        loop {
            // Each time: what is stepped over after a transaction belongs to the next.
            self.touched.insert(slot);
            self.run(slot, limit);
            let record = match self.next_ticketed(slot) {
                Ok(Some(record)) => record,
                Ok(None) => return Flow::Done,
                Err(Violation) => {
                    self.quarantine(slot);
                    return Flow::Done;
                }
            };
            if let Some((limit, cut)) = limit {
                let ticket = full_ticket(record.header.ticket(), cut);
                if !is_below(ticket, limit, cut) {
                    return Flow::Done;
                }
            }
            match self.dispatch(slot, record) {
                Ok(Flow::Done) => {}
                Ok(stop) => return stop,
                Err(Violation) => {
                    self.quarantine(slot);
                    return Flow::Done;
                }
            }
        }
    }

    /// Routes one record and steps over it, unless a queue is in the way.
    #[inline]
    fn dispatch(&mut self, slot: usize, record: LaneRecord) -> Result<Flow, Violation> {
        let (size, head) = (record.size, self.lanes[slot].reader.head());
        let flow = match record.header.kind() {
            kind::MESSAGE | kind::PACK => self.message(slot, record)?,
            kind::NAMED => self.named(slot, record)?,
            kind::PLACED => self.placed(slot, record)?,
            _ => self.operation(slot, record)?,
        };
        if flow == Flow::Blocked {
            return Ok(flow);
        }
        if self.lanes[slot].reader.head() != head {
            // Publishing on the way has found its queue damaged, and given up what is in its lane.
            return Ok(Flow::Done);
        }
        self.lanes[slot].advance(size, record.header.messages());
        // Again: there may have been a transaction since, and this step belongs to the next.
        self.touched.insert(slot);
        self.publish_if_due();
        if self.budget < size {
            self.budget = 0;
            return Ok(Flow::Enough);
        }
        self.budget -= size;
        Ok(flow)
    }

    fn unblocked(&self) -> bool {
        self.blocked_on
            .is_some_and(|slot| !self.queues[slot].is_full())
    }
}

/// True when `ticket`, counted from the cut, is below `limit`. Relative and signed, so that a
/// counter that has wrapped compares right.
#[inline]
fn is_below(ticket: u64, limit: u64, cut: u64) -> bool {
    (ticket.wrapping_sub(cut) as i64) < limit as i64
}

impl Router {
    /// The stamp for what is appended in this pass.
    #[inline]
    fn stamp(&mut self) -> u64 {
        if self.now == 0 && self.view.config.timestamps == Timestamps::Batch {
            self.now = (self.clock)();
        }
        self.now
    }
}
