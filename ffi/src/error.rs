//! The error codes of the C ABI, and how the errors of the crate map to them.

use std::ffi::c_int;
use std::fmt;

use corecast::{
    AdoptError, AttachError, ConfigError, ConnectError, CreateError, JoinError, LeaveError,
    ListenError, MasterError, NameError, RecvError, SendError,
};

/// What a negative return value means. The numbers are stable: none is ever
/// given another meaning. channel_strerror gives a short text of a code,
/// channel_last_error what exactly was wrong, with the value and the limit.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelE {
    /// A pointer that must not be NULL was NULL.
    Null = -1,
    /// The `size` field of a struct is not one that this library knows: set it to sizeof.
    Size = -2,
    /// A field that takes one of a few values has another one.
    Value = -3,
    /// The handle was detached or destroyed before.
    Detached = -4,
    /// The handle is in use: by another thread, or by the call that a signal interrupted.
    InUse = -5,
    /// The handle belongs to another process: it was attached before the fork.
    WrongProcess = -6,
    /// An earlier call on this handle failed inside the library: only freeing it works now.
    Poisoned = -7,
    /// The library failed inside, a bug in it: the handle is poisoned from now on.
    Panic = -8,
    /// A system call failed.
    Os = -9,
    /// An error that this version of the C interface has no number for.
    Other = -10,

    /// The name is empty.
    NameEmpty = -20,
    /// The name is longer than 255 bytes.
    NameTooLong = -21,
    /// The name has a NUL inside (C callers cannot get this: a NUL ends their names).
    NameNul = -22,
    /// The core has not joined that channel.
    NotJoined = -23,
    /// No channel has that id: nobody has it open or joined any more.
    StaleChannel = -24,
    /// As many channels are in use as the hub was configured for.
    TooManyChannels = -25,
    /// Too many asynchronous joins of this core are unanswered.
    TooManyPending = -26,
    /// No asynchronous join of this core has that ticket; it may have been asked for already.
    NoSuchTicket = -27,

    /// No room in the sender's lane: the master is behind. Try again later.
    Full = -30,
    /// The time given ran out.
    Timeout = -31,
    /// The message is larger than the hub's max_message.
    TooLarge = -32,
    /// The master is gone: nothing is routed any more.
    MasterGone = -33,
    /// The queue of the core was damaged: what could not be read was skipped.
    Damaged = -34,
    /// A loan of this core is out: send or drop it first.
    LoanOut = -35,
    /// This core has no loan out.
    NoLoan = -36,

    /// No such worker.
    WorkerRange = -40,
    /// No such core in that worker.
    CoreRange = -41,
    /// A live core holds the slot.
    SlotBusy = -42,
    /// Every slot is held by a live core.
    NoFreeSlot = -43,
    /// The process serves another worker already, and has closed this one's descriptors.
    OtherWorker = -44,

    /// The hub has its master already: a thread, this process or another.
    MasterRunning = -50,
    /// A number of the configuration is zero that must not be.
    ConfigZero = -51,
    /// A number of the configuration is above its limit, or two settings exclude each other.
    ConfigTooLarge = -52,
    /// A number of the configuration is below its minimum.
    ConfigTooSmall = -53,
    /// The hub needs more memory than there is.
    Memory = -54,
    /// The hub needs more file descriptors than the process may open.
    Fds = -55,
    /// The region was made by another version of corecast.
    Version = -56,
    /// The text is not the handoff of a hub, or what it names is not there.
    Handoff = -57,

    /// Not the name of a socket: @ and a name, or a path with a slash.
    SocketName = -60,
    /// Somebody else's socket has the name.
    SocketTaken = -61,
    /// No corecast hub listens there, or no socket is named.
    NoHub = -62,
    /// The hub is another user's.
    NotAllowed = -63,
    /// The hub listens already.
    Listening = -64,
}

impl ChannelE {
    /// Every code, in the order of the header. A test keeps it complete.
    pub(crate) const ALL: [ChannelE; 43] = {
        use ChannelE::*;
        [
            Null,
            Size,
            Value,
            Detached,
            InUse,
            WrongProcess,
            Poisoned,
            Panic,
            Os,
            Other,
            NameEmpty,
            NameTooLong,
            NameNul,
            NotJoined,
            StaleChannel,
            TooManyChannels,
            TooManyPending,
            NoSuchTicket,
            Full,
            Timeout,
            TooLarge,
            MasterGone,
            Damaged,
            LoanOut,
            NoLoan,
            WorkerRange,
            CoreRange,
            SlotBusy,
            NoFreeSlot,
            OtherWorker,
            MasterRunning,
            ConfigZero,
            ConfigTooLarge,
            ConfigTooSmall,
            Memory,
            Fds,
            Version,
            Handoff,
            SocketName,
            SocketTaken,
            NoHub,
            NotAllowed,
            Listening,
        ]
    };

