//! `channel_core_t`: attaching, joining and leaving.

use std::collections::VecDeque;
use std::ffi::{c_char, c_int};

use corecast::{AttachError, ChannelId, Core, Hub, JoinTicket, Loan, RawLoan};

use crate::error::{ChannelE, Failure};
use crate::guard::guard;
use crate::handle::{Graves, Handle};
use crate::hub::{ChannelHub, with_hub};
use crate::message::{ChannelRef, name_bytes, number, opened};

/// For channel_attach: any worker, any core.
pub const CHANNEL_ANY: u32 = u32::MAX;

static GRAVES: Graves<ChannelCore> = Graves::new();

/// A core: one slot of the hub, used by one thread, greenlet or loop at a time.
pub struct ChannelCore(Handle<State>);

/// What a core's handle holds.
pub(crate) struct State {
    pub(crate) core: Core,
    /// Messages lost since the last one that was received.
    pub(crate) lost: u64,
    /// Tickets of asynchronous joins whose answer was not given out yet.
    asked: VecDeque<u64>,
    /// The message that the caller is writing in place.
    pub(crate) loan: Option<RawLoan>,
}

/// The core keeps that many answers; older tickets are forgotten.
const TICKETS: usize = 1024;

impl State {
    fn new(core: Core) -> State {
        State {
            core,
            lost: 0,
            asked: VecDeque::new(),
            loan: None,
        }
    }

    /// The core, for calls that use its lane.
    #[inline]
    pub(crate) fn sender(&mut self) -> Result<&mut Core, Failure> {
        if self.loan.is_some() {
            return Err(Failure::Code(ChannelE::LoanOut));
        }
        Ok(&mut self.core)
    }

    /// What was lent, if anything.
    pub(crate) fn take_loan(&mut self) -> Option<Loan<'_>> {
        let raw = self.loan.take()?;
        // SAFETY: while `loan` is set, `sender` lets nobody else use the lane.
        Some(unsafe { Loan::from_raw(&mut self.core, raw) })
    }

    fn join_async(&mut self, name: &[u8]) -> Result<u64, Failure> {
        let ticket = self.sender()?.join_async(name)?.number();
        if !self.asked.contains(&ticket) {
            self.asked.push_back(ticket);
        }
        if self.asked.len() > TICKETS {
            self.asked.pop_front();
        }
        Ok(ticket)
    }

    /// The channel that was joined, or None if there is no answer yet.
    fn join_result(&mut self, ticket: u64) -> Result<Option<ChannelId>, Failure> {
        let known = self.asked.iter().position(|&asked| asked == ticket);
        match (
            self.core.join_result(JoinTicket::from_number(ticket)),
            known,
        ) {
            (Some(answer), known) => {
                known.and_then(|at| self.asked.remove(at));
                Ok(Some(answer?))
            }
            (None, Some(_)) => Ok(None),
            (None, None) => Err(ChannelE::NoSuchTicket.into()),
        }
    }
}

/// Runs an export that gets a core.
///
/// # Safety
/// `core` is NULL or from channel_attach.
#[inline]
pub(crate) unsafe fn with_core<T: From<c_int>>(
    core: *const ChannelCore,
    call: impl FnOnce(&mut State) -> Result<T, Failure>,
) -> T {
    guard(|| {
        // SAFETY: NULL, or a block that outlives the handle by the tombstones (contract).
        let handle = unsafe { core.as_ref() }.ok_or(Failure::Null("core"))?;
        let mut state = handle.0.enter()?;
        let result = call(&mut state);
        state.done();
        result
    })
}

/// A core of the given worker whatever its index, or any slot at all.
fn attach(hub: &Hub, worker: u32, core: u32) -> Result<Core, AttachError> {
    if core != CHANNEL_ANY {
        return hub.attach(worker, core);
    }
    if worker == CHANNEL_ANY {
        return hub.attach_any();
    }
    let slots = hub.config().cores;
    for core in 0..slots {
        match hub.attach(worker, core) {
            Err(AttachError::Busy { .. }) => {}
            other => return other,
        }
    }
    Err(AttachError::NoFreeSlot { slots })
}

