//! The region of a hub, seen from outside: through procfs.

use std::sync::atomic::AtomicU64;

const NAME: &str = "memfd:corecast";

fn lines() -> Vec<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("procfs");
    let ours = maps.lines().filter(|line| line.contains(NAME));
    ours.map(str::to_owned).collect()
}

/// How many parts of regions this process has mapped.
pub fn mappings() -> usize {
    lines().len()
}

/// The first words of the only region.
pub fn header() -> &'static [AtomicU64] {
    let lines = lines();
    let first = |line: &&String| line.contains("corecast-router");
    assert_eq!(lines.iter().filter(first).count(), 1);
    let start = lines[0].split('-').next().expect("an address");
    let start = usize::from_str_radix(start, 16).expect("a number");
    // SAFETY: the start of a mapping that is longer than that; the caller keeps the hub.
    unsafe { std::slice::from_raw_parts(start as *const AtomicU64, 3) }
}

/// Bytes of shared memory in use on this machine.
pub fn shared_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").expect("procfs");
    let line = text.lines().find(|line| line.starts_with("Shmem:"));
    let kib = line.and_then(|line| line.split_ascii_whitespace().nth(1));
    kib.expect("a field").parse::<u64>().expect("a number") * 1024
}
