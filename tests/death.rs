//! Death: real processes killed, stopped and re-forked under load. Others notice nothing; what the
//! dead held comes back; nobody waits for a dead master. Death at every single instruction is in
//! `tests/crash`.

// The tests' own bookkeeping across processes; not subject to the models.
#![allow(clippy::disallowed_types)]

mod common;

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::{Child, LONG, Rng, Watchdog, alone, fork, open_fds, shared_words, wait_until};
use corecast::{Core, Hub, JoinError, Master, Overflow, RecvError, SendError, Sender};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

const FOREVER: Duration = Duration::from_secs(3600);

/// Numbered messages from one core to another, every one of which must come.
struct Pair {
    from: Core,
    to: Core,
    sent: u64,
    received: u64,
}

impl Pair {
    const CHANNEL: &str = "steady";

    fn new(hub: &Hub) -> Self {
        let [from, mut to] = [(); 2].map(|()| hub.attach_any().expect("an extra core"));
        to.join(Self::CHANNEL).expect("joined");
        Self::of(from, to)
    }

    /// The same where the master is driven by the caller.
    fn driven(hub: &Hub, master: &mut Master) -> Self {
        let [from, mut to] = [(); 2].map(|()| hub.attach_any().expect("an extra core"));
        join(&mut to, Self::CHANNEL, master);
        Self::of(from, to)
    }

    fn of(from: Core, to: Core) -> Self {
        Self {
            from,
            to,
            sent: 0,
            received: 0,
        }
    }

    fn send(&mut self) {
        let body = self.sent.to_le_bytes();
        self.from
            .send_timeout(Self::CHANNEL, &body, LONG)
            .expect("sent");
        self.sent += 1;
    }

    fn receive(&mut self) {
        while let Some(message) = self.to.recv().expect("nothing is lost") {
            assert_eq!(message.body, self.received.to_le_bytes());
            self.received += 1;
        }
    }

    /// Sends and receives until everything has come.
    fn check(&mut self) {
        self.send();
        wait_until("all has come", || {
            self.receive();
            self.received == self.sent
        });
    }
}

fn now(master: &mut Master) -> usize {
    master.poll(Some(Duration::ZERO)).expect("polled")
}

fn join(core: &mut Core, name: &str, master: &mut Master) {
    let ticket = core.join_async(name).expect("asked");
    now(master);
    core.join_result(ticket).expect("answered").expect("joined");
}

/// Joins, sends, receives and leaves without end, in all cores of a worker.
fn make_noise(hub: &Hub, worker: u32) {
    let handle = hub.worker(worker).expect("a worker");
    let mut cores: Vec<Core> = (0..2).map(|c| handle.core(c).expect("a core")).collect();
    let mut rng = Rng::new(u64::from(worker) + 7);
    let body = vec![worker as u8; 5000];
    loop {
        let core = &mut cores[rng.below(2) as usize];
        match rng.below(50) {
            0 => drop(core.join("noise").expect("joined")),
            1 => drop(
                core.join(format!("own {worker} {}", rng.below(40)))
                    .expect("joined"),
            ),
            2 => drop(core.channel("noise").expect("opened")),
            3 => core.leave_all().expect("left"),
            n => {
                let len = if n == 4 { 5000 } else { 40 };
                let _full = core.send("noise", &body[..len]);
            }
        }
        while let Ok(Some(_)) | Err(RecvError::Lagged(_)) = core.recv() {}
    }
}

#[test]
fn workers_killed_under_load_take_nothing_from_others_and_leave_nothing_behind() {
    let _alone = alone();
    const KILLS: u64 = 60;
    let _watchdog = Watchdog::new(3 * LONG);
    let hub = Hub::builder().workers(3).cores(2).create().expect("a hub");
    let master = hub.start().expect("a master");
    let mut pair = Pair::new(&hub);
    let fds = open_fds();
    let forked = |w: u32| fork(|| make_noise(&hub, w));
    let mut workers: Vec<Child> = (0..3).map(forked).collect();
    let mut rng = Rng::new(5);
    for round in 0..KILLS {
        for _ in 0..rng.below(40) {
            pair.send();
            std::thread::sleep(Duration::from_micros(rng.below(1500)));
            pair.receive();
        }
        let worker = rng.below(3) as u32;
        workers[worker as usize].kill_only();
        if round % 3 == 0 {
            hub.worker_died(worker)
                .expect("we are the master's process");
        }
        // Every other time the successor is there before the old process has been waited for.
        if round % 2 == 0 {
            let old = std::mem::replace(&mut workers[worker as usize], forked(worker));
            drop(old);
        } else {
            workers.remove(worker as usize).kill();
            workers.insert(worker as usize, forked(worker));
        }
        pair.check();
    }
    drop(workers);
    wait_until("the slots are free", || hub.stats().cores == 2);
    pair.check();
    assert!(hub.subscribers("noise").is_empty());
    assert_eq!(hub.subscribers(Pair::CHANNEL), [pair.to.me()]);
    let stats = hub.stats();
    assert_eq!((stats.subscriptions, stats.channels), (1, 1), "{stats:?}");
    assert_eq!((stats.quarantined, stats.violations), (0, 0), "{stats:?}");
    assert!(stats.reaped >= KILLS, "{stats:?}");
    assert_eq!(open_fds(), fds, "descriptors of the master");
    println!(
        "{KILLS} kills, {} messages of the others, {stats:?}",
        pair.sent
    );
    master.stop().expect("stopped");
}

