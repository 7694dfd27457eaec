//! The adversary: decides, before each load from hostile memory, what the load finds.

use std::cell::{Cell, RefCell};
use std::ops::Range;

/// A stretch of memory that the hostile can write.
#[derive(Clone, Debug)]
pub struct Part {
    pub bytes: Range<usize>,
    pub is: Kind,
}

/// What lies there: what it is worth lying about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Records: headers and payloads.
    Ring,
    /// A single shared word.
    Word,
}

/// More loads than any step, however unlucky, needs: beyond it the router runs in circles.
const ENDLESS: u64 = 200_000;
/// Loads before which the adversary acts: below this much of a byte's range it does not.
const HONEST: u8 = 160;

#[derive(Debug, Default)]
struct Adversary {
    parts: Vec<Part>,
    lies: Vec<u8>,
    at: usize,
    /// Words seen lately, to be shown again.
    seen: [u64; 8],
    loads: u64,
}

thread_local! {
    static ACTIVE: Cell<bool> = const { Cell::new(false) };
    static ADVERSARY: RefCell<Adversary> = RefCell::default();
}

/// From now on, within [`watched`], loads from `parts` find what `lies` says, over and over.
pub fn begin(parts: Vec<Part>, lies: &[u8]) {
    ADVERSARY.set(Adversary {
        parts,
        lies: if lies.is_empty() {
            vec![0]
        } else {
            lies.to_vec()
        },
        ..Adversary::default()
    });
}

/// No more lies.
pub fn end() {
    ADVERSARY.with_borrow_mut(|a| a.lies = vec![0]);
}

/// Runs a piece of the router under attack.
pub fn watched<T>(act: impl FnOnce() -> T) -> T {
    ADVERSARY.with_borrow_mut(|a| a.loads = 0);
    ACTIVE.set(true);
    let result = act();
    ACTIVE.set(false);
    result
}

/// Stands before each load; see `words.rs`.
pub fn hook(at: *const u8, len: usize) {
    if ACTIVE.get() {
        ADVERSARY.with_borrow_mut(|a| a.before_load(at, len));
    }
}

impl Adversary {
    fn before_load(&mut self, at: *const u8, len: usize) {
        let start = at.addr();
        let Some(part) = self.parts.iter().find(|p| p.bytes.contains(&start)) else {
            return;
        };
        let is = part.is;
        assert!(len <= part.bytes.end - start, "a read leaves its part");
        self.loads += 1;
        assert!(self.loads < ENDLESS, "the router runs in circles");
        if len == 0 {
            return;
        }
        // SAFETY: in the part, which is mapped and writable; this thread alone runs.
        let bytes = unsafe { std::slice::from_raw_parts_mut(at.cast_mut(), len) };
        match (is, len) {
            (Kind::Word, _) => self.word(bytes),
            (Kind::Ring, 8 | 16) => self.header(bytes),
            (Kind::Ring, _) => self.payload(bytes),
        }
    }

    fn byte(&mut self) -> u8 {
        let byte = self.lies[self.at % self.lies.len()];
        self.at = (self.at + 1) % self.lies.len();
        byte
    }

    fn number(&mut self, bytes: u32) -> u64 {
        (0..bytes).fold(0, |n, _| n << 8 | u64::from(self.byte()))
    }

    /// A shared word, or a half of a header.
    fn word(&mut self, bytes: &mut [u8]) {
        let old = u64::from_le_bytes((*bytes).try_into().expect("a word"));
        let act = self.byte();
        let new = match act {
            0..HONEST => old,
            HONEST..184 => old ^ 1 << (self.byte() & 63),
            184..200 => old.wrapping_add((i64::from(self.byte() as i8) * 16) as u64),
            200..208 => old.wrapping_add((i64::from(self.number(2) as i16) * 16) as u64),
            208..216 => u64::from(self.byte()).wrapping_neg(),
            216..232 => self.seen[usize::from(self.byte() & 7)],
            232..244 => old & !0xffff_ffff | u64::from(std::process::id()) << (act & 1),
            _ => self.number(8),
        };
        self.seen[(self.at ^ self.loads as usize) & 7] = old;
        bytes.copy_from_slice(&new.to_le_bytes());
    }

    /// A record's header, or what is as long as one.
    fn header(&mut self, bytes: &mut [u8]) {
        let act = self.byte();
        if act < HONEST {
            return;
        }
        let at = usize::from(self.byte()) % bytes.len();
        match act {
            HONEST..192 => self.word(&mut bytes[at & 8..][..8]),
            192..208 => self.overwrite(bytes, at, 1),
            208..224 => self.overwrite(bytes, at, 2),
            224..240 => self.overwrite(bytes, at, 4),
            _ => self.overwrite(bytes, 0, 16),
        }
    }

    fn payload(&mut self, bytes: &mut [u8]) {
        let act = self.byte();
        if act < HONEST {
            return;
        }
        let at = usize::from(self.byte()) % bytes.len();
        self.overwrite(bytes, at, if act < 224 { 1 } else { 8 });
    }

    fn overwrite(&mut self, bytes: &mut [u8], at: usize, len: usize) {
        for byte in bytes.iter_mut().skip(at).take(len) {
            *byte = self.byte();
        }
    }
}
