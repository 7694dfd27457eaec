//! What a core did, written down in memory that outlives it.
//!
//! One log per slot. Each event is four words; the count is stored after the event, so that a core
//! killed at any point leaves whole events. Stamps come from one clock shared by all: a core reads
//! it before a call begins and steps it after a call has returned, so `returned(a) <= begin(b)`
//! means that `a` had returned before `b` began.

use std::sync::atomic::{AtomicU64, Ordering};

/// Something a core did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A new life: this process has attached to the slot.
    Attached { incarnation: u32 },
    /// Sent its next message. `returned` is 0 if the call has not returned (yet).
    Sent {
        channel: u32,
        begin: u64,
        returned: u64,
    },
    /// Received a message.
    Got { id: Id, channel: u32, ticket: u64 },
    /// Received something that nobody can have sent like that.
    Torn,
    /// Was told of losses.
    Lagged { count: u64 },
    /// Has asked to join.
    Asked { channel: u32 },
    /// The join has been answered.
    Joined { channel: u32, stamp: u64 },
    /// Is about to leave, having received a message of its own whose sending began at `stamp`.
    Leaving { channel: u32, stamp: u64 },
    /// Leaving has returned.
    Left { channel: u32 },
    /// Detaches: this life was not cut short.
    Done,
}

/// Which message: the `seq`-th of a life of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id {
    pub slot: u32,
    pub incarnation: u32,
    pub seq: u32,
}

impl Event {
    fn pack(self) -> [u64; 4] {
        match self {
            Self::Attached { incarnation } => [0, incarnation.into(), 0, 0],
            Self::Sent {
                channel,
                begin,
                returned,
            } => [1, channel.into(), begin, returned],
            Self::Got {
                id,
                channel,
                ticket,
            } => {
                let who = u64::from(id.slot) << 32 | u64::from(id.incarnation);
                [2 | u64::from(channel) << 8, who, id.seq.into(), ticket]
            }
            Self::Torn => [3, 0, 0, 0],
            Self::Lagged { count } => [4, count, 0, 0],
            Self::Asked { channel } => [5, channel.into(), 0, 0],
            Self::Joined { channel, stamp } => [6, channel.into(), stamp, 0],
            Self::Leaving { channel, stamp } => [7, channel.into(), stamp, 0],
            Self::Left { channel } => [8, channel.into(), 0, 0],
            Self::Done => [9, 0, 0, 0],
        }
    }

    fn unpack(words: [u64; 4]) -> Self {
        let [tag, a, b, c] = words;
        let channel = a as u32;
        match tag & 0xff {
            0 => Self::Attached {
                incarnation: a as u32,
            },
            1 => Self::Sent {
                channel,
                begin: b,
                returned: c,
            },
            2 => Self::Got {
                id: Id {
                    slot: (a >> 32) as u32,
                    incarnation: a as u32,
                    seq: b as u32,
                },
                channel: (tag >> 8) as u32,
                ticket: c,
            },
            3 => Self::Torn,
            4 => Self::Lagged { count: a },
            5 => Self::Asked { channel },
            6 => Self::Joined { channel, stamp: b },
            7 => Self::Leaving { channel, stamp: b },
            8 => Self::Left { channel },
            _ => Self::Done,
        }
    }
}

/// One slot's log.
#[derive(Clone, Copy, Debug)]
pub struct Log(&'static [AtomicU64]);

impl Log {
    /// A log in `words`: a count, then the events.
    pub fn new(words: &'static [AtomicU64]) -> Self {
        Self(words)
    }

    /// Words that `events` events take.
    pub const fn words(events: usize) -> usize {
        4 * (events + 1)
    }

    pub fn len(self) -> usize {
        self.0[0].load(Ordering::Acquire) as usize
    }

    /// Appends an event and returns its place.
    pub fn push(self, event: Event) -> usize {
        let at = self.len();
        self.set(at, event);
        self.0[0].store(at as u64 + 1, Ordering::Release);
        at
    }

    /// Writes the event at `at` anew.
    pub fn set(self, at: usize, event: Event) {
        let words = &self.0[4 * (at + 1)..4 * (at + 2)];
        for (word, value) in words.iter().zip(event.pack()) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Sets the `returned` stamp of the [`Event::Sent`] at `at`.
    pub fn set_returned(self, at: usize, stamp: u64) {
        self.0[4 * (at + 1) + 3].store(stamp, Ordering::Relaxed);
    }

    pub fn get(self, at: usize) -> Event {
        let words = &self.0[4 * (at + 1)..4 * (at + 2)];
        Event::unpack(std::array::from_fn(|i| words[i].load(Ordering::Relaxed)))
    }

    /// All events so far.
    pub fn events(self) -> Vec<Event> {
        (0..self.len()).map(|at| self.get(at)).collect()
    }
}
