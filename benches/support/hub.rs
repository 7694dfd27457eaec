//! The hub's side of the matrix: the master in this process, each core a forked worker of its own.
//!
//! Lossless by [`Overflow::Block`]: a full queue stops the router, the lane behind it fills, the
//! sender sees `Full` and waits. Nothing else is needed. Pacing by credit would send messages back
//! through the hub and measure those as well; the relay is paced in the same way, by its sockets.

use std::fmt::Display;
use std::os::fd::AsFd;
use std::time::Duration;

use corecast::{
    Channel, ChannelId, Config, Core, Hub, Message, Order, Overflow, SendError, Sender, Timestamps,
};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::content::{Checker, Stream, group_of};
use super::crew::{Crew, Failure, Gate, Report, now};
use super::matrix::Cell;

const CHANNEL: &str = "prefork";
/// Longest wait for room in a lane; the round's own limit is shorter.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bodies of this size and more are large: written in place, and with more room.
pub const LOAN: usize = 4096;

/// Bytes of a lane and of a buffer that suit senders and receivers of `size` bytes in full flow: a fifth
/// to three times as much goes through as with the 256 KiB that a hub has by default.
pub fn room_for(size: usize) -> usize {
    if size < LOAN { 1 << 20 } else { 2 << 20 }
}

/// So many times that for a slab: whatever receivers have not read yet, and what comes meanwhile.
pub const SLAB: usize = 4;

/// What suits receivers that do nothing but receive, see [`Core::set_linger`].
pub const LINGER_US: u64 = 100;

/// What a run may choose about the hub.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Settings {
    /// Bytes of a lane, if not what suits the size of the messages.
    pub lane_bytes: Option<usize>,
    /// Bytes of one buffer of a queue, likewise.
    pub queue_bytes: Option<usize>,
    /// Bytes of a slab, likewise.
    pub slab_bytes: Option<usize>,
    /// How long the master polls before it sleeps.
    pub spin_us: u64,
    /// How long a receiver waits for more before it sleeps.
    pub linger_us: u64,
    /// Order per sender only, not one for all.
    pub per_sender: bool,
    /// No timestamps.
    pub no_timestamps: bool,
    /// Huge pages for queues and arena.
    pub huge_pages: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        let config = Config::default();
        Settings {
            lane_bytes: None,
            queue_bytes: None,
            slab_bytes: None,
            spin_us: config.spin.as_micros() as u64,
            linger_us: LINGER_US,
            per_sender: false,
            no_timestamps: false,
            huge_pages: false,
        }
    }
}

impl Settings {
    /// A hub for `cell`: one worker of one core for each sender, then for each receiver.
    pub fn hub(&self, cell: Cell) -> Result<Hub, Failure> {
        let mut config = Config::default();
        config.workers = cell.senders + cell.receivers;
        config.cores = 1;
        config.extra = 0;
        config.channels = 64;
        config.lane_bytes = self.lane_bytes.unwrap_or(room_for(cell.size));
        config.queue_bytes = self.queue_bytes.unwrap_or(room_for(cell.size));
        config.slab_bytes = self.slab_bytes.unwrap_or(SLAB * room_for(cell.size));
        config.max_message = config.max_message.max(cell.size);
        config.overflow = Overflow::Block;
        config.huge_pages = self.huge_pages;
        config.populate = self.huge_pages;
        config.spin = Duration::from_micros(self.spin_us);
        config.order = if self.per_sender {
            Order::PerSender
        } else {
            Order::Total
        };
        config.timestamps = if self.no_timestamps {
            Timestamps::Off
        } else {
            Timestamps::Batch
        };
        Hub::create(&config).map_err(|error| Failure::Broken(format!("hub: {error}")))
    }
}

/// Forks the workers of `cell` into `crew`. Senders use `send_many` with `batch` bodies, or one
/// `send` per message when `batch` is 1. Receivers linger as told.
pub fn spawn(
    crew: &mut Crew,
    hub: &Hub,
    cell: Cell,
    batch: usize,
    length: Duration,
    linger: Duration,
) -> Result<(), Failure> {
    for index in 0..cell.receivers {
        let worker = cell.senders + index;
        crew.spawn(format!("hub receiver {index}"), |gate| {
            receive(gate, hub, worker, cell, linger)
        })?;
    }
    for index in 0..cell.senders {
        let work = |gate: &mut Gate| send(gate, hub, index, cell.size, batch, length);
        crew.spawn(format!("hub sender {index}"), work)?;
    }
    Ok(())
}

fn text<E: Display>(what: &'static str) -> impl Fn(E) -> String {
    move |error| format!("{what}: {error}")
}

