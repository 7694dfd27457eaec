//! Storms: deaths in masses, births before deaths were seen, pids used again, forks at bad moments.
//! Others lose nothing, and nothing grows.
//!
//! `CORECAST_GENERATIONS=10000 cargo test --test storms` makes the first one longer.

// The tests' own bookkeeping across processes; not subject to the models.
#![allow(clippy::disallowed_types)]

mod common;
#[path = "storms/steady.rs"]
mod steady;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::{Child, LONG, Watchdog, alone, fork, open_fds, shared_words, wait_until};
use corecast::{Hub, Master, RecvError};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use steady::{Footprint, Pair};

const FOREVER: Duration = Duration::from_secs(3600);

fn generations() -> u64 {
    let chosen = std::env::var("CORECAST_GENERATIONS").ok();
    chosen.map_or(2000, |n| n.parse().expect("a number of generations"))
}

/// Attaches worker 0, joins two channels, says so, and waits for its death.
fn join_and_wait(hub: &Hub, generation: u64, joined: &AtomicU64) {
    let mut core = hub.attach(0, 0).expect("a core");
    core.join("storm").expect("joined");
    core.join(format!("storm {}", generation % 100))
        .expect("joined");
    joined.store(generation, Ordering::SeqCst);
    std::thread::sleep(FOREVER);
}

#[test]
fn generations_that_die_right_after_joining_leave_nothing_behind() {
    let _alone = alone();
    let all = generations();
    let _watchdog = Watchdog::new(LONG * (2 + all as u32 / 500));
    let hub = Hub::builder()
        .workers(1)
        .channels(128)
        .create()
        .expect("a hub");
    let master = hub.start().expect("a master");
    let mut pair = Pair::new(&hub);
    let joined = &shared_words(1)[0];
    let mut before = None;
    let mut last: Option<Child> = None;
    for generation in 1..=all {
        let next = fork(|| join_and_wait(&hub, generation, joined));
        // Every other time the old one is a zombie still when its successor has attached.
        drop(last.take());
        wait_until("it has joined", || {
            joined.load(Ordering::SeqCst) == generation
        });
        if generation % 2 == 0 {
            next.kill_only();
            last = Some(next);
        } else {
            next.kill();
        }
        if generation % 50 == 0 {
            pair.check(10);
        }
        if generation == all / 4 {
            before = Some(Footprint::now());
        }
    }
    drop(last);
    wait_until("the slot is free", || hub.stats().cores == 2);
    Footprint::check(before.expect("taken on the way"), "generations");
    let stats = hub.stats();
    assert_eq!((stats.channels, stats.subscriptions), (1, 1), "{stats:?}");
    assert_eq!((stats.reaped, stats.violations), (all, 0), "{stats:?}");
    println!("{all} generations: {stats:?}");
    master.stop().expect("stopped");
}

#[test]
fn all_workers_killed_at_once_again_and_again() {
    const WORKERS: u32 = 12;
    const ROUNDS: u64 = 5;
    let _alone = alone();
    let _watchdog = Watchdog::new(2 * LONG);
    let hub = Hub::builder().workers(WORKERS).create().expect("a hub");
    let master = hub.start().expect("a master");
    let mut pair = Pair::new(&hub);
    let live = &shared_words(1)[0];
    let noise = |worker: u32| {
        let hub = &hub;
        fork(move || {
            let mut core = hub.attach(worker, 0).expect("a core");
            core.join("noise").expect("joined");
            live.fetch_add(1, Ordering::SeqCst);
            loop {
                let _full = core.send("noise", &[worker as u8; 100]);
                while let Ok(Some(_)) | Err(RecvError::Lagged(_)) = core.recv() {}
            }
        })
    };
    let fds = open_fds();
    for round in 1..=ROUNDS {
        let workers: Vec<Child> = (0..WORKERS).map(noise).collect();
        wait_until("all make noise", || {
            live.load(Ordering::SeqCst) == round * u64::from(WORKERS)
        });
        pair.check(20);
        workers.iter().for_each(Child::kill_only);
        pair.check(20);
        drop(workers);
        wait_until("all slots are free", || hub.stats().cores == 2);
    }
    let stats = hub.stats();
    assert_eq!((stats.channels, stats.subscriptions), (1, 1), "{stats:?}");
    assert_eq!(stats.reaped, ROUNDS * u64::from(WORKERS), "{stats:?}");
    assert_eq!(stats.violations, 0, "{stats:?}");
    // The pidfds go right after the slots.
    wait_until("descriptors are back", || open_fds() == fds);
    println!("{ROUNDS} x {WORKERS} killed at once: {stats:?}");
    master.stop().expect("stopped");
}

