//! Messages that are read where their sender wrote them: in its slab, which it uses again when nobody
//! reads there any more.

use super::misdeeds::{join, settle};
use super::{Router, Standing};
use crate::arena::GRANULE;
use crate::clock::realtime_nanos;
use crate::memory::Memory;
use crate::record::{HEADER, Header, Placed, kind};
use crate::{Core, Hub};

/// Bytes of a message that takes three granules.
const LARGE: usize = 3 * GRANULE - 100;
/// Granules of a slab: it has room for five of those.
const SLAB: usize = 16;

/// A hub of `workers` and their cores, all of them in "room", and its router.
fn hub(workers: u32) -> (Hub, Router, Vec<Core>) {
    let hub = Hub::builder()
        .workers(workers)
        .extra(0)
        .channels(4)
        .slab_bytes(SLAB * GRANULE)
        .create()
        .expect("a hub");
    drop(hub.inner.router.lock().take());
    let mut router = Router::new(hub.inner.view.clone(), realtime_nanos, Memory::Own);
    let cores = (0..workers).map(|worker| {
        let mut core = hub.attach(worker, 0).expect("a core");
        join(&mut core, &mut router, "room");
        assert_eq!(core.recv(), Ok(None));
        core
    });
    let cores = cores.collect();
    (hub, router, cores)
}

/// The next message: where its body is, and the byte that it is full of.
fn next(core: &mut Core) -> (usize, u8) {
    let message = core.recv().expect("nothing lost").expect("a message");
    assert_eq!((message.name, message.body.len()), (&b"room"[..], LARGE));
    let first = message.body[0];
    assert!(message.body.iter().all(|&b| b == first), "torn");
    (message.body.as_ptr().addr(), first)
}

/// Whether that is in the slab of a slot.
fn is_in_slab(hub: &Hub, slot: usize, at: usize) -> bool {
    let start = hub.inner.view.slab(slot).addr();
    (start..start + SLAB * GRANULE).contains(&at)
}

#[test]
fn all_read_what_the_sender_wrote_and_then_it_writes_there_again() {
    let (hub, mut router, mut cores) = hub(3);
    let mut places = Vec::new();
    for number in 0..1000u32 {
        let (sender, listeners) = cores.split_first_mut().expect("three");
        if number % 2 == 0 {
            let sent = sender.send("room", &[number as u8; LARGE]);
            sent.expect("room");
        } else {
            let mut loan = sender.loan("room", LARGE).expect("room");
            loan.fill(number as u8);
            loan.send();
        }
        router.step();
        let read = listeners.iter_mut().map(next).collect::<Vec<_>>();
        assert_eq!(read[0].1, number as u8);
        assert!(read[0] == read[1] && is_in_slab(&hub, 0, read[0].0));
        assert_eq!(next(sender), read[0], "it has joined, too");
        places.push(read[0].0);
    }
    places.sort_unstable();
    places.dedup();
    assert!(places.len() <= 3, "{} places", places.len());
    let stats = router.stats;
    assert_eq!((stats.shared, stats.deliveries), (1000, 3000));
}

#[test]
fn while_a_slab_is_full_messages_are_copied() {
    let (hub, mut router, mut cores) = hub(2);
    let mut send_and_look = |cores: &mut Vec<Core>, count: u8| {
        for number in 0..count {
            let sent = cores[0].send("room", &[number; LARGE]);
            sent.expect("room");
            router.step();
            next(&mut cores[0]);
        }
        (0..count)
            .map(|number| {
                let (at, first) = next(&mut cores[1]);
                assert_eq!(first, number);
                is_in_slab(&hub, 0, at)
            })
            .collect::<Vec<_>>()
    };
    // The other one reads none of them before the last is sent.
    let placed = send_and_look(&mut cores, 8);
    assert_eq!(placed, [true, true, true, true, true, false, false, false]);
    assert_eq!(cores[1].recv(), Ok(None));
    let placed = send_and_look(&mut cores, 1);
    assert_eq!(placed, [false], "the router has not noticed yet");
    assert_eq!(send_and_look(&mut cores, 3), [true; 3]);
}

#[test]
fn what_nobody_reads_comes_back_at_once() {
    let (_hub, mut router, mut cores) = hub(1);
    let core = &mut cores[0];
    let silence = std::thread::scope(|scope| {
        let asks = scope.spawn(|| core.channel("silence"));
        while !asks.is_finished() {
            router.step();
        }
        asks.join().expect("no panic").expect("a channel")
    });
    let mut places = Vec::new();
    for _ in 0..100 {
        let loan = core.loan_to(silence, LARGE).expect("room");
        places.push(loan.as_ptr());
        loan.send();
        router.step();
    }
    assert!(places.iter().all(|&place| place == places[0]));
    assert_eq!(router.stats.unheard, 100);
}

