//! What the hot paths cost: no allocation and no system call in send, step and recv while nobody
//! sleeps. Counted, with an allocator of our own and with ptrace; each count is shown to count.
//! That no lock is held is shown in `death.rs`: a sender stopped at any instruction stalls nobody.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use common::{Watchdog, alone, trace, wait_until};
use corecast::{Channel, Core, Hub, Master, Order, Overflow, Timestamps};

const MESSAGES: usize = 100_000;
const CHANNEL: &str = "hot";

/// Counts the allocations of the thread that asks for it.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: passes everything on to the system's allocator; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(at, layout) };
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, new: usize) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
        // SAFETY: the caller's contract.
        unsafe { System.realloc(at, layout, new) }
    }
}

fn allocations(body: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    body();
    ALLOCATIONS.get() - before
}

/// The calls that count. Where the kernel gives no clock to user space, reading the time is a
/// system call, and none of ours.
fn counted(trace: trace::Trace) -> Vec<u64> {
    assert!(trace.is_complete);
    let probe = trace::syscalls(|| {
        trace::mark();
        std::hint::black_box(std::time::SystemTime::now());
        trace::mark();
    });
    let mut calls = trace.calls;
    calls.retain(|call| !probe.calls.contains(call));
    calls
}

/// A sender and a receiver with a backlog, so that the receiver never finds its queue empty: it
/// would say that it sleeps, and would have to be woken.
struct Rig {
    master: Master,
    from: Core,
    to: Core,
    handle: Channel,
}

impl Rig {
    const BACKLOG: usize = 30;

    fn new(config: impl FnOnce(corecast::Builder) -> corecast::Builder) -> Self {
        let hub = config(Hub::builder().workers(2)).create().expect("a hub");
        let mut master = hub.master().expect("a master");
        let [mut from, mut to] = [0, 1].map(|w| hub.attach(w, 0).expect("a core"));
        let ticket = to.join_async(CHANNEL).expect("asked");
        master.poll(Some(Duration::ZERO)).expect("polled");
        to.join_result(ticket).expect("answered").expect("joined");
        let handle = std::thread::scope(|scope| {
            let opening = scope.spawn(|| from.channel(CHANNEL).expect("opened"));
            while !opening.is_finished() {
                master.step();
            }
            opening.join().expect("no panic")
        });
        let mut rig = Self {
            master,
            from,
            to,
            handle,
        };
        (0..Self::BACKLOG).for_each(|_| rig.from.send(CHANNEL, b"backlog").expect("sent"));
        rig.master.step();
        rig
    }

    fn receive(&mut self) {
        let message = self.to.recv().expect("ok").expect("a message");
        assert!(!message.body.is_empty() && message.name == CHANNEL.as_bytes());
    }

    /// Each message sent alone, routed, received.
    fn by_name(&mut self) {
        for _ in 0..MESSAGES {
            self.from.send(CHANNEL, b"sixteen bytes...").expect("sent");
            self.master.step();
            self.receive();
        }
    }

    fn by_handle(&mut self) {
        for _ in 0..MESSAGES {
            self.from
                .send_to(self.handle, b"sixteen bytes...")
                .expect("sent");
            self.master.step();
            self.receive();
        }
    }

    fn many(&mut self) {
        let bodies = [[7u8; 200]; 25];
        for _ in 0..MESSAGES / bodies.len() {
            assert_eq!(self.from.send_many(CHANNEL, &bodies), Ok(bodies.len()));
            self.master.step();
            (0..bodies.len()).for_each(|_| self.receive());
        }
    }

    /// Past the staging buffer, and around the lane and the queue buffers many times.
    fn large(&mut self) {
        let body = [7; 5000];
        for _ in 0..MESSAGES / 10 {
            self.from.send(CHANNEL, &body).expect("sent");
            self.master.step();
            self.receive();
        }
    }

    fn all(&mut self) {
        self.by_name();
        self.by_handle();
        self.many();
        self.large();
    }
}

