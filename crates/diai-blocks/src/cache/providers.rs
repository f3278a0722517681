//! What the DHT said of late: who provides a root, and what nobody does.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use diai_core::{Instant, PeerId};

use crate::{config::CacheConfig, store::Multihash};

/// Providers remembered for a root.
const MAX_PROVIDERS: usize = 8;
/// Peers remembered to have been there when the DHT knew nobody.
const MAX_PRESENT: usize = 64;

/// Sans-IO: providers of roots until they expire, and the CIDs that the DHT knew nobody for.
#[derive(Debug)]
pub(crate) struct Lookups {
    config: CacheConfig,
    known: Expiring<Vec<PeerId>>,
    unknown: Expiring<Unknown>,
    pub(crate) provider_hits: u64,
    pub(crate) spared: u64,
}

#[derive(Debug, Clone)]
struct Unknown {
    until: Instant,
    wait: Duration,
    /// Who was connected: anybody else may know more.
    present: BTreeSet<PeerId>,
}

impl Lookups {
    pub(crate) fn new(config: CacheConfig) -> Self {
        let limit = config.max_roots;
        Self { config, known: Expiring::new(limit), unknown: Expiring::new(limit), provider_hits: 0, spared: 0 }
    }

    /// Who is known to provide `root`: who delivered of late first.
    pub(crate) fn providers(&mut self, now: Instant, root: &Multihash) -> Vec<PeerId> {
        let providers = self.known.get(now, root).cloned().unwrap_or_default();
        self.provider_hits += u64::from(!providers.is_empty());
        providers
    }

    /// `peers` were named as providers of `root`, or, if `proved`, delivered some of it.
    pub(crate) fn found(&mut self, now: Instant, root: &Multihash, peers: &[PeerId], proved: bool) {
        if peers.is_empty() {
            return;
        }
        self.unknown.remove(root);
        let mut providers = self.known.get(now, root).cloned().unwrap_or_default();
        let new: Vec<_> = peers.iter().filter(|peer| proved || !providers.contains(peer)).copied().collect();
        if proved {
            providers.retain(|peer| !new.contains(peer));
            providers.splice(0..0, new);
        } else {
            providers.extend(new);
        }
        providers.truncate(MAX_PROVIDERS);
        self.known.insert(*root, providers, now + self.config.provider_ttl);
    }

    /// What was known of `root` did not help.
    pub(crate) fn failed(&mut self, root: &Multihash) {
        self.known.remove(root);
    }

    /// The DHT knew nobody for `cid`, while `peers` were connected.
    pub(crate) fn nobody(&mut self, now: Instant, cid: &Multihash, peers: impl Iterator<Item = PeerId>) {
        let (first, longest) = self.config.unknown_wait;
        let wait = self.unknown.get(now, cid).map_or(first, |before| (2 * before.wait).min(longest));
        let unknown = Unknown { until: now + wait, wait, present: peers.take(MAX_PRESENT).collect() };
        // Remembered for longer than it holds, so that the next wait is a longer one.
        self.unknown.insert(*cid, unknown, now + wait + longest);
    }

    /// Until when the DHT need not be asked for `cid` again, unless somebody of `peers` has come since.
    pub(crate) fn unknown_until(
        &mut self,
        now: Instant,
        cid: &Multihash,
        mut peers: impl Iterator<Item = PeerId>,
    ) -> Option<Instant> {
        let unknown = self.unknown.get(now, cid).filter(|unknown| unknown.until > now)?;
        if peers.any(|peer| !unknown.present.contains(&peer)) {
            return None;
        }
        let until = unknown.until;
        self.spared += 1;
        Some(until)
    }
}

/// A map of bounded size whose entries end by themselves; the one that ends first makes room for another.
#[derive(Debug)]
struct Expiring<T> {
    limit: usize,
    entries: BTreeMap<Multihash, (Instant, T)>,
    ends: BTreeSet<(Instant, Multihash)>,
}

impl<T> Expiring<T> {
    fn new(limit: usize) -> Self {
        Self { limit, entries: BTreeMap::new(), ends: BTreeSet::new() }
    }

