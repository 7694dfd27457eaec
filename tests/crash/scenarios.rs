//! The situations: every call, with an empty, a nearly full and a full lane or queue, with small
//! and large messages, where the lane goes on and where it starts over.

use corecast::Overflow;

use crate::body::{LEAST, Said, Who};
use crate::figures::Figures;
use crate::stage::Stage;
use crate::victim::{Call, Fill, Scenario, Stream};

/// Bytes of a small message, one that is staged in pieces, and one that goes to each queue by
/// itself.
pub const LENGTHS: [usize; 3] = [LEAST, 200, 1400];

const PLAIN: Scenario = Scenario {
    call: Call::Send,
    len: LEAST,
    lead: 1,
    lane: Fill::Empty,
    mail: Fill::Empty,
    overflow: Overflow::DropNewest,
    assists: false,
    stream: Stream::No,
};

/// How full a lane or a queue is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Empty,
    Nearly,
    Full,
}

const LEVELS: [Level; 3] = [Level::Empty, Level::Nearly, Level::Full];

/// All scenarios of one call with messages of `lengths` bytes, with the fills measured.
pub fn all_of(call: Call, lengths: &[usize], figures: &mut Figures) -> Vec<Scenario> {
    let mut found = Vec::new();
    match call {
        Call::Attach => found.extend([0, 1, 2].map(|lead| Scenario {
            call,
            lead,
            ..PLAIN
        })),
        Call::Recv => receiving(call, lengths, &mut found),
        // As many instructions as there are messages: few, large ones.
        Call::RecvAll => {
            receiving(call, &LENGTHS[2..], &mut found);
            found.push(Scenario {
                call,
                mail: Fill::Some(3),
                ..PLAIN
            });
        }
        _ => writing(call, lengths, &mut found, figures),
    }
    found
}

/// The same for a victim that does the master's work while that sleeps.
pub fn assisting(call: Call, figures: &mut Figures) -> Vec<Scenario> {
    let plain = Scenario {
        call,
        assists: true,
        ..PLAIN
    };
    let mut leads = vec![1];
    leads.extend(wrapping_lead(plain));
    figures.wraps += leads.len() as u64 - 1;
    let mut found = Vec::new();
    for (len, lead) in both(&LENGTHS, &leads) {
        found.push(Scenario { len, lead, ..plain });
    }
    // What it finds in its way is its own queue.
    for (mail, overflow) in [
        (Fill::Full, Overflow::DropOldest),
        (Fill::Some(2), Overflow::Block),
    ] {
        found.push(Scenario {
            len: 500,
            mail,
            overflow,
            ..plain
        });
    }
    found
}

/// The same for a victim that streams, or did when it last looked.
pub fn streaming(call: Call) -> Vec<Scenario> {
    let of = |(stream, len)| Scenario {
        call,
        len,
        stream,
        ..PLAIN
    };
    let streams = [Stream::Goes, Stream::Ended];
    let mut all = both(&streams, &LENGTHS);
    all.push((Stream::Run, LEAST));
    all.into_iter().map(of).collect()
}

fn writing(call: Call, lengths: &[usize], found: &mut Vec<Scenario>, figures: &mut Figures) {
    for &len in lengths {
        let plain = Scenario { call, len, ..PLAIN };
        found.push(Scenario { lead: 0, ..plain });
        let mut leads = vec![1];
        leads.extend(wrapping_lead(plain));
        figures.wraps += leads.len() as u64 - 1;
        for (lead, level) in both(&leads, &LEVELS) {
            found.push(laid(Scenario { lead, ..plain }, level));
        }
    }
    // What the router waits for may be this very core.
    for (mail, overflow) in [
        (Fill::Full, Overflow::Block),
        (Fill::Full, Overflow::DropOldest),
        (Fill::Some(2), Overflow::DropNewest),
    ] {
        found.push(Scenario {
            call,
            len: 500,
            mail,
            overflow,
            ..PLAIN
        });
    }
}

fn receiving(call: Call, lengths: &[usize], found: &mut Vec<Scenario>) {
    const POLICIES: [Overflow; 3] = [Overflow::DropNewest, Overflow::DropOldest, Overflow::Block];
    for &len in lengths {
        // After one lead, the other buffer is the front.
        for (lead, level) in both(&[0, 1], &LEVELS) {
            for overflow in POLICIES {
                let plain = Scenario {
                    call,
                    len,
                    lead,
                    overflow,
                    ..PLAIN
                };
                found.push(mailed(plain, level));
            }
        }
    }
}

fn both<A: Copy, B: Copy>(a: &[A], b: &[B]) -> Vec<(A, B)> {
    a.iter()
        .flat_map(|&a| b.iter().map(move |&b| (a, b)))
        .collect()
}

fn laid(scenario: Scenario, level: Level) -> Scenario {
    let full = Scenario {
        lane: Fill::Full,
        ..scenario
    };
    match level {
        Level::Empty => scenario,
        Level::Nearly => Stage::new(full).measure(full, 1),
        Level::Full => full,
    }
}

fn mailed(scenario: Scenario, level: Level) -> Scenario {
    let full = Scenario {
        mail: Fill::Full,
        ..scenario
    };
    match level {
        Level::Empty => scenario,
        Level::Nearly => Stage::new(full).measure(full, 2),
        Level::Full => full,
    }
}

/// After how many messages the next record goes to the start of the lane: found by looking where
/// in memory a message lies.
fn wrapping_lead(scenario: Scenario) -> Option<u64> {
    let send = Scenario {
        call: Call::Send,
        lane: Fill::Some(1),
        ..scenario
    };
    let mut last = 0;
    for lead in 0..200 {
        let mut stage = Stage::new(send);
        let tracee = stage.victim(Scenario { lead, ..send });
        let said = Said {
            who: Who::Victim,
            number: lead,
            floor: stage.board.said(),
        };
        let at = stage
            .image
            .find(&said.bytes(LEAST))
            .expect("what was sent is in memory");
        stage.forget(tracee);
        if at < last {
            return Some(lead);
        }
        last = at;
    }
    None
}