#[test]
fn a_successor_attaches_before_the_death_was_seen() {
    let _alone = alone();
    let _watchdog = Watchdog::new(LONG);
    let hub = Hub::builder().workers(1).create().expect("a hub");
    let mut master = hub.master().expect("a master");
    let stage = shared_words(2);
    let live = |word: &'static AtomicU64| {
        let hub = &hub;
        fork(move || {
            let mut core = hub.attach(0, 0).expect("a core");
            core.join("room").expect("joined");
            word.store(1, Ordering::SeqCst);
            std::thread::sleep(FOREVER);
        })
    };
    let first = live(&stage[0]);
    wait_until("the first has joined", || {
        now(&mut master);
        stage[0].load(Ordering::SeqCst) == 1
    });
    assert_eq!(hub.subscribers("room"), [Sender { worker: 0, core: 0 }]);
    first.kill();
    let second = live(&stage[1]); // the master has not been polled since
    wait_until("the second has joined", || {
        now(&mut master);
        stage[1].load(Ordering::SeqCst) == 1
    });
    let stats = hub.stats();
    assert_eq!((stats.reaped, stats.cores, stats.subscriptions), (1, 1, 1));
    second.kill();
}

/// A worker that has attached core 0 and does nothing.
fn idle_worker(hub: &Hub, master: &mut Master) -> Child {
    let child = fork(|| {
        let _core = hub.attach(0, 0).expect("a core");
        std::thread::sleep(FOREVER);
    });
    wait_until("it has attached", || {
        now(master);
        hub.stats().cores == 1
    });
    child
}

#[test]
fn the_hosts_word_that_a_worker_died_is_checked_and_acted_on_at_once() {
    let _alone = alone();
    let _watchdog = Watchdog::new(LONG);
    let hub = Hub::builder().workers(1).create().expect("a hub");
    let mut master = hub.master().expect("a master");
    let worker = idle_worker(&hub, &mut master);
    hub.worker_died(0).expect("told");
    now(&mut master);
    assert_eq!((hub.stats().cores, hub.stats().reaped), (1, 0), "it lives");
    worker.kill();
    hub.worker_died(0).expect("told");
    now(&mut master);
    assert_eq!((hub.stats().cores, hub.stats().reaped), (0, 1));
}

