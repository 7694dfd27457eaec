//! The directory: channel names, their dense indices and generations.
//!
//! An open-addressing hash table of indices over an array of entries, in the region. The router
//! alone writes it; cores look names up while it does. A core's lookup may miss a name that is
//! there (the router moves table entries when it removes one): the sender then sends the name
//! along and the router resolves it. A lookup never returns a wrong channel: the entry's state is
//! read before and after the name.
//!
//! A channel with no subscriber and no open handle is recycled at once, last in first out, with
//! a new generation; memory follows the number of channels in use, not of names ever seen.

use std::hash::Hasher;
use std::ptr::NonNull;

use siphasher::sip::SipHasher13;

use crate::error::NameError;
use crate::memory::{Block, Memory};
use crate::record::NAME_MAX;
use crate::region::Shared;
use crate::shared::{Entry, NAME_WORDS};
use crate::sync::{AtomicU32, Ordering, fence};

/// A channel: its dense index, and how often that index has been given out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelId {
    /// Index, below the hub's number of channels.
    pub index: u32,
    /// Generation of the index, from 1.
    pub generation: u32,
}

/// Checks that `name` can be a channel name: 1 to 255 bytes, no NUL.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &[u8]) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > NAME_MAX {
        return Err(NameError::TooLong {
            len: name.len(),
            max: NAME_MAX,
        });
    }
    match name.iter().position(|&b| b == 0) {
        Some(at) => Err(NameError::Nul { at }),
        None => Ok(()),
    }
}

/// Table slots hold index + 1 in the low 20+1 bits and a tag of the hash above.
const INDEX_BITS: u32 = 21;
const INDEX_MASK: u32 = (1 << INDEX_BITS) - 1;

/// A view of the directory, for reading. Cheap to copy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Directory {
    table: Shared<AtomicU32>,
    table_mask: usize,
    entries: Shared<Entry>,
    channels: usize,
    seed: (u64, u64),
}

fn pack_slot(index: u32, hash: u64) -> u32 {
    (hash >> 32) as u32 & !INDEX_MASK | (index + 1)
}

fn live_state(generation: u32) -> u64 {
    u64::from(generation) << 1 | 1
}

/// The `i`-th 8 bytes of a name, zero padded.
fn name_word(name: &[u8], i: usize) -> u64 {
    let part = name.get(i * 8..).unwrap_or_default();
    let mut word = [0; 8];
    let n = part.len().min(8);
    word[..n].copy_from_slice(&part[..n]);
    u64::from_le_bytes(word)
}

impl Directory {
    /// # Safety
    /// The layout has a table of `table_len` (a power of two) words and `channels` entries at
    /// these places.
    pub unsafe fn new(
        table: Shared<AtomicU32>,
        table_len: usize,
        entries: Shared<Entry>,
        channels: usize,
        seed: (u64, u64),
    ) -> Self {
        Self {
            table,
            table_mask: table_len - 1,
            entries,
            channels,
            seed,
        }
    }

    /// The channel called `name`, if it exists. May miss one while the router removes another.
    pub fn find(&self, name: &[u8]) -> Option<ChannelId> {
        let hash = self.hash(name);
        self.probe(name, hash).map(|(_, id)| id)
    }

    /// True while `id` is the channel it was when resolved.
    #[inline]
    pub fn is_current(&self, id: ChannelId) -> bool {
        if id.index as usize >= self.channels {
            return false;
        }
        // Relaxed: only compared; the router checks again.
        self.entry(id.index).state.load(Ordering::Relaxed) == live_state(id.generation)
    }

    /// The generation of a channel that is in use.
    pub fn generation(&self, index: u32) -> Option<u32> {
        if index as usize >= self.channels {
            return None;
        }
        // SYNC(directory.state): pairs with the Release in `DirectoryWriter::publish`.
        let state = self.entry(index).state.load(Ordering::Acquire);
        (state & 1 == 1).then_some((state >> 1) as u32)
    }