/// Forks into just this pid; None where that is not permitted.
fn fork_with_pid(pid: Pid, body: impl FnOnce()) -> Option<Pid> {
    let tid = [pid.as_raw()];
    // SAFETY: plain data, for which zero is valid.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.exit_signal = libc::SIGCHLD as u64;
    args.set_tid = tid.as_ptr().addr() as u64;
    args.set_tid_size = 1;
    // SAFETY: like fork: the child has a copy of everything and ends with `_exit`.
    let child = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const args,
            size_of::<libc::clone_args>(),
        )
    };
    match child {
        0 => {
            // Not to outlive a test that fails.
            // SAFETY: a system call without memory.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            body();
            // SAFETY: ends the child without the parent's destructors.
            unsafe { libc::_exit(0) }
        }
        -1 => {
            let error = std::io::Error::last_os_error();
            assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}");
            println!("skipped: choosing a pid needs CAP_CHECKPOINT_RESTORE");
            None
        }
        _ => Some(pid),
    }
}

fn now(master: &mut Master) {
    master.poll(Some(Duration::ZERO)).expect("polled");
}

/// Kills it and takes its pid off the table.
fn end(pid: Pid) {
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it lives");
    assert!(waitpid(pid, None).is_ok());
}

#[test]
fn a_stranger_with_the_pid_of_the_dead_does_not_keep_its_slot() {
    let _alone = alone();
    let _watchdog = Watchdog::new(LONG);
    let hub = Hub::builder().workers(1).create().expect("a hub");
    let mut master = hub.master().expect("a master");
    let joined = &shared_words(1)[0];
    for round in 1..=20 {
        let first = fork(|| join_and_wait(&hub, round, joined));
        wait_until("it has joined", || {
            now(&mut master);
            joined.load(Ordering::SeqCst) == round
        });
        let pid = first.pid();
        first.kill();
        // The master has not looked since; now the pid is a stranger's.
        let Some(stranger) = fork_with_pid(pid, || std::thread::sleep(FOREVER)) else {
            return;
        };
        wait_until("the slot is free", || {
            now(&mut master);
            hub.stats().cores == 0
        });
        let flag = Some(WaitPidFlag::WNOHANG);
        assert_eq!(waitpid(stranger, flag), Ok(WaitStatus::StillAlive));
        end(stranger);
    }
    assert_eq!((hub.stats().reaped, hub.stats().channels), (20, 0));
}

/// The owner dies and its pid is given away while there is no master: the next one has no pidfd from
/// the owner's lifetime, and once took the stranger for it.
#[test]
fn a_stranger_with_the_pid_of_the_dead_does_not_keep_its_slot_from_the_next_master() {
    let _alone = alone();
    let _watchdog = Watchdog::new(LONG);
    let hub = Hub::builder().workers(1).create().expect("a hub");
    let joined = &shared_words(1)[0];
    let first = fork(|| join_and_wait(&hub, 1, joined));
    let pid = first.pid();
    // In a child, so that the next one has to make do with what is in the region.
    let master = fork(|| {
        let mut master = hub.master().expect("a master");
        loop {
            master.poll(None).expect("polled");
        }
    });
    wait_until("it has joined", || joined.load(Ordering::SeqCst) == 1);
    master.kill();
    first.kill();
    std::thread::sleep(Duration::from_millis(30)); // ticks of start are 10 ms apart
    let Some(stranger) = fork_with_pid(pid, || std::thread::sleep(FOREVER)) else {
        return;
    };
    let mut next = hub.master().expect("the last one is dead");
    wait_until("the slot is free", || {
        now(&mut next);
        hub.stats().cores == 0
    });
    let flag = Some(WaitPidFlag::WNOHANG);
    assert_eq!(waitpid(stranger, flag), Ok(WaitStatus::StillAlive));
    end(stranger);
}

