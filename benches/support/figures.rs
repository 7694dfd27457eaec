//! Figures of the matrix: what a round gave, what several rounds give, and the table of them.

use std::fmt::Write as _;

use serde::Serialize;

use super::matrix::Cell;

/// Seconds over its time from which a round is taken to have stood still: what lanes, queues and
/// sockets hold is delivered in a few milliseconds.
const LATE: f64 = 0.5;

/// What one round measured.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// Messages sent.
    pub published: u64,
    /// Messages received and checked, by all receivers together.
    pub deliveries: u64,
    /// From the gate's opening until the last receiver had its last message.
    pub seconds: f64,
    /// How long it took beyond the time in which senders send.
    pub late_seconds: f64,
    /// Processor time of all processes.
    pub cpu_seconds: f64,
    /// Of that, the senders'.
    pub sender_cpu_seconds: f64,
    /// System calls that move, wait or wake, as far as they are counted.
    pub calls: u64,
    /// Eventfd writes; the relay has none.
    pub wakes: Option<u64>,
    /// Voluntary context switches of all processes: how often somebody went to sleep.
    pub sleeps: u64,
}

impl Round {
    fn published_rate(&self) -> f64 {
        self.published as f64 / self.seconds
    }

    fn delivery_rate(&self) -> f64 {
        self.deliveries as f64 / self.seconds
    }

    fn cpu_ns(&self) -> f64 {
        self.cpu_seconds * 1e9 / self.deliveries as f64
    }

    fn per_message(&self, count: f64) -> f64 {
        count / self.published as f64
    }
}

/// Lowest, middle and highest of several rounds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Spread {
    /// Lowest value.
    pub min: f64,
    /// Middle value; the mean of the two middle ones of an even number.
    pub median: f64,
    /// Highest value.
    pub max: f64,
}

impl Spread {
    /// Of at least one value.
    pub fn of(mut values: Vec<f64>) -> Spread {
        values.sort_by(f64::total_cmp);
        let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Spread {
            min: values[0],
            median: (low + high) / 2.0,
            max: values[values.len() - 1],
        }
    }
}

/// All rounds of one way in one cell.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// `corecast`, `corecast x64` or `relay`.
    pub way: String,
    /// Messages published per second.
    pub published: Spread,
    /// Deliveries per second.
    pub deliveries: Spread,
    /// Processor nanoseconds of all processes per delivery.
    pub cpu_ns: Spread,
    /// Median throughput of this row over that of the relay.
    pub ratio: Option<f64>,
    /// Median processor time per delivery of the relay over that of this row: what another load on
    /// the machine disturbs less.
    pub cpu_ratio: Option<f64>,
    /// The rounds, in their order.
    pub rounds: Vec<Round>,
}

impl Row {
    /// Of at least one round.
    pub fn new(way: String, rounds: Vec<Round>) -> Row {
        Row {
            way,
            published: Spread::of(rounds.iter().map(Round::published_rate).collect()),
            deliveries: Spread::of(rounds.iter().map(Round::delivery_rate).collect()),
            cpu_ns: Spread::of(rounds.iter().map(Round::cpu_ns).collect()),
            ratio: None,
            cpu_ratio: None,
            rounds,
        }
    }

    fn late_rounds(&self) -> usize {
        let late = |round: &&Round| round.late_seconds > LATE;
        self.rounds.iter().filter(late).count()
    }

    fn median(&self, of: impl Fn(&Round) -> f64) -> f64 {
        Spread::of(self.rounds.iter().map(of).collect()).median
    }
}

/// A cell with what was measured in it.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// The cell.
    #[serde(flatten)]
    pub cell: Cell,
    /// One row per way.
    pub rows: Vec<Row>,
    /// Why the cell has no figures, if it has none.
    pub failure: Option<String>,
}

impl Entry {
    /// Sets each row's ratios to the floor's row, if that was run.
    pub fn compare_with(&mut self, floor: &str) {
        let floor_row = self.rows.iter().find(|row| row.way == floor);
        let Some(base) = floor_row.map(|row| (row.published.median, row.cpu_ns.median)) else {
            return;
        };
        for row in self.rows.iter_mut().filter(|row| row.way != floor) {
            row.ratio = Some(row.published.median / base.0);
            row.cpu_ratio = Some(base.1 / row.cpu_ns.median);
        }
    }
}

