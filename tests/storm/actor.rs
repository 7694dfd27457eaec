//! One core in the storm: joins, leaves, sends and receives at random, and writes everything down.

use std::sync::atomic::Ordering;
use std::time::Duration;

use corecast::{Channel, Core, JoinError, JoinTicket, Message, RecvError, SendError};

use super::super::common::Rng;
use super::body;
use super::log::{Event, Id, Log};
use super::stage::{CHANNELS, Stage, channel_name};

/// Messages sent in one go at most.
const BURST: u64 = 32;
/// Messages received in one go at most, so that sending gets its turn.
const GULP: usize = 512;

/// Where the core stands with a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Out,
    Asked(JoinTicket),
    In,
    /// Leaves once its own message number `marker`, begun at `stamp`, has come back: by the
    /// promised order everything sent before has come too.
    Leaving {
        marker: u32,
        stamp: u64,
    },
}

pub struct Actor {
    core: Core,
    stage: Stage,
    log: Log,
    rng: Rng,
    slot: u32,
    incarnation: u32,
    /// Number of the next message.
    seq: u32,
    /// Place in the log of the next message, if it was refused before.
    refused: Option<(usize, u32)>,
    standings: [Standing; CHANNELS],
    handles: [Channel; CHANNELS],
    /// Messages this core may still send of those it has taken from the budget.
    share: u64,
    scratch: Vec<u8>,
    is_done: bool,
}

impl Actor {
    /// Takes over a core that has just attached.
    pub fn new(mut core: Core, stage: Stage, slot: u32, incarnation: u32) -> Self {
        // Before the first join: a hub that blocks could otherwise wait for this core's queue
        // while this core waits for the hub.
        let handles = std::array::from_fn(|c| core.channel(channel_name(c)).expect("opened"));
        let log = stage.log(slot);
        log.push(Event::Attached { incarnation });
        Self {
            core,
            stage,
            log,
            rng: Rng::new(u64::from(slot) << 32 | u64::from(incarnation + 1)),
            slot,
            incarnation,
            seq: 0,
            refused: None,
            standings: [Standing::Out; CHANNELS],
            handles,
            share: 0,
            scratch: Vec::with_capacity(body::LARGEST),
            is_done: false,
        }
    }

    pub fn core(&self) -> &Core {
        &self.core
    }

    /// A bit of everything, without waiting; false when there was nothing to do.
    pub fn turn(&mut self) -> bool {
        let received = self.receive();
        self.harvest();
        let sent = self.send_some();
        if self.stage.is_over() {
            self.wind_up();
        } else if self.rng.one_in(16) {
            let channel = self.rng.below(CHANNELS as u64) as usize;
            self.toggle(channel);
        }
        received || sent
    }

    /// Sleeps until something arrives, a little while at most.
    pub fn nap(&mut self) {
        let event = match self.core.recv_timeout(Duration::from_millis(2)) {
            Ok(Some(message)) => judge(&message),
            Ok(None) => return,
            Err(error) => failure(error),
        };
        self.got(event);
    }

    pub fn is_done(&self) -> bool {
        self.is_done
    }

    fn receive(&mut self) -> bool {
        for taken in 0..GULP {
            let event = match self.core.recv() {
                Ok(Some(message)) => judge(&message),
                Ok(None) => return taken > 0,
                Err(error) => failure(error),
            };
            self.got(event);
        }
        true
    }

    fn got(&mut self, event: Event) {
        self.log.push(event);
        let Event::Got { id, channel, .. } = event else {
            return;
        };
        let Standing::Leaving { marker, stamp } = self.standings[channel as usize] else {
            return;
        };
        let is_mine = (id.slot, id.incarnation) == (self.slot, self.incarnation);
        if is_mine && id.seq == marker {
            self.leave(channel, stamp);
        }
    }

    fn leave(&mut self, channel: u32, stamp: u64) {
        self.log.push(Event::Leaving { channel, stamp });
        let name = channel_name(channel as usize);
        self.core.leave(name).expect("left");
        self.log.push(Event::Left { channel });
        self.standings[channel as usize] = Standing::Out;
    }

    /// Takes over the answers to joins.
    fn harvest(&mut self) {
        for channel in 0..CHANNELS {
            let Standing::Asked(ticket) = self.standings[channel] else {
                continue;
            };
            if let Some(answer) = self.core.join_result(ticket) {
                answer.expect("joined");
                let (channel, stamp) = (channel as u32, self.stage.tick());
                self.log.push(Event::Joined { channel, stamp });
                self.standings[channel as usize] = Standing::In;
            }
        }
    }

