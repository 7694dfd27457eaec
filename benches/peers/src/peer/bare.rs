//! What is left when everything a messaging system does is left out: the floors.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::daemon::Forked;
use crate::link::{Link, Peer, Role, Topology, Wait, text};
use crate::shared::Shared;
use crate::support::crew::Failure;
use crate::support::frames::{HEAD, Inbox, put};
use crate::support::relay;

/// The bare relay between two workers.
pub struct PairRelay {
    size: usize,
    wires: Vec<(UnixStream, UnixStream)>,
    _relay: Forked,
}

impl PairRelay {
    /// Forks the relay.
    pub fn prepare(topology: Topology) -> Result<PairRelay, Failure> {
        let wires = vec![UnixStream::pair()?, UnixStream::pair()?];
        let relay = Forked::start(|| {
            cross(&wires[0].0, &wires[1].0, topology.size).unwrap_or_else(|error| error.to_string())
        })?;
        Ok(PairRelay {
            size: topology.size,
            wires,
            _relay: relay,
        })
    }
}

/// Writes all whole frames that come from one side to the other, both ways.
fn cross(one: &UnixStream, two: &UnixStream, size: usize) -> std::io::Result<String> {
    let mut inboxes = [Inbox::new(size), Inbox::new(size)];
    let wires = [one, two];
    loop {
        let mut fds = wires.map(|wire| PollFd::new(wire.as_fd(), PollFlags::POLLIN));
        nix::poll::poll(&mut fds, PollTimeout::NONE)?;
        let ready = fds.map(|fd| fd.any() == Some(true));
        for at in (0..2).filter(|&at| ready[at]) {
            let inbox = &mut inboxes[at];
            if inbox.fill(wires[at])? == 0 {
                return Ok("a worker has gone".to_owned());
            }
            let whole = inbox.whole_frames();
            (&mut &*wires[1 - at]).write_all(inbox.front(whole))?;
            inbox.consume(whole);
        }
    }
}

impl Peer for PairRelay {
    type Link<'a> = StreamLink;

    fn link(&self, role: Role) -> Result<StreamLink, String> {
        let wire = self.wires[role.worker].1.try_clone().map_err(text("dup"))?;
        Ok(StreamLink::new(wire, self.size))
    }
}

/// The bare relay of the prefork bench, for senders and receivers of another kind.
pub struct FanRelay {
    size: usize,
    /// What each worker keeps.
    wires: Vec<UnixStream>,
    _relay: Forked,
}

impl FanRelay {
    /// Forks the relay.
    pub fn prepare(topology: Topology) -> Result<FanRelay, Failure> {
        let (mut wires, mut inputs, mut outputs) = (Vec::new(), Vec::new(), Vec::new());
        for role in &topology.roles {
            let (one, two) = UnixStream::pair()?;
            wires.push(one);
            if role.sends.is_some() {
                &mut inputs
            } else {
                &mut outputs
            }
            .push(two);
        }
        let relay = Forked::start(|| {
            let passed = relay::pass_on((inputs, outputs), topology.size, || Ok(()));
            passed.err().unwrap_or("no senders are left".to_owned())
        })?;
        Ok(FanRelay {
            size: topology.size,
            wires,
            _relay: relay,
        })
    }
}

impl Peer for FanRelay {
    type Link<'a> = StreamLink;

    fn link(&self, role: Role) -> Result<StreamLink, String> {
        let wire = self.wires[role.worker].try_clone().map_err(text("dup"))?;
        Ok(StreamLink::new(wire, self.size))
    }
}

/// Frames on a stream.
pub struct StreamLink {
    wire: UnixStream,
    inbox: Inbox,
    size: usize,
    bytes: Vec<u8>,
}

impl StreamLink {
    /// On one end of a socket pair.
    pub fn new(wire: UnixStream, size: usize) -> StreamLink {
        StreamLink {
            wire,
            inbox: Inbox::new(size),
            size,
            bytes: Vec::new(),
        }
    }
}

