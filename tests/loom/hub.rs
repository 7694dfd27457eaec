//! Two lanes, their senders and the router's way of collecting, as in `core/send.rs`, `router.rs`
//! and `master.rs`.

use super::Plain;
use crate::doorbell::{Bell, Sleep};
use crate::lane::LaneWord;
use crate::sync::{AtomicU64, Ordering};
use crate::ticket::{LastTicket, Tickets};

pub const LANES: usize = 2;
/// Records that a lane holds; positions are not used twice.
const RECORDS: usize = 2;
/// Bytes per record: the unit of tails.
pub const SIZE: u64 = 16;

/// A message: its ticket and its number.
#[derive(Clone, Copy, Debug, Default)]
pub struct Record {
    pub ticket: u64,
    pub body: u32,
}

pub struct Lane {
    pub word: LaneWord,
    records: [Plain<Record>; RECORDS],
}

pub struct Hub {
    pub lanes: [Lane; LANES],
    pub tickets: Tickets,
    /// Each lane is of an owner of its own.
    pub bells: [Bell; LANES],
    pub sleep: Sleep,
    /// Notifications that the router has not taken.
    pub eventfd: AtomicU64,
}

impl Hub {
    /// A hub whose router has armed the lanes that are not `active`.
    pub fn new(active: [bool; LANES]) -> Self {
        Self {
            lanes: active.map(Lane::new),
            tickets: Tickets::new(0),
            bells: std::array::from_fn(|_| Bell::new()),
            sleep: Sleep::new(),
            eventfd: AtomicU64::new(0),
        }
    }

    pub fn ring(&self, slot: usize) {
        if self.bells[slot].ring(0, &self.sleep) {
            self.notify();
        }
    }

    pub fn notify(&self) {
        // Release: a system call orders at least as much.
        self.eventfd.fetch_add(1, Ordering::Release);
    }

    /// `Bells::is_rung`.
    pub fn is_rung(&self) -> bool {
        self.bells.iter().any(|bell| bell.rung() != 0)
    }

    /// `Router::try_sleep`.
    pub fn try_sleep(&self) -> bool {
        self.sleep.try_sleep(|| self.is_rung())
    }
}

impl Lane {
    fn new(active: bool) -> Self {
        let word = LaneWord::new();
        if active {
            let _ = word.publish(0); // disarms
        }
        Self {
            word,
            records: std::array::from_fn(|_| Plain::default()),
        }
    }

    /// Publishes the lane's first record, without a ticket; true when the doorbell must be rung.
    pub fn publish_one(&self, body: u32) -> bool {
        self.records[0].set(Record { ticket: 0, body });
        self.word.publish(SIZE)
    }
}

/// The producer of one lane.
pub struct Sender {
    slot: usize,
    tail: u64,
    last: LastTicket,
    /// Off: every send draws.
    reuses: bool,
    /// How it publishes; None: by the swap, whatever the lane's bias.
    bias: Option<Bias>,
}

/// A sender that heeds the bias of its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bias {
    /// The lane was biased when it last looked.
    pub is_on: bool,
    pub how: Heed,
}

/// What it does about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heed {
    /// As it does.
    Real,
    /// Does not ring when it finds that the bias has been revoked.
    Silently,
    /// Rings, then takes the bias.
    RingsFirst,
}

impl Sender {
    pub fn new(slot: usize, reuses: bool) -> Self {
        Self {
            slot,
            tail: 0,
            last: LastTicket::default(),
            reuses,
            bias: None,
        }
    }

    pub fn with_bias(slot: usize, bias: Bias) -> Self {
        Self {
            bias: Some(bias),
            ..Self::new(slot, true)
        }
    }

    pub fn send(&mut self, hub: &Hub, body: u32) {
        if !self.reuses {
            self.last = LastTicket::default();
        }
        let ticket = hub.tickets.next(&mut self.last, || 0, || 0);
        self.send_with(hub, Record { ticket, body });
    }

    /// A send in a hub that keeps no order between senders: no ticket.
    pub fn send_unordered(&mut self, hub: &Hub, body: u32) {
        self.send_with(hub, Record { ticket: 0, body });
    }

    fn send_with(&mut self, hub: &Hub, record: Record) {
        let lane = &hub.lanes[self.slot];
        lane.records[(self.tail / SIZE) as usize].set(record);
        self.tail += SIZE;
        match &mut self.bias {
            None => {
                if lane.word.publish(self.tail) {
                    hub.ring(self.slot);
                }
            }
            Some(bias) => bias.publish(hub, self.slot, self.tail),
        }
    }
}

impl Bias {
    /// `Core::publish`.
    fn publish(&mut self, hub: &Hub, slot: usize, tail: u64) {
        let word = &hub.lanes[slot].word;
        let must_ring = if self.is_on {
            !word.publish_biased(tail)
        } else {
            word.publish(tail)
        };
        if !must_ring {
            self.is_on = self.is_on || word.is_biased();
            return;
        }
        match self.how {
            Heed::Silently if self.is_on => self.is_on = false,
            Heed::RingsFirst => {
                hub.ring(slot);
                self.is_on = word.take_bias();
            }
            _ => {
                self.is_on = word.take_bias();
                hub.ring(slot);
            }
        }
    }
}

