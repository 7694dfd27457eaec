//! What all processes of a storm share, besides the hub: the clock, the budget, the logs.

use std::sync::atomic::{AtomicU64, Ordering};

use corecast::Sender;

use super::super::common::shared_words;
use super::log::Log;

pub const WORKERS: u32 = 4;
pub const CORES: u32 = 4;
pub const SLOTS: u32 = WORKERS * CORES;
pub const CHANNELS: usize = 6;

/// Events that a slot's log can hold.
const EVENTS: usize = 4 << 20;

/// Places of the shared words, each on cache lines of its own.
const CLOCK: usize = 0;
const BUDGET: usize = 16;
const OVER: usize = 32;
const UP: usize = 48;
const HEAD: usize = 64;

#[derive(Clone, Copy, Debug)]
pub struct Stage(&'static [AtomicU64]);

pub fn channel_name(channel: usize) -> &'static str {
    [
        "red",
        "green",
        "blue",
        "cyan",
        "magenta",
        "a rather long name for a channel",
    ][channel]
}

impl Stage {
    /// A stage for `budget` messages.
    pub fn new(budget: u64) -> Self {
        let words = HEAD + SLOTS as usize * Log::words(EVENTS);
        let stage = Self(shared_words(words));
        stage.budget().store(budget, Ordering::Relaxed);
        stage.0[CLOCK].store(1, Ordering::Relaxed); // 0 means "never"
        stage
    }

    pub fn slot_of(sender: Sender) -> u32 {
        sender.worker * CORES + sender.core
    }

    pub fn log(self, slot: u32) -> Log {
        let start = HEAD + slot as usize * Log::words(EVENTS);
        Log::new(&self.0[start..start + Log::words(EVENTS)])
    }

    /// The clock, before a call: what has returned by now has a stamp of at most this.
    pub fn now(self) -> u64 {
        self.0[CLOCK].load(Ordering::SeqCst)
    }

    /// Steps the clock, after a call: what begins later reads at least this.
    pub fn tick(self) -> u64 {
        self.0[CLOCK].fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Messages that nobody has set out to send yet.
    pub fn budget(&self) -> &'static AtomicU64 {
        &self.0[BUDGET]
    }

    /// No more joins, and no more messages once the budget is used up.
    pub fn is_over(self) -> bool {
        self.0[OVER].load(Ordering::Relaxed) != 0
    }

    pub fn end(self) {
        self.0[OVER].store(1, Ordering::Relaxed);
    }

    /// All cores of this worker's `incarnation`-th life have attached.
    pub fn set_up(self, worker: u32, incarnation: u32) {
        self.0[UP + worker as usize].store(u64::from(incarnation) + 1, Ordering::Relaxed);
    }

    pub fn is_up(self, worker: u32, incarnation: u32) -> bool {
        self.0[UP + worker as usize].load(Ordering::Relaxed) == u64::from(incarnation) + 1
    }
}
