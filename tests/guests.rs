//! Processes that did not inherit a hub and come by its socket: what they can do, what their ends
//! leave behind, and what peers that mean no good can do to the master.
//!
//! Guests are forked before the hub is made, so that they have nothing of it but what comes through
//! the socket. `tests/c/spawned.c` does the same with exec.

// The tests' own bookkeeping across processes; not subject to the models.
#![allow(clippy::disallowed_types)]

mod common;
#[path = "guests/ends.rs"]
mod ends;
#[path = "guests/peers.rs"]
mod peers;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::{Child, LONG, Watchdog, fork, shared_words, wait_until};
use corecast::{
    AttachError, Config, ConnectError, Core, Hub, ListenError, MasterThread, Message, SendError,
};

/// A small hub: two workers, an extra slot, or as `edit` says.
fn small(edit: impl FnOnce(&mut Config)) -> Hub {
    let mut config = Config::default();
    (config.workers, config.extra, config.channels) = (2, 1, 64);
    edit(&mut config);
    Hub::create(&config).expect("a hub")
}

/// One that listens for workers of all indices, and its socket's name.
fn listening(edit: impl FnOnce(&mut Config)) -> (Hub, String) {
    let hub = small(edit);
    let name = hub.listen(None, 0).expect("listens");
    (hub, name)
}

/// One that listens at `name` and has a master.
fn serving(name: &str, edit: impl FnOnce(&mut Config)) -> (Hub, MasterThread) {
    let hub = small(edit);
    let master = hub.start().expect("a master");
    assert_eq!(hub.listen(Some(name), 0).as_deref(), Ok(name));
    (hub, master)
}

/// For `small`: no more than one worker and no extra slot.
fn one_seat(config: &mut Config) {
    (config.workers, config.extra) = (1, 0);
}

/// A name of this test's own, for hubs that are made after their guests.
fn name(of: &str) -> String {
    format!("@corecast-test-{of}-{}", std::process::id())
}

/// A guest of the hub at `name`, which may not listen yet.
fn guest(name: &str) -> Hub {
    loop {
        match Hub::connect(name, LONG) {
            Err(ConnectError::Nobody) => std::thread::sleep(Duration::from_millis(1)),
            other => return other.expect("a seat"),
        }
    }
}

fn next(core: &mut Core) -> Message<'_> {
    core.recv_timeout(LONG).expect("received").expect("in time")
}

/// Waits until the counter is there.
fn reaches(word: &AtomicU64, value: u64) {
    let what = format!("{value} is reached");
    wait_until(&what, || word.load(Ordering::SeqCst) >= value);
}

/// Mappings of hubs in this process: (read-only, writable).
fn mappings() -> (usize, usize) {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("procfs");
    let all = maps.lines().filter(|line| line.contains("memfd:corecast"));
    let (writable, read): (Vec<&str>, Vec<&str>) = all.partition(|line| line.contains(" rw-s "));
    assert!(read.iter().all(|line| line.contains(" r--s ")), "{read:?}");
    (read.len(), writable.len())
}

#[test]
fn guests_talk_to_each_other_and_have_the_memory_of_a_worker() {
    let _watchdog = Watchdog::new(LONG);
    let (name, words) = (name("talk"), shared_words(1));
    let guests: Vec<Child> = (0..2u8)
        .map(|_| {
            let name = name.clone();
            fork(move || {
                assert_eq!(mappings(), (0, 0), "nothing is inherited");
                let hub = guest(&name);
                assert_eq!(
                    mappings(),
                    (2, 2),
                    "the router's and the slabs; the tickets and its own"
                );
                let mut core = hub.attach_any().expect("a core");
                assert_eq!(Some(core.me()), hub.seat());
                core.join("all").expect("joined");
                words[0].fetch_add(1, Ordering::SeqCst);
                reaches(&words[0], 2);
                let me = core.worker();
                core.send("all", &[me as u8]).expect("sent");
                let mut heard: Vec<u8> = (0..2).map(|_| next(&mut core).body[0]).collect();
                heard.sort_unstable();
                assert_eq!(heard, [0, 1]);
                assert!(matches!(
                    hub.master(),
                    Err(corecast::MasterError::WrongProcess)
                ));
                assert_eq!(hub.worker_died(0), Err(AttachError::WrongProcess));
                assert_eq!(hub.listen(None, 0), Err(ListenError::WrongProcess));
                assert!(hub.handoff().is_err());
                let other = hub.attach(1 - me, 0).expect_err("another's");
                assert_eq!(other, AttachError::Foreign { worker: 1 - me });
            })
        })
        .collect();
    let (hub, master) = serving(&name, |_| {});
    assert_eq!(hub.listen(None, 0), Err(ListenError::Listening));
    guests.into_iter().for_each(Child::join);
    master.stop().expect("stopped");
}

