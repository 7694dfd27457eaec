//! Configuration: every limit of a hub, checked before anything is made.

use std::time::Duration;

use crate::error::ConfigError;
use crate::layout::{FIRST_OWNER, Layout};
use crate::queue::MAX_BUFFER;
use crate::router::MAX_SLOTS;

/// Most channels a hub can have.
pub const MAX_CHANNELS: u32 = 1_000_000;
/// Largest possible `max_message`, bytes.
pub const MAX_MESSAGE: usize = 1 << 30;
/// Largest possible `arena_bytes`: what a reference can say.
const MAX_ARENA: u64 = 32 << 30;
/// Largest possible `slab_bytes`.
const MAX_SLAB: u64 = 4 << 30;
/// Smallest `lane_bytes` and `queue_bytes`.
pub const MIN_BUFFER: usize = 4096;

/// What happens to a message for a core whose queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// The new message is dropped for that core and counted; the core learns how many at that
    /// place of its stream.
    #[default]
    DropNewest,
    /// What the core has not yet taken is dropped and counted, the new message stays. The part
    /// that the core is reading is not touched.
    DropOldest,
    /// Nothing is dropped: the router stops, lanes fill up, senders see `Full` or wait. The
    /// slowest core sets the pace of the whole hub.
    Block,
}

/// Where a message's timestamp comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Timestamps {
    /// No timestamps: they read as 0.
    Off,
    /// The router's clock, read once per routing pass. Costs next to nothing.
    #[default]
    Batch,
    /// The sender's clock, read at each send (about 25 ns).
    Message,
}

/// Which order subscribers can rely on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// One order for all subscribers; a send that returned before another began comes first.
    #[default]
    Total,
    /// Only messages of one sender keep their order.
    PerSender,
}

/// All limits and choices of a hub. Make one with [`Config::default`] and set what differs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Worker processes. Default 4.
    pub workers: u32,
    /// Cores (threads, greenlets or loops that call corecast) per worker. Default 1.
    pub cores: u32,
    /// Further slots for helpers and the master itself. Default 4.
    pub extra: u32,
    /// Channels that can be in use at a time. Default 65,536.
    pub channels: u32,
    /// Bytes of records a core can have on the way to the router. Default 256 KiB.
    pub lane_bytes: usize,
    /// Unread bytes that one of the two buffers of a core's queue can hold. Default 256 KiB: more
    /// falls out of the L2 cache at high fan-out. A larger message still fits an empty buffer.
    pub queue_bytes: usize,
    /// Bytes of the arena, where the router writes once what it would otherwise copy into each queue:
    /// runs of messages and large ones. Default 8 MiB, touched as it is used. While it is full of
    /// what slow cores have not read yet, or where it is 0, each queue gets a copy. A good size
    /// is what cores may have unread at a time, counting what they share once.
    pub arena_bytes: usize,
    /// Bytes of a core's slab: what it sends in messages over 4 KiB it writes there, and receivers read it
    /// there, so that it is never copied. Default 2 MiB, touched as it is used. While receivers have
    /// not read what fills it, or where it is 0, messages take the way through lane and arena, and are
    /// copied once. A good size is what a core sends while receivers are away, two of the largest
    /// messages at least.
    pub slab_bytes: usize,
    /// Longest message body, bytes. Default 1 MiB.
    pub max_message: usize,
    /// What to do when a queue is full.
    pub overflow: Overflow,
    /// Where timestamps come from.
    pub timestamps: Timestamps,
    /// Which order is promised.
    pub order: Order,
    /// Touch all memory at creation, so that a lack of it is an error there. Default false.
    pub populate: bool,
    /// Huge pages (2 MiB) for queues and arena, where the kernel gives them: if
    /// /sys/kernel/mm/transparent_hugepage/shmem_enabled is `advise` or more, or with `populate` on
    /// Linux 6.1 and later; else small ones, as without. `ShmemPmdMapped` in /proc/PID/smaps tells what
    /// has been got. Memory is then touched two megabytes at a time: worth it for hubs with much traffic
    /// and room to spare. Default false.
    pub huge_pages: bool,
    /// Memory of its own for each worker: a worker process can write its own lanes and the words
    /// of its own queues, and can only read the directory, the subscriptions and all queues; a
    /// stray store anywhere else ends it with SIGSEGV. In force in forked children from the moment
    /// they attach; the process that made the hub (and so all its threads) can write everything.
    /// Costs one more file descriptor for each worker and each extra slot, and nothing when
    /// sending or receiving. Default true. False: one memory that all write, where a stray store
    /// of one worker can harm all.
    pub isolation: bool,
    /// Assist mode: a worker that sends while the master sleeps does the master's work once instead of
    /// waking it, unless it sends in a stream or there are more than two to wake. Takes about half of
    /// the time from send to receive where processes sleep. Needs `isolation` false: who routes
    /// writes what others read, so a stray store can harm all; and a worker that is *stopped* in the
    /// middle of it (SIGSTOP, a debugger) holds up all until it goes on. One that is killed there
    /// does not. Helps forked workers; those that connect by socket wake the master. Default false.
    pub assist: bool,
    /// What calls do when the master has stopped or died. False, the default: they fail with
    /// `MasterGone`. True, for servers that reload: they go on as if it were slow, for a successor
    /// will come ([`crate::Hub::master`], [`crate::Hub::adopt`]): sending fills the lane until it is
    /// full, waiting calls wait as long as they were told.
    pub await_successor: bool,
    /// How long the master's own thread looks for news before it sleeps. Default 0; it helps
    /// only where CPUs are idle.
    pub spin: Duration,
    /// How long `join`, `channel` and `attach` wait for the master. Default 5 s.
    pub answer_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            workers: 4,
            cores: 1,
            extra: 4,
            channels: 65_536,
            lane_bytes: 256 << 10,
            queue_bytes: 256 << 10,
            arena_bytes: 8 << 20,
            slab_bytes: 2 << 20,
            max_message: 1 << 20,
            overflow: Overflow::default(),
            timestamps: Timestamps::default(),
            order: Order::default(),
            populate: false,
            huge_pages: false,
            isolation: true,
            assist: false,
            await_successor: false,
            spin: Duration::ZERO,
            answer_timeout: Duration::from_secs(5),
        }
    }
}

