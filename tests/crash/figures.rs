//! What was done and what was found.

use std::fmt;
use std::ops::AddAssign;

/// Broken promises, by kind. All zero, or something is wrong with the mechanism.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Others did not go on within the bounded number of turns, or were not notified.
    pub stalls: u64,
    /// Messages that are not whole; damage that the router met.
    pub torn: u64,
    /// Messages whose send had returned and that did not come.
    pub lost: u64,
    /// Messages that came more than once.
    pub duplicates: u64,
    /// Messages that came before one whose send had returned before theirs began.
    pub disorder: u64,
    /// Slots, subscriptions, channels and descriptors that did not come back.
    pub leaks: u64,
}

impl Faults {
    pub fn any(&self) -> bool {
        *self != Self::default()
    }
}

impl AddAssign for Faults {
    fn add_assign(&mut self, other: Self) {
        self.stalls += other.stalls;
        self.torn += other.torn;
        self.lost += other.lost;
        self.duplicates += other.duplicates;
        self.disorder += other.disorder;
        self.leaks += other.leaks;
    }
}

/// The figures of a run.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub scenarios: u64,
    /// Instructions after which the worker was held.
    pub points: u64,
    /// Of these, points where recovery was run on the state as it was there.
    pub recoveries: u64,
    /// Processes really killed.
    pub kills: u64,
    /// Processes really stopped, and let go on.
    pub stops: u64,
    /// Processes that did not come to the instruction wanted, and were killed elsewhere: not
    /// counted above, but recovered from too.
    pub strayed: u64,
    /// Operations that had to skip to the start of the lane.
    pub wraps: u64,
    /// Calls in which the worker did the master's work.
    pub helped: u64,
    /// Messages that the others exchanged meanwhile.
    pub others: u64,
    pub faults: Faults,
    /// Where the first fault was found.
    pub first: Option<String>,
}

impl Figures {
    /// Numbers in it.
    pub const WORDS: usize = 15;

    /// All of its numbers.
    pub fn words(&self) -> [u64; Self::WORDS] {
        let faults = self.faults;
        [
            self.scenarios,
            self.points,
            self.recoveries,
            self.kills,
            self.stops,
            self.strayed,
            self.wraps,
            self.others,
            faults.stalls,
            faults.torn,
            faults.lost,
            faults.duplicates,
            faults.disorder,
            faults.leaks,
            self.helped,
        ]
    }

    /// The inverse of [`Self::words`].
    pub fn of_words(words: &[u64]) -> Self {
        Self {
            scenarios: words[0],
            points: words[1],
            recoveries: words[2],
            kills: words[3],
            stops: words[4],
            strayed: words[5],
            wraps: words[6],
            others: words[7],
            helped: words[14],
            faults: Faults {
                stalls: words[8],
                torn: words[9],
                lost: words[10],
                duplicates: words[11],
                disorder: words[12],
                leaks: words[13],
            },
            first: None,
        }
    }

    /// Adds what was found at some place.
    pub fn found(&mut self, faults: Faults, place: impl FnOnce() -> String) {
        if faults.any() && self.first.is_none() {
            self.first = Some(format!("{}: {faults:?}", place()));
        }
        self.faults += faults;
    }

    /// Panics when a promise was broken.
    pub fn check(&self) {
        println!("{self}");
        assert_eq!(self.first, None, "{self}");
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Faults {
            stalls,
            torn,
            lost,
            duplicates,
            disorder,
            leaks,
        } = self.faults;
        write!(
            f,
            "scenarios {}, points {}, recoveries {}, kills {}, strayed {}, stops {}, wraps {}, helped {}, messages of \
             others {}: stalls {stalls}, torn {torn}, lost {lost}, duplicates {duplicates}, order \
             violations {disorder}, leaks {leaks}",
            self.scenarios,
            self.points,
            self.recoveries,
            self.kills,
            self.strayed,
            self.stops,
            self.wraps,
            self.helped,
            self.others,
        )
    }
}
