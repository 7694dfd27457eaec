//! Accepting connections from the socket that all workers share.
//!
//! Every connection wakes all idle workers, and the first to call accept has it.
//! To spread pages over the workers, one that serves more of them than another
//! (or has just taken a connection) leaves the others a moment to be first. It
//! still takes what nobody else wants, so a stopped worker holds nothing up.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::sync::watch;

/// What a worker with more pages than another leaves to the others.
const CROWDED_PAUSE: Duration = Duration::from_millis(25);
/// What a worker leaves to the others after each connection.
const TURN_PAUSE: Duration = Duration::from_millis(4);
/// How long to wait when accept fails for want of something, such as descriptors.
const TROUBLE_PAUSE: Duration = Duration::from_millis(100);

/// This worker's view of the shared socket.
pub struct Listener {
    socket: AsyncFd<StdListener>,
    address: SocketAddr,
    manners: Manners,
}

/// When it is this worker's turn.
struct Manners {
    crowded: watch::Receiver<bool>,
    /// When it last took a connection.
    last: Option<Instant>,
}

impl Listener {
    /// Registers the non-blocking `socket` in this process's event loop.
    pub fn new(socket: StdListener, crowded: watch::Receiver<bool>) -> io::Result<Self> {
        let address = socket.local_addr()?;
        // SAFETY: the registration owns the socket, and nothing closes or replaces
        // its descriptor before the registration ends.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
        let last = None;
        Ok(Listener {
            socket,
            address,
            manners: Manners { crowded, last },
        })
    }

    async fn try_accept(&mut self) -> io::Result<Option<(TcpStream, SocketAddr)>> {
        let mut ready = self.socket.readable().await?;
        self.manners.wait_for_turn().await;
        let Ok(accepted) = ready.try_io(|socket| socket.get_ref().accept()) else {
            // Somebody else was first.
            return Ok(None);
        };
        let (stream, peer) = accepted?;
        self.manners.last = Some(Instant::now());
        stream.set_nonblocking(true)?;
        // Frames are small and each is awaited by somebody.
        stream.set_nodelay(true)?;
        Ok(Some((TcpStream::from_std(stream)?, peer)))
    }
}

impl Manners {
    async fn wait_for_turn(&mut self) {
        let start = Instant::now();
        loop {
            let turn = self.turn(start);
            if turn <= Instant::now() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep_until(turn.into()) => {}
                changed = self.crowded.changed() => if changed.is_err() { return },
            }
        }
    }

    /// When a connection that came at `start` may be taken, as things are now.
    fn turn(&mut self, start: Instant) -> Instant {
        if *self.crowded.borrow_and_update() {
            return start + CROWDED_PAUSE;
        }
        self.last.map_or(start, |last| last + TURN_PAUSE)
    }
}

impl axum::serve::Listener for Listener {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.try_accept().await {
                Ok(Some(connection)) => return connection,
                Ok(None) => {}
                Err(_) => tokio::time::sleep(TROUBLE_PAUSE).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}
