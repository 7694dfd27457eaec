//! The master is killed after any instruction of its work; a successor adopts the hub and goes on:
//! nothing is lost, nothing comes twice, nothing comes out of order, and whoever sleeps is woken.
//!
//! Each test has a master process step through one piece of work, kills it after so many
//! instructions, adopts the hub here, and compares what all cores receive with what was sent.
//! A few evenly spread points here; `tests/crash` goes through every instruction.

// The tests' own bookkeeping across processes; not subject to the models.
#![allow(clippy::disallowed_types)]

mod common;

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::doomed::Doomed;
use common::{LONG, Watchdog, alone, fork, is_readable, shared_words, trace, wait_until};
use corecast::{Core, Hub, JoinError, JoinTicket, Master, RecvError, SendError};

/// Cores that every message must reach.
const FAN_OUT: u32 = 16;
const FOREVER: Duration = Duration::from_secs(3600);
const ROOM: &str = "room";

/// A hub, its subscribers and senders, and what has been sent and not received.
struct Stage {
    hub: Hub,
    /// None while another process is the master.
    master: Option<Master>,
    receivers: Vec<Core>,
    senders: [Core; 2],
    /// Bodies sent since the last check, in order.
    sent: Vec<Vec<u8>>,
    /// For each receiver how many of them it has.
    received: Vec<usize>,
    count: u64,
}

impl Stage {
    fn new() -> Self {
        let builder = Hub::builder()
            .workers(FAN_OUT)
            .channels(64)
            .lane_bytes(8192);
        let hub = builder
            .queue_bytes(16 << 10)
            .max_message(4096)
            .await_successor(true)
            .create()
            .expect("a hub");
        let mut master = hub.master().expect("a master");
        let receivers: Vec<Core> = (0..FAN_OUT)
            .map(|w| {
                let mut core = hub.attach(w, 0).expect("a core");
                join(&mut core, ROOM, &mut master);
                core
            })
            .collect();
        let senders = [(); 2].map(|()| hub.attach_any().expect("an extra core"));
        now(&mut master);
        Self {
            received: vec![0; receivers.len()],
            receivers,
            senders,
            master: Some(master),
            sent: Vec::new(),
            count: 0,
            hub,
        }
    }

    /// Sends a numbered message; now and then one that is too large for the staging buffer.
    fn send(&mut self) {
        let n = self.count;
        let len = if n % 5 == 3 {
            1500
        } else {
            8 + n as usize % 30
        };
        let mut body = vec![n as u8; len];
        body[..8].copy_from_slice(&n.to_le_bytes());
        self.senders[n as usize % 2]
            .send(ROOM, &body)
            .expect("sent");
        self.sent.push(body);
        self.count += 1;
    }

    /// What has come must be what was sent, in that order. Whoever has something to take must
    /// have been notified, if `was_armed`.
    fn receive(&mut self, receiver: usize, was_armed: bool) {
        let core = &mut self.receivers[receiver];
        let (notified, had) = (is_readable(core), self.received[receiver]);
        while let Some(message) = core.recv().expect("nothing is lost") {
            let expected = self.sent.get(self.received[receiver]);
            assert_eq!(Some(message.body), expected.map(Vec::as_slice));
            self.received[receiver] += 1;
        }
        let came = self.received[receiver] > had;
        assert!(
            notified || !came || !was_armed,
            "receiver {receiver} sleeps"
        );
        drain(core);
    }

    fn master(&mut self) -> &mut Master {
        self.master.as_mut().expect("we are the master")
    }

    /// The master of another process is dead: becomes the next, and checks all streams.
    fn take_over(&mut self) {
        self.master = Some(self.hub.master().expect("the last one is dead"));
        now(self.master());
        for receiver in 0..self.receivers.len() {
            self.receive(receiver, true);
            assert_eq!(self.received[receiver], self.sent.len(), "all has come");
        }
        self.sent.clear();
        self.received.fill(0);
    }
}

fn now(master: &mut Master) {
    while master.poll(Some(Duration::ZERO)).expect("polled") > 0 {}
}

