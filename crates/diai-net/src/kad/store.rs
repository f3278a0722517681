use std::{
    borrow::Cow,
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use diai_core::{Clock, Multiaddr, PeerId, RecordMeta, WallTime};
use libp2p::kad::{
    KBucketDistance, KBucketKey, ProviderRecord, Record, RecordKey as Key,
    store::{Error, RecordStore},
};

use super::keeper::Change;
use crate::config::DhtConfig;

/// kad sends at most 20 providers in an answer, and leaves out those without an address: so many are offered to it.
const OFFERED: usize = 40;
/// By how many providers the next answer starts later.
const PAGE: usize = 20;
/// Addresses kept of a provider.
const MAX_PROVIDER_ADDRS: usize = 4;
/// The longest address of a provider that is kept.
const MAX_PROVIDER_ADDR_BYTES: usize = 128;

/// What became of a valid record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Insert {
    /// It is held now.
    Held,
    /// The very same is held already.
    Same,
    /// A newer one is held, with this number.
    Older(u64),
    /// There is no room.
    Full,
    /// It has expired, or it is too long.
    Unfit,
}

#[derive(Debug)]
struct Held {
    record: Record,
    meta: RecordMeta,
    distance: KBucketDistance,
    own: bool,
}

#[derive(Debug, Default)]
struct Providers {
    entries: BTreeMap<PeerId, Provider>,
    /// Where the next answer starts, so that one after the other everybody is named.
    next: Cell<Option<PeerId>>,
}

#[derive(Debug)]
struct Provider {
    expires: WallTime,
    addrs: Vec<Multiaddr>,
}

/// What this device holds for the DHT, all of it capped. Records enter only with the verdict of their validator; of two
/// the newer stays. When it is full, what has expired goes first, then the records farthest from this device; our own
/// never.
pub(crate) struct Store {
    local: PeerId,
    local_key: KBucketKey<PeerId>,
    clock: Arc<dyn Clock>,
    config: DhtConfig,
    records: BTreeMap<Vec<u8>, Held>,
    /// The records of others, to find the farthest.
    by_distance: BTreeSet<(KBucketDistance, Vec<u8>)>,
    bytes: usize,
    providers: BTreeMap<Vec<u8>, Providers>,
    entries: usize,
    provided: BTreeSet<Vec<u8>>,
    /// What the journal has not seen yet: what is held now under each of these keys.
    changed: BTreeSet<Vec<u8>>,
}

/// A record as the journal keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) meta: RecordMeta,
    pub(crate) own: bool,
}

impl Store {
    pub(crate) fn new(local: PeerId, clock: Arc<dyn Clock>, config: DhtConfig) -> Self {
        Self {
            local,
            local_key: KBucketKey::from(local),
            clock,
            config,
            records: BTreeMap::new(),
            by_distance: BTreeSet::new(),
            bytes: 0,
            providers: BTreeMap::new(),
            entries: 0,
            provided: BTreeSet::new(),
            changed: BTreeSet::new(),
        }
    }

    /// Takes in a record that its validator accepted.
    pub(crate) fn insert(&mut self, kept: Kept) -> Insert {
        let Kept { key, value, meta, own } = kept;
        if meta.expires <= self.clock.wall() || value.len() > self.config.value_bytes {
            return Insert::Unfit;
        }
        if let Some(held) = self.records.get_mut(&key) {
            if held.record.value == value {
                if own && !held.own {
                    held.own = true;
                    self.by_distance.remove(&(held.distance, key.clone()));
                    self.changed.insert(key);
                }
                return Insert::Same;
            }
            // Two of one number: the greater bytes, so that all devices choose the same.
            if (held.meta.seq, &held.record.value) > (meta.seq, &value) {
                return Insert::Older(held.meta.seq);
            }
        }
        let distance = self.local_key.distance(&KBucketKey::new(key.clone()));
        let replaced = self.remove_record(&key);
        if !self.make_room(key.len() + value.len(), distance, own) {
            if let Some(held) = replaced {
                self.hold(key, held);
            }
            return Insert::Full;
        }
        let mut record = Record::new(key.clone(), value);
        record.publisher = own.then_some(self.local);
        self.hold(key, Held { record, meta, distance, own });
        Insert::Held
    }

