//! The floor: a bare relay over Unix stream sockets, in processes of its own.
//!
//! ```text
//! sender ──batches of up to 64 frames──► relay ──all whole frames it has──► each receiver
//! ```
//! No names, no subscriptions, no order between senders, no slow-receiver policy: what is left is
//! the cost of moving framed bytes through a third process by the kernel, done with care: large
//! reads, one `writev` per receiver and round for all senders' frames, no copy inside the relay,
//! and `poll` only where something would block.

use std::io::{self, ErrorKind, IoSlice, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{SndBuf, SndBufForce};

use super::content::{Checker, GROUP, Stream, group_of};
use super::crew::{Crew, Failure, Gate, Report, now};
use super::frames::{HEAD, Inbox, put};
use super::matrix::Cell;

/// Room in a socket, which the kernel doubles: 5 to 30 % more goes through than with the usual 208 KiB, and
/// no more with 1 MiB.
const SOCKET_BYTES: usize = 416 << 10;

/// Forks the relay, its senders and its receivers into `crew`.
pub fn spawn(crew: &mut Crew, cell: Cell, length: Duration) -> Result<(), Failure> {
    let mut wires = Wires::new(cell)?;
    crew.spawn("relay".to_owned(), |gate| {
        relay(gate, wires.relay_ends(), cell.size)
    })?;
    for index in 0..cell.receivers {
        let name = format!("relay receiver {index}");
        crew.spawn(name, |gate| receive(gate, wires.receiver_end(index), cell))?;
    }
    for index in 0..cell.senders {
        let name = format!("relay sender {index}");
        crew.spawn(name, |gate| {
            send(gate, wires.sender_end(index), index, cell.size, length)
        })?;
    }
    Ok(())
}

/// All sockets of a round. Each process keeps its own and drops the others.
struct Wires {
    /// (relay's end, sender's end)
    inputs: Vec<(UnixStream, UnixStream)>,
    /// (relay's end, receiver's end)
    outputs: Vec<(UnixStream, UnixStream)>,
}

impl Wires {
    fn new(cell: Cell) -> io::Result<Wires> {
        let pairs = |count| (0..count).map(|_| roomy_pair()).collect::<io::Result<_>>();
        Ok(Wires {
            inputs: pairs(cell.senders)?,
            outputs: pairs(cell.receivers)?,
        })
    }

    fn relay_ends(&mut self) -> (Vec<UnixStream>, Vec<UnixStream>) {
        let inputs = self.inputs.drain(..).map(|pair| pair.0).collect();
        (inputs, self.outputs.drain(..).map(|pair| pair.0).collect())
    }

    fn sender_end(&mut self, index: u32) -> UnixStream {
        self.outputs.clear();
        let mut inputs = std::mem::take(&mut self.inputs);
        inputs.swap_remove(index as usize).1
    }

    fn receiver_end(&mut self, index: u32) -> UnixStream {
        self.inputs.clear();
        let mut outputs = std::mem::take(&mut self.outputs);
        outputs.swap_remove(index as usize).1
    }
}

/// With room for [`SOCKET_BYTES`]; as much as is allowed where the process may not ask for more.
fn roomy_pair() -> io::Result<(UnixStream, UnixStream)> {
    let pair = UnixStream::pair()?;
    for end in [&pair.0, &pair.1] {
        setsockopt(end, SndBufForce, &SOCKET_BYTES)
            .or_else(|_| setsockopt(end, SndBuf, &SOCKET_BYTES))?;
    }
    Ok(pair)
}

fn text(what: &'static str) -> impl Fn(io::Error) -> String {
    move |error| format!("{what}: {error}")
}

/// Sends one stream, a group of frames per `write`.
fn send(
    gate: &mut Gate,
    mut wire: UnixStream,
    index: u32,
    size: usize,
    length: Duration,
) -> Result<Report, String> {
    let frame = HEAD + size;
    let group = group_of(size, GROUP);
    let mut batch = vec![0; frame * group];
    gate.wait()?;
    let mut stream = Stream::new(index, size, group, length);
    let mut calls = 0;
    while stream.next_group().is_some() {
        for out in batch.chunks_exact_mut(frame) {
            put(out, size, |body| stream.fill(body));
        }
        wire.write_all(&batch).map_err(text("write"))?;
        calls += 1;
    }
    Ok(Report {
        finished: now(),
        sent: stream.sent(),
        calls,
        ..Report::default()
    })
}

/// Checks everything that arrives until each sender's last message.
fn receive(gate: &mut Gate, wire: UnixStream, cell: Cell) -> Result<Report, String> {
    let mut checker = Checker::new(cell.senders, cell.size);
    let mut inbox = Inbox::new(cell.size);
    gate.wait()?;
    let mut calls = 0;
    while !checker.finished() {
        calls += 1;
        if inbox.fill(&wire).map_err(text("read"))? == 0 {
            return Err(format!(
                "the stream ended after {} messages",
                checker.accepted()
            ));
        }
        inbox.take_bodies(|body| checker.accept(body).map(|_| ()))?;
    }
    Ok(Report {
        finished: now(),
        received: checker.accepted(),
        calls,
        ..Report::default()
    })
}

/// A relay as a member of a crew.
fn relay(
    gate: &mut Gate,
    ends: (Vec<UnixStream>, Vec<UnixStream>),
    size: usize,
) -> Result<Report, String> {
    let calls = pass_on(ends, size, || gate.wait())?;
    Ok(Report {
        finished: now(),
        calls,
        ..Report::default()
    })
}

/// Passes every frame of every input on to all outputs, until all inputs have ended. Calls `ready`
/// once when everything is prepared; returns the number of system calls.
pub fn pass_on(
    (inputs, outputs): (Vec<UnixStream>, Vec<UnixStream>),
    size: usize,
    ready: impl FnOnce() -> Result<(), String>,
) -> Result<u64, String> {
    let mut relay = Relay {
        inputs: inputs
            .into_iter()
            .map(|wire| Input::new(wire, size))
            .collect(),
        outputs: outputs
            .into_iter()
            .map(|wire| Output { wire, sent: 0 })
            .collect(),
        calls: 0,
    };
    relay.prepare().map_err(text("sockets"))?;
    ready()?;
    while relay.gather().map_err(text("read"))? {
        relay.forward().map_err(text("write"))?;
    }
    Ok(relay.calls)
}

struct Input {
    wire: UnixStream,
    inbox: Inbox,
    /// Bytes of whole frames at the inbox's front.
    whole: usize,
    ended: bool,
}

struct Output {
    wire: UnixStream,
    /// Bytes of the current round that this output has taken.
    sent: usize,
}

struct Relay {
    inputs: Vec<Input>,
    outputs: Vec<Output>,
    calls: u64,
}

impl Relay {
    /// Outputs never block, so that one slow receiver does not keep the others waiting. Inputs
    /// block only when there is one: then no poll is needed before a read.
    fn prepare(&self) -> io::Result<()> {
        let alone = self.inputs.len() == 1;
        self.inputs
            .iter()
            .try_for_each(|input| input.wire.set_nonblocking(!alone))?;
        self.outputs
            .iter()
            .try_for_each(|output| output.wire.set_nonblocking(true))
    }

    /// Reads once from every input that has bytes; false when all inputs have ended.
    fn gather(&mut self) -> io::Result<bool> {
        if self.inputs.len() > 1 {
            self.calls += 1;
            wait(
                self.inputs
                    .iter()
                    .map(|input| PollFd::new(input.wire.as_fd(), PollFlags::POLLIN)),
            )?;
        }
        for input in &mut self.inputs {
            self.calls += 1;
            input.read()?;
        }
        self.inputs.retain(|input| !input.ended);
        Ok(!self.inputs.is_empty())
    }

    /// Writes all whole frames to every output.
    fn forward(&mut self) -> io::Result<()> {
        let inputs = self.inputs.iter().filter(|input| input.whole > 0);
        let runs: Vec<&[u8]> = inputs.map(|input| input.inbox.front(input.whole)).collect();
        let total = runs.iter().map(|run| run.len()).sum();
        self.outputs.iter_mut().for_each(|output| output.sent = 0);
        loop {
            for output in self.outputs.iter_mut().filter(|output| output.sent < total) {
                self.calls += output.push(&runs, total)?;
            }
            let late = self.outputs.iter().filter(|output| output.sent < total);
            let late: Vec<PollFd> = late
                .map(|output| PollFd::new(output.wire.as_fd(), PollFlags::POLLOUT))
                .collect();
            if late.is_empty() {
                break;
            }
            self.calls += 1;
            wait(late)?;
        }
        self.inputs.iter_mut().for_each(Input::consume);
        Ok(())
    }
}

impl Input {
    fn new(wire: UnixStream, size: usize) -> Input {
        Input {
            wire,
            inbox: Inbox::new(size),
            whole: 0,
            ended: false,
        }
    }

    /// One read, and a look at every frame it completed.
    fn read(&mut self) -> io::Result<()> {
        match self.inbox.fill(&self.wire) {
            Ok(0) if !self.inbox.is_empty() => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(0) => self.ended = true,
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
            Ok(_) => self.whole = self.inbox.whole_frames(),
            Err(_) => {}
        }
        Ok(())
    }

    fn consume(&mut self) {
        self.inbox.consume(self.whole);
        self.whole = 0;
    }
}

impl Output {
    /// Writes as much as the socket takes; returns how many calls that took.
    fn push(&mut self, runs: &[&[u8]], total: usize) -> io::Result<u64> {
        let mut calls = 0;
        while self.sent < total {
            let mut slices: Vec<IoSlice> = runs.iter().map(|run| IoSlice::new(run)).collect();
            let mut rest = &mut slices[..];
            IoSlice::advance_slices(&mut rest, self.sent);
            calls += 1;
            match (&self.wire).write_vectored(rest) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(calls)
    }
}

fn wait<'a>(fds: impl IntoIterator<Item = PollFd<'a>>) -> io::Result<()> {
    let mut fds: Vec<PollFd> = fds.into_iter().collect();
    match nix::poll::poll(&mut fds, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
