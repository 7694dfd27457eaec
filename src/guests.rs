//! Guests: processes that did not inherit the hub, and come by a Unix socket to be workers of it.
//! For servers that spawn or exec their workers.
//!
//! The hub's side is here, and served by the master between its passes: it never waits for a peer,
//! and what a peer sends is one packet of fixed size, looked at once. The guest's side is in
//! [`connect`], the packets in [`wire`].
//!
//! ```text
//! arrival ──hello──► guest with a seat ──end of the connection──► its slots are reaped
//! ```
//! A *seat* is a worker's slots, or one extra slot. A guest has one from the answer to its hello to
//! the end of its connection; its memory it can write as a forked worker could, and no more.
//!
//! Who writes: the master, and `Hub::listen`, under a lock that no forked child ever waits for.

pub(crate) mod address;
pub(crate) mod connect;
pub(crate) mod wire;

use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockType, accept4, bind, getsockopt, listen,
    shutdown, socket, sockopt,
};
use parking_lot::{Mutex, MutexGuard};

use self::address::Address;
use self::wire::Answer;
use crate::error::ListenError;
use crate::hub::Inner;
use crate::region::OsError;
use crate::sync::{AtomicBool, AtomicU32, Ordering};

/// Peers that have connected and not said hello. One more, and the oldest has to go.
const MOST_ARRIVALS: usize = 16;
/// Peers taken in at a time; the master routes in between.
const AT_A_TIME: usize = 64;
/// Peers that the kernel keeps for the master.
const BACKLOG: i32 = 128;

/// A pid that Linux gives to no process, for guests in pid namespaces that the master cannot see
/// into: of their deaths the connection alone tells.
pub(crate) const UNSEEN: u32 = 1 << 22;

/// The hub's socket, if it listens, and who has come.
#[derive(Debug, Default)]
pub(crate) struct Guests {
    /// Locked by [`Guests::enter`] only; a worker that was forked only tries.
    reception: Mutex<Option<Reception>>,
    /// The process that locked it last.
    locked_by: AtomicU32,
    /// The master has to look though no event says so.
    is_due: AtomicBool,
}

#[derive(Debug)]
struct Reception {
    listener: OwnedFd,
    address: Address,
    /// The process that made the socket, and removes its file.
    pid: u32,
    /// Who may come, besides root.
    uid: u32,
    /// Slots of each seat.
    seats: Vec<Range<usize>>,
    arrivals: VecDeque<Arrival>,
    guests: Vec<Guest>,
}

/// A peer of the right user that has not said hello.
#[derive(Debug)]
struct Arrival {
    connection: OwnedFd,
    pid: u32,
}

#[derive(Debug)]
struct Guest {
    connection: OwnedFd,
    /// Index into the seats.
    seat: usize,
    pid: u32,
}

/// A guest that has gone: whoever claimed one of these slots with that pid is dead.
pub(crate) struct Departed {
    pub slots: Range<usize>,
    pub pid: u32,
}

impl Guests {
    /// Makes the socket. Peers wait until the master serves them.
    pub fn listen(&self, address: &Address, seats: Vec<Range<usize>>) -> Result<(), ListenError> {
        let mut reception = self.enter().ok_or(ListenError::WrongProcess)?;
        if reception.is_some() {
            return Err(ListenError::Listening);
        }
        *reception = Some(Reception {
            listener: open_socket(address)?,
            address: address.clone(),
            pid: std::process::id(),
            uid: nix::unistd::geteuid().as_raw(),
            seats,
            arrivals: VecDeque::new(),
            guests: Vec::new(),
        });
        self.is_due.store(true, Ordering::Release); // SYNC(guests.due): as in `be_due`
        Ok(())
    }

