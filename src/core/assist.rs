//! Doing the master's work for it, see [`crate::assist`].

use std::time::{Duration, Instant};

use super::{Core, ring};
use crate::queue::Place;
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
    /// When it last rang, unless that was an answer.
    rang: Option<Instant>,
    /// Where in its stream it was then.
    heard: Place,
}

impl Pace {
    pub fn new() -> Self {
        Self {
            rang: None,
            heard: Place::default(),
        }
    }

    /// Notes that the core rings while the master sleeps; true when it is not in full flow: it has
    /// received something since it last did, or has not done so for a while.
    fn is_slow(&mut self, heard: Place) -> bool {
        if std::mem::replace(&mut self.heard, heard) != heard {
            self.rang = None; // without asking the clock: the next one may still pass for slow
            return true;
        }
        let now = Instant::now();
        let before = self.rang.replace(now);
        before.is_none_or(|before| now.duration_since(before) >= PAUSE)
    }
}

impl Core {
    /// Tells the router that this slot has news.
    #[cold]
    #[inline(never)]
    pub(super) fn ring(&mut self) {
        if self.hub.assist.is_none() {
            return ring(&self.hub, self.slot);
        }
        if self.hub.view.ring_bell(self.slot) && !(self.may_assist() && self.assist()) {
            self.hub.notify_router();
        }
    }

    fn may_assist(&mut self) -> bool {
        // Its slot names the holder of the role: it must not become free while it does.
        if self.detached {
            return false;
        }
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
            // SAFETY: this core has the role.
            let router = unsafe { assist.router(&hub.view.header) };
            let Some(router) = router.and_then(done) else {
                role.leave();
                return false;
            };
            router.count_help();
            hub.wake(&mut router.outcome);
            if router.rest() && role.give_back(self.slot, || assist.is_rung()) {
                return true;
            }
        }
    }
}

/// Passes until nothing is known to be left; None when there is more to do than a helper should.
fn done(router: &mut Router) -> Option<&mut Router> {
    let is_left = (0..PASSES).all(|_| {
        router.step();
        router.is_left
    });
    let outcome = &router.outcome;
    let is_done = !is_left && outcome.owners.is_empty() && outcome.wakes.len() <= FEW;
    is_done.then_some(router)
}
