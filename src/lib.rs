//! corecast: publish/subscribe between the workers of a prefork server, in shared memory.
//!
//! A master makes a [`Hub`] before it forks. Each worker attaches its cores (threads, greenlets,
//! event loops); a [`Core`] joins channels, sends and receives. The master routes, on a thread of
//! its own ([`Hub::start`]) or driven by the host ([`Hub::master`]).
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! let hub = corecast::Hub::builder().workers(2).create()?; // before fork
//! let master = hub.start()?;
//! let mut ann = hub.worker(0)?.core(0)?; // in worker process 0
//! let mut bob = hub.worker(1)?.core(0)?; // in worker process 1
//! bob.join("lobby")?;
//! ann.send("lobby", b"hello")?;
//! let message = bob.recv_timeout(Duration::from_secs(5))?.expect("a message");
//! assert_eq!(message.body, b"hello");
//! assert_eq!(message.sender.worker, 0);
//! # drop((ann, bob));
//! # master.stop()?;
//! # Ok(())
//! # }
//! ```
//!
//! The modules follow the way of a message: `lane`, `doorbell`, `directory`, `subscriptions`,
//! `router`, `queue`, `notify`; then the roles: `hub`, `master`, `worker`, `core`; then what
//! watches them: `liveness`. ARCHITECTURE.md walks the same way.

#[cfg(not(target_os = "linux"))]
compile_error!("corecast needs Linux: memfd, eventfd, pidfd, futex");
#[cfg(not(all(target_endian = "little", target_pointer_width = "64")))]
compile_error!("the region's layout is for little-endian 64-bit machines");

// The protocol words: all that the loom models compile. What only the ends of a lane or a queue
// use is dead code there.
#[cfg_attr(loom, allow(dead_code))]
mod answer;
#[cfg_attr(loom, allow(dead_code))]
mod barrier;
#[cfg_attr(loom, allow(dead_code))]
mod doorbell;
#[cfg_attr(loom, allow(dead_code))]
mod lane;
#[cfg_attr(loom, allow(dead_code))]
mod queue;
#[cfg_attr(loom, allow(dead_code))]
mod record;
#[cfg_attr(loom, allow(dead_code))]
mod slab;
#[cfg_attr(loom, allow(dead_code))]
mod sync;
#[cfg_attr(loom, allow(dead_code))]
mod ticket;

#[cfg(all(test, loom))]
#[path = "../tests/loom/mod.rs"]
mod loom_models;

/// What the fuzz targets run.
#[cfg(corecast_fuzz)]
#[doc(hidden)]
#[path = "../tests/fuzz/rig/mod.rs"]
pub mod rig;

// What follows stands on system calls.
#[cfg(not(loom))]
mod arena;
#[cfg(not(loom))]
mod assist;
#[cfg(not(loom))]
mod clock;
#[cfg(not(loom))]
mod config;
#[cfg(not(loom))]
mod core;
#[cfg(not(loom))]
mod directory;
#[cfg(not(loom))]
mod error;
#[cfg(not(loom))]
mod fds;
#[cfg(not(loom))]
mod guests;
#[cfg(not(loom))]
mod handoff;
#[cfg(not(loom))]
mod hub;
#[cfg(all(feature = "launch", not(loom)))]
pub mod launch;
#[cfg(not(loom))]
mod layout;
#[cfg(not(loom))]
mod ledger;
#[cfg(not(loom))]
mod linger;
#[cfg(not(loom))]
mod liveness;
#[cfg(not(loom))]
mod master;
#[cfg(not(loom))]
mod memory;
#[cfg(not(loom))]
mod notify;
#[cfg(not(loom))]
mod process;
#[cfg(not(loom))]
mod pulse;
#[cfg(not(loom))]
mod region;
#[cfg(not(loom))]
mod router;
#[cfg(not(loom))]
mod shared;
#[cfg(not(loom))]
mod stats;
#[cfg(not(loom))]
mod subscriptions;
#[cfg(not(loom))]
mod view;
#[cfg(not(loom))]
mod worker;

#[cfg(not(loom))]
mod api {
    pub use crate::config::{
        Config, MAX_CHANNELS, MAX_MESSAGE, MIN_BUFFER, Order, Overflow, Requirements, Timestamps,
    };
    #[doc(hidden)]
    pub use crate::core::RawLoan;
    pub use crate::core::{Channel, Core, JoinTicket, Loan, Message, Messages, Sender};
    pub use crate::directory::{ChannelId, check_name};
    pub use crate::error::{
        AddressError, AdoptError, AttachError, ConfigError, ConnectError, CreateError, JoinError,
        LeaveError, ListenError, MasterError, NameError, RecvError, SendError,
    };
    pub use crate::hub::{Builder, Hub, SOCKET_VARIABLE};
    pub use crate::master::{Master, MasterThread};
    #[cfg(debug_assertions)]
    #[doc(hidden)]
    pub use crate::router::Sabotage;
    pub use crate::stats::Stats;
    pub use crate::worker::Worker;
}
#[cfg(not(loom))]
pub use api::*;

/// Compiles and runs the README's example.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
