//! The ways in which a message can go, and what the report says of each.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::daemon::installed;

/// One column of the comparison.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// corecast, one call per message; the master is a thread
    Corecast,
    /// corecast, send_many of 64
    CorecastMany,
    /// corecast, order promised per sender only
    CorecastPerSender,
    /// corecast, workers linger before they sleep
    CorecastLingering,
    /// corecast in assist mode: workers do the sleeping master's work
    CorecastAssist,
    /// corecast in assist mode, workers linger before they sleep
    CorecastAssistLingering,
    /// corecast, the master driven by the loop of one of the workers' process
    CorecastPolled,
    /// the sender of the paced work alone, sending nothing
    Pacer,
    /// two bare eventfds: the floor of a blocking round trip
    Eventfd,
    /// bare eventfds and a third process between: the floor of whatever goes through one
    Wakes,
    /// the bare relay over Unix stream sockets
    Relay,
    /// iceoryx2, receivers poll
    Iceoryx,
    /// iceoryx2, receivers sleep on its events
    IceoryxEvent,
    /// ZeroMQ PUB/SUB, connected directly
    Zeromq,
    /// ZeroMQ through an XSUB/XPUB proxy
    ZeromqProxy,
    /// NATS
    Nats,
    /// Redis
    Redis,
}

impl Way {
    /// The peers whose receivers sleep until something comes.
    pub const SLEEPING: [Way; 6] = [
        Way::Relay,
        Way::IceoryxEvent,
        Way::Zeromq,
        Way::ZeromqProxy,
        Way::Nats,
        Way::Redis,
    ];

    /// All of them, in the order of tables.
    pub fn all() -> &'static [Way] {
        Way::value_variants()
    }

    /// Its name in tables and charts.
    pub fn name(self) -> &'static str {
        match self {
            Way::Corecast => "corecast",
            Way::CorecastMany => "corecast x64",
            Way::CorecastPerSender => "corecast per-sender",
            Way::CorecastLingering => "corecast lingering",
            Way::CorecastAssist => "corecast assist",
            Way::CorecastAssistLingering => "corecast assist lingering",
            Way::CorecastPolled => "corecast polled",
            Way::Pacer => "pacing alone",
            Way::Eventfd => "two eventfds",
            Way::Wakes => "bare wake-ups",
            Way::Relay => "bare relay",
            Way::Iceoryx => "iceoryx2 polling",
            Way::IceoryxEvent => "iceoryx2 events",
            Way::Zeromq => "ZeroMQ direct",
            Way::ZeromqProxy => "ZeroMQ proxy",
            Way::Nats => "NATS",
            Way::Redis => "Redis",
        }
    }

    /// Whether it is corecast.
    pub fn is_own(self) -> bool {
        matches!(
            self,
            Way::Corecast
                | Way::CorecastMany
                | Way::CorecastPerSender
                | Way::CorecastLingering
                | Way::CorecastAssist
                | Way::CorecastAssistLingering
                | Way::CorecastPolled
        )
    }

    /// Why it cannot run here, if it cannot.
    pub fn missing(self) -> Option<&'static str> {
        match self {
            Way::Iceoryx | Way::IceoryxEvent if !cfg!(feature = "iceoryx2") => {
                Some("built without the feature iceoryx2")
            }
            Way::Zeromq | Way::ZeromqProxy if !cfg!(feature = "zeromq") => {
                Some("built without the feature zeromq")
            }
            Way::Nats if !installed("nats-server") => Some("no nats-server in the path"),
            Way::Redis if !installed("redis-server") => Some("no redis-server in the path"),
            _ => None,
        }
    }

    /// How it is set up, for the report.
    pub fn setting(self) -> &'static str {
        match self {
            Way::Corecast => {
                "One call of `send_to` per message. The master is a thread of the parent process. \
                 Timestamps per batch, one order for all, `Overflow::Block`. Receivers sleep in \
                 epoll on their descriptor. For the throughput work lanes and queues have 1 MiB, \
                 with 64 KiB bodies 2 MiB and slabs of 8 MiB (otherwise the 256 KiB and 2 MiB of \
                 the defaults), and receivers, which do nothing else there, linger for 100 us \
                 first (`Core::set_linger`)."
            }
            Way::CorecastMany => "The same with `send_many_to` of 64 bodies.",
            Way::CorecastPerSender => "The same as `corecast` with `Order::PerSender`.",
            Way::CorecastAssist => {
                "The same as `corecast` with `Config::assist`, and so without isolation: a worker \
                 that sends while the master sleeps does its work."
            }
            Way::CorecastLingering => {
                "The same as `corecast`, but both workers wait up to 100 us for more before they \
                 sleep, yielding the processor meanwhile (`Core::set_linger`)."
            }
            Way::CorecastAssistLingering => "Both: assist mode, and workers that linger.",
            Way::CorecastPolled => {
                "No master thread: the first worker's process calls `Master::poll` from its own \
                 loop, between its own sends and receives."
            }
            Way::Pacer => {
                "The paced sender's own loop with nothing to send to: what is deducted from the \
                 processor time of the others."
            }
            Way::Eventfd => {
                "One process writes an eventfd that the other reads, and back; no messages. \
                 Spinning, the two share one word of memory instead."
            }
            Way::Wakes => {
                "A process between that wakes whoever hears: bodies in a ring in shared memory, an \
                 eventfd for each process, a blocking `read` of it. No names, no subscriptions, no \
                 waiting for room, no recovery: what is left are the wake-ups."
            }
            Way::Relay => {
                "One process reads frames from Unix stream sockets and writes them to all \
                 receivers. Senders write 64 frames at a time, sockets have 832 KiB (SO_SNDBUF); \
                 one `writev` per receiver for all that has arrived. No names, no subscriptions, no \
                 order between senders."
            }
            Way::Iceoryx => {
                "Publish-subscribe with slices, bodies written in place into loaned samples, safe \
                 overflow off, publishers wait at full buffers (of up to 1,024 samples, 64 with \
                 bodies of 64 KiB). Receivers poll, and yield when there is nothing and there are \
                 more workers than processors."
            }
            Way::IceoryxEvent => {
                "The same, with one notification per batch, and receivers that sleep in \
                 `blocking_wait`."
            }
            Way::Zeromq => {
                "XPUB sockets with NODROP bound to ipc addresses, SUB sockets connected to every \
                 sender, subscribed to everything. A batch of 64 is one message of 64 parts. \
                 High-water marks large enough to wait rarely."
            }
            Way::ZeromqProxy => {
                "The same through `zmq_proxy` between an XSUB and an XPUB socket in a process of \
                 its own."
            }
            Way::Nats => {
                "nats-server over loopback TCP (it has no Unix sockets), TCP_NODELAY, `verbose` \
                 and `pedantic` off, 64 PUBs per write, no limit on pending bytes in reach."
            }
            Way::Redis => {
                "redis-server on a Unix socket, no persistence, 64 PUBLISH commands per write, \
                 replies to publishers switched off, no limit on what subscribers may have waiting."
            }
        }
    }
}
