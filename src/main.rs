//! The `corecast` program: a launcher for servers that spawn or exec their workers, and a prefork
//! chat server that shows the hub at work.

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
    /// Start a server whose processes find a hub, though they do not inherit it.
    Run(corecast::launch::Options),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Demo(args) => demo::run(&args),
        Command::Run(options) => ExitCode::from(corecast::launch::run(&options)),
    }
}
