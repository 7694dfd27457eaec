//! The command line of `corecast demo`.

use clap::{Parser, value_parser};

/// Options of `corecast demo`.
#[derive(Parser, Debug)]
#[command(
    after_help = "Open the printed address in two windows: they are served by different \
worker processes.\nCtrl-C ends everything; a second Ctrl-C does not wait for the workers."
)]
pub struct Args {
    /// Worker processes to fork
    #[arg(short, long, value_name = "N", default_value_t = 4, value_parser = value_parser!(u32).range(1..=64))]
    pub workers: u32,

    /// TCP port to listen on; 0 picks a free one
    #[arg(short, long, value_name = "P", default_value_t = 8080)]
    pub port: u16,

    /// Address to listen on; anybody who can reach it can chat and kill workers
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1")]
    pub host: String,
}
