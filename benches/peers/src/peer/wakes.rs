//! The floor of everything that goes through a third process while its receivers sleep.
//!
//! ```text
//! sender ──eventfd──► the one between ──an eventfd for each──► receivers
//!    └──────────── bodies, in a ring in shared memory ───────────┘
//! ```
//! Nobody is subscribed to anything, nobody waits for room, nobody is missed who dies: what is left
//! are the wake-ups. Each process sleeps in a blocking `read` of its own eventfd.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::daemon::Forked;
use crate::link::{Link, Peer, Role, Topology, text};
use crate::shared::Shared;
use crate::support::crew::Failure;

/// Bodies that a ring holds: more than a second of the paced work, since nobody waits for room.
const BODIES: usize = 1 << 16;
/// Words before a ring's first body: the count of all bodies published, alone on its lines.
const HEAD: usize = 16;

/// One ring per worker, one eventfd per worker, and the process between.
pub struct Wakes {
    topology: Topology,
    rings: Shared,
    /// The workers' eventfds, then that of the process between.
    bells: Vec<EventFd>,
    _between: Forked,
}

impl Wakes {
    /// Forks the process between.
    pub fn prepare(topology: Topology) -> Result<Wakes, Failure> {
        let count = topology.roles.len();
        let rings = Shared::new(count * ring_words(&topology))?;
        let bells = (0..=count).map(|_| EventFd::from_flags(EfdFlags::EFD_CLOEXEC));
        let bells = bells.collect::<Result<Vec<_>, _>>()?;
        let between = Forked::start(|| {
            let passed = pass_on(&topology, &rings, &bells);
            passed.err().unwrap_or_default()
        })?;
        Ok(Wakes {
            topology,
            rings,
            bells,
            _between: between,
        })
    }
}

/// Words of one worker's ring.
fn ring_words(topology: &Topology) -> usize {
    HEAD + BODIES * topology.size / size_of::<u64>()
}

/// The ring of `worker`: its count, and its bodies' words.
fn ring<'a>(
    rings: &'a Shared,
    topology: &Topology,
    worker: usize,
) -> (&'a AtomicU64, &'a [AtomicU64]) {
    let len = ring_words(topology);
    let words = &rings.words()[worker * len..][..len];
    (&words[0], &words[HEAD..])
}

/// Wakes all who hear, whenever somebody has published something.
fn pass_on(topology: &Topology, rings: &Shared, bells: &[EventFd]) -> Result<(), String> {
    let (own, bells) = bells.split_last().ok_or("nobody to wake")?;
    let mut own = file(own)?;
    let mut others = bells.iter().map(file).collect::<Result<Vec<_>, _>>()?;
    let mut passed = vec![0; bells.len()];
    loop {
        own.read_exact(&mut [0; 8]).map_err(text("read"))?;
        for from in &topology.roles {
            // SYNC(wakes): pairs with the Release in `send`; the receivers read the bodies.
            let count = ring(rings, topology, from.worker).0.load(Ordering::Acquire);
            if std::mem::replace(&mut passed[from.worker], count) == count {
                continue;
            }
            for to in topology.roles.iter().filter(|to| to.hears == from.sends) {
                ring_bell(&mut others[to.worker])?;
            }
        }
    }
}

fn file(bell: &EventFd) -> Result<File, String> {
    let fd = bell.as_fd().try_clone_to_owned();
    fd.map(File::from).map_err(text("dup"))
}

fn ring_bell(bell: &mut File) -> Result<(), String> {
    bell.write_all(&1u64.to_ne_bytes()).map_err(text("write"))
}

impl Peer for Wakes {
    type Link<'a> = WakesLink<'a>;

    fn link(&self, role: Role) -> Result<WakesLink<'_>, String> {
        let between = self.bells.last().ok_or("nobody between")?;
        Ok(WakesLink {
            peer: self,
            role,
            own: file(&self.bells[role.worker])?,
            between: file(between)?,
            taken: vec![0; self.topology.roles.len()],
            body: vec![0; self.topology.size],
        })
    }
}

/// One worker's side of [`Wakes`].
pub struct WakesLink<'a> {
    peer: &'a Wakes,
    role: Role,
    own: File,
    between: File,
    /// Bodies taken from each worker's ring.
    taken: Vec<u64>,
    body: Vec<u8>,
}

impl WakesLink<'_> {
    /// The words of the body of this number in a ring.
    fn body_in<'r>(&self, bodies: &'r [AtomicU64], number: u64) -> &'r [AtomicU64] {
        let words = self.body.len() / size_of::<u64>();
        &bodies[number as usize % BODIES * words..][..words]
    }
}

impl Link for WakesLink<'_> {
    fn send(&mut self, count: usize, mut fill: impl FnMut(&mut [u8])) -> Result<(), String> {
        let (published, bodies) = ring(&self.peer.rings, &self.peer.topology, self.role.worker);
        // Relaxed: only this worker writes it.
        let first = published.load(Ordering::Relaxed);
        for number in first..first + count as u64 {
            fill(&mut self.body);
            for (word, bytes) in self
                .body_in(bodies, number)
                .iter()
                .zip(self.body.chunks_exact(8))
            {
                // Relaxed: published by the Release below.
                let value = u64::from_ne_bytes(bytes.try_into().expect("eight bytes"));
                word.store(value, Ordering::Relaxed);
            }
        }
        // SYNC(wakes): pairs with the Acquire loads; publishes the bodies.
        published.store(first + count as u64, Ordering::Release);
        ring_bell(&mut self.between)
    }

    fn receive(&mut self, mut take: impl FnMut(&[u8]) -> Result<(), String>) -> Result<(), String> {
        self.own.read_exact(&mut [0; 8]).map_err(text("read"))?;
        let peer = self.peer;
        for from in peer.topology.senders_to(self.role) {
            let (published, bodies) = ring(&peer.rings, &peer.topology, from);
            // SYNC(wakes): pairs with the Release in `send`.
            let count = published.load(Ordering::Acquire);
            for number in std::mem::replace(&mut self.taken[from], count)..count {
                let words = self.body_in(bodies, number);
                for (word, bytes) in words.iter().zip(self.body.chunks_exact_mut(8)) {
                    // Relaxed: as above; one that was overwritten meanwhile fails the check.
                    bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
                }
                take(&self.body)?;
            }
        }
        Ok(())
    }
}
