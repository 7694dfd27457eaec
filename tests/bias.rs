//! Senders that stream publish by plain stores (see `src/lane.rs`). A stream that ends, at any moment,
//! must not end unheard.

// The tests' own bookkeeping across processes; not subject to the models.
#![allow(clippy::disallowed_types)]

mod common;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::{LONG, Rng, Watchdog, fork, shared_words, wait_until};
use corecast::{Core, Hub, Overflow};
use nix::sys::signal::Signal;

/// Streams of each sender.
const STREAMS: u64 = 3000;
/// Messages of a stream: enough for a bias, or too few.
const LENGTHS: [u64; 5] = [1, 3, 900, 1500, 4000];

/// Receives until message `number` has come; fails unless each comes once, in order.
fn receive_to(core: &mut Core, next: &mut u64, number: u64) {
    while *next <= number {
        match core.recv_timeout(LONG).expect("nothing is lost") {
            Some(message) => {
                let bytes = message.body.try_into().expect("a number");
                assert_eq!(u64::from_le_bytes(bytes), *next);
                *next += 1;
            }
            None => panic!("message {next} is published, and nobody looks"),
        }
    }
}

/// Answers the last message of each stream, whose number the sender tells by another way.
fn answer(hub: &Hub, lane: u32, asked: &AtomicU64) {
    let mut core = hub.attach(1, lane).expect("a core");
    core.join(format!("room {lane}")).expect("joined");
    asked.store(1, Ordering::SeqCst);
    let mut next = 0;
    for _ in 0..STREAMS {
        wait_until("a stream has ended", || asked.load(Ordering::SeqCst) > 1);
        receive_to(&mut core, &mut next, asked.load(Ordering::SeqCst) - 2);
        asked.store(1, Ordering::SeqCst);
    }
}

/// One core streams, stops, and goes on only when the last message has come.
fn stream(hub: &Hub, lane: u32, asked: &AtomicU64) {
    let mut core = hub.attach(0, lane).expect("a core");
    let room = format!("room {lane}");
    let mut rng = Rng::new(u64::from(lane) + 1);
    let mut number = 0u64;
    for _ in 0..STREAMS {
        let length = LENGTHS[rng.below(LENGTHS.len() as u64) as usize];
        for _ in 0..length {
            let body = number.to_le_bytes();
            core.send_timeout(&room, &body, LONG)
                .expect("room in the lane");
            number += 1;
        }
        asked.store(number + 1, Ordering::SeqCst);
        wait_until("it has come", || asked.load(Ordering::SeqCst) == 1);
        // So that the master is met in all that it does on its way to sleep.
        for _ in 0..rng.below(3000) {
            std::hint::spin_loop();
        }
    }
}

#[test]
fn a_stream_that_ends_is_heard_to_its_end() {
    let _watchdog = Watchdog::new(4 * LONG);
    let hub = Hub::builder().workers(2).cores(2).create().expect("a hub");
    let _master = hub.start().expect("a master");
    let asked = shared_words(64);
    let asked = [&asked[0], &asked[32]];
    let both = |of: fn(&Hub, u32, &AtomicU64)| {
        std::thread::scope(|scope| {
            for lane in 0..2 {
                let hub = &hub;
                scope.spawn(move || of(hub, lane, asked[lane as usize]));
            }
        });
    };
    let receivers = fork(|| both(answer));
    wait_until("they have joined", || {
        asked.iter().all(|word| word.load(Ordering::SeqCst) == 1)
    });
    let senders = fork(|| both(stream));
    senders.join();
    receivers.join();
    assert_eq!(hub.stats().lost, 0);
}

/// A sender is stopped in the middle of its stream, again and again, while the master falls asleep: what
/// it stores when it goes on is heard, though the lane is armed by then.
#[test]
fn a_stopped_sender_is_heard_when_it_goes_on() {
    let _watchdog = Watchdog::new(4 * LONG);
    let hub = Hub::builder().workers(2).overflow(Overflow::Block);
    let hub = hub.create().expect("a hub");
    let _master = hub.start().expect("a master");
    let words = shared_words(1);
    let mut core = hub.attach(1, 0).expect("a core");
    core.join("room").expect("joined");
    let sender = fork(|| {
        let mut core = hub.attach(0, 0).expect("a core");
        for number in 0u64.. {
            core.send_timeout("room", &number.to_le_bytes(), LONG)
                .expect("room in the lane");
            words[0].store(number + 1, Ordering::SeqCst);
        }
    });
    let mut next = 0;
    for _ in 0..200 {
        let more = words[0].load(Ordering::SeqCst) + 2000;
        receive_to(&mut core, &mut next, more);
        sender.stop();
        let returned = words[0].load(Ordering::SeqCst);
        receive_to(&mut core, &mut next, returned - 1);
        // The master falls asleep, mostly.
        std::thread::sleep(Duration::from_millis(2));
        sender.signal(Signal::SIGCONT);
    }
    sender.kill();
}
