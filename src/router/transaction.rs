//! Transactions: what the router has done is made to have happened, all of it at once.
//!
//! Between two transactions the router only appends where nobody looks and steps over records
//! whose heads it keeps to itself. A transaction then
//! 1. writes the new state of all queues and lanes concerned into the ledger;
//! 2. commits: from this store on it has happened, whoever carries it out;
//! 3. answers the join or open that it contains, if any;
//! 4. publishes: one compare-and-swap per queue. Heads are stored at the end of the pass.
//!
//! A join or open is a transaction of its own: unlike a leave it would show if the messages before
//! it were routed again after it. See `adopt` for what a successor does.

use super::{Bias, Lane, OP_BYTES, Position, Router, Standing};
use crate::arena::Arena;
use crate::directory::ChannelId;
use crate::lane::{LaneReader, Run};
use crate::ledger::{self, Words, pack, unpack};
use crate::queue::{Publication, QueueWriter};
use crate::record::CHANNEL_MASK;
use crate::shared::{ANSWERS, Holder};
use crate::sync::Ordering;
use crate::view::View;

impl Router {
    /// Publishes when enough has gathered. Whatever has been appended must have been stepped over.
    #[inline]
    pub(super) fn publish_if_due(&mut self) {
        if self.unpublished >= OP_BYTES {
            self.publish();
        }
    }

    /// Makes the next [`Self::publish_if_due`] publish, after the current record.
    pub(super) fn publish_after_this(&mut self) {
        self.unpublished = self.unpublished.max(OP_BYTES);
    }

    /// Commits and publishes whatever there is.
    pub(super) fn publish(&mut self) {
        // More than once only where a flip has made room for a SYNC that is owed.
        while self.commit() {
            self.carry_out();
        }
        self.unpublished = 0;
    }

    /// False when nothing has changed.
    fn commit(&mut self) -> bool {
        if self.dirty.is_empty() && self.touched.is_empty() {
            return false;
        }
        let transaction = self.transaction + 1;
        self.view.ledger.begin();
        let mut changed = false;
        let mut from = 0;
        while let Some(slot) = self.dirty.next(from) {
            from = slot + 1;
            changed = true;
            self.queues[slot].record(transaction);
        }
        let lanes = &mut self.lanes;
        self.touched
            .drain(|slot| changed |= lanes[slot].record(transaction));
        debug_assert!(
            lanes.iter().all(Lane::is_recorded),
            "what was stepped over belongs to the transaction"
        );
        if changed {
            self.store_commit(transaction);
            self.transaction = transaction;
        }
        changed
    }

    /// Carries out what has been committed.
    fn carry_out(&mut self) {
        if let Some(slot) = self.answering.take() {
            self.lanes[slot].give_answer();
        }
        let mut from = 0;
        while let Some(slot) = self.dirty.next(from) {
            from = slot + 1;
            match self.queues[slot].publish(&mut self.arena) {
                Publication::Quiet => {}
                Publication::Notify { dozes } => self.wake(slot, dozes),
                Publication::Refused => {
                    self.dirty.remove(slot);
                    self.quarantine(slot);
                    continue;
                }
            }
            if !self.queues[slot].has_news() {
                self.dirty.remove(slot);
            }
        }
    }
}

impl Bias {
    /// What a predecessor has said to the lane's owner.
    pub(super) fn of(is_biased: bool) -> Self {
        if is_biased { Self::Yes } else { Self::No }
    }
}

impl Standing {
    fn code(self) -> u64 {
        match self {
            Self::Free => 0,
            Self::Live => 1,
            Self::Leaving => 2,
            Self::Quarantined => 3,
        }
    }

    fn from_code(code: u64) -> Self {
        match code {
            1 => Self::Live,
            2 => Self::Leaving,
            3 => Self::Quarantined,
            _ => Self::Free,
        }
    }
}

fn context_word(context: Option<ChannelId>) -> u64 {
    context.map_or(0, |c| pack(c.index, c.generation))
}

fn context_of(word: u64) -> Option<ChannelId> {
    let (index, generation) = unpack(word);
    (word != 0).then_some(ChannelId { index, generation })
}

