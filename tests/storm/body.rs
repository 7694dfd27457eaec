//! Message bodies that tell whether they arrived whole.

use std::sync::OnceLock;

use super::super::common::Rng;
use super::log::Id;

/// Bytes of the largest body.
pub const LARGEST: usize = 100 << 10;
/// Bytes of the smallest: just the header.
pub const SMALLEST: usize = 16;

/// Noise that bodies are cut from, so that checking one is a comparison of two slices.
fn noise() -> &'static [u8] {
    static NOISE: OnceLock<Vec<u8>> = OnceLock::new();
    NOISE.get_or_init(|| {
        let mut rng = Rng::new(4711);
        (0..2 * LARGEST).map(|_| rng.next() as u8).collect()
    })
}

/// Makes the noise; before fork, so that no child has to.
pub fn prepare() {
    noise();
}

fn header(id: Id, len: usize) -> [u8; SMALLEST] {
    let who = u64::from(id.slot) << 48 | u64::from(id.incarnation) << 32 | len as u64;
    let check = (who ^ u64::from(id.seq)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let what = check << 32 | u64::from(id.seq);
    let mut bytes = [0; SMALLEST];
    bytes[..8].copy_from_slice(&who.to_le_bytes());
    bytes[8..].copy_from_slice(&what.to_le_bytes());
    bytes
}

fn filling(header: [u8; SMALLEST], len: usize) -> &'static [u8] {
    let at = usize::from(u16::from_le_bytes([header[12], header[13]])) % LARGEST;
    &noise()[at..at + len]
}

/// The body of message `id`, `len` bytes (at least [`SMALLEST`]).
pub fn write(id: Id, len: usize, into: &mut Vec<u8>) {
    let header = header(id, len);
    into.clear();
    into.extend_from_slice(&header);
    into.extend_from_slice(filling(header, len - SMALLEST));
}

/// Which message this is; None if it is not exactly as [`write`] made it.
pub fn read(body: &[u8]) -> Option<Id> {
    let word = |at: usize| Some(u64::from_le_bytes(body.get(at..at + 8)?.try_into().ok()?));
    let (who, what) = (word(0)?, word(8)?);
    let id = Id {
        slot: (who >> 48) as u32,
        incarnation: (who >> 32 & 0xffff) as u32,
        seq: what as u32,
    };
    let header = header(id, body.len());
    let is_whole =
        body[..SMALLEST] == header && body[SMALLEST..] == *filling(header, body.len() - SMALLEST);
    is_whole.then_some(id)
}
