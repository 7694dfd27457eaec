//! Bad input: each kind gets its own error, whose text names the value and the limit; nothing
//! changes, nothing leaks.

// The tests' own bookkeeping across processes; not subject to the models.
#![allow(clippy::disallowed_types)]

mod common;
#[path = "misuse/limits.rs"]
mod limits;
#[path = "misuse/region.rs"]
mod region;

use std::error::Error;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{LONG, Watchdog, alone, fork, open_fds, wait_until};
use corecast::{
    AttachError, Channel, ChannelId, Core, Hub, JoinError, LeaveError, Master, MasterError,
    NameError, RecvError, SendError, Stats,
};

fn now(master: &mut Master) {
    master.poll(Some(Duration::ZERO)).expect("polled");
}

fn join(core: &mut Core, name: &str, master: &mut Master) -> Result<ChannelId, JoinError> {
    let ticket = core.join_async(name).expect("asked");
    now(master);
    core.join_result(ticket).expect("answered")
}

/// The text of an error, which must hold all of `parts`.
fn says(error: &dyn Error, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{text:?} does not name {part:?}");
    }
}

/// What must not change.
fn state(hub: &Hub, core: &Core) -> (Stats, usize, usize, usize) {
    (hub.stats(), core.joined(), open_fds(), region::mappings())
}

#[test]
fn bad_names_are_refused_by_every_call_that_takes_one() {
    let _alone = alone();
    let hub = Hub::builder().workers(1).create().expect("a hub");
    let mut master = hub.master().expect("a master");
    let mut core = hub.attach(0, 0).expect("a core");
    join(&mut core, "good", &mut master).expect("joined");
    let long = vec![b'x'; 256];
    let bad: [(&[u8], NameError); 3] = [
        (b"", NameError::Empty),
        (&long, NameError::TooLong { len: 256, max: 255 }),
        (b"a\0b", NameError::Nul { at: 1 }),
    ];
    let before = state(&hub, &core);
    for (name, error) in bad {
        assert_eq!(core.join(name), Err(JoinError::BadName(error)));
        assert_eq!(core.join_async(name), Err(JoinError::BadName(error)));
        assert_eq!(core.channel(name), Err(JoinError::BadName(error)));
        assert_eq!(core.leave(name), Err(LeaveError::BadName(error)));
        assert_eq!(core.send(name, b"x"), Err(SendError::BadName(error)));
        assert_eq!(
            core.send_many(name, &[b"x"]),
            Err(SendError::BadName(error))
        );
        assert_eq!(
            core.send_timeout(name, b"x", LONG),
            Err(SendError::BadName(error))
        );
        assert!(hub.subscribers(name).is_empty());
        now(&mut master);
    }
    assert_eq!(state(&hub, &core), before);
    says(&NameError::Empty, &["empty", "1 to 255"]);
    says(&NameError::TooLong { len: 256, max: 255 }, &["256", "255"]);
    says(&NameError::Nul { at: 1 }, &["NUL", "position 1"]);
    join(
        &mut core,
        std::str::from_utf8(&long[1..]).expect("text"),
        &mut master,
    )
    .expect("255");
}

#[test]
fn messages_over_the_limit_are_refused_whole() {
    let _alone = alone();
    let hub = Hub::builder()
        .workers(1)
        .max_message(1000)
        .create()
        .expect("a hub");
    let mut master = hub.master().expect("a master");
    let mut core = hub.attach(0, 0).expect("a core");
    join(&mut core, "c", &mut master).expect("joined");
    let (fits, over) = (vec![1; 1000], vec![1; 1001]);
    let error = SendError::TooLarge {
        len: 1001,
        max: 1000,
    };
    let before = state(&hub, &core);
    assert_eq!(core.send("c", &over), Err(error));
    assert_eq!(core.send_timeout("c", &over, LONG), Err(error));
    assert_eq!(
        core.send_many("c", &[&fits, &over]),
        Err(error),
        "not even the first"
    );
    now(&mut master);
    assert_eq!(state(&hub, &core), before);
    says(&error, &["1001", "1000", "max_message"]);
    core.send("c", &fits).expect("sent");
    now(&mut master);
    assert_eq!(core.recv().expect("ok").expect("a message").body, fits);
}

