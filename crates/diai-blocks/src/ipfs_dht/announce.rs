//! Which keys go to whom.

use std::collections::{BTreeMap, BTreeSet};

use diai_core::PeerId;

use super::{lookup::REPLICATION, message::Key};
use crate::store::Multihash;

/// What is still to be announced, by its place in the key space.
#[derive(Debug, Default)]
pub(super) struct Todo(BTreeMap<Key, Multihash>);

impl Todo {
    pub(super) fn new(hashes: impl IntoIterator<Item = Multihash>) -> Self {
        Self(hashes.into_iter().map(|hash| (Key::of(&hash.to_bytes()), hash)).collect())
    }

    /// A key whose surroundings are to be looked up next.
    pub(super) fn next(&self) -> Option<Key> {
        self.0.keys().next().copied()
    }

    /// The bytes of which `key` is the place.
    pub(super) fn bytes(&self, key: &Key) -> Option<Vec<u8>> {
        self.0.get(key).map(Multihash::to_bytes)
    }

    /// A key that shares `bits` bits with `target` and no more.
    pub(super) fn sibling(&self, target: &Key, bits: u32) -> Option<Key> {
        self.0.keys().find(|key| key.common_bits(target) == bits).copied()
    }

    /// Takes the keys that share `bits` bits with `target`, itself among them, and says which go to whom of `around`: to
    /// the closest.
    pub(super) fn take_region(
        &mut self,
        target: &Key,
        bits: u32,
        around: BTreeSet<PeerId>,
    ) -> BTreeMap<PeerId, Vec<Multihash>> {
        let places: Vec<_> = around.into_iter().map(|peer| (Key::of_peer(&peer), peer)).collect();
        let region: Vec<_> =
            self.0.keys().filter(|key| *key == target || key.common_bits(target) >= bits).copied().collect();
        let mut batches: BTreeMap<PeerId, Vec<Multihash>> = BTreeMap::new();
        for key in region {
            let Some(hash) = self.0.remove(&key) else { continue };
            let mut by_distance: Vec<_> = places.iter().map(|(place, peer)| (place.distance(&key), *peer)).collect();
            by_distance.sort_unstable();
            for (_, peer) in by_distance.into_iter().take(REPLICATION) {
                batches.entry(peer).or_default().push(hash);
            }
        }
        batches
    }
}

/// How many bits the twenty closest to `target` share with it: all peers that share as many are its region, from which no
/// key in it needs to look farther. Fewer than twenty are the whole network.
pub(super) fn region_bits(target: &Key, closest: &[PeerId]) -> u32 {
    closest.get(REPLICATION - 1).map_or(0, |farthest| target.common_bits(&Key::of_peer(farthest)))
}