/// Columns of the table: two lines of heading, and the width.
const COLUMNS: [(&str, &str, usize); 11] = [
    ("", "cell", 13),
    ("", "way", 13),
    ("published/s", "min / median / max", 24),
    ("deliveries/s", "min / median / max", 24),
    ("", "ratio", 8),
    ("ns CPU", "/deliv.", 9),
    ("", "ratio", 8),
    ("", "CPUs", 6),
    ("wakes", "/msg", 8),
    ("calls", "/msg", 8),
    ("sleeps", "/msg", 8),
];

/// Heading of the table that [`lines`] fills.
///
/// The first ratio is of throughput, the second of processor time; both are better above 1. `CPUs`
/// is how many processors a round kept busy: less than the machine has means waiting, or another
/// load beside this one. `calls` are system calls that move, wait or wake, as far as they are
/// counted; `sleeps` are voluntary context switches of all processes.
pub fn heading() -> String {
    let above = COLUMNS.map(|(above, _, _)| above.to_owned());
    let below = COLUMNS.map(|(_, below, _)| below.to_owned());
    format!("{}\n{}", columns(&above), columns(&below))
}

/// The rows of one cell, one line each.
pub fn lines(entry: &Entry) -> String {
    let mut out = String::new();
    let mut cell = entry.cell.to_string();
    for row in &entry.rows {
        let _ = writeln!(out, "{}", line(std::mem::take(&mut cell), row));
    }
    for row in entry.rows.iter().filter(|row| row.late_rounds() > 0) {
        let (late, of) = (row.late_rounds(), row.rounds.len());
        let text = format!("note: {}: {late} of {of} rounds stood still", row.way);
        let _ = writeln!(out, "{:13}{text}", "");
    }
    if let Some(failure) = &entry.failure {
        let _ = writeln!(out, "{cell:<13}FAILED: {failure}");
    }
    out
}

fn line(cell: String, row: &Row) -> String {
    let per_message = |count: fn(&Round) -> u64| {
        small(row.median(|round| round.per_message(count(round) as f64)))
    };
    let wakes = row.rounds[0]
        .wakes
        .map(|_| per_message(|round| round.wakes.unwrap_or(0)));
    columns(&[
        cell,
        row.way.clone(),
        spread(row.published),
        spread(row.deliveries),
        ratio(row.ratio),
        format!("{:.1}", row.cpu_ns.median),
        ratio(row.cpu_ratio),
        format!(
            "{:.2}",
            row.median(|round| round.cpu_seconds / round.seconds)
        ),
        wakes.unwrap_or("-".to_owned()),
        per_message(|round| round.calls),
        per_message(|round| round.sleeps),
    ])
}

fn ratio(value: Option<f64>) -> String {
    value.map_or(String::new(), |value| format!("{value:.2} x"))
}

/// Names to the left, figures to the right.
fn columns(texts: &[String; COLUMNS.len()]) -> String {
    let mut out = String::new();
    for (index, (text, (_, _, width))) in texts.iter().zip(COLUMNS).enumerate() {
        let _ = match index {
            0 | 1 => write!(out, "{text:<width$}"),
            _ => write!(out, "{text:>width$}"),
        };
    }
    out
}

fn spread(rates: Spread) -> String {
    format!(
        "{} / {} / {}",
        rate(rates.min),
        rate(rates.median),
        rate(rates.max)
    )
}

fn rate(value: f64) -> String {
    match value {
        v if v >= 99.95e6 => format!("{:.0}M", v / 1e6),
        v if v >= 9.995e6 => format!("{:.1}M", v / 1e6),
        v if v >= 0.9995e6 => format!("{:.2}M", v / 1e6),
        v if v >= 99.95e3 => format!("{:.0}k", v / 1e3),
        v => format!("{:.1}k", v / 1e3),
    }
}

fn small(value: f64) -> String {
    match value {
        v if v >= 0.0995 => format!("{v:.2}"),
        v if v >= 0.000_05 => format!("{v:.4}"),
        _ => "0".to_owned(),
    }
}
