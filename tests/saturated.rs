//! A master that always has something to route still sees deaths, and still comes back.
//!
//! Two of these need the router's hooks, which debug builds alone have: that is what `make test` runs.

mod common;

use std::time::Duration;

use common::{Watchdog, is_readable};
#[cfg(debug_assertions)]
use common::{fork, wait_until};
#[cfg(debug_assertions)]
use corecast::Sabotage;
use corecast::{Config, Hub};

/// The master once worked until nothing moved, which under full load is never: a dead worker kept
/// its slot, a stopping thread hung, a host did not get control back.
#[cfg(debug_assertions)]
#[test]
fn a_saturated_master_comes_back_and_sees_deaths() {
    let _watchdog = Watchdog::new(Duration::from_secs(60));
    let hub = Hub::builder().workers(2).create().expect("a hub");
    let mut master = hub.master().expect("a master");
    let child = fork(|| {
        let mut core = hub.attach(0, 0).expect("a core");
        core.join("held").expect("joined");
        loop {
            std::thread::sleep(Duration::from_secs(60));
        }
    });
    wait_until("the child has joined", || {
        master.poll(Some(Duration::ZERO)).expect("polled");
        !hub.subscribers("held").is_empty()
    });
    // Full load, made exact: whenever the router has looked at a lane, there is more.
    let mut core = hub.attach(1, 0).expect("a core");
    core.send("flood", b"the first").expect("sent");
    master.sabotage(Sabotage {
        cut_without_draw: true, // takes the way on which the hook runs
        between_tails: Some(Box::new(move || core.send("flood", b"more").expect("sent"))),
        ..Sabotage::default()
    });
    child.kill();
    wait_until("the death is seen", || {
        master.poll(Some(Duration::ZERO)).expect("polled");
        hub.stats().reaped == 1
    });
    assert!(hub.subscribers("held").is_empty());
}

/// A message sent between the router's cut and its look at the lane waits for the next pass. When
/// there was nothing else, the master took that for idleness, and slept, up to a second, on a
/// message whose sender had not been asked to ring.
#[cfg(debug_assertions)]
#[test]
fn a_master_does_not_sleep_on_what_came_after_its_cut() {
    let _watchdog = Watchdog::new(Duration::from_secs(60));
    let hub = Hub::builder().workers(3).create().expect("a hub");
    let mut master = hub.master().expect("a master");
    let mut cores: Vec<_> = (0..3).map(|w| hub.attach(w, 0).expect("a core")).collect();
    let mut to = cores.remove(0);
    let ticket = to.join_async("room").expect("asked");
    master.poll(Some(Duration::ZERO)).expect("polled");
    to.join_result(ticket).expect("answered").expect("joined");
    for core in &mut cores {
        core.send("room", b"first").expect("sent");
    }
    // Tails are read lane by lane, the last core's after all others': it sends just before that, in
    // the first pass that finds nothing else.
    let (mut last, mut looks, lanes) = (cores.pop().expect("a core"), 0, cores.len() + 1);
    master.sabotage(Sabotage {
        between_tails: Some(Box::new(move || {
            looks += 1;
            if looks == lanes + 1 {
                last.send("room", b"second").expect("sent");
            }
        })),
        ..Sabotage::default()
    });
    master.poll(Some(Duration::ZERO)).expect("polled");
    let mut heard = 0;
    while to.recv().expect("no loss").is_some() {
        heard += 1;
    }
    assert_eq!(heard, 3, "asleep on it: readable {}", is_readable(&master));
}

/// The master looks at its descriptors once in 256 passes. It once took that interruption for
/// idleness, and slept, up to a second, on records that it had seen and not yet delivered.
#[test]
fn a_master_interrupted_in_a_backlog_does_not_sleep_on_it() {
    let _watchdog = Watchdog::new(Duration::from_secs(60));
    let mut config = Config::default();
    // More than 256 passes of 128 KiB.
    (config.workers, config.lane_bytes) = (1, 64 << 20);
    let hub = Hub::create(&config).expect("a hub");
    let mut master = hub.master().expect("a master");
    let mut core = hub.attach(0, 0).expect("a core");
    let (body, backlog) = (vec![7; 32 << 10], 1500);
    for _ in 0..backlog {
        core.send("nobody", &body).expect("room in the lane");
    }
    let mut routed = master.poll(Some(Duration::ZERO)).expect("polled");
    assert!(routed < backlog, "no interruption: the test shows nothing");
    while routed < backlog {
        assert!(is_readable(&master), "asleep after {routed} of {backlog}");
        routed += master.poll(Some(Duration::ZERO)).expect("polled");
    }
    assert_eq!(routed, backlog);
    assert_eq!(master.poll(Some(Duration::ZERO)), Ok(0));
    assert!(!is_readable(&master), "nothing is left to do");
}
