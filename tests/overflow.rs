//! Slow cores: what is lost is counted at its place in the stream, or nothing is lost and the
//! senders are told.

// The tests' own bookkeeping across processes; not subject to the models.
#![allow(clippy::disallowed_types)]

mod common;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::{LONG, Rng, Watchdog, fork, shared_words, wait_until};
use corecast::{Core, Hub, JoinError, Master, Overflow, RecvError, SendError};

const CHANNEL: &str = "c";
const FOREVER: Duration = Duration::from_secs(3600);

fn small_hub(overflow: Overflow) -> Hub {
    let builder = Hub::builder().workers(2).queue_bytes(8192).lane_bytes(8192);
    let builder = builder.max_message(4000).overflow(overflow);
    builder.create().expect("a hub")
}

fn now(master: &mut Master) {
    master.poll(Some(Duration::ZERO)).expect("polled");
}

fn joined(hub: &Hub, worker: u32, master: &mut Master) -> Core {
    let mut core = hub.attach(worker, 0).expect("a core");
    let ticket = core.join_async(CHANNEL).expect("asked");
    now(master);
    core.join_result(ticket).expect("answered").expect("joined");
    core
}

/// Follows a stream of numbered messages: each is the next one, less those reported lost.
#[derive(Debug, Default)]
struct Follower {
    next: u64,
    taken: u64,
    lost: u64,
    /// The first and the last message taken.
    first: Option<u64>,
    last: Option<u64>,
}

