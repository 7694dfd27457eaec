//! Ends: of guests, at any moment; of masters and hubs.

use super::*;
use crate::common::{alone, open_fds, say};
use nix::sys::signal::Signal;

#[test]
fn a_killed_guest_loses_its_subscriptions_and_a_successor_gets_its_seat() {
    let _watchdog = Watchdog::new(LONG);
    let _alone = alone();
    let (hub, name) = listening(|c| (c.workers, c.extra) = (1, 1));
    let _master = hub.start().expect("a master");
    let (before, words) = (open_fds(), shared_words(1));
    for round in 1..=30 {
        let child = fork(|| {
            // The only seat but for the extra slot, which stays free: the last one's is waited for.
            let hub = guest(&name);
            let mut core = hub.attach_any().expect("a core");
            core.join("news").expect("joined");
            core.send("news", b"hello").expect("sent");
            assert_eq!(next(&mut core).body, b"hello");
            words[0].store(round, Ordering::SeqCst);
            std::thread::park();
        });
        reaches(&words[0], round);
        assert_eq!(hub.subscribers("news").len(), 1);
        child.kill();
        wait_until("it is gone", || hub.stats().cores == 0);
        assert_eq!((hub.stats().reaped, hub.stats().subscriptions), (round, 0));
    }
    wait_until("the descriptors are closed", || open_fds() == before);
}

#[test]
fn a_seat_is_free_when_its_hub_and_cores_are_dropped_though_the_process_lives() {
    let _watchdog = Watchdog::new(LONG);
    let (hub, name) = listening(one_seat);
    let _master = hub.start().expect("a master");
    fork(|| {
        let before = mappings(); // inherited: this child was forked when the hub was there
        for _ in 0..20 {
            let hub = guest(&name);
            let mut core = hub.attach_any().expect("a core");
            drop(hub);
            core.join("news").expect("the core keeps the seat");
            drop(core);
            assert_eq!(mappings(), before);
        }
    })
    .join();
    wait_until("the last is gone", || hub.stats().cores == 0);
    assert_eq!(hub.stats().reaped, 0, "they detached");
}

/// The seat is not given twice; who comes too late is told how many there are.
#[test]
fn a_full_hub_says_so_and_takes_who_comes_after_somebody_left() {
    let _watchdog = Watchdog::new(LONG);
    let (hub, name) = listening(|_| {});
    let _master = hub.start().expect("a master");
    fork(|| {
        let mut hubs: Vec<Hub> = (0..3).map(|_| guest(&name)).collect();
        let full = Hub::connect(&name, LONG).expect_err("full");
        assert_eq!(full, ConnectError::NoFreeSeat { seats: 3 });
        let left = hubs.swap_remove(1).seat();
        assert_eq!(guest(&name).seat(), left);
    })
    .join();
}

/// Whatever a guest was doing when it was killed, the hub is as before, and the next one gets in.
#[test]
fn guests_killed_at_random_moments_of_the_handshake_leave_nothing_behind() {
    let _watchdog = Watchdog::new(LONG);
    let _alone = alone();
    let (hub, name) = listening(|_| {});
    let _master = hub.start().expect("a master");
    let (before, words) = (open_fds(), shared_words(2));
    let mut in_time = 0;
    for round in 0..200u64 {
        words[0].store(0, Ordering::SeqCst);
        let child = fork(|| {
            words[0].store(1, Ordering::SeqCst);
            loop {
                let hub = guest(&name);
                let mut core = hub.attach_any().expect("a core");
                core.join("news").expect("joined");
                words[1].fetch_add(1, Ordering::SeqCst);
            }
        });
        reaches(&words[0], 1);
        // The moments spread over several handshakes (a few hundred microseconds each).
        std::thread::sleep(Duration::from_micros(round * 2_654_435_761 % 2500));
        child.kill();
        in_time += u64::from(words[1].swap(0, Ordering::SeqCst) > 0);
    }
    say(&format!(
        "of 200 guests {in_time} came in at least once before they were killed\n"
    ));
    wait_until("all slots are free", || hub.stats().cores == 0);
    wait_until("the descriptors are closed", || open_fds() == before);
    assert_eq!(hub.subscribers("news"), []);
    fork(|| (0..3).map(|_| guest(&name)).for_each(std::mem::forget)).join();
}

#[test]
fn a_hub_that_ends_is_noticed_and_one_that_has_ended_is_not_found() {
    let _watchdog = Watchdog::new(LONG);
    let (name, words) = (name("ends"), shared_words(1));
    let guest = {
        let name = name.clone();
        fork(move || {
            let hub = guest(&name);
            let mut core = hub.attach_any().expect("a core");
            words[0].store(1, Ordering::SeqCst);
            wait_until("the master is gone", || {
                core.send("x", b"") == Err(SendError::MasterGone)
            });
            assert_eq!(Hub::connect(&name, LONG).err(), Some(ConnectError::Nobody));
        })
    };
    let host = {
        let name = name.clone();
        fork(move || {
            let _hub_and_master = serving(&name, |_| {});
            std::thread::park();
        })
    };
    reaches(&words[0], 1);
    host.kill();
    guest.join();
}

