//! Errors: one small enum per operation. Those of the hot paths are `Copy` and allocate nothing.
//! Texts name the value that was wrong and the limit it broke.

use thiserror::Error;

/// A channel name that cannot be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NameError {
    /// The name has no bytes.
    #[error("the channel name is empty; it needs 1 to 255 bytes")]
    Empty,
    /// The name has too many bytes.
    #[error("the channel name has {len} bytes; at most {max} are allowed")]
    TooLong {
        /// Bytes given.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// The name has a NUL byte.
    #[error("the channel name has a NUL byte at position {at}")]
    Nul {
        /// Position of the first NUL byte.
        at: usize,
    },
}

/// Why nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SendError {
    /// The core's lane has no room: the router is behind. Try again, or use a timeout.
    #[error("the lane is full: the router has not caught up; retry, wait, or raise lane_bytes")]
    Full,
    /// The message is longer than the hub was made for.
    #[error("the message has {len} bytes; this hub takes at most {max} (max_message)")]
    TooLarge {
        /// Bytes given.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// Not a channel name.
    #[error(transparent)]
    BadName(#[from] NameError),
    /// The master is gone; nobody routes.
    #[error("the master of this hub is gone")]
    MasterGone,
    /// The resolved handle was closed, or its core detached.
    #[error("the channel handle is no longer open; resolve the name again")]
    StaleChannel,
    /// The core belongs to another process (it was made before a fork).
    #[error("this core was attached by another process; attach again after fork")]
    WrongProcess,
    /// The core has detached, or was detached by the router after damage.
    #[error("this core is detached")]
    Detached,
    /// The time given has passed with no room in the lane.
    #[error("timed out waiting for room in the lane")]
    Timeout,
}

/// Why a channel was not joined or resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum JoinError {
    /// Not a channel name.
    #[error(transparent)]
    BadName(#[from] NameError),
    /// Every channel is in use.
    #[error("all {max} channels are in use; raise the limit (channels) or leave some")]
    TooManyChannels {
        /// The hub's limit.
        max: u32,
    },
    /// Too many asynchronous joins of this core are unanswered.
    #[error("{max} joins of this core are unanswered; wait for one")]
    TooManyPending {
        /// The limit.
        max: u32,
    },
    /// The lane has no room for the request.
    #[error("the lane is full: the router has not caught up")]
    Full,
    /// The master did not answer in time.
    #[error("the master did not answer in time; is it started or polled?")]
    Timeout,
    /// The master is gone.
    #[error("the master of this hub is gone")]
    MasterGone,
    /// See [`SendError::WrongProcess`].
    #[error("this core was attached by another process; attach again after fork")]
    WrongProcess,
    /// See [`SendError::Detached`].
    #[error("this core is detached")]
    Detached,
}

/// Why a channel was not left or closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LeaveError {
    /// This core has not joined (or opened) the channel.
    #[error("this core has not joined the channel")]
    NotJoined,
    /// Not a channel name.
    #[error(transparent)]
    BadName(#[from] NameError),
    /// The lane has no room for the request.
    #[error("the lane is full: the router has not caught up")]
    Full,
    /// The master did not make room in time.
    #[error("the master did not answer in time; is it started or polled?")]
    Timeout,
    /// The master is gone.
    #[error("the master of this hub is gone")]
    MasterGone,
    /// See [`SendError::WrongProcess`].
    #[error("this core was attached by another process; attach again after fork")]
    WrongProcess,
    /// See [`SendError::Detached`].
    #[error("this core is detached")]
    Detached,
}

/// Why `recv` has no message. After `Lagged`, go on calling it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RecvError {
    /// This many messages were lost to this core, exactly at this place of its stream.
    #[error("{0} messages were lost here: the queue was full (queue_bytes)")]
    Lagged(u64),
    /// See [`SendError::WrongProcess`].
    #[error("this core was attached by another process; attach again after fork")]
    WrongProcess,
    /// See [`SendError::Detached`].
    #[error("this core is detached")]
    Detached,
    /// Nothing is left and the master is gone, so nothing will come.
    #[error("the master of this hub is gone")]
    MasterGone,
    /// The queue does not parse; what could not be read was skipped.
    #[error("the queue of this core is damaged; its unread part was skipped")]
    Damaged,
}

