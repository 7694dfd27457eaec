//! Doing the master's work for it, see [`crate::assist`].

use std::time::{Duration, Instant};

use super::{Core, ring};
use crate::notify;
use crate::router::Router;
use crate::shared::Born;
use crate::sync::Ordering;

/// Whom it is better not to help is a sender in full flow: it and the master then work at the same
/// time. One that has rung so long ago is not.
const PAUSE: Duration = Duration::from_micros(100);
/// Passes before the rest is left to the master.
const PASSES: usize = 16;
/// Sleepers that a helper wakes: a sender does not pay for many.
const FEW: usize = 2;

/// What a core knows of its own pace.
#[derive(Debug)]
pub(super) struct Pace {
    /// When it last rang.
    rang: Option<Instant>,
    /// Where in its stream it was then.
    heard: usize,
}

impl Pace {
    pub fn new() -> Self {
        Self {
            rang: None,
            heard: 0,
        }
    }

    /// Notes that the core rings while the master sleeps; true when it is not in full flow: it has
    /// received something since it last did, or has not done so for a while.
    fn is_slow(&mut self, heard: usize) -> bool {
        let now = Instant::now();
        let before = self.rang.replace(now);
        let answers = std::mem::replace(&mut self.heard, heard) != heard;
        answers || before.is_none_or(|before| now.duration_since(before) >= PAUSE)
    }
}

impl Core {
    /// Tells the router that this slot has news.
    #[cold]
    pub(super) fn ring(&mut self) {
        if self.hub.assist.is_none() {
            return ring(&self.hub, self.slot);
        }
        if self.hub.view.ring_bell(self.slot) && !(self.may_assist() && self.assist()) {
            self.hub.notify_router();
        }
    }

    fn may_assist(&mut self) -> bool {
        // Only one whose death the master would see. Relaxed: the master's note of itself.
        let born = Born::from_bits(self.mailbox.born.load(Ordering::Relaxed));
        let heard = self.queue.place();
        born.tick(self.holder).is_some() && self.pace.is_slow(heard)
    }

    /// Runs the router. False when the master must be woken after all.
    fn assist(&mut self) -> bool {
        let hub = &self.hub;
        let (Some(assist), role) = (&hub.assist, hub.view.sleep) else {
            return false;
        };
        if !role.assist(self.slot) {
            // The master is awake, or somebody else helps: they look at the bells before they
            // leave, and this core's is rung.
            return true;
        }
        loop {
            let router = if assist.is_in_force(&hub.view.header) {
                // SAFETY: this core has the role, and the pool is in force.
                unsafe { assist.router() }
            } else {
                None
            };
            let Some(router) = router else {
                role.leave();
                return false;
            };
            if !is_done(router) {
                role.leave();
                return false;
            }
            self.wake(router);
            if router.rest() && role.give_back(self.slot, || assist.is_rung()) {
                return true;
            }
        }
    }

    /// Does what the passes have left to do.
    fn wake(&self, router: &mut Router) {
        let view = &self.hub.view;
        let mut wakes = 0;
        router.outcome.wakes.drain(|slot| {
            if let Some(fd) = self.hub.core_fds.get(slot) {
                notify::ring(fd);
                wakes += 1;
            }
        });
        let events = &mut router.outcome.events;
        events.drain(|slot| notify::wake(&view.mailbox(slot).event));
        router.stats.wakes += wakes;
        router.stats.assisted += 1;
        router.stats.store(&view.header.counters);
    }
}

/// Passes until nothing moves; false when there is more to do than a helper should.
fn is_done(router: &mut Router) -> bool {
    let is_still = (0..PASSES).any(|_| !router.step());
    let outcome = &router.outcome;
    is_still && outcome.owners.is_empty() && outcome.wakes.len() <= FEW
}
