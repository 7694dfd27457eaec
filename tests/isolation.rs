//! A worker can write its own part of the region, and nothing else of it that anybody's promise
//! rests on: shown by workers that try.

// The tests' own bookkeeping across processes; not subject to the models.
#![allow(clippy::disallowed_types)]

mod common;
#[path = "isolation/history.rs"]
mod history;
#[path = "isolation/maps.rs"]
mod maps;
#[path = "isolation/scribble.rs"]
mod scribble;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::{LONG, Watchdog, alone, fork, open_fds, shared_words, wait_until};
use corecast::{AttachError, Hub, MasterError};
use history::{Stage, judge};
use maps::{all, writable};
use nix::sys::signal::Signal;

fn hub(workers: u32) -> Hub {
    Hub::builder().workers(workers).create().expect("a hub")
}

#[test]
fn a_worker_that_overwrites_all_it_can_reach_harms_nobody_else() {
    let _alone = alone();
    let _watchdog = Watchdog::new(LONG);
    let hub = Hub::builder()
        .workers(1 + history::SENDERS)
        .cores(2)
        .queue_bytes(16 << 20) // nobody honest falls behind
        .create()
        .expect("a hub");
    let master = hub.start().expect("a master");
    let stage = Stage::new();
    let honest: Vec<_> = (0..history::SENDERS)
        .map(|sender| fork(|| history::run(&hub, stage, sender)))
        .collect();
    wait_until("all are there", || stage.ready() == history::SENDERS.into());
    let (mut rounds, mut by_itself, start) = (0u64, 0, Instant::now());
    while rounds < 12 || (rounds < 40 && start.elapsed() < Duration::from_secs(4)) {
        let before = stage.stores();
        let mut offender = fork(|| scribble::run(&hub, stage, rounds));
        wait_until("it has done its worst", || {
            offender.is_over() || stage.stores() > before + scribble::STORES
        });
        // Alive for a while, then dead in the middle of it.
        by_itself += u32::from(offender.is_over());
        offender.kill();
        wait_until("its slots are free again", || hub.stats().cores == 3);
        rounds += 1;
    }
    stage.end();
    honest.into_iter().for_each(common::Child::join);
    let (verdict, stats) = (judge(&stage.logs()), hub.stats());
    println!(
        "{rounds} offenders, {by_itself} of them brought down by their own stores; {} stores; \
         violations {}, quarantined {}\n{verdict:#?}",
        stage.stores(),
        stats.violations,
        stats.quarantined
    );
    assert!(verdict.is_clean(), "{verdict:#?}");
    assert!(verdict.messages > 3_000, "{verdict:#?}");
    assert_eq!(verdict.deliveries, 3 * verdict.messages);
    assert!(stats.quarantined >= rounds / 2, "{stats:?}");
    wait_until("all is given back", || hub.stats().cores == 0);
    assert_eq!((hub.stats().subscriptions, hub.stats().channels), (0, 0));
    master.stop().expect("stopped");
}

#[test]
fn the_judge_finds_each_kind_of_damage() {
    let honest = history::forged();
    assert!(judge(&honest).is_clean());
    let spoilt = |edit: fn(&mut history::Logs)| {
        let mut logs = honest.clone();
        edit(&mut logs);
        let verdict = judge(&logs);
        assert!(!verdict.is_clean());
        verdict
    };
    assert_eq!(spoilt(|l| l.got[1].truncate(3)).lost, 1);
    assert_eq!(spoilt(|l| l.got[1].push((0, 0))).doubled, 1);
    assert!(spoilt(|l| l.got[0].swap(0, 1)).disagreements > 0);
    assert!(spoilt(|l| l.got.iter_mut().for_each(|got| got.swap(0, 3))).inversions > 0);
    assert_eq!(spoilt(|l| l.torn = 1).torn, 1);
}