/// What a configuration takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requirements {
    /// Bytes of the region; touched as they are used unless `populate` is set.
    pub bytes: u64,
    /// File descriptors in the process that makes the hub and runs the master; besides, one for the
    /// socket of a hub that listens and one for each process that has come by it.
    pub fds: u32,
}

/// See [`Config::to_words`].
pub(crate) const CONFIG_WORDS: usize = 19;

/// 584 years are for ever.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Config {
    /// How many bytes and file descriptors this configuration takes.
    ///
    /// # Errors
    /// Whatever is wrong with the configuration itself.
    pub fn requirements(&self) -> Result<Requirements, ConfigError> {
        let layout = Layout::new(self)?;
        let memfds = if self.isolation {
            FIRST_OWNER as u32 + self.workers + self.extra
        } else {
            1
        };
        // One eventfd per slot, one pidfd per process (at most one per slot), and the router's
        // eventfd, its epoll and the master's own pidfd.
        Ok(Requirements {
            bytes: layout.total as u64,
            fds: 2 * self.slots() + memfds + 3,
        })
    }

    /// The configuration as words, for the region's header.
    pub(crate) fn to_words(&self) -> [u64; CONFIG_WORDS] {
        let choices = [
            match self.overflow {
                Overflow::DropNewest => 0,
                Overflow::DropOldest => 1,
                Overflow::Block => 2,
            },
            match self.timestamps {
                Timestamps::Off => 0,
                Timestamps::Batch => 1,
                Timestamps::Message => 2,
            },
            match self.order {
                Order::Total => 0,
                Order::PerSender => 1,
            },
        ];
        [
            self.workers.into(),
            self.cores.into(),
            self.extra.into(),
            self.channels.into(),
            self.lane_bytes as u64,
            self.queue_bytes as u64,
            self.max_message as u64,
            choices[0],
            choices[1],
            choices[2],
            self.populate.into(),
            self.isolation.into(),
            nanos(self.spin),
            nanos(self.answer_timeout),
            self.await_successor.into(),
            self.arena_bytes as u64,
            self.assist.into(),
            self.huge_pages.into(),
            self.slab_bytes as u64,
        ]
    }

    /// The inverse of [`Self::to_words`]; None if they cannot be a configuration.
    pub(crate) fn from_words(words: &[u64; CONFIG_WORDS]) -> Option<Self> {
        let narrow = |i: usize| u32::try_from(words[i]).ok();
        let size = |i: usize| usize::try_from(words[i]).ok();
        let config = Self {
            workers: narrow(0)?,
            cores: narrow(1)?,
            extra: narrow(2)?,
            channels: narrow(3)?,
            lane_bytes: size(4)?,
            queue_bytes: size(5)?,
            arena_bytes: size(15)?,
            slab_bytes: size(18)?,
            max_message: size(6)?,
            overflow: *[Overflow::DropNewest, Overflow::DropOldest, Overflow::Block]
                .get(size(7)?)?,
            timestamps: *[Timestamps::Off, Timestamps::Batch, Timestamps::Message].get(size(8)?)?,
            order: *[Order::Total, Order::PerSender].get(size(9)?)?,
            populate: words[10] == 1,
            huge_pages: words[17] == 1,
            isolation: words[11] == 1,
            assist: words[16] == 1,
            await_successor: words[14] == 1,
            spin: Duration::from_nanos(words[12]),
            answer_timeout: Duration::from_nanos(words[13]),
        };
        config.check().is_ok().then_some(config)
    }

    /// All slots: workers × cores and the extra ones.
    pub(crate) fn slots(&self) -> u32 {
        self.workers * self.cores + self.extra
    }

    /// Checks every field against its limits.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        for (field, value) in [
            ("workers", u64::from(self.workers)),
            ("cores", u64::from(self.cores)),
            ("channels", u64::from(self.channels)),
            ("lane_bytes", self.lane_bytes as u64),
            ("queue_bytes", self.queue_bytes as u64),
            ("max_message", self.max_message as u64),
        ] {
            if value == 0 {
                return Err(ConfigError::Zero { field });
            }
        }
        let slots = u64::from(self.workers)
            .saturating_mul(u64::from(self.cores))
            .saturating_add(u64::from(self.extra));
        at_most("workers * cores + extra", slots, MAX_SLOTS as u64)?;
        at_most("channels", self.channels.into(), MAX_CHANNELS.into())?;
        at_most("max_message", self.max_message as u64, MAX_MESSAGE as u64)?;
        at_most("arena_bytes", self.arena_bytes as u64, MAX_ARENA)?;
        at_most("slab_bytes", self.slab_bytes as u64, MAX_SLAB)?;
        let most = (MAX_BUFFER / 2) as u64;
        for (field, value) in [
            ("lane_bytes", self.lane_bytes as u64),
            ("queue_bytes", self.queue_bytes as u64),
        ] {
            at_most(field, value, most)?;
            at_least(field, value, MIN_BUFFER as u64)?;
        }
        if self.assist && self.isolation {
            return Err(ConfigError::IsolatedAssist);
        }
        Ok(())
    }
}