/// Takes a slot of the hub for the thread, greenlet or loop that calls. `worker`
/// and `core` count from 0. CHANNEL_ANY as core takes any free core of that worker,
/// as worker and core any free slot: for helpers, mules and the master itself.
///
/// Any thread, in the process that will use the core: after the fork. Waits for
/// the master, if the slot's last owner has just died, at most answer_timeout_ms.
/// Not signal-safe. `*out` is written only on success; the caller frees it with
/// channel_detach. Errors: CHANNEL_E_NULL, CHANNEL_E_WORKER_RANGE,
/// CHANNEL_E_CORE_RANGE, CHANNEL_E_SLOT_BUSY, CHANNEL_E_NO_FREE_SLOT,
/// CHANNEL_E_OTHER_WORKER (a forked child that has attached as one worker cannot be
/// another), CHANNEL_E_TIMEOUT, CHANNEL_E_MASTER_GONE, CHANNEL_E_VERSION, and those
/// of a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn channel_attach(
    hub: *mut ChannelHub,
    worker: u32,
    core: u32,
    out: *mut *mut ChannelCore,
) -> c_int {
    let take = |hub: &Hub| {
        if out.is_null() {
            return Err(Failure::Null("out"));
        }
        let state = State::new(attach(hub, worker, core)?);
        let core = Box::into_raw(Box::new(ChannelCore(Handle::new(state))));
        // SAFETY: not NULL, and the caller's to write.
        unsafe { out.write(core) };
        Ok(0)
    };
    // SAFETY: the caller passes NULL or a hub.
    unsafe { with_hub(hub, take) }
}

/// Gives the slot back and frees the core: its subscriptions end, what it has sent
/// is still delivered, what it has not received is gone. The core is freed
/// whatever is returned, but for CHANNEL_E_IN_USE. In a child that inherited it,
/// the child's copy is freed and the parent's core is left alone. NULL is a no-op.
///
/// The thread that uses the core. May wait for room in its lane, at most
/// answer_timeout_ms. Not signal-safe. The pointer is invalid afterwards: the next
/// calls with it give CHANNEL_E_DETACHED, as long as fewer than 256 other cores have
/// been detached in this process. Errors: CHANNEL_E_DETACHED, CHANNEL_E_IN_USE,
/// CHANNEL_E_WRONG_PROCESS; CHANNEL_E_TIMEOUT and CHANNEL_E_MASTER_GONE, with which
/// the slot becomes free when the process ends.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn channel_detach(core: *mut ChannelCore) -> c_int {
    // SAFETY: NULL, or a block that outlives the handle by the tombstones (contract).
    let Some(block) = (unsafe { core.as_ref() }) else {
        return 0;
    };
    guard(|| {
        let mut state = block.0.take()?;
        drop(state.take_loan());
        // SAFETY: from channel_attach; `take` succeeds once.
        unsafe { GRAVES.bury(core) };
        state.core.detach()?;
        Ok(0)
    })
}

/// Subscribes the core to a channel and waits for the master's answer: every
/// message whose sending begins after this call has returned will be received. A
/// channel exists by being named; joining twice is no error. The channel's number
/// is stored in `*id` unless `id` is NULL.
///
/// The thread that uses the core. Blocks at most answer_timeout_ms. Not
/// signal-safe. The name is read during the call only. Errors: CHANNEL_E_NULL,
/// CHANNEL_E_NAME_EMPTY, CHANNEL_E_NAME_TOO_LONG, CHANNEL_E_TOO_MANY_CHANNELS,
/// CHANNEL_E_FULL, CHANNEL_E_TIMEOUT, CHANNEL_E_MASTER_GONE, and those of a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn channel_join(
    core: *mut ChannelCore,
    name: *const c_char,
    id: *mut ChannelRef,
) -> c_int {
    let join = |state: &mut State| {
        // SAFETY: NULL or a C string, by the caller.
        let channel = state.sender()?.join(unsafe { name_bytes(name) }?)?;
        // SAFETY: NULL or the caller's to write.
        unsafe { store(id, number(channel)) };
        Ok(0)
    };
    // SAFETY: the caller passes NULL or a core.
    unsafe { with_core(core, join) }
}

