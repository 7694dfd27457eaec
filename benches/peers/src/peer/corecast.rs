//! corecast, for work in which a worker both sends and hears.
//!
//! The master is a thread of this process, perhaps helped by the workers, or belongs to the first
//! worker, whose own loop drives it. (Throughput uses the code of the prefork bench, which knows more about batches.)

use std::cell::RefCell;
use std::os::fd::AsFd;
use std::time::Duration;

use corecast::{Channel, Config, Core, Hub, Master, MasterThread, Overflow};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::link::{Link, Peer, Role, Topology, Wait, text};
use crate::support::crew::Failure;
use crate::support::hub::LINGER_US;

/// Longest wait for room in a lane.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who drives the master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drive {
    /// A thread of the parent process.
    Thread,
    /// The same, and workers do its work while it sleeps.
    Assisted,
    /// The first worker.
    FirstWorker,
}

/// A hub for a topology.
pub struct Corecast {
    topology: Topology,
    drive: Drive,
    /// How long cores wait for more before they sleep.
    linger: Duration,
    /// Started after the last fork, so that no child inherits half of a thread.
    master: RefCell<Option<MasterThread>>,
    hub: Hub,
}

impl Corecast {
    /// One worker of one core for each role.
    pub fn prepare(topology: Topology, drive: Drive) -> Result<Corecast, Failure> {
        let mut config = Config::default();
        config.workers = topology.roles.len() as u32;
        config.cores = 1;
        config.extra = 0;
        config.overflow = Overflow::Block;
        config.assist = drive == Drive::Assisted;
        config.isolation = !config.assist;
        let hub = Hub::create(&config).map_err(broken)?;
        Ok(Corecast {
            topology,
            drive,
            linger: Duration::ZERO,
            hub,
            master: RefCell::new(None),
        })
    }

    /// The same with cores that linger, as long as those of the throughput work.
    pub fn prepare_lingering(topology: Topology, drive: Drive) -> Result<Corecast, Failure> {
        Ok(Corecast {
            linger: Duration::from_micros(LINGER_US),
            ..Corecast::prepare(topology, drive)?
        })
    }

    fn join(&self, core: &mut Core, role: Role, master: Option<&mut Master>) -> Result<(), String> {
        let Some(channel) = role.hears else {
            return Ok(());
        };
        let ticket = core.join_async(name(channel)).map_err(text("join"))?;
        let mut master = master;
        loop {
            if let Some(master) = &mut master {
                master.step();
            }
            match core.join_result(ticket) {
                Some(result) => return result.map(|_| ()).map_err(text("join")),
                None => std::thread::sleep(Duration::from_micros(200)),
            }
        }
    }

    /// Drives the master until all the others have joined.
    fn serve_joins(&self, master: &mut Master) -> Result<(), String> {
        let awaited = self.topology.receivers() as u64;
        while self.hub.stats().subscriptions < awaited {
            master
                .poll(Some(Duration::from_millis(1)))
                .map_err(text("poll"))?;
        }
        Ok(())
    }
}

fn broken(error: impl std::fmt::Display) -> Failure {
    Failure::Broken(format!("hub: {error}"))
}

fn name(channel: u8) -> [u8; 2] {
    [b'c', b'0' + channel]
}

impl Peer for Corecast {
    type Link<'a> = CorecastLink;

    fn link(&self, role: Role) -> Result<CorecastLink, String> {
        let drives = self.drive == Drive::FirstWorker && role.worker == 0;
        let mut master = if drives {
            Some(self.hub.master().map_err(text("master"))?)
        } else {
            None
        };
        let mut core = self
            .hub
            .attach(role.worker as u32, 0)
            .map_err(text("attach"))?;
        core.set_linger(self.linger);
        self.join(&mut core, role, master.as_mut())?;
        if let Some(master) = &mut master {
            self.serve_joins(master)?;
        }
        // The channel that is sent to has been joined by then, or will be: a handle keeps it.
        let channel = match role.sends {
            Some(channel) if master.is_some() => Some(Send::Name(name(channel))),
            Some(channel) => Some(Send::Handle(
                core.channel(name(channel)).map_err(text("channel"))?,
            )),
            None => None,
        };
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(text("epoll"))?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0);
        epoll.add(core.as_fd(), event).map_err(text("epoll"))?;
        Ok(CorecastLink {
            body: vec![0; self.topology.size],
            wait: self.topology.wait,
            channel,
            epoll,
            core,
            master,
        })
    }

    fn start(&self) -> Result<(), Failure> {
        if self.drive != Drive::FirstWorker {
            *self.master.borrow_mut() = Some(self.hub.start().map_err(broken)?);
        }
        Ok(())
    }
}

enum Send {
    Handle(Channel),
    /// `channel` would wait for the master, which this worker is itself.
    Name([u8; 2]),
}

/// One worker's core, and the master if it is this worker's.
pub struct CorecastLink {
    body: Vec<u8>,
    wait: Wait,
    channel: Option<Send>,
    epoll: Epoll,
    // The core goes first: it tells the master.
    core: Core,
    master: Option<Master>,
}

impl Link for CorecastLink {
    fn send(&mut self, count: usize, mut fill: impl FnMut(&mut [u8])) -> Result<(), String> {
        for _ in 0..count {
            let channel = self.channel.as_ref().ok_or("this worker does not send")?;
            fill(&mut self.body);
            let sent = match channel {
                Send::Handle(channel) => self.core.send_to_timeout(*channel, &self.body, PATIENCE),
                Send::Name(name) => self.core.send(name, &self.body),
            };
            sent.map_err(text("send"))?;
        }
        if let Some(master) = &mut self.master {
            master.step();
        }
        Ok(())
    }

    fn receive(&mut self, mut take: impl FnMut(&[u8]) -> Result<(), String>) -> Result<(), String> {
        loop {
            if let Some(mut messages) = self.core.recv_many().map_err(text("recv"))? {
                return messages.try_for_each(|message| take(message.body));
            }
            match (&mut self.master, self.wait) {
                // Nothing reaches this worker but through its own hands.
                (Some(master), Wait::Sleep) => {
                    master.poll(None).map_err(text("poll"))?;
                }
                (Some(master), Wait::Spin | Wait::Yield) => {
                    master.step();
                }
                (None, Wait::Sleep) => sleep(&self.epoll)?,
                (None, Wait::Spin) => std::hint::spin_loop(),
                (None, Wait::Yield) => std::thread::yield_now(),
            }
        }
    }

    /// The other workers need the master that this one drives until they are gone.
    fn finish(&mut self) -> Result<(), String> {
        if let Some(master) = &mut self.master {
            for _ in 0..20 {
                master
                    .poll(Some(Duration::from_millis(1)))
                    .map_err(text("poll"))?;
            }
        }
        Ok(())
    }
}

fn sleep(epoll: &Epoll) -> Result<(), String> {
    match epoll.wait(&mut [EpollEvent::empty()], EpollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(format!("epoll: {errno}")),
    }
}