#[test]
fn a_hub_without_a_running_master_makes_guests_time_out() {
    let (hub, name) = listening(|_| {});
    let short = Duration::from_millis(30);
    assert_eq!(
        Hub::connect(&name, short).err(),
        Some(ConnectError::Timeout)
    );
    drop(hub);
    let ever = Duration::MAX;
    assert_eq!(Hub::connect(&name, ever).err(), Some(ConnectError::Nobody));
}

/// Another master in the same process goes on with the guests and the socket of the last.
#[test]
fn the_next_master_of_the_process_keeps_the_guests_and_takes_more() {
    let _watchdog = Watchdog::new(LONG);
    let (hub, name) = listening(|c| c.await_successor = true);
    let words = shared_words(1);
    let first = hub.start().expect("a master");
    let child = fork(|| {
        let hub = guest(&name);
        let mut core = hub.attach_any().expect("a core");
        core.join("news").expect("joined");
        words[0].store(1, Ordering::SeqCst);
        reaches(&words[0], 2);
        core.send("news", b"still here").expect("sent");
        assert_eq!(next(&mut core).body, b"still here");
        drop(guest(&name));
        words[0].store(3, Ordering::SeqCst);
        std::thread::park();
    });
    reaches(&words[0], 1);
    first.stop().expect("stopped");
    let _second = hub.start().expect("the next master");
    words[0].store(2, Ordering::SeqCst);
    reaches(&words[0], 3);
    child.kill();
    wait_until("its slots are free", || hub.stats().cores == 0);
}

/// A process that was forked while the hub listened becomes the master, and serves its socket.
#[test]
fn a_successor_that_inherited_the_socket_goes_on_listening() {
    let _watchdog = Watchdog::new(LONG);
    let (name, words) = (name("heir"), shared_words(1));
    let guest = {
        let name = name.clone();
        fork(move || {
            let hub = guest(&name);
            let mut core = hub.attach_any().expect("a core");
            core.join("news").expect("joined");
            words[0].store(1, Ordering::SeqCst);
            reaches(&words[0], 2);
            let mut other = super::guest(&name).attach_any().expect("a core");
            other.send("news", b"hello").expect("sent");
            assert_eq!(next(&mut core).body, b"hello");
        })
    };
    let hub = small(|c| c.await_successor = true);
    hub.listen(Some(&name), 0).expect("listens");
    let master = fork(|| {
        let _master = hub.start().expect("a master");
        std::thread::park();
    });
    reaches(&words[0], 1);
    master.kill();
    let _successor = hub.start().expect("the last one is dead");
    words[0].store(2, Ordering::SeqCst);
    guest.join();
    wait_until("all have gone", || hub.stats().cores == 0);
}

/// The master is in a pid namespace of its own, and cannot see the guest's process at all: the end
/// of the connection is the only evidence.
#[test]
fn where_pids_cannot_be_seen_the_connection_tells_of_the_death() {
    let _watchdog = Watchdog::new(LONG);
    let (name, words) = (name("unseen"), shared_words(1));
    let host = {
        let name = name.clone();
        fork(move || {
            // SAFETY: no memory is involved.
            if unsafe { libc::unshare(libc::CLONE_NEWPID) } != 0 {
                say("skipped: no new pid namespace is permitted here\n");
                words[0].store(100, Ordering::SeqCst);
                return;
            }
            fork(|| {
                let (hub, _master) = serving(&name, one_seat);
                reaches(&words[0], 1);
                assert_eq!((hub.stats().cores, hub.subscribers("news").len()), (1, 1));
                words[0].store(2, Ordering::SeqCst);
                wait_until("it is reaped", || hub.stats().cores == 0);
                assert_eq!((hub.stats().reaped, hub.subscribers("news").len()), (1, 0));
                reaches(&words[0], 3); // and its successor has the only seat
            })
            .join();
        })
    };
    let enter = |value: u64| {
        let name = name.clone();
        move || {
            let hub = guest(&name);
            let mut core = hub.attach_any().expect("a core");
            core.join("news").expect("joined");
            words[0].store(value, Ordering::SeqCst);
            std::thread::park();
        }
    };
    let guest = fork(enter(1));
    wait_until("it is in", || words[0].load(Ordering::SeqCst) >= 2);
    guest.signal(Signal::SIGKILL);
    drop(guest);
    let successor = (words[0].load(Ordering::SeqCst) == 2).then(|| fork(enter(3)));
    host.join();
    drop(successor);
}
