//! Which keys go to whom.

use std::collections::{BTreeMap, BTreeSet};

use diai_core::{Multiaddr, PeerId};
use futures::{StreamExt, stream};

use super::{
    lookup::REPLICATION,
    message::{Key, Kind},
    network::Net,
    prefix::Prefix,
};
use crate::store::Multihash;

/// Lookups that one region may cost beside the first.
const MAX_EXPLORED: usize = 8;
/// Keys that are announced together; what more a region has follows.
pub(super) const SLICE_KEYS: usize = 2_048;

/// Keys that are to be announced.
pub(super) trait Pending: Sync {
    /// The next in line.
    fn next(&self) -> Option<(Key, Multihash)>;

    /// Whether no more than one of them is in `part`.
    fn is_alone(&self, part: &Prefix) -> bool;

    /// Takes up to `max` of those in `part`.
    fn take(&self, part: &Prefix, max: usize) -> Vec<(Key, Multihash)>;
}

/// A part of the key space that is its own for announcements: who is closest to any key in it is among these peers.
#[derive(Debug)]
pub(super) struct Region {
    pub(super) part: Prefix,
    peers: Vec<(Key, PeerId)>,
    /// Whether the lookup came to its end.
    pub(super) done: bool,
}

impl Region {
    /// The region around what is next in line; `None` when nobody answers.
    pub(super) async fn find(net: &Net, pending: &dyn Pending) -> Option<Self> {
        let (key, hash) = pending.next()?;
        let found = net.lookup(Kind::FindNode, hash.to_bytes().into(), key, REPLICATION, |_, _| true).await;
        let closest: Vec<_> = found.closest().collect();
        let done = found.is_done();
        if closest.is_empty() {
            return None;
        }
        let bits = shared_bits(&key, &closest);
        let part = Prefix::of(&key, bits);
        let everybody = closest.len() < REPLICATION;
        let mut peers: BTreeSet<_> = closest.into_iter().collect();
        // Of an unfinished lookup nothing is known but for the key itself.
        let alone = !done || pending.is_alone(&part);
        if !alone && !everybody {
            // The half that the key is in is known; of the other the nearer ones alone.
            explore(net, vec![Prefix::of(&key, bits + 1).sibling()], &mut peers).await;
        }
        let part = if alone { Prefix::of(&key, 256) } else { part };
        let peers = peers.into_iter().map(|peer| (Key::of_peer(&peer), peer)).collect();
        Some(Self { part, peers, done })
    }

    /// By peer, the places in `keys` of those that it is among the closest to.
    fn share(&self, keys: &[(Key, Multihash)]) -> BTreeMap<PeerId, Vec<usize>> {
        let mut shares: BTreeMap<PeerId, Vec<usize>> = BTreeMap::new();
        let mut by_distance = Vec::with_capacity(self.peers.len());
        for (index, (key, _)) in keys.iter().enumerate() {
            by_distance.clear();
            by_distance.extend(self.peers.iter().map(|(place, peer)| (place.distance(key), *peer)));
            if by_distance.len() > REPLICATION {
                by_distance.select_nth_unstable(REPLICATION);
            }
            for (_, peer) in by_distance.iter().take(REPLICATION) {
                shares.entry(*peer).or_default().push(index);
            }
        }
        shares
    }

    /// Tells the closest of each of `keys` that they are at `addrs`. Which of them somebody took, and how many peers were
    /// told.
    pub(super) async fn tell(&self, net: &Net, keys: &[(Key, Multihash)], addrs: &[Multiaddr]) -> (Vec<bool>, usize) {
        let shares = self.share(keys);
        let servers = shares.len();
        let tell = shares.into_iter().map(|(peer, places)| async move {
            let hashes = places.iter().map(|place| &keys[*place].1);
            if net.tell(peer, hashes, addrs).await { places } else { Vec::new() }
        });
        let mut telling = stream::iter(tell).buffer_unordered(REPLICATION);
        let mut taken = vec![false; keys.len()];
        while let Some(places) = telling.next().await {
            places.into_iter().for_each(|place| taken[place] = true);
        }
        (taken, servers)
    }
}

/// Finds all peers in `parts`.
async fn explore(net: &Net, mut parts: Vec<Prefix>, peers: &mut BTreeSet<PeerId>) {
    for _ in 0..MAX_EXPLORED {
        let Some(part) = parts.pop() else { return };
        let Some((bytes, key)) = part.sample() else { continue };
        let found = net.lookup(Kind::FindNode, bytes, key, REPLICATION, |_, _| true).await;
        let closest: Vec<_> = found.closest().collect();
        let bits = shared_bits(&key, &closest);
        peers.extend(closest);
        if found.is_done() {
            // If those reach beyond the part, it has no others.
            parts.extend((part.bits()..=bits).map(|bits| Prefix::of(&key, bits + 1).sibling()));
        }
    }
}

/// How many bits all of the twenty closest to `key` share with it: none if there are fewer.
fn shared_bits(key: &Key, closest: &[PeerId]) -> u32 {
    closest.get(REPLICATION - 1).map_or(0, |farthest| key.common_bits(&Key::of_peer(farthest)))
}
