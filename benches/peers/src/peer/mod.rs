//! The systems under comparison.

pub mod bare;
pub mod broker;
pub mod corecast;
#[cfg(feature = "iceoryx2")]
pub mod iceoryx;
pub mod nats;
pub mod redis;
pub mod wakes;
#[cfg(feature = "zeromq")]
pub mod zeromq;
#[cfg(feature = "zeromq")]
mod zmq_sys;

use crate::link::Topology;

/// Bytes that may wait in a broker for all receivers together.
const WAITING: usize = 64 << 20;
/// What a broker keeps beside a body, roughly.
const OVERHEAD: usize = 64;

/// How many messages may be on their way: enough that nobody waits for want of them.
fn window(topology: &Topology) -> u64 {
    let one = (topology.size + OVERHEAD) * topology.receivers().max(1);
    (WAITING / one).clamp(16, 32_768) as u64
}