#[test]
fn a_death_makes_a_host_driven_master_readable() {
    let _alone = alone();
    let _watchdog = Watchdog::new(LONG);
    let hub = Hub::builder().workers(1).create().expect("a hub");
    let mut master = hub.master().expect("a master");
    let worker = idle_worker(&hub, &mut master);
    let readable = |master: &Master, wait: u16| {
        let mut fds = [PollFd::new(master.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(wait)).expect("poll") == 1
    };
    now(&mut master);
    assert!(!readable(&master, 20), "nothing has happened");
    worker.kill();
    assert!(readable(&master, 30_000));
    now(&mut master);
    assert_eq!((hub.stats().cores, hub.stats().reaped), (0, 1));
}

/// What was broken: a join that was still in the lane of a dead core subscribed its slot again;
/// its queue, which nobody reads, then stopped a hub that blocks.
#[test]
fn a_dead_cores_last_joins_do_not_stop_a_hub_that_blocks() {
    let _alone = alone();
    let _watchdog = Watchdog::new(LONG);
    let blocking = Hub::builder().workers(1).overflow(Overflow::Block);
    let hub = blocking.queue_bytes(4096).create().expect("a hub");
    let mut master = hub.master().expect("a master");
    let mut pair = Pair::driven(&hub, &mut master);
    let stage = shared_words(1);
    let child = fork(|| {
        let mut core = hub.attach(0, 0).expect("a core");
        for name in ["first", "second"] {
            core.join_async(name).expect("asked");
            (0..100).for_each(|_| core.send(name, &[7; 100]).expect("sent"));
        }
        stage[0].store(1, Ordering::SeqCst);
        std::thread::sleep(FOREVER);
    });
    wait_until("it has sent", || stage[0].load(Ordering::SeqCst) == 1);
    now(&mut master);
    pair.send();
    now(&mut master);
    pair.receive();
    assert_eq!(pair.received, 0, "the hub is blocked");
    child.kill();
    hub.worker_died(0).expect("told");
    now(&mut master);
    pair.receive();
    assert_eq!(pair.received, pair.sent);
    assert_eq!((hub.stats().cores, hub.stats().channels), (2, 1));
}

#[test]
fn a_stopped_worker_stalls_nobody_and_goes_on_where_it_was() {
    let _alone = alone();
    let _watchdog = Watchdog::new(3 * LONG);
    // Room for whatever comes while this process has to wait for a CPU.
    let roomy = Hub::builder().workers(2).queue_bytes(128 << 20);
    let hub = roomy.create().expect("a hub");
    let _master = hub.start().expect("a master");
    let mut pair = Pair::new(&hub);
    let mut eve = hub.attach_any().expect("a core");
    eve.join("numbers").expect("joined");
    let child = fork(|| {
        let mut core = hub.attach(0, 0).expect("a core");
        for n in 0u64.. {
            let body = n.to_le_bytes();
            core.send_timeout("numbers", &body, FOREVER).expect("sent");
        }
    });
    let (mut expected, mut rng) = (0u64, Rng::new(3));
    for _ in 0..30 {
        let before = expected;
        wait_until("it sends", || {
            while let Some(message) = eve.recv().expect("nothing is lost") {
                assert_eq!(message.body, expected.to_le_bytes());
                expected += 1;
            }
            expected > before + rng.below(3000)
        });
        child.signal(Signal::SIGSTOP);
        (0..5).for_each(|_| pair.check());
        child.signal(Signal::SIGCONT);
    }
    child.kill();
}

/// Calls that wait for a master, each on a thread of its own; all must end with "gone".
fn expect_gone(hub: &Hub, end: impl FnOnce()) {
    let [mut joiner, mut sender, mut receiver, mut opener] =
        [(); 4].map(|()| hub.attach_any().expect("an extra core"));
    std::thread::scope(|scope| {
        scope.spawn(move || assert_eq!(joiner.join("room"), Err(JoinError::MasterGone)));
        scope.spawn(move || assert_eq!(opener.channel("c"), Err(JoinError::MasterGone)));
        scope.spawn(move || {
            let sent = (0..).find_map(|_| sender.send_timeout("c", &[0; 5000], FOREVER).err());
            assert_eq!(sent, Some(SendError::MasterGone));
        });
        scope.spawn(move || {
            assert_eq!(receiver.recv_timeout(FOREVER), Err(RecvError::MasterGone));
        });
        // Not needed for the outcome: gives the calls time to really wait.
        std::thread::sleep(Duration::from_millis(100));
        end();
    });
}

fn patient_hub() -> Hub {
    let builder = Hub::builder().workers(1).answer_timeout(FOREVER);
    builder.create().expect("a hub")
}

#[test]
fn waiting_calls_end_when_the_master_stops() {
    let _alone = alone();
    let _watchdog = Watchdog::new(LONG);
    let hub = patient_hub();
    let master = hub.master().expect("a master");
    expect_gone(&hub, || drop(master)); // it was never polled
}

#[test]
fn waiting_calls_end_when_the_process_of_the_master_is_killed() {
    let _alone = alone();
    let _watchdog = Watchdog::new(LONG);
    let hub = patient_hub();
    let up = &shared_words(1)[0];
    let child = fork(|| {
        let _master = hub.start().expect("a master");
        up.store(1, Ordering::SeqCst);
        std::thread::sleep(FOREVER);
    });
    wait_until("the master is up", || up.load(Ordering::SeqCst) == 1);
    child.stop(); // so that nothing is answered any more
    expect_gone(&hub, || child.kill_only());
}

#[test]
fn a_stopped_master_thread_leaves_nothing_unreceived() {
    let _alone = alone();
    let _watchdog = Watchdog::new(LONG);
    let hub = Hub::builder().workers(1).create().expect("a hub");
    let master = hub.start().expect("a master");
    let mut core = hub.attach(0, 0).expect("a core");
    core.join("room").expect("joined");
    core.send("room", b"last words").expect("sent");
    wait_until("it is routed", || hub.stats().messages == 1);
    master.stop().expect("stopped");
    assert_eq!(
        core.recv().expect("ok").expect("a message").body,
        b"last words"
    );
    assert_eq!(core.recv(), Err(RecvError::MasterGone));
    assert_eq!(core.send("room", b"x"), Err(SendError::MasterGone));
    assert_eq!(core.join("other"), Err(JoinError::MasterGone));
}
