//! Which entries are worth their bytes.

use std::{collections::BTreeMap, hash::Hash};

use super::{
    list::{List, Slots},
    sketch::Sketch,
};

/// The window has this share of all, but not less than [`MIN_WINDOW_BYTES`] or an eighth, whichever is less: some blocks
/// must find room there.
const WINDOW_SHARE: u64 = 100;
const MIN_WINDOW_BYTES: u64 = 8 << 20;
const MIN_WINDOW_SHARE: u64 = 8;
/// What was asked for again has at most this share of the main part, in percent.
const PROTECTED_PERCENT: u64 = 80;

/// W-TinyLFU, weighted by bytes: decides what stays within a budget. Sans-IO, and the same inputs give the same outputs.
///
/// What is new comes into a small window in the order of use. What falls out of it must win its place in the main part: it
/// is let in if it was asked for more often, of late, than all those together that would have to go for it. A scan is asked
/// for once and passes through the window; a large entry must be worth all small ones in its place.
///
/// Memory: about 150 bytes an entry, and five bytes for each that there may be at most.
#[derive(Debug)]
pub struct Policy<K> {
    max_bytes: u64,
    max_window: u64,
    min_weight: u64,
    index: BTreeMap<K, u32>,
    slots: Slots<Entry<K>>,
    window: List,
    probation: List,
    protected: List,
    sketch: Sketch,
    bytes: u64,
}

#[derive(Debug)]
struct Entry<K> {
    key: K,
    bytes: u64,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Window,
    Probation,
    Protected,
}

impl<K: Ord + Clone + Hash> Policy<K> {
    /// For `max_bytes` and `max_entries`: entries smaller than their quotient count as that. Who does not know `seed`, which
    /// should be random, cannot make keys that pass for others.
    pub fn new(max_bytes: u64, max_entries: usize, seed: [u8; 16]) -> Self {
        let max_entries = max_entries.clamp(1, u32::MAX as usize / 2);
        let min_weight = (max_bytes / max_entries as u64).max(1);
        // Of a small budget for blocks, nobody has so many entries.
        let keys = (max_bytes / 4096).clamp(1024, max_entries.max(1024) as u64) as usize;
        Self {
            max_bytes,
            max_window: (max_bytes / WINDOW_SHARE).max(MIN_WINDOW_BYTES.min(max_bytes / MIN_WINDOW_SHARE)),
            min_weight,
            index: BTreeMap::new(),
            slots: Slots::new(),
            window: List::new(),
            probation: List::new(),
            protected: List::new(),
            sketch: Sketch::new(keys, seed),
            bytes: 0,
        }
    }

    /// Changes the seed, and forgets what was asked for.
    pub(super) fn set_seed(&mut self, seed: [u8; 16]) {
        self.sketch = self.sketch.anew(seed);
    }

    /// Bytes of all entries.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Entries.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Whether `key` is held; does not count as use.
    pub fn contains(&self, key: &K) -> bool {
        self.index.contains_key(key)
    }

    /// Bytes of `key`, if it is held; does not count as use.
    pub fn bytes_of(&self, key: &K) -> Option<u64> {
        self.index.get(key).and_then(|index| self.slots.get(*index)).map(|slot| slot.item.bytes)
    }

    /// Counts that `key` was asked for, held or not, and says which.
    pub fn access(&mut self, key: &K) -> bool {
        self.sketch.count(key, self.index.len());
        let Some(&index) = self.index.get(key) else { return false };
        match self.slots.get(index).map(|slot| slot.item.place) {
            Some(Place::Probation) => {
                self.shift(index, Place::Protected);
                self.demote();
            }
            Some(place) => self.shift(index, place),
            None => {}
        }
        true
    }

    /// Takes in `key`, which [`access`](Self::access) was told of before, and returns what has to go for it: others, itself,
    /// or nothing.
    #[must_use = "these are not held any more"]
    pub fn insert(&mut self, key: K, bytes: u64) -> Vec<(K, u64)> {
        if self.index.contains_key(&key) {
            return Vec::new();
        }
        let index = self.slots.add(Entry { key: key.clone(), bytes, place: Place::Window }, bytes.max(self.min_weight));
        self.index.insert(key, index);
        self.bytes += bytes;
        self.slots.push(&mut self.window, index);
        let mut gone = Vec::new();
        while self.window.weight > self.max_window
            && let Some(candidate) = self.window.oldest()
        {
            self.admit(candidate, &mut gone);
        }
        gone
    }

