//! ZeroMQ: publishers and subscribers connected directly over ipc, or through an XSUB/XPUB proxy.
//!
//! Its best reasonable setting: a batch is one message of several parts, so that the two threads
//! of a process exchange one signal for it; nothing is filtered (every subscriber asks for
//! everything); high-water marks large; publishers told to wait where they would drop.

use std::ffi::{CString, c_int, c_void};
use std::ptr;

use super::window;
use super::zmq_sys::{self as sys, Message, errno, error};
use crate::daemon::{Forked, Scratch};
use crate::link::{Link, Peer, Role, Topology};
use crate::shared::{Account, Credit};
use crate::support::crew::Failure;

/// Addresses of a topology, and the proxy if there is one.
pub struct Zeromq {
    topology: Topology,
    credit: Credit,
    proxies: Vec<Forked>,
    scratch: Scratch,
}

impl Zeromq {
    /// With `proxy`, one proxy for each channel, in one process.
    pub fn prepare(topology: Topology, proxy: bool) -> Result<Zeromq, Failure> {
        let mut peer = Zeromq {
            credit: Credit::new(&topology, u64::MAX / 2)?,
            topology,
            proxies: Vec::new(),
            scratch: Scratch::new("zeromq")?,
        };
        if proxy {
            for channel in peer.topology.channels() {
                let helper = Forked::start(|| peer.proxy(channel).unwrap_or_else(|text| text))?;
                peer.proxies.push(helper);
            }
        }
        Ok(peer)
    }

    fn address(&self, what: &str, number: usize) -> String {
        format!("ipc://{}", self.scratch.join(&format!("{what}{number}")))
    }

    fn proxy(&self, channel: u8) -> Result<String, String> {
        let context = Context::new()?;
        let front = self.socket(&context, sys::XSUB)?;
        let back = self.socket(&context, sys::XPUB)?;
        front.bind(&self.address("front", channel.into()))?;
        back.bind(&self.address("back", channel.into()))?;
        // SAFETY: both sockets are open and used by this thread alone; null means no capture.
        unsafe { sys::zmq_proxy(front.0, back.0, ptr::null_mut()) };
        Ok(error("proxy"))
    }

    fn socket(&self, context: &Context, kind: c_int) -> Result<Socket, String> {
        let socket = context.socket(kind)?;
        let marks = window(&self.topology) as c_int;
        socket.set(sys::SNDHWM, marks)?;
        socket.set(sys::RCVHWM, marks)?;
        socket.set(sys::RECONNECT_IVL, 1)?;
        // `finish` has seen everything arrive; what lingers then are signs to peers that are gone.
        socket.set(sys::LINGER, 0)?;
        if kind == sys::XPUB {
            socket.set(sys::PUB_NODROP, 1)?;
        }
        Ok(socket)
    }

    /// The addresses that `role` hears: the proxy's, or every sender's own.
    fn sources(&self, role: Role, channel: u8) -> Vec<String> {
        if !self.proxies.is_empty() {
            return vec![self.address("back", channel.into())];
        }
        let senders = self.topology.senders_to(role);
        senders.map(|worker| self.address("pub", worker)).collect()
    }

    fn hearers(&self, channel: u8) -> usize {
        let hears = |role: &&Role| role.hears == Some(channel);
        self.topology.roles.iter().filter(hears).count()
    }
}

/// The sign of life that a receiver subscribes to after everything else, so that a sender that
/// has seen it knows the receiver hears all.
fn sign(place: usize) -> String {
    format!("here {place}.")
}

impl Peer for Zeromq {
    type Link<'a> = ZeromqLink<'a>;

    fn link(&self, role: Role) -> Result<ZeromqLink<'_>, String> {
        let context = Context::new()?;
        let mut link = ZeromqLink {
            out: None,
            inward: None,
            size: self.topology.size,
            context,
        };
        if let Some(channel) = role.sends {
            let out = self.socket(&link.context, sys::XPUB)?;
            if self.proxies.is_empty() {
                out.bind(&self.address("pub", role.worker))?;
            } else {
                out.connect(&self.address("front", channel.into()))?;
            }
            link.out = Some((out, self.credit.sender(role)));
        }
        if let Some(channel) = role.hears {
            let inward = self.socket(&link.context, sys::SUB)?;
            inward.subscribe(b"")?;
            inward.subscribe(sign(self.topology.place(role)).as_bytes())?;
            for source in self.sources(role, channel) {
                inward.connect(&source)?;
            }
            let account = self.credit.receiver(role);
            link.inward = Some((inward, account));
        }
        if let (Some((out, _)), Some(channel)) = (&link.out, role.sends) {
            await_signs(out, self.hearers(channel))?;
        }
        Ok(link)
    }
}

