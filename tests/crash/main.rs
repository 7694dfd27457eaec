//! Death at every instruction. A worker, the victim, makes a call and is held after each of its
//! instructions; then everybody else goes through what follows if it dies there, is killed there
//! for real, or is stopped there and goes on later.
//!
//! Nothing but the region and a pidfd is left of a dead process, so what follows is a function of
//! the region as it is at that instruction. A snapshot runs it: the master reaps, the others send
//! and receive, and all is put back, down to the private memory of the master and the cores, which
//! is allocated in one piece for that (`arena`). The victim, stopped under ptrace, does not notice.
//!
//! What must be true each time: others go on within eight turns of the master and are notified; a
//! message whose send had returned comes exactly once, whole, and in an order that agrees with
//! when sends began and returned; slot, subscriptions, channels and descriptors are back; whoever
//! gets the slot next finds nothing of its last owner's.
//!
//! Without optimisation the calls are thirty times as long; then a selection is run, in a release
//! build all of it. `CORECAST_CRASH_POINTS` and `CORECAST_CRASH_KILLS` make the long run longer
//! (`make crash`).

// The way to single-step, and the registers.
#![cfg(target_arch = "x86_64")]
// The tests' own bookkeeping across processes; not subject to the models.
#![allow(clippy::disallowed_types)]

mod arena;
mod body;
#[path = "../common/mod.rs"]
mod common;
#[cfg(debug_assertions)]
mod controls;
mod figures;
mod image;
mod long;
mod realm;
mod scenarios;
mod stage;
mod step;
mod sweep;
mod throne;
mod victim;
mod world;

use common::{LONG, Watchdog, alone};
use corecast::Overflow;
use figures::Figures;
use realm::{Reign, Work};
use stage::Stage;
use sweep::{Recoveries, interleaved, kill, snapshots, stop};
use victim::{Call, Scenario};

/// What is done with each scenario.
struct Plan {
    lengths: &'static [usize],
    /// Situations of each call.
    most: usize,
    /// Situations of each call that waits for the master: it goes round its wait many times.
    most_waits: usize,
    /// One real kill, and one real stop, at each of so many instructions.
    kill_every: usize,
    stop_every: usize,
    /// Messages that the others exchange while the victim is stopped.
    meanwhile: u64,
    /// Whether others also exchange a message after each single instruction.
    interleave: bool,
}

const PLAN: Plan = if cfg!(debug_assertions) {
    Plan {
        lengths: &[200],
        most: 3,
        most_waits: 3,
        kill_every: 1000,
        stop_every: 8000,
        meanwhile: 100,
        interleave: false,
    }
} else {
    Plan {
        lengths: &scenarios::LENGTHS,
        most: usize::MAX,
        most_waits: 4,
        kill_every: 64,
        stop_every: 512,
        meanwhile: 1000,
        interleave: true,
    }
};

/// Takes victims through calls, each in the situations that `of` names.
fn die_in(calls: &[Call], of: impl Fn(Call, &mut Figures) -> Vec<Scenario>) -> Figures {
    let _alone = alone();
    let _watchdog = Watchdog::new(8 * LONG);
    common::stay_on_one_cpu();
    let mut figures = Figures::default();
    for &call in calls {
        for scenario in of(call, &mut figures) {
            figures.scenarios += 1;
            all_ways(scenario, &mut figures);
        }
    }
    figures
}

/// Takes victims through a call in all situations.
fn die_at_each_instruction_of(calls: &[Call]) {
    let of = |call, figures: &mut Figures| {
        let mut all = scenarios::all_of(call, PLAN.lengths, figures);
        all.truncate(if waits(call) {
            PLAN.most_waits
        } else {
            PLAN.most
        });
        all
    };
    die_in(calls, of).check();
}

fn all_ways(scenario: Scenario, figures: &mut Figures) {
    let which = Recoveries::WhereChanged;
    let path = snapshots(&mut Stage::new(scenario), scenario, which, figures);
    let mut stage = Stage::new(scenario);
    // Not always the same ones, if scenarios take the same way.
    let first = figures.scenarios as usize;
    for steps in (first % PLAN.kill_every..path.len()).step_by(PLAN.kill_every) {
        kill(&mut stage, scenario, &path, steps, figures);
    }
    if may_be_stopped(scenario) {
        for steps in (first % PLAN.stop_every..path.len()).step_by(PLAN.stop_every) {
            stop(&mut stage, scenario, &path, steps, PLAN.meanwhile, figures);
        }
    }
    if may_be_stopped(scenario) && PLAN.interleave {
        interleaved(&mut stage, scenario, figures);
    }
}

