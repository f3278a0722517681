use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    ops::Bound,
    sync::Arc,
};

use diai_core::{Clock, Multiaddr, PeerId, WallTime};
use libp2p::kad::{KBucketDistance, KBucketKey, ProviderRecord};

use crate::config::DhtConfig;

/// kad sends at most 20 providers in an answer, and leaves out those without an address: so many are offered to it.
const OFFERED: usize = 40;
/// By how many providers the next answer to the same device starts later.
const PAGE: usize = 20;
/// Lookups under way whose next page is remembered; the oldest is forgotten first, and starts anew.
const MAX_CURSORS: usize = 256;
/// Addresses kept of a provider.
const MAX_ADDRS: usize = 4;
/// The longest address of a provider that is kept.
const MAX_ADDR_BYTES: usize = 128;

type ByDistance = BTreeSet<(KBucketDistance, Arc<[u8]>)>;

#[derive(Debug)]
struct Provider {
    expires: WallTime,
    addrs: Vec<Multiaddr>,
}

/// Where the next answer to a device starts, so that one after the other every provider is named.
struct Cursor {
    asker: PeerId,
    key: Vec<u8>,
    next: PeerId,
}

/// Who provides what. When it is full, whoever provides the most gives way to whoever provides less, with the key that is
/// farthest from this device: nobody can crowd out the others. What this device provides does not count.
pub(crate) struct Providers {
    local: PeerId,
    local_key: KBucketKey<PeerId>,
    clock: Arc<dyn Clock>,
    config: DhtConfig,
    keys: BTreeMap<Arc<[u8]>, BTreeMap<PeerId, Provider>>,
    /// What each of the others provides, the farthest last.
    by_peer: BTreeMap<PeerId, ByDistance>,
    /// The others by how much they provide.
    by_size: BTreeSet<(usize, PeerId)>,
    /// Entries of the others.
    entries: usize,
    provided: BTreeSet<Vec<u8>>,
    cursors: RefCell<VecDeque<Cursor>>,
}

impl Providers {
    pub(crate) fn new(local: PeerId, clock: Arc<dyn Clock>, config: DhtConfig) -> Self {
        Self {
            local,
            local_key: KBucketKey::from(local),
            clock,
            config,
            keys: BTreeMap::new(),
            by_peer: BTreeMap::new(),
            by_size: BTreeSet::new(),
            entries: 0,
            provided: BTreeSet::new(),
            cursors: RefCell::default(),
        }
    }

    /// Makes this device a provider of `key`; false if it provides too many already.
    pub(crate) fn provide(&mut self, key: &[u8]) -> bool {
        if !self.provided.contains(key) && self.provided.len() >= self.config.provided_keys {
            return false;
        }
        if self.provided.insert(key.to_vec()) {
            let own = Provider { expires: WallTime::from_unix_ms(u64::MAX), addrs: Vec::new() };
            self.keys.entry(key.into()).or_default().insert(self.local, own);
        }
        true
    }

    pub(crate) fn provides(&self, key: &[u8]) -> bool {
        self.provided.contains(key)
    }

    /// The keys that this device provides.
    pub(crate) fn provided(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.provided.iter()
    }

    /// All providers held for `key`.
    pub(crate) fn all(&self, key: &[u8]) -> Vec<PeerId> {
        let now = self.clock.wall();
        let Some(providers) = self.keys.get(key) else { return Vec::new() };
        providers.iter().filter(|(_, provider)| provider.expires > now).map(|(peer, _)| *peer).collect()
    }

    /// Takes in that a peer provides a key; one that is known is always held on.
    pub(crate) fn insert(&mut self, record: ProviderRecord) {
        let (key, peer) = (record.key.to_vec(), record.provider);
        if peer == self.local {
            return;
        }
        let fits = |addr: &Multiaddr| addr.len() <= MAX_ADDR_BYTES;
        let addrs = record.addresses.into_iter().filter(fits).take(MAX_ADDRS).collect();
        let provider = Provider { expires: self.clock.wall() + self.config.provider_ttl, addrs };
        if let Some(known) = self.keys.get_mut(key.as_slice()).and_then(|providers| providers.get_mut(&peer)) {
            *known = provider;
            return;
        }
        if self.entries >= self.config.provider_entries && !self.displace_for(&peer) {
            return;
        }
        self.add(&key, peer, provider);
        let Some(providers) = self.keys.get(key.as_slice()) else { return };
        if providers.len() > self.config.providers_per_key {
            // Whoever is alive announces itself again in time; whoever is gone does not.
            let others = providers.iter().filter(|(other, _)| **other != self.local);
            if let Some(oldest) = others.min_by_key(|(_, provider)| provider.expires).map(|(other, _)| *other) {
                self.remove(&key, &oldest);
            }
        }
    }