#[test]
fn a_stray_store_of_a_guest_into_anothers_part_ends_it_alone() {
    let _watchdog = Watchdog::new(LONG);
    let name = name("stray");
    let stray = {
        let name = name.clone();
        fork(move || {
            let hub = guest(&name);
            let _core = hub.attach_any().expect("a core");
            let maps = std::fs::read_to_string("/proc/self/maps").expect("procfs");
            let router = maps.lines().find(|line| line.contains("corecast-router"));
            let start = router
                .and_then(|line| line.split_once('-'))
                .expect("mapped")
                .0;
            let at = usize::from_str_radix(start, 16).expect("an address");
            // SAFETY: none: this is the stray store; it faults.
            unsafe { std::ptr::with_exposed_provenance_mut::<u8>(at + 8192).write_volatile(1) };
        })
    };
    let (hub, _master) = serving(&name, one_seat);
    assert_eq!(
        stray.signal_of_end(),
        Some(nix::sys::signal::Signal::SIGSEGV)
    );
    wait_until("its slot is free", || hub.stats().cores == 0);
}

#[test]
fn a_seat_of_many_cores_needs_more_descriptors_than_one_packet_carries() {
    let _watchdog = Watchdog::new(LONG);
    let (hub, name) = listening(|c| (c.workers, c.cores, c.extra) = (1, 300, 0));
    let _master = hub.start().expect("a master");
    fork(|| {
        let hub = guest(&name);
        let mut cores: Vec<Core> = (0..300)
            .map(|c| hub.attach(0, c).expect("a core"))
            .collect();
        cores[299].join("all").expect("joined");
        cores[0].send("all", b"from afar").expect("sent");
        let message = next(&mut cores[299]);
        assert_eq!((message.body, message.sender.core), (&b"from afar"[..], 0));
        let error = hub.attach_any().expect_err("all are attached");
        assert_eq!(error, AttachError::NoFreeSlot { slots: 300 });
    })
    .join();
}

#[test]
fn without_isolation_there_is_one_memory() {
    let _watchdog = Watchdog::new(LONG);
    let (hub, name) = listening(|c| c.isolation = false);
    let _master = hub.start().expect("a master");
    let mut here = hub.attach(1, 0).expect("a core");
    here.join("all").expect("joined");
    fork(|| {
        let hub = guest(&name);
        let mut core = hub.attach_any().expect("a core");
        core.send("all", b"hello").expect("sent");
    })
    .join();
    assert_eq!(next(&mut here).body, b"hello");
}

#[test]
fn seats_are_the_workers_from_the_first_given_on_and_then_the_extra_slots() {
    let _watchdog = Watchdog::new(LONG);
    let hub = small(|c| (c.cores, c.extra) = (2, 2));
    let name = hub.listen(None, 1).expect("listens");
    let _master = hub.start().expect("a master");
    fork(|| {
        let hubs: Vec<Hub> = (0..3).map(|_| guest(&name)).collect();
        let seats = hubs.iter().map(|hub| hub.seat().expect("a guest"));
        let seats: Vec<(u32, u32)> = seats.map(|seat| (seat.worker, seat.core)).collect();
        assert_eq!(seats, [(1, 0), (2, 0), (2, 1)]);
        let full = Hub::connect(&name, LONG).expect_err("worker 0 is not for guests");
        assert_eq!(full, ConnectError::NoFreeSeat { seats: 3 });
        let mut extra = hubs[2].attach_any().expect("its only core");
        let mut first = hubs[0].attach(1, 1).expect("a core");
        extra.join("all").expect("joined");
        first.send("all", b"hello").expect("sent");
        assert_eq!(next(&mut extra).sender, first.me());
    })
    .join();
}

