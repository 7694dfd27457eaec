//! Honest workers, what they have sent and received, and the judge of it.
//!
//! Stamps come from one clock shared by all: a worker reads it before a send begins and steps it
//! after the send has returned, so `returned(a) <= begin(b)` means that `a` had returned before `b`
//! began.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use corecast::Hub;

use super::common::shared_words;

pub const SENDERS: u32 = 3;
pub const CHANNEL: &str = "isolation";
/// Messages of one sender on their way at most: so that nothing is lost for want of room.
const WINDOW: u64 = 200;
/// Most messages of one sender.
const MOST: usize = 200_000;

const CLOCK: usize = 0;
const READY: usize = 16;
const OVER: usize = 32;
const STORES: usize = 48;
const TORN: usize = 64;
/// Messages sent by each sender, once it has finished.
const SENT: usize = 80;
const HEAD: usize = 128;
/// Per sender: begin and return of each message.
const STAMPS: usize = 2 * MOST;
/// Per receiver: a count, then what came.
const GOT: usize = 1 + SENDERS as usize * MOST;

/// What all processes of the test share besides the hub.
#[derive(Clone, Copy, Debug)]
pub struct Stage(&'static [AtomicU64]);

/// A message: its sender and number.
pub type Id = (u32, u64);

/// What happened.
#[derive(Clone, Debug, Default)]
pub struct Logs {
    /// By sender: begin and return of each message.
    pub sent: Vec<Vec<(u64, u64)>>,
    /// By receiver: what came, in order.
    pub got: Vec<Vec<Id>>,
    pub torn: u64,
}

#[derive(Debug, Default)]
pub struct Verdict {
    pub messages: u64,
    pub deliveries: u64,
    pub lost: u64,
    pub doubled: u64,
    pub torn: u64,
    /// Places where a receiver's order is not that of the first.
    pub disagreements: u64,
    /// Messages that came after one whose send began after theirs had returned.
    pub inversions: u64,
}

impl Verdict {
    pub fn is_clean(&self) -> bool {
        let damage = [
            self.lost,
            self.doubled,
            self.torn,
            self.disagreements,
            self.inversions,
        ];
        damage == [0; 5]
    }
}

impl Stage {
    pub fn new() -> Self {
        let each = SENDERS as usize * (STAMPS + GOT);
        let stage = Self(shared_words(HEAD + each));
        stage.0[CLOCK].store(1, Ordering::SeqCst);
        stage
    }

    pub fn ready(self) -> u64 {
        self.0[READY].load(Ordering::SeqCst)
    }

    pub fn end(self) {
        self.0[OVER].store(1, Ordering::SeqCst);
    }

    pub fn stored(self) {
        self.0[STORES].fetch_add(1, Ordering::Relaxed);
    }

    pub fn stores(self) -> u64 {
        self.0[STORES].load(Ordering::Relaxed)
    }

    fn now(self) -> u64 {
        self.0[CLOCK].load(Ordering::SeqCst)
    }

    fn tick(self) -> u64 {
        self.0[CLOCK].fetch_add(1, Ordering::SeqCst) + 1
    }

    fn stamps(self, sender: u32) -> &'static [AtomicU64] {
        let start = HEAD + sender as usize * STAMPS;
        &self.0[start..start + STAMPS]
    }

    fn got(self, receiver: u32) -> &'static [AtomicU64] {
        let start = HEAD + SENDERS as usize * STAMPS + receiver as usize * GOT;
        &self.0[start..start + GOT]
    }

    pub fn logs(self) -> Logs {
        let load = |word: &AtomicU64| word.load(Ordering::SeqCst);
        let sent = (0..SENDERS).map(|sender| {
            let count = load(&self.0[SENT + sender as usize]) as usize;
            let stamps = &self.stamps(sender)[..2 * count];
            stamps
                .chunks(2)
                .map(|s| (load(&s[0]), load(&s[1])))
                .collect()
        });
        let got = (0..SENDERS).map(|receiver| {
            let words = self.got(receiver);
            let ids = &words[1..][..load(&words[0]) as usize];
            ids.iter()
                .map(load)
                .map(|id| ((id >> 48) as u32, id & 0xffff_ffff_ffff))
                .collect()
        });
        Logs {
            sent: sent.collect(),
            got: got.collect(),
            torn: load(&self.0[TORN]),
        }
    }
}

/// The body of a message: its number, and as many bytes of it over and over as the number says.
fn body(seq: u64, buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.extend_from_slice(&seq.to_le_bytes());
    // Mostly small, some too large to be staged.
    let len = if seq % 50 == 0 { 3000 } else { seq % 90 };
    buffer.extend((0..len).map(|i| (seq.wrapping_mul(31) + i) as u8));
}

