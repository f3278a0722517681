//! What the cache's policy keeps, beside an LRU of the same size, on traces made of a seed.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::{BTreeMap, BTreeSet};

use diai_blocks::cache::Policy;
use proptest::prelude::*;

const SEED: [u8; 16] = [42; 16];

/// The plain alternative: what was not used for longest goes.
#[derive(Default)]
struct Lru {
    max_bytes: u64,
    bytes: u64,
    next: u64,
    held: BTreeMap<u64, (u64, u64)>,
    order: BTreeMap<u64, u64>,
}

impl Lru {
    fn access(&mut self, key: u64, bytes: u64) -> bool {
        self.next += 1;
        let hit = self.held.insert(key, (self.next, bytes));
        if let Some((used, _)) = hit {
            self.order.remove(&used);
        } else {
            self.bytes += bytes;
        }
        self.order.insert(self.next, key);
        while self.bytes > self.max_bytes
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.bytes -= self.held.remove(&oldest).unwrap().1;
        }
        hit.is_some()
    }
}

/// Keys by a law of Zipf, as a function of a number.
struct Zipf {
    upto: Vec<f64>,
    state: u64,
}

impl Zipf {
    fn new(keys: usize, skew: f64, seed: u64) -> Self {
        let mut sum = 0.0;
        let upto = (1..=keys).map(|rank| {
            sum += (rank as f64).powf(-skew);
            sum
        });
        Self { upto: upto.collect(), state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = (self.state >> 11) as f64 / (1u64 << 53) as f64 * self.upto.last().unwrap();
        self.upto.partition_point(|upto| *upto < at) as u64
    }
}

fn ask(policy: &mut Policy<u64>, key: u64, bytes: u64) -> bool {
    let hit = policy.access(&key);
    if !hit {
        drop(policy.insert(key, bytes));
    }
    hit
}

/// Hits of the policy and of the LRU in percent, where a scan asks so many times before each question of the trace.
fn compare(skew: f64, scan: u64) -> (u64, u64) {
    const BYTES: u64 = 1 << 20;
    let mut zipf = Zipf::new(20_000, skew, 7);
    let (mut policy, mut lru) =
        (Policy::new(500 * BYTES, 500_000, SEED), Lru { max_bytes: 500 * BYTES, ..Lru::default() });
    let (asked, mut ours, mut theirs) = (100_000, 0, 0);
    for number in 0..asked {
        for scanned in 0..scan {
            ask(&mut policy, 1_000_000 + number * scan + scanned, BYTES);
            lru.access(1_000_000 + number * scan + scanned, BYTES);
        }
        let key = zipf.next();
        ours += u64::from(ask(&mut policy, key, BYTES));
        theirs += u64::from(lru.access(key, BYTES));
    }
    (ours * 100 / asked, theirs * 100 / asked)
}

#[test]
fn on_zipf_traces_it_hits_more_often_than_an_lru() {
    let (ours, lru) = compare(0.9, 0);
    assert!(ours >= lru + 8, "{ours} % against {lru} %");
    let (ours, lru) = compare(1.1, 0);
    assert!(ours >= lru + 4, "{ours} % against {lru} %");
}

#[test]
fn a_scan_of_three_quarters_of_all_does_not_flush_it() {
    let (alone, _) = compare(0.9, 0);
    let (ours, lru) = compare(0.9, 3);
    assert!(ours + 4 >= alone, "{ours} % with a scan, {alone} % without");
    assert!(ours >= lru + 20, "{ours} % against {lru} %");
}

#[test]
fn one_long_scan_leaves_what_is_asked_for_often() {
    let mut policy = Policy::new(100 << 20, 1000, SEED);
    for _ in 0..4 {
        (0..80).for_each(|key| _ = ask(&mut policy, key, 1 << 20));
    }
    (1000..11_000).for_each(|key| _ = ask(&mut policy, key, 1 << 20));
    let left = (0..80).filter(|key| policy.contains(key)).count();
    assert!(left >= 78, "{left} of 80 are left");
}

#[test]
fn what_is_asked_for_no_more_makes_room_for_what_is() {
    let mut policy = Policy::new(100 << 20, 1000, SEED);
    for round in 0..40 {
        // First one set is in fashion, then another.
        let from = if round < 20 { 0 } else { 500 };
        (from..from + 80).for_each(|key| _ = ask(&mut policy, key, 1 << 20));
    }
    for _ in 0..160 {
        (500..580).for_each(|key| _ = ask(&mut policy, key, 1 << 20));
    }
    let left = (500..580).filter(|key| policy.contains(key)).count();
    assert!(left >= 76, "{left} of 80 of the new set are held");
}

#[test]
fn a_large_entry_must_be_worth_all_the_small_ones_in_its_place() {
    let mut policy = Policy::new(64 << 20, 100_000, SEED);
    let small = || 0..1000u64;
    for _ in 0..3 {
        small().for_each(|key| _ = ask(&mut policy, key, 64 << 10));
    }
    // Asked for as often as each of them, but in the place of 32.
    for _ in 0..3 {
        (5000..5100).for_each(|key| _ = ask(&mut policy, key, 2 << 20));
    }
    let left = small().filter(|key| policy.contains(key)).count();
    assert!(left >= 850, "{left} of 1000 are left");
}

#[test]
fn small_entries_count_as_much_as_there_may_be() {
    let mut policy = Policy::new(1 << 20, 100, SEED);
    (0..100_000).for_each(|key| _ = ask(&mut policy, key, 1));
    assert!(policy.len() <= 100, "{} entries", policy.len());
}

proptest! {
    #[test]
    fn it_holds_what_it_says_within_its_budget_and_names_all_that_goes(
        asked in prop::collection::vec((0u64..200, 1u64..5000, 0u8..20), 1..2000),
        max_bytes in 0u64..100_000,
    ) {
        let mut policy = Policy::new(max_bytes, 1000, SEED);
        let mut held = BTreeMap::new();
        for (key, bytes, what) in asked {
            match what {
                0 => prop_assert_eq!(policy.remove(&key), held.remove(&key)),
                1 => for (gone, bytes) in policy.shrink(bytes) {
                    prop_assert_eq!(held.remove(&gone), Some(bytes));
                },
                _ if policy.access(&key) => prop_assert!(held.contains_key(&key)),
                _ => {
                    prop_assert!(held.insert(key, bytes).is_none());
                    for (gone, bytes) in policy.insert(key, bytes) {
                        prop_assert_eq!(held.remove(&gone), Some(bytes));
                    }
                }
            }
            prop_assert_eq!(policy.bytes(), held.values().sum::<u64>());
            prop_assert!(policy.bytes() <= max_bytes);
            prop_assert_eq!(policy.len(), held.len());
        }
        let keys: BTreeSet<_> = held.into_keys().collect();
        prop_assert!((0..200).all(|key| policy.contains(&key) == keys.contains(&key)));
    }
}