fn join(core: &mut Core, name: &str, master: &mut Master) {
    let ticket = core.join_async(name).expect("asked");
    now(master);
    core.join_result(ticket).expect("answered").expect("joined");
}

fn drain(core: &Core) {
    let _empty = nix::unistd::read(core.as_fd(), &mut [0; 8]);
}

/// How many points to take out of `length`.
fn points(sample: usize, length: usize) -> usize {
    // Stepping through a debug build takes seconds.
    let sample = if cfg!(debug_assertions) { 4 } else { sample };
    sample.min(length)
}

/// Has a process become the master and do `work`, and kills it after `point` instructions of that
/// (with `adopting`: of becoming the master too). Returns how many it made, at most all.
fn kill_a_master(
    stage: &mut Stage,
    adopting: bool,
    point: usize,
    work: &dyn Fn(&mut Master),
    variant: usize,
) -> usize {
    let done = &shared_words(1)[0];
    let child = trace::traced(|| {
        if adopting {
            trace::mark();
        }
        let mut master = stage.hub.master().expect("a master");
        if !adopting {
            trace::mark();
        }
        work(&mut master);
        done.store(1, Ordering::SeqCst);
        std::thread::sleep(FOREVER);
    });
    trace::run_to_mark(&child);
    let mut at = 0;
    while at < point && done.load(Ordering::SeqCst) == 0 {
        trace::step(&child);
        at += 1;
    }
    // Some cores take what they see, so that control words change under the dead hand.
    for receiver in 0..stage.receivers.len() {
        if (receiver + variant) % 3 == 0 {
            stage.receive(receiver, false);
        }
    }
    child.kill();
    at
}

/// Kills a master at evenly spread points of its `work`, and has the stage take over each time;
/// then `check`. Before each, `prepare` says what there is to do.
fn kill_at_points(
    sample: usize,
    adopting: bool,
    stage: &mut Stage,
    mut prepare: impl FnMut(&mut Stage),
    work: impl Fn(&mut Master),
    mut check: impl FnMut(&mut Stage),
) {
    let (mut length, mut kills) = (usize::MAX, 0);
    while kills <= points(sample, length) {
        prepare(stage);
        stage.master = None;
        let point = match kills {
            0 => usize::MAX, // all of it, to see how long it is
            n => length * (n - 1) / points(sample, length),
        };
        let at = kill_a_master(stage, adopting, point, &work, kills);
        stage.take_over();
        check(stage);
        if kills == 0 {
            length = at;
        }
        kills += 1;
    }
    println!("{} kills within {length} instructions", kills - 1);
    assert_eq!(stage.hub.stats().violations, 0);
}

fn route(master: &mut Master) {
    while master.step() > 0 {}
}

#[test]
fn a_master_killed_anywhere_in_a_fan_out_leaves_it_to_its_successor() {
    let _alone = alone();
    let _watchdog = Watchdog::new(100 * LONG);
    let mut stage = Stage::new();
    kill_at_points(
        600,
        false,
        &mut stage,
        |stage| (0..12).for_each(|_| stage.send()),
        route,
        |_| {},
    );
}

#[test]
fn a_successor_killed_anywhere_in_its_adoption_leaves_all_to_the_next() {
    let _alone = alone();
    let _watchdog = Watchdog::new(100 * LONG);
    let mut stage = Stage::new();
    let (mut length, mut n) = (usize::MAX, 0);
    kill_at_points(
        300,
        true,
        &mut stage,
        |stage| {
            (0..6).for_each(|_| stage.send());
            stage.master = None;
            // The first dies somewhere in its work, each time elsewhere.
            let point = if n == 0 {
                length
            } else {
                length * (n * 7 % 11) / 11
            };
            let at = kill_a_master(stage, false, point, &route, n);
            length = length.min(at);
            n += 1;
        },
        route,
        |_| {},
    );
}