impl Follower {
    /// Takes what is there.
    fn receive(&mut self, core: &mut Core) {
        loop {
            match core.recv() {
                Ok(Some(message)) => self.take(message.body),
                Ok(None) => return,
                Err(RecvError::Lagged(n)) => self.lag(n),
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn take(&mut self, body: &[u8]) {
        let (number, filling) = body.split_at(8);
        let number = u64::from_le_bytes(number.try_into().expect("8 bytes"));
        assert_eq!(
            number, self.next,
            "a gap without a word, or a wrong count: {self:?}"
        );
        assert!(filling.iter().all(|&b| b == number as u8));
        (self.next, self.taken, self.last) = (number + 1, self.taken + 1, Some(number));
        self.first.get_or_insert(number);
    }

    fn lag(&mut self, n: u64) {
        assert_ne!(n, 0);
        self.next += n;
        self.lost += n;
    }
}

fn body(number: u64, len: usize) -> Vec<u8> {
    let mut body = number.to_le_bytes().to_vec();
    body.resize(8 + len, number as u8);
    body
}

/// Random sends of all sizes and receives now and then; then everything is taken.
fn random_stream(overflow: Overflow, seed: u64) -> (Follower, u64, u64) {
    let hub = small_hub(overflow);
    let mut master = hub.master().expect("a master");
    let mut to = joined(&hub, 0, &mut master);
    let mut from = hub.attach(1, 0).expect("a core");
    let (mut rng, mut follower, mut sent) = (Rng::new(seed), Follower::default(), 0);
    for _ in 0..20_000 {
        let len = match rng.below(20) {
            0 => rng.below(3990),
            _ => rng.below(60),
        };
        if from.send(CHANNEL, &body(sent, len as usize)).is_ok() {
            sent += 1;
        }
        if rng.one_in(8) {
            now(&mut master);
        }
        // Long silences and short ones.
        if rng.one_in(if sent / 1000 % 2 == 0 { 10 } else { 300 }) {
            follower.receive(&mut to);
        }
    }
    // Lane and slab hold more than a queue can take at once.
    for _ in 0..100 {
        now(&mut master);
        follower.receive(&mut to);
    }
    let stats = hub.stats();
    assert_eq!(
        (stats.messages, stats.lost, to.lost()),
        (sent, follower.lost, follower.lost)
    );
    (follower, sent, stats.deliveries)
}

#[test]
fn dropping_the_newest_tells_the_exact_number_at_its_place() {
    let _watchdog = Watchdog::new(LONG);
    for seed in 0..5 {
        let (follower, sent, deliveries) = random_stream(Overflow::DropNewest, seed);
        assert_eq!(follower.next, sent, "{follower:?}");
        assert_eq!(deliveries, follower.taken);
        assert!(follower.lost > 100 && follower.taken > 100, "{follower:?}");
    }
}

#[test]
fn dropping_the_oldest_tells_the_exact_number_at_its_place() {
    let _watchdog = Watchdog::new(LONG);
    for seed in 0..5 {
        let (follower, sent, _) = random_stream(Overflow::DropOldest, seed);
        assert_eq!(follower.next, sent, "{follower:?}");
        assert_eq!(follower.last, Some(sent - 1), "the newest stays");
        assert!(follower.lost > 100 && follower.taken > 100, "{follower:?}");
    }
}

#[test]
fn blocking_loses_nothing() {
    let _watchdog = Watchdog::new(LONG);
    for seed in 0..5 {
        let (follower, sent, deliveries) = random_stream(Overflow::Block, seed);
        assert_eq!((follower.next, follower.lost), (sent, 0), "{follower:?}");
        assert_eq!(deliveries, sent);
    }
}

#[test]
fn the_newest_are_dropped_or_the_oldest_as_chosen() {
    for (overflow, first) in [(Overflow::DropNewest, true), (Overflow::DropOldest, false)] {
        let hub = small_hub(overflow);
        let mut master = hub.master().expect("a master");
        let mut to = joined(&hub, 0, &mut master);
        let mut from = hub.attach(1, 0).expect("a core");
        for number in 0..1000 {
            from.send(CHANNEL, &body(number, 8)).expect("sent");
            now(&mut master);
        }
        let mut follower = Follower::default();
        for _ in 0..3 {
            follower.receive(&mut to);
            now(&mut master);
        }
        assert_eq!(follower.first == Some(0), first, "{follower:?}");
        assert_eq!(follower.last != Some(999), first, "{follower:?}");
        assert_eq!(follower.taken + follower.lost, 1000);
    }
}

#[test]
fn one_slow_core_costs_the_others_nothing() {
    let hub = small_hub(Overflow::DropNewest);
    let mut master = hub.master().expect("a master");
    let mut fast = joined(&hub, 0, &mut master);
    let mut slow = hub.attach_any().expect("a core");
    slow.join_async(CHANNEL).expect("asked");
    now(&mut master);
    let mut from = hub.attach(1, 0).expect("a core");
    let mut follower = Follower::default();
    for number in 0..10_000 {
        from.send(CHANNEL, &body(number, 100)).expect("never full");
        now(&mut master);
        follower.receive(&mut fast);
    }
    assert_eq!((follower.taken, follower.lost), (10_000, 0));
    let mut late = Follower::default();
    for _ in 0..2 {
        late.receive(&mut slow);
        now(&mut master);
    }
    assert_eq!(late.taken + late.lost, 10_000);
    assert!(late.lost > 9_000);
}

#[test]
fn a_full_lane_refuses_and_takes_again_once_routed() {
    let hub = small_hub(Overflow::DropNewest);
    let mut master = hub.master().expect("a master");
    let mut to = joined(&hub, 0, &mut master);
    let mut from = hub.attach(1, 0).expect("a core");
    let mut sent = 0;
    while from.send(CHANNEL, &body(sent, 8)).is_ok() {
        sent += 1;
    }
    assert_eq!(from.send(CHANNEL, b"x"), Err(SendError::Full));
    assert_eq!(from.send_many(CHANNEL, &[b"x"]), Err(SendError::Full));
    assert_eq!(from.join_async("other"), Err(JoinError::Full));
    assert_eq!(from.joined(), 0);
    assert_eq!(hub.stats().messages, 0);
    now(&mut master);
    assert_eq!(
        hub.stats().messages,
        sent,
        "what was refused left nothing behind"
    );
    from.send(CHANNEL, &body(sent, 8)).expect("room again");
    let mut follower = Follower::default();
    for _ in 0..3 {
        follower.receive(&mut to);
        now(&mut master);
    }
    assert_eq!(follower.taken + follower.lost, sent + 1);
}

#[test]
fn send_many_takes_what_fits_and_says_how_much() {
    let hub = small_hub(Overflow::DropNewest);
    let mut master = hub.master().expect("a master");
    let mut from = hub.attach(1, 0).expect("a core");
    let bodies = vec![[7u8; 100]; 1000];
    let taken = from.send_many(CHANNEL, &bodies).expect("some");
    assert!((10..1000).contains(&taken), "{taken}");
    now(&mut master);
    assert_eq!(hub.stats().messages, taken as u64);
    assert!(from.send_many(CHANNEL, &bodies[taken..]).expect("more") > 0);
}

fn fill_lane(core: &mut Core) {
    while core.send(CHANNEL, &[0; 100]).is_ok() {}
}

/// What was broken: whether there was room was asked for a somewhat larger record, which may be
/// placed where a smaller one is not; the call then came back with `Full` at once.
#[test]
fn a_timed_send_of_any_size_waits() {
    let wait = Duration::from_millis(5);
    for len in (1400..2200).step_by(50) {
        let builder = Hub::builder().workers(1).lane_bytes(4096);
        let hub = builder.max_message(4000).create().expect("a hub");
        let mut master = hub.master().expect("a master");
        let mut from = hub.attach(0, 0).expect("a core");
        fill_lane(&mut from);
        let refused = from.send(CHANNEL, &vec![0; len]).is_err();
        let result = from.send_timeout(CHANNEL, &vec![0; len], wait);
        assert!(
            !refused || result == Err(SendError::Timeout),
            "{len}: {result:?}"
        );
        now(&mut master);
        assert_eq!(from.send_timeout(CHANNEL, &vec![0; len], wait), Ok(()));
    }
}

#[test]
fn a_timed_send_waits_its_time_and_not_for_ever() {
    let _watchdog = Watchdog::new(LONG);
    let hub = small_hub(Overflow::DropNewest);
    let mut master = hub.master().expect("a master");
    let mut from = hub.attach(1, 0).expect("a core");
    fill_lane(&mut from);
    let (start, wait) = (Instant::now(), Duration::from_millis(120));
    assert_eq!(
        from.send_timeout(CHANNEL, &[0; 100], wait),
        Err(SendError::Timeout)
    );
    assert!(start.elapsed() >= wait);
    std::thread::scope(|scope| {
        let sender = scope.spawn(move || from.send_timeout(CHANNEL, &[0; 100], FOREVER));
        std::thread::sleep(Duration::from_millis(50)); // gives it time to really wait
        while !sender.is_finished() {
            now(&mut master);
        }
        assert_eq!(sender.join().expect("no panic"), Ok(()));
    });
}

#[test]
fn a_slow_reader_slows_a_blocking_hub_and_loses_nothing() {
    const MESSAGES: u64 = 20_000;
    let _watchdog = Watchdog::new(LONG);
    let hub = small_hub(Overflow::Block);
    let _master = hub.start().expect("a master");
    let mut to = hub.attach(0, 0).expect("a core");
    to.join(CHANNEL).expect("joined");
    let mut from = hub.attach(1, 0).expect("a core");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for number in 0..MESSAGES {
                from.send_timeout(CHANNEL, &body(number, 40), FOREVER)
                    .expect("sent");
            }
        });
        let (mut rng, mut follower) = (Rng::new(1), Follower::default());
        while follower.next < MESSAGES {
            if rng.one_in(50) {
                std::thread::sleep(Duration::from_micros(rng.below(2000)));
            }
            if let Some(message) = to.recv_timeout(FOREVER).expect("nothing is lost") {
                follower.take(message.body);
            }
        }
    });
    assert_eq!(hub.stats().lost, 0);
}

