//! A core: one unit of concurrency in a worker, and the calls it makes.
//!
//! A core is used by one thread (or greenlet, or loop) at a time; it can move between threads.
//! Sending and receiving touch only shared memory: no allocation, no lock, and no system call
//! but the one notification when the other side sleeps.

mod alike;
mod assist;
mod attach;
mod loan;
mod membership;
mod messages;
mod recv;
mod send;
mod turns;
mod wait;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;

use crate::directory::{ChannelId, Directory};
use crate::hub::Inner;
use crate::lane::{LaneWord, LaneWriter};
use crate::linger::Linger;
use crate::queue::QueueReader;
use crate::region::Shared;
use crate::shared::{Holder, Mailbox, RegionHeader};
use crate::slab::Slab;
use crate::sync::{AtomicU32, Ordering};
use crate::ticket::{Floor, LastTicket, Tickets};
use crate::view::Access;
use assist::Pace;
use membership::Memberships;
use recv::Origin;
use send::NameCache;
use wait::MasterWatch;

pub use loan::Loan;
#[doc(hidden)]
pub use loan::RawLoan;
pub use membership::JoinTicket;
pub use messages::Messages;

/// Who sent a message: worker and core index. Extra slots have worker number `config.workers`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sender {
    /// Worker index.
    pub worker: u32,
    /// Core index within the worker.
    pub core: u32,
}

/// A resolved channel: sending to it needs no look-up of the name. Good until closed by the core
/// that opened it, or that core detaches; then it is refused as stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Channel(ChannelId);

impl Channel {
    /// Index and generation.
    pub fn id(self) -> ChannelId {
        self.0
    }

    /// The inverse of [`Self::id`], for bindings. A wrong id is refused as stale when used.
    pub fn from_id(id: ChannelId) -> Self {
        Self(id)
    }
}

/// A received message, in place: valid until the next call on the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message<'a> {
    /// The channel.
    pub channel: ChannelId,
    /// Its name, 1 to 255 bytes.
    pub name: &'a [u8],
    /// What was sent.
    pub body: &'a [u8],
    /// Who sent it.
    pub sender: Sender,
    /// Its place in the hub's order. Never decreases among messages of one sender; otherwise a
    /// message may come late, with a smaller ticket than the one before, if its sender was held up
    /// between taking the ticket and publishing. The order received is the order of the hub.
    pub ticket: u64,
    /// Nanoseconds since the epoch (CLOCK_REALTIME), 0 when timestamps are off.
    pub timestamp: u64,
}

/// An attached core. Detaches when dropped.
pub struct Core {
    hub: Arc<Inner>,
    slot: usize,
    holder: Holder,
    pid: u32,
    /// The pid again, while attached: what `process` must read for a call to go on at once.
    usable_in: u32,
    process: Shared<AtomicU32>,
    fd: RawFd,
    me: Sender,
    detached: bool,
    // Copies of what the hot paths need, next to each other.
    header: Shared<RegionHeader>,
    tickets: Shared<Tickets>,
    floor: Shared<Floor>,
    word: Shared<LaneWord>,
    mailbox: Shared<Mailbox>,
    directory: Directory,
    lane: LaneWriter,
    /// The lane was biased when this core last looked.
    biased: bool,
    last_ticket: LastTicket,
    turns: turns::Turns,
    /// The channel of the last CONTEXT record in the lane.
    context: Option<ChannelId>,
    last: alike::Last,
    run: alike::Run,
    max_message: usize,
    /// Where large messages are written: of `large` bytes and more.
    slab: Slab,
    slab_linger: Linger,
    large: usize,
    /// Bytes of a pack, at most.
    longest_pack: usize,
    stamped: bool,
    ordered: bool,
    queue: QueueReader,
    /// The last full ticket received: completes the 48 bits of the next.
    seen_ticket: u64,
    /// Where the last message received came from.
    origin: Origin,
    lost: u64,
    /// Lane position behind the last join or leave that may not have been routed yet; 0: none.
    last_request: u64,
    name_cache: NameCache,
    memberships: Memberships,
    pace: Pace,
    master: MasterWatch,
    /// Dropped last of all that uses the region.
    _access: Access,
}

// SAFETY: the raw pointers inside (lane, queue) go to the region, which the hub's Arc keeps
// mapped, and to parts of it that this core alone uses.
unsafe impl Send for Core {}

/// Why a call cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    WrongProcess,
    Detached,
}

macro_rules! from_unusable {
    ($($error:ty),+) => {
        $(impl From<Unusable> for $error {
            fn from(u: Unusable) -> Self {
                match u {
                    Unusable::WrongProcess => Self::WrongProcess,
                    Unusable::Detached => Self::Detached,
                }
            }
        })+
    };
}

from_unusable!(
    crate::SendError,
    crate::JoinError,
    crate::LeaveError,
    crate::RecvError
);

impl Core {
    /// The worker this core belongs to.
    pub fn worker(&self) -> u32 {
        self.me.worker
    }

    /// Its index within the worker.
    pub fn core(&self) -> u32 {
        self.me.core
    }

    /// What others see as the sender of its messages.
    pub fn me(&self) -> Sender {
        self.me
    }

    /// Messages lost to this core so far, as far as `recv` has told.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    #[inline]
    fn check(&self) -> Result<(), Unusable> {
        // Relaxed: see `ProcessMark::current`.
        if self.process.load(Ordering::Relaxed) == self.usable_in {
            return Ok(());
        }
        self.check_slowly()
    }

    #[cold]
    fn check_slowly(&self) -> Result<(), Unusable> {
        if self.hub.mark.current() != self.pid {
            return Err(Unusable::WrongProcess);
        }
        if self.detached {
            return Err(Unusable::Detached);
        }
        Ok(())
    }

    /// True when the master has stopped or died, unless a successor is awaited.
    #[inline]
    fn master_is_gone(&mut self) -> bool {
        !self.header.pulse.beats() && !self.master_is_alive()
    }
}

/// Rings the doorbell of a slot, and wakes the master if it sleeps.
pub(crate) fn ring(hub: &Inner, slot: usize) {
    if hub.view.ring_bell(slot) {
        hub.notify_router();
    }
}

impl AsFd for Core {
    /// The eventfd. Register it for reading, edge-triggered; never read it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: owned by the hub's table, which closes it only when the hub is dropped or
        // this process becomes another worker; both outlast this core.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }
}

impl AsRawFd for Core {
    fn as_raw_fd(&self) -> RawFd {
        self.fd
    }
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("worker", &self.me.worker)
            .field("core", &self.me.core)
            .field("generation", &self.holder.generation())
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}