    fn get(&mut self, now: Instant, hash: &Multihash) -> Option<&T> {
        if self.entries.get(hash).is_some_and(|(end, _)| *end <= now) {
            self.remove(hash);
        }
        self.entries.get(hash).map(|(_, value)| value)
    }

    fn insert(&mut self, hash: Multihash, value: T, end: Instant) {
        self.remove(&hash);
        self.entries.insert(hash, (end, value));
        self.ends.insert((end, hash));
        while self.entries.len() > self.limit
            && let Some((_, first)) = self.ends.first().copied()
        {
            self.remove(&first);
        }
    }

    fn remove(&mut self, hash: &Multihash) {
        if let Some((end, _)) = self.entries.remove(hash) {
            self.ends.remove(&(end, *hash));
        }
    }
}

#[cfg(test)]
mod tests {
    use diai_core::memory::AgentSpec;

    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(1) + Duration::from_secs(seconds)
    }

    fn peer(number: u8) -> PeerId {
        AgentSpec::example(number).peer
    }

    fn hash(number: u8) -> Multihash {
        *crate::Block::new(crate::RAW, vec![number]).unwrap().cid.hash()
    }

    #[test]
    fn providers_are_remembered_until_they_expire_or_fail_and_who_delivered_comes_first() {
        let mut lookups = Lookups::new(CacheConfig::default());
        lookups.found(at(0), &hash(1), &[peer(1), peer(2)], false);
        lookups.found(at(1), &hash(1), &[peer(3)], true);
        assert_eq!(lookups.providers(at(2), &hash(1)), [peer(3), peer(1), peer(2)]);
        lookups.failed(&hash(1));
        assert_eq!(lookups.providers(at(2), &hash(1)), []);
        lookups.found(at(3), &hash(1), &[peer(1)], false);
        let ttl = CacheConfig::default().provider_ttl.as_secs();
        assert_eq!(lookups.providers(at(2 + ttl), &hash(1)), [peer(1)]);
        assert_eq!(lookups.providers(at(3 + ttl), &hash(1)), []);
        assert_eq!(lookups.provider_hits, 2);
    }

    #[test]
    fn what_the_dht_does_not_know_is_asked_for_after_growing_waits_or_when_a_peer_comes() {
        let config =
            CacheConfig { unknown_wait: (Duration::from_secs(10), Duration::from_secs(40)), ..CacheConfig::default() };
        let mut lookups = Lookups::new(config);
        let peers = || [peer(1)].into_iter();
        let mut now = 0;
        for wait in [10, 20, 40, 40] {
            lookups.nobody(at(now), &hash(1), peers());
            assert_eq!(lookups.unknown_until(at(now + wait - 1), &hash(1), peers()), Some(at(now + wait)));
            assert_eq!(lookups.unknown_until(at(now + 1), &hash(1), [peer(1), peer(2)].into_iter()), None);
            now += wait;
            assert_eq!(lookups.unknown_until(at(now), &hash(1), peers()), None);
        }
        lookups.nobody(at(now + 50), &hash(1), peers());
        assert_eq!(lookups.unknown_until(at(now + 61), &hash(1), peers()), None, "forgotten, and short again");
    }

    #[test]
    fn memory_is_bounded_by_roots_and_peers() {
        let mut lookups = Lookups::new(CacheConfig { max_roots: 3, ..CacheConfig::default() });
        for number in 0..100 {
            let many: Vec<_> = (0..20).map(peer).collect();
            lookups.found(at(u64::from(number)), &hash(number), &many, number % 2 == 0);
            lookups.nobody(at(u64::from(number)), &hash(number), many.into_iter());
        }
        assert_eq!((lookups.known.entries.len(), lookups.known.ends.len()), (3, 3));
        assert_eq!((lookups.unknown.entries.len(), lookups.unknown.ends.len()), (3, 3));
        assert_eq!(lookups.providers(at(100), &hash(99)).len(), MAX_PROVIDERS);
    }
}
