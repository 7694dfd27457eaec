//! What every system under comparison has to offer: one link per worker, made after the fork.
//!
//! A [`Topology`] says who sends on which channel and who hears which; a [`Peer`] is prepared for
//! it once per round, in the parent, and each worker makes its own [`Link`] from it.

use std::fmt::Display;

use crate::support::crew::Failure;
use crate::support::matrix::Cell;

/// How a worker waits for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// It sleeps in the kernel.
    Sleep,
    /// It looks again and again.
    Spin,
    /// It looks again and again, and lets others run in between.
    Yield,
}

/// What one worker does.
#[derive(Clone, Copy, Debug)]
pub struct Role {
    /// Index among all workers of the topology.
    pub worker: usize,
    /// The channel it sends on.
    pub sends: Option<u8>,
    /// The channel it hears.
    pub hears: Option<u8>,
}

/// The workers of a round.
#[derive(Clone, Debug)]
pub struct Topology {
    /// All workers; senders first.
    pub roles: Vec<Role>,
    /// Bytes of every body.
    pub size: usize,
    /// How receivers wait.
    pub wait: Wait,
}

impl Topology {
    /// The channels that somebody sends to, each once.
    pub fn channels(&self) -> Vec<u8> {
        let mut channels: Vec<u8> = self.roles.iter().filter_map(|role| role.sends).collect();
        channels.sort_unstable();
        channels.dedup();
        channels
    }

    /// `cell.senders` senders on one channel that `cell.receivers` receivers hear.
    pub fn fan(cell: Cell, wait: Wait) -> Topology {
        let (senders, all) = (cell.senders as usize, cell.senders + cell.receivers);
        let role = |worker| Role {
            worker,
            sends: (worker < senders).then_some(0),
            hears: (worker >= senders).then_some(0),
        };
        Topology {
            roles: (0..all as usize).map(role).collect(),
            size: cell.size,
            wait,
        }
    }

    /// Two workers, each of which hears what the other sends.
    pub fn pair(size: usize, wait: Wait) -> Topology {
        let role = |worker: u8| Role {
            worker: usize::from(worker),
            sends: Some(worker),
            hears: Some(1 - worker),
        };
        Topology {
            roles: vec![role(0), role(1)],
            size,
            wait,
        }
    }

    /// How many workers hear.
    pub fn receivers(&self) -> usize {
        let hears = |role: &&Role| role.hears.is_some();
        self.roles.iter().filter(hears).count()
    }

    /// Indices of the workers that send what `role` hears.
    pub fn senders_to(&self, role: Role) -> impl Iterator<Item = usize> + '_ {
        let wanted = move |from: &&Role| from.sends.is_some() && from.sends == role.hears;
        self.roles.iter().filter(wanted).map(|from| from.worker)
    }

    /// Place of a hearing worker among those that hear.
    pub fn place(&self, role: Role) -> usize {
        let before = &self.roles[..role.worker];
        before.iter().filter(|role| role.hears.is_some()).count()
    }
}

/// One system, ready for one round; dropping it ends whatever it started.
pub trait Peer {
    /// What a worker uses.
    type Link<'a>: Link
    where
        Self: 'a;

    /// Makes a worker's link, in the worker's own process, at the same time as the others make
    /// theirs. When all of these calls have returned, whatever is sent will reach all that hear it.
    fn link(&self, role: Role) -> Result<Self::Link<'_>, String>;

    /// Called in the parent when every worker has been forked: starts what has threads.
    fn start(&self) -> Result<(), Failure> {
        Ok(())
    }
}

/// One worker's way to send and to hear.
pub trait Link {
    /// Sends `count` bodies, each written by `fill`, as the one batch it is; waits for room.
    fn send(&mut self, count: usize, fill: impl FnMut(&mut [u8])) -> Result<(), String>;

    /// Waits until something has arrived and gives every body that is there to `take`.
    fn receive(&mut self, take: impl FnMut(&[u8]) -> Result<(), String>) -> Result<(), String>;

    /// Called once after the last `send`: returns when nothing depends on this process any more.
    fn finish(&mut self) -> Result<(), String> {
        Ok(())
    }
}

/// Makes an error of any kind a text that says what failed.
pub fn text<E: Display>(what: &'static str) -> impl Fn(E) -> String {
    move |error| format!("{what}: {error}")
}