/// A killed process that takes long to end (here held at its end by ptrace, on a busy machine by
/// others) was once taken for alive after 50 ms, and its successor refused.
#[test]
fn a_successor_waits_for_a_killed_process_that_takes_its_time_to_end() {
    let _alone = alone();
    let _watchdog = Watchdog::new(LONG);
    let hub = Hub::builder().workers(1).create().expect("a hub");
    let master = hub.start().expect("a master");
    let joined = &shared_words(1)[0];
    let dying = common::trace::traced(|| join_and_wait(&hub, 1, joined));
    let options = libc::PTRACE_O_TRACEEXIT as usize;
    common::trace::ptrace(libc::PTRACE_SETOPTIONS, dying.pid(), 0, options);
    common::trace::ptrace(libc::PTRACE_CONT, dying.pid(), 0, 0);
    wait_until("it has joined", || joined.load(Ordering::SeqCst) == 1);
    dying.kill_only();
    let at_its_end = waitpid(dying.pid(), None).expect("waitpid");
    assert!(
        matches!(at_its_end, WaitStatus::PtraceEvent(..)),
        "{at_its_end:?}"
    );
    let next = fork(|| join_and_wait(&hub, 2, joined));
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(joined.load(Ordering::SeqCst), 1, "the slot is not free yet");
    common::trace::ptrace(libc::PTRACE_CONT, dying.pid(), 0, 0);
    wait_until("its successor has joined", || {
        joined.load(Ordering::SeqCst) == 2
    });
    next.kill();
    master.stop().expect("stopped");
}

#[test]
fn a_successor_with_the_pid_of_the_dead_gets_its_slot() {
    let _alone = alone();
    let _watchdog = Watchdog::new(LONG);
    let hub = Hub::builder().workers(1).create().expect("a hub");
    let mut master = hub.master().expect("a master");
    let joined = &shared_words(1)[0];
    let mut pid = fork(|| {}).pid();
    for round in 1..=20 {
        let child = if round == 1 {
            let first = fork(|| join_and_wait(&hub, round, joined));
            pid = first.pid();
            std::mem::forget(first);
            pid
        } else {
            let Some(child) = fork_with_pid(pid, || join_and_wait(&hub, round, joined)) else {
                return;
            };
            child
        };
        wait_until("it has joined", || {
            now(&mut master);
            joined.load(Ordering::SeqCst) == round
        });
        assert_eq!((hub.stats().cores, hub.stats().reaped), (1, round - 1));
        end(child);
    }
}

#[test]
fn forks_of_a_parent_whose_threads_hold_locks_come_up() {
    const FORKS: u32 = 150;
    let _alone = alone();
    let _watchdog = Watchdog::new(2 * LONG);
    let hub = Hub::builder().workers(1).extra(8).create().expect("a hub");
    let master = hub.start().expect("a master");
    let mut pair = Pair::new(&hub);
    let (stop, lock) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for n in 0..3u8 {
            let (hub, stop, lock) = (&hub, &stop, &lock);
            scope.spawn(move || {
                let mut core = hub.attach_any().expect("an extra core");
                while !stop.load(Ordering::Relaxed) {
                    // The allocator's lock, stdout's and one of its own; joins, the router's.
                    let mut kept = lock.lock().expect("not poisoned");
                    kept.push(vec![n; 2000]);
                    kept.truncate(50);
                    print!("");
                    core.join(format!("room {n}")).expect("joined");
                    core.leave(format!("room {n}")).expect("left");
                    while let Ok(Some(_)) | Err(RecvError::Lagged(_)) = core.recv() {}
                }
            });
        }
        for _ in 0..FORKS {
            let child = fork(|| {
                let mut core = hub.attach(0, 0).expect("a core");
                core.join("child").expect("joined");
                core.send("child", b"alive").expect("sent");
                let message = core.recv_timeout(LONG).expect("no loss");
                assert_eq!(message.expect("its own message").body, b"alive");
                core.detach().expect("detached");
            });
            child.join();
            pair.check(1);
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!("{FORKS} forks while three threads held locks");
    master.stop().expect("stopped");
}
