//! The guest's side: finds the hub's socket, says hello, checks what comes.
//!
//! Nothing that comes is trusted before it is checked: the other end must be of the same user (or
//! one of the two root), the descriptors must be memfds that cannot be resized and eventfds, as
//! many as the region's own description says, and the region one of this version.

use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, connect, getsockopt, socket, sockopt};
use nix::unistd::geteuid;

use super::address::Address;
use super::wire::{self, Answer, Packet};
use crate::error::ConnectError;
use crate::fds::FdTable;
use crate::handoff::{check_eventfd, check_memfd};
use crate::notify::wait_readable;
use crate::region::OsError;
use crate::shared::VERSION;
use crate::view::View;

/// How long a full hub is asked again: a worker's successor may come before the master has cleaned
/// up after the worker.
const PATIENCE: Duration = Duration::from_millis(500);
/// A longer time-out is no different, and could not be added to a clock.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(5);
/// More descriptors than a seat can have.
const MOST_FDS: usize = 2 * crate::router::MAX_SLOTS;

/// A guest's place at a hub.
#[derive(Debug)]
pub(crate) struct Seat {
    pub slots: Range<usize>,
    /// What the master knows this process by: its slots are claimed with it.
    pub pid: u32,
    /// Its end tells the hub that this process has.
    _connection: OwnedFd,
}

/// What a guest gets.
pub(crate) struct Welcome {
    pub view: Arc<View>,
    pub router_fd: OwnedFd,
    /// Of the seat's slots only.
    pub core_fds: FdTable,
    pub seat: Seat,
}

/// Asks for a seat, for at most `timeout`.
pub(crate) fn ask(address: &Address, timeout: Duration) -> Result<Welcome, ConnectError> {
    let (start, timeout) = (Instant::now(), timeout.min(FOREVER));
    loop {
        let left = timeout.saturating_sub(start.elapsed());
        match ask_once(address, left) {
            Err(ConnectError::NoFreeSeat { .. }) if start.elapsed() < PATIENCE.min(timeout) => {
                std::thread::sleep(PAUSE);
            }
            other => return other,
        }
    }
}

fn ask_once(address: &Address, timeout: Duration) -> Result<Welcome, ConnectError> {
    let deadline = Instant::now() + timeout;
    let connection = reach(address, deadline)?;
    check_host(&connection)?;
    match wire::send(connection.as_fd(), &wire::hello(), &[]) {
        // It has hung up already; why, it may have said before.
        Ok(()) | Err(Errno::EPIPE | Errno::ECONNRESET) => {}
        Err(e) => return Err(OsError::of("sendmsg")(e).into()),
    }
    let mut packet = next_packet(&connection, deadline)?;
    let answer = Answer::from_words(&packet.words).ok_or(ConnectError::NoHub)?;
    let Answer::Seat {
        first,
        slots,
        pid,
        fds: count,
    } = answer
    else {
        return Err(refusal(answer));
    };
    let mut fds = std::mem::take(&mut packet.fds);
    while (fds.len() as u64) < count && fds.len() < MOST_FDS {
        let more = next_packet(&connection, deadline)?.fds;
        if more.is_empty() {
            return Err(ConnectError::Damaged);
        }
        fds.extend(more);
    }
    if fds.len() as u64 != count {
        return Err(ConnectError::Damaged);
    }
    take_seat(fds, first, slots, pid, connection)
}

/// A connection to the socket; waits for room if the hub is behind.
fn reach(address: &Address, deadline: Instant) -> Result<OwnedFd, ConnectError> {
    loop {
        match dial(address) {
            Ok(connection) => return Ok(connection),
            Err(Errno::EAGAIN | Errno::EINTR) if Instant::now() < deadline => {
                std::thread::sleep(PAUSE);
            }
            Err(Errno::EAGAIN | Errno::EINTR) => return Err(ConnectError::Timeout),
            Err(Errno::ECONNREFUSED | Errno::ENOENT) => return Err(ConnectError::Nobody),
            Err(Errno::EPROTOTYPE) => return Err(ConnectError::NoHub),
            Err(e) => return Err(OsError::of("connect")(e).into()),
        }
    }
}

/// One try, which does not wait.
pub(super) fn dial(address: &Address) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    connect(fd.as_raw_fd(), &address.to_unix()?)?;
    Ok(fd)
}

/// Anybody can take an abstract name: the listener must be of this user, or root's. Root may go
/// where it likes.
fn check_host(connection: &OwnedFd) -> Result<(), ConnectError> {
    let host = getsockopt(connection, sockopt::PeerCredentials)
        .map_err(OsError::of("getsockopt(SO_PEERCRED)"))?;
    let (uid, own) = (host.uid(), geteuid().as_raw());
    if uid != own && uid != 0 && own != 0 {
        return Err(ConnectError::OtherUsersHub { uid, own });
    }
    Ok(())
}

fn next_packet(connection: &OwnedFd, deadline: Instant) -> Result<Packet, ConnectError> {
    loop {
        match wire::receive(connection.as_fd()) {
            Ok(Some(packet)) => return Ok(packet),
            Ok(None) => return Err(ConnectError::HungUp),
            // The latter is told once, if the hub hung up before it read the hello; what it said
            // comes behind it.
            Err(Errno::EINTR | Errno::ECONNRESET) => continue,
            Err(Errno::EAGAIN) => {}
            Err(Errno::EBADMSG) => return Err(ConnectError::NoHub),
            Err(e) => return Err(OsError::of("recvmsg")(e).into()),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ConnectError::Timeout);
        }
        wait_readable(connection.as_fd(), left);
    }
}

fn refusal(answer: Answer) -> ConnectError {
    match answer {
        Answer::Full { seats } => ConnectError::NoFreeSeat { seats },
        Answer::OtherUser { uid, expected } => ConnectError::Refused { uid, expected },
        Answer::Version { region, .. } if region != VERSION => ConnectError::Version {
            found: region,
            expected: VERSION,
        },
        Answer::Version { protocol, .. } => ConnectError::Version {
            found: protocol,
            expected: wire::PROTOCOL,
        },
        Answer::Failed { errno } => ConnectError::Os {
            call: "passing descriptors, in the hub's process,",
            errno: i32::try_from(errno).unwrap_or(libc::EIO),
        },
        Answer::Seat { .. } => ConnectError::NoHub,
    }
}

/// Checks what came, and maps it.
fn take_seat(
    mut memfds: Vec<OwnedFd>,
    first: u64,
    slots: u64,
    pid: u32,
    connection: OwnedFd,
) -> Result<Welcome, ConnectError> {
    let most = MOST_FDS as u64;
    if first > most || slots == 0 || slots >= memfds.len() as u64 {
        return Err(ConnectError::Damaged);
    }
    let slots = first as usize..(first + slots) as usize;
    let cores = memfds.split_off(memfds.len() - slots.len());
    let router_fd = memfds.pop().ok_or(ConnectError::Damaged)?;
    for fd in cores.iter().chain([&router_fd]) {
        check_eventfd(fd.as_raw_fd())?;
    }
    for fd in &memfds {
        check_memfd(fd.as_raw_fd())?;
    }
    let view = View::partial(memfds, slots.start)?;
    if view.layout.siblings(slots.start) != slots {
        return Err(ConnectError::Damaged);
    }
    let mut cores = cores.into_iter();
    let all = (0..view.layout.slots).map(|slot| match slots.contains(&slot) {
        true => cores.next(),
        false => None,
    });
    Ok(Welcome {
        core_fds: FdTable::sparse(all),
        view,
        router_fd,
        seat: Seat {
            slots,
            pid,
            _connection: connection,
        },
    })
}
