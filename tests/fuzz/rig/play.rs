//! The play: honest cores on the outer slots, the hostile between two inaccessible ones.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::Reach;
use super::adversary::{Kind, Part, watched};
use crate::memory::Memory;
use crate::router::Router;
use crate::{Config, Core, Hub, JoinTicket, Order, Overflow, RecvError, SendError, Timestamps};

const SENDER: usize = 0;
const HOSTILE: usize = 2;
const RECEIVER: usize = 4;
/// Empty slots, whose lanes and buffers must never be touched.
const GUARDS: [usize; 2] = [1, 3];
/// Where the honest talk.
const STEADY: &str = "steady";
/// Passes after which nothing can be left to do: each routes what a lane can hold.
const PASSES: usize = 64;

/// The router's clock: what the program says.
#[allow(clippy::disallowed_types)]
static CLOCK: AtomicU64 = AtomicU64::new(1);

pub struct Play {
    hub: Hub,
    router: Option<Box<Router>>,
    reach: Reach,
    from: Option<Core>,
    to: Option<Core>,
    hostile: Option<Core>,
    sent: u64,
    received: u64,
    /// Losses that the receiver has been told of.
    lagged: u64,
}

/// Three bits say which kind of hub.
fn config(first: u8) -> Config {
    Config {
        workers: 5,
        cores: 1,
        extra: 0,
        channels: 16,
        lane_bytes: 4096,
        // Room for as many places in a slab as a lane can name: the honest lose nothing by them.
        queue_bytes: 4 << 20,
        slab_bytes: 16 << 10,
        // Those of more than 4 KiB go into the slab, as long as there is room.
        max_message: 5000,
        // Nobody answers while a core waits: this thread is the router, too.
        answer_timeout: Duration::from_millis(1),
        overflow: [Overflow::default(), Overflow::DropOldest, Overflow::Block]
            [usize::from(first) % 3],
        order: [Order::Total, Order::PerSender][usize::from(first >> 2 & 1)],
        timestamps: [Timestamps::Off, Timestamps::Batch, Timestamps::Message]
            [usize::from(first >> 3) % 3],
        ..Config::default()
    }
}

impl Play {
    pub fn new(reach: Reach, first: u8) -> Self {
        let hub = Hub::create(&config(first)).expect("a hub");
        drop(hub.inner.router.lock().take());
        let mut router = Box::new(Router::new(
            hub.inner.view.clone(),
            || CLOCK.load(Relaxed),
            Memory::Own,
        ));
        let [from, mut to, hostile] =
            [SENDER, RECEIVER, HOSTILE].map(|s| hub.attach(s as u32, 0).expect("a core"));
        let ticket = to.join_async(STEADY).expect("asked");
        while router.step() {}
        to.join_result(ticket).expect("answered").expect("joined");
        let play = Self {
            hub,
            router: Some(router),
            reach,
            from: Some(from),
            to: Some(to),
            hostile: Some(hostile),
            sent: 0,
            received: 0,
            lagged: 0,
        };
        play.guard();
        play
    }

    /// Makes the memory of the slots beside the hostile's inaccessible.
    fn guard(&self) {
        let view = &self.hub.inner.view;
        for slot in GUARDS {
            let rings = [(view.ring(slot), view.layout.lane_capacity)];
            let buffers = view
                .buffers(slot)
                .map(|at| (at, view.layout.buffer_capacity));
            for (at, len) in rings.into_iter().chain(buffers) {
                // SAFETY: whole pages of the region (the layout aligns them) that nobody needs.
                let done = unsafe { libc::mprotect(at.cast(), len, libc::PROT_NONE) };
                assert_eq!(done, 0, "mprotect");
            }
        }
    }

