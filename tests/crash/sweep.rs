//! The three ways to take a victim through its call: looking at every instruction what would
//! follow if it died there, killing it there, stopping it there.

use std::time::Instant;

use corecast::Overflow;
use nix::sys::signal::Signal;

use crate::common::LONG;
use crate::figures::{Faults, Figures};
use crate::stage::Stage;
use crate::step::Tracee;
use crate::victim::Scenario;
use crate::world::{Death, World};

/// System calls in which a worker may wait for the master.
const WAITS: [i64; 5] = [
    libc::SYS_futex,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
];

/// The way through a call: the address of the instruction ahead after each step.
#[derive(Default)]
pub struct Path {
    at: Vec<usize>,
    /// Where the master had to work, for the victim was about to wait.
    works: Vec<usize>,
}

impl Path {
    /// Instructions of the call.
    pub fn len(&self) -> usize {
        self.at.len()
    }
}

/// Which points get a recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recoveries {
    /// Those where shared memory differs from the point before; elsewhere the outcome must be the
    /// same, for nothing else is left of a process.
    WhereChanged,
    All,
}

/// Takes a victim through its call, one instruction at a time. At each, everybody else goes through
/// its death, noticed at once and noticed late, and is put back.
pub fn snapshots(
    stage: &mut Stage,
    scenario: Scenario,
    which: Recoveries,
    figures: &mut Figures,
) -> Path {
    let tracee = stage.victim(scenario);
    stage.save();
    let (mut path, mut is_new) = (Path::default(), true);
    loop {
        figures.points += 1;
        if std::mem::take(&mut is_new) || which == Recoveries::All {
            // A master does nothing while a helper has its role, so it notices at once.
            for after in [0, 1].into_iter().take(2 - usize::from(scenario.assists)) {
                figures.recoveries += 1;
                let faults = stage.recover(Death::Told { after }, scenario.call);
                figures.found(faults, || format!("{scenario:?} at {}", path.len()));
                stage.put_back();
            }
        }
        if stage.board.done() == 1 {
            break;
        }
        let waits = waits(&tracee);
        if waits.is_some() {
            is_new = work(stage, &mut path);
            if waits == Some(libc::SYS_futex) && tracee.would_sleep() {
                // Under `Overflow::Block`, who waits for an answer while its own queue is in the
                // way waits for itself. Nobody else may be left to sleep.
                let faults = Faults {
                    stalls: (scenario.overflow != Overflow::Block).into(),
                    ..Faults::default()
                };
                figures.found(faults, || format!("{scenario:?} sleeps at {}", path.len()));
                break;
            }
        }
        is_new |= step(stage, &tracee, &mut path);
        // Now the call has returned, and more is expected of what it did.
        is_new |= stage.board.done() == 1;
    }
    figures.helped += stage.world(|w| w.hub.stats().assisted.min(1));
    // What it is at the end when it is real. Putting back does not bring back a pidfd that is to
    // wake the master, so it has to be told.
    tracee.kill();
    stage.world(World::tell_of_death);
    figures.kills += 1;
    let faults = stage.recover(Death::Real, scenario.call);
    figures.found(faults, || format!("{scenario:?} killed at its end"));
    path
}

/// The system call ahead, if it is one in which a worker may wait for the master.
fn waits(tracee: &Tracee) -> Option<i64> {
    let number = tracee.system_call(tracee.at());
    number.filter(|n| WAITS.contains(n))
}

/// The master works, for the victim is about to wait; true when that has changed anything.
fn work(stage: &mut Stage, path: &mut Path) -> bool {
    stage.world(World::turn);
    let has_changed = stage.image.update();
    stage.save();
    path.works.push(path.len());
    has_changed
}

/// One instruction; true when it has changed shared memory.
fn step(stage: &mut Stage, tracee: &Tracee, path: &mut Path) -> bool {
    path.at.push(tracee.at());
    assert!(tracee.step(), "the victim ended in its call");
    stage.image.update()
}

