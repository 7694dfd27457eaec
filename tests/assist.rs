//! Assist mode between real processes: workers that do the master's work while it sleeps, leave it
//! alone where that is better, and die in the middle of it.

// The tests' own bookkeeping across processes; not subject to the models.
#![allow(clippy::disallowed_types)]

mod common;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{Child, LONG, Watchdog, fork, shared_words, wait_until};
use corecast::{Core, Hub, Overflow, RecvError};

fn hub(workers: u32) -> Hub {
    Hub::builder()
        .workers(workers)
        .isolation(false)
        .assist(true)
        .overflow(Overflow::Block)
        .await_successor(true)
        .answer_timeout(LONG)
        .create()
        .expect("a hub")
}

fn next(core: &mut Core) -> u64 {
    let message = core.recv_timeout(LONG).expect("whole").expect("in time");
    u64::from_le_bytes(message.body.try_into().expect("a number"))
}

/// A worker that gives back what it gets on "there" on "back".
fn echo(hub: &Hub, worker: u32, up: &'static AtomicU64) -> Child {
    fork(|| {
        let mut core = hub.attach(worker, 0).expect("a core");
        core.join("there").expect("joined");
        up.fetch_add(1, Ordering::SeqCst);
        loop {
            let number = next(&mut core);
            core.send("back", &number.to_le_bytes()).expect("sent");
        }
    })
}

#[test]
fn workers_that_answer_each_other_leave_the_master_asleep() {
    const ROUNDS: u64 = 2000;
    let _watchdog = Watchdog::new(4 * LONG);
    let (hub, up) = (hub(2), &shared_words(1)[0]);
    let master = hub.start().expect("a master");
    let echo = echo(&hub, 0, up);
    let asker = fork(|| {
        let mut core = hub.attach(1, 0).expect("a core");
        core.join("back").expect("joined");
        wait_until("the other is there", || up.load(Ordering::SeqCst) == 1);
        for number in 0..ROUNDS {
            core.send("there", &number.to_le_bytes()).expect("sent");
            assert_eq!(next(&mut core), number);
        }
    });
    asker.join();
    let stats = hub.stats();
    println!(
        "{ROUNDS} rounds, {} times a worker did the master's work",
        stats.assisted
    );
    // Now and then one is preempted, and sends when the master has been woken by another cause.
    assert!(stats.assisted > ROUNDS, "of {} sends", 2 * ROUNDS);
    echo.kill();
    wait_until("all slots are back", || hub.stats().cores == 0);
    master.stop().expect("stopped");
}

#[test]
fn a_stream_and_a_crowd_are_the_masters_work() {
    const MESSAGES: u64 = 100_000;
    let _watchdog = Watchdog::new(4 * LONG);
    let (hub, up) = (hub(5), &shared_words(1)[0]);
    let master = hub.start().expect("a master");
    let listeners: Vec<Child> = (0..4)
        .map(|worker| {
            fork(|| {
                let mut core = hub.attach(worker, 0).expect("a core");
                core.join("stream").expect("joined");
                up.fetch_add(1, Ordering::SeqCst);
                for number in 0..=MESSAGES {
                    assert_eq!(next(&mut core), number);
                }
            })
        })
        .collect();
    let mut core = hub.attach(4, 0).expect("a core");
    wait_until("all listen", || up.load(Ordering::SeqCst) == 4);
    // Nobody but the listeners is awake: their number is too much for the sender.
    wait_until("the master has told of itself", || hub.stats().cores == 5);
    std::thread::sleep(Duration::from_millis(20));
    let before = hub.stats().assisted;
    core.send("stream", &0u64.to_le_bytes()).expect("sent");
    wait_until("it is routed", || hub.stats().deliveries >= 4);
    assert_eq!(hub.stats().assisted, before);
    for number in 1..=MESSAGES {
        let body = number.to_le_bytes();
        core.send_timeout("stream", &body, LONG).expect("sent");
    }
    listeners.into_iter().for_each(Child::join);
    let assisted = hub.stats().assisted - before;
    println!("{MESSAGES} messages in a stream, {assisted} times the sender did the master's work");
    assert!(assisted < MESSAGES / 10);
    master.stop().expect("stopped");
}

/// Numbers the messages of a sender that is killed again and again: each life goes on where the last
/// is known to have come to.
fn sender(hub: &Hub, sent: &'static AtomicU64, at: &'static AtomicU64) -> Child {
    fork(|| {
        let mut core = hub.attach(0, 0).expect("a core");
        core.join("answers").expect("joined");
        let mut number = sent.load(Ordering::SeqCst);
        loop {
            core.send("numbers", &number.to_le_bytes()).expect("sent");
            number += 1;
            sent.store(number, Ordering::SeqCst);
            at.store(1, Ordering::SeqCst);
            // An answer, or somebody who is dead or slow.
            let _ = core.recv_timeout(Duration::from_millis(20)).expect("whole");
        }
    })
}

