//! How often keys were asked for, roughly and of late: a count-min sketch behind a doorkeeper.

use std::hash::Hash;

use siphasher::sip128::{Hasher128, SipHasher13};

/// Counters of a key; the smallest of them counts.
const ROWS: u64 = 4;
/// What a counter holds at most.
const MAX_COUNT: u64 = 15;
/// Counters of four bits in a word.
const COUNTERS: u64 = 16;
/// The lowest three bits of each counter, which it has after it was halved.
const HALVED: u64 = 0x7777_7777_7777_7777;
/// Bits of the doorkeeper for each key, and those that a key sets.
const DOOR_BITS: u64 = 8;
const DOOR_HASHES: u64 = 3;
/// All is halved after so many times as many questions as there are keys.
const AGE: usize = 10;

/// Counts up to 16. A key's first time only sets bits of the doorkeeper, so that what is asked for once takes no room among
/// the counters.
#[derive(Debug)]
pub(super) struct Sketch {
    seed: [u8; 16],
    counters: Vec<u64>,
    door: Vec<u64>,
    /// Times counted since all was halved.
    counted: usize,
}

impl Sketch {
    /// For about `keys` keys, four bytes each and one of the doorkeeper. Who does not know `seed` cannot make keys collide.
    pub(super) fn new(keys: usize, seed: [u8; 16]) -> Self {
        let keys = keys.next_power_of_two().max(1024);
        Self {
            seed,
            counters: vec![0; keys / 2],
            door: vec![0; keys * DOOR_BITS as usize / u64::BITS as usize],
            counted: 0,
        }
    }

    /// One as large that has counted nothing.
    pub(super) fn anew(&self, seed: [u8; 16]) -> Self {
        Self::new(self.counters.len() * 2, seed)
    }

    /// Counts `key` once more. `held` is how many keys are worth remembering now: all is halved after ten times as many.
    pub(super) fn count(&mut self, key: &impl Hash, held: usize) {
        let (first, step) = self.hash(key);
        if !self.enter(first, step) {
            return self.age(held);
        }
        for row in 0..ROWS {
            let (word, shift) = self.counter(first, step, row);
            if self.counters[word] >> shift & MAX_COUNT < MAX_COUNT {
                self.counters[word] += 1 << shift;
            }
        }
        self.age(held);
    }

    /// How often `key` was counted of late, at most 16; seldom more than it was.
    pub(super) fn estimate(&self, key: &impl Hash) -> u64 {
        let (first, step) = self.hash(key);
        let count = |row| {
            let (word, shift) = self.counter(first, step, row);
            self.counters[word] >> shift & MAX_COUNT
        };
        let least = (0..ROWS).map(count).min().unwrap_or_default();
        let (mask, bits) = (self.door_mask(), &self.door);
        let set = |n| {
            let bit = first.rotate_left(32).wrapping_add(step.wrapping_mul(n)) & mask;
            bits[(bit / 64) as usize] >> (bit % 64) & 1 == 1
        };
        least + u64::from((0..DOOR_HASHES).all(set))
    }

    /// Sets its bits; returns whether all were set, so that it has come by before.
    fn enter(&mut self, first: u64, step: u64) -> bool {
        let mut known = true;
        for n in 0..DOOR_HASHES {
            let bit = first.rotate_left(32).wrapping_add(step.wrapping_mul(n)) & self.door_mask();
            let word = &mut self.door[(bit / 64) as usize];
            known &= *word >> (bit % 64) & 1 == 1;
            *word |= 1 << (bit % 64);
        }
        known
    }

    fn door_mask(&self) -> u64 {
        self.door.len() as u64 * 64 - 1
    }

    fn counter(&self, first: u64, step: u64, row: u64) -> (usize, u64) {
        let at = first.wrapping_add(step.wrapping_mul(row)) & (self.counters.len() as u64 * COUNTERS - 1);
        // Neighbours in a word are of different keys: a word is read for each row all the same.
        ((at / COUNTERS) as usize, at % COUNTERS * 4)
    }

    fn age(&mut self, held: usize) {
        self.counted += 1;
        if self.counted < AGE * held.max(1024) {
            return;
        }
        self.counted /= 2;
        self.counters.iter_mut().for_each(|word| *word = *word >> 1 & HALVED);
        self.door.fill(0);
    }

    fn hash(&self, key: &impl Hash) -> (u64, u64) {
        let mut hasher = SipHasher13::new_with_key(&self.seed);
        key.hash(&mut hasher);
        let hash = hasher.finish128();
        (hash.h1, hash.h2 | 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_up_to_sixteen_and_forgets_by_halves() {
        let mut sketch = Sketch::new(1024, [7; 16]);
        for times in 1..=20u64 {
            sketch.count(&"often", 1_000_000);
            assert_eq!(sketch.estimate(&"often"), times.min(16));
        }
        assert_eq!(sketch.estimate(&"never"), 0);
        for other in 0..10_240 - 20 {
            sketch.count(&(other % 100), 1024);
        }
        assert_eq!(sketch.estimate(&"often"), 7, "halved, and not at the door any more");
    }

    #[test]
    fn keys_that_collide_under_one_seed_do_not_under_another() {
        let counted = |seed| {
            let mut sketch = Sketch::new(1024, seed);
            (0..1_500u64).for_each(|key| sketch.count(&key, 1_000_000));
            (10_000..20_000u64).filter(|key| sketch.estimate(key) > 0).collect::<Vec<_>>()
        };
        let (one, other) = (counted([1; 16]), counted([2; 16]));
        assert!(one.len() > 100, "so many keys collide");
        let both = one.iter().filter(|key| other.contains(key)).count();
        assert!(both * 2 < one.len(), "{both} of {} collide under both", one.len());
    }
}
