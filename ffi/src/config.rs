//! `channel_config_t`: the configuration as C sees it.

use std::ffi::c_int;
use std::time::Duration;

use corecast::{Config, Order, Overflow, Timestamps};

use crate::error::Failure;
use crate::guard::guard;
use crate::sized::{self, SizedStruct};

/// What happens to a message for a core whose queue is full.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum ChannelOverflow {
    /// It is dropped for that core alone, and counted. The default.
    DropNewest = 0,
    /// What that core has not yet taken is dropped, and counted; the new message stays.
    DropOldest = 1,
    /// Nothing is dropped: the master waits for the core, the lanes fill up, and senders get
    /// CHANNEL_E_FULL, or wait with a time-out. The slowest core sets everybody's pace.
    Block = 2,
}

/// What the timestamp of a message is.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum ChannelTimestamps {
    /// Always 0.
    Off = 0,
    /// When the master took the batch that the message is in. The default.
    Batch = 1,
    /// When the sender sent it. Costs every send a reading of the clock.
    Message = 2,
}

/// In which order cores see messages of several senders.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum ChannelOrder {
    /// All cores see one order, and a send that returned before another began is
    /// seen before it. The default.
    Total = 0,
    /// Only the messages of one sender keep their order.
    PerSender = 1,
}

/// All limits of a hub. Set `size`, call channel_config_default, change what you like.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ChannelConfig {
    /// sizeof(channel_config_t), set by the caller.
    pub size: usize,
    /// Worker processes.
    pub workers: u32,
    /// Cores of each worker: threads, greenlets or loops that receive for themselves.
    pub cores: u32,
    /// Slots beside those of the workers: for helpers, mules, the master.
    pub extra: u32,
    /// Channels in use at the same time, at most 1,000,000.
    pub channels: u32,
    /// Bytes of a core's lane: what it may have sent and not yet been routed.
    pub lane_bytes: usize,
    /// Bytes of unread messages that a core's queue holds.
    pub queue_bytes: usize,
    /// Bytes of the largest message body.
    pub max_message: usize,
    /// A ChannelOverflow: CHANNEL_OVERFLOW_...
    pub overflow: u32,
    /// A ChannelTimestamps: CHANNEL_TIMESTAMPS_...
    pub timestamps: u32,
    /// A ChannelOrder: CHANNEL_ORDER_...
    pub order: u32,
    /// 1: take all memory at creation, so that running out is an error there. 0: when used.
    pub populate: u32,
    /// How long the master's thread polls before it sleeps, in microseconds. 0: not at all.
    pub spin_us: u32,
    /// How long join, open and attach wait for the master's answer, in milliseconds.
    pub answer_timeout_ms: u32,
    /// 1: a worker process can write its own lanes and the words of its own queues only; a
    /// stray store anywhere else ends it with SIGSEGV. In force in forked children once they
    /// attach. One more file descriptor for each worker and extra slot. The default.
    /// 0: one memory that all processes write.
    pub isolation: u32,
    /// 0: calls fail with CHANNEL_E_MASTER_GONE when the master has stopped or died.
    /// 1: they go on as if it were slow, for a successor will come: a send fills the
    /// lane until it is full, waiting calls wait as long as they were told.
    pub await_successor: u32,
    /// Bytes of the arena, where the router writes once what it would otherwise copy into
    /// each queue. 0: none. While it is full of what slow cores have not read yet, queues
    /// get copies.
    pub arena_bytes: usize,
    /// 1: assist mode. A worker that sends while the master sleeps does the master's work once,
    /// unless it sends in a stream or more than two must be woken. Needs isolation 0. A worker
    /// that is stopped in the middle of it holds up all; one that is killed does not. Default 0.
    pub assist: u32,
    /// 1: huge pages for queues and arena, where the kernel gives them
    /// (/sys/kernel/mm/transparent_hugepage/shmem_enabled is `advise` or more, or with
    /// `populate` on Linux 6.1 and later). Memory is then touched two megabytes at a time.
    /// Default 0.
    pub huge_pages: u32,
    /// Bytes of a core's slab: messages over 4 KiB are written there and received from there, so
    /// that they are never copied. 0: none. While it is full of what slow cores have not read yet,
    /// messages are copied once.
    pub slab_bytes: usize,
}

// SAFETY: repr(C), integers only, `size` first; it had 72 bytes before `isolation`.
unsafe impl SizedStruct for ChannelConfig {
    const NAME: &'static str = "channel_config_t";
    const FIRST: usize = 72;
}

const _: () = assert!(size_of::<ChannelConfig>() == 104);

