//! What of the region this process has mapped, as procfs tells it.

use std::ops::Range;

/// A mapping of ours: its name, its addresses, whether it can be written.
fn mappings() -> Vec<(String, Range<usize>, bool)> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("procfs");
    maps.lines().filter_map(parse).collect()
}

fn parse(line: &str) -> Option<(String, Range<usize>, bool)> {
    let name = line.split("/memfd:").nth(1)?;
    let name = name.trim_end_matches(" (deleted)");
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let rights = fields.next()?;
    let at = |text| usize::from_str_radix(text, 16).ok();
    let ours = name.starts_with("corecast");
    ours.then_some((name.to_owned(), at(start)?..at(end)?, rights.contains('w')))
}

/// Names of all parts that are mapped, in the order of their addresses.
pub fn all() -> Vec<String> {
    mappings().into_iter().map(|(name, ..)| name).collect()
}

/// Names of those that can be written.
pub fn writable() -> Vec<String> {
    let writable = mappings().into_iter().filter(|(.., can)| *can);
    writable.map(|(name, ..)| name).collect()
}

/// Names and addresses of all parts.
pub fn ranges() -> Vec<(String, Range<usize>)> {
    mappings()
        .into_iter()
        .map(|(name, at, _)| (name, at))
        .collect()
}

/// Addresses of those that can be written.
pub fn writable_ranges() -> Vec<Range<usize>> {
    let writable = mappings().into_iter().filter(|(.., can)| *can);
    writable.map(|(_, at, _)| at).collect()
}