/// Writes an output that the caller may leave out.
///
/// # Safety
/// `out` is NULL, or writable.
unsafe fn store<T>(out: *mut T, value: T) {
    if !out.is_null() {
        // SAFETY: not NULL; the caller's contract.
        unsafe { out.write(value) };
    }
}

/// Asks to join, without waiting: for event loops. The answer comes later, and
/// channel_fd becomes readable with it; channel_join_result gives it out.
///
/// The thread that uses the core. Never blocks. Not signal-safe. The name is read
/// during the call only; `*ticket` is written only on success, and names the
/// request. Errors: as channel_join without CHANNEL_E_TIMEOUT, and
/// CHANNEL_E_TOO_MANY_PENDING.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn channel_join_async(
    core: *mut ChannelCore,
    name: *const c_char,
    ticket: *mut u64,
) -> c_int {
    let ask = |state: &mut State| {
        if ticket.is_null() {
            return Err(Failure::Null("ticket"));
        }
        // SAFETY: NULL or a C string, by the caller.
        let asked = state.join_async(unsafe { name_bytes(name) }?)?;
        // SAFETY: not NULL, and the caller's to write.
        unsafe { ticket.write(asked) };
        Ok(0)
    };
    // SAFETY: the caller passes NULL or a core.
    unsafe { with_core(core, ask) }
}

/// The answer to a channel_join_async: 1 if the core has joined, 0 if there is no
/// answer yet, or the error. The answer is given once. The channel's number is
/// stored in `*id`, with 1, unless `id` is NULL.
///
/// The thread that uses the core. Never blocks. Not signal-safe. Errors: as
/// channel_join, and CHANNEL_E_NO_SUCH_TICKET.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn channel_join_result(
    core: *mut ChannelCore,
    ticket: u64,
    id: *mut ChannelRef,
) -> c_int {
    let result = |state: &mut State| {
        let Some(channel) = state.join_result(ticket)? else {
            return Ok(0);
        };
        // SAFETY: NULL or the caller's to write.
        unsafe { store(id, number(channel)) };
        Ok(1)
    };
    // SAFETY: the caller passes NULL or a core.
    unsafe { with_core(core, result) }
}

/// Ends the subscription: from here on no message of that channel is received, not
/// even one that is already in the queue.
///
/// The thread that uses the core. May wait for room in its lane, at most
/// answer_timeout_ms. Not signal-safe. The name is read during the call only.
/// Errors: CHANNEL_E_NULL, CHANNEL_E_NAME_EMPTY, CHANNEL_E_NAME_TOO_LONG,
/// CHANNEL_E_NOT_JOINED, CHANNEL_E_FULL, CHANNEL_E_TIMEOUT, CHANNEL_E_MASTER_GONE,
/// and those of a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn channel_leave(core: *mut ChannelCore, name: *const c_char) -> c_int {
    let leave = |state: &mut State| {
        // SAFETY: NULL or a C string, by the caller.
        let name = unsafe { name_bytes(name) }?;
        Ok(state.sender()?.leave(name).map(|()| 0)?)
    };
    // SAFETY: the caller passes NULL or a core.
    unsafe { with_core(core, leave) }
}

/// Ends all subscriptions of the core: what a server calls at the end of a request.
/// No subscription at all is no error.
///
/// As channel_leave. Errors: CHANNEL_E_NULL, CHANNEL_E_FULL, CHANNEL_E_TIMEOUT,
/// CHANNEL_E_MASTER_GONE, and those of a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn channel_leave_all(core: *mut ChannelCore) -> c_int {
    // SAFETY: the caller passes NULL or a core.
    unsafe { with_core(core, |state| Ok(state.sender()?.leave_all().map(|()| 0)?)) }
}