type Setting = (&'static str, fn(corecast::Builder) -> corecast::Builder);

/// Everything that changes what the hot paths do.
const SETTINGS: [Setting; 5] = [
    ("as it comes", |b| b),
    ("stamped by the sender", |b| {
        b.timestamps(Timestamps::Message)
    }),
    ("not stamped", |b| b.timestamps(Timestamps::Off)),
    ("in the senders' order", |b| b.order(Order::PerSender)),
    ("blocking", |b| b.overflow(Overflow::Block)),
];

#[test]
fn send_step_and_recv_allocate_nothing() {
    let _alone = alone();
    let _watchdog = Watchdog::new(common::LONG);
    for (name, setting) in SETTINGS {
        let mut rig = Rig::new(setting);
        assert_eq!(allocations(|| rig.all()), 0, "{name}");
    }
}

#[test]
fn the_allocator_does_count() {
    let _alone = alone();
    let mut rig = Rig::new(|b| b);
    assert_ne!(allocations(|| drop(Box::new(1))), 0);
    assert_ne!(
        allocations(|| assert!(rig.to.join_async("another").is_ok())),
        0
    );
}

#[test]
fn send_step_and_recv_make_no_system_call() {
    let _alone = alone();
    let _watchdog = Watchdog::new(2 * common::LONG);
    for (name, setting) in SETTINGS {
        let trace = trace::syscalls(|| {
            let mut rig = Rig::new(setting);
            // The first touch of each page is a fault, and so no system call either.
            trace::mark();
            rig.all();
            trace::mark();
        });
        assert_eq!(counted(trace), [0; 0], "{name}");
    }
}

#[test]
fn losing_messages_makes_no_system_call_either() {
    let _alone = alone();
    let _watchdog = Watchdog::new(common::LONG);
    for overflow in [Overflow::DropNewest, Overflow::DropOldest] {
        let trace = trace::syscalls(|| {
            let mut rig = Rig::new(|b| b.overflow(overflow).queue_bytes(8192));
            trace::mark();
            for _ in 0..MESSAGES {
                rig.from.send(CHANNEL, b"sixteen bytes...").expect("sent");
                rig.master.step();
            }
            trace::mark();
            let told = (0..MESSAGES).find_map(|_| {
                rig.master.step(); // tells of the losses once a flip has made room
                rig.to.recv().err()
            });
            assert!(matches!(told, Some(corecast::RecvError::Lagged(_))));
        });
        assert_eq!(counted(trace), [0; 0], "{overflow:?}");
    }
}

#[test]
fn waking_a_receiver_that_sleeps_takes_one_system_call() {
    let _alone = alone();
    let _watchdog = Watchdog::new(common::LONG);
    let trace = trace::syscalls(|| {
        let mut rig = Rig::new(|b| b);
        while rig.to.recv().expect("ok").is_some() {}
        trace::mark();
        for _ in 0..3 {
            rig.from.send(CHANNEL, b"wake up").expect("sent");
            rig.from.send(CHANNEL, b"and another").expect("sent");
            rig.master.step();
            while rig.to.recv().expect("ok").is_some() {}
        }
        trace::mark();
    });
    assert_eq!(counted(trace), [libc::SYS_write as u64; 3]);
}

/// With a master on its own thread that does not sleep meanwhile: the receiver says once per
/// batch that it sleeps, and is woken once. The master itself gives way after a pass of many bytes.
#[test]
fn a_running_master_makes_one_system_call_per_sleeper_and_batch() {
    let _alone = alone();
    const BATCHES: u64 = 20;
    const BATCH: u64 = 2000;
    let _watchdog = Watchdog::new(2 * common::LONG);
    let trace = trace::syscalls(|| {
        let awake = Hub::builder().workers(2).spin(Duration::from_secs(600));
        let hub = awake.create().expect("a hub");
        let _master = hub.start().expect("a master");
        let [mut from, mut to] = [0, 1].map(|w| hub.attach(w, 0).expect("a core"));
        to.join(CHANNEL).expect("joined");
        let handle = from.channel(CHANNEL).expect("opened");
        while to.recv().expect("ok").is_some() {}
        wait_until("the join is counted", || hub.stats().joins == 1);
        // The master may still be at waking those that it has just answered.
        std::thread::sleep(Duration::from_millis(100));
        trace::mark();
        for batch in 1..=BATCHES {
            for _ in 0..BATCH {
                while from.send_to(handle, b"sixteen bytes...").is_err() {
                    std::hint::spin_loop();
                }
            }
            // Reads the counters in shared memory: no system call.
            while hub.stats().messages < batch * BATCH {
                std::hint::spin_loop();
            }
            (0..BATCH).for_each(|_| assert!(to.recv().expect("ok").is_some()));
            assert!(to.recv().expect("ok").is_none());
        }
        trace::mark();
        // SAFETY: ends this process, and with it the master that would not stop for 600 s.
        unsafe { libc::_exit(0) };
    });
    let calls = counted(trace);
    println!("{} calls for {} messages", calls.len(), BATCHES * BATCH);
    let (wakes, others): (Vec<u64>, Vec<u64>) = calls
        .into_iter()
        .partition(|&call| call == libc::SYS_write as u64);
    assert!(wakes.len() as u64 <= BATCHES, "{} wakes", wakes.len());
    let (yields, looks): (Vec<u64>, Vec<u64>) = others
        .into_iter()
        .partition(|&call| call == libc::SYS_sched_yield as u64);
    // A master that was kept from its processor finds half a batch or more in one pass.
    assert!(
        yields.len() as u64 <= 2 * BATCHES,
        "{} yields",
        yields.len()
    );
    // A master under load looks at its descriptors once in many passes.
    assert_eq!(looks, vec![libc::SYS_epoll_wait as u64; looks.len()]);
    assert!(
        looks.len() as u64 <= BATCHES * BATCH / 256,
        "{} looks",
        looks.len()
    );
}