    /// The name of `index` in place, for a core that is subscribed to it: while it is, the router
    /// does not recycle the entry.
    #[inline]
    pub fn name_ptr(&self, index: u32) -> (NonNull<u8>, usize) {
        if index as usize >= self.channels {
            return (NonNull::dangling(), 0);
        }
        let entry = self.entry(index);
        // Relaxed: written before the subscription was answered, which the core has seen.
        let len = (entry.len.load(Ordering::Relaxed) as usize).min(NAME_MAX);
        (NonNull::from(&entry.name).cast(), len)
    }

    fn hash(&self, name: &[u8]) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.seed.0, self.seed.1);
        hasher.write(name);
        hasher.finish()
    }

    #[inline]
    fn entry(&self, index: u32) -> &Entry {
        debug_assert!((index as usize) < self.channels);
        // SAFETY: callers check index < channels.
        unsafe { self.entries.nth(index as usize) }.get()
    }

    fn slot(&self, at: usize) -> &AtomicU32 {
        // SAFETY: masked, so below the table's length.
        unsafe { self.table.nth(at & self.table_mask) }.get()
    }

    /// The table position and the channel of `name`.
    fn probe(&self, name: &[u8], hash: u64) -> Option<(usize, ChannelId)> {
        let mut at = hash as usize & self.table_mask;
        // Bounded: at most half of the table is in use; damage must not make this endless.
        for _ in 0..=self.table_mask {
            // SYNC(directory.table): pairs with the Release stores of the router.
            let word = self.slot(at).load(Ordering::Acquire);
            if word == 0 {
                return None;
            }
            let index = (word & INDEX_MASK) - 1;
            if word == pack_slot(index, hash) {
                if let Some(id) = self.matches(index, name, hash) {
                    return Some((at, id));
                }
            }
            at = (at + 1) & self.table_mask;
        }
        None
    }

    fn matches(&self, index: u32, name: &[u8], hash: u64) -> Option<ChannelId> {
        let generation = self.generation(index)?;
        let entry = self.entry(index);
        // Relaxed: validated by the second look at the state, behind the fence.
        let same = entry.hash.load(Ordering::Relaxed) == hash
            && entry.len.load(Ordering::Relaxed) == name.len() as u64
            && (0..name.len().div_ceil(8))
                .all(|i| entry.name[i].load(Ordering::Relaxed) == name_word(name, i));
        fence(Ordering::Acquire);
        let id = ChannelId { index, generation };
        (same && self.is_current(id)).then_some(id)
    }
}

/// The router's side: adds and recycles channels.
#[derive(Debug)]
pub(crate) struct DirectoryWriter {
    view: Directory,
    /// Room for all indices; the first `recycled` are those to use again, the last one first.
    free: Block<u32>,
    recycled: usize,
    /// Indices from here on were never used.
    fresh: u32,
    live: u32,
}

impl DirectoryWriter {
    /// A writer on an empty directory.
    pub fn new(view: Directory, memory: Memory) -> Self {
        Self {
            view,
            free: Block::zeroed(memory, view.channels),
            recycled: 0,
            fresh: 0,
            live: 0,
        }
    }

    /// Bytes that it takes of a pool, at most.
    pub fn footprint(channels: usize) -> usize {
        Block::<u32>::footprint(channels)
    }

    pub fn view(&self) -> &Directory {
        &self.view
    }

    /// An index that is to be used again.
    fn recycle(&mut self, index: u32) {
        // Each index is recycled once before it is used again, so there is room.
        self.free[self.recycled] = index;
        self.recycled += 1;
    }

    /// Channels in use.
    pub fn live(&self) -> u32 {
        self.live
    }

    /// Indices from here on were never used.
    pub fn fresh(&self) -> u32 {
        self.fresh
    }