#[test]
fn a_worker_can_write_its_own_part_and_the_common_one() {
    let _alone = alone();
    let _watchdog = Watchdog::new(LONG);
    let hub = hub(3);
    let _master = hub.start().expect("a master");
    assert_eq!(all().len(), 3 + 3 + 4, "the creator has everything");
    fork(|| {
        let core = hub.attach(1, 0).expect("a core");
        let (common, own, slabs) = ("corecast-common", "corecast-worker-1", "corecast-slabs");
        assert_eq!(writable(), [slabs, common, own], "of the slabs one");
        let pieces = [slabs; 3]; // what is before its own, its own, the rest
        assert_eq!(
            all(),
            [&["corecast-router"][..], &pieces, &[common, own]].concat()
        );
        let helper = hub.attach_any().expect("a helper");
        assert_eq!(writable(), [slabs, slabs, common, own, "corecast-extra-0"]);
        drop(core);
        drop(helper);
        assert_eq!(
            writable(),
            [common, own],
            "slabs and the extra slot's are given back"
        );
        let error = hub.attach(0, 0).expect_err("refused");
        assert_eq!(error, AttachError::Foreign { worker: 0 });
        assert!(hub.attach(1, 0).is_ok(), "again");
    })
    .join();
    assert_eq!(all().len(), 3 + 3 + 4);
}

#[test]
fn a_helper_has_the_parts_of_the_slots_it_holds() {
    let _alone = alone();
    let _watchdog = Watchdog::new(LONG);
    let hub = Hub::builder().workers(2).extra(2).create().expect("a hub");
    let _master = hub.start().expect("a master");
    fork(|| {
        let first = hub.attach_any().expect("a core");
        let slab = "corecast-slabs";
        assert_eq!(writable(), [slab, "corecast-common", "corecast-extra-0"]);
        let cores = [(); 3].map(|()| hub.attach_any().expect("a core"));
        let parts = writable().into_iter().filter(|name| name != slab);
        assert_eq!(parts.count(), 1 + 4, "extra slots, then those of workers");
        assert!(hub.attach_any().is_err());
        drop((first, cores));
        assert_eq!(writable(), ["corecast-common"]);
    })
    .join();
}

#[test]
fn a_process_that_has_given_parts_up_cannot_be_the_master() {
    let _alone = alone();
    let _watchdog = Watchdog::new(LONG);
    let hub = hub(2);
    fork(|| {
        let core = hub.attach_any().expect("a core");
        assert_eq!(hub.master().err(), Some(MasterError::WrongProcess));
        std::mem::forget(core); // there is no master to tell
    })
    .join();
    hub.master().expect("here it can");
}

#[test]
fn a_store_outside_its_part_ends_a_worker_and_harms_nobody() {
    let _alone = alone();
    let _watchdog = Watchdog::new(LONG);
    let hub = hub(3);
    let master = hub.start().expect("a master");
    let mut core = hub.attach(2, 0).expect("a core");
    core.join("c").expect("joined");
    let foreign = |name: &str| !name.ends_with("common") && !name.ends_with("worker-0");
    let mut faults = 0;
    for (name, range) in maps::ranges() {
        // First and last byte of each part, and of the router's part one in each tenth. Of the slabs the
        // first is its own.
        let slabs = name.ends_with("slabs");
        let step = (range.len() / 10).max(1);
        let inner = range.clone().step_by(step).skip(1 + usize::from(slabs));
        let inner = inner.take(match &*name {
            "corecast-router" => 9,
            "corecast-slabs" => 8,
            _ => 0,
        });
        let ends = [
            if slabs { range.end - 1 } else { range.start },
            range.end - 1,
        ];
        for at in ends.into_iter().chain(inner).filter(|_| foreign(&name)) {
            let signal = fork(|| {
                let _core = hub.attach(0, 0).expect("a core");
                // SAFETY: none; that is the point.
                unsafe { (at as *mut u8).write_volatile(0xa5) };
            })
            .signal_of_end();
            assert_eq!(signal, Some(Signal::SIGSEGV), "{name}");
            faults += 1;
        }
    }
    println!("{faults} stores into parts of others, {faults} times SIGSEGV");
    assert!(faults >= 2 * 7 + 9 + 8);
    core.send("c", b"unharmed").expect("sent");
    let message = core.recv_timeout(LONG).expect("ok").expect("a message");
    assert_eq!(message.body, b"unharmed");
    drop(core);
    master.stop().expect("stopped");
}

