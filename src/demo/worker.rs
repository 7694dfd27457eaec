//! One worker process: its core in an ordinary event loop.
//!
//! The rule for a core in any edge-triggered loop: receive until there is
//! nothing (which arms the core), then wait for its descriptor, clear the
//! readiness, receive again. The descriptor is never read.

use std::error::Error;
use std::future::Future;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use corecast::{AttachError, Core, Hub, JoinTicket, RecvError, SendError};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;

use super::accept::Listener;
use super::hall::{Action, Hall, Identity, Outgoing, Postmark};
use super::http::{self, Context};
use super::session::Command;
use super::wire::{Counters, PRESENCE, Seat, inbox, room_channel};

/// Messages taken before pages and timers get their turn. Less than a page's
/// outlet holds, so that a burst of lines does not make pages look slow.
const BATCH: usize = 64;
/// How often pages are shown the counters.
const TICK: Duration = Duration::from_millis(500);
/// How long a slot may still be held by a worker whose death is being noticed.
const ATTACH_TIME: Duration = Duration::from_secs(5);
/// How long pages and connections have to end when the worker is to stop.
const STOP_TIME: Duration = Duration::from_secs(1);

/// What the master makes before the first fork, and all workers inherit.
pub struct Heritage {
    pub hub: Hub,
    /// The socket that all workers share.
    pub listener: TcpListener,
    /// When the hub was made, in milliseconds since 1970.
    pub made: u64,
}

/// Serves until SIGTERM. Called in the forked child.
///
/// # Errors
/// Whatever makes it impossible to go on; the master forks another worker.
pub fn main(heritage: &Heritage, worker: u32) -> Result<(), Box<dyn Error>> {
    let core = attach(&heritage.hub, worker)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(heritage, core))
}

