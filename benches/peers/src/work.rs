//! Groups of work, their cases, and the loop that measures them.

use std::time::Duration;

use clap::ValueEnum;

use crate::findings::{Entry, Figures, Row};
use crate::support::crew::{Failure, Signals};
use crate::way::Way;

/// A group of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Work {
    /// how much goes through: sizes, fan-outs, batches
    Throughput,
    /// one message over and back, sleeping and spinning
    Roundtrip,
    /// 50,000 messages a second to four, in bursts and one by one
    Paced,
    /// what costs grow with: cores, channels, joins; memory
    Growth,
}

impl Work {
    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Work::Throughput => "throughput",
            Work::Roundtrip => "round trip",
            Work::Paced => "paced",
            Work::Growth => "growth",
        }
    }
}

/// What is the same for all cases of a run.
pub struct Plan<'a> {
    /// Where Ctrl-C arrives.
    pub signals: &'a Signals,
    /// Rounds of each way in each case.
    pub rounds: u32,
    /// How long senders of a throughput round send.
    pub length: Duration,
    /// A round that takes longer is ended and has failed.
    pub limit: Duration,
    /// How much less than usual to do, for a quick look.
    pub quick: bool,
    /// One round of everything, as small as it can be.
    pub check: bool,
}

/// Runs one round of one way.
pub type Round = dyn Fn(Way, &Plan) -> Result<Figures, Failure>;

/// One case: something that several ways can do.
pub struct Case {
    /// Its group.
    pub work: Work,
    /// Its name.
    pub name: String,
    /// Where it stands on the horizontal axis of a chart, if anywhere.
    pub x: Option<f64>,
    /// The ways that can do it.
    pub ways: Vec<Way>,
    /// How long a round takes, roughly.
    pub seconds: f64,
    /// Runs one round of one way.
    pub run: Box<Round>,
}

impl Case {
    /// Measures it: the ways take turns, so that a machine that changes its speed changes all.
    /// A way that fails stays out from then on. `step` is told before each round what comes, and
    /// after it how long it was expected to take.
    pub fn measure(
        &self,
        plan: &Plan,
        commit: &str,
        step: &mut dyn FnMut(Step),
    ) -> Result<Entry, Failure> {
        let row = |&way| Row {
            way,
            rounds: Vec::new(),
            failure: None,
        };
        let mut rows: Vec<Row> = self.ways.iter().map(row).collect();
        for number in 1..=plan.rounds {
            for row in &mut rows {
                step(Step::Begins(&format!(
                    "{}  {}  round {number}",
                    self.name,
                    row.way.name()
                )));
                if row.failure.is_none() {
                    match (self.run)(row.way, plan) {
                        Ok(figures) => row.rounds.push(figures),
                        Err(Failure::Broken(text)) => row.failure = Some(text),
                        Err(interrupted) => return Err(interrupted),
                    }
                }
                step(Step::Ended(self.seconds));
            }
        }
        Ok(Entry {
            work: self.work.name().to_owned(),
            case: self.name.clone(),
            x: self.x,
            commit: commit.to_owned(),
            rows,
        })
    }

    /// How long all of it takes, roughly.
    pub fn estimate(&self, rounds: u32) -> f64 {
        self.seconds * self.ways.len() as f64 * f64::from(rounds)
    }
}

/// What a measurement tells while it goes on.
pub enum Step<'a> {
    /// A round begins.
    Begins(&'a str),
    /// A round ended that was expected to take so many seconds.
    Ended(f64),
}