    fn toggle(&mut self, channel: usize) {
        match self.standings[channel] {
            Standing::Out => self.ask(channel),
            Standing::In => self.start_leaving(channel),
            _ => {}
        }
    }

    fn ask(&mut self, channel: usize) {
        match self.core.join_async(channel_name(channel)) {
            Ok(ticket) => self.standings[channel] = Standing::Asked(ticket),
            Err(JoinError::Full) => return,
            Err(error) => panic!("join: {error}"),
        }
        // After the call, but before anything is received.
        self.log.push(Event::Asked {
            channel: channel as u32,
        });
    }

    fn start_leaving(&mut self, channel: usize) {
        if self.refused.is_some() {
            return; // first the message that is waiting, whose channel is fixed
        }
        let marker = self.seq;
        if let Some(stamp) = self.send(channel as u32) {
            self.standings[channel] = Standing::Leaving { marker, stamp };
        }
    }

    fn send_some(&mut self) -> bool {
        if self.share == 0 {
            self.share = self.stage.take_budget(self.rng.below(BURST) + 1);
        }
        let before = self.share;
        while self.share > 0 {
            let channel = self.rng.below(CHANNELS as u64) as u32;
            let channel = self.refused.map_or(channel, |(_, channel)| channel);
            if self.send(channel).is_none() {
                break;
            }
            self.share -= 1;
        }
        self.share < before
    }

    /// Sends the next message; None if the lane is full. Returns the stamp of the beginning.
    fn send(&mut self, channel: u32) -> Option<u64> {
        let id = Id {
            slot: self.slot,
            incarnation: self.incarnation,
            seq: self.seq,
        };
        let len = self.length();
        let mut scratch = std::mem::take(&mut self.scratch);
        body::write(id, len, &mut scratch);
        let begin = self.stage.now();
        let place = self.note_beginning(channel, begin);
        let result = if self.seq % 2 == 0 {
            self.core.send(channel_name(channel as usize), &scratch)
        } else {
            self.core.send_to(self.handles[channel as usize], &scratch)
        };
        self.scratch = scratch;
        match result {
            Ok(()) => self.log.set_returned(place, self.stage.tick()),
            Err(SendError::Full) => {
                self.refused = Some((place, channel));
                return None;
            }
            Err(error) => panic!("send: {error}"),
        }
        self.seq += 1;
        self.refused = None;
        Some(begin)
    }

    /// Written before the call: a core may be killed in it.
    fn note_beginning(&mut self, channel: u32, begin: u64) -> usize {
        let event = Event::Sent {
            channel,
            begin,
            returned: 0,
        };
        match self.refused {
            Some((place, _)) => {
                self.log.set(place, event);
                place
            }
            None => self.log.push(event),
        }
    }

    fn length(&mut self) -> usize {
        let largest = match self.rng.below(2048) {
            0 => body::LARGEST,
            1..=200 => 2000,
            _ => 100,
        };
        let range = (largest - body::SMALLEST) as u64;
        body::SMALLEST + self.rng.below(range) as usize
    }

    /// Nobody starts anything new: finishes what is under way and leaves every channel.
    fn wind_up(&mut self) {
        if self.share > 0 || self.refused.is_some() {
            return;
        }
        for channel in 0..CHANNELS {
            if self.standings[channel] == Standing::In {
                self.start_leaving(channel);
            }
        }
        if self.standings == [Standing::Out; CHANNELS] && !self.is_done {
            self.log.push(Event::Done);
            self.is_done = true;
        }
    }
}

/// What the log says about a received message.
fn judge(message: &Message<'_>) -> Event {
    let Some(id) = body::read(message.body) else {
        return Event::Torn;
    };
    let channel = (0..CHANNELS).position(|c| channel_name(c).as_bytes() == message.name);
    let from = Stage::slot_of(message.sender);
    match channel {
        Some(channel) if from == id.slot => Event::Got {
            id,
            channel: channel as u32,
            ticket: message.ticket,
        },
        _ => Event::Torn,
    }
}

fn failure(error: RecvError) -> Event {
    match error {
        RecvError::Lagged(count) => Event::Lagged { count },
        error => panic!("recv: {error}"),
    }
}

impl Stage {
    /// Part of the storm's messages, as much as is left.
    fn take_budget(&self, wanted: u64) -> u64 {
        let left = self.budget().load(Ordering::Relaxed);
        if left == 0 {
            return 0;
        }
        let take = |left: u64| Some(left - wanted.min(left));
        let before = self
            .budget()
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        before.map_or(0, |left| wanted.min(left))
    }
}
