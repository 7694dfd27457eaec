//! Assist mode: a worker that finds the master asleep does its work once, instead of waking it.
//!
//! Who runs the router has the *role*; the word for it is [`crate::doorbell::Sleep`]. The master has
//! it while it is awake. While it sleeps, a sender may take the role, run a pass and give it back:
//! one wake-up less on the way of a message. For that the router's state lies in a pool that all
//! forked descendants map ([`crate::memory`]), and all of the region is everybody's to write: there
//! is no isolation in this mode.
//!
//! - A helper that dies with the role leaves its slot's number in the word. The master, which sees
//!   the death like any other, throws the pool's contents away and makes the router anew from the
//!   region, as a successor does; the ledger makes that exact.
//! - A helper that is stopped (SIGSTOP) with the role holds up everybody until it goes on. Nothing
//!   is lost by it; that is the price of this mode besides isolation.
//! - The pool is that of one program: after an exec the next one makes its own, whose number it writes
//!   into the header ([`Assist::is_in_force`]), and workers of the old one only wake the master again.

use std::ptr::NonNull;
use std::sync::Arc;

use crate::clock::realtime_nanos;
use crate::doorbell::{Bell, CORES};
use crate::liveness::{has_ended, pidfd_open};
use crate::memory::{Memory, Place, Pool};
use crate::process::start_tick;
use crate::region::{OsError, Shared};
use crate::router::Router;
use crate::shared::{Born, RegionHeader};
use crate::sync::Ordering;
use crate::view::View;

/// What a process needs to help the master.
#[derive(Debug)]
pub(crate) struct Assist {
    pool: Pool,
    /// Tells this pool from those of other programs.
    id: u64,
    /// All bells of the hub.
    bells: Vec<Shared<Bell>>,
}

/// How a router is made: [`Router::new`] or [`Router::adopt`].
type Make = fn(Arc<View>, fn() -> u64, Memory) -> Router;

impl Assist {
    /// The pool for a hub's router, if the hub is to have one.
    pub fn create(view: &View) -> Result<Option<Self>, OsError> {
        if !view.config.assist {
            return Ok(None);
        }
        let slots = 0..view.layout.slots;
        let firsts = slots.filter(|&slot| view.layout.core_of(slot) % CORES == 0);
        Ok(Some(Self {
            pool: Pool::create(Router::footprint(&view.layout))?,
            id: realtime_nanos() ^ u64::from(std::process::id()).rotate_left(40) | 1,
            bells: firsts.map(|slot| view.bell(slot)).collect(),
        }))
    }

    /// Master, with the role: from now on this pool is the one.
    pub fn put_in_force(this: Option<&Self>, header: &RegionHeader) {
        // Relaxed: read by those who have the role.
        let id = this.map_or(0, |assist| assist.id);
        header.assist.store(id, Ordering::Relaxed);
    }

    /// False when a later program's master has a pool of its own. The caller has the role.
    pub fn is_in_force(&self, header: &RegionHeader) -> bool {
        // Relaxed: as above.
        header.assist.load(Ordering::Relaxed) == self.id
    }

    /// True when somebody has rung, whoever it is: the router's own list of those it listens to is
    /// not to be read by those who have just given the role back.
    pub fn is_rung(&self) -> bool {
        self.bells.iter().any(|bell| bell.rung() != 0)
    }

    /// Where the router is.
    pub fn address(&self) -> Option<NonNull<Router>> {
        self.pool.root()
    }

    /// The router, if it is in this pool.
    ///
    /// # Safety
    /// The caller has the role.
    #[allow(clippy::mut_from_ref)] // exclusive by the role
    pub unsafe fn router(&self, header: &RegionHeader) -> Option<&mut Router> {
        let router = self.address().filter(|_| self.is_in_force(header))?;
        // SAFETY: set by `make_router`; the role makes this the only user of it.
        Some(unsafe { &mut *router.as_ptr() })
    }
}

/// Makes a hub's router: in the pool, if there is one, in place of what was there. The caller is the
/// master or about to be, and has the role.
pub(crate) fn make_router(view: &Arc<View>, assist: Option<&Assist>, make: Make) -> Place<Router> {
    let Some(Assist { pool, .. }) = assist else {
        let router = make(Arc::clone(view), realtime_nanos, Memory::Own);
        return Place::new(Memory::Own, router);
    };
    pool.clear();
    // SAFETY: the hub, which has the pool, outlives the router; the role is the caller's.
    let memory = unsafe { pool.memory() };
    // SAFETY: a second owner that is not counted, and never dropped, as nothing in a pool is: the
    // count is this process's, and the router is also used where it has another. The hub keeps the view.
    let view = unsafe { Arc::from_raw(Arc::as_ptr(view)) };
    let router = Place::new(memory, make(view, realtime_nanos, memory));
    pool.set_root(router.address());
    router
}