    /// Locks, waiting for other threads. None if the process was forked while a thread of its
    /// parent was in here: what that left may be half done, and is of no use.
    fn enter(&self) -> Option<MutexGuard<'_, Option<Reception>>> {
        let me = std::process::id();
        loop {
            if let Some(reception) = self.reception.try_lock() {
                // Relaxed, both: says whose lock it is; the lock itself orders the rest.
                self.locked_by.store(me, Ordering::Relaxed);
                return Some(reception);
            }
            if ![0, me].contains(&self.locked_by.load(Ordering::Relaxed)) {
                return None;
            }
            std::thread::yield_now();
        }
    }

    /// A forked worker has no business with other processes' connections.
    pub fn leave_to_parent(&self) {
        if let Some(mut reception) = self.reception.try_lock() {
            *reception = None;
        }
    }

    /// If the hub listens: the master, which may be a new one, has to look at all of this.
    pub fn be_due(&self) -> bool {
        let listens = self.enter().is_some_and(|reception| reception.is_some());
        if listens {
            // SYNC(guests.due): pairs with the swap in `take_due`; the lock carries the data.
            self.is_due.store(true, Ordering::Release);
        }
        listens
    }

    pub fn is_due(&self) -> bool {
        // Relaxed: whoever sets it later rings.
        self.is_due.load(Ordering::Relaxed)
    }

    pub fn take_due(&self) -> bool {
        // Mostly false; the swap decides.
        self.is_due()
            // SYNC(guests.due): pairs with the stores.
            && self.is_due.swap(false, Ordering::AcqRel)
    }

    /// Watches all descriptors there are. Those that it watches already stay as they are.
    pub fn enroll(&self, epoll: &Epoll) {
        let entered = self.enter();
        let Some(reception) = entered.as_deref().and_then(Option::as_ref) else {
            return;
        };
        watch(epoll, reception.listener.as_fd(), EpollFlags::EPOLLIN);
        for arrival in &reception.arrivals {
            watch(epoll, arrival.connection.as_fd(), EpollFlags::EPOLLIN);
        }
        for guest in &reception.guests {
            watch(epoll, guest.connection.as_fd(), EpollFlags::empty());
        }
    }

    /// Takes out the guests whose connection has ended.
    pub fn departed(&self, epoll: &Epoll) -> Vec<Departed> {
        match self.enter().as_deref_mut() {
            Some(Some(reception)) => reception.departed(epoll),
            _ => Vec::new(),
        }
    }

    /// Takes in who has come, answers who has said hello. `is_free` knows of slots.
    pub fn serve(&self, epoll: &Epoll, hub: &Inner, is_free: impl Fn(usize) -> bool) {
        let mut entered = self.enter();
        let Some(reception) = entered.as_deref_mut().and_then(Option::as_mut) else {
            return;
        };
        let taken = reception.take_in(epoll);
        if taken != Ok(true) {
            // SYNC(guests.due): as in `be_due`.
            self.is_due.store(true, Ordering::Release);
        }
        if taken == Ok(false) {
            hub.notify_router();
        }
        reception.answer_hellos(epoll, hub, &is_free);
    }
}

impl Reception {
    /// Accepts who is there; false when more may be. An error (no descriptors are left) is to be
    /// tried again, but not at once.
    fn take_in(&mut self, epoll: &Epoll) -> nix::Result<bool> {
        for _ in 0..AT_A_TIME {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            match accept4(self.listener.as_raw_fd(), flags) {
                // SAFETY: just made for this process.
                Ok(fd) => self.look_at(epoll, unsafe { OwnedFd::from_raw_fd(fd) }),
                Err(Errno::EINTR | Errno::ECONNABORTED) => {}
                Err(Errno::EAGAIN) => return Ok(true),
                Err(e) => return Err(e),
            }
        }
        Ok(false)
    }

    /// Refuses other users at once, and keeps the others until they say hello.
    fn look_at(&mut self, epoll: &Epoll, connection: OwnedFd) {
        let Ok(peer) = getsockopt(&connection, sockopt::PeerCredentials) else {
            return;
        };
        if peer.uid() != self.uid && peer.uid() != 0 {
            let (uid, expected) = (peer.uid().into(), self.uid.into());
            return refuse(epoll, connection, Answer::OtherUser { uid, expected });
        }
        let pid = match u32::try_from(peer.pid()) {
            Ok(0) | Err(_) => UNSEEN,
            Ok(pid) => pid,
        };
        watch(epoll, connection.as_fd(), EpollFlags::EPOLLIN);
        self.arrivals.push_back(Arrival { connection, pid });
        if self.arrivals.len() > MOST_ARRIVALS {
            let oldest = self.arrivals.pop_front();
            oldest
                .into_iter()
                .for_each(|a| hang_up(epoll, a.connection));
        }
    }

    fn answer_hellos(&mut self, epoll: &Epoll, hub: &Inner, is_free: &impl Fn(usize) -> bool) {
        for _ in 0..self.arrivals.len() {
            let Some(arrival) = self.arrivals.pop_front() else {
                return;
            };
            match wire::receive_words(arrival.connection.as_fd()) {
                Err(Errno::EAGAIN | Errno::EINTR) => self.arrivals.push_back(arrival),
                Ok(Some(words)) => match wire::check_hello(&words) {
                    Some(Ok(())) => self.admit(epoll, hub, arrival, is_free),
                    Some(Err(refusal)) => refuse(epoll, arrival.connection, refusal),
                    None => hang_up(epoll, arrival.connection),
                },
                Ok(None) | Err(_) => hang_up(epoll, arrival.connection),
            }
        }
    }

    /// Gives a seat, and passes what belongs to it.
    fn admit(
        &mut self,
        epoll: &Epoll,
        hub: &Inner,
        arrival: Arrival,
        is_free: &impl Fn(usize) -> bool,
    ) {
        let Arrival { connection, pid } = arrival;
        let is_empty = |seat: &usize| {
            self.guests.iter().all(|guest| guest.seat != *seat)
                && self.seats[*seat].clone().all(is_free)
        };
        let Some(seat) = (0..self.seats.len()).find(is_empty) else {
            let seats = self.seats.len() as u64;
            return refuse(epoll, connection, Answer::Full { seats });
        };
        match pass(connection.as_fd(), hub, &self.seats[seat], pid) {
            Ok(()) => {
                let mut event = event(connection.as_fd(), EpollFlags::empty());
                // A failure leaves the pidfd as evidence.
                let _ = epoll.modify(&connection, &mut event);
                let guest = Guest {
                    connection,
                    seat,
                    pid,
                };
                self.guests.push(guest);
            }
            Err(errno) => {
                let errno = errno as u64;
                refuse(epoll, connection, Answer::Failed { errno });
            }
        }
    }