/// How the router collects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collect {
    /// As it does.
    Real,
    /// With a cut, even if only one lane is active.
    AlwaysCut,
    /// The same, cutting at the counter as it stands: no draw.
    CutWithoutDraw,
    /// The same, taking the doorbell before the draw.
    DoorbellBeforeCut,
    /// One active lane: not looking at the doorbell.
    SoleWithoutDoorbell,
    /// One active lane: the doorbell before the tail.
    SoleDoorbellFirst,
    /// Without tickets, for a hub that keeps no order between senders.
    PerSender,
}

pub struct Router {
    how: Collect,
    pub active: [bool; LANES],
    /// Everything below has been delivered.
    pub heads: [u64; LANES],
    ends: [u64; LANES],
    /// Numbers of the messages, in the order that every subscriber sees.
    pub delivered: Vec<u32>,
}

impl Router {
    pub fn new(how: Collect, active: [bool; LANES]) -> Self {
        Self {
            how,
            active,
            heads: [0; LANES],
            ends: [0; LANES],
            delivered: Vec::new(),
        }
    }

    /// Collects and delivers.
    pub fn pass(&mut self, hub: &Hub) {
        let cut = self.collect(hub);
        while let Some((slot, record)) = self.first_below(hub, cut) {
            self.heads[slot] += SIZE;
            self.delivered.push(record.body);
        }
    }

    /// Passes, as they should be, until one finds nothing; for when the senders are done.
    pub fn finish(&mut self, hub: &Hub) {
        if self.how != Collect::PerSender {
            self.how = Collect::Real;
        }
        loop {
            let before = self.delivered.len();
            self.pass(hub);
            if self.delivered.len() == before {
                return;
            }
        }
    }

    /// `Router::rest`: arms what is empty; false when there is news.
    pub fn rest(&mut self, hub: &Hub) -> bool {
        for slot in 0..LANES {
            if self.active[slot] && self.heads[slot] == self.ends[slot] {
                if !hub.lanes[slot].word.arm(self.heads[slot]) {
                    return false;
                }
                self.active[slot] = false;
            }
        }
        true
    }

    /// `Router::collect`. Tickets below the result may be delivered.
    fn collect(&mut self, hub: &Hub) -> u64 {
        if self.how == Collect::PerSender {
            self.take_doorbell(hub);
            self.extend_all(hub);
            return u64::MAX;
        }
        if self.active == [false; LANES] {
            self.take_doorbell(hub);
        }
        if self.collect_sole(hub) {
            return u64::MAX;
        }
        if self.active == [false; LANES] {
            return 0;
        }
        if self.how == Collect::DoorbellBeforeCut {
            self.take_doorbell(hub);
        }
        let cut = match self.how {
            Collect::CutWithoutDraw => hub.tickets.peek(),
            _ => hub.tickets.cut(0, || 0),
        };
        if self.how != Collect::DoorbellBeforeCut {
            self.take_doorbell(hub);
        }
        self.extend_all(hub);
        cut
    }

    /// `Router::collect_sole`.
    fn collect_sole(&mut self, hub: &Hub) -> bool {
        let slot = match self.active {
            [true, false] => 0,
            [false, true] => 1,
            _ => return false,
        };
        let tail = || hub.lanes[slot].word.read().tail();
        let (tail, rung) = match self.how {
            Collect::Real => (tail(), hub.is_rung()),
            Collect::SoleWithoutDoorbell => (tail(), false),
            Collect::SoleDoorbellFirst => {
                let rung = hub.is_rung();
                (tail(), rung)
            }
            _ => return false,
        };
        if rung {
            return false;
        }
        self.ends[slot] = tail;
        true
    }

    fn take_doorbell(&mut self, hub: &Hub) {
        for (active, bell) in self.active.iter_mut().zip(&hub.bells) {
            *active |= bell.take() != 0;
        }
    }

    fn extend_all(&mut self, hub: &Hub) {
        for slot in 0..LANES {
            if self.active[slot] {
                self.ends[slot] = hub.lanes[slot].word.read().tail();
            }
        }
    }

    /// The record with the smallest ticket, if it is below the cut.
    fn first_below(&self, hub: &Hub, cut: u64) -> Option<(usize, Record)> {
        (0..LANES)
            .filter(|&slot| self.heads[slot] < self.ends[slot])
            .map(|slot| {
                (
                    slot,
                    hub.lanes[slot].records[(self.heads[slot] / SIZE) as usize].get(),
                )
            })
            .filter(|(_, record)| record.ticket < cut)
            .min_by_key(|(_, record)| record.ticket)
    }
}

/// Fails unless every number of `sent` was delivered once, and `early` before `late`.
pub fn check(delivered: &[u32], sent: &[u32], order: &[(u32, u32)]) {
    let place = |n| delivered.iter().position(|&d| d == n);
    assert!(
        delivered.len() == sent.len() && sent.iter().all(|&n| place(n).is_some()),
        "lost or doubled: sent {sent:?}, delivered {delivered:?}"
    );
    for &(early, late) in order {
        if place(late).is_some() {
            assert!(
                place(early) < place(late),
                "inversion: {early} {late} in {delivered:?}"
            );
        }
    }
}