#[test]
fn a_reader_that_stops_fills_queue_and_lane_of_a_blocking_hub() {
    let hub = small_hub(Overflow::Block);
    let mut master = hub.master().expect("a master");
    let mut to = joined(&hub, 0, &mut master);
    let mut from = hub.attach(1, 0).expect("a core");
    let mut sent = 0;
    while from.send(CHANNEL, &body(sent, 40)).is_ok() {
        now(&mut master);
        sent += 1;
        assert!(sent < 100_000, "nothing stops the sender");
    }
    let mut follower = Follower::default();
    while follower.next < sent {
        follower.receive(&mut to);
        now(&mut master);
    }
    from.send(CHANNEL, b"x").expect("room again");
}

/// A sender and a subscriber `eve`, in a hub that another subscriber has blocked.
struct Blocked {
    from: Core,
    eve: Core,
    sent: u64,
    follower: Follower,
}

impl Blocked {
    /// Sends until the hub stands still.
    fn new(hub: &Hub) -> Self {
        let mut eve = hub.attach_any().expect("a core");
        eve.join(CHANNEL).expect("joined");
        let mut blocked = Self {
            from: hub.attach_any().expect("a core"),
            eve,
            sent: 0,
            follower: Follower::default(),
        };
        while blocked.send(Duration::from_millis(50)) {}
        blocked
    }

