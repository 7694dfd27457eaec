//! The stage: a world, the victims that come and go, and how to put everything back to where it
//! was: the region, what the master and the cores have in their own memory, their descriptors.

use std::os::fd::RawFd;

use crate::arena;
use crate::common::LONG;
use crate::figures::Faults;
use crate::image::Image;
use crate::step::Tracee;
use crate::victim::{Board, Call, Fill, Scenario, Wish, live};
use crate::world::{CHANNELS, Death, Expected, World};

/// Descriptors of this process that recovery closes: where their duplicates go.
const SPARE: RawFd = 700;

pub struct Stage {
    /// Never a reference across [`Stage::put_back`].
    world: *mut World,
    pub board: Board,
    pub image: Image,
    memory: arena::Copy,
    pidfds: Vec<(RawFd, RawFd)>,
}

impl Stage {
    pub fn new(scenario: Scenario) -> Self {
        let board = Board::new();
        let world = arena::inside(|| Box::into_raw(Box::new(World::new(scenario))));
        let mut stage = Self {
            world,
            board,
            image: Image::new(),
            memory: arena::Copy::default(),
            pidfds: Vec::new(),
        };
        stage.save();
        stage
    }

    /// Acts on the world.
    pub fn world<T>(&mut self, act: impl FnOnce(&mut World) -> T) -> T {
        // SAFETY: made in `new`, freed in `drop`; the only reference to it, for this call.
        arena::inside(|| act(unsafe { &mut *std::hint::black_box(self.world) }))
    }

    /// What [`Self::put_back`] goes back to from now on.
    pub fn save(&mut self) {
        self.image.take();
        self.memory.take();
        self.save_pidfds();
    }

    /// Everything as it was when last saved. The victim must be stopped or gone.
    pub fn put_back(&mut self) {
        self.image.put_back();
        // SAFETY: nobody holds a reference into the arena: `world` is a raw pointer, and what
        // `act` was given ended with it.
        unsafe { self.memory.put_back() };
        for &(fd, spare) in &self.pidfds {
            // SAFETY: descriptors only; the spare one is ours.
            unsafe {
                if libc::fcntl(fd, libc::F_GETFD) < 0 {
                    libc::dup3(spare, fd, libc::O_CLOEXEC);
                }
            }
        }
    }

    fn save_pidfds(&mut self) {
        for (_, spare) in self.pidfds.drain(..) {
            // SAFETY: opened below, used by nobody else.
            unsafe { libc::close(spare) };
        }
        let fds = std::fs::read_dir("/proc/self/fd").expect("procfs");
        for entry in fds.flatten() {
            let target = std::fs::read_link(entry.path()).unwrap_or_default();
            let name = entry.file_name().into_string().ok();
            if let (true, Some(fd)) = (
                target.to_string_lossy().contains("pidfd"),
                name.and_then(|n| n.parse().ok()),
            ) {
                // SAFETY: a duplicate; no memory involved.
                let spare = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, SPARE) };
                self.pidfds.push((fd, spare));
            }
        }
    }

    /// Forks a victim and brings it to where its call comes next.
    pub fn victim(&mut self, scenario: Scenario) -> Tracee {
        self.board.clear();
        let said = self.world(|w| w.said);
        self.board.set_said(said);
        let (world, board) = (self.world, self.board);
        let tracee = Tracee::new(|| {
            // SAFETY: the child's own copy of the world, of which it uses the hub.
            live(unsafe { &(*world).hub }, scenario, board);
        });
        loop {
            assert!(tracee.resume(), "the victim ended early: {scenario:?}");
            match self.board.wish() {
                Wish::Ready => {
                    if scenario.assists {
                        self.world(World::sleep);
                    }
                    break;
                }
                Wish::Turn => self.world(World::turn),
                Wish::Work => self.work_until_pause(&tracee),
                Wish::Mail => self.mail(scenario),
                Wish::Stream => self.world(World::favour),
                Wish::TakeChannels => self.world(|w| w.take_channels(CHANNELS)),
            }
        }
        tracee
    }

    /// The victim waits for the master; both work until it does not.
    fn work_until_pause(&mut self, tracee: &Tracee) {
        let start = std::time::Instant::now();
        tracee.go();
        while !tracee.has_paused() {
            self.world(World::turn);
            std::thread::yield_now();
            assert!(start.elapsed() < LONG, "the victim waits in vain");
        }
    }

    fn mail(&mut self, scenario: Scenario) {
        let (first, count) = (self.board.mailed(), self.board.count());
        let sent = self.world(|w| w.mail(first, count, scenario.len));
        self.board.set_mailed(first + sent);
    }

    /// What the listener may expect of the victim where it is now.
    pub fn expected(&self, call: Call) -> Expected {
        let is_done = self.board.done() == 1;
        Expected {
            returned: self.board.returned(),
            under_way: if is_done { 0 } else { call.messages() },
        }
    }

    /// The death of the victim where it is now.
    pub fn recover(&mut self, death: Death, call: Call) -> Faults {
        let expected = self.expected(call);
        self.world(|w| w.recover(death, expected))
    }

    /// The others exchange `count` messages; some go to the victim as well.
    pub fn go_on(&mut self, count: u64) -> Faults {
        let (returned, mailed) = (self.board.returned(), self.board.mailed());
        let (faults, mailed) = self.world(|w| w.go_on(count, returned, mailed));
        self.board.set_mailed(mailed);
        faults
    }

    /// A victim has been killed and is of no more interest.
    pub fn see_death(&mut self) {
        self.world(World::see_death);
        self.put_back();
    }

    /// `scenario` with numbers in the place of "full but for one": the fills that leave room for
    /// one message more.
    pub fn measure(&mut self, scenario: Scenario, less: u64) -> Scenario {
        let tracee = self.victim(scenario);
        let (laid, mailed) = (self.board.laid(), self.board.mailed());
        self.forget(tracee);
        let short = |fill: Fill, count: u64| match fill {
            Fill::Full => Fill::Some(count.saturating_sub(less)),
            fill => fill,
        };
        Scenario {
            lane: short(scenario.lane, laid),
            mail: short(scenario.mail, mailed - scenario.lead),
            ..scenario
        }
    }

    /// Ends a victim as if it had never been. What was saved last must be from before its time.
    pub fn forget(&mut self, tracee: Tracee) {
        tracee.kill();
        self.see_death();
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // SAFETY: made in `new`; not used again. The arena holds nothing else that is in use.
        unsafe {
            arena::inside(|| drop(Box::from_raw(self.world)));
            arena::clear();
        }
        for (_, spare) in self.pidfds.drain(..) {
            // SAFETY: opened by `save_pidfds`.
            unsafe { libc::close(spare) };
        }
    }
}
