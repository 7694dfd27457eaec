//! A master that always has something to route still sees deaths, and still comes back.

mod common;

use std::time::Duration;

use common::{Watchdog, fork, wait_until};
use corecast::{Hub, Sabotage};

/// The master once worked until nothing moved, which under full load is never: a dead worker kept
/// its slot, a stopping thread hung, a host did not get control back.
#[test]
fn a_saturated_master_comes_back_and_sees_deaths() {
    let _watchdog = Watchdog::new(Duration::from_secs(60));
    let hub = Hub::builder().workers(2).create().expect("a hub");
    let mut master = hub.master().expect("a master");
    let child = fork(|| {
        let mut core = hub.attach(0, 0).expect("a core");
        core.join("held").expect("joined");
        loop {
            std::thread::sleep(Duration::from_secs(60));
        }
    });
    wait_until("the child has joined", || {
        master.poll(Some(Duration::ZERO)).expect("polled");
        !hub.subscribers("held").is_empty()
    });
    // Full load, made exact: whenever the router has looked at a lane, there is more.
    let mut core = hub.attach(1, 0).expect("a core");
    core.send("flood", b"the first").expect("sent");
    master.sabotage(Sabotage {
        cut_without_draw: true, // takes the way on which the hook runs
        between_tails: Some(Box::new(move || core.send("flood", b"more").expect("sent"))),
        ..Sabotage::default()
    });
    child.kill();
    wait_until("the death is seen", || {
        master.poll(Some(Duration::ZERO)).expect("polled");
        hub.stats().reaped == 1
    });
    assert!(hub.subscribers("held").is_empty());
}
