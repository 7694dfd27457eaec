//! The command line of `corecast run`.

use std::ffi::OsString;

use clap::{Parser, ValueEnum, value_parser};

use crate::config::{Config, Order, Overflow};

/// Options of `corecast run`.
#[derive(Parser, Clone, Debug)]
#[command(
    after_help = "Example:\n  corecast run -- uvicorn app:app --workers 4\n\n\
The command's processes find the hub's socket in CORECAST_SOCKET. SIGHUP, SIGINT, SIGQUIT,\n\
SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH, SIGTTIN and SIGTTOU are passed on to it. The exit code is the\n\
command's own, 128 and the number of the signal that ended it, 127 if it was not found, or 126\n\
if it could not be started."
)]
pub struct Options {
    /// Processes that can be attached at a time: the workers, those that replace them in a
    /// reload, and helpers
    #[arg(short, long, value_name = "N", default_value_t = 16, value_parser = value_parser!(u32).range(1..))]
    pub workers: u32,

    /// Threads or event loops of a process that can have a core each
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = value_parser!(u32).range(1..))]
    pub cores: u32,

    /// Channels that can be in use at a time
    #[arg(long, value_name = "N", default_value_t = Config::default().channels)]
    pub channels: u32,

    /// Unread bytes kept for each core; memory is taken as it is used
    #[arg(long, value_name = "BYTES", default_value = "4M", value_parser = bytes)]
    pub queue_bytes: usize,

    /// Bytes a core may have sent ahead of the master
    #[arg(long, value_name = "BYTES", default_value = "256k", value_parser = bytes)]
    pub lane_bytes: usize,

    /// Bytes for messages that several cores read in one place; 0: each gets a copy
    #[arg(long, value_name = "BYTES", default_value = "8M", value_parser = bytes)]
    pub arena_bytes: usize,

    /// Bytes of each core for messages over 4 KiB, which are read where it wrote them; 0: they are copied
    #[arg(long, value_name = "BYTES", default_value = "2M", value_parser = bytes)]
    pub slab_bytes: usize,

    /// Huge pages for queues and arena, where the kernel gives them (shmem_enabled: advise)
    #[arg(long)]
    pub huge_pages: bool,

    /// Bytes of the longest message
    #[arg(long, value_name = "BYTES", default_value = "1M", value_parser = bytes)]
    pub max_message: usize,

    /// What happens to a message for a core whose queue is full
    #[arg(long, value_name = "HOW", default_value = "drop-newest")]
    pub overflow: OverflowChoice,

    /// Which order receivers can rely on
    #[arg(long, value_name = "WHICH", default_value = "total")]
    pub order: OrderChoice,

    /// The hub's socket: @NAME in the abstract namespace, or a path; by default a name that nobody
    /// can guess
    #[arg(long, value_name = "NAME")]
    pub socket: Option<String>,

    /// The command and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true)]
    pub command: Vec<OsString>,
}

/// `--overflow`
#[derive(ValueEnum, Clone, Copy, Debug)]
pub enum OverflowChoice {
    /// The new message is lost to that core, and counted
    DropNewest,
    /// Its unread ones are
    DropOldest,
    /// Senders wait
    Block,
}

/// `--order`
#[derive(ValueEnum, Clone, Copy, Debug)]
pub enum OrderChoice {
    /// One for all
    Total,
    /// One for each sender
    PerSender,
}

impl Options {
    /// The hub's configuration.
    pub fn config(&self) -> Config {
        Config {
            workers: self.workers,
            cores: self.cores,
            extra: 0,
            channels: self.channels,
            queue_bytes: self.queue_bytes,
            lane_bytes: self.lane_bytes,
            arena_bytes: self.arena_bytes,
            slab_bytes: self.slab_bytes,
            huge_pages: self.huge_pages,
            max_message: self.max_message,
            overflow: match self.overflow {
                OverflowChoice::DropNewest => Overflow::DropNewest,
                OverflowChoice::DropOldest => Overflow::DropOldest,
                OverflowChoice::Block => Overflow::Block,
            },
            order: match self.order {
                OrderChoice::Total => Order::Total,
                OrderChoice::PerSender => Order::PerSender,
            },
            ..Config::default()
        }
    }
}

/// 100, 64k, 4M, 1G.
fn bytes(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        _ => return Err("expected a number, or one with k, M or G behind it".into()),
    };
    let number: usize = digits.parse().map_err(|e| format!("{e}"))?;
    number.checked_mul(1 << shift).ok_or("too large".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_may_have_a_unit() {
        assert_eq!(bytes("100"), Ok(100));
        assert_eq!(bytes("64k"), Ok(64 << 10));
        assert_eq!(bytes("4M"), Ok(4 << 20));
        assert_eq!(bytes("1G"), Ok(1 << 30));
        for text in ["", "k", "-1", "4T", "4MM", "99999999999G"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_command_keeps_its_own_options() {
        let words = ["run", "-w", "3", "--", "server", "--workers", "9", "-w"];
        let options = Options::try_parse_from(words).expect("parses");
        assert_eq!((options.workers, options.command.len()), (3, 4));
        let words = ["run", "server", "--workers", "9"];
        let options = Options::try_parse_from(words).expect("without the dashes too");
        assert_eq!((options.workers, options.command.len()), (16, 3));
        assert!(Options::try_parse_from(["run", "--workers", "9"]).is_err());
    }
}