/// What was sent by one who had returned from it is there, once, in order; what a killed one may or
/// may not have sent comes once at most.
#[test]
fn a_helper_that_is_killed_is_made_good() {
    const LIVES: u64 = 150;
    let _watchdog = Watchdog::new(4 * LONG);
    let (hub, words) = (hub(2), shared_words(32));
    let (sent, at) = (&words[0], &words[16]);
    let master = hub.start().expect("a master");
    let mut listener = hub.attach(1, 0).expect("a core");
    listener.join("numbers").expect("joined");
    let (mut due, mut twice, mut rng) = (0, 0, common::Rng::new(7));
    for _ in 0..LIVES {
        at.store(0, Ordering::SeqCst);
        let child = sender(&hub, sent, at);
        let end = Instant::now() + Duration::from_micros(1000 + rng.below(20_000));
        while at.load(Ordering::SeqCst) == 0 || Instant::now() < end {
            twice += hear(&mut listener, &mut due);
        }
        child.kill();
        // Everything that a send had returned for, and nobody has to ring for it.
        let returned = sent.load(Ordering::SeqCst);
        let start = Instant::now();
        while due < returned {
            twice += hear(&mut listener, &mut due);
            assert!(start.elapsed() < LONG, "{due} of {returned} came");
        }
    }
    let stats = hub.stats();
    println!(
        "{LIVES} lives, {due} messages, {twice} sent again after a kill, {} times a worker did the \
         master's work",
        stats.assisted
    );
    assert!(stats.assisted > LIVES && twice <= LIVES && stats.lost == 0 && stats.violations == 0);
    wait_until("all slots are back", || hub.stats().cores == 1);
    master.stop().expect("stopped");
}

/// Takes what is there and answers. A number may come again once, from the next life of a sender that
/// was killed after it was published and before it could say so.
fn hear(listener: &mut Core, due: &mut u64) -> u64 {
    let mut twice = 0;
    loop {
        let number = match listener.recv() {
            Ok(Some(message)) => u64::from_le_bytes(message.body.try_into().expect("a number")),
            Ok(None) => return twice,
            Err(RecvError::MasterGone) => panic!("a successor is awaited"),
            Err(e) => panic!("{e}"),
        };
        assert!(number == *due || number + 1 == *due, "{number} after {due}");
        twice += u64::from(number != *due);
        *due = number + 1;
        listener.send("answers", b"").expect("sent");
    }
}

/// The master is killed while workers help it: they go on helping, and a successor takes over what it
/// and they have left.
#[test]
fn masters_that_are_killed_are_followed_by_others() {
    const MASTERS: u64 = 20;
    let _watchdog = Watchdog::new(4 * LONG);
    let (hub, words) = (hub(3), shared_words(32));
    let (up, rounds) = (&words[0], &words[16]);
    let serve = || {
        fork(|| {
            let mut master = hub.master().expect("a master");
            loop {
                master.poll(Some(LONG)).expect("polled");
            }
        })
    };
    let mut master = serve();
    let _echo = echo(&hub, 0, up);
    let _asker = fork(|| {
        let mut core = hub.attach(1, 0).expect("a core");
        core.join("back").expect("joined");
        wait_until("the other is there", || up.load(Ordering::SeqCst) == 1);
        for number in 0u64.. {
            core.send("there", &number.to_le_bytes()).expect("sent");
            assert_eq!(next(&mut core), number);
            rounds.store(number, Ordering::SeqCst);
        }
    });
    for n in 0..MASTERS {
        let before = rounds.load(Ordering::SeqCst);
        wait_until("it goes on", || rounds.load(Ordering::SeqCst) > before + 20);
        std::thread::sleep(Duration::from_micros(n * 137 % 1000));
        master.kill();
        master = serve();
    }
    let before = rounds.load(Ordering::SeqCst);
    wait_until("it goes on", || rounds.load(Ordering::SeqCst) > before + 20);
    let stats = hub.stats();
    println!(
        "{MASTERS} masters killed, {} rounds, {} times a worker did the master's work",
        rounds.load(Ordering::SeqCst),
        stats.assisted
    );
    assert!(stats.assisted > 0 && stats.lost == 0 && stats.violations == 0);
}
