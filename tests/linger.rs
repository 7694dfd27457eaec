//! Receivers that wait a moment for more before they sleep, and a master that holds wakes back while
//! large messages come: neither may forget anybody.

// The tests' own bookkeeping across processes; not subject to the models.
#![allow(clippy::disallowed_types)]

mod common;

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::{LONG, Rng, Watchdog, fork, is_readable, shared_words, wait_until};
use corecast::{Core, Hub, Master, Overflow};

/// As long as a core lingers at most.
const LONGEST: Duration = Duration::from_millis(10);

/// A hub whose master is called, a core that sends, and one that has joined the room.
fn pair() -> (Hub, Master, Core, Core) {
    let hub = Hub::builder().workers(2).create().expect("a hub");
    let mut master = hub.master().expect("a master");
    let sender = hub.attach(0, 0).expect("a core");
    let mut core = hub.attach(1, 0).expect("a core");
    let joining = core.join_async("room").expect("asked");
    master.step();
    core.join_result(joining)
        .expect("answered")
        .expect("joined");
    (hub, master, sender, core)
}

#[test]
fn a_core_that_lingered_in_vain_is_armed() {
    let (hub, mut master, mut sender, mut core) = pair();
    core.set_linger(Duration::from_micros(100));
    let forget = |core: &Core| nix::unistd::read(core.as_fd(), &mut [0; 8]);
    let _ = forget(&core); // the answer rang as well
    let before = hub.stats().wakes;
    // More often than a wait in vain is put off.
    for number in 0u64..200 {
        assert_eq!(core.recv().expect("nothing is lost"), None);
        assert!(!is_readable(&core));
        sender.send("room", &number.to_le_bytes()).expect("sent");
        master.step();
        assert!(is_readable(&core), "message {number}");
        let message = core.recv().expect("nothing is lost").expect("a message");
        assert_eq!(message.body, number.to_le_bytes());
        // As callers do that poll level-triggered.
        let _ = forget(&core);
    }
    assert_eq!(hub.stats().wakes - before, 200);
}

#[test]
fn what_comes_while_a_core_lingers_needs_no_wake() {
    let _watchdog = Watchdog::new(LONG);
    let (hub, mut master, mut sender, mut core) = pair();
    let before = hub.stats().wakes;
    let rounds = AtomicU64::new(0);
    let met = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while met.load(Ordering::SeqCst) == 0 {
                // Forgets what was in vain, too.
                core.set_linger(LONGEST);
                rounds.fetch_add(1, Ordering::SeqCst);
                let found = core.recv().expect("nothing is lost").is_some();
                if found {
                    met.store(1, Ordering::SeqCst);
                } else {
                    // This thread, or the other, was held up: once more.
                    let late = core.recv_timeout(LONG).expect("nothing is lost");
                    assert!(late.is_some());
                }
            }
        });
        let mut seen = 0;
        wait_until("a message has met a core that lingers", || {
            let round = rounds.load(Ordering::SeqCst);
            if round > seen && met.load(Ordering::SeqCst) == 0 {
                seen = round;
                // Without lingering it is armed by then.
                std::thread::sleep(LONGEST / 5);
                sender.send("room", b"here").expect("sent");
                master.step();
            }
            met.load(Ordering::SeqCst) == 1
        });
        let wakes = hub.stats().wakes - before;
        assert_eq!(wakes, seen - 1, "only who had ceased to linger was woken");
    });
}

/// Streams that end at any moment, of messages of `len` bytes: the last one is heard.
fn streams_that_end(len: usize, streams: u64, lengths: &[u64], linger: Duration) {
    let _watchdog = Watchdog::new(4 * LONG);
    let hub = Hub::builder().workers(3).overflow(Overflow::Block);
    let hub = hub.create().expect("a hub");
    let _master = hub.start().expect("a master");
    let words = shared_words(64);
    let heard = [&words[0], &words[32]];
    let receivers = [0, 1].map(|at| {
        let hub = &hub;
        fork(move || {
            let mut core = hub.attach(1 + at, 0).expect("a core");
            core.join("room").expect("joined");
            core.set_linger(linger);
            heard[at as usize].store(1, Ordering::SeqCst);
            for number in 1.. {
                let message = core.recv_timeout(LONG).expect("nothing is lost");
                let body = message.expect("it is published, and nobody looks").body;
                assert_eq!(body.len(), len);
                assert_eq!(body[..8], u64::to_le_bytes(number));
                assert_eq!(body[len - 8..], u64::to_le_bytes(number));
                heard[at as usize].store(number + 1, Ordering::SeqCst);
            }
        })
    });
    let all_have = |number: u64| {
        wait_until("everybody has heard it", || {
            heard
                .iter()
                .all(|word| word.load(Ordering::SeqCst) == number + 1)
        });
    };
    all_have(0);
    let mut core = hub.attach(0, 0).expect("a core");
    let mut rng = Rng::new(len as u64);
    let mut number = 0u64;
    for _ in 0..streams {
        for _ in 0..lengths[rng.below(lengths.len() as u64) as usize] {
            number += 1;
            let mut loan = core.loan_timeout("room", len, LONG).expect("room");
            loan[..8].copy_from_slice(&number.to_le_bytes());
            loan[len - 8..].copy_from_slice(&number.to_le_bytes());
            loan.send();
        }
        all_have(number);
        // So that everybody is met in all that it does on its way to sleep.
        for _ in 0..rng.below(3000) {
            std::hint::spin_loop();
        }
    }
    receivers.into_iter().for_each(common::Child::kill);
    let stats = hub.stats();
    assert_eq!((stats.lost, stats.messages), (0, number));
}

#[test]
fn streams_of_large_messages_are_heard_to_their_end() {
    for linger in [Duration::ZERO, Duration::from_micros(100)] {
        streams_that_end(60_000, 1000, &[1, 2, 3, 7, 20], linger);
    }
}

#[test]
fn streams_to_cores_that_linger_are_heard_to_their_end() {
    streams_that_end(16, 2000, &[1, 3, 30, 900, 1500], Duration::from_micros(20));
}