#[test]
fn the_channel_limit_refuses_joins_and_handles() {
    let _alone = alone();
    let hub = Hub::builder()
        .workers(1)
        .channels(2)
        .create()
        .expect("a hub");
    let master = hub.start().expect("a master");
    let mut core = hub.attach(0, 0).expect("a core");
    core.join("a").expect("joined");
    core.join("b").expect("joined");
    let error = JoinError::TooManyChannels { max: 2 };
    assert_eq!(core.join("c"), Err(error));
    assert_eq!(core.channel("c"), Err(error));
    assert_eq!(
        core.join("a").map(|id| id.generation),
        Ok(1),
        "still joined"
    );
    says(&error, &["2 channels", "limit"]);
    assert_eq!((core.joined(), hub.subscribers("c").len()), (2, 0));
    core.leave("a").expect("left");
    core.join("c").expect("room again");
    master.stop().expect("stopped");
    assert_eq!((hub.stats().channels, hub.stats().joins), (2, 3));
}

#[test]
fn more_unanswered_joins_than_allowed_are_refused() {
    let _alone = alone();
    let hub = Hub::builder().workers(1).create().expect("a hub");
    let mut master = hub.master().expect("a master");
    let mut core = hub.attach(0, 0).expect("a core");
    let asked: Vec<_> = (0..64).map(|n| core.join_async(format!("{n}"))).collect();
    let error = JoinError::TooManyPending { max: 64 };
    assert_eq!(core.join_async("one more"), Err(error));
    assert_eq!(core.join("one more"), Err(error));
    assert_eq!(core.joined(), 64);
    says(&error, &["64"]);
    now(&mut master);
    for ticket in asked {
        core.join_result(ticket.expect("asked"))
            .expect("answered")
            .expect("joined");
    }
    join(&mut core, "one more", &mut master).expect("joined");
}

#[test]
fn what_was_not_joined_or_opened_cannot_be_left_or_closed() {
    let _alone = alone();
    let hub = Hub::builder().workers(2).create().expect("a hub");
    let mut master = hub.master().expect("a master");
    let mut core = hub.attach(0, 0).expect("a core");
    let mut other = hub.attach(1, 0).expect("a core");
    let id = join(&mut other, "c", &mut master).expect("joined");
    let before = state(&hub, &core);
    assert_eq!(core.leave("c"), Err(LeaveError::NotJoined));
    assert_eq!(core.leave("never heard of"), Err(LeaveError::NotJoined));
    assert_eq!(core.close(Channel::from_id(id)), Err(LeaveError::NotJoined));
    assert_eq!(core.leave_all(), Ok(()), "of nothing");
    assert_eq!(core.recv(), Ok(None), "no error: there is nothing");
    now(&mut master);
    assert_eq!(state(&hub, &core), before);
    says(&LeaveError::NotJoined, &["not joined"]);
}

#[test]
fn handles_that_were_never_given_out_are_stale() {
    let _alone = alone();
    let hub = Hub::builder()
        .workers(1)
        .channels(8)
        .create()
        .expect("a hub");
    let mut master = hub.master().expect("a master");
    let mut core = hub.attach(0, 0).expect("a core");
    let id = join(&mut core, "c", &mut master).expect("joined");
    let before = state(&hub, &core);
    for (index, generation) in [(0, 7), (3, 1), (8, 1), (u32::MAX, u32::MAX), (0, 0)] {
        let forged = Channel::from_id(ChannelId { index, generation });
        assert_ne!(forged.id(), id);
        assert_eq!(core.send_to(forged, b"x"), Err(SendError::StaleChannel));
        assert_eq!(
            core.send_many_to(forged, &[b"x"]),
            Err(SendError::StaleChannel)
        );
        assert_eq!(core.close(forged), Err(LeaveError::NotJoined));
    }
    now(&mut master);
    assert_eq!(state(&hub, &core), before);
}

