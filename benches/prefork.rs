//! The prefork matrix: one to one, one to many and many to many, between real forked processes,
//! beside a bare relay over Unix stream sockets in the same run.
//!
//! `cargo bench --bench prefork -- --help` lists the choices. Every receiver of every round checks
//! each message's sender, place in its order and content; a round that loses, repeats, swaps or
//! damages one fails the program, a slow one does not. Rounds of the two sides alternate, so that
//! a machine that changes its speed changes both.

mod support {
    pub mod content;
    pub mod crew;
    pub mod figures;
    pub mod frames;
    pub mod hub;
    pub mod machine;
    pub mod matrix;
    pub mod relay;
    pub mod round;
}

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use support::content::{self, GROUP};
use support::crew::{Failure, Signals};
use support::figures::{self, Entry, Row};
use support::hub::{LINGER_US, Settings};
use support::machine::Machine;
use support::matrix::{self, Cell};
use support::round::{self, Plan, Way};

/// Throughput between forked processes: corecast beside a bare Unix-socket relay.
#[derive(Parser)]
#[command(name = "prefork", version)]
struct Args {
    /// Rounds of each way in each cell.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long the senders of a round send.
    #[arg(long, default_value_t = 0.5, value_name = "SECONDS")]
    seconds: f64,
    /// One short round of everything, to see that it works; its figures mean little.
    #[arg(long)]
    quick: bool,
    /// Run only this cell, as in 1x16:1024 (repeatable).
    #[arg(long, value_name = "SENDERSxRECEIVERS:SIZE")]
    only: Vec<Cell>,
    /// Run only these ways.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Way::ALL)]
    way: Vec<Way>,
    /// Messages per call in the rows that use send_many.
    #[arg(long, default_value_t = GROUP as u32, value_parser = clap::value_parser!(u32).range(2..=4096))]
    batch: u32,
    /// Bytes of a lane [default: 1 MiB, 2 MiB for messages of 4 KiB and more].
    #[arg(long)]
    lane_bytes: Option<usize>,
    /// Bytes of one buffer of a queue [default: as for a lane].
    #[arg(long)]
    queue_bytes: Option<usize>,
    /// Bytes of a slab [default: four times those].
    #[arg(long)]
    slab_bytes: Option<usize>,
    /// Microseconds the master polls before it sleeps.
    #[arg(long, default_value_t = 0)]
    spin_us: u64,
    /// Microseconds a receiver waits for more before it sleeps.
    #[arg(long, default_value_t = LINGER_US)]
    linger_us: u64,
    /// Promise only the order of each sender, not one order for all.
    #[arg(long)]
    per_sender: bool,
    /// Leave the timestamps out.
    #[arg(long)]
    no_timestamps: bool,
    /// Use huge pages for queues and arena, where the kernel gives them.
    #[arg(long)]
    huge_pages: bool,
    /// Kill a round that takes longer than this and fail.
    #[arg(long, default_value_t = 20, value_name = "SECONDS")]
    limit: u64,
    /// Write all figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Set by `cargo bench`; without it the program takes itself for a test and is quick.
    #[arg(long, hide = true)]
    bench: bool,
    /// What `cargo bench -- --test` asks of every bench.
    #[arg(long, hide = true)]
    test: bool,
}

impl Args {
    fn is_quick(&self) -> bool {
        self.quick || self.test || !self.bench
    }

    fn plan(&self) -> Plan {
        let seconds = if self.is_quick() { 0.05 } else { self.seconds };
        Plan {
            rounds: if self.is_quick() { 1 } else { self.rounds },
            length: Duration::from_secs_f64(seconds.clamp(0.001, 3600.0)),
            limit: Duration::from_secs_f64(seconds.clamp(0.001, 3600.0))
                + Duration::from_secs(self.limit),
            batch: self.batch as usize,
            settings: Settings {
                lane_bytes: self.lane_bytes,
                queue_bytes: self.queue_bytes,
                slab_bytes: self.slab_bytes,
                spin_us: self.spin_us,
                linger_us: self.linger_us,
                per_sender: self.per_sender,
                huge_pages: self.huge_pages,
                no_timestamps: self.no_timestamps,
            },
        }
    }

