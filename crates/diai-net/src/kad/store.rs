use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use diai_core::{Clock, PeerId, RecordMeta, WallTime};
use libp2p::kad::{
    KBucketDistance, KBucketKey, ProviderRecord, Record, RecordKey as Key,
    store::{Error, RecordStore},
};

use super::{keeper::Change, providers::Providers};
use crate::config::DhtConfig;

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
    /// When a peer last brought it: that one has just handed it on to the others as well.
    heard: Option<WallTime>,
}

/// What this device holds for the DHT, all of it capped. Records enter only with the verdict of their validator; of two
/// the newer stays. When it is full, the records farthest from this device go; our own never.
pub(crate) struct Store {
    local: PeerId,
    local_key: KBucketKey<PeerId>,
    clock: Arc<dyn Clock>,
    config: DhtConfig,
    records: BTreeMap<Vec<u8>, Held>,
    /// The records of others, to find the farthest.
    by_distance: BTreeSet<(KBucketDistance, Vec<u8>)>,
    bytes: usize,
    pub(crate) providers: Providers,
    /// Whose request kad is looking at; this device's own if nobody's.
    pub(crate) asker: Option<PeerId>,
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
            providers: Providers::new(local, Arc::clone(&clock), config.clone()),
            asker: None,
            clock,
            config,
            records: BTreeMap::new(),
            by_distance: BTreeSet::new(),
            bytes: 0,
            changed: BTreeSet::new(),
        }
    }

    /// Takes in a record that its validator accepted.
    pub(crate) fn insert(&mut self, kept: Kept) -> Insert {
        let Kept { key, value, meta, own } = kept;
        let now = self.clock.wall();
        if meta.expires <= now || value.len() > self.config.value_bytes {
            return Insert::Unfit;
        }
        if let Some(held) = self.records.get_mut(&key) {
            if held.record.value == value {
                held.heard = if own { held.heard } else { Some(now) };
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
        self.hold(key, Held { record, meta, distance, own, heard: (!own).then_some(now) });
        Insert::Held
    }

    /// Takes in what the journal holds; what does not fit is to leave it.
    pub(crate) fn load(&mut self, records: Vec<Kept>) {
        for kept in records {
            let key = kept.key.clone();
            if self.insert(kept) == Insert::Held {
                self.changed.remove(&key);
            } else {
                self.changed.insert(key);
            }
        }
    }

    /// What changed under these keys could not be written.
    pub(crate) fn still_changed(&mut self, keys: Vec<Vec<u8>>) {
        // While the disk fails for long, what is not held any more is forgotten here; the next start removes it.
        let records = &self.records;
        let surplus = self.changed.len() + keys.len() > 2 * self.config.records;
        self.changed.extend(keys.into_iter().filter(|key| !surplus || records.contains_key(key)));
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
        let has_room = |records: usize, held: usize| {
            records < self.config.records && held.saturating_add(bytes) <= self.config.record_bytes
        };
        // Nothing goes unless enough may go.
        let (mut records, mut held, mut going) = (self.records.len(), self.bytes, Vec::new());
        let mut farthest = self.by_distance.iter().rev();
        while !has_room(records, held) {
            match farthest.next() {
                Some((far, key)) if own || *far > distance => {
                    records -= 1;
                    held -= key.len() + self.records.get(key).map_or(0, |held| held.record.value.len());
                    going.push(key.clone());
                }
                _ => return false,
            }
        }
        going.iter().for_each(|key| drop(self.remove_record(key)));
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
        self.providers.expire();
    }

    /// The keys of the records that still hold: our own, and those of others that nobody has brought within `quiet`.
    pub(crate) fn to_hand_on(&self, quiet: Duration) -> Vec<Vec<u8>> {
        let now = self.clock.wall();
        let due = |held: &Held| held.own || held.heard.is_none_or(|heard| heard + quiet <= now);
        let live = self.records.iter().filter(|(_, held)| held.meta.expires > now && due(held));
        live.map(|(key, _)| key.clone()).collect()
    }

    /// The keys of the records that this device published and that still hold.
    pub(crate) fn own_records(&self) -> Vec<Vec<u8>> {
        let now = self.clock.wall();
        let own = self.records.iter().filter(|(_, held)| held.own && held.meta.expires > now);
        own.map(|(key, _)| key.clone()).collect()
    }

    /// The record under `key`, if it still holds.
    pub(crate) fn live(&self, key: &[u8]) -> Option<&Record> {
        let held = self.records.get(key)?;
        (held.meta.expires > self.clock.wall()).then_some(&held.record)
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
        self.live(&key.to_vec()).map(Cow::Borrowed)
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
            let room = self.providers.provide(&record.key.to_vec());
            return if room { Ok(()) } else { Err(Error::MaxProvidedKeys) };
        }
        self.providers.insert(record);
        Ok(())
    }

    fn providers(&self, key: &Key) -> Vec<ProviderRecord> {
        let page = self.providers.page(&key.to_vec(), self.asker.unwrap_or(self.local));
        page.into_iter().map(|(peer, addrs)| ProviderRecord::new(key.clone(), peer, addrs)).collect()
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        let own = |key: &Vec<u8>| Cow::Owned(ProviderRecord::new(key.clone(), self.local, Vec::new()));
        self.providers.provided().map(own).collect::<Vec<_>>().into_iter()
    }

    fn remove_provider(&mut self, key: &Key, peer: &PeerId) {
        self.providers.remove(&key.to_vec(), peer);
    }
}