    /// Takes over from a writer that died at any point of its work: channels that are `in_use`
    /// stay, all others are recycled, and the table is written anew. Lookups may miss names
    /// meanwhile.
    pub fn recover(&mut self, fresh: u32, in_use: impl Fn(u32) -> bool) {
        self.fresh = fresh.min(self.view.channels as u32);
        self.recycled = 0;
        self.live = 0;
        for at in 0..=self.view.table_mask {
            let slot = self.view.slot(at);
            // Relaxed: our own writes, or a dead predecessor's. Most are zero; not all are
            // stored, so that untouched pages stay so.
            if slot.load(Ordering::Relaxed) != 0 {
                slot.store(0, Ordering::Relaxed);
            }
        }
        for index in (0..self.fresh).rev() {
            let entry = self.view.entry(index);
            let Some(generation) = self.view.generation(index).filter(|_| in_use(index)) else {
                // SYNC(directory.state): as in `remove`.
                let state = entry.state.load(Ordering::Relaxed);
                entry.state.store(state & !1, Ordering::Release);
                self.recycle(index);
                continue;
            };
            debug_assert!(generation > 0);
            // Relaxed: written before the state.
            self.link(index, entry.hash.load(Ordering::Relaxed));
            self.live += 1;
        }
    }

    /// The channel called `name`, made if need be; None when all channels are in use.
    pub fn intern(&mut self, name: &[u8]) -> Option<ChannelId> {
        let hash = self.view.hash(name);
        if let Some((_, id)) = self.view.probe(name, hash) {
            return Some(id);
        }
        let index = self.allocate()?;
        let id = self.publish(index, name, hash);
        self.live += 1;
        Some(id)
    }

    /// Recycles a channel that nobody needs any more.
    pub fn remove(&mut self, index: u32) {
        let Some(generation) = self.view.generation(index) else {
            return;
        };
        let entry = self.view.entry(index);
        // Relaxed: our own writes.
        let hash = entry.hash.load(Ordering::Relaxed);
        // SYNC(directory.state): readers that look again after the name see this and give up.
        entry
            .state
            .store(u64::from(generation) << 1, Ordering::Release);
        self.unlink(index, hash);
        self.recycle(index);
        self.live -= 1;
    }

    fn allocate(&mut self) -> Option<u32> {
        if let Some(last) = self.recycled.checked_sub(1) {
            self.recycled = last;
            return Some(self.free[last]);
        }
        let index = self.fresh;
        ((index as usize) < self.view.channels).then(|| {
            self.fresh += 1;
            index
        })
    }

    fn publish(&self, index: u32, name: &[u8], hash: u64) -> ChannelId {
        let entry = self.view.entry(index);
        // Relaxed: our own write. 0 is skipped so that no channel is all zeroes.
        let old = (entry.state.load(Ordering::Relaxed) >> 1) as u32;
        let generation = old.wrapping_add(1).max(1);
        // SYNC(directory.state): the entry has been out of use since `remove`; a reader that
        // still compares the old name sees the new state after its Acquire fence.
        fence(Ordering::Release);
        entry.hash.store(hash, Ordering::Relaxed);
        entry.len.store(name.len() as u64, Ordering::Relaxed);
        for (i, word) in entry.name.iter().enumerate().take(NAME_WORDS) {
            if i * 8 >= name.len() + 8 {
                break;
            }
            // Relaxed: published by the state.
            word.store(name_word(name, i), Ordering::Relaxed);
        }
        // SYNC(directory.state): pairs with the Acquire in `generation`.
        entry.state.store(live_state(generation), Ordering::Release);
        self.link(index, hash);
        ChannelId { index, generation }
    }

    fn link(&self, index: u32, hash: u64) {
        let mut at = hash as usize & self.view.table_mask;
        // Relaxed: our own writes. Ends: the table is at most half full.
        while self.view.slot(at).load(Ordering::Relaxed) != 0 {
            at = (at + 1) & self.view.table_mask;
        }
        // SYNC(directory.table): pairs with the Acquire in `probe`; the entry is complete.
        self.view
            .slot(at)
            .store(pack_slot(index, hash), Ordering::Release);
    }

