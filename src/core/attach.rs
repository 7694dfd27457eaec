//! Attaching to a slot and giving it back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::assist::Pace;
use super::membership::Memberships;
use super::recv::Origin;
use super::send::NameCache;
use super::wait::{MasterWatch, SLAB_WAIT};
use super::{Core, Sender, Unusable, ring};
use crate::config::{Config, Order, Timestamps};
use crate::error::{AttachError, SendError};
use crate::hub::Inner;
use crate::lane::LaneWriter;
use crate::linger::{self, Linger};
use crate::liveness::{has_ended, pidfd_open};
use crate::process::is_dying;
use crate::queue::QueueReader;
use crate::record::{HEADER, Header, STAMP_BYTES, kind};
use crate::router::longest_record;
use crate::shared::{Holder, MasterState, VERSION};
use crate::slab::Slab;
use crate::sync::Ordering;
use crate::ticket::LastTicket;
use crate::view::Access;

/// How long a slot whose holder seems alive, and not about to end, is waited for: the holder may just
/// have detached, and a busy machine may take its time to run the master, which frees the slot; or it
/// is dead with its pid already reused.
const HELD: Duration = Duration::from_millis(500);
/// How long a dropped core waits for room to detach.
const PATIENCE: Duration = Duration::from_millis(50);

impl Core {
    pub(crate) fn attach(hub: Arc<Inner>, slot: usize) -> Result<Self, AttachError> {
        let access = enter(&hub, slot)?;
        Self::take(hub, slot, access)
    }

    /// None when the slot is held.
    pub(crate) fn attach_if_free(
        hub: Arc<Inner>,
        slot: usize,
    ) -> Result<Option<Self>, AttachError> {
        let access = enter(&hub, slot)?;
        if !hub.view.slot(slot).load().is_free() {
            return Ok(None);
        }
        Self::take(hub, slot, access).map(Some)
    }

    /// Has the master look at a slot's holder, if this process may ring the slot's bell.
    pub(crate) fn ask_to_look_at(hub: &Inner, slot: usize) {
        if let Ok(_access) = enter(hub, slot) {
            ring(hub, slot);
        }
    }

    fn take(hub: Arc<Inner>, slot: usize, access: Access) -> Result<Self, AttachError> {
        hub.view
            .check_version()
            .map_err(|found| AttachError::Version {
                found,
                expected: VERSION,
            })?;
        let me = hub.sender_of(slot);
        let foreign = AttachError::Foreign { worker: me.worker };
        let fd = hub.core_fds.get(slot).ok_or(foreign)?;
        if is_gone(&hub) {
            return Err(AttachError::MasterGone);
        }
        let claimant = hub.claimant();
        let pid = std::process::id();
        let holder = take_slot(&hub, slot, claimant)?;
        ring(&hub, slot);
        Ok(Self::new(hub, slot, holder, pid, fd, me, access))
    }

    fn new(
        hub: Arc<Inner>,
        slot: usize,
        holder: Holder,
        pid: u32,
        fd: i32,
        me: Sender,
        mut access: Access,
    ) -> Self {
        let view = &hub.view;
        let (layout, config) = (&view.layout, &view.config);
        let (word, control) = (view.lane_word(slot), view.control(slot));
        // From where the router stands, whatever tail a predecessor may have left. Relaxed: the
        // slot word's Acquire orders it behind what the router did when it freed the slot.
        let head = view.mailbox(slot).head.load(Ordering::Relaxed);
        word.reset(head);
        word.offer_bias(hub.answers());
        // The same for the queue: nothing is published to it before this core's first join.
        if !control.load().is_fresh() {
            control.reset();
        }
        let returns = view.returns(slot);
        // Without the right to write there it has none.
        let has_slab = access.take_slab(slot).is_ok();
        // SAFETY: the region has these bytes there; taking the slot word made this core the only
        // producer of the lane, the only reader of the queue and the owner of the slab. The hub's Arc
        // keeps the region.
        let (lane, queue, slab) = unsafe {
            (
                LaneWriter::new(
                    view.ring(slot),
                    layout.lane_capacity,
                    layout.lane_window,
                    head,
                ),
                QueueReader::new(
                    control,
                    view.buffers(slot).map(<*mut u8>::cast_const),
                    layout.buffer_capacity,
                    view.referable(),
                ),
                match has_slab {
                    true => Slab::new(view.slab(slot), returns, head),
                    false => Slab::none(returns),
                },
            )
        };
        Self {
            slot,
            holder,
            pid,
            usable_in: pid,
            process: hub.mark.word_ptr(),
            fd,
            me,
            detached: false,
            header: view.header,
            tickets: view.tickets,
            floor: view.floor,
            word,
            mailbox: view.mailbox(slot),
            directory: view.directory,
            lane,
            biased: false,
            last_ticket: LastTicket::default(),
            turns: super::turns::Turns::default(),
            context: None,
            last: super::alike::Last::NONE,
            run: super::alike::Run::default(),
            max_message: config.max_message,
            slab,
            slab_linger: Linger::of(SLAB_WAIT, linger::OFTEN),
            large: longest_small(config) + 1,
            longest_pack: longest_record(config),
            stamped: config.timestamps == Timestamps::Message,
            ordered: config.order == Order::Total,
            queue,
            seen_ticket: view.floor.load(),
            origin: Origin::unknown(),
            lost: 0,
            last_request: 0,
            name_cache: NameCache::new(),
            memberships: Memberships::default(),
            pace: Pace::new(),
            master: MasterWatch::default(),
            hub,
            _access: access,
        }
    }