/// Why a core could not take its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AttachError {
    /// No such worker.
    #[error("worker {worker} is out of range; this hub has {workers} workers (0 to {})", workers - 1)]
    WorkerOutOfRange {
        /// Index given.
        worker: u32,
        /// Workers configured.
        workers: u32,
    },
    /// No such core.
    #[error("core {core} is out of range; each worker has {cores} cores (0 to {})", cores - 1)]
    CoreOutOfRange {
        /// Index given.
        core: u32,
        /// Cores per worker configured.
        cores: u32,
    },
    /// A live core holds the slot.
    #[error("worker {worker} core {core} is attached by process {pid}")]
    Busy {
        /// Worker index.
        worker: u32,
        /// Core index.
        core: u32,
        /// The holder.
        pid: u32,
    },
    /// Every slot is held.
    #[error("all {slots} slots are attached; raise workers, cores or extra")]
    NoFreeSlot {
        /// Slots of the hub.
        slots: u32,
    },
    /// This process closed the slot's notification descriptor when it became another worker.
    #[error("this process serves another worker and has closed the descriptors of worker {worker}")]
    Foreign {
        /// Worker asked for.
        worker: u32,
    },
    /// The region was made by another version of corecast.
    #[error("the region has version {found}; this library has {expected}")]
    Version {
        /// In the region.
        found: u64,
        /// In this library.
        expected: u64,
    },
    /// The slot's last owner is dead or detached, and the master did not free it in time.
    #[error("the master did not free the slot in time; is it started or polled?")]
    Timeout,
    /// The master is gone.
    #[error("the master of this hub is gone")]
    MasterGone,
    /// Only the master's process may call this.
    #[error("only the process of the master may do this")]
    WrongProcess,
    /// The parent of this process has come by socket; its seat is its own.
    #[error("process {parent} connected to this hub before it forked; connect again in the child")]
    ForkedGuest {
        /// The process that connected.
        parent: u32,
    },
    /// A system call failed.
    #[error("{call} failed: {}", std::io::Error::from_raw_os_error(*errno))]
    Os {
        /// The call.
        call: &'static str,
        /// Its errno.
        errno: i32,
    },
}

/// A configuration that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A field must not be zero.
    #[error("{field} is 0; it must be at least 1")]
    Zero {
        /// Field of [`crate::Config`].
        field: &'static str,
    },
    /// A field is over its limit.
    #[error("{field} is {value}; at most {max} is possible")]
    TooLarge {
        /// Field of [`crate::Config`].
        field: &'static str,
        /// Value given.
        value: u64,
        /// Limit.
        max: u64,
    },
    /// A field is under its limit.
    #[error("{field} is {value}; at least {min} is needed")]
    TooSmall {
        /// Field of [`crate::Config`].
        field: &'static str,
        /// Value given.
        value: u64,
        /// Limit.
        min: u64,
    },
    /// Who routes must be able to write what others read.
    #[error("assist is true and so is isolation: assist mode needs isolation = false")]
    IsolatedAssist,
}

/// Why no hub was made. Nothing is left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CreateError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Not enough memory or address space.
    #[error("the hub needs {need} bytes; {available} are available")]
    Memory {
        /// Bytes the configuration takes.
        need: u64,
        /// Bytes to be had.
        available: u64,
    },
    /// Not enough file descriptors.
    #[error("the hub needs {need} more file descriptors; the limit leaves {available} (ulimit -n)")]
    Fds {
        /// Descriptors the configuration takes.
        need: u64,
        /// Descriptors to be had.
        available: u64,
    },
    /// A system call failed.
    #[error("{call} failed: {}", std::io::Error::from_raw_os_error(*errno))]
    Os {
        /// The call.
        call: &'static str,
        /// Its errno.
        errno: i32,
    },
}

/// Why a hub was not taken over from the program before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AdoptError {
    /// The text is not what [`crate::Hub::handoff`] gives.
    #[error("this is not the handoff of a hub")]
    Malformed,
    /// A descriptor is not open, or not what it should be.
    #[error("descriptor {fd} is not what the handoff says it is; was it kept open across exec?")]
    Descriptor {
        /// The descriptor.
        fd: i32,
    },
    /// The region was made by another version of corecast.
    #[error("the region has version {found}; this library has {expected}")]
    Version {
        /// In the region.
        found: u64,
        /// In this library.
        expected: u64,
    },
    /// The region does not fit its own description.
    #[error("the region is damaged: its sizes do not fit its configuration")]
    Damaged,
    /// This process has given up parts of the hub: it attached as a worker.
    #[error("this process has closed descriptors of the hub; hand it on from the master's process")]
    WrongProcess,
    /// A system call failed.
    #[error("{call} failed: {}", std::io::Error::from_raw_os_error(*errno))]
    Os {
        /// The call.
        call: &'static str,
        /// Its errno.
        errno: i32,
    },
}

/// A name that no socket can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AddressError {
    /// Neither `@name` nor a path.
    #[error("a socket's name begins with @, or is a path with a slash in it, and has no NUL")]
    Form,
    /// Longer than the kernel allows.
    #[error("the socket's name has {len} bytes; at most {max} are possible")]
    TooLong {
        /// Bytes given.
        len: usize,
        /// Bytes possible.
        max: usize,
    },
}