/// The off-switch, and at the same time the negative control: what the test above finds closed is
/// open here.
#[test]
fn without_isolation_a_worker_can_write_everything() {
    let _alone = alone();
    let _watchdog = Watchdog::new(LONG);
    let hub = Hub::builder().isolation(false).create().expect("a hub");
    let _master = hub.start().expect("a master");
    let range = maps::ranges().remove(0).1;
    let last = (range.end - 1) as *mut u8; // in the part of the last extra slot
    fork(|| {
        let _core = hub.attach(0, 0).expect("a core");
        assert_eq!(writable(), ["corecast"]);
        // SAFETY: mapped; nobody uses the last extra slot's lane.
        unsafe { last.write_volatile(0xa5) };
    })
    .join();
    // SAFETY: as above.
    assert_eq!(unsafe { last.read_volatile() }, 0xa5);
}

#[test]
fn mappings_and_descriptors_do_not_grow_over_a_hundred_workers() {
    let _alone = alone();
    let _watchdog = Watchdog::new(LONG);
    let hub = hub(4);
    let _master = hub.start().expect("a master");
    let seen = shared_words(2);
    let mut first = None;
    for n in 0..100u64 {
        let worker = fork(|| {
            let _core = hub.attach((n % 4) as u32, 0).expect("a core");
            seen[0].store(open_fds() as u64, Ordering::Relaxed);
            seen[1].store(all().len() as u64, Ordering::Relaxed);
            std::thread::sleep(if n % 2 == 0 { LONG } else { Duration::ZERO });
        });
        wait_until("it is there", || {
            hub.stats().joins == 0 && seen[1].swap(0, Ordering::Relaxed) > 0
        });
        worker.kill();
        wait_until("it is reaped", || hub.stats().cores == 0);
        // The master closes the pidfd a moment after it has freed the slots; until then a child
        // inherits it.
        let (own, mappings) = (open_fds(), all().len());
        let worker = seen[0].load(Ordering::Relaxed) as usize;
        let (least, same, few) = *first.get_or_insert((own, mappings, worker));
        assert!(
            own <= least + 1 && mappings == same && worker <= few + 1,
            "after {n} workers: {own}, {mappings}, {worker}"
        );
    }
    println!(
        "(descriptors, mappings of the master; descriptors of a worker): {:?}",
        first
    );
}

#[test]
fn sixty_four_workers_get_their_parts() {
    let _alone = alone();
    let _watchdog = Watchdog::new(LONG);
    let start = Instant::now();
    let hub = hub(64);
    let made = start.elapsed();
    let attached = shared_words(1);
    let _master = hub.start().expect("a master");
    let mut sum = Duration::ZERO;
    for worker in 0..64 {
        fork(|| {
            let start = Instant::now();
            let view = hub.worker(worker).expect("a worker");
            let taken = start.elapsed().as_nanos() as u64;
            attached[0].store(taken, Ordering::Relaxed);
            assert_eq!(writable().len(), 2);
            drop(view);
        })
        .join();
        sum += Duration::from_nanos(attached[0].load(Ordering::Relaxed));
    }
    println!(
        "64 workers: made in {made:?}; each gives up the others' parts in {:?}",
        sum / 64
    );
    assert_eq!(all().len(), 3 + 64 + 4);
}

/// It used to ring the bells of slots whose memory it had given up, and died of that.
#[test]
fn a_helper_that_finds_no_free_slot_is_told_so() {
    let _watchdog = Watchdog::new(LONG);
    let hub = Hub::builder().workers(1).extra(1).create().expect("a hub");
    let _master = hub.start().expect("a master");
    let _both = [(); 2].map(|()| hub.attach_any().expect("a core"));
    fork(|| {
        let error = hub.attach_any().expect_err("all are taken");
        assert_eq!(error, AttachError::NoFreeSlot { slots: 2 });
    })
    .join();
}