/// Forks a victim that takes the way again, and brings it to where it has executed `steps`
/// instructions of its call. None when it took another way.
pub fn victim_at(
    stage: &mut Stage,
    scenario: Scenario,
    path: &Path,
    steps: usize,
) -> Option<Tracee> {
    let tracee = stage.victim(scenario);
    let mut now = 0;
    for &work in path.works.iter().filter(|&&w| w < steps) {
        if !run(stage, &tracee, path, now, work) {
            tracee.kill();
            return None;
        }
        stage.world(World::turn);
        now = work;
    }
    if run(stage, &tracee, path, now, steps) {
        return Some(tracee);
    }
    tracee.kill();
    None
}

/// Runs from step `now` of the path to step `to`: with a breakpoint where that is faster, then
/// instruction by instruction.
fn run(stage: &Stage, tracee: &Tracee, path: &Path, now: usize, to: usize) -> bool {
    /// Steps that cost as much as setting a breakpoint.
    const FEW: usize = 8;
    let (mut near, mut nth, mut cost) = (now, 0, to - now);
    for from in (now + 1..to.min(path.len())).rev().take(64) {
        // The processor would stop at the first of several turns of a string instruction.
        // It would stop at once where it stands.
        let is_string = path.at[from] == path.at[from - 1] || path.at[from] == path.at[now];
        let times = path.at[now + 1..=from]
            .iter()
            .filter(|&&at| at == path.at[from])
            .count();
        let this = FEW + FEW / 2 * times + to - from;
        if !is_string && this < cost {
            (near, nth, cost) = (from, times, this);
        }
    }
    if nth > 0 && !tracee.run_to(path.at[near], nth, || stage.board.done() == 1) {
        return false;
    }
    (near..to).all(|_| tracee.step())
}

/// Kills a victim after `steps` instructions of its call, and lets the others find out. What was
/// saved last must be a world without a victim.
pub fn kill(
    stage: &mut Stage,
    scenario: Scenario,
    path: &Path,
    steps: usize,
    figures: &mut Figures,
) {
    match victim_at(stage, scenario, path, steps) {
        Some(tracee) => {
            tracee.kill();
            figures.kills += 1;
        }
        None => figures.strayed += 1,
    }
    let faults = stage.recover(Death::Real, scenario.call);
    figures.found(faults, || format!("{scenario:?} killed at {steps}"));
    stage.put_back();
}

/// Stops a victim after `steps` instructions of its call, lets the others exchange `messages`
/// messages, lets it go on, and waits for it to end well.
pub fn stop(
    stage: &mut Stage,
    scenario: Scenario,
    path: &Path,
    steps: usize,
    messages: u64,
    figures: &mut Figures,
) {
    let Some(tracee) = victim_at(stage, scenario, path, steps) else {
        figures.strayed += 1;
        return stage.see_death();
    };
    stage.board.set_alone(1);
    let mut child = tracee.stop_for_real();
    figures.stops += 1;
    figures.others += messages;
    let faults = stage.go_on(messages);
    figures.found(faults, || format!("{scenario:?} stopped at {steps}"));
    child.signal(Signal::SIGCONT);
    let start = Instant::now();
    while !child.has_ended() {
        stage.world(World::turn);
        std::thread::yield_now();
        assert!(
            start.elapsed() < LONG,
            "{scenario:?} stopped at {steps} does not go on"
        );
    }
    let faults = stage.recover(Death::Real, scenario.call);
    figures.found(faults, || format!("{scenario:?} after its stop at {steps}"));
    stage.put_back();
}

/// Takes a victim through its call while the others exchange a message at each instruction.
pub fn interleaved(stage: &mut Stage, scenario: Scenario, figures: &mut Figures) {
    let tracee = stage.victim(scenario);
    let mut steps = 0;
    while stage.board.done() == 0 {
        figures.points += 1;
        figures.others += 1;
        let faults = stage.go_on(1);
        figures.found(faults, || format!("{scenario:?} held at {steps}"));
        assert!(tracee.step(), "the victim ended in its call");
        steps += 1;
    }
    tracee.kill();
    figures.kills += 1;
    let faults = stage.recover(Death::Real, scenario.call);
    figures.found(faults, || format!("{scenario:?} killed at its end"));
    stage.put_back();
}