impl ChannelConfig {
    /// The crate's defaults, in the C form.
    fn defaults() -> ChannelConfig {
        let config = Config::default();
        ChannelConfig {
            size: size_of::<ChannelConfig>(),
            workers: config.workers,
            cores: config.cores,
            extra: config.extra,
            channels: config.channels,
            lane_bytes: config.lane_bytes,
            queue_bytes: config.queue_bytes,
            max_message: config.max_message,
            overflow: match config.overflow {
                Overflow::DropOldest => ChannelOverflow::DropOldest,
                Overflow::Block => ChannelOverflow::Block,
                Overflow::DropNewest => ChannelOverflow::DropNewest,
            } as u32,
            timestamps: match config.timestamps {
                Timestamps::Off => ChannelTimestamps::Off,
                Timestamps::Message => ChannelTimestamps::Message,
                Timestamps::Batch => ChannelTimestamps::Batch,
            } as u32,
            order: match config.order {
                Order::PerSender => ChannelOrder::PerSender,
                Order::Total => ChannelOrder::Total,
            } as u32,
            populate: config.populate.into(),
            spin_us: config.spin.as_micros().try_into().unwrap_or(u32::MAX),
            answer_timeout_ms: config
                .answer_timeout
                .as_millis()
                .try_into()
                .unwrap_or(u32::MAX),
            isolation: config.isolation.into(),
            await_successor: config.await_successor.into(),
            arena_bytes: config.arena_bytes,
            assist: config.assist.into(),
            huge_pages: config.huge_pages.into(),
            slab_bytes: config.slab_bytes,
        }
    }

    /// The crate's form; the limits of the numbers are the crate's to check.
    fn to_config(self) -> Result<Config, Failure> {
        let mut config = Config::default();
        config.workers = self.workers;
        config.cores = self.cores;
        config.extra = self.extra;
        config.channels = self.channels;
        config.lane_bytes = self.lane_bytes;
        config.queue_bytes = self.queue_bytes;
        config.arena_bytes = self.arena_bytes;
        config.slab_bytes = self.slab_bytes;
        config.max_message = self.max_message;
        config.overflow = choose("overflow", self.overflow, &OVERFLOWS)?;
        config.timestamps = choose("timestamps", self.timestamps, &TIMESTAMPS)?;
        config.order = choose("order", self.order, &ORDERS)?;
        config.populate = choose("populate", self.populate, &[false, true])?;
        config.isolation = choose("isolation", self.isolation, &[false, true])?;
        config.huge_pages = choose("huge_pages", self.huge_pages, &[false, true])?;
        config.assist = choose("assist", self.assist, &[false, true])?;
        config.await_successor = choose("await_successor", self.await_successor, &[false, true])?;
        config.spin = Duration::from_micros(self.spin_us.into());
        config.answer_timeout = Duration::from_millis(self.answer_timeout_ms.into());
        Ok(config)
    }
}

/// In the order of the C enums.
const OVERFLOWS: [Overflow; 3] = [Overflow::DropNewest, Overflow::DropOldest, Overflow::Block];
const TIMESTAMPS: [Timestamps; 3] = [Timestamps::Off, Timestamps::Batch, Timestamps::Message];
const ORDERS: [Order; 2] = [Order::Total, Order::PerSender];

/// The value that an integer from C stands for.
fn choose<T: Clone>(field: &'static str, value: u32, set: &[T]) -> Result<T, Failure> {
    let max = set.len() as u32 - 1;
    set.get(value as usize)
        .cloned()
        .ok_or(Failure::Value { field, value, max })
}

/// Reads the caller's configuration.
///
/// # Safety
/// `config` is NULL, or readable for as many bytes as its `size` says.
pub(crate) unsafe fn read(config: *const ChannelConfig) -> Result<Config, Failure> {
    // SAFETY: the caller's contract.
    unsafe { sized::read(config, ChannelConfig::defaults()) }?.to_config()
}

/// Fills a configuration with the defaults. Set config->size to
/// sizeof(channel_config_t) first.
///
/// Any thread, before and after fork. Never blocks. Signal-safe. The struct is the
/// caller's. Errors: CHANNEL_E_NULL, CHANNEL_E_SIZE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn channel_config_default(config: *mut ChannelConfig) -> c_int {
    guard(|| {
        // SAFETY: the caller passes NULL or a struct of the size it says.
        unsafe { sized::write(config, &ChannelConfig::defaults()) }?;
        Ok(0)
    })
}

/// Says beforehand what a hub of this configuration takes: bytes of memory, and
/// file descriptors in the process that creates it.
///
/// Any thread, before and after fork. Never blocks. Not signal-safe. All memory is
/// the caller's; `bytes` and `fds` are written only on success. Errors:
/// CHANNEL_E_NULL, CHANNEL_E_SIZE, CHANNEL_E_VALUE, CHANNEL_E_CONFIG_...
#[unsafe(no_mangle)]
pub unsafe extern "C" fn channel_config_bytes(
    config: *const ChannelConfig,
    bytes: *mut u64,
    fds: *mut u32,
) -> c_int {
    guard(|| {
        // SAFETY: the caller passes NULL or a struct of the size it says.
        let config = unsafe { read(config) }?;
        if bytes.is_null() || fds.is_null() {
            return Err(Failure::Null(if bytes.is_null() { "bytes" } else { "fds" }));
        }
        let needed = config.requirements()?;
        // SAFETY: not NULL, and the caller's to write.
        unsafe {
            bytes.write(needed.bytes);
            fds.write(needed.fds);
        }
        Ok(0)
    })
}
