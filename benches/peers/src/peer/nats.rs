//! NATS: `PUB` and `SUB` over loopback TCP, which is all that its server offers.
//!
//! Its best reasonable setting: no TLS, no JetStream, clients that ask for no acknowledgement
//! (`verbose` off), a batch per `write`, and room for a slow subscriber that the bench's own window
//! never fills.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Command;

use super::broker::{BrokerLink, Frame, Incoming, Outgoing};
use super::window;
use crate::daemon::{Scratch, Server};
use crate::link::{Peer, Role, Topology, text};
use crate::shared::Credit;
use crate::support::crew::Failure;

const PING: (&[u8], &[u8]) = (b"PING\r\n", b"PONG\r\n");

/// A server and the topology it serves.
pub struct Nats {
    topology: Topology,
    credit: Credit,
    port: u16,
    _server: Server,
    _scratch: Scratch,
}

impl Nats {
    /// Starts a server for `topology`.
    pub fn prepare(topology: Topology) -> Result<Nats, Failure> {
        let scratch = Scratch::new("nats")?;
        let port = free_port()?;
        let config = scratch.join("config");
        // A sender does not read, so it must not be asked whether it is still there.
        let text =
            "max_pending: 1GB\nmax_payload: 8MB\nwrite_deadline: \"60s\"\nping_interval: \"1h\"\n";
        fs::write(&config, format!("host: 127.0.0.1\nport: {port}\n{text}"))?;
        let mut command = Command::new("nats-server");
        command.env("PATH", path()).args(["-c", &config]);
        let server = Server::start(command, || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
        })?;
        Ok(Nats {
            credit: Credit::new(&topology, window(&topology))?,
            topology,
            port,
            _server: server,
            _scratch: scratch,
        })
    }

    /// A connection on which `command` has been carried out.
    fn connect(&self, command: &str) -> Result<OwnedFd, String> {
        let wire = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).map_err(text("connect"))?;
        wire.set_nodelay(true).map_err(text("nodelay"))?;
        let mut lines = BufReader::with_capacity(1 << 16, &wire);
        let mut line = String::new();
        lines.read_line(&mut line).map_err(text("read"))?;
        let hello = "CONNECT {\"verbose\":false,\"pedantic\":false,\"echo\":false}\r\n";
        (&wire)
            .write_all(format!("{hello}{command}PING\r\n").as_bytes())
            .map_err(text("write"))?;
        loop {
            line.clear();
            lines.read_line(&mut line).map_err(text("read"))?;
            match line.as_str() {
                "PONG\r\n" => break,
                "PING\r\n" => (&wire).write_all(PING.1).map_err(text("write"))?,
                said => return Err(format!("nats: {said:?}")),
            }
        }
        drop(lines);
        Ok(OwnedFd::from(wire))
    }
}

impl Peer for Nats {
    type Link<'a> = BrokerLink<'a>;

    fn link(&self, role: Role) -> Result<BrokerLink<'_>, String> {
        let size = self.topology.size;
        let mut link = BrokerLink::default();
        if let Some(channel) = role.sends {
            let wire = self.connect("")?;
            let head = format!("PUB c{channel} {size}\r\n").into_bytes();
            let account = self.credit.sender(role);
            link.out = Some(Outgoing::new(wire, Frame { head, size }, account));
        }
        if let Some(channel) = role.hears {
            let wire = self.connect(&format!("SUB c{channel} 1\r\n"))?;
            let head = format!("MSG c{channel} 1 {size}\r\n").into_bytes();
            let account = self.credit.receiver(role);
            link.inward = Some(Incoming::new(
                wire,
                Frame { head, size },
                Some(PING),
                account,
            ));
        }
        Ok(link)
    }
}

fn free_port() -> Result<u16, Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

/// Debian puts the server where only root looks.
fn path() -> String {
    std::env::var("PATH").unwrap_or_default() + ":/usr/sbin"
}