    /// Takes in what the journal holds.
    pub(crate) fn load(&mut self, records: Vec<Kept>) {
        for kept in records {
            let key = kept.key.clone();
            if self.insert(kept) == Insert::Held {
                self.changed.remove(&key);
            }
        }
    }

    fn hold(&mut self, key: Vec<u8>, held: Held) {
        self.bytes += key.len() + held.record.value.len();
        if !held.own {
            self.by_distance.insert((held.distance, key.clone()));
        }
        self.changed.insert(key.clone());
        self.records.insert(key, held);
    }

    fn remove_record(&mut self, key: &[u8]) -> Option<Held> {
        let held = self.records.remove(key)?;
        self.bytes -= key.len() + held.record.value.len();
        self.by_distance.remove(&(held.distance, key.to_vec()));
        self.changed.insert(key.to_vec());
        Some(held)
    }

    fn make_room(&mut self, bytes: usize, distance: KBucketDistance, own: bool) -> bool {
        let has_room = |store: &Self| {
            store.records.len() < store.config.records && store.bytes + bytes <= store.config.record_bytes
        };
        if !has_room(self) {
            self.expire();
        }
        while !has_room(self) {
            match self.by_distance.last().cloned() {
                Some((farthest, key)) if own || farthest > distance => {
                    self.remove_record(&key);
                }
                _ => return false,
            }
        }
        true
    }

    /// Forgets what has expired.
    pub(crate) fn expire(&mut self) {
        let now = self.clock.wall();
        let expired = self.records.iter().filter(|(_, held)| held.meta.expires <= now);
        let keys: Vec<_> = expired.map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.remove_record(&key);
        }
        let local = self.local;
        let mut entries = 0;
        self.providers.retain(|_, providers| {
            providers.entries.retain(|peer, provider| *peer == local || provider.expires > now);
            entries += providers.entries.len();
            !providers.entries.is_empty()
        });
        self.entries = entries;
    }

    /// Makes this device a provider of `key`; false if it provides too many already.
    pub(crate) fn provide(&mut self, key: &[u8]) -> bool {
        if !self.provided.contains(key) && self.provided.len() >= self.config.provided_keys {
            return false;
        }
        if self.provided.insert(key.to_vec()) {
            let own = Provider { expires: WallTime::from_unix_ms(u64::MAX), addrs: Vec::new() };
            let providers = self.providers.entry(key.to_vec()).or_default();
            self.entries += usize::from(providers.entries.insert(self.local, own).is_none());
        }
        true
    }

    pub(crate) fn provides(&self, key: &[u8]) -> bool {
        self.provided.contains(key)
    }

    /// The keys that this device provides.
    pub(crate) fn provided_keys(&self) -> Vec<Vec<u8>> {
        self.provided.iter().cloned().collect()
    }

    /// The records that this device published and that still hold.
    pub(crate) fn own_records(&self) -> Vec<Record> {
        let now = self.clock.wall();
        let own = self.records.values().filter(|held| held.own && held.meta.expires > now);
        own.map(|held| held.record.clone()).collect()
    }

    /// All providers held for `key`.
    pub(crate) fn all_providers(&self, key: &[u8]) -> Vec<PeerId> {
        let now = self.clock.wall();
        let Some(providers) = self.providers.get(key) else { return Vec::new() };
        providers.entries.iter().filter(|(_, provider)| provider.expires > now).map(|(peer, _)| *peer).collect()
    }

    /// Takes in that a peer provides a key; what is too much is left out.
    pub(crate) fn insert_provider(&mut self, record: ProviderRecord) {
        let key = record.key.to_vec();
        if record.provider == self.local {
            return;
        }
        let known = self.providers.contains_key(&key);
        if self.entries >= self.config.provider_entries || (!known && self.foreign_keys() >= self.config.provider_keys)
        {
            self.expire();
            let full = self.entries >= self.config.provider_entries;
            if full || (!known && self.foreign_keys() >= self.config.provider_keys) {
                return;
            }
        }
        let fits = |addr: &Multiaddr| addr.len() <= MAX_PROVIDER_ADDR_BYTES;
        let addrs = record.addresses.into_iter().filter(fits).take(MAX_PROVIDER_ADDRS).collect();
        let provider = Provider { expires: self.clock.wall() + self.config.provider_ttl, addrs };
        let providers = self.providers.entry(key).or_default();
        self.entries += usize::from(providers.entries.insert(record.provider, provider).is_none());
        if providers.entries.len() > self.config.providers_per_key {
            // Whoever is alive announces itself again in time; whoever is gone does not.
            let others = providers.entries.iter().filter(|(peer, _)| **peer != self.local);
            if let Some(oldest) = others.min_by_key(|(_, provider)| provider.expires).map(|(peer, _)| *peer) {
                providers.entries.remove(&oldest);
                self.entries -= 1;
            }
        }
    }

    fn foreign_keys(&self) -> usize {
        self.providers.len().saturating_sub(self.provided.len())
    }

    fn drop_provider(&mut self, key: &[u8], peer: &PeerId) {
        if let Some(providers) = self.providers.get_mut(key) {
            self.entries -= usize::from(providers.entries.remove(peer).is_some());
            if providers.entries.is_empty() {
                self.providers.remove(key);
            }
        }
        if *peer == self.local {
            self.provided.remove(key);
        }
    }

    /// What changed since this was last asked: what is held now under each key, or that nothing is.
    pub(crate) fn take_changed(&mut self) -> Vec<Change> {
        let changed = std::mem::take(&mut self.changed);
        let now = |key: Vec<u8>| {
            let kept = self.records.get(&key).map(|held| Kept {
                key: key.clone(),
                value: held.record.value.clone(),
                meta: held.meta,
                own: held.own,
            });
            (key, kept)
        };
        changed.into_iter().map(now).collect()
    }
}

