//! Becoming the master: who runs the router, and with what it goes on.

use std::time::{Duration, Instant};

use crossbeam_utils::Backoff;

use crate::assist::{Assist, is_dead, make_router};
use crate::doorbell::Claim;
use crate::error::MasterError;
use crate::hub::Inner;
use crate::memory::Place;
use crate::process::Life;
use crate::router::Router;
use crate::shared::MasterState;
use crate::sync::Ordering;

/// How often a master looks whether a helper has done, or has died.
const HELPING: Duration = Duration::from_micros(100);

/// Enters this process as the hub's master, if the last one has stopped or died. One process
/// wins.
pub(super) fn become_the_master(hub: &Inner) -> Result<(), MasterError> {
    let state = &hub.view.header.master;
    loop {
        let seen = MasterState::load(state);
        if let MasterState::Running(life) = seen {
            if !life.is_over() {
                let pid = life.pid();
                return Err(MasterError::AlreadyRunning { pid });
            }
        }
        if MasterState::Running(Life::current()).change(state, seen) {
            return Ok(());
        }
    }
}

fn stop_being_the_master(hub: &Inner) {
    let state = &hub.view.header.master;
    // False only after damage: nobody else changes it while its master lives.
    let _ = MasterState::Gone.change(state, MasterState::load(state));
}

/// Waits until the role of the router is the master's, at most for `patience`. Says who had it:
/// `Helped` is a helper that died with it.
pub(super) fn claim(hub: &Inner, patience: Duration) -> Result<Claim, MasterError> {
    let role = hub.view.sleep;
    let (backoff, start) = (Backoff::new(), Instant::now());
    loop {
        let claim = role.claim();
        let Claim::Helped(slot) = claim else {
            return Ok(claim);
        };
        if !backoff.is_completed() {
            backoff.snooze();
            continue;
        }
        if is_dead(&hub.view, slot) {
            if role.seize(slot) {
                return Ok(claim);
            }
            continue;
        }
        if start.elapsed() >= patience {
            let pid = hub.view.slot(slot).load().pid();
            return Err(MasterError::Assisted { pid });
        }
        std::thread::sleep(HELPING);
    }
}

/// The router that this process has kept, if nobody has routed since; else one that goes on from
/// what the region says.
pub(super) fn take_over(hub: &Inner) -> Result<Place<Router>, MasterError> {
    let is_whole = if hub.view.config.assist {
        // Then the one router of all masters is in the pool, as the last one has left it.
        let claim = claim(hub, hub.view.config.answer_timeout);
        claim.inspect_err(|_| stop_being_the_master(hub))? == Claim::Given
    } else {
        true
    };
    let reign = &hub.view.header.reign;
    // Relaxed: written by masters only, and this is the one; ordered by `become_the_master`.
    let last = reign.load(Ordering::Relaxed);
    reign.store(last + 1, Ordering::Relaxed);
    let kept = hub.router.try_lock().and_then(|mut kept| kept.take());
    let assist = hub.assist.as_ref();
    let is_there = is_whole && assist.is_none_or(|assist| assist.is_in_force(&hub.view.header));
    let is_current = |router: &Place<Router>| {
        let address = assist.map(|assist| assist.address());
        is_there && address.is_none_or(|address| address == Some(router.address()))
    };
    let mut router = match kept.filter(is_current) {
        Some(router) if router.reign == last => router,
        _ => make_router(&hub.view, assist, Router::adopt),
    };
    Assist::put_in_force(assist, &hub.view.header);
    router.reign = last + 1;
    Ok(router)
}