    fn cells(&self) -> Vec<Cell> {
        if self.only.is_empty() {
            matrix::standard()
        } else {
            self.only.clone()
        }
    }
}

/// All that a run found, as written by `--json`.
#[derive(Serialize)]
struct Findings {
    machine: Machine,
    plan: Plan,
    cells: Vec<Entry>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(Failure::Interrupted) => {
            eprintln!("prefork: interrupted; no process is left");
            ExitCode::from(130)
        }
        Err(Failure::Broken(text)) => {
            eprintln!("prefork: {text}");
            ExitCode::FAILURE
        }
    }
}

/// Runs every cell; true when all of them passed their checks.
fn run(args: &Args) -> Result<bool, Failure> {
    let signals = Signals::block()?;
    let (plan, cells) = (args.plan(), args.cells());
    for cell in &cells {
        content::prove_checker(cell.size).map_err(Failure::Broken)?;
    }
    let machine = Machine::read();
    println!("{machine}\n{plan}\n\n{}", figures::heading());
    let bar = progress(cells.len() * args.way.len() * plan.rounds as usize);
    let mut entries = Vec::new();
    for cell in cells {
        let entry = measure(cell, args, &plan, &signals, &bar)?;
        bar.suspend(|| print!("{}", figures::lines(&entry)));
        entries.push(entry);
    }
    bar.finish_and_clear();
    let passed = entries.iter().all(|entry| entry.failure.is_none());
    write_json(
        args,
        Findings {
            machine,
            plan,
            cells: entries,
        },
    )?;
    Ok(passed)
}

/// All rounds of one cell, the ways taking turns. A failed round ends its cell, not the run.
fn measure(
    cell: Cell,
    args: &Args,
    plan: &Plan,
    signals: &Signals,
    bar: &ProgressBar,
) -> Result<Entry, Failure> {
    let mut rounds = vec![Vec::new(); args.way.len()];
    let mut failure = None;
    'all: for number in 1..=plan.rounds {
        for (way, rounds) in args.way.iter().zip(&mut rounds) {
            bar.set_message(format!("{cell}  {}  round {number}", way.name(plan.batch)));
            match round::run(*way, cell, plan, signals) {
                Ok(round) => rounds.push(round),
                Err(Failure::Broken(text)) => {
                    failure = Some(format!("{}, round {number}: {text}", way.name(plan.batch)));
                    break 'all;
                }
                Err(interrupted) => return Err(interrupted),
            }
            bar.inc(1);
        }
    }
    let rows = args
        .way
        .iter()
        .zip(rounds)
        .filter(|(_, rounds)| !rounds.is_empty());
    let rows = rows
        .map(|(way, rounds)| Row::new(way.name(plan.batch), rounds))
        .collect();
    let mut entry = Entry {
        cell,
        rows,
        failure,
    };
    entry.compare_with(&Way::Relay.name(plan.batch));
    Ok(entry)
}

/// A bar with the time left; it is drawn on a terminal only.
fn progress(steps: usize) -> ProgressBar {
    let bar = ProgressBar::new(steps as u64);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len}  {eta} left  {msg}");
    bar.set_style(style.expect("the template is well formed"));
    bar
}

fn write_json(args: &Args, findings: Findings) -> Result<(), Failure> {
    let Some(path) = &args.json else {
        return Ok(());
    };
    let text = serde_json::to_string_pretty(&findings)
        .map_err(|error| Failure::Broken(error.to_string()))?;
    std::fs::write(path, text + "\n")
        .map_err(|error| Failure::Broken(format!("{}: {error}", path.display())))
}