#[test]
fn a_master_killed_anywhere_in_a_join_and_a_leave_leaves_them_to_its_successor() {
    let _alone = alone();
    let _watchdog = Watchdog::new(100 * LONG);
    let mut stage = Stage::new();
    let mut guest = stage.hub.attach_any().expect("an extra core");
    let mut ticket: Option<JoinTicket> = None;
    let channels = stage.hub.stats().channels;
    let guest = std::cell::RefCell::new(&mut guest);
    kill_at_points(
        600,
        false,
        &mut stage,
        |stage| {
            let mut guest = guest.borrow_mut();
            stage.send();
            ticket = Some(guest.join_async(ROOM).expect("asked"));
            let _own = guest.join_async("own").expect("asked");
            stage.send();
            guest.send("own", b"to myself").expect("sent");
        },
        route,
        |stage| {
            let mut guest = guest.borrow_mut();
            let mut got = Vec::new();
            while let Some(message) = guest.recv().expect("nothing is lost") {
                got.push((message.name.to_vec(), message.body.len()));
            }
            let first = stage.count as usize - 1;
            let len = if first % 5 == 3 { 1500 } else { 8 + first % 30 };
            let expected = [(ROOM.into(), len), (b"own".to_vec(), 9)];
            assert_eq!(got, expected, "what was sent after it joined");
            assert_eq!(stage.hub.stats().subscriptions, u64::from(FAN_OUT) + 2);
            assert_eq!(stage.hub.stats().channels, channels + 1);
            guest.leave_all().expect("left");
            now(stage.master());
            assert_eq!(stage.hub.stats().subscriptions, u64::from(FAN_OUT));
            assert_eq!(stage.hub.stats().channels, channels);
        },
    );
    assert!(ticket.is_some());
}

#[test]
fn a_master_killed_anywhere_in_a_leave_leaves_it_to_its_successor() {
    let _alone = alone();
    let _watchdog = Watchdog::new(100 * LONG);
    let mut stage = Stage::new();
    let guest = stage.hub.attach_any().expect("an extra core");
    let guest = std::cell::RefCell::new(guest);
    let channels = stage.hub.stats().channels;
    kill_at_points(
        400,
        false,
        &mut stage,
        |stage| {
            let mut guest = guest.borrow_mut();
            for name in ["a", "b", ROOM] {
                join(&mut guest, name, stage.master());
            }
            stage.send();
            guest.leave("a").expect("left");
            stage.send();
            guest.leave_all().expect("left");
            stage.send();
        },
        route,
        |stage| {
            assert_eq!(guest.borrow_mut().recv(), Ok(None), "it has left");
            let stats = stage.hub.stats();
            assert_eq!(stats.subscriptions, u64::from(FAN_OUT));
            assert_eq!(stats.channels, channels);
        },
    );
}

/// A worker that has joined and sent, is dead, and of whose death no master knows.
fn a_dead_worker(stage: &mut Stage) {
    let body = [7; 20];
    let worker = Doomed::new(&stage.hub, ROOM, &body, || {});
    now(stage.master());
    stage.send();
    worker.send();
    stage.sent.push(body.to_vec());
    stage.send();
    worker.die();
}

#[test]
fn a_master_killed_anywhere_in_a_reaping_leaves_it_to_its_successor() {
    let _alone = alone();
    let _watchdog = Watchdog::new(100 * LONG);
    let mut stage = Stage::new();
    let before = stage.hub.stats();
    kill_at_points(600, false, &mut stage, a_dead_worker, now, |stage| {
        let stats = stage.hub.stats();
        let held = (stats.cores, stats.subscriptions, stats.channels);
        let expected = (before.cores, before.subscriptions, before.channels);
        assert_eq!(held, expected, "what it held is back");
    });
}

#[test]
fn a_handoff_finds_the_hub_and_what_is_not_one_is_refused() {
    let _alone = alone();
    let _watchdog = Watchdog::new(LONG);
    let mut stage = Stage::new();
    stage.send();
    stage.master = None;
    let text = stage.hub.handoff().expect("all descriptors are open");
    // In a child its numbers mean the same, as after an exec.
    fork(|| {
        let cut = &text[..text.len() - 1];
        assert!(Hub::adopt(cut).is_err() && Hub::adopt("").is_err());
        let heir = Hub::adopt(&text).expect("a hub");
        assert_eq!(heir.config(), stage.hub.config());
        now(&mut heir.master().expect("a master"));
        std::mem::forget(heir); // its descriptors are those of the stage's copy of the hub
    })
    .join();
    stage.take_over();
}

