//! What runs found: written as JSON, read again, put together.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::support::crew::Failure;
use crate::support::figures::Spread;
use crate::support::machine::Machine;
use crate::way::Way;

/// Everything one round measured, by name; names say the unit.
pub type Figures = BTreeMap<String, f64>;

/// All rounds of one way in one case.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The way.
    pub way: Way,
    /// Its rounds, in their order.
    pub rounds: Vec<Figures>,
    /// Why there are fewer rounds than planned, if so.
    pub failure: Option<String>,
}

impl Row {
    /// Lowest, middle and highest of one figure.
    pub fn spread(&self, figure: &str) -> Option<Spread> {
        let values: Vec<f64> = self
            .rounds
            .iter()
            .filter_map(|round| round.get(figure).copied())
            .collect();
        (!values.is_empty()).then(|| Spread::of(values))
    }

    /// Middle value of one figure.
    pub fn median(&self, figure: &str) -> Option<f64> {
        self.spread(figure).map(|spread| spread.median)
    }
}

/// One case, measured in one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// The group of work.
    pub work: String,
    /// Which case of it.
    pub case: String,
    /// Where it stands on the horizontal axis of a chart, if anywhere.
    pub x: Option<f64>,
    /// Commit that was measured.
    pub commit: String,
    /// The ways that took turns.
    pub rows: Vec<Row>,
}

impl Entry {
    /// The row of `way`, if it has rounds.
    pub fn row(&self, way: Way) -> Option<&Row> {
        self.rows
            .iter()
            .find(|row| row.way == way && !row.rounds.is_empty())
    }

    /// The rows that are corecast's.
    pub fn own_ways(&self) -> Vec<Way> {
        let ways = self.rows.iter().map(|row| row.way);
        ways.filter(|way| way.is_own()).collect()
    }

    /// Middle value of a figure of `way`.
    pub fn median(&self, way: Way, figure: &str) -> Option<f64> {
        self.row(way)?.median(figure)
    }

    /// `figure` of `way` over that of `other`, round by round: rounds of one number ran next to
    /// each other, so what slowed both does not show.
    pub fn ratio(&self, way: Way, other: Way, figure: &str) -> Option<Spread> {
        let (one, two) = (self.row(way)?, self.row(other)?);
        let pairs = one.rounds.iter().zip(&two.rounds);
        let ratios: Vec<f64> = pairs
            .filter_map(|(a, b)| Some(a.get(figure)? / b.get(figure)?))
            .collect();
        (!ratios.is_empty()).then(|| Spread::of(ratios))
    }
}

/// The whole of one or more runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Findings {
    /// The machine, as the last run saw it.
    pub machine: Seen,
    /// Every case, in the order in which they were measured first.
    pub entries: Vec<Entry>,
}

/// A machine and a commit.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Seen {
    /// Processor.
    pub cpu: String,
    /// How many.
    pub cpus: usize,
    /// Kernel.
    pub kernel: String,
    /// Memory, GiB.
    pub memory_gib: u64,
    /// Short commit id.
    pub commit: String,
}

impl From<&Machine> for Seen {
    fn from(machine: &Machine) -> Seen {
        Seen {
            cpu: machine.cpu.clone(),
            cpus: machine.cpus,
            kernel: machine.kernel.clone(),
            memory_gib: machine.memory_gib,
            commit: machine.commit.clone(),
        }
    }
}

impl Findings {
    /// Reads what [`Findings::write`] wrote.
    pub fn read(path: &Path) -> Result<Findings, Failure> {
        let broken =
            |error: &dyn std::fmt::Display| Failure::Broken(format!("{}: {error}", path.display()));
        let text = fs::read_to_string(path).map_err(|error| broken(&error))?;
        serde_json::from_str(&text).map_err(|error| broken(&error))
    }

    /// Writes everything as JSON.
    pub fn write(&self, path: &Path) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| Failure::Broken(error.to_string()))?;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, text + "\n")
            .map_err(|error| Failure::Broken(format!("{}: {error}", path.display())))
    }

    /// Takes over what `other` has; a case that both have comes from `other`, whole, because ratios
    /// hold within one run only.
    pub fn absorb(&mut self, other: Findings) {
        self.machine = other.machine;
        for entry in other.entries {
            let same = |old: &Entry| old.work == entry.work && old.case == entry.case;
            match self.entries.iter().position(same) {
                Some(at) => self.entries[at] = entry,
                None => self.entries.push(entry),
            }
        }
    }

    /// The case of that name.
    pub fn entry(&self, work: &str, case: &str) -> Option<&Entry> {
        self.entries
            .iter()
            .find(|entry| entry.work == work && entry.case == case)
    }

    /// All cases of one group of work.
    pub fn of(&self, work: &str) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.work == work)
    }
}
