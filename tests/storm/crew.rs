//! The worker processes of a storm, and the hand that kills them.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use corecast::Hub;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::super::common::{Child, LONG, Rng, fork};
use super::actor::Actor;
use super::log::Event;
use super::stage::{CORES, SLOTS, Stage, WORKERS};

/// Forks worker number `worker` in its `incarnation`-th life. Those of even number run a thread
/// per core, the others drive all their cores from one thread.
fn fork_worker(hub: &Hub, stage: Stage, worker: u32, incarnation: u32) -> Child {
    fork(|| {
        let handle = hub.worker(worker).expect("a worker");
        let actors = (0..CORES).map(|core| {
            let attached = handle.core(core).expect("a core");
            Actor::new(attached, stage, worker * CORES + core, incarnation)
        });
        let actors = actors.collect();
        stage.set_up(worker, incarnation);
        if worker % 2 == 0 {
            run_threads(actors);
        } else {
            run_loop(actors);
        }
    })
}

fn run_threads(actors: Vec<Actor>) {
    std::thread::scope(|scope| {
        for mut actor in actors {
            scope.spawn(move || {
                while !actor.is_done() {
                    if !actor.turn() {
                        actor.nap();
                    }
                }
            });
        }
    });
}

/// An event loop as a server has it: edge-triggered, no descriptor is ever read.
fn run_loop(mut actors: Vec<Actor>) {
    let epoll = Epoll::new(EpollCreateFlags::empty()).expect("epoll");
    for actor in &actors {
        let edge = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0);
        epoll.add(actor.core(), edge).expect("added");
    }
    while !actors.iter().all(Actor::is_done) {
        let mut busy = false;
        for actor in &mut actors {
            busy |= actor.turn();
        }
        if !busy {
            let mut events = [EpollEvent::empty(); CORES as usize];
            let _ = epoll.wait(&mut events, EpollTimeout::from(2u16));
        }
    }
}

/// What the storm came to, besides the logs.
#[derive(Debug, Default)]
pub struct Figures {
    pub kills: u64,
    /// Longest time in which no message was received anywhere.
    pub longest_silence: Duration,
    pub took: Duration,
}

/// Runs a storm to its end; the hub's master is the caller's business. As many workers are killed
/// as it says, spread over the first nine tenths of the messages.
pub fn run(hub: &Hub, stage: Stage, kills: u64) -> Figures {
    let start = Instant::now();
    let mut crew = Crew::new(hub, stage);
    let budget = stage.budget().load(Ordering::Relaxed);
    for kill in 0..kills {
        let rest = budget - budget * 9 / 10 * (kill + 1) / kills;
        crew.watch_until(|_| stage.budget().load(Ordering::Relaxed) <= rest);
        crew.kill_one();
    }
    crew.watch_until(|_| stage.budget().load(Ordering::Relaxed) == 0);
    stage.end();
    crew.watch_until(Crew::is_done);
    crew.figures.took = start.elapsed();
    crew.figures
}

struct Crew<'a> {
    hub: &'a Hub,
    stage: Stage,
    workers: Vec<(Child, u32)>,
    rng: Rng,
    figures: Figures,
    /// Events in all logs when they last grew, and when that was.
    progress: (usize, Instant),
}

impl<'a> Crew<'a> {
    fn new(hub: &'a Hub, stage: Stage) -> Self {
        let workers = (0..WORKERS).map(|w| (fork_worker(hub, stage, w, 0), 0));
        Self {
            workers: workers.collect(),
            hub,
            stage,
            rng: Rng::new(99),
            figures: Figures::default(),
            progress: (0, Instant::now()),
        }
    }

    /// Kills a worker and forks its successor, now and then before the kernel has been asked about
    /// the dead one, so that the slot is claimed before the death can have been seen.
    fn kill_one(&mut self) {
        let worker = self.rng.below(WORKERS.into()) as u32;
        let incarnation = self.workers[worker as usize].1 + 1;
        let (hub, stage) = (self.hub, self.stage);
        if !self.rng.one_in(4) {
            // Mostly in the middle of things, sometimes while it is still attaching.
            self.watch_until(|_| stage.is_up(worker, incarnation - 1));
        }
        let (old, _) = &self.workers[worker as usize];
        old.kill_only();
        if self.rng.one_in(2) {
            let new = (fork_worker(hub, stage, worker, incarnation), incarnation);
            let old = std::mem::replace(&mut self.workers[worker as usize], new);
            drop(old);
        } else {
            let (old, _) = self.workers.remove(worker as usize);
            drop(old);
            hub.worker_died(worker)
                .expect("we are the master's process");
            let new = (fork_worker(hub, stage, worker, incarnation), incarnation);
            self.workers.insert(worker as usize, new);
        }
        self.figures.kills += 1;
    }

    /// Waits, and fails if a worker has failed or nothing moves any more.
    fn watch_until(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        while !done(self) {
            for (child, _) in &mut self.workers {
                child.has_ended();
            }
            self.note_progress();
            std::thread::sleep(Duration::from_micros(500));
        }
    }

    fn note_progress(&mut self) {
        let events = (0..SLOTS).map(|slot| self.stage.log(slot).len()).sum();
        let silence = self.progress.1.elapsed();
        if events != self.progress.0 {
            self.progress = (events, Instant::now());
            self.figures.longest_silence = self.figures.longest_silence.max(silence);
        }
        if silence > LONG {
            let stats = self.hub.stats();
            panic!("stalled at {events} events for {silence:?}: {stats:?}");
        }
    }

    fn is_done(&mut self) -> bool {
        self.workers.iter_mut().all(|(child, _)| child.has_ended())
    }
}

/// The logs of all slots.
pub fn logs(stage: Stage) -> Vec<Vec<Event>> {
    (0..SLOTS).map(|slot| stage.log(slot).events()).collect()
}