/// Checks everything that arrives until each sender's last message.
fn receive(
    gate: &mut Gate,
    hub: &Hub,
    worker: u32,
    cell: Cell,
    linger: Duration,
) -> Result<Report, String> {
    let mut core = hub.attach(worker, 0).map_err(text("attach"))?;
    core.set_linger(linger);
    let channel = core.join(CHANNEL).map_err(text("join"))?;
    let sleep = Sleep::on(&core)?;
    let mut checker = Checker::new(cell.senders, cell.size);
    gate.wait()?;
    let mut calls = 0;
    while !checker.finished() {
        match core.recv_many().map_err(text("recv"))? {
            Some(mut messages) => {
                messages.try_for_each(|message| check(&mut checker, channel, message))?;
            }
            None => {
                calls += 1;
                sleep.until_notified()?;
            }
        }
    }
    Ok(Report {
        finished: now(),
        received: checker.accepted(),
        calls,
        ..Report::default()
    })
}

#[inline]
fn check(checker: &mut Checker, channel: ChannelId, message: Message) -> Result<(), String> {
    let sender = checker.accept(message.body)?;
    let said = message.sender;
    if message.channel.index != channel.index || said.worker != sender {
        return Err(mistaken(sender, said));
    }
    Ok(())
}

/// Apart from [`check`], so that no reference to a message keeps it out of registers there.
#[cold]
fn mistaken(sender: u32, said: Sender) -> String {
    format!("a message of sender {sender} came as one of {said:?}, or in another channel")
}

/// An epoll set with one core's descriptor, as a server's loop would have it.
struct Sleep(Epoll);

impl Sleep {
    fn on(core: &Core) -> Result<Sleep, String> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(text("epoll"))?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0);
        epoll.add(core.as_fd(), event).map_err(text("epoll"))?;
        Ok(Sleep(epoll))
    }

    /// Call after `recv` returned nothing: that armed the descriptor.
    fn until_notified(&self) -> Result<(), String> {
        match self.0.wait(&mut [EpollEvent::empty()], EpollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(format!("epoll: {errno}")),
        }
    }
}

fn send(
    gate: &mut Gate,
    hub: &Hub,
    worker: u32,
    size: usize,
    batch: usize,
    length: Duration,
) -> Result<Report, String> {
    let mut core = hub.attach(worker, 0).map_err(text("attach"))?;
    let channel = core.channel(CHANNEL).map_err(text("channel"))?;
    let group = group_of(size, batch);
    let mut bytes = vec![0; size * group];
    gate.wait()?;
    let mut stream = Stream::new(worker, size, group, length);
    let calls = if batch == 1 {
        send_each(&mut core, channel, &mut stream, &mut bytes)
    } else {
        send_groups(&mut core, channel, &mut stream, &mut bytes, size)
    };
    let calls = calls.map_err(text("send"))?;
    Ok(Report {
        finished: now(),
        sent: stream.sent(),
        calls,
        ..Report::default()
    })
}

/// One call per message, large ones written in place; returns how often the lane was full.
fn send_each(
    core: &mut Core,
    channel: Channel,
    stream: &mut Stream,
    body: &mut [u8],
) -> Result<u64, SendError> {
    let mut waits = 0;
    while stream.next_group().is_some() {
        if body.len() >= LOAN {
            let mut loan = core.loan_to_timeout(channel, body.len(), PATIENCE)?;
            stream.fill(&mut loan);
            loan.send();
            continue;
        }
        stream.fill(body);
        match core.send_to(channel, body) {
            Ok(()) => {}
            Err(SendError::Full) => {
                waits += 1;
                core.send_to_timeout(channel, body, PATIENCE)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(waits)
}

/// One call per group of bodies of `size` bytes; returns how often the lane was full.
fn send_groups(
    core: &mut Core,
    channel: Channel,
    stream: &mut Stream,
    bytes: &mut [u8],
    size: usize,
) -> Result<u64, SendError> {
    let mut waits = 0;
    while stream.next_group().is_some() {
        bytes
            .chunks_exact_mut(size)
            .for_each(|body| stream.fill(body));
        let bodies: Vec<&[u8]> = bytes.chunks_exact(size).collect();
        waits += send_all(core, channel, &bodies)?;
    }
    Ok(waits)
}

fn send_all(core: &mut Core, channel: Channel, mut bodies: &[&[u8]]) -> Result<u64, SendError> {
    let mut waits = 0;
    loop {
        let taken = match core.send_many_to(channel, bodies) {
            Err(SendError::Full) => 0,
            taken => taken?,
        };
        let Some((next, rest)) = bodies[taken..].split_first() else {
            return Ok(waits);
        };
        core.send_to_timeout(channel, next, PATIENCE)?;
        waits += 1;
        bodies = rest;
        if bodies.is_empty() {
            return Ok(waits);
        }
    }
}