impl Link for StreamLink {
    fn send(&mut self, count: usize, mut fill: impl FnMut(&mut [u8])) -> Result<(), String> {
        self.bytes.resize(count * (HEAD + self.size), 0);
        for frame in self.bytes.chunks_exact_mut(HEAD + self.size) {
            put(frame, self.size, &mut fill);
        }
        self.wire.write_all(&self.bytes).map_err(text("write"))
    }

    fn receive(&mut self, mut take: impl FnMut(&[u8]) -> Result<(), String>) -> Result<(), String> {
        let mut count = 0;
        while count == 0 {
            if self.inbox.fill(&self.wire).map_err(text("read"))? == 0 {
                return Err("the relay has gone".to_owned());
            }
            self.inbox.take_bodies(|body| {
                count += 1;
                take(body)
            })?;
        }
        Ok(())
    }
}

/// Two eventfds, or two words of memory when spinning. The body stays with its sender: what
/// arrives is made up from what was sent, so that the echo's check can be the same.
pub struct Bells {
    topology: Topology,
    bells: [EventFd; 2],
    words: Shared,
}

impl Bells {
    /// For a pair of workers.
    pub fn prepare(topology: Topology) -> Result<Bells, Failure> {
        let bell = || EventFd::from_flags(EfdFlags::EFD_CLOEXEC);
        Ok(Bells {
            topology,
            bells: [bell()?, bell()?],
            words: Shared::new(64)?,
        })
    }
}

impl Peer for Bells {
    type Link<'a> = BellLink<'a>;

    fn link(&self, role: Role) -> Result<BellLink<'_>, String> {
        let file = |bell: &EventFd| bell.as_fd().try_clone_to_owned().map(File::from);
        Ok(BellLink {
            own: file(&self.bells[role.worker]).map_err(text("dup"))?,
            other: file(&self.bells[1 - role.worker]).map_err(text("dup"))?,
            words: &self.words,
            at: role.worker,
            seen: 0,
            wait: self.topology.wait,
            body: vec![0; self.topology.size],
        })
    }
}

/// One worker's side of [`Bells`].
pub struct BellLink<'a> {
    own: File,
    other: File,
    words: &'a Shared,
    at: usize,
    seen: u64,
    wait: Wait,
    body: Vec<u8>,
}

/// The two words are this far apart, so that each has lines of its own.
const APART: usize = 32;
/// Where the two words of content are, behind the counter.
const CONTENT: usize = 1;

impl Link for BellLink<'_> {
    fn send(&mut self, _count: usize, mut fill: impl FnMut(&mut [u8])) -> Result<(), String> {
        fill(&mut self.body);
        let theirs = &self.words.words()[(1 - self.at) * APART..];
        for (word, bytes) in theirs[CONTENT..]
            .iter()
            .zip(self.body.chunks_exact(8))
            .take(2)
        {
            // Relaxed: published by the Release below or by the eventfd.
            let value = u64::from_ne_bytes(bytes.try_into().expect("eight bytes"));
            word.store(value, Ordering::Relaxed);
        }
        if self.wait == Wait::Sleep {
            return self
                .other
                .write_all(&1u64.to_ne_bytes())
                .map_err(text("write"));
        }
        // SYNC(bells): pairs with the Acquire in `receive`; publishes the content.
        theirs[0].fetch_add(1, Ordering::Release);
        Ok(())
    }

    fn receive(&mut self, mut take: impl FnMut(&[u8]) -> Result<(), String>) -> Result<(), String> {
        let mine = &self.words.words()[self.at * APART..];
        if self.wait == Wait::Sleep {
            self.own.read_exact(&mut [0; 8]).map_err(text("read"))?;
        } else {
            self.seen += 1;
            // SYNC(bells): pairs with the Release in `send`.
            while mine[0].load(Ordering::Acquire) < self.seen {
                std::hint::spin_loop();
            }
        }
        for (word, bytes) in mine[CONTENT..]
            .iter()
            .zip(self.body.chunks_exact_mut(8))
            .take(2)
        {
            // Relaxed: see `send`.
            bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        take(&self.body)
    }
}