impl Lane {
    /// The lane as the ledger has it after transaction `committed`.
    pub fn new(view: &View, slot: usize, committed: u64) -> Self {
        let (word, mailbox) = (view.lane_word(slot), view.mailbox(slot));
        let (account, state) = ledger::Entry::open(view.lane_account(slot), committed);
        // SYNC(lane.head): a predecessor's store; it is dead.
        let released = mailbox.head.load(Ordering::Acquire);
        // A slot that the ledger does not know has had the owners that its word counts.
        let free = Some(view.slot(slot).load()).filter(|word| word.is_free());
        let owners = free.map_or(0, |word| word.bits());
        let never: Words = [released, 0, 0, 0, owners, 0, 0];
        let state = state.unwrap_or(never);
        let head = state[0] & !15; // as every position
        // SAFETY: the view's region holds `lane_capacity` bytes there and outlives the router.
        let mut reader =
            unsafe { LaneReader::new(view.ring(slot), view.layout.lane_capacity, head) };
        let context = context_of(state[1]);
        let channel = context.map_or(0, |c| c.index & CHANNEL_MASK as u32);
        reader.resume(Run::from_words([state[5] >> 8, state[6]], head, channel));
        Self {
            reader,
            word,
            mailbox,
            context,
            checked_at: u64::MAX,
            asks: state[2],
            answer: state[3],
            holder: Holder::from_bits(state[4]),
            standing: Standing::from_code(state[5] & 0xff),
            account,
            recorded: head,
            is_changed: false,
            staged: None,
            released,
            idle: 0,
            streamed: 0,
            bias: Bias::of(word.is_biased() && !view.config.assist),
        }
    }

    /// Steps over `size` bytes that hold so many messages.
    #[inline]
    pub fn advance(&mut self, size: usize, messages: u32) {
        self.reader.advance(size);
        self.streamed = self.streamed.wrapping_add(messages);
    }

    /// Where this lane has been routed to. Records in the stage have not been.
    #[inline]
    pub fn position(&self) -> Position {
        self.staged.unwrap_or(Position {
            head: self.reader.head(),
            context: self.context,
            run: self.reader.run(),
        })
    }

    /// Writes the lane's state into the ledger as part of `transaction`; false when it is the same
    /// as before.
    #[inline]
    fn record(&mut self, transaction: u64) -> bool {
        let Position { head, context, run } = self.position();
        if head == self.recorded && !self.is_changed {
            return false;
        }
        let [left, run] = Run::words(run, head);
        let words: Words = [
            head,
            context_word(context),
            self.asks,
            self.answer,
            self.holder.bits(),
            self.standing.code() | left << 8,
            run,
        ];
        self.account.write(transaction, words);
        (self.recorded, self.is_changed) = (head, false);
        true
    }

    /// True when the ledger knows where the lane has been routed to.
    fn is_recorded(&self) -> bool {
        self.position().head == self.recorded && !self.is_changed
    }

    /// Puts the last answer into the mailbox; may be done twice.
    pub fn give_answer(&self) {
        if self.asks > 0 {
            let answer = &self.mailbox.answers[self.asks as usize % ANSWERS];
            answer.put(self.asks, self.answer);
        }
    }

    /// Stores the head if it moved. It must have been committed.
    #[inline]
    pub fn store_head(&mut self) -> bool {
        let head = self.recorded;
        if head == self.released {
            return false;
        }
        // SYNC(lane.head): pairs with the Acquire in `LaneWriter::has_room`: we have read all
        // below. SeqCst: ordered before our RMW on the lane word (arm, take_waiting), see there.
        self.mailbox.head.store(head, Ordering::SeqCst);
        self.released = head;
        true
    }
}

/// The queue as the ledger has it after transaction `committed`.
pub(super) fn queue_writer(
    view: &View,
    slot: usize,
    committed: u64,
    arena: &mut Arena,
) -> QueueWriter {
    let layout = &view.layout;
    // SAFETY: the view's region holds both buffers and outlives the router; only the master's
    // process writes them.
    unsafe {
        QueueWriter::new(
            view.control(slot),
            (view.queue_account(slot), committed),
            view.buffers(slot),
            layout.buffer_capacity,
            view.config.queue_bytes,
            arena,
        )
    }
}
