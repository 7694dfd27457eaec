//! Negative controls: what these tests are to find, put there on purpose, is found.

use corecast::Overflow;

use crate::body::LEAST;
use crate::common::{LONG, Watchdog, alone};
use crate::figures::{Faults, Figures};
use crate::realm::Reign;
use crate::stage::Stage;
use crate::sweep::{Recoveries, snapshots};
use crate::throne;
use crate::victim::{Call, Fill, Scenario, Stream};
use crate::world::Late;

const SCENARIO: Scenario = Scenario {
    call: Call::Send,
    len: 200,
    lead: 1,
    lane: Fill::Empty,
    mail: Fill::Empty,
    overflow: Overflow::DropNewest,
    assists: false,
    stream: Stream::No,
};

fn faults(scenario: Scenario, late: Late) -> Faults {
    let _alone = alone();
    let _watchdog = Watchdog::new(2 * LONG);
    let mut figures = Figures::default();
    let mut stage = Stage::new(scenario);
    stage.world(|w| w.late = late);
    stage.save();
    snapshots(&mut stage, scenario, Recoveries::WhereChanged, &mut figures);
    println!("{late:?}: {figures}");
    figures.faults
}

#[test]
fn without_a_planted_fault_none_is_found() {
    assert_eq!(faults(SCENARIO, Late::Checked), Faults::default());
}

#[test]
fn a_send_that_commits_before_it_copies_is_found() {
    let call = Call::SendCommittedFirst;
    let found = faults(Scenario { call, ..SCENARIO }, Late::Checked);
    assert!(found.torn > 0, "{found:?}");
    let call = Call::SendCommittedFirst;
    let small = faults(
        Scenario {
            call,
            len: LEAST,
            ..SCENARIO
        },
        Late::Checked,
    );
    assert!(small.torn > 0, "{small:?}");
}

#[test]
fn reaping_a_slot_whoever_holds_it_is_found() {
    let found = faults(SCENARIO, Late::Unchecked);
    assert!(found.any() && found.torn == 0, "{found:?}");
}

/// A router that carries out what it has not committed: its successor routes it again.
#[test]
fn a_master_that_does_not_commit_is_found() {
    let _alone = alone();
    let _watchdog = Watchdog::new(4 * LONG);
    let reign = Reign {
        messages: 2,
        ..throne::FAN_OUT
    };
    for skips_commit in [false, true] {
        let mut figures = Figures::default();
        throne::die_sabotaged(reign, skips_commit, &mut figures);
        println!("skips_commit {skips_commit}: {figures}");
        assert_eq!(figures.faults.any(), skips_commit, "{figures}");
    }
}