#[test]
fn slots_out_of_range_or_held_are_refused() {
    let _alone = alone();
    let hub = Hub::builder()
        .workers(2)
        .cores(3)
        .extra(1)
        .create()
        .expect("a hub");
    let mut master = hub.master().expect("a master");
    let core = hub.attach(1, 2).expect("a core");
    now(&mut master);
    let before = state(&hub, &core);
    let error = |worker, number| hub.attach(worker, number).expect_err("refused");
    let range = AttachError::WorkerOutOfRange {
        worker: 3,
        workers: 2,
    };
    assert_eq!(error(3, 0), range);
    assert_eq!(
        hub.worker(2).expect_err("refused"),
        AttachError::WorkerOutOfRange {
            worker: 2,
            workers: 2
        }
    );
    assert_eq!(
        hub.worker_died(9),
        Err(AttachError::WorkerOutOfRange {
            worker: 9,
            workers: 2
        })
    );
    says(&range, &["worker 3", "2 workers", "0 to 1"]);
    assert_eq!(
        error(0, 3),
        AttachError::CoreOutOfRange { core: 3, cores: 3 }
    );
    assert_eq!(
        error(2, 1),
        AttachError::CoreOutOfRange { core: 1, cores: 1 },
        "extra slots"
    );
    says(&error(0, 3), &["core 3", "3 cores", "0 to 2"]);
    let pid = std::process::id();
    assert_eq!(
        error(1, 2),
        AttachError::Busy {
            worker: 1,
            core: 2,
            pid
        }
    );
    says(&error(1, 2), &["worker 1 core 2", &pid.to_string()]);
    now(&mut master);
    assert_eq!(state(&hub, &core), before);
}

#[test]
fn a_slot_held_by_another_process_is_refused_and_so_is_one_slot_too_many() {
    let _alone = alone();
    let _watchdog = Watchdog::new(LONG);
    let hub = Hub::builder().workers(1).extra(1).create().expect("a hub");
    let _master = hub.start().expect("a master");
    let holder = fork(|| {
        let _core = hub.attach(0, 0).expect("a core");
        std::thread::sleep(LONG);
    });
    wait_until("it has attached", || hub.stats().cores == 1);
    let pid = holder.pid().as_raw() as u32;
    let busy = AttachError::Busy {
        worker: 0,
        core: 0,
        pid,
    };
    assert_eq!(hub.attach(0, 0).expect_err("refused"), busy);
    let _extra = hub.attach_any().expect("a core");
    let error = hub.attach_any().expect_err("refused");
    assert_eq!(error, AttachError::NoFreeSlot { slots: 2 });
    says(&error, &["2 slots"]);
    holder.kill();
    wait_until("the slot is free again", || hub.attach_any().is_ok());
}

#[test]
fn a_core_made_before_a_fork_is_of_no_use_in_the_child() {
    let _alone = alone();
    let _watchdog = Watchdog::new(LONG);
    let hub = Hub::builder().workers(2).create().expect("a hub");
    let mut master = hub.master().expect("a master");
    let mut core = hub.attach(0, 0).expect("a core");
    let id = join(&mut core, "c", &mut master).expect("joined");
    let before = hub.stats();
    let mut kept = Some((core, master));
    fork(|| {
        // The child's copies.
        let (mut core, mut master) = kept.take().expect("there");
        let handle = Channel::from_id(id);
        for again in [false, true] {
            // Also once this process has a core of its own.
            let own = again.then(|| hub.attach(1, 0).expect("a core"));
            assert_eq!(core.send("c", b"x"), Err(SendError::WrongProcess));
            assert_eq!(core.send_to(handle, b"x"), Err(SendError::WrongProcess));
            assert_eq!(core.send_many("c", &[b"x"]), Err(SendError::WrongProcess));
            assert_eq!(core.join("c"), Err(JoinError::WrongProcess));
            assert_eq!(core.join_async("d"), Err(JoinError::WrongProcess));
            assert_eq!(core.channel("d"), Err(JoinError::WrongProcess));
            assert_eq!(core.leave("c"), Err(LeaveError::WrongProcess));
            assert_eq!(core.leave_all(), Err(LeaveError::WrongProcess));
            assert_eq!(core.close(handle), Err(LeaveError::WrongProcess));
            assert_eq!(core.recv(), Err(RecvError::WrongProcess));
            assert_eq!(core.recv_timeout(LONG), Err(RecvError::WrongProcess));
            assert_eq!(
                master.poll(Some(Duration::ZERO)),
                Err(MasterError::WrongProcess)
            );
            std::mem::forget(own); // this process ends without detaching it
        }
        assert_eq!(core.detach(), Err(SendError::WrongProcess));
        drop(master);
    })
    .join();
    let (mut core, mut master) = kept.expect("still there");
    wait_until("the child's own core is gone", || {
        now(&mut master);
        hub.stats().cores == 1
    });
    let after = hub.stats();
    assert_eq!((after.messages, after.subscriptions), (before.messages, 1));
    core.send("c", b"still here").expect("sent");
    now(&mut master);
    assert_eq!(
        core.recv().expect("ok").expect("a message").body,
        b"still here"
    );
    says(&SendError::WrongProcess, &["another process"]);
}

