//! A master that always has something to route still sees deaths, and still stops.

mod common;

use std::time::Duration;

use common::{Watchdog, fork, wait_until};
use corecast::Hub;

/// The master once worked until nothing moved, which under full load is never: a dead worker kept
/// its slot, and stopping hung.
#[test]
fn a_saturated_master_sees_deaths_and_stops() {
    let _watchdog = Watchdog::new(Duration::from_secs(60));
    let hub = Hub::builder().workers(2).create().expect("a hub");
    let master = hub.start().expect("a master");
    let child = fork(|| {
        let mut core = hub.attach(0, 0).expect("a core");
        core.join("held").expect("joined");
        loop {
            std::thread::sleep(Duration::from_secs(60));
        }
    });
    let sender = std::thread::spawn({
        let hub = hub.clone();
        move || {
            let mut core = hub.attach(1, 0).expect("a core");
            core.join("flood").expect("joined");
            // Its own queue overflows; that costs the router the same.
            while core.send("flood", &[7; 64]) != Err(corecast::SendError::MasterGone) {}
        }
    });
    wait_until("the child has joined", || {
        !hub.subscribers("held").is_empty()
    });
    wait_until("the flood flows", || hub.stats().messages > 100_000);
    child.kill();
    wait_until("the death is seen", || hub.stats().reaped == 1);
    assert!(hub.subscribers("held").is_empty());
    master.stop().expect("stopped");
    sender.join().expect("the sender ended");
}
