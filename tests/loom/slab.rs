//! The slab: a sender writes a piece again only when nobody reads it any more.

use std::sync::Arc;

use loom::thread;

use super::arena::{Queue, Writer, receive};
use super::{AS_IT_IS, Plain, RACE, Weaker, fails, holds};
use crate::lane::LaneWord;
use crate::queue::ControlWord;
use crate::slab::Return;
use crate::sync::Ordering;

/// Where the record ends that refers to the piece.
const END: u64 = 32;

struct Hub {
    lane: LaneWord,
    queue: Queue,
    granule: Return,
}

/// What is done wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Haste {
    None,
    /// The router returns the piece without looking who refers to it.
    Router,
    /// The router says that it has routed the record when it has not: as if a return were a flag.
    Successor,
}

/// **Claim: a sender that finds its piece returned up to the record that it went with has it to itself:
/// whoever was to read it has read it.**
///
/// The sender writes the piece, publishes the record, and, if it finds the piece returned, writes it
/// again. The router passes a reference on when it finds the record, then a record without one, looks at
/// the queue, and returns the piece if nothing refers to it, up to where it has routed the lane. The core
/// reads what comes.
fn reuse(haste: Haste) -> impl Fn() + Send + Sync {
    move || {
        let hub = Arc::new(Hub {
            lane: LaneWord::new(),
            queue: Queue {
                word: ControlWord::new(),
                block: Plain::default(),
            },
            granule: Return::new(),
        });
        let sender = thread::spawn({
            let hub = hub.clone();
            move || {
                hub.queue.block.set(1);
                let _rings = hub.lane.publish(END);
                if hub.granule.is_back(END) {
                    hub.queue.block.set(2);
                }
            }
        });
        let core = thread::spawn({
            let hub = hub.clone();
            move || receive(&hub.queue, 2)
        });
        let mut writer = Writer::new();
        let routed = hub.lane.read().tail();
        if routed == END {
            writer.publish(&hub.queue, true);
            writer.refresh(&hub.queue);
        }
        let is_free = !writer.pins.contains(&true);
        if is_free || haste == Haste::Router {
            let said = if haste == Haste::Successor {
                END
            } else {
                routed
            };
            hub.granule.store(said);
        }
        if routed < END && hub.lane.read().tail() == END {
            writer.publish(&hub.queue, true);
        }
        sender.join().expect("no panic");
        core.join().expect("no panic");
    }
}

#[test]
fn a_piece_is_written_again_only_when_it_has_been_read() {
    holds("slab", AS_IT_IS, reuse(Haste::None));
}

#[test]
fn a_piece_returned_without_looking_is_being_read() {
    fails("slab, hasty", AS_IT_IS, RACE, reuse(Haste::Router));
}

#[test]
fn a_return_that_says_more_than_has_been_routed_gives_away_what_is_on_its_way() {
    fails(
        "slab, said too much",
        AS_IT_IS,
        RACE,
        reuse(Haste::Successor),
    );
}

#[test]
fn without_release_at_the_return_a_piece_is_written_while_it_is_read() {
    let weaker: Weaker = &[("slab.return", Ordering::Relaxed)];
    fails("slab, return: Relaxed", weaker, RACE, reuse(Haste::None));
}

#[test]
fn without_acquire_at_the_look_a_piece_is_written_while_it_is_read() {
    let weaker: Weaker = &[("slab.look", Ordering::Relaxed)];
    fails("slab, look: Relaxed", weaker, RACE, reuse(Haste::None));
}