/// True when the process that holds a slot has ended. Not from the liveness table, which a new
/// master does not have yet.
pub(crate) fn is_dead(view: &View, slot: usize) -> bool {
    if slot >= view.layout.slots {
        return true; // damage: nobody has such a slot
    }
    let holder = view.slot(slot).load();
    if holder.is_free() {
        return true;
    }
    if holder.pid() == std::process::id() {
        return false;
    }
    // Relaxed: written by masters only.
    let born = Born::from_bits(view.mailbox(slot).born.load(Ordering::Relaxed)).tick(holder);
    match pidfd_open(holder.pid()) {
        Ok(pidfd) => has_ended(&pidfd) || born.is_some_and(|b| start_tick(holder.pid()) != Some(b)),
        Err(e) => e == nix::errno::Errno::ESRCH,
    }
}

#[cfg(test)]
mod tests {
    use crate::{Config, ConfigError, Core, CreateError, Hub, Master, MasterError};
    use std::time::Duration;

    fn hub() -> Hub {
        Hub::builder()
            .workers(1)
            .isolation(false)
            .assist(true)
            .answer_timeout(Duration::from_millis(20))
            .create()
            .expect("a hub")
    }

    /// A hub, its master, and a core that the master knows.
    fn with_a_core() -> (Hub, Master, Core) {
        let hub = hub();
        let mut master = hub.master().expect("a master");
        let core = hub.attach(0, 0).expect("a core");
        master.step();
        (hub, master, core)
    }

    /// The first may find that there is more to do.
    fn poll_twice(master: &mut Master) {
        (0..2).for_each(|_| _ = master.poll(Some(Duration::ZERO)).expect("polled"));
    }

    #[test]
    fn pools_are_large_enough() {
        for (workers, cores, extra, channels) in
            [(1, 1, 0, 1), (3, 70, 5, 1000), (64, 16, 9, 200_000)]
        {
            let hub = Hub::builder()
                .workers(workers)
                .cores(cores)
                .extra(extra)
                .channels(channels);
            for arena in [0, 8 << 20] {
                let hub = hub.clone().isolation(false).assist(true).arena_bytes(arena);
                hub.create().expect("a hub").master().expect("a master");
            }
        }
    }

    #[test]
    fn it_is_refused_with_isolation() {
        let config = Config {
            assist: true,
            ..Config::default()
        };
        let refused = Hub::create(&config).expect_err("refused");
        assert_eq!(refused, CreateError::Config(ConfigError::IsolatedAssist));
    }

    /// A helper in the middle of a pass that lives and does not go on.
    #[test]
    fn a_new_master_does_not_wait_for_ever() {
        let (hub, master, mut core) = with_a_core();
        let role = hub.inner.view.sleep;
        drop(master);
        role.leave();
        assert!(role.assist(0));
        let pid = std::process::id();
        assert_eq!(
            hub.master().expect_err("refused"),
            MasterError::Assisted { pid }
        );
        role.leave();
        let mut master = hub.master().expect("a master");
        core.send("nobody", b"").expect("sent");
        assert_eq!(master.step(), 1);
    }

    #[test]
    fn a_master_says_who_keeps_it_from_its_work() {
        let (hub, mut master, mut core) = with_a_core();
        let (role, now) = (hub.inner.view.sleep, Some(Duration::ZERO));
        poll_twice(&mut master);
        assert!(role.assist(0), "it sleeps");
        let pid = std::process::id();
        assert_eq!(master.poll(now), Err(MasterError::Assisted { pid }));
        assert_eq!(master.step(), 0);
        core.send("nobody", b"").expect("sent");
        role.leave();
        assert_eq!(master.poll(now), Ok(1));
        // It stops without the role as well, and leaves the router to be made anew.
        poll_twice(&mut master);
        assert!(role.assist(0), "it sleeps");
        drop(master);
        role.leave();
        assert!(hub.master().is_ok());
    }

    /// Else it would free the slot whose number says who has the role.
    #[test]
    fn a_core_that_detaches_leaves_the_work_to_the_master() {
        let (hub, mut master, mut core) = with_a_core();
        poll_twice(&mut master);
        core.send("nobody", b"").expect("sent");
        assert_eq!(hub.stats().messages, 1, "it does the master's work");
        drop(core);
        assert_eq!(hub.stats().cores, 1);
        poll_twice(&mut master);
        assert_eq!((hub.stats().cores, hub.stats().assisted), (0, 1));
    }

    #[test]
    fn a_router_is_kept_by_masters_that_stop_and_made_anew_after_one_that_died() {
        let hub = hub();
        let mut master = hub.master().expect("a master");
        let mut core = hub.attach(0, 0).expect("a core");
        let joined = core.join_async("room").expect("asked");
        master.step();
        core.join_result(joined).expect("answered").expect("joined");
        drop(master);
        for (round, dies) in [false, true, false].into_iter().enumerate() {
            let mut master = hub.master().expect("a master");
            core.send("room", b"hello").expect("sent");
            assert_eq!(master.step(), 1);
            let message = core.recv().expect("whole").expect("there");
            assert_eq!(message.body, b"hello", "round {round}");
            if dies {
                hub.presume_master_dead();
                std::mem::forget(master);
            }
        }
    }
}
