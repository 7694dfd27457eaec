//! Made-up logs, to show what the checker finds.

use super::check::{Verdict, check};
use super::log::{Event, Id};

/// Slots 0 and 1 send four messages each, the `n`-th of both at the same time; slots 2 and 3
/// receive them all.
pub fn history() -> Vec<Vec<Event>> {
    let sender = || {
        let mut events = vec![Event::Attached { incarnation: 0 }];
        events.extend((0..4).map(|n| Event::Sent {
            channel: 0,
            begin: 2 * n + 2,
            returned: 2 * n + 4,
        }));
        events.push(Event::Done);
        events
    };
    vec![sender(), sender(), receiver(), receiver()]
}

/// Attached, asked, joined, eight messages (places 3 to 10), leaving, left, done.
fn receiver() -> Vec<Event> {
    let channel = 0;
    let mut events = vec![
        Event::Attached { incarnation: 0 },
        Event::Asked { channel },
        Event::Joined { channel, stamp: 1 },
    ];
    events.extend((0..8).map(|n| Event::Got {
        id: Id {
            slot: n % 2,
            incarnation: 0,
            seq: n / 2,
        },
        channel,
        ticket: n.into(),
    }));
    events.extend([
        Event::Leaving { channel, stamp: 20 },
        Event::Left { channel },
        Event::Done,
    ]);
    events
}

/// The names of the counters that are not zero once `damage` has been done.
pub fn found<R>(damage: impl FnOnce(&mut Vec<Vec<Event>>) -> R) -> Vec<&'static str> {
    let mut logs = history();
    damage(&mut logs);
    let verdict = check(&logs);
    counters(&verdict)
}

fn counters(v: &Verdict) -> Vec<&'static str> {
    let counters = [
        ("lost", v.lost),
        ("duplicates", v.duplicates),
        ("torn", v.torn),
        ("strays", v.strays),
        ("overtaken", v.overtaken),
        ("inversions", v.inversions),
        ("order_violations", v.order_violations),
    ];
    let found = counters.iter().filter(|(_, count)| *count > 0);
    found.map(|(name, _)| *name).collect()
}