    /// What the hostile can write.
    pub fn parts(&self) -> Vec<Part> {
        let view = &self.hub.inner.view;
        let slots = match self.reach {
            Reach::Own => vec![HOSTILE],
            Reach::All => vec![SENDER, HOSTILE, RECEIVER],
        };
        let mut parts = Vec::new();
        let mut add = |at: *const u8, len: usize, is| {
            let bytes = at.addr()..at.addr() + len;
            parts.push(Part { bytes, is });
        };
        for slot in slots {
            add(view.ring(slot), view.layout.lane_capacity, Kind::Ring);
            add(
                std::ptr::from_ref(view.lane_word(slot).get()).cast(),
                8,
                Kind::Word,
            );
            add(
                std::ptr::from_ref(view.bell(slot).get()).cast(),
                8,
                Kind::Word,
            );
            add(
                std::ptr::from_ref(view.slot(slot).get()).cast(),
                8,
                Kind::Word,
            );
            add(
                std::ptr::from_ref(view.control(slot).get()).cast(),
                8,
                Kind::Word,
            );
        }
        if self.reach == Reach::All {
            add(std::ptr::from_ref(view.tickets.get()).cast(), 8, Kind::Word);
        }
        parts
    }

    fn router(&mut self) -> &mut Router {
        self.router.as_mut().expect("there from the start")
    }

    fn step(&mut self) {
        let router = self.router();
        watched(|| router.step());
        self.take_outcome();
    }

    /// What a master would do with system calls.
    fn take_outcome(&mut self) {
        let outcome = &mut self.router().outcome;
        outcome.wakes.dozers.drain(|_| {});
        outcome.wakes.others.drain(|_| {});
        outcome.events.drain(|_| {});
        outcome.owners.drain(|_| {});
        if outcome.barrier {
            self.router().settle();
        }
    }

    pub fn perform(&mut self, program: &[u8]) {
        for act in program.chunks(2) {
            let (what, n) = (act[0], act.get(1).copied().unwrap_or(0));
            self.act(what % 16, n);
            if what & 16 == 0 {
                self.step();
            }
        }
    }

    fn act(&mut self, what: u8, n: u8) {
        match what {
            0 => (0..n % 16).for_each(|_| self.step()),
            1..=6 => self.misuse(what, n),
            7 => {
                let _flip = self.hub.inner.view.control(HOSTILE).flip_or_arm();
            }
            8 => (0..n % 8).for_each(|_| self.talk(n)),
            9 => self.listen(),
            10 => {
                let router = self.router();
                watched(|| router.rest());
            }
            11 => self.replace(),
            12 => CLOCK.store(
                u64::from(n).wrapping_sub(8).wrapping_mul(1 << 57 | 1),
                Relaxed,
            ),
            13 => {
                let router = self.router();
                watched(|| router.look_at(HOSTILE));
            }
            14 => {
                let view = &self.hub.inner.view;
                let _asleep = view.ring_bell(usize::from(n) % view.layout.slots);
            }
            _ => self.forge(n),
        }
    }

    /// The hostile core by the book; what it gets back does not matter.
    fn misuse(&mut self, what: u8, n: u8) {
        let Some(core) = &mut self.hostile else {
            return;
        };
        let own = format!("room {}", n % 32);
        let body = [n; 5000];
        match what {
            1 => drop(core.send(STEADY, &body[..usize::from(n % 32)])),
            2 => drop(core.join_async(&own)),
            3 => drop(core.leave(&own)),
            4 => drop(core.send_many(STEADY, &[&body[..8]; 20][..usize::from(n % 20)])),
            5 => drop(core.send(STEADY, &body[..usize::from(n) * 19])),
            _ if n == 0 => drop(core.leave_all()),
            _ if n < 64 => drop(core.join_async(STEADY)),
            _ => drop(core.send(&own, &body[..usize::from(n)])),
        }
    }

    /// A tail where nothing was written.
    fn forge(&mut self, n: u8) {
        let view = &self.hub.inner.view;
        let tail = view.lane_word(HOSTILE).tail();
        if view
            .lane_word(HOSTILE)
            .publish(tail.wrapping_add(u64::from(n) * 16))
        {
            let _asleep = view.ring_bell(HOSTILE);
        }
    }

    /// The hostile's process dies and another takes its place.
    fn replace(&mut self) {
        let Some(core) = self.hostile.take() else {
            return;
        };
        core.vanish();
        self.die();
        self.hostile = self.attach();
    }

    fn die(&mut self) {
        let router = self.router();
        watched(|| {
            router.look_at(HOSTILE);
            router.reap(HOSTILE);
        });
    }