    /// The code of a number that came from C.
    pub(crate) fn from_code(code: c_int) -> Option<ChannelE> {
        Self::ALL.into_iter().find(|&e| e as c_int == code)
    }

    /// A short text, for `channel_strerror`.
    pub(crate) fn text(self) -> &'static std::ffi::CStr {
        match self {
            Self::Null => c"a pointer is NULL",
            Self::Size => c"the size field of a struct is unknown",
            Self::Value => c"a field has a value outside its set",
            Self::Detached => c"the handle was detached or destroyed",
            Self::InUse => c"the handle is in use",
            Self::LoanOut => c"a loan of this core is out: send or drop it first",
            Self::NoLoan => c"this core has no loan out",
            Self::WrongProcess => c"the handle belongs to another process",
            Self::Poisoned => c"the handle is poisoned by an earlier failure",
            Self::Panic => c"the library failed inside",
            Self::Os => c"a system call failed",
            Self::Other => c"unknown error",
            Self::NameEmpty => c"the channel name is empty",
            Self::NameTooLong => c"the channel name is too long",
            Self::NameNul => c"the channel name has a NUL inside",
            Self::NotJoined => c"the channel is not joined",
            Self::StaleChannel => c"the channel id is stale",
            Self::TooManyChannels => c"too many channels",
            Self::TooManyPending => c"too many unanswered joins",
            Self::NoSuchTicket => c"no such join ticket",
            Self::Full => c"no room in the lane",
            Self::Timeout => c"the time ran out",
            Self::TooLarge => c"the message is too large",
            Self::MasterGone => c"the master is gone",
            Self::Damaged => c"the queue was damaged",
            Self::WorkerRange => c"no such worker",
            Self::CoreRange => c"no such core",
            Self::SlotBusy => c"the slot is held by a live core",
            Self::NoFreeSlot => c"no free slot",
            Self::OtherWorker => c"the process serves another worker",
            Self::MasterRunning => c"the hub has a master already",
            Self::ConfigZero => c"a configured number is zero",
            Self::ConfigTooLarge => c"a configured number is too large",
            Self::ConfigTooSmall => c"a configured number is too small",
            Self::Memory => c"not enough memory",
            Self::Fds => c"not enough file descriptors",
            Self::Version => c"the region has another version",
            Self::Handoff => c"not the handoff of a hub",
            Self::SocketName => c"not the name of a socket",
            Self::SocketTaken => c"the name of the socket is taken",
            Self::NoHub => c"no hub listens there",
            Self::NotAllowed => c"the hub is another user's",
            Self::Listening => c"the hub listens already",
        }
    }
}

/// Why an export fails: its code, and enough to write the full text later.
/// Copy, so that keeping it costs a refused send no formatting.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Failure {
    /// The code says it all.
    Code(ChannelE),
    /// NULL was given for the named parameter.
    Null(&'static str),
    /// The `size` field of the named struct is wrong.
    Size {
        of: &'static str,
        size: usize,
        known: usize,
    },
    /// A field has a value outside `0 ..= max`.
    Value {
        field: &'static str,
        value: u32,
        max: u32,
    },
    /// The crate's own errors.
    Send(SendError),
    Join(JoinError),
    Leave(LeaveError),
    Recv(RecvError),
    Attach(AttachError),
    Config(ConfigError),
    Create(CreateError),
    Master(MasterError),
    Adopt(AdoptError),
    Listen(ListenError),
    Connect(ConnectError),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => f.write_str(code.text().to_str().unwrap_or_default()),
            Self::Null(what) => write!(f, "{what} is NULL"),
            Self::Size { of, size, known } => write!(
                f,
                "{of}.size is {size}, this library knows {known}: set it to sizeof({of})"
            ),
            Self::Value { field, value, max } => {
                write!(f, "{field} is {value}, it can be 0 to {max}")
            }
            Self::Send(e) => e.fmt(f),
            Self::Join(e) => e.fmt(f),
            Self::Leave(e) => e.fmt(f),
            Self::Recv(e) => e.fmt(f),
            Self::Attach(e) => e.fmt(f),
            Self::Config(e) => e.fmt(f),
            Self::Create(e) => e.fmt(f),
            Self::Master(e) => e.fmt(f),
            Self::Adopt(e) => e.fmt(f),
            Self::Listen(e) => e.fmt(f),
            Self::Connect(e) => e.fmt(f),
        }
    }
}

