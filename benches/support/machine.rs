//! What a figure was measured on: processor, kernel, memory and commit.
//!
//! Every bench prints this first, because a number without it cannot be compared.

use std::fmt;
use std::fs;
use std::process::Command;

use serde::Serialize;

/// The machine and the state of the source that a run measures.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Model name of the first processor.
    pub cpu: String,
    /// Processors this process may run on.
    pub cpus: usize,
    /// Kernel name and release.
    pub kernel: String,
    /// Memory in GiB, rounded.
    pub memory_gib: u64,
    /// Load average of the last minute before the run: what else was busy.
    pub load: f32,
    /// Short commit id, with `+` when the tree has changes; `unknown` outside a checkout.
    pub commit: String,
}

impl Machine {
    /// Reads `/proc` and asks git; whatever cannot be found is `unknown`.
    pub fn read() -> Machine {
        Machine {
            cpu: cpu_model().unwrap_or_else(unknown),
            cpus: std::thread::available_parallelism().map_or(0, |n| n.get()),
            kernel: kernel(),
            memory_gib: memory_gib().unwrap_or(0),
            load: load().unwrap_or(f32::NAN),
            commit: commit().unwrap_or_else(unknown),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "machine  {}, {} cpus, {} GiB",
            self.cpu, self.cpus, self.memory_gib
        )?;
        write!(
            f,
            "kernel   {}, load {:.2}, commit {}",
            self.kernel, self.load, self.commit
        )
    }
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn cpu_model() -> Option<String> {
    field(&fs::read_to_string("/proc/cpuinfo").ok()?, "model name")
}

fn memory_gib() -> Option<u64> {
    let total = field(&fs::read_to_string("/proc/meminfo").ok()?, "MemTotal")?;
    let kib: u64 = total.split_whitespace().next()?.parse().ok()?;
    Some((kib + (1 << 19)) >> 20)
}

/// Value of the first `key : value` line of a `/proc` file.
fn field(text: &str, key: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| unknown(), |release| format!("Linux {}", release.trim()))
}

fn load() -> Option<f32> {
    fs::read_to_string("/proc/loadavg")
        .ok()?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

fn commit() -> Option<String> {
    let id = git(&["rev-parse", "--short", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(if changed.is_empty() { id } else { id + "+" })
}

fn git(args: &[&str]) -> Option<String> {
    let out = Command::new("git")
        .args(["-C", env!("CARGO_MANIFEST_DIR")])
        .args(args)
        .output()
        .ok()?;
    out.status
        .success()
        .then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
}
