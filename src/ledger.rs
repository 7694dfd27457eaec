//! The ledger: what a successor must know when the master dies, kept where it survives.
//!
//! The router works in *transactions*: it appends to back buffers beyond the published tails, where
//! nobody looks, and steps over records in lanes whose heads it has not stored yet. Then it writes
//! the new state of every queue and lane that it touched into the ledger, and commits all of it
//! with one store of the transaction's number. Only then do the control words and the heads follow.
//!
//! So at any instruction a transaction has happened or not. Each queue and lane has two pages, used
//! in turn; the one that counts is the newest whose transaction is committed:
//!
//! ```text
//!              page 0                  page 1               committed: 7
//! queue 3   [ 5 | bytes, ... ]     [ 7 | bytes, ... ]    -> page 1
//! queue 4   [ 8 | half writ        [ 6 | bytes, ... ]    -> page 1: 8 never happened
//! ```
//! A successor that finds the control word of a queue without the publication that the committed
//! page names makes up for it; see `queue::QueueWriter::resume`.
//!
//! Who writes: the router. Who reads: the router of a successor, which checks what it uses.

use crate::region::Shared;
use crate::sync::{AtomicU64, Ordering, fence};

/// 64-bit words of a page, the number of the transaction included.
const WORDS: usize = 8;

/// What a page holds besides the number of its transaction.
pub(crate) type Words = [u64; WORDS - 1];

/// What concerns the hub as a whole, alone on its cache lines.
#[repr(C, align(128))]
#[derive(Debug)]
pub(crate) struct LedgerHead {
    /// Number of the last transaction that has happened.
    committed: AtomicU64,
    /// Channel indices from here on were never used.
    fresh: AtomicU64,
}

/// The two pages of one queue or lane.
#[repr(C, align(128))]
#[derive(Debug)]
pub(crate) struct Account {
    pages: [[AtomicU64; WORDS]; 2],
}

const _: () = assert!(size_of::<Account>() == 128 && size_of::<LedgerHead>() == 128);

impl LedgerHead {
    /// The number of the last transaction that has happened.
    pub fn committed(&self) -> u64 {
        // SYNC(ledger.commit): pairs with the store in `commit`, of a predecessor that is dead.
        self.committed.load(Ordering::Acquire)
    }

    /// Channel indices from here on were never used.
    pub fn fresh(&self) -> u32 {
        // Relaxed: as in `committed`, which is read first.
        u32::try_from(self.fresh.load(Ordering::Relaxed)).unwrap_or(u32::MAX)
    }

    /// Before an index below `fresh` is used for the first time.
    pub fn set_fresh(&self, fresh: u32) {
        // SYNC(ledger.fresh): Release: nothing of the channel is written before. Nobody but a
        // successor reads it.
        self.fresh.store(fresh.into(), Ordering::Release);
    }

    /// Before the first page of a transaction is written.
    #[inline]
    pub fn begin(&self) {
        // SYNC(ledger.begin): keeps the stores to the pages, whose other halves the last
        // transaction has just made valid, behind the store that committed it.
        fence(Ordering::Release);
    }

    /// From here on `transaction` has happened.
    #[inline]
    pub fn commit(&self, transaction: u64) {
        // SYNC(ledger.commit): the pages come before. What follows (control words, heads) comes
        // after: all of it by RMW or Release.
        self.committed.store(transaction, Ordering::Release);
    }
}

/// The router's hold on one account.
#[derive(Debug)]
pub(crate) struct Entry {
    account: Shared<Account>,
    /// Index of the page that counts.
    current: usize,
}

impl Entry {
    /// An account as it stands after `committed`, with its state; None if it was never written.
    /// What was written for a transaction that never happened is forgotten.
    pub fn open(account: Shared<Account>, committed: u64) -> (Self, Option<Words>) {
        // Relaxed: ordered by the Acquire load of `committed`.
        let transaction = |page: usize| account.pages[page][0].load(Ordering::Relaxed);
        for page in 0..2 {
            if transaction(page) > committed {
                // Its number will be used again.
                account.pages[page][0].store(0, Ordering::Relaxed);
            }
        }
        let current = usize::from(transaction(1) > transaction(0));
        let page = &account.pages[current];
        let words = std::array::from_fn(|i| page[i + 1].load(Ordering::Relaxed));
        let state = (transaction(current) > 0).then_some(words);
        (Self { account, current }, state)
    }

    /// Writes the state that `transaction` leads to, over the page that no longer counts.
    #[inline]
    pub fn write(&mut self, transaction: u64, words: Words) {
        self.current ^= 1;
        let page = &self.account.get().pages[self.current];
        // Relaxed: nobody reads it before it is committed, see `LedgerHead::commit`.
        page[0].store(transaction, Ordering::Relaxed);
        for (to, word) in page[1..].iter().zip(words) {
            to.store(word, Ordering::Relaxed);
        }
    }
}

/// Two 32-bit numbers in one word.
#[inline]
pub(crate) fn pack(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// The inverse of [`pack`].
pub(crate) fn unpack(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Shared<Account> {
        Shared::of(Box::leak(Box::new(Account {
            pages: std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0))),
        })))
    }

    #[test]
    fn a_state_counts_from_its_commit_on() {
        let account = account();
        let (mut entry, state) = Entry::open(account, 0);
        assert_eq!(state, None, "never written");
        for transaction in 1..5 {
            entry.write(transaction, [transaction; 7]);
            let before = (transaction > 1).then_some([transaction - 1; 7]);
            // Each look is a successor's, so it works on what the last one has left.
            assert_eq!(Entry::open(account, transaction - 1).1, before);
            (entry, _) = Entry::open(account, transaction - 1);
            entry.write(transaction, [transaction; 7]);
            assert_eq!(Entry::open(account, transaction).1, Some([transaction; 7]));
        }
    }

    #[test]
    fn what_was_not_committed_does_not_come_true_with_the_next_transaction() {
        let account = account();
        let (mut entry, _) = Entry::open(account, 0);
        entry.write(1, [1; 7]);
        entry.write(2, [2; 7]);
        let (_, state) = Entry::open(account, 1);
        assert_eq!(state, Some([1; 7]));
        // The successor's own transaction 2 concerns others.
        assert_eq!(Entry::open(account, 2).1, Some([1; 7]));
    }
}