/// An honest worker: sends as long as the test goes on, receives all there is, and writes down both.
pub fn run(hub: &Hub, stage: Stage, sender: u32) {
    let mut core = hub.attach(1 + sender, 0).expect("a core");
    core.join(CHANNEL).expect("joined");
    stage.0[READY].fetch_add(1, Ordering::SeqCst);
    while stage.ready() < SENDERS.into() {
        std::thread::yield_now();
    }
    let (stamps, got) = (stage.stamps(sender), stage.got(sender));
    let (mut sent, mut back) = (0u64, 0u64);
    let (mut buffer, mut expected) = (Vec::new(), Vec::new());
    let mut quiet = 0;
    // Once all have stopped sending, what is still to come comes soon or never.
    while (stage.0[OVER].load(Ordering::SeqCst) == 0 || !is_complete(stage, got)) && quiet < 20_000
    {
        let over = stage.0[OVER].load(Ordering::SeqCst) != 0 || sent as usize == MOST;
        if over {
            stage.0[SENT + sender as usize].store(sent, Ordering::SeqCst);
        }
        let burst = if over {
            0
        } else {
            16.min(WINDOW - (sent - back))
        };
        for _ in 0..burst {
            body(sent, &mut buffer);
            stamps[2 * sent as usize].store(stage.now(), Ordering::Relaxed);
            match core.send(CHANNEL, &buffer) {
                Ok(()) => stamps[2 * sent as usize + 1].store(stage.tick(), Ordering::Relaxed),
                Err(corecast::SendError::Full) => break,
                Err(error) => panic!("send: {error}"),
            }
            sent += 1;
            if sent as usize == MOST {
                break;
            }
        }
        let before = got[0].load(Ordering::Relaxed);
        while let Some(message) = core.recv_timeout(Duration::ZERO).expect("nothing lost") {
            if message.sender.worker == 0 {
                continue; // the offender's, whatever it is
            }
            let from = message.sender.worker - 1;
            let seq = message.body.first_chunk();
            let seq = seq.map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes));
            body(seq, &mut expected);
            if expected != message.body {
                stage.0[TORN].fetch_add(1, Ordering::SeqCst);
                continue;
            }
            let at = got[0].load(Ordering::Relaxed);
            got[1 + at as usize].store(u64::from(from) << 48 | seq, Ordering::Relaxed);
            got[0].store(at + 1, Ordering::Release);
            back += u64::from(from == sender);
        }
        let idle = got[0].load(Ordering::Relaxed) == before;
        if idle {
            std::thread::sleep(Duration::from_micros(50));
        }
        quiet = if idle && over { quiet + 1 } else { 0 };
    }
}

/// All have stopped sending, and this one has got as much as they have sent.
fn is_complete(stage: Stage, got: &[AtomicU64]) -> bool {
    let sent = stage.0[SENT..SENT + SENDERS as usize].iter();
    let mut sent = sent.map(|n| n.load(Ordering::SeqCst));
    let mut sum = 0;
    let all_stopped = sent.all(|n| {
        sum += n;
        n > 0
    });
    all_stopped && got[0].load(Ordering::Relaxed) >= sum
}

/// Everybody must have received everything, once, in one order that explains who sent when.
pub fn judge(logs: &Logs) -> Verdict {
    let mut verdict = Verdict {
        messages: logs.sent.iter().map(|s| s.len() as u64).sum(),
        deliveries: logs.got.iter().map(|g| g.len() as u64).sum(),
        torn: logs.torn,
        ..Verdict::default()
    };
    for got in &logs.got {
        let mut seen: Vec<Vec<u32>> = logs.sent.iter().map(|s| vec![0; s.len()]).collect();
        for &(sender, seq) in got {
            match seen
                .get_mut(sender as usize)
                .and_then(|s| s.get_mut(seq as usize))
            {
                Some(count) => *count += 1,
                None => verdict.torn += 1,
            }
        }
        let counts = seen.iter().flatten();
        verdict.lost += counts.clone().filter(|&&n| n == 0).count() as u64;
        verdict.doubled += counts.filter(|&&n| n > 1).count() as u64;
        let places = got.iter().zip(&logs.got[0]);
        verdict.disagreements += places.filter(|(a, b)| a != b).count() as u64;
    }
    let mut latest_begin = 0;
    for &(sender, seq) in &logs.got[0] {
        let stamps = logs
            .sent
            .get(sender as usize)
            .and_then(|s| s.get(seq as usize));
        let Some(&(begin, returned)) = stamps else {
            continue;
        };
        verdict.inversions += u64::from(returned <= latest_begin);
        latest_begin = latest_begin.max(begin);
    }
    verdict
}

/// A history as it should be: two senders, two messages each, one after the other.
pub fn forged() -> Logs {
    let order = vec![(0, 0), (1, 0), (0, 1), (1, 1)];
    Logs {
        sent: vec![vec![(1, 2), (3, 4)], vec![(2, 3), (4, 5)]],
        got: vec![order; 2],
        torn: 0,
    }
}