impl Failure {
    /// The number that C gets.
    pub(crate) fn code(&self) -> ChannelE {
        match self {
            Self::Code(code) => *code,
            Self::Null(_) => ChannelE::Null,
            Self::Size { .. } => ChannelE::Size,
            Self::Value { .. } => ChannelE::Value,
            Self::Send(e) => of_send(e),
            Self::Join(e) => of_join(e),
            Self::Leave(e) => of_leave(e),
            Self::Recv(e) => of_recv(e),
            Self::Attach(e) => of_attach(e),
            Self::Config(e) => of_config(e),
            Self::Create(e) => of_create(e),
            Self::Master(e) => of_master(e),
            Self::Adopt(e) => of_adopt(e),
            Self::Listen(e) => of_listen(e),
            Self::Connect(e) => of_connect(e),
        }
    }
}

fn of_name(e: &NameError) -> ChannelE {
    match e {
        NameError::Empty => ChannelE::NameEmpty,
        NameError::TooLong { .. } => ChannelE::NameTooLong,
        NameError::Nul { .. } => ChannelE::NameNul,
        _ => ChannelE::Other,
    }
}

fn of_send(e: &SendError) -> ChannelE {
    match e {
        SendError::Full => ChannelE::Full,
        SendError::TooLarge { .. } => ChannelE::TooLarge,
        SendError::BadName(name) => of_name(name),
        SendError::MasterGone => ChannelE::MasterGone,
        SendError::StaleChannel => ChannelE::StaleChannel,
        SendError::WrongProcess => ChannelE::WrongProcess,
        SendError::Detached => ChannelE::Detached,
        SendError::Timeout => ChannelE::Timeout,
        _ => ChannelE::Other,
    }
}

fn of_join(e: &JoinError) -> ChannelE {
    match e {
        JoinError::BadName(name) => of_name(name),
        JoinError::TooManyChannels { .. } => ChannelE::TooManyChannels,
        JoinError::TooManyPending { .. } => ChannelE::TooManyPending,
        JoinError::Full => ChannelE::Full,
        JoinError::Timeout => ChannelE::Timeout,
        JoinError::MasterGone => ChannelE::MasterGone,
        JoinError::WrongProcess => ChannelE::WrongProcess,
        JoinError::Detached => ChannelE::Detached,
        _ => ChannelE::Other,
    }
}

fn of_leave(e: &LeaveError) -> ChannelE {
    match e {
        LeaveError::NotJoined => ChannelE::NotJoined,
        LeaveError::BadName(name) => of_name(name),
        LeaveError::Full => ChannelE::Full,
        LeaveError::MasterGone => ChannelE::MasterGone,
        LeaveError::WrongProcess => ChannelE::WrongProcess,
        LeaveError::Detached => ChannelE::Detached,
        LeaveError::Timeout => ChannelE::Timeout,
        _ => ChannelE::Other,
    }
}

fn of_recv(e: &RecvError) -> ChannelE {
    match e {
        RecvError::WrongProcess => ChannelE::WrongProcess,
        RecvError::Detached => ChannelE::Detached,
        RecvError::MasterGone => ChannelE::MasterGone,
        RecvError::Damaged => ChannelE::Damaged,
        _ => ChannelE::Other,
    }
}

fn of_attach(e: &AttachError) -> ChannelE {
    match e {
        AttachError::WorkerOutOfRange { .. } => ChannelE::WorkerRange,
        AttachError::CoreOutOfRange { .. } => ChannelE::CoreRange,
        AttachError::Busy { .. } => ChannelE::SlotBusy,
        AttachError::NoFreeSlot { .. } => ChannelE::NoFreeSlot,
        AttachError::Foreign { .. } => ChannelE::OtherWorker,
        AttachError::Version { .. } => ChannelE::Version,
        AttachError::WrongProcess | AttachError::ForkedGuest { .. } => ChannelE::WrongProcess,
        AttachError::MasterGone => ChannelE::MasterGone,
        AttachError::Timeout => ChannelE::Timeout,
        AttachError::Os { .. } => ChannelE::Os,
        _ => ChannelE::Other,
    }
}

