//! A few counters that all processes of a round see, beside the system under test.
//!
//! Brokers that do not slow their publishers down would otherwise queue without limit or drop:
//! here receivers say how far they are, and a sender that is a window ahead of the slowest waits.
//! That costs a sender one load per batch and receiver while there is room, and is no message.

use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::link::{Role, Topology};
use crate::support::crew::Failure;

/// Counters in memory that a fork shares.
pub struct Shared {
    base: NonNull<AtomicU64>,
    len: usize,
}

/// Counters that different processes write are this far apart.
const LINE: usize = 16;

impl Shared {
    /// `len` counters of zero.
    pub fn new(len: usize) -> Result<Shared, Failure> {
        let bytes = NonZeroUsize::new(len.max(1) * size_of::<AtomicU64>()).expect("not zero");
        let (access, flags) = (
            ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
            MapFlags::MAP_SHARED,
        );
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe { mmap_anonymous(None, bytes, access, flags) }?;
        Ok(Shared {
            base: base.cast(),
            len,
        })
    }

    /// The counters.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping holds `len` zeroed words, and lives as long as self.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length; nobody borrows it any more.
        let _ = unsafe { munmap(self.base.cast(), self.len.max(1) * size_of::<AtomicU64>()) };
    }
}

/// How far each worker is, and how far ahead of the slowest receiver of a channel its senders
/// may be.
pub struct Credit {
    roles: Vec<Role>,
    /// For each worker, what it has sent and what it has received.
    counts: Shared,
    window: u64,
}

impl Credit {
    /// Lets all senders of a channel together be `window` messages ahead of each receiver.
    pub fn new(topology: &Topology, window: u64) -> Result<Credit, Failure> {
        Ok(Credit {
            counts: Shared::new(topology.roles.len() * 2 * LINE)?,
            roles: topology.roles.clone(),
            window,
        })
    }

    /// The account of what `role` sends.
    pub fn sender(&self, role: Role) -> Account<'_> {
        self.account(role.sends, role.worker * 2)
    }

    /// The account of what `role` receives.
    pub fn receiver(&self, role: Role) -> Account<'_> {
        self.account(role.hears, role.worker * 2 + 1)
    }

    fn account(&self, channel: Option<u8>, at: usize) -> Account<'_> {
        let workers = |has: fn(&Role) -> Option<u8>| -> Vec<usize> {
            let among = self.roles.iter().filter(|role| has(role) == channel);
            among.map(|role| role.worker).collect()
        };
        let senders = workers(|role| role.sends)
            .into_iter()
            .map(|worker| worker * 2);
        let receivers = workers(|role| role.hears)
            .into_iter()
            .map(|worker| worker * 2 + 1);
        Account {
            credit: self,
            senders: senders.collect(),
            receivers: receivers.collect(),
            at,
            own: 0,
            known: 0,
        }
    }

    fn count(&self, at: usize) -> u64 {
        // Relaxed: hints for pacing; the messages themselves travel another way.
        self.counts.words()[at * LINE].load(Ordering::Relaxed)
    }
}

/// One process's own count on one channel.
pub struct Account<'a> {
    credit: &'a Credit,
    senders: Vec<usize>,
    receivers: Vec<usize>,
    at: usize,
    own: u64,
    known: u64,
}

impl Account<'_> {
    /// A receiver has, or a sender sends, `count` messages more.
    pub fn add(&mut self, count: u64) {
        self.own += count;
        // Relaxed: see `Credit::count`.
        self.credit.counts.words()[self.at * LINE].store(self.own, Ordering::Relaxed);
    }

    fn sent(&self) -> u64 {
        self.senders.iter().map(|&at| self.credit.count(at)).sum()
    }

    fn slowest(&self) -> u64 {
        let counts = self.receivers.iter().map(|&at| self.credit.count(at));
        counts.min().unwrap_or(u64::MAX)
    }

    /// Waits while the slowest receiver is more than the window behind what has been sent.
    pub fn wait(&mut self) {
        let due = self.sent().saturating_sub(self.credit.window);
        if due > self.known {
            nap_until(|| {
                self.known = self.slowest();
                self.sent().saturating_sub(self.credit.window) <= self.known
            });
        }
    }

    /// Waits until every receiver has everything.
    pub fn wait_for_all(&self) {
        nap_until(|| self.slowest() >= self.sent());
    }
}

/// Sleeps until `ready`; for waits that the window makes rare and long.
pub fn nap_until(mut ready: impl FnMut() -> bool) {
    while !ready() {
        std::thread::sleep(Duration::from_micros(50));
    }
}