/// A master in a child: driven by its loop, or on a thread of its own.
fn master_elsewhere(hub: &Hub, on_a_thread: bool) -> common::Child {
    let up = &shared_words(1)[0];
    let child = fork(|| {
        if on_a_thread {
            let _master = hub.start().expect("a master");
            up.store(1, Ordering::SeqCst);
            std::thread::sleep(FOREVER);
        } else {
            let mut master = hub.master().expect("a master");
            up.store(1, Ordering::SeqCst);
            while master.poll(None).is_ok() {}
        }
    });
    wait_until("the master is up", || up.load(Ordering::SeqCst) == 1);
    child
}

#[test]
fn bare_calls_tell_that_the_master_was_killed_and_work_again_with_the_next() {
    let _alone = alone();
    let _watchdog = Watchdog::new(LONG);
    for on_a_thread in [false, true] {
        let hub = Hub::builder().workers(1).create().expect("a hub");
        let child = master_elsewhere(&hub, on_a_thread);
        let mut core = hub.attach(0, 0).expect("a core");
        core.join(ROOM).expect("joined");
        core.send(ROOM, b"one").expect("sent");
        wait_until("it is routed", || hub.stats().messages == 1);
        child.kill();
        assert_eq!(core.send(ROOM, b"x"), Err(SendError::MasterGone));
        assert_eq!(core.join("other"), Err(JoinError::MasterGone));
        let body = core
            .recv()
            .expect("what was routed")
            .expect("a message")
            .body;
        assert_eq!(body, b"one");
        assert_eq!(core.recv(), Err(RecvError::MasterGone));
        let mut master = hub.master().expect("a master");
        core.send(ROOM, b"two").expect("sent");
        now(&mut master);
        let body = core
            .recv()
            .expect("nothing is lost")
            .expect("a message")
            .body;
        assert_eq!(body, b"two");
        assert_eq!(core.recv(), Ok(None));
        drop(master);
        assert_eq!(core.recv(), Err(RecvError::MasterGone));
    }
}

#[test]
fn where_a_successor_is_awaited_calls_go_on_until_it_comes() {
    let _alone = alone();
    let _watchdog = Watchdog::new(LONG);
    let patient = Hub::builder().workers(1).await_successor(true);
    let hub = patient.lane_bytes(4096).max_message(256).create();
    let hub = hub.expect("a hub");
    let child = master_elsewhere(&hub, false);
    let mut core = hub.attach(0, 0).expect("a core");
    core.join(ROOM).expect("joined");
    child.kill();
    let mut sent = 0u32;
    while core.send(ROOM, &sent.to_le_bytes()).is_ok() {
        sent += 1;
    }
    assert_eq!(core.send(ROOM, b"x"), Err(SendError::Full));
    let brief = Duration::from_millis(5);
    assert_eq!(
        core.send_timeout(ROOM, b"x", brief),
        Err(SendError::Timeout)
    );
    assert_eq!(core.recv(), Ok(None));
    assert_eq!(core.recv_timeout(brief), Ok(None));
    let mut master = hub.master().expect("a master");
    now(&mut master);
    for n in 0..sent {
        let message = core.recv().expect("nothing is lost").expect("a message");
        assert_eq!(message.body, n.to_le_bytes());
    }
    assert_eq!(core.recv(), Ok(None));
}

/// Negative control: a router that carries out what it has not committed. Its successor routes all
/// of it again, and the stage must notice.
#[cfg(debug_assertions)]
#[test]
fn what_was_not_committed_is_found_to_come_twice() {
    let _alone = alone();
    let _watchdog = Watchdog::new(10 * LONG);
    let mut stage = Stage::new();
    (0..3).for_each(|_| stage.send());
    stage.master = None;
    let work = |master: &mut Master| {
        master.sabotage(corecast::Sabotage {
            skip_commit: true,
            ..Default::default()
        });
        route(master);
    };
    kill_a_master(&mut stage, false, usize::MAX, &work, 0);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| stage.take_over()));
    assert!(outcome.is_err(), "it came twice, and nobody noticed");
}