    /// Makes room for one more entry of `peer`, if somebody else has more than it would have then.
    fn displace_for(&mut self, peer: &PeerId) -> bool {
        let provides = self.by_peer.get(peer).map_or(0, BTreeSet::len);
        let Some(&(most, largest)) = self.by_size.last() else { return false };
        if most <= provides + 1 {
            return false;
        }
        let farthest = self.by_peer.get(&largest).and_then(|keys| keys.last()).map(|(_, key)| Arc::clone(key));
        if let Some(key) = farthest {
            self.remove(&key, &largest);
        }
        true
    }

    fn add(&mut self, key: &[u8], peer: PeerId, provider: Provider) {
        let key = self.keys.get_key_value(key).map_or_else(|| Arc::from(key), |(key, _)| Arc::clone(key));
        self.keys.entry(Arc::clone(&key)).or_default().insert(peer, provider);
        let distance = self.distance(&key);
        let keys = self.by_peer.entry(peer).or_default();
        self.by_size.remove(&(keys.len(), peer));
        keys.insert((distance, key));
        self.by_size.insert((keys.len(), peer));
        self.entries += 1;
    }

    /// Forgets that `peer` provides `key`.
    pub(crate) fn remove(&mut self, key: &[u8], peer: &PeerId) {
        let removed = self.keys.get_mut(key).is_some_and(|providers| providers.remove(peer).is_some());
        if self.keys.get(key).is_some_and(BTreeMap::is_empty) {
            self.keys.remove(key);
        }
        if *peer == self.local {
            self.provided.remove(key);
            return;
        }
        let distance = self.distance(key);
        if let Some(keys) = self.by_peer.get_mut(peer)
            && removed
        {
            self.by_size.remove(&(keys.len(), *peer));
            keys.remove(&(distance, Arc::from(key)));
            if keys.is_empty() {
                self.by_peer.remove(peer);
            } else {
                self.by_size.insert((keys.len(), *peer));
            }
            self.entries -= 1;
        }
    }

    /// Forgets what has expired.
    pub(crate) fn expire(&mut self) {
        let now = self.clock.wall();
        let expired = |(key, providers): (&Arc<[u8]>, &BTreeMap<PeerId, Provider>)| {
            let expired = providers.iter().filter(|(_, provider)| provider.expires <= now);
            expired.map(|(peer, _)| (Arc::clone(key), *peer)).collect::<Vec<_>>()
        };
        let expired: Vec<_> = self.keys.iter().flat_map(expired).collect();
        for (key, peer) in expired {
            self.remove(&key, &peer);
        }
    }

    /// The next page of the providers of `key` for `asker`. Devices that hold the same start at different places.
    pub(crate) fn page(&self, key: &[u8], asker: PeerId) -> Vec<(PeerId, Vec<Multiaddr>)> {
        let Some(providers) = self.keys.get(key) else { return Vec::new() };
        let now = self.clock.wall();
        let many = providers.len() > PAGE;
        let start = many.then(|| self.take_cursor(key, asker).or_else(|| self.start(providers, asker))).flatten();
        let from_start = providers.range((start.map_or(Bound::Unbounded, Bound::Included), Bound::Unbounded));
        // Once around: what stands before the start comes last.
        let before = start.into_iter().flat_map(|start| providers.range(..start));
        let around = from_start.chain(before).filter(|(_, provider)| provider.expires > now);
        let offered: Vec<_> = around.take(OFFERED).collect();
        if let Some((next, _)) = offered.get(PAGE)
            && many
        {
            let mut cursors = self.cursors.borrow_mut();
            if cursors.len() >= MAX_CURSORS {
                cursors.pop_front();
            }
            cursors.push_back(Cursor { asker, key: key.to_vec(), next: **next });
        }
        offered.into_iter().map(|(peer, provider)| (*peer, provider.addrs.clone())).collect()
    }

    fn take_cursor(&self, key: &[u8], asker: PeerId) -> Option<PeerId> {
        let mut cursors = self.cursors.borrow_mut();
        let index = cursors.iter().position(|cursor| cursor.asker == asker && cursor.key == key)?;
        cursors.remove(index).map(|cursor| cursor.next)
    }

    fn start(&self, providers: &BTreeMap<PeerId, Provider>, asker: PeerId) -> Option<PeerId> {
        let mut hasher = DefaultHasher::new();
        (self.local, asker).hash(&mut hasher);
        let index = hasher.finish() % u64::try_from(providers.len()).ok()?;
        providers.keys().nth(usize::try_from(index).ok()?).copied()
    }

    fn distance(&self, key: &[u8]) -> KBucketDistance {
        self.local_key.distance(&KBucketKey::new(key.to_vec()))
    }
}
