//! The rig under the fuzz targets: a router among workers of which one, or all, write anything at
//! any time.
//!
//! The input has two parts. The first is a program: what the workers do by the book, and when the
//! router steps. The second is the adversary: before each load that the router makes from memory
//! that the hostile can write, it says what is there now (`adversary`). So no two loads of one
//! place need agree, and whatever is fetched twice can be caught between check and use.
//!
//! The control: with `CORECAST_PLANT` in the environment the router reads a header once more after
//! it has checked it, and the targets must find that.
//!
//! What must hold, whatever the input is:
//! * no panic (debug assertions and overflow checks are on), no endless loop (loads are counted);
//! * no read that leaves the part it began in; the parts of the slots beside the hostile's are
//!   inaccessible, so what runs over its rings and buffers faults;
//! * workers that keep to the book get every message, once, in order, and are never quarantined;
//! * the hostile's slot can be reaped, and serves an honest successor.

mod adversary;
mod play;
mod seeds;

pub use seeds::write_seeds;

use std::sync::OnceLock;

use crate::sync::set_hook;
use play::Play;

/// What the hostile can write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Its own part: lane, and the words of its slot.
    Own,
    /// Whatever any worker writes: all lanes, all words, tickets.
    All,
}

/// True in the control run, in which the router fetches a header twice: `CORECAST_PLANT` is set.
pub fn fetches_twice() -> bool {
    static PLANTED: OnceLock<bool> = OnceLock::new();
    *PLANTED.get_or_init(|| std::env::var_os("CORECAST_PLANT").is_some())
}

/// Plays one input. Panics, faults or hangs if the router can be harmed.
pub fn run(reach: Reach, input: &[u8]) {
    let Some((&first, rest)) = input.split_first() else {
        return;
    };
    let Some((&len, rest)) = rest.split_first() else {
        return;
    };
    let (program, lies) = rest.split_at(usize::from(len).min(rest.len()));
    set_hook(Some(adversary::hook));
    let mut play = Play::new(reach, first);
    adversary::begin(play.parts(), lies);
    play.perform(program);
    adversary::end();
    play.finish();
    set_hook(None);
}