    /// Gives up `key`; returns its bytes.
    pub fn remove(&mut self, key: &K) -> Option<u64> {
        let index = *self.index.get(key)?;
        self.drop_entry(index).map(|(_, bytes)| bytes)
    }

    /// Gives up what is worth least, until it is `bytes` in all or nothing is left.
    #[must_use = "these are not held any more"]
    pub fn shrink(&mut self, bytes: u64) -> Vec<(K, u64)> {
        let (mut gone, mut freed) = (Vec::new(), 0);
        while freed < bytes {
            let lists = [&self.probation, &self.window, &self.protected];
            let Some(oldest) = lists.into_iter().find_map(List::oldest) else { break };
            let Some((key, bytes)) = self.drop_entry(oldest) else { break };
            freed += bytes;
            gone.push((key, bytes));
        }
        gone
    }

    /// Moves the oldest of the window to the main part, in place of others that are worth less, or out.
    fn admit(&mut self, candidate: u32, gone: &mut Vec<(K, u64)>) {
        let Some((weight, wanted)) = self.worth(candidate) else { return };
        let max_main = self.max_bytes.saturating_sub(self.max_window);
        let taken = self.probation.weight + self.protected.weight;
        let mut needed = (taken + weight).saturating_sub(max_main);
        let (mut victims, mut worth) = (Vec::new(), 0);
        let mut next = self.probation.oldest().or(self.protected.oldest());
        while needed > 0
            && weight <= max_main
            && worth < wanted
            && let Some(victim) = next
        {
            let Some((weight, asked_for)) = self.worth(victim) else { break };
            needed = needed.saturating_sub(weight);
            worth += asked_for;
            victims.push(victim);
            let in_probation = self.slots.get(victim).is_some_and(|slot| slot.item.place == Place::Probation);
            next = self.slots.newer(victim).or_else(|| self.protected.oldest().filter(|_| in_probation));
        }
        if needed > 0 || (worth >= wanted && !victims.is_empty()) {
            gone.extend(self.drop_entry(candidate));
            return;
        }
        gone.extend(victims.into_iter().filter_map(|victim| self.drop_entry(victim)));
        self.shift(candidate, Place::Probation);
    }

    /// The weight of an entry, and how often it was asked for.
    fn worth(&self, index: u32) -> Option<(u64, u64)> {
        self.slots.get(index).map(|slot| (slot.weight, self.sketch.estimate(&slot.item.key)))
    }

    /// Keeps the protected within their share.
    fn demote(&mut self) {
        let max = self.max_bytes.saturating_sub(self.max_window) * PROTECTED_PERCENT / 100;
        while self.protected.weight > max
            && let Some(oldest) = self.protected.oldest()
        {
            self.shift(oldest, Place::Probation);
        }
    }

    /// Makes an entry the newest of the list `to`.
    fn shift(&mut self, index: u32, to: Place) {
        self.unlink(index);
        if let Some(slot) = self.slots.get_mut(index) {
            slot.item.place = to;
        }
        let list = match to {
            Place::Window => &mut self.window,
            Place::Probation => &mut self.probation,
            Place::Protected => &mut self.protected,
        };
        self.slots.push(list, index);
    }

    fn unlink(&mut self, index: u32) {
        let Some(slot) = self.slots.get(index) else { return };
        let list = match slot.item.place {
            Place::Window => &mut self.window,
            Place::Probation => &mut self.probation,
            Place::Protected => &mut self.protected,
        };
        self.slots.unlink(list, index);
    }

    fn drop_entry(&mut self, index: u32) -> Option<(K, u64)> {
        self.unlink(index);
        let Entry { key, bytes, .. } = self.slots.take(index)?.item;
        self.index.remove(&key);
        self.bytes -= bytes;
        Some((key, bytes))
    }
}