#[test]
fn a_worker_process_has_no_other_workers_slots_and_is_not_the_master() {
    let _alone = alone();
    let _watchdog = Watchdog::new(LONG);
    let hub = Hub::builder().workers(2).create().expect("a hub");
    let _master = hub.start().expect("a master");
    let pid = std::process::id();
    fork(|| {
        assert_eq!(hub.worker_died(0), Err(AttachError::WrongProcess));
        assert_eq!(
            hub.master().err(),
            Some(MasterError::AlreadyRunning { pid })
        );
        assert!(hub.start().is_err());
        let worker = hub.worker(0).expect("a worker");
        let error = hub.worker(1).expect_err("refused");
        assert_eq!(error, AttachError::Foreign { worker: 1 });
        says(&error, &["worker 1"]);
        worker.core(0).expect("its own");
    })
    .join();
    assert_eq!(
        hub.master().err(),
        Some(MasterError::AlreadyRunning { pid })
    );
    says(&MasterError::AlreadyRunning { pid }, &[&pid.to_string()]);
}

#[test]
fn a_region_of_another_version_or_layout_is_refused() {
    let _alone = alone();
    let hub = Hub::builder().workers(1).create().expect("a hub");
    let _master = hub.start().expect("a master");
    let before = (hub.stats(), open_fds());
    // Words of the header: magic, version, hash of the layout.
    for (word, value, found) in [(0, 7, 0), (1, 99, 99), (2, 7, 7)] {
        let header = &region::header()[word];
        let right = header.swap(value, Ordering::SeqCst);
        let error = hub.attach(0, 0).expect_err("refused");
        assert_eq!(error, AttachError::Version { found, expected: 7 });
        assert_eq!(hub.worker(0).expect_err("refused"), error);
        assert_eq!(hub.attach_any().expect_err("refused"), error);
        says(&error, &[&format!("version {found}"), "7"]);
        header.store(right, Ordering::SeqCst);
    }
    assert_eq!((hub.stats(), open_fds()), before);
    hub.attach(0, 0).expect("right again");
}

/// A router that is left over from before another process routed must not be used again.
#[test]
fn a_master_goes_on_where_the_last_one_stopped_in_another_process() {
    let _alone = alone();
    let _watchdog = Watchdog::new(LONG);
    let hub = Hub::builder().workers(1).create().expect("a hub");
    let mut core = hub.attach_any().expect("a core");
    let ticket = core.join_async("c").expect("asked");
    core.send("c", b"x").expect("sent");
    fork(|| {
        let mut master = hub.master().expect("a master");
        while hub.stats().messages == 0 {
            master.poll(Some(LONG)).expect("polled");
        }
    })
    .join();
    core.join_result(ticket).expect("answered").expect("joined");
    core.send("c", b"y")
        .expect_err("it has stopped, and says so");
    let mut master = hub.master().expect("a master");
    core.send("c", b"y").expect("sent");
    master.poll(Some(LONG)).expect("polled");
    for body in [b"x", b"y"] {
        let message = core.recv().expect("nothing is lost").expect("a message");
        assert_eq!(message.body, body);
    }
    assert_eq!(core.recv(), Ok(None));
    let running = MasterError::AlreadyRunning {
        pid: std::process::id(),
    };
    assert_eq!(hub.master().err(), Some(running));
}