    fn departed(&mut self, epoll: &Epoll) -> Vec<Departed> {
        let over = ended(self.guests.iter().map(|guest| guest.connection.as_fd()));
        let (mut gone, mut over) = (Vec::new(), over.into_iter());
        let mut stay = Vec::with_capacity(self.guests.len());
        for guest in self.guests.drain(..) {
            if !over.next().unwrap_or(false) {
                stay.push(guest);
                continue;
            }
            gone.push(Departed {
                slots: self.seats[guest.seat].clone(),
                pid: guest.pid,
            });
            hang_up(epoll, guest.connection);
        }
        self.guests = stay;
        gone
    }
}

impl Drop for Reception {
    fn drop(&mut self) {
        if let (Some(path), true) = (self.address.path(), self.pid == std::process::id()) {
            // Another hub cannot have taken the name: this one's socket was open until now.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Which of these connections have ended.
fn ended<'a>(connections: impl Iterator<Item = BorrowedFd<'a>>) -> Vec<bool> {
    let ends = PollFlags::POLLHUP | PollFlags::POLLERR; // these are told unasked
    let asked = PollFlags::empty();
    let mut fds: Vec<PollFd> = connections.map(|fd| PollFd::new(fd, asked)).collect();
    if !fds.is_empty() && poll(&mut fds, PollTimeout::ZERO).is_err() {
        return Vec::new();
    }
    let has_ended = |fd: &PollFd| fd.revents().is_some_and(|r| r.intersects(ends));
    fds.iter().map(has_ended).collect()
}

/// Sends a seat's descriptors: the memfds of its parts, the router's eventfd, its cores' eventfds.
fn pass(to: BorrowedFd<'_>, hub: &Inner, slots: &Range<usize>, pid: u32) -> nix::Result<()> {
    let parts = hub.view.parts_for(slots.start);
    let memfds = parts.iter().map(|&part| hub.view.memfds().get(part));
    let cores = slots.clone().map(|slot| hub.core_fds.get(slot));
    let fds = memfds.chain([Some(hub.router_fd.as_raw_fd())]).chain(cores);
    let fds: Vec<RawFd> = fds.collect::<Option<_>>().ok_or(Errno::EBADF)?;
    let seat = Answer::Seat {
        first: slots.start as u64,
        slots: slots.len() as u64,
        pid,
        fds: fds.len() as u64,
    };
    let mut packets = fds.chunks(wire::MOST_FDS);
    packets.try_for_each(|fds| wire::send(to, &seat.to_words(), fds))
}

fn open_socket(address: &Address) -> Result<OwnedFd, ListenError> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)
        .map_err(OsError::of("socket"))?;
    let unix = address.to_unix().map_err(OsError::of("socket name"))?;
    let mut bound = bind(fd.as_raw_fd(), &unix);
    if bound == Err(Errno::EADDRINUSE) && remove_leftover(address) {
        bound = bind(fd.as_raw_fd(), &unix);
    }
    match bound {
        Err(Errno::EADDRINUSE) => return Err(ListenError::Taken),
        other => other.map_err(OsError::of("bind"))?,
    }
    let backlog = Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN);
    listen(&fd, backlog).map_err(OsError::of("listen"))?;
    Ok(fd)
}

/// Removes the socket file of a hub that has ended without doing so. True if there was one.
fn remove_leftover(address: &Address) -> bool {
    let Some(path) = address.path() else {
        return false;
    };
    let is_socket = |m: std::fs::Metadata| m.file_type().is_socket();
    let is_left = std::fs::symlink_metadata(path).is_ok_and(is_socket)
        && connect::dial(address).err() == Some(Errno::ECONNREFUSED);
    is_left && std::fs::remove_file(path).is_ok()
}

/// Edge-triggered; the connection's end is told unasked.
fn event(fd: BorrowedFd<'_>, what: EpollFlags) -> EpollEvent {
    EpollEvent::new(what | EpollFlags::EPOLLET, fd.as_raw_fd() as u64)
}

fn watch(epoll: &Epoll, fd: BorrowedFd<'_>, what: EpollFlags) {
    // Watched already, or no memory: then the next event of another brings the master here.
    let _ = epoll.add(fd, event(fd, what));
}

fn refuse(epoll: &Epoll, connection: OwnedFd, answer: Answer) {
    // A peer that is gone, or does not read, learns no reason.
    let _ = wire::send(connection.as_fd(), &answer.to_words(), &[]);
    hang_up(epoll, connection);
}

/// Ends a connection, though forked children may have copies of its descriptor.
fn hang_up(epoll: &Epoll, connection: OwnedFd) {
    let _ = epoll.delete(&connection);
    let _ = shutdown(connection.as_raw_fd(), Shutdown::Both);
}