#[test]
fn what_a_dead_sender_has_placed_is_not_its_successors() {
    let (hub, mut router, mut cores) = hub(2);
    for number in 0..3 {
        let sent = cores[0].send("room", &[number; LARGE]);
        sent.expect("room");
    }
    router.step();
    std::mem::forget(cores.remove(0)); // its process is dead, so nobody detaches
    let mut listener = cores.remove(0);
    let first = next(&mut listener);
    router.reap(0);
    settle(&mut router);
    assert_eq!(router.lanes[0].standing, Standing::Free);
    let mut heir = hub.attach(0, 0).expect("a core");
    settle(&mut router);
    // Room for two, and then there is none.
    for number in 10..20 {
        heir.send("room", &[number; LARGE]).expect("room");
        router.step();
    }
    let rest: Vec<_> = (0..12).map(|_| next(&mut listener)).collect();
    let numbers = rest.iter().map(|read| read.1);
    assert!(first.1 == 0 && numbers.eq([1, 2].into_iter().chain(10..20)));
    let in_slab = rest.iter().filter(|read| is_in_slab(&hub, 0, read.0));
    assert_eq!(in_slab.count(), 2 + 2);
    // All of it comes back, the dead one's too.
    assert_eq!(listener.recv(), Ok(None));
    for number in 0..70 {
        heir.send("room", &[number; LARGE]).expect("room");
        settle(&mut router);
        next(&mut listener);
        assert_eq!(listener.recv(), Ok(None));
    }
    // But for what was read last, which the router has not noticed yet.
    let sent = [7, 8, 9, 10].map(|number| {
        heir.send("room", &[number; LARGE]).expect("room");
        number
    });
    settle(&mut router);
    for number in sent {
        let (at, first) = next(&mut listener);
        assert_eq!((first, is_in_slab(&hub, 0, at)), (number, true));
    }
}

#[test]
fn a_successor_knows_what_is_out() {
    let (hub, mut router, mut cores) = hub(2);
    for number in 0..3 {
        let sent = cores[0].send("room", &[number; LARGE]);
        sent.expect("room");
        router.step();
    }
    let view = || hub.inner.view.clone();
    let (first, own) = (next(&mut cores[1]), next(&mut cores[0]));
    assert!(first.1 == 0 && own == first);
    let mut router = Router::adopt(view(), realtime_nanos, Memory::Own);
    (0..2).for_each(|slot| router.look_at(slot));
    for number in 3..13 {
        let sent = cores[0].send("room", &[number; LARGE]);
        sent.expect("room");
        router.step();
    }
    for number in 1..13 {
        assert_eq!(next(&mut cores[1]).1, number);
        assert_eq!(next(&mut cores[0]).1, number);
    }
    for core in &mut cores {
        assert_eq!(core.recv(), Ok(None));
    }
    // And the next one that nothing is.
    let mut router = Router::adopt(view(), realtime_nanos, Memory::Own);
    (0..2).for_each(|slot| router.look_at(slot));
    for number in 0..5 {
        let sent = cores[0].send("room", &[number; LARGE]);
        sent.expect("room");
    }
    router.step();
    for number in 0..5 {
        let (at, first) = next(&mut cores[1]);
        assert_eq!((first, is_in_slab(&hub, 0, at)), (number, true));
    }
}

/// A place that no correct sender names: its lane is no longer read, and nobody reads there.
#[test]
fn a_place_outside_of_the_slab_is_found_out() {
    let slab = (SLAB * GRANULE) as u64;
    for (offset, len) in [
        (slab, 8192),
        (!4095, 8192),
        (0, slab + 1),
        (slab - 4096, 8192),
        (4096, u64::MAX),
        (16, 8192),
        (0, 100),
        (0, 0),
    ] {
        let (hub, mut router, mut cores) = hub(2);
        let view = &hub.inner.view;
        cores[0].send("room", b"by the book").expect("room");
        settle(&mut router);
        let tail = view.lane_word(0).tail();
        let channel = view.directory.find(b"room").expect("it is in use").index;
        // SAFETY: the lane has more room than that, and this is its only writer.
        unsafe {
            let at = view.ring(0).add(tail as usize);
            Header::new(kind::PLACED, 0, channel, Placed::BYTES, view.tickets.peek()).write(at);
            Placed { offset, len }.write(at.add(HEADER));
        }
        let _rings = view.lane_word(0).publish(tail + 32);
        let _sleeps = view.bell(0).ring(0, &view.sleep);
        settle(&mut router);
        let stats = router.stats;
        assert_eq!(
            (stats.quarantined, stats.violations),
            (1, 1),
            "{offset}, {len}"
        );
        let message = cores[1].recv().expect("nothing lost");
        assert_eq!(message.expect("a message").body, b"by the book");
        assert_eq!(cores[1].recv(), Ok(None));
    }
}
