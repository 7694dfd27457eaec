//! The `corecast` program: a prefork chat server that shows the hub at work.

mod demo;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Shared-memory publish/subscribe between the workers of a prefork server.
#[derive(Parser)]
#[command(name = "corecast", version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve a chat from forked workers that talk through one hub.
    Demo(demo::Args),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Demo(args) => demo::run(&args),
    }
}