fn at_most(field: &'static str, value: u64, max: u64) -> Result<(), ConfigError> {
    if value > max {
        return Err(ConfigError::TooLarge { field, value, max });
    }
    Ok(())
}

fn at_least(field: &'static str, value: u64, min: u64) -> Result<(), ConfigError> {
    if value < min {
        return Err(ConfigError::TooSmall { field, value, min });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bad_field_is_named_with_its_limit() {
        let check = |edit: fn(&mut Config)| {
            let mut config = Config::default();
            edit(&mut config);
            config
                .requirements()
                .expect_err("must be refused")
                .to_string()
        };
        assert!(check(|c| c.workers = 0).contains("workers is 0"));
        assert!(check(|c| c.workers = 5000).contains("at most 4032"));
        assert!(check(|c| (c.workers, c.cores) = (u32::MAX, u32::MAX)).contains("at most 4032"));
        assert!(check(|c| c.channels = 1_000_001).contains("channels is 1000001; at most 1000000"));
        assert!(check(|c| c.queue_bytes = 100).contains("at least 4096"));
        assert!(check(|c| c.max_message = usize::MAX).contains("max_message"));
        assert!(check(|c| c.assist = true).contains("isolation = false"));
    }

    #[test]
    fn a_configuration_survives_the_region() {
        let config = Config {
            workers: 7,
            overflow: Overflow::Block,
            order: Order::PerSender,
            isolation: false,
            assist: true,
            huge_pages: true,
            spin: Duration::from_micros(3),
            ..Config::default()
        };
        let mut words = config.to_words();
        assert_eq!(Config::from_words(&words), Some(config));
        words[7] = 3;
        assert_eq!(Config::from_words(&words), None);
    }

    #[test]
    fn a_thousand_slots_and_a_million_channels_are_possible() {
        let config = Config {
            workers: 256,
            cores: 4,
            channels: 1_000_000,
            ..Config::default()
        };
        let need = config.requirements().expect("a valid configuration");
        assert_eq!(need.fds, 2 * 1028 + (3 + 256 + 4) + 3);
        assert!(need.bytes > 4 << 30);
    }
}
