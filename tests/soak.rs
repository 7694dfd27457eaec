//! Soak: joins, leaves, lag, kills and re-forks for a chosen time. Nothing that the process holds
//! grows, a pair of cores loses nothing, and what the dead held comes back quickly.
//!
//! `CORECAST_SOAK=3600 cargo test --release --test soak -- --nocapture`: seconds, with progress.

// The tests' own bookkeeping across processes; not subject to the models.
#![allow(clippy::disallowed_types)]

mod common;
#[path = "storms/steady.rs"]
mod steady;

use std::time::{Duration, Instant};

use common::{Child, LONG, Rng, Watchdog, alone, fork, say, wait_until};
use corecast::{AttachError, Hub, RecvError};
use steady::{Footprint, Pair};

const WORKERS: u32 = 3;
/// Deaths that the latency is taken from.
const DEATHS: usize = 200;

fn seconds() -> u64 {
    let chosen = std::env::var("CORECAST_SOAK").ok();
    chosen.map_or(12, |n| n.parse().expect("a number of seconds"))
}

/// A worker's life: joins, sends in bursts, reads late, leaves, and sometimes ends by itself.
fn live(hub: &Hub, worker: u32, seed: u64) {
    let mut rng = Rng::new(seed);
    let mut core = loop {
        match hub.attach(worker, 0) {
            // On a busy machine a process takes its time to die of SIGKILL.
            Err(AttachError::Busy { .. }) => {}
            other => break other.expect("a core"),
        }
    };
    let body = vec![worker as u8; 20_000];
    core.join("noise").expect("joined");
    loop {
        match rng.below(40) {
            0 => drop(core.join(format!("own {worker} {}", rng.below(50)))),
            1 => drop(core.leave(format!("own {worker} {}", rng.below(50)))),
            2 => drop(core.join("noise")),
            3 => drop(core.leave_all()),
            4 => drop(core.send("noise", &body)),
            5 => std::thread::sleep(Duration::from_millis(rng.below(8))),
            6 if rng.one_in(100) => return, // detaches
            _ => {
                for _ in 0..rng.below(60) {
                    let _full = core.send("noise", &body[..rng.below(300) as usize]);
                }
            }
        }
        if rng.one_in(3) {
            while let Ok(Some(_)) | Err(RecvError::Lagged(_)) = core.recv() {}
        }
    }
}

/// Kills and replaces workers at random; returns how many deaths there were.
fn churn(hub: &Hub, pair: &mut Pair, time: Duration, before: &mut Option<Footprint>) -> u64 {
    let mut rng = Rng::new(9);
    let born = |worker: u32, seed: u64| fork(|| live(hub, worker, seed));
    let mut workers: Vec<Child> = (0..WORKERS).map(|w| born(w, w.into())).collect();
    let (start, mut deaths, mut told) = (Instant::now(), 0, 0);
    while start.elapsed() < time {
        std::thread::sleep(Duration::from_millis(rng.below(12)));
        pair.check(1 + rng.below(20));
        let worker = rng.below(WORKERS.into()) as u32;
        deaths += 1;
        if !workers[worker as usize].has_ended() {
            workers[worker as usize].kill_only();
        }
        // The successor comes before the old one has been waited for.
        workers[worker as usize] = born(worker, deaths + 100);
        if before.is_none() && start.elapsed() > time / 4 {
            *before = Some(Footprint::now());
        }
        if start.elapsed().as_secs() / 5 > told {
            told = start.elapsed().as_secs() / 5;
            let [done, all] = [start.elapsed(), time].map(|t| t.as_secs());
            say(&format!(
                "{done} of {all} s: {deaths} deaths, {:?}\n",
                Footprint::now()
            ));
        }
    }
    deaths
}

/// From the kill to the moment at which the counters show the slot as free; the router is idle.
fn reclaim_times(hub: &Hub) -> Vec<Duration> {
    let idle = hub.stats().cores;
    let mut times: Vec<Duration> = (0..DEATHS)
        .map(|_| {
            let child = fork(|| {
                let mut core = hub.attach(0, 0).expect("a core");
                core.join("short").expect("joined");
                std::thread::sleep(LONG);
            });
            wait_until("it is there", || !hub.subscribers("short").is_empty());
            std::thread::sleep(Duration::from_millis(2)); // the router falls asleep
            let killed = Instant::now();
            child.kill_only();
            while hub.stats().cores > idle {
                assert!(killed.elapsed() < LONG, "the slot does not come back");
                std::thread::sleep(Duration::from_micros(20));
            }
            killed.elapsed()
        })
        .collect();
    times.sort();
    times
}

#[test]
fn a_hub_under_churn_stays_as_it_is() {
    let _alone = alone();
    let time = Duration::from_secs(seconds());
    let _watchdog = Watchdog::new(time + 3 * LONG);
    let hub = Hub::builder().workers(WORKERS).create().expect("a hub");
    let master = hub.start().expect("a master");
    let mut pair = Pair::new(&hub);
    let mut before = None;
    let deaths = churn(&hub, &mut pair, time, &mut before);
    wait_until("all slots are free", || hub.stats().cores == 2);
    Footprint::check(before.expect("taken on the way"), "churn");
    pair.check(100);
    let stats = hub.stats();
    assert_eq!((stats.channels, stats.subscriptions), (1, 1), "{stats:?}");
    assert_eq!((stats.quarantined, stats.violations), (0, 0), "{stats:?}");
    println!("{deaths} deaths in {} s: {stats:?}", time.as_secs());
    let times = reclaim_times(&hub);
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!(
        "kill to reclaimed: p50 {:?}, p99 {:?} of {DEATHS}",
        at(50),
        at(99)
    );
    master.stop().expect("stopped");
}