fn of_config(e: &ConfigError) -> ChannelE {
    match e {
        ConfigError::Zero { .. } => ChannelE::ConfigZero,
        ConfigError::TooLarge { .. } | ConfigError::IsolatedAssist => ChannelE::ConfigTooLarge,
        ConfigError::TooSmall { .. } => ChannelE::ConfigTooSmall,
        _ => ChannelE::Other,
    }
}

fn of_create(e: &CreateError) -> ChannelE {
    match e {
        CreateError::Config(config) => of_config(config),
        CreateError::Memory { .. } => ChannelE::Memory,
        CreateError::Fds { .. } => ChannelE::Fds,
        CreateError::Os { .. } => ChannelE::Os,
        _ => ChannelE::Other,
    }
}

fn of_master(e: &MasterError) -> ChannelE {
    match e {
        MasterError::AlreadyRunning { .. } | MasterError::Assisted { .. } => {
            ChannelE::MasterRunning
        }
        MasterError::WrongProcess => ChannelE::WrongProcess,
        MasterError::Os { .. } => ChannelE::Os,
        _ => ChannelE::Other,
    }
}

fn of_adopt(e: &AdoptError) -> ChannelE {
    match e {
        AdoptError::Malformed | AdoptError::Descriptor { .. } | AdoptError::Damaged => {
            ChannelE::Handoff
        }
        AdoptError::Version { .. } => ChannelE::Version,
        AdoptError::WrongProcess => ChannelE::WrongProcess,
        AdoptError::Os { .. } => ChannelE::Os,
        _ => ChannelE::Other,
    }
}

fn of_listen(e: &ListenError) -> ChannelE {
    match e {
        ListenError::BadName(_) => ChannelE::SocketName,
        ListenError::Taken => ChannelE::SocketTaken,
        ListenError::Listening => ChannelE::Listening,
        ListenError::NoSeats { .. } => ChannelE::WorkerRange,
        ListenError::WrongProcess => ChannelE::WrongProcess,
        ListenError::Os { .. } => ChannelE::Os,
        _ => ChannelE::Other,
    }
}

fn of_connect(e: &ConnectError) -> ChannelE {
    match e {
        ConnectError::BadName(_) => ChannelE::SocketName,
        ConnectError::NoName
        | ConnectError::Nobody
        | ConnectError::NoHub
        | ConnectError::Damaged
        | ConnectError::HungUp => ChannelE::NoHub,
        ConnectError::OtherUsersHub { .. } | ConnectError::Refused { .. } => ChannelE::NotAllowed,
        ConnectError::NoFreeSeat { .. } => ChannelE::NoFreeSlot,
        ConnectError::Version { .. } => ChannelE::Version,
        ConnectError::Timeout => ChannelE::Timeout,
        ConnectError::Os { .. } => ChannelE::Os,
        _ => ChannelE::Other,
    }
}

/// `?` on the crate's errors inside an export.
macro_rules! into_failure {
    ($($variant:ident($error:ty)),* $(,)?) => {$(
        impl From<$error> for Failure {
            fn from(e: $error) -> Failure {
                Failure::$variant(e)
            }
        }
    )*};
}

into_failure! {
    Code(ChannelE), Send(SendError), Join(JoinError), Leave(LeaveError), Recv(RecvError),
    Adopt(AdoptError), Attach(AttachError), Config(ConfigError), Create(CreateError), Master(MasterError),
    Listen(ListenError), Connect(ConnectError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_listed_once_and_has_a_text_of_its_own() {
        let source = include_str!("error.rs");
        let body = source.split("pub enum ChannelE {").nth(1).unwrap();
        let body = body.split("\n}").next().unwrap();
        assert_eq!(body.matches(" = -").count(), ChannelE::ALL.len());
        for (i, a) in ChannelE::ALL.iter().enumerate() {
            assert_eq!(ChannelE::from_code(*a as c_int), Some(*a));
            for b in &ChannelE::ALL[i + 1..] {
                assert_ne!(*a as c_int, *b as c_int);
                assert_ne!(a.text(), b.text());
            }
        }
    }

    #[test]
    fn failures_name_the_value_and_the_limit() {
        let size = Failure::Size {
            of: "channel_config_t",
            size: 3,
            known: 80,
        };
        assert_eq!(
            size.to_string(),
            "channel_config_t.size is 3, this library knows 80: set it to sizeof(channel_config_t)"
        );
        let value = Failure::Value {
            field: "overflow",
            value: 9,
            max: 2,
        };
        assert_eq!(value.to_string(), "overflow is 9, it can be 0 to 2");
    }
}