/// Why a hub does not listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Not the name of a socket.
    #[error(transparent)]
    BadName(#[from] AddressError),
    /// Somebody else's socket has the name.
    #[error("the socket's name is taken; choose another, or none to have one made")]
    Taken,
    /// It does already.
    #[error("this hub listens already")]
    Listening,
    /// There is nothing to give to those who come.
    #[error(
        "no seat is left for guests: first_worker is {first_worker}, the hub has {workers} workers and no extra slots"
    )]
    NoSeats {
        /// Given.
        first_worker: u32,
        /// Workers configured.
        workers: u32,
    },
    /// Neither the process that made the hub nor the master's.
    #[error("only the process that made the hub, or that of its master, may do this")]
    WrongProcess,
    /// A system call failed.
    #[error("{call} failed: {}", std::io::Error::from_raw_os_error(*errno))]
    Os {
        /// The call.
        call: &'static str,
        /// Its errno.
        errno: i32,
    },
}

/// Why a process did not become a hub's guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Not the name of a socket.
    #[error(transparent)]
    BadName(#[from] AddressError),
    /// No name was given, and the environment has none.
    #[error("no hub is named: give a name, set CORECAST_SOCKET, or start with `corecast run`")]
    NoName,
    /// Nobody listens there.
    #[error("no hub listens at this socket; is the process that made it still running?")]
    Nobody,
    /// What listens there is something else.
    #[error("what answers at this socket is not a corecast hub")]
    NoHub,
    /// The hub is of a user that this process has no reason to trust.
    #[error("the socket is of user {uid}; this process is of user {own} and does not trust it")]
    OtherUsersHub {
        /// The user of who listens.
        uid: u32,
        /// This process's.
        own: u32,
    },
    /// The hub takes only processes of its own user, and root's.
    #[error("the hub refused: this process is of user {uid}, it takes those of user {expected}")]
    Refused {
        /// This process's user, as the hub sees it.
        uid: u64,
        /// The hub's.
        expected: u64,
    },
    /// All seats are taken by processes that live.
    #[error("all {seats} seats of the hub are taken; raise its workers or extra")]
    NoFreeSeat {
        /// Seats of the hub.
        seats: u64,
    },
    /// The hub was made by another version of corecast.
    #[error("the hub has version {found}; this library has {expected}")]
    Version {
        /// The hub's.
        found: u64,
        /// This library's.
        expected: u64,
    },
    /// What came does not fit the region's description.
    #[error("what the hub passed is damaged: it does not fit its own description")]
    Damaged,
    /// It ended the connection without an answer.
    #[error("the hub hung up without an answer; has it ended, or did too many connect at once?")]
    HungUp,
    /// No answer came in time.
    #[error("the master did not answer in time; is it started or polled?")]
    Timeout,
    /// A system call failed.
    #[error("{call} failed: {}", std::io::Error::from_raw_os_error(*errno))]
    Os {
        /// The call.
        call: &'static str,
        /// Its errno.
        errno: i32,
    },
}

impl From<AdoptError> for ConnectError {
    fn from(e: AdoptError) -> Self {
        match e {
            AdoptError::Version { found, expected } => Self::Version { found, expected },
            AdoptError::Os { call, errno } => Self::Os { call, errno },
            _ => Self::Damaged,
        }
    }
}

/// Why the master cannot run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MasterError {
    /// There is one already.
    #[error("this hub has a master already, in process {pid}")]
    AlreadyRunning {
        /// Its process.
        pid: u32,
    },
    /// In assist mode: a worker is in the middle of the master's work, and does not come to an end.
    #[error(
        "process {pid} is in the middle of routing for the master and makes no progress: if it is \
         stopped, let it go on or kill it"
    )]
    Assisted {
        /// The worker's process.
        pid: u32,
    },
    /// The handle was made in another process, before a fork.
    #[error("this master belongs to another process")]
    WrongProcess,
    /// A system call failed.
    #[error("{call} failed: {}", std::io::Error::from_raw_os_error(*errno))]
    Os {
        /// The call.
        call: &'static str,
        /// Its errno.
        errno: i32,
    },
}

/// A failed system call becomes the variant `Os` of each of these.
macro_rules! from_os_error {
    ($($error:ident,)+) => {
        $(
            impl From<crate::region::OsError> for $error {
                fn from(e: crate::region::OsError) -> Self {
                    Self::Os {
                        call: e.call,
                        errno: e.errno,
                    }
                }
            }
        )+
    };
}

from_os_error! {
    AttachError,
    CreateError,
    AdoptError,
    ConnectError,
    ListenError,
    MasterError,
}
