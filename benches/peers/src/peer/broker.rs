//! A worker's link to a broker that speaks in lines of text: a fixed head, the body, a line end.
//!
//! Redis and NATS both do. With the channel and the size of bodies fixed, so is every byte around
//! a body: what is sent is laid out once, and what arrives is compared, not parsed.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use crate::link::{Link, text};
use crate::shared::Account;

/// Most bytes of one read.
const CHUNK: usize = 256 * 1024;
const END: &[u8] = b"\r\n";

/// What surrounds a body on one way.
pub struct Frame {
    /// In front of the body.
    pub head: Vec<u8>,
    /// Bytes of the body.
    pub size: usize,
}

impl Frame {
    fn len(&self) -> usize {
        self.head.len() + self.size + END.len()
    }
}

/// The sending half.
pub struct Outgoing<'a> {
    wire: File,
    frame: Frame,
    bytes: Vec<u8>,
    account: Account<'a>,
}

impl<'a> Outgoing<'a> {
    /// On a connection from which nothing needs to be read.
    pub fn new(wire: OwnedFd, frame: Frame, account: Account<'a>) -> Outgoing<'a> {
        Outgoing {
            wire: File::from(wire),
            frame,
            bytes: Vec::new(),
            account,
        }
    }

    fn send(&mut self, count: usize, mut fill: impl FnMut(&mut [u8])) -> Result<(), String> {
        self.account.add(count as u64);
        self.account.wait();
        let (head, size, len) = (self.frame.head.len(), self.frame.size, self.frame.len());
        while self.bytes.len() < count * len {
            self.bytes.extend_from_slice(&self.frame.head);
            self.bytes.resize(self.bytes.len() + size, 0);
            self.bytes.extend_from_slice(END);
        }
        let batch = &mut self.bytes[..count * len];
        for message in batch.chunks_exact_mut(len) {
            fill(&mut message[head..head + size]);
        }
        self.wire.write_all(batch).map_err(text("write"))
    }
}

/// The hearing half.
pub struct Incoming<'a> {
    wire: File,
    frame: Frame,
    /// What the broker may say in between, and what it wants to hear then.
    ping: Option<(&'static [u8], &'static [u8])>,
    bytes: Vec<u8>,
    begin: usize,
    end: usize,
    account: Account<'a>,
}

impl<'a> Incoming<'a> {
    /// On a connection that is subscribed, and of which everything before that has been read.
    pub fn new(
        wire: OwnedFd,
        frame: Frame,
        ping: Option<(&'static [u8], &'static [u8])>,
        account: Account<'a>,
    ) -> Incoming<'a> {
        let bytes = vec![0; CHUNK + 2 * frame.len()];
        Incoming {
            wire: File::from(wire),
            frame,
            ping,
            bytes,
            begin: 0,
            end: 0,
            account,
        }
    }

    /// One read, and every whole message of what it gave; reads again while there is none.
    fn receive(&mut self, mut take: impl FnMut(&[u8]) -> Result<(), String>) -> Result<(), String> {
        loop {
            self.fill()?;
            let mut count = 0;
            while self.next()? {
                let body = self.begin + self.frame.head.len();
                take(&self.bytes[body..body + self.frame.size])?;
                self.begin += self.frame.len();
                count += 1;
            }
            if count > 0 {
                self.account.add(count);
                return Ok(());
            }
        }
    }

    fn fill(&mut self) -> Result<(), String> {
        if self.begin == self.end {
            (self.begin, self.end) = (0, 0);
        } else if self.bytes.len() - self.end < CHUNK / 2 {
            self.bytes.copy_within(self.begin..self.end, 0);
            (self.begin, self.end) = (0, self.end - self.begin);
        }
        match self.wire.read(&mut self.bytes[self.end..]) {
            Ok(0) => Err("the broker has closed the connection".to_owned()),
            Ok(count) => {
                self.end += count;
                Ok(())
            }
            Err(error) => Err(text("read")(error)),
        }
    }

    /// Whether a whole message begins at `begin`; answers what else the broker may have said.
    fn next(&mut self) -> Result<bool, String> {
        let (head, len) = (self.frame.head.len(), self.frame.len());
        while let Some((ping, pong)) = self.ping {
            if !self.bytes[self.begin..self.end].starts_with(ping) {
                break;
            }
            self.wire.write_all(pong).map_err(text("write"))?;
            self.begin += ping.len();
        }
        if self.end - self.begin < len {
            return Ok(false);
        }
        let message = &self.bytes[self.begin..self.begin + len];
        if message[..head] != self.frame.head[..] || !message.ends_with(END) {
            let start = String::from_utf8_lossy(&message[..head.min(80)]);
            return Err(format!("the broker says {start:?}"));
        }
        Ok(true)
    }
}

/// A link made of up to two connections.
#[derive(Default)]
pub struct BrokerLink<'a> {
    /// For sending.
    pub out: Option<Outgoing<'a>>,
    /// For hearing.
    pub inward: Option<Incoming<'a>>,
}

impl Link for BrokerLink<'_> {
    fn send(&mut self, count: usize, fill: impl FnMut(&mut [u8])) -> Result<(), String> {
        let out = self.out.as_mut().ok_or("this worker does not send")?;
        out.send(count, fill)
    }

    fn receive(&mut self, take: impl FnMut(&[u8]) -> Result<(), String>) -> Result<(), String> {
        let inward = self.inward.as_mut().ok_or("this worker does not hear")?;
        inward.receive(take)
    }
}