impl RecordStore for Store {
    type RecordsIter<'a> = std::vec::IntoIter<Cow<'a, Record>>;
    type ProvidedIter<'a> = std::vec::IntoIter<Cow<'a, ProviderRecord>>;

    fn get(&self, key: &Key) -> Option<Cow<'_, Record>> {
        let held = self.records.get(&key.to_vec())?;
        (held.meta.expires > self.clock.wall()).then_some(Cow::Borrowed(&held.record))
    }

    /// kad calls this for what this device publishes; it has been inserted before, with its validator's verdict.
    fn put(&mut self, record: Record) -> Result<(), Error> {
        match self.records.get(&record.key.to_vec()) {
            Some(held) if held.record.value == record.value => Ok(()),
            _ => Err(Error::MaxRecords),
        }
    }

    fn remove(&mut self, key: &Key) {
        self.remove_record(&key.to_vec());
    }

    fn records(&self) -> Self::RecordsIter<'_> {
        let now = self.clock.wall();
        let live = self.records.values().filter(|held| held.meta.expires > now);
        live.map(|held| Cow::Borrowed(&held.record)).collect::<Vec<_>>().into_iter()
    }

    /// kad calls this for what this device provides; the driver made sure that there is room.
    fn add_provider(&mut self, record: ProviderRecord) -> Result<(), Error> {
        if record.provider == self.local {
            return if self.provide(&record.key.to_vec()) { Ok(()) } else { Err(Error::MaxProvidedKeys) };
        }
        self.insert_provider(record);
        Ok(())
    }

    fn providers(&self, key: &Key) -> Vec<ProviderRecord> {
        let Some(providers) = self.providers.get(&key.to_vec()) else { return Vec::new() };
        let now = self.clock.wall();
        let start = providers.next.get().map_or(Bound::Unbounded, Bound::Included);
        let from_start = providers.entries.range((start, Bound::Unbounded));
        // Once around: what stands before the start comes last.
        let before = providers.next.get().into_iter().flat_map(|next| providers.entries.range(..next));
        let around = from_start.chain(before).filter(|(_, provider)| provider.expires > now);
        let offered: Vec<_> = around.take(OFFERED).collect();
        providers.next.set(offered.get(PAGE).map(|(peer, _)| **peer));
        let record =
            |(peer, provider): (&PeerId, &Provider)| ProviderRecord::new(key.clone(), *peer, provider.addrs.clone());
        offered.into_iter().map(record).collect()
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        let own = |key: &Vec<u8>| Cow::Owned(ProviderRecord::new(key.clone(), self.local, Vec::new()));
        self.provided.iter().map(own).collect::<Vec<_>>().into_iter()
    }

    fn remove_provider(&mut self, key: &Key, peer: &PeerId) {
        self.drop_provider(&key.to_vec(), peer);
    }
}