/// Whether the call waits for an answer of the master.
fn waits(call: Call) -> bool {
    matches!(
        call,
        Call::Join | Call::JoinRoom | Call::JoinTooMany | Call::Open
    )
}

/// A hub that blocks waits for whoever does not receive: that is what it is for. And in assist mode
/// everybody waits for who does the master's work: that is its price.
fn may_be_stopped(scenario: Scenario) -> bool {
    scenario.overflow != Overflow::Block && !scenario.assists
}

macro_rules! calls {
    ($($name:ident: $($call:ident)+,)+) => {$(
        #[test]
        fn $name() {
            die_at_each_instruction_of(&[$(Call::$call),+]);
        }
    )+};
}

calls! {
    held_at_each_instruction_of_send: Send SendTo,
    held_at_each_instruction_of_send_to_another_channel: SendElsewhere,
    held_at_each_instruction_of_send_to_an_unknown_channel: SendUnheard,
    held_at_each_instruction_of_send_many: SendMany,
    held_at_each_instruction_of_a_loan: Loan LoanDropped,
    held_at_each_instruction_of_recv: Recv RecvAll,
    held_at_each_instruction_of_join: Join JoinRoom,
    held_at_each_instruction_of_join_of_one_channel_too_many: JoinTooMany,
    held_at_each_instruction_of_open_and_close: Open Close,
    held_at_each_instruction_of_leave: Leave,
    held_at_each_instruction_of_leave_all: LeaveAll,
    held_at_each_instruction_of_attach: Attach,
    held_at_each_instruction_of_detach: Detach Drop,
}

#[test]
fn held_at_each_instruction_of_doing_the_masters_work() {
    let calls = [
        Call::Send,
        Call::SendMany,
        Call::Join,
        Call::Leave,
        Call::Detach,
    ];
    let figures = die_in(&calls, |call, figures| {
        let mut all = scenarios::assisting(call, figures);
        all.truncate(if cfg!(debug_assertions) { 1 } else { PLAN.most });
        all
    });
    assert!(figures.helped > 0, "nobody has done the master's work");
    figures.check();
}

#[test]
fn held_at_each_instruction_in_a_stream_and_behind_its_end() {
    let calls = [
        Call::Send,
        Call::SendMany,
        Call::Loan,
        Call::Join,
        Call::Leave,
        Call::Detach,
    ];
    // Of the shortest messages, but all kinds of streams.
    let every = if cfg!(debug_assertions) {
        scenarios::LENGTHS.len()
    } else {
        1
    };
    let of = |call, _: &mut Figures| {
        scenarios::streaming(call)
            .into_iter()
            .step_by(every)
            .collect()
    };
    die_in(&calls, of).check();
}

/// Takes masters through reigns.
fn masters_die_in(reigns: impl IntoIterator<Item = Reign>) {
    let _alone = alone();
    let _watchdog = Watchdog::new(8 * LONG);
    common::stay_on_one_cpu();
    let mut figures = Figures::default();
    for reign in reigns {
        throne::die_at_each_instruction(reign, 1, MASTER_STEPS, &mut figures);
    }
    figures.check();
}

/// Instructions executed on the way to real kills, in each reign.
const MASTER_STEPS: usize = 300_000;

#[test]
fn masters_held_at_each_instruction_of_a_fan_out() {
    let full = [Overflow::DropNewest, Overflow::DropOldest, Overflow::Block];
    masters_die_in([true, false].map(|awaits| Reign {
        awaits,
        ..throne::FAN_OUT
    }));
    masters_die_in(full.map(|overflow| Reign {
        unread: 20,
        messages: 5,
        overflow,
        ..throne::FAN_OUT
    }));
}

#[test]
fn masters_held_at_each_instruction_of_joins_and_leaves() {
    masters_die_in([Work::Join, Work::Leave].map(|work| Reign {
        work,
        messages: 3,
        ..throne::FAN_OUT
    }));
}

#[test]
fn masters_held_at_each_instruction_of_a_run() {
    masters_die_in(
        [Overflow::DropOldest, Overflow::Block].map(|overflow| Reign {
            work: Work::Run,
            messages: 3,
            overflow,
            ..throne::FAN_OUT
        }),
    );
}

#[test]
fn masters_held_at_each_instruction_of_a_reaping() {
    masters_die_in([true, false].map(|awaits| Reign {
        work: Work::Reap,
        messages: 3,
        awaits,
        ..throne::FAN_OUT
    }));
}

#[test]
fn masters_held_at_each_instruction_of_an_adoption() {
    masters_die_in([3, 9, 14].map(|part| Reign {
        after: Some(part),
        messages: 6,
        ..throne::FAN_OUT
    }));
}

#[test]
fn a_long_run_of_random_situations() {
    let _alone = alone();
    long::run().check();
}