/// Looks a channel up once, for channel_send_to, and keeps its number from being
/// given to another channel until channel_close or channel_detach. Does not
/// subscribe.
///
/// The thread that uses the core. Waits for the master's answer, at most
/// answer_timeout_ms. Not signal-safe. The name is read during the call only;
/// `*id` is written only on success. Errors: as channel_join.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn channel_open(
    core: *mut ChannelCore,
    name: *const c_char,
    id: *mut ChannelRef,
) -> c_int {
    let open = |state: &mut State| {
        if id.is_null() {
            return Err(Failure::Null("id"));
        }
        // SAFETY: NULL or a C string, by the caller.
        let channel = state.sender()?.channel(unsafe { name_bytes(name) }?)?;
        // SAFETY: not NULL, and the caller's to write.
        unsafe { id.write(number(channel.id())) };
        Ok(0)
    };
    // SAFETY: the caller passes NULL or a core.
    unsafe { with_core(core, open) }
}

/// Ends what channel_open began.
///
/// As channel_leave. Errors: CHANNEL_E_NULL, CHANNEL_E_NOT_JOINED (not open),
/// CHANNEL_E_FULL, CHANNEL_E_TIMEOUT, CHANNEL_E_MASTER_GONE, and those of a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn channel_close(core: *mut ChannelCore, id: ChannelRef) -> c_int {
    // SAFETY: the caller passes NULL or a core.
    unsafe {
        with_core(core, |state| {
            Ok(state.sender()?.close(opened(id)).map(|()| 0)?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ChannelConfig, channel_config_default};
    use crate::hub::{channel_hub_create, channel_hub_destroy, channel_hub_start, with_hub};
    use crate::last::channel_last_error;
    use crate::send::channel_send;
    use std::ffi::CStr;
    use std::ptr::null_mut;

    const PANIC: c_int = ChannelE::Panic as c_int;
    const POISONED: c_int = ChannelE::Poisoned as c_int;

    fn hub() -> *mut ChannelHub {
        // SAFETY: all bytes zero is a configuration; its size is set next.
        let mut config: ChannelConfig = unsafe { std::mem::zeroed() };
        config.size = size_of::<ChannelConfig>();
        let mut hub = null_mut();
        // SAFETY: as C would.
        unsafe {
            assert_eq!(channel_config_default(&mut config), 0);
            assert_eq!(channel_hub_create(&config, &mut hub), 0);
            assert_eq!(channel_hub_start(hub), 0);
        }
        hub
    }

    fn core_of(hub: *mut ChannelHub) -> *mut ChannelCore {
        let mut core = null_mut();
        // SAFETY: as C would.
        assert_eq!(unsafe { channel_attach(hub, 0, 0, &mut core) }, 0);
        core
    }

    #[test]
    fn a_panic_poisons_its_core_alone_and_freeing_gives_the_slot_back() {
        let hub = hub();
        let core = core_of(hub);
        // SAFETY: as C would, but for the panic.
        unsafe {
            assert_eq!(with_core::<c_int>(core, |_| panic!("slot 5")), PANIC);
            let text = CStr::from_ptr(channel_last_error());
            assert!(text.to_str().unwrap().contains("slot 5"));
            assert_eq!(
                channel_send(core, c"a".as_ptr(), c"x".as_ptr().cast(), 1),
                POISONED
            );
            assert_eq!(channel_join(core, c"a".as_ptr(), null_mut()), POISONED);
            assert_eq!(channel_detach(core), 0);
            assert_eq!(channel_detach(core_of(hub)), 0);
            assert_eq!(channel_hub_destroy(hub), 0);
        }
    }

    #[test]
    fn a_panic_poisons_its_hub_and_it_can_still_be_destroyed() {
        let hub = hub();
        let core = core_of(hub);
        let mut none = null_mut();
        // SAFETY: as C would, but for the panic.
        unsafe {
            assert_eq!(with_hub(hub, |_| panic!("hub")), PANIC);
            assert_eq!(channel_attach(hub, 1, 0, &mut none), POISONED);
            assert!(none.is_null());
            assert_eq!(
                channel_send(core, c"a".as_ptr(), c"x".as_ptr().cast(), 1),
                0
            );
            assert_eq!(channel_hub_destroy(hub), 0);
            assert_eq!(channel_detach(core), 0);
        }
    }
}