    fn send(&mut self, timeout: Duration) -> bool {
        self.follower.receive(&mut self.eve);
        let body = body(self.sent, 40);
        let sent = self.from.send_timeout(CHANNEL, &body, timeout).is_ok();
        self.sent += u64::from(sent);
        sent
    }

    /// Fails unless the hub goes on and has lost nothing. Gives its cores back, still there.
    fn expect_recovery(mut self, hub: &Hub) -> Self {
        wait_until("the hub goes on", || {
            (0..100).all(|_| self.send(Duration::from_millis(10)))
        });
        wait_until("all has come", || {
            self.follower.receive(&mut self.eve);
            self.follower.next == self.sent
        });
        assert_eq!(hub.stats().lost, 0);
        self
    }
}

#[test]
fn a_blocked_hub_goes_on_when_the_slow_core_is_killed() {
    let _watchdog = Watchdog::new(3 * LONG);
    let hub = small_hub(Overflow::Block);
    let _master = hub.start().expect("a master");
    let up = &shared_words(1)[0];
    let child = fork(|| {
        let mut core = hub.attach(0, 0).expect("a core");
        core.join(CHANNEL).expect("joined");
        up.store(1, Ordering::SeqCst);
        std::thread::sleep(FOREVER);
    });
    wait_until("it has joined", || up.load(Ordering::SeqCst) == 1);
    let blocked = Blocked::new(&hub);
    child.kill();
    drop(blocked.expect_recovery(&hub));
}

/// What was broken: its request to leave came behind the message that the router could not
/// deliver to it, and a core that is in no channel has no reason to receive.
#[test]
fn a_blocked_hub_goes_on_when_the_slow_core_leaves_or_detaches() {
    let _watchdog = Watchdog::new(3 * LONG);
    let ways: [fn(Core) -> Option<Core>; 4] = [
        |mut core| {
            core.leave_all().expect("left");
            Some(core)
        },
        |mut core| {
            core.leave(CHANNEL).expect("left");
            Some(core)
        },
        |core| {
            core.detach().expect("detached");
            None
        },
        |core| {
            drop(core);
            None
        },
    ];
    for leave in ways {
        let hub = small_hub(Overflow::Block);
        let _master = hub.start().expect("a master");
        let mut slow = hub.attach(0, 0).expect("a core");
        slow.join(CHANNEL).expect("joined");
        let blocked = Blocked::new(&hub);
        let kept = leave(slow);
        drop(blocked.expect_recovery(&hub));
        drop(kept);
    }
}

#[test]
fn a_join_that_waits_for_its_own_queue_times_out_and_takes_nothing() {
    let _watchdog = Watchdog::new(3 * LONG);
    let wait = Duration::from_millis(100);
    let builder = Hub::builder()
        .workers(1)
        .queue_bytes(8192)
        .overflow(Overflow::Block);
    let hub = builder.answer_timeout(wait).create().expect("a hub");
    let _master = hub.start().expect("a master");
    let mut slow = hub.attach(0, 0).expect("a core");
    slow.join(CHANNEL).expect("joined");
    let blocked = Blocked::new(&hub);
    let start = Instant::now();
    assert_eq!(slow.join("another"), Err(JoinError::Timeout));
    assert!(start.elapsed() >= wait);
    assert_eq!(slow.joined(), 1);
    std::thread::scope(|scope| {
        let recovery = scope.spawn(|| blocked.expect_recovery(&hub));
        wait_until("the others are done", || {
            while slow.recv().expect("nothing is lost").is_some() {}
            recovery.is_finished()
        });
        // Their cores are still there: only the join that was taken back is counted as a leave.
        let _others = recovery.join().expect("recovered");
        wait_until("the join is taken back", || {
            hub.stats().joins == 3 && hub.stats().leaves == 1
        });
    });
    assert!(hub.subscribers("another").is_empty());
}
