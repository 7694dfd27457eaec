//! Four workers of four cores, real processes, a million messages under random join and leave,
//! with workers killed and re-forked all the time: everybody in a channel receives every message
//! exactly once, and one order explains what anybody saw. The checker is shown to fail.

// The storm's bookkeeping across processes; not subject to the models.
#![allow(clippy::disallowed_types)]

mod common;
#[path = "storm/mod.rs"]
mod storm;

use std::time::Duration;

use common::{Watchdog, wait_until};
use corecast::{Hub, Overflow, Stats};
use storm::check::check;
use storm::crew;
use storm::log::Event;
use storm::stage::{CORES, Stage, WORKERS};

fn hub(assist: bool) -> Hub {
    Hub::builder()
        .workers(WORKERS)
        .cores(CORES)
        .isolation(!assist)
        .assist(assist)
        .overflow(Overflow::Block) // nothing may be lost
        .answer_timeout(Duration::from_secs(60))
        .create()
        .expect("a hub")
}

/// `messages` among workers of which `kills` are killed.
fn a_storm(assist: bool, messages: u64, kills: u64) -> Stats {
    let _watchdog = Watchdog::new(Duration::from_secs(240));
    storm::body::prepare();
    let (hub, stage) = (hub(assist), Stage::new(messages + messages / 20));
    let master = hub.start().expect("a master");
    let figures = crew::run(&hub, stage, kills);
    // The master may still have to be woken by the last to leave.
    wait_until("all slots are back", || hub.stats().cores == 0);
    master.stop().expect("stopped");
    let verdict = check(&crew::logs(stage));
    println!("{figures:?}\n{verdict:#?}");
    assert!(verdict.is_clean(), "{verdict:#?}");
    assert!(verdict.messages >= messages && verdict.deliveries > verdict.messages);
    assert!(verdict.killed >= kills && verdict.memberships > 100);
    let stats = hub.stats();
    assert_eq!((stats.lost, stats.violations, stats.quarantined), (0, 0, 0));
    assert_eq!(
        (stats.cores, stats.subscriptions, stats.channels),
        (0, 0, 0)
    );
    stats
}

#[test]
fn a_storm_loses_doubles_and_reorders_nothing() {
    let stats = a_storm(false, 1_000_000, 40);
    assert_eq!(stats.assisted, 0);
}

/// In assist mode any worker may be killed while it does the master's work.
#[test]
fn nor_does_a_storm_in_assist_mode() {
    let stats = a_storm(true, 300_000, 40);
    println!("{} times a worker did the master's work", stats.assisted);
    assert!(stats.assisted > 50);
}

#[test]
fn the_checker_finds_each_kind_of_damage() {
    use storm::forged::{found, history};
    let honest = check(&history());
    assert!(honest.is_clean(), "{honest:#?}");
    assert_eq!(
        (honest.messages, honest.deliveries, honest.memberships),
        (8, 16, 2)
    );
    assert_eq!(found(|h| h[2].remove(5)), ["lost"]);
    assert_eq!(found(|h| h[2].remove(9)), ["lost"]);
    assert_eq!(
        found(|h| h[2].insert(5, Event::Lagged { count: 1 })),
        ["lost"]
    );
    assert_eq!(
        found(|h| {
            let again = h[2][4];
            h[2].insert(5, again)
        }),
        ["lost", "duplicates", "overtaken", "order_violations"]
    );
    assert_eq!(found(|h| h[2].insert(5, Event::Torn)), ["torn"]);
    assert_eq!(found(|h| h[0].truncate(3)), ["torn"]);
    assert_eq!(found(|h| h[2].swap(10, 12)), ["strays"]);
    // One core sees the two concurrent senders in another order than the other core.
    assert_eq!(found(|h| h[2].swap(3, 4)), ["lost", "order_violations"]);
    // Both see a sender's messages in the wrong order.
    let swapped = found(|h| (h[2].swap(3, 5), h[3].swap(3, 5)));
    assert_eq!(swapped, ["overtaken", "inversions", "order_violations"]);
    // Whoever is killed misses the rest.
    assert_eq!(found(|h| h[2].truncate(6)), [""; 0]);
}

/// Negative control: the very schedule that the router's draw is for.
#[cfg(debug_assertions)]
#[test]
fn an_inversion_is_found_when_the_router_cuts_without_a_draw_and_only_then() {
    let honest = check(&storm::held::run(false));
    assert!(honest.is_clean(), "{honest:#?}");
    assert_eq!((honest.messages, honest.deliveries), (5, 5));
    // Whoever was held up comes late, with a smaller ticket than the one before.
    assert_eq!(honest.falling_tickets, 1);
    let spoilt = check(&storm::held::run(true));
    assert_eq!(
        (spoilt.lost, spoilt.duplicates, spoilt.deliveries),
        (0, 0, 5)
    );
    assert_eq!(spoilt.inversions, 1, "{spoilt:#?}");
    assert!(spoilt.order_violations > 0, "{spoilt:#?}");
}
