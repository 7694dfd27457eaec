//! From the library's errors to the exceptions of `corecast.errors`, by name.

use corecast::{
    AttachError, ConfigError, ConnectError, CreateError, JoinError, LeaveError, ListenError,
    MasterError, RecvError, SendError,
};
use pyo3::prelude::*;

/// The exception `name` of `corecast.errors` with this text.
#[cold]
pub fn raise(py: Python<'_>, name: &str, text: impl ToString) -> PyErr {
    let made = py
        .import("corecast.errors")
        .and_then(|module| module.getattr(name))
        .and_then(|class| class.call1((text.to_string(),)));
    match made {
        Ok(exception) => PyErr::from_value(exception),
        Err(e) => e,
    }
}

/// An error with an exception of its own.
pub trait Named: ToString {
    /// The exception's name in `corecast.errors`.
    fn name(&self) -> &'static str;
}

/// For `?` in methods: turns an error into its exception.
pub trait OrRaise<T> {
    /// The value, or the exception.
    fn or_raise(self, py: Python<'_>) -> PyResult<T>;
}

impl<T, E: Named> OrRaise<T> for Result<T, E> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|e| raise(py, e.name(), e))
    }
}

macro_rules! named {
    ($type:ident: $($variant:ident => $name:literal,)+) => {
        impl Named for $type {
            fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant { .. } => $name,)+
                    _ => "Error",
                }
            }
        }
    };
}

named! { SendError:
    Full => "LaneFull",
    TooLarge => "MessageTooLarge",
    BadName => "BadName",
    MasterGone => "MasterGone",
    StaleChannel => "StaleChannel",
    WrongProcess => "WrongProcess",
    Detached => "Detached",
    Timeout => "TimedOut",
}

named! { JoinError:
    BadName => "BadName",
    TooManyChannels => "TooManyChannels",
    TooManyPending => "TooManyPending",
    Full => "LaneFull",
    Timeout => "TimedOut",
    MasterGone => "MasterGone",
    WrongProcess => "WrongProcess",
    Detached => "Detached",
}

named! { LeaveError:
    NotJoined => "NotJoined",
    BadName => "BadName",
    Full => "LaneFull",
    Timeout => "TimedOut",
    MasterGone => "MasterGone",
    WrongProcess => "WrongProcess",
    Detached => "Detached",
}

named! { RecvError:
    WrongProcess => "WrongProcess",
    Detached => "Detached",
    MasterGone => "MasterGone",
    Damaged => "Damaged",
}

named! { AttachError:
    WorkerOutOfRange => "OutOfRange",
    CoreOutOfRange => "OutOfRange",
    Busy => "Busy",
    NoFreeSlot => "NoFreeSlot",
    Foreign => "Foreign",
    Version => "VersionMismatch",
    Timeout => "TimedOut",
    MasterGone => "MasterGone",
    WrongProcess => "WrongProcess",
    ForkedGuest => "WrongProcess",
    Os => "SystemCallFailed",
}

named! { ListenError:
    BadName => "BadAddress",
    Taken => "AddressTaken",
    NoSeats => "ConfigError",
    WrongProcess => "WrongProcess",
    Os => "SystemCallFailed",
}

named! { ConnectError:
    BadName => "BadAddress",
    NoName => "HubNotFound",
    Nobody => "HubNotFound",
    NoHub => "HubNotFound",
    HungUp => "HubNotFound",
    OtherUsersHub => "NotAllowed",
    Refused => "NotAllowed",
    NoFreeSeat => "NoFreeSlot",
    Version => "VersionMismatch",
    Damaged => "Damaged",
    Timeout => "TimedOut",
    Os => "SystemCallFailed",
}

named! { ConfigError:
    Zero => "ConfigError",
    TooLarge => "ConfigError",
    TooSmall => "ConfigError",
    IsolatedAssist => "ConfigError",
}

named! { CreateError:
    Config => "ConfigError",
    Memory => "NotEnoughMemory",
    Fds => "NotEnoughDescriptors",
    Os => "SystemCallFailed",
}

named! { MasterError:
    AlreadyRunning => "MasterRunning",
    Assisted => "MasterRunning",
    WrongProcess => "WrongProcess",
    Os => "SystemCallFailed",
}