#[test]
fn a_master_that_the_host_polls_serves_guests_too() {
    let _watchdog = Watchdog::new(LONG);
    let (hub, name) = listening(|_| {});
    let mut master = hub.master().expect("a master");
    let mut child = fork(|| {
        let hub = guest(&name);
        let mut core = hub.attach_any().expect("a core");
        core.join("all").expect("joined");
        core.send("all", b"to myself").expect("sent");
        assert_eq!(next(&mut core).body, b"to myself");
    });
    while !child.has_ended() {
        master.poll(Some(Duration::from_millis(5))).expect("polled");
    }
}

#[test]
fn who_forks_after_connecting_connects_again_in_the_child() {
    let _watchdog = Watchdog::new(LONG);
    let (hub, name) = listening(|_| {});
    let _master = hub.start().expect("a master");
    fork(|| {
        let hub = guest(&name);
        let mut core = hub.attach_any().expect("a core");
        core.join("all").expect("joined");
        let parent = std::process::id();
        fork(|| {
            assert_eq!(core.send("all", b"x"), Err(SendError::WrongProcess));
            let forked = AttachError::ForkedGuest { parent };
            assert_eq!(hub.attach_any().err(), Some(forked));
            assert_eq!(hub.worker(0).err(), Some(forked));
            let own = guest(&name);
            assert_ne!(own.seat(), hub.seat());
            let mut core = own.attach_any().expect("a core");
            core.send("all", b"from the child").expect("sent");
        })
        .join();
        assert_eq!(next(&mut core).body, b"from the child");
    })
    .join();
}

#[test]
fn names_that_cannot_be_are_refused_with_the_reason() {
    let hub = small(one_seat);
    for name in ["", "@", "no-slash"] {
        let error = hub.listen(Some(name), 0).expect_err("no name");
        assert!(error.to_string().contains("begins with @"), "{error}");
        let error = Hub::connect(name, LONG).expect_err("no name");
        assert!(error.to_string().contains("begins with @"), "{error}");
    }
    let long = format!("@{}", "x".repeat(200));
    let error = hub.listen(Some(&long), 0).expect_err("too long");
    assert!(
        error.to_string().contains("201 bytes; at most 107"),
        "{error}"
    );
    let error = hub.listen(None, 1).expect_err("no seats");
    let (first_worker, workers) = (1, 1);
    assert_eq!(
        error,
        ListenError::NoSeats {
            first_worker,
            workers
        }
    );
    let taken = hub.listen(None, 0).expect("listens");
    let other = small(one_seat);
    assert_eq!(other.listen(Some(&taken), 0), Err(ListenError::Taken));
}

#[test]
fn a_socket_file_goes_with_its_hub_and_one_left_over_is_replaced() {
    let _watchdog = Watchdog::new(LONG);
    let folder = std::env::temp_dir().join(format!("corecast-guests-{}", std::process::id()));
    std::fs::create_dir(&folder).expect("a folder");
    let path = folder.join("hub.sock");
    let name = path.to_str().expect("text").to_owned();
    let make = || small(one_seat);
    fork(|| {
        let left = make();
        left.listen(Some(&name), 0).expect("listens");
        let hub = make();
        assert_eq!(
            hub.listen(Some(&name), 0),
            Err(ListenError::Taken),
            "it is alive"
        );
        // SAFETY: ends the process as a kill would, without destructors.
        unsafe { libc::_exit(0) };
    })
    .join();
    assert!(path.exists());
    assert_eq!(Hub::connect(&name, LONG).err(), Some(ConnectError::Nobody));
    let hub = make();
    hub.listen(Some(&name), 0)
        .expect("the leftover is replaced");
    let _master = hub.start().expect("a master");
    fork(|| drop(guest(&name))).join();
    drop(_master);
    drop(hub);
    assert!(!path.exists());
    // A file that is no socket is left alone.
    std::fs::write(&path, b"mine").expect("written");
    assert_eq!(make().listen(Some(&name), 0), Err(ListenError::Taken));
    assert_eq!(std::fs::read(&path).expect("still there"), b"mine");
    std::fs::remove_dir_all(&folder).expect("removed");
}