    /// Gives the slot back: subscriptions and open handles end, what was sent is still delivered.
    ///
    /// # Errors
    /// The lane is full and the master does not empty it, or this is the wrong process.
    pub fn detach(mut self) -> Result<(), SendError> {
        self.end(self.hub.view.config.answer_timeout)
    }

    /// For the fuzzer: as if its process had been killed.
    #[cfg(corecast_fuzz)]
    pub(crate) fn vanish(mut self) {
        self.detached = true;
    }

    fn end(&mut self, timeout: Duration) -> Result<(), SendError> {
        self.check()?;
        let claimed = self.claim_last(timeout);
        self.detached = true;
        self.usable_in = u32::MAX; // no pid: every check looks closer
        let at = claimed?;
        let ticket = self.ticket();
        // SAFETY: claimed, 16 bytes.
        unsafe { Header::new(kind::DETACH, 0, 0, 0, ticket).write(at) };
        self.publish();
        self.tell_of_leaving();
        Ok(())
    }

    /// Claims room for the last record, taking what is received meanwhile out of the way: under
    /// [`Overflow::Block`] the router may wait for room in this core's queue.
    fn claim_last(&mut self, timeout: Duration) -> Result<*mut u8, SendError> {
        let start = Instant::now();
        loop {
            let left = timeout.saturating_sub(start.elapsed());
            match self.claim_waiting(HEADER, left.min(Duration::from_millis(1))) {
                Err(SendError::Timeout) if !left.is_zero() => self.drop_received(),
                other => return other,
            }
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        if self.check() != Err(Unusable::WrongProcess) && !self.detached {
            // Without a master to tell, the slot is freed when this process ends.
            let _ = self.end(PATIENCE);
        }
    }
}

/// Longest body that is not large: the router puts such messages together.
fn longest_small(config: &Config) -> usize {
    let stamp = match config.timestamps {
        Timestamps::Message => STAMP_BYTES,
        _ => 0,
    };
    let longest = longest_record(config) - HEADER - stamp;
    longest.min(config.max_message)
}

/// Sees to it that this process can use what belongs to the slot, and, if it is a forked child,
/// nothing that belongs to others.
fn enter(hub: &Inner, slot: usize) -> Result<Access, AttachError> {
    let me = hub.sender_of(slot);
    let foreign = AttachError::Foreign { worker: me.worker };
    if let Some(parent) = hub.forked_from_guest() {
        return Err(AttachError::ForkedGuest { parent });
    }
    if hub.core_fds.get(slot).is_none() {
        return Err(foreign);
    }
    if hub.is_forked_child() {
        hub.guests.leave_to_parent();
        hub.view.isolate(None)?; // unless it has been done for a worker
    }
    hub.view.enter(slot)?.ok_or(foreign)
}

/// True when the master has stopped and no other is awaited.
fn is_gone(hub: &Inner) -> bool {
    let state = MasterState::load(&hub.view.header.master);
    state == MasterState::Gone && !hub.view.config.await_successor
}

/// Takes the slot, waiting for the master to free it if its last owner is gone.
fn take_slot(hub: &Inner, slot: usize, pid: u32) -> Result<Holder, AttachError> {
    let word = hub.view.slot(slot);
    let start = Instant::now();
    loop {
        let seen = word.load();
        if seen.is_free() {
            match word.take(seen, pid) {
                Ok(holder) => return Ok(holder),
                Err(_) => continue,
            }
        }
        wait_for_free(hub, slot, seen, start)?;
    }
}

/// One short wait for a held slot, or the reason why there is no point in waiting longer.
fn wait_for_free(
    hub: &Inner,
    slot: usize,
    seen: Holder,
    start: Instant,
) -> Result<(), AttachError> {
    let me = hub.sender_of(slot);
    let busy = AttachError::Busy {
        worker: me.worker,
        core: me.core,
        pid: seen.pid(),
    };
    if start.elapsed() >= HELD && is_alive(seen.pid()) && !is_dying(seen.pid()) {
        return Err(busy);
    }
    if start.elapsed() >= hub.view.config.answer_timeout {
        return Err(AttachError::Timeout);
    }
    if is_gone(hub) {
        return Err(AttachError::MasterGone);
    }
    // Its owner may have been killed before it could ring.
    ring(hub, slot);
    std::thread::sleep(Duration::from_micros(500));
    Ok(())
}

fn is_alive(pid: u32) -> bool {
    pid == std::process::id() || pidfd_open(pid).is_ok_and(|fd| !has_ended(&fd))
}