    /// Takes `index` out of the table and closes the gap, so that probing needs no tombstones.
    fn unlink(&self, index: u32, hash: u64) {
        let mask = self.view.table_mask;
        let mut hole = hash as usize & mask;
        let word = pack_slot(index, hash);
        // Relaxed here and below: our own writes.
        while self.view.slot(hole).load(Ordering::Relaxed) != word {
            hole = (hole + 1) & mask;
        }
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let next = self.view.slot(at).load(Ordering::Relaxed);
            if next == 0 {
                break;
            }
            let other = self.view.entry((next & INDEX_MASK) - 1);
            let home = other.hash.load(Ordering::Relaxed) as usize & mask;
            // `next` may move into the hole unless its home lies behind it.
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                // SYNC(directory.table): as in `link`.
                self.view.slot(hole).store(next, Ordering::Release);
                hole = at;
            }
        }
        self.view.slot(hole).store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::AtomicU64;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const CHANNELS: usize = 64;

    fn directory() -> DirectoryWriter {
        let table: Box<[AtomicU32]> = (0..2 * CHANNELS).map(|_| AtomicU32::new(0)).collect();
        let entries: Box<[Entry]> = (0..CHANNELS)
            .map(|_| Entry {
                state: AtomicU64::new(0),
                hash: AtomicU64::new(0),
                len: AtomicU64::new(0),
                name: std::array::from_fn(|_| AtomicU64::new(0)),
            })
            .collect();
        // SAFETY: leaked arrays of just these lengths.
        unsafe {
            let (table, entries) = (Box::leak(table), Box::leak(entries));
            DirectoryWriter::new(
                Directory::new(
                    Shared::of(&table[0]),
                    2 * CHANNELS,
                    Shared::of(&entries[0]),
                    CHANNELS,
                    (1, 2),
                ),
                Memory::Own,
            )
        }
    }

    #[test]
    fn names_are_checked() {
        assert_eq!(check_name(b""), Err(NameError::Empty));
        assert_eq!(check_name(b"a\0b"), Err(NameError::Nul { at: 1 }));
        assert_eq!(check_name(&[b'x'; 255]), Ok(()));
        assert_eq!(
            check_name(&[b'x'; 256]),
            Err(NameError::TooLong { len: 256, max: 255 })
        );
    }

    #[test]
    fn a_recycled_index_has_a_new_generation() {
        let mut dir = directory();
        let a = dir.intern(b"a").expect("room");
        dir.remove(a.index);
        assert_eq!(dir.view().find(b"a"), None);
        let b = dir.intern(b"b").expect("room");
        assert_eq!(a.index, b.index);
        assert_ne!(a.generation, b.generation);
        assert!(!dir.view().is_current(a) && dir.view().is_current(b));
    }

    #[test]
    fn the_limit_refuses_and_a_removal_makes_room() {
        let mut dir = directory();
        let names: Vec<_> = (0..CHANNELS).map(|i| format!("room {i}")).collect();
        for name in &names {
            assert!(dir.intern(name.as_bytes()).is_some());
        }
        assert_eq!(dir.intern(b"one more"), None);
        assert_eq!(dir.live() as usize, CHANNELS);
        let first = dir.view().find(names[0].as_bytes()).expect("it exists");
        dir.remove(first.index);
        assert!(dir.intern(b"one more").is_some());
    }

    proptest! {
        #[test]
        fn it_behaves_like_a_map(ops in proptest::collection::vec((any::<bool>(), 0u8..100), 1..400)) {
            let (mut dir, mut model) = (directory(), HashMap::new());
            for (add, n) in ops {
                // Long names now and then, so that all name words are compared.
                let name = vec![b'a' + n % 26; 1 + usize::from(n) * 2];
                if add {
                    match dir.intern(&name) {
                        Some(id) => prop_assert_eq!(*model.entry(name).or_insert(id), id),
                        None => prop_assert_eq!(model.len(), CHANNELS),
                    }
                } else if let Some(id) = model.remove(&name) {
                    dir.remove(id.index);
                }
                prop_assert_eq!(dir.live() as usize, model.len());
                for (name, id) in &model {
                    prop_assert_eq!(dir.view().find(name), Some(*id));
                }
            }
        }
    }
}