    /// A core on the hostile's slot, once it is free.
    fn attach(&mut self) -> Option<Core> {
        for _ in 0..PASSES {
            self.step();
            if self.reach == Reach::Own {
                self.listen();
            }
            if self.hub.inner.view.slot(HOSTILE).load().is_free()
                && self.router().owner_pid(HOSTILE).is_none()
            {
                return Some(self.hub.attach(HOSTILE as u32, 0).expect("a free slot"));
            }
        }
        None
    }

    /// One numbered message between the honest.
    fn talk(&mut self, n: u8) {
        let Some(from) = &mut self.from else { return };
        let mut body = [0; 300];
        body[..8].copy_from_slice(&self.sent.to_le_bytes());
        let len = 8 + usize::from(n) % 290;
        match from.send(STEADY, &body[..len]) {
            Ok(()) => self.sent += 1,
            Err(SendError::Full) => {}
            Err(e) if self.reach == Reach::Own => panic!("the honest sender: {e}"),
            Err(_) => {}
        }
    }

    fn listen(&mut self) {
        if self.reach == Reach::All {
            let _flip = self.hub.inner.view.control(RECEIVER).flip_or_arm();
            return;
        }
        let Some(to) = &mut self.to else { return };
        loop {
            match to.recv() {
                Ok(Some(m)) if m.sender.worker == SENDER as u32 => {
                    assert_eq!(m.name, STEADY.as_bytes());
                    assert_eq!(m.body[..8], self.received.to_le_bytes(), "lost or twice");
                    self.received += 1;
                }
                Ok(Some(m)) => assert_eq!(m.sender.worker, HOSTILE as u32),
                Ok(None) => return,
                Err(RecvError::Lagged(n)) => self.lagged += n,
                Err(e) => panic!("the honest receiver: {e}"),
            }
            assert_eq!(self.lagged, 0, "it listens often enough to lose nothing");
        }
    }

    /// After the attack: the hostile ends, what it held comes back, and its slot serves another.
    pub fn finish(mut self) {
        if let Some(core) = self.hostile.take() {
            core.vanish();
        }
        if self.reach == Reach::Own {
            self.settle();
        }
        for core in [self.from.take(), self.to.take(), self.hostile.take()] {
            core.into_iter().for_each(Core::vanish);
        }
    }

    fn settle(&mut self) {
        self.die();
        self.hostile = self.attach();
        let Some(heir) = self.hostile.as_mut() else {
            let word = self.hub.inner.view.slot(HOSTILE).load();
            panic!("the slot of the dead is not free again: {word:?}");
        };
        let ticket = heir.join_async(STEADY).expect("asked");
        self.talk(0);
        for _ in 0..PASSES {
            self.step();
            self.listen();
        }
        assert_eq!(self.received, self.sent, "not everything came");
        for slot in [SENDER, RECEIVER, HOSTILE] {
            assert!(
                self.router().owner_pid(slot).is_some(),
                "slot {slot} was cut off"
            );
        }
        self.check_heir(ticket);
        let stats = self.router().stats;
        assert_eq!((stats.cores, stats.channels), (3, 1), "{stats:?}");
        assert_eq!((stats.subscriptions, stats.lost), (2, 0), "{stats:?}");
        assert!(stats.violations >= stats.quarantined, "{stats:?}");
    }

    /// Who got the slot after the hostile joins, receives and sends like anybody.
    fn check_heir(&mut self, ticket: JoinTicket) {
        let heir = self.hostile.as_mut().expect("attached");
        heir.join_result(ticket).expect("answered").expect("joined");
        heir.send(STEADY, b"from the heir").expect("sent");
        self.talk(0);
        (0..PASSES).for_each(|_| self.step());
        let heir = self.hostile.as_mut().expect("attached");
        let mut heard = [0; 5];
        while let Some(message) = heir.recv().expect("no loss") {
            heard[message.sender.worker as usize] += 1;
        }
        // Without a total order, what was sent right after the join may not be its.
        assert!(
            matches!(heard, [1 | 2, 0, 1, 0, 0]),
            "the heir heard {heard:?}"
        );
        self.listen();
    }
}
