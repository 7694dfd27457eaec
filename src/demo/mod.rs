//! A prefork chat server on corecast.
//!
//! The master makes the hub, binds one listening socket, starts the router
//! thread and forks the workers ([`supervisor`]). A worker is one process with
//! one core and one single-threaded event loop ([`worker`]) in which the core's
//! file descriptor is registered like any socket. Browsers talk to their worker
//! by WebSocket ([`http`]); workers talk to each other through channels only
//! ([`wire`]). What a worker knows lives in [`hall`], which does no input or
//! output of its own.

mod accept;
mod args;
mod hall;
mod history;
mod http;
mod listen;
mod presence;
mod restart;
mod room;
mod session;
mod supervisor;
mod visitors;
mod wire;
mod worker;

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use corecast::{Config, CreateError, Hub};

pub use args::Args;
use worker::Heritage;

/// Channels the demo's hub can hold: one for each room, an inbox for each
/// worker, and the one on which workers announce who is where.
const CHANNELS: u32 = 4096;

/// Runs the demo until it is told to stop; returns the exit code of the program.
pub fn run(args: &Args) -> ExitCode {
    match serve(args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("corecast: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(args: &Args) -> Result<ExitCode, Box<dyn std::error::Error>> {
    // The port comes first: it is what fails most often, and costs nothing to try.
    let listener = listen::bind(&args.host, args.port)?;
    let signals = supervisor::take_signals()?;
    let heritage = Heritage {
        hub: create_hub(args.workers)?,
        listener,
        made: milliseconds(),
    };
    supervisor::run(heritage, signals)
}

fn milliseconds() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    since_1970.map_or(0, |time| time.as_millis() as u64)
}

fn create_hub(workers: u32) -> Result<Hub, CreateError> {
    let mut config = Config::default();
    config.workers = workers;
    config.channels = CHANNELS;
    Hub::create(&config)
}