/// Waits for the signs of life of `count` receivers.
fn await_signs(out: &Socket, count: usize) -> Result<(), String> {
    let mut seen: Vec<Vec<u8>> = Vec::new();
    while seen.len() < count {
        out.receive(0, &mut |bytes| {
            if bytes.starts_with(b"\x01here ") && !seen.iter().any(|sign| sign == bytes) {
                seen.push(bytes.to_vec());
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// One worker's sockets.
pub struct ZeromqLink<'a> {
    out: Option<(Socket, Account<'a>)>,
    inward: Option<(Socket, Account<'a>)>,
    size: usize,
    // Last: it ends when its sockets are closed.
    context: Context,
}

impl Link for ZeromqLink<'_> {
    fn send(&mut self, count: usize, mut fill: impl FnMut(&mut [u8])) -> Result<(), String> {
        let (out, account) = self.out.as_mut().ok_or("this worker does not send")?;
        for left in (0..count).rev() {
            let flags = if left > 0 { sys::SNDMORE } else { 0 };
            out.send(self.size, flags, &mut fill)?;
        }
        account.add(count as u64);
        Ok(())
    }

    fn receive(&mut self, mut take: impl FnMut(&[u8]) -> Result<(), String>) -> Result<(), String> {
        let (inward, account) = self.inward.as_mut().ok_or("this worker does not hear")?;
        let mut count = 1;
        inward.receive(0, &mut take)?;
        while inward.receive(sys::DONTWAIT, &mut take)? {
            count += 1;
        }
        account.add(count);
        Ok(())
    }

    /// A publisher that closes its socket may lose what it has just sent.
    fn finish(&mut self) -> Result<(), String> {
        if let Some((_, account)) = &self.out {
            account.wait_for_all();
        }
        Ok(())
    }
}

struct Context(*mut c_void);

impl Context {
    fn new() -> Result<Context, String> {
        // SAFETY: no precondition; after the fork, so that its threads are this process's.
        let context = unsafe { sys::zmq_ctx_new() };
        if context.is_null() {
            return Err(error("context"));
        }
        Ok(Context(context))
    }

    fn socket(&self, kind: c_int) -> Result<Socket, String> {
        // SAFETY: the context is open.
        let socket = unsafe { sys::zmq_socket(self.0, kind) };
        if socket.is_null() {
            return Err(error("socket"));
        }
        Ok(Socket(socket))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: every socket has been closed before: fields drop in their order.
        unsafe { sys::zmq_ctx_term(self.0) };
    }
}

struct Socket(*mut c_void);

impl Socket {
    fn set(&self, option: c_int, value: c_int) -> Result<(), String> {
        self.set_bytes(option, &value.to_ne_bytes())
    }

    fn subscribe(&self, prefix: &[u8]) -> Result<(), String> {
        self.set_bytes(sys::SUBSCRIBE, prefix)
    }

    fn set_bytes(&self, option: c_int, value: &[u8]) -> Result<(), String> {
        // SAFETY: the socket is open and the value readable for its length.
        let done =
            unsafe { sys::zmq_setsockopt(self.0, option, value.as_ptr().cast(), value.len()) };
        if done == 0 {
            Ok(())
        } else {
            Err(error("option"))
        }
    }

    fn bind(&self, address: &str) -> Result<(), String> {
        let address = CString::new(address).expect("no NUL in an address");
        // SAFETY: the socket is open and the address a string.
        let done = unsafe { sys::zmq_bind(self.0, address.as_ptr()) };
        if done == 0 {
            Ok(())
        } else {
            Err(error("bind"))
        }
    }

    fn connect(&self, address: &str) -> Result<(), String> {
        let address = CString::new(address).expect("no NUL in an address");
        // SAFETY: the socket is open and the address a string.
        let done = unsafe { sys::zmq_connect(self.0, address.as_ptr()) };
        if done == 0 {
            Ok(())
        } else {
            Err(error("connect"))
        }
    }

    /// Sends one part that `fill` writes in place; waits for room.
    #[inline]
    fn send(
        &self,
        size: usize,
        flags: c_int,
        fill: &mut impl FnMut(&mut [u8]),
    ) -> Result<(), String> {
        let mut message = Message([0; 64]);
        // SAFETY: the message is initialised by the first call; its data are `size` bytes that
        // nobody else has; a message that was sent belongs to libzmq, one that was not is tried
        // again or closed with the process.
        unsafe {
            if sys::zmq_msg_init_size(&mut message, size) != 0 {
                return Err(error("message"));
            }
            let data = sys::zmq_msg_data(&mut message).cast::<u8>();
            fill(std::slice::from_raw_parts_mut(data, size));
            while sys::zmq_msg_send(&mut message, self.0, flags) < 0 {
                if errno() != libc::EINTR {
                    return Err(error("send"));
                }
            }
        }
        Ok(())
    }

    /// Receives one part; false when there is none and `flags` say not to wait.
    #[inline]
    fn receive(
        &self,
        flags: c_int,
        take: &mut impl FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<bool, String> {
        let mut message = Message([0; 64]);
        // SAFETY: the message is initialised by the first call, filled by the second, read while
        // it is whole, and closed once.
        unsafe {
            sys::zmq_msg_init(&mut message);
            while sys::zmq_msg_recv(&mut message, self.0, flags) < 0 {
                match errno() {
                    libc::EINTR => {}
                    libc::EAGAIN => return Ok(false),
                    _ => return Err(error("receive")),
                }
            }
            let (data, size) = (sys::zmq_msg_data(&mut message), sys::zmq_msg_size(&message));
            let taken = take(std::slice::from_raw_parts(data.cast(), size));
            sys::zmq_msg_close(&mut message);
            taken.map(|()| true)
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // SAFETY: open until here.
        unsafe { sys::zmq_close(self.0) };
    }
}