/// Takes the worker's slot; after a death the reaper may need a moment to free it.
fn attach(hub: &Hub, worker: u32) -> Result<Core, AttachError> {
    let start = Instant::now();
    loop {
        match hub.attach(worker, 0) {
            Err(AttachError::Busy { .. }) if start.elapsed() < ATTACH_TIME => {
                std::thread::sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
}

async fn serve(heritage: &Heritage, mut core: Core) -> Result<(), Box<dyn Error>> {
    let hub = &heritage.hub;
    let me = Identity {
        seat: core.me().into(),
        pid: std::process::id(),
        workers: hub.config().workers,
        hub: heritage.made,
    };
    // Nobody is served yet, so these may wait for the router.
    core.join(inbox(me.seat))?;
    core.join(PRESENCE)?;

    let (commands, commands_in) = mpsc::channel(1024);
    let (crowded, crowded_in) = watch::channel(false);
    let (stop, stopped) = oneshot::channel::<()>();
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = Listener::new(heritage.listener.try_clone()?, crowded_in)?;
    let context = Context {
        me,
        hub: hub.clone(),
        commands,
    };
    // Ready when the sender is dropped.
    let stopped = async { drop(stopped.await) };
    let server = tokio::spawn(http::serve(listener, context, stopped));

    let floor = Floor {
        hub,
        core,
        hall: Hall::new(me),
        joins: Vec::new(),
        crowded,
    };
    let mut floor = Loop {
        floor,
        commands: commands_in,
    };
    floor
        .run(async {
            terminate.recv().await;
        })
        .await?;
    drop(stop);
    floor.close().await;
    let _ = tokio::time::timeout(STOP_TIME, server).await;
    Ok(())
}

/// The core and what is known, without anything to wait for.
struct Floor<'a> {
    hub: &'a Hub,
    core: Core,
    hall: Hall,
    /// Rooms whose channel is being joined.
    joins: Vec<(String, JoinTicket)>,
    crowded: watch::Sender<bool>,
}

/// The worker's loop: the floor, and what wakes it.
struct Loop<'a> {
    floor: Floor<'a>,
    commands: mpsc::Receiver<Command>,
}

impl Loop<'_> {
    async fn run(&mut self, stop: impl Future<Output = ()>) -> Result<(), Box<dyn Error>> {
        tokio::pin!(stop);
        let fd = self.floor.core.as_fd().try_clone_to_owned()?;
        // Edge-triggered, as all of tokio's registrations are.
        // SAFETY: the registration owns this descriptor, and nothing closes or
        // replaces it before the registration ends.
        let bell = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            while let Ok(command) = self.commands.try_recv() {
                self.floor.obey(command);
            }
            let more = self.floor.turn()?;
            tokio::select! {
                // Others get their turn even if messages never stop coming.
                () = tokio::task::yield_now(), if more => {}
                // Cleared here, before the turn that receives until there is nothing.
                ready = bell.readable() => ready?.clear_ready(),
                Some(command) = self.commands.recv() => self.floor.obey(command),
                _ = tick.tick() => self.floor.tick(),
                () = sleep_until(self.floor.hall.deadline()) => {}
                () = &mut stop => return Ok(()),
            }
        }
    }

    /// Says goodbye to all pages and waits (not for long) until they are gone:
    /// each connection holds a sender of the command queue.
    async fn close(mut self) {
        self.floor.hall.close();
        let gone = async { while self.commands.recv().await.is_some() {} };
        let _ = tokio::time::timeout(STOP_TIME, gone).await;
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

impl Floor<'_> {
    /// Receives and performs what has come up. True: there is more to receive;
    /// false: the core is armed.
    fn turn(&mut self) -> Result<bool, RecvError> {
        let more = self.receive()?;
        self.finish_joins();
        for action in self.hall.turn(Instant::now()) {
            self.perform(action);
        }
        let crowded = self.hall.crowded();
        self.crowded
            .send_if_modified(|was| std::mem::replace(was, crowded) != crowded);
        Ok(more)
    }

    fn receive(&mut self) -> Result<bool, RecvError> {
        let now = Instant::now();
        for _ in 0..BATCH {
            match self.core.recv() {
                Ok(Some(message)) => {
                    let mark = Postmark {
                        seat: message.sender.into(),
                        ticket: message.ticket,
                        at: message.timestamp / 1_000_000,
                    };
                    self.hall.heard(message.name, mark, message.body, now);
                }
                Ok(None) => return Ok(false),
                Err(RecvError::Lagged(count)) => self.hall.lagged(count),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn finish_joins(&mut self) {
        let now = Instant::now();
        let (core, hall, hub) = (&mut self.core, &mut self.hall, self.hub);
        self.joins.retain(|(room, ticket)| {
            match core.join_result(*ticket) {
                None => return true,
                Some(Ok(_)) => {
                    let me = core.me();
                    let subscribers = hub.subscribers(room_channel(room));
                    hall.joined(room, subscribers.iter().filter(|s| **s != me).count(), now);
                }
                Some(Err(error)) => hall.join_failed(room, &error.to_string()),
            }
            false
        });
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Join { room } => match self.core.join_async(room_channel(&room)) {
                Ok(ticket) => self.joins.push((room, ticket)),
                Err(error) => self.hall.join_failed(&room, &error.to_string()),
            },
            // Fails only if the master is gone, and then this process goes too.
            Action::Leave { room } => drop(self.core.leave(room_channel(&room))),
            Action::Send(outgoing) => self.send(&outgoing),
            Action::Die => die(),
        }
    }

    fn send(&mut self, outgoing: &Outgoing) {
        let body = serde_json::to_vec(&outgoing.note).expect("strings and numbers become JSON");
        let why = match self.core.send(&outgoing.channel, &body) {
            Ok(()) => return,
            Err(SendError::Full) => "The hub is busy; try again.".to_owned(),
            Err(error) => error.to_string(),
        };
        self.hall.unsent(outgoing, &why);
    }

    fn obey(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::Arrive {
                id,
                name,
                outlet,
                answer,
            } => {
                let session = self.hall.arrive(id, name, outlet);
                // Nobody takes the answer: the connection ended meanwhile.
                if let Err(Some(session)) = answer.send(session) {
                    self.hall.depart(session, now);
                }
            }
            Command::Ask { session, request } => self.hall.request(session, request, now),
            Command::Depart { session } => self.hall.depart(session, now),
        }
    }

    fn tick(&mut self) {
        let subscribers = self.hub.subscribers(PRESENCE);
        let alive: Vec<Seat> = subscribers.into_iter().map(Seat::from).collect();
        self.hall.sweep(&alive, Instant::now());
        self.hall.counters(Counters::from(&self.hub.stats()));
    }
}

/// A death without a goodbye, as by the kernel's memory killer.
fn die() -> ! {
    use nix::sys::signal::{Signal, kill};
    let _ = kill(nix::unistd::getpid(), Signal::SIGKILL);
    std::process::abort()
}
