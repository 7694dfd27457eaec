//! A worker gone wild: overwrites all of the region that it can write.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use corecast::{Core, Hub};

use super::common::Rng;
use super::history::{CHANNEL, Stage};
use super::maps::writable_ranges;

/// Stores of one life, at least, if it lives that long.
pub const STORES: u64 = 60_000;

/// Bytes at the start of each part that its words are in.
const WORDS: usize = 3 * 4096;

/// Life number `round`: an honest beginning, then random stores, and calls in between, until it is
/// killed.
pub fn run(hub: &Hub, stage: Stage, round: u64) {
    let mut cores: Vec<Core> = (0..1 + round % 2)
        .map(|core| hub.attach(0, core as u32).expect("a core"))
        .collect();
    for core in &mut cores {
        core.join(CHANNEL).expect("joined");
        core.send(CHANNEL, b"honest so far").expect("sent");
    }
    let mut rng = Rng::new(4711 + round);
    let targets = writable_ranges();
    // Side by side, two slabs are one.
    assert_eq!(targets.len(), 3, "its slabs, the common part and its own");
    loop {
        for _ in 0..100 {
            let target = &targets[rng.below(3) as usize];
            store(&mut rng, target);
            stage.stored();
        }
        if !rng.one_in(10) {
            continue; // it must not flood the others' queues
        }
        // Whatever comes of them is its own loss.
        let core = &mut cores[0];
        let _ = catch_unwind(AssertUnwindSafe(|| {
            let _ = core.send(CHANNEL, b"no longer honest");
            let _ = core.recv();
        }));
        if rng.one_in(20) {
            std::thread::sleep(Duration::from_micros(300));
        }
    }
}

/// One to 64 random bytes; every other time where the words are, or zeros.
fn store(rng: &mut Rng, target: &Range<usize>) {
    let len = 1 << rng.below(7);
    let end = if rng.one_in(2) {
        target.end
    } else {
        target.end.min(target.start + WORDS)
    };
    let at = target.start + rng.below((end - target.start - len) as u64) as usize;
    let zeros = rng.one_in(8);
    for i in 0..len {
        let byte = if zeros { 0 } else { rng.next() as u8 };
        // SAFETY: mapped writable, as procfs says. That others use it is the point.
        unsafe { ((at + i) as *mut u8).write_volatile(byte) };
    }
}
