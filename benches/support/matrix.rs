//! The cells of the matrix, and their names on the command line.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// Who sends to how many, and how much: one square of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Cell {
    /// Sending processes.
    pub senders: u32,
    /// Receiving processes; each gets every message.
    pub receivers: u32,
    /// Bytes of a body.
    pub size: usize,
}

/// Fan-outs of the standard matrix, as (senders, receivers).
const FANS: [(u32, u32); 4] = [(1, 1), (1, 4), (1, 16), (4, 4)];
/// Body sizes of the standard matrix.
const SIZES: [usize; 3] = [16, 1024, 65_536];
/// Largest body a cell may ask for.
const LARGEST: usize = 1 << 20;

/// The standard matrix, small messages first.
pub fn standard() -> Vec<Cell> {
    with_fans(&FANS)
}

/// All standard body sizes, small ones first, with these fan-outs.
pub fn with_fans(fans: &[(u32, u32)]) -> Vec<Cell> {
    let of_size = |size| {
        fans.iter().map(move |&(senders, receivers)| Cell {
            senders,
            receivers,
            size,
        })
    };
    SIZES.into_iter().flat_map(of_size).collect()
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}→{} {}", self.senders, self.receivers, bytes(self.size));
        f.pad(&text)
    }
}

/// A size as people write it.
pub fn bytes(count: usize) -> String {
    let units = [(1 << 20, "MiB"), (1 << 10, "KiB")];
    match units
        .iter()
        .find(|(unit, _)| count >= *unit && count & (unit - 1) == 0)
    {
        Some((unit, name)) => format!("{} {name}", count / unit),
        None => format!("{count} B"),
    }
}

impl FromStr for Cell {
    type Err = String;

    /// Reads `SENDERSxRECEIVERS:SIZE`, as in `1x16:1024`.
    fn from_str(text: &str) -> Result<Cell, String> {
        let cell = parse(text).ok_or("expected SENDERSxRECEIVERS:SIZE, as in 1x16:1024")?;
        match cell {
            _ if !(1..=255).contains(&cell.senders) || !(1..=1000).contains(&cell.receivers) => {
                Err("1 to 255 senders and 1 to 1000 receivers are possible".to_owned())
            }
            _ if cell.size & 7 != 0 || !(16..=LARGEST).contains(&cell.size) => Err(format!(
                "the size must be a multiple of 8 from 16 to {LARGEST}"
            )),
            cell => Ok(cell),
        }
    }
}

fn parse(text: &str) -> Option<Cell> {
    let (fan, size) = text.split_once(':')?;
    let (senders, receivers) = fan.split_once('x')?;
    Some(Cell {
        senders: senders.parse().ok()?,
        receivers: receivers.parse().ok()?,
        size: size.parse().ok()?,
    })
}
