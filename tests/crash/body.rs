//! What the messages of these tests say: who sent them, as which of its messages, and what the
//! sender knew when its send began; the rest is a pattern that no other message has.
//!
//! ```text
//! | number << 1 | who   8 | floor | MAGIC   8 | pattern ... |
//! ```

/// Bytes of the smallest message.
pub const LEAST: usize = 16;

/// In the upper half of the floor, so that no message looks like a counter.
const MAGIC: u64 = 0x5afe_c0de << 32;

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Peer,
    Victim,
}

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    pub who: Who,
    /// Counts the sender's messages from 0.
    pub number: u64,
    /// So many sends of the other one had returned when this one began.
    pub floor: u64,
}

impl Said {
    /// The message, `len` bytes.
    pub fn bytes(self, len: usize) -> Vec<u8> {
        let key = self.key();
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(&key.to_le_bytes());
        bytes.extend_from_slice(&(self.floor | MAGIC).to_le_bytes());
        bytes.extend((LEAST..len).map(|i| pattern(key, i)));
        bytes
    }

    /// What `bytes` say; None when they are not a whole message of anybody.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| {
            let bytes: [u8; 8] = bytes.get(at..at + 8)?.try_into().ok()?;
            Some(u64::from_le_bytes(bytes))
        };
        let (key, floor) = (word(0)?, word(8)?);
        let rest = bytes[LEAST..].iter().zip(LEAST..);
        rest.fold(floor & MAGIC == MAGIC, |ok, (&byte, i)| {
            ok & (byte == pattern(key, i))
        })
        .then_some(Self {
            who: if key & 1 == 1 { Who::Victim } else { Who::Peer },
            number: key >> 1,
            floor: floor & !MAGIC,
        })
    }

    fn key(self) -> u64 {
        self.number << 1 | u64::from(self.who == Who::Victim)
    }
}

fn pattern(key: u64, i: usize) -> u8 {
    (key as usize).wrapping_mul(31).wrapping_add(i * 7) as u8 ^ 0xa5
}
