//! Redis: `PUBLISH` and `SUBSCRIBE` over a Unix socket.
//!
//! Its best reasonable setting: no persistence, no TCP, no limit on what a slow subscriber may have
//! waiting (the bench's own window keeps it small), publishers that send a batch per `write` and
//! have replies switched off, so that neither side handles them.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Command;

use super::broker::{BrokerLink, Frame, Incoming, Outgoing};
use super::window;
use crate::daemon::{Scratch, Server};
use crate::link::{Peer, Role, Topology, text};
use crate::shared::Credit;
use crate::support::crew::Failure;

/// A server and the topology it serves.
pub struct Redis {
    topology: Topology,
    credit: Credit,
    socket: String,
    kept: Vec<UnixStream>,
    // In this order: the server ends before its directory goes.
    _server: Server,
    _scratch: Scratch,
}

impl Redis {
    /// Starts a server for `topology`.
    pub fn prepare(topology: Topology) -> Result<Redis, Failure> {
        let scratch = Scratch::new("redis")?;
        let socket = scratch.join("socket");
        let mut command = Command::new("redis-server");
        command.current_dir(scratch.path());
        command.args(["--port", "0", "--unixsocket", &socket, "--save", ""]);
        command.args(["--appendonly", "no", "--maxclients", "4000"]);
        command.args(["--client-output-buffer-limit", "pubsub 0 0 0"]);
        let server = Server::start(command, || UnixStream::connect(&socket).is_ok())?;
        Ok(Redis {
            credit: Credit::new(&topology, window(&topology))?,
            topology,
            socket,
            kept: Vec::new(),
            _server: server,
            _scratch: scratch,
        })
    }

    /// A connection on which `command` was said and answered with something that ends in `end`.
    pub fn connect(&self, command: &[u8], end: &str) -> Result<UnixStream, String> {
        let mut wire = UnixStream::connect(&self.socket).map_err(text("connect"))?;
        wire.write_all(command).map_err(text("write"))?;
        let mut answer = Vec::new();
        let mut byte = [0];
        while !answer.ends_with(end.as_bytes()) {
            if wire.read(&mut byte).map_err(text("read"))? == 0 {
                return Err(format!("redis: {}", String::from_utf8_lossy(&answer)));
            }
            answer.push(byte[0]);
        }
        Ok(wire)
    }
}

impl Redis {
    /// Has another client subscribe to that many other channels, a thousand per command.
    pub fn subscribe_to(&mut self, channels: u32) -> Result<(), String> {
        let mut wire = UnixStream::connect(&self.socket).map_err(text("connect"))?;
        let numbers: Vec<u32> = (0..channels).collect();
        for some in numbers.chunks(1000) {
            let names = some
                .iter()
                .map(|number| format!(" channel-number-{number}"));
            let command = format!("SUBSCRIBE{}\r\n", names.collect::<String>());
            wire.write_all(command.as_bytes()).map_err(text("write"))?;
            let end = format!(":{}\r\n", some.last().map_or(0, |last| last + 1));
            let (mut answer, mut bytes) = (Vec::new(), vec![0; 1 << 16]);
            while !answer.ends_with(end.as_bytes()) {
                match wire.read(&mut bytes).map_err(text("read"))? {
                    0 => return Err("redis closed the connection".to_owned()),
                    count => answer.extend_from_slice(&bytes[..count]),
                }
            }
        }
        self.kept.push(wire);
        Ok(())
    }

    /// Bytes the server says it uses.
    pub fn memory(&self) -> Result<f64, String> {
        let mut wire = self.connect(b"PING\r\n", "+PONG\r\n")?;
        wire.write_all(b"INFO memory\r\nQUIT\r\n")
            .map_err(text("write"))?;
        let mut answer = String::new();
        wire.read_to_string(&mut answer).map_err(text("read"))?;
        let used = answer
            .lines()
            .find_map(|line| line.strip_prefix("used_memory:"));
        let used = used.and_then(|digits| digits.trim().parse().ok());
        used.ok_or("redis does not tell its memory".to_owned())
    }
}

impl Peer for Redis {
    type Link<'a> = BrokerLink<'a>;

    fn link(&self, role: Role) -> Result<BrokerLink<'_>, String> {
        let size = self.topology.size;
        let mut link = BrokerLink::default();
        if let Some(channel) = role.sends {
            let mut wire = UnixStream::connect(&self.socket).map_err(text("connect"))?;
            wire.write_all(b"CLIENT REPLY OFF\r\n")
                .map_err(text("write"))?;
            let head = format!("*3\r\n$7\r\nPUBLISH\r\n$2\r\nc{channel}\r\n${size}\r\n");
            let frame = Frame {
                head: head.into_bytes(),
                size,
            };
            let account = self.credit.sender(role);
            link.out = Some(Outgoing::new(OwnedFd::from(wire), frame, account));
        }
        if let Some(channel) = role.hears {
            let wire = self.connect(format!("SUBSCRIBE c{channel}\r\n").as_bytes(), ":1\r\n")?;
            let head = format!("*3\r\n$7\r\nmessage\r\n$2\r\nc{channel}\r\n${size}\r\n");
            let frame = Frame {
                head: head.into_bytes(),
                size,
            };
            let account = self.credit.receiver(role);
            link.inward = Some(Incoming::new(OwnedFd::from(wire), frame, None, account));
        }
        Ok(link)
    }
}
