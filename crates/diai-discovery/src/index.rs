use std::collections::{BTreeMap, BTreeSet};

use diai_core::{AgentId, Footprint, Instant, PeerId, WallTime};

use crate::{CapabilityPath, SignedRecord};

/// What this device knows of others: verified records by device, agent, expiry, and capability path. Bounded; a lookup
/// costs what it finds.
#[derive(Debug)]
pub(crate) struct Index {
    max_records: usize,
    max_records_per_agent: usize,
    entries: BTreeMap<PeerId, Entry>,
    by_agent: BTreeMap<AgentId, BTreeSet<PeerId>>,
    by_expiry: BTreeSet<(WallTime, PeerId)>,
    by_path: BTreeSet<(CapabilityPath, PeerId)>,
    /// Devices whose entry differs from what is on disk.
    dirty: BTreeSet<PeerId>,
    record_bytes: usize,
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) record: SignedRecord,
    /// When the device or the DHT last told that this is its newest; `None` after a restart.
    pub(crate) confirmed: Option<Instant>,
}

/// What became of a record offered to the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inserted {
    /// The device was unknown.
    New,
    /// It replaced an older one.
    Newer,
    /// It was known.
    Same,
    /// A newer one is known.
    Older,
    /// No room, and nothing that expires sooner.
    Full,
}

impl Index {
    pub(crate) fn new(max_records: usize, max_records_per_agent: usize) -> Self {
        Self {
            max_records,
            max_records_per_agent,
            entries: BTreeMap::new(),
            by_agent: BTreeMap::new(),
            by_expiry: BTreeSet::new(),
            by_path: BTreeSet::new(),
            dirty: BTreeSet::new(),
            record_bytes: 0,
        }
    }

    /// Keeps `record` if it is the newest of its device, and room can be made by dropping one that expires sooner.
    pub(crate) fn insert(&mut self, record: SignedRecord, confirmed: Option<Instant>) -> Inserted {
        let peer = record.record().peer;
        let mut inserted = Inserted::New;
        if let Some(entry) = self.entries.get_mut(&peer) {
            let (have, new) = (entry.record.record().seq, record.record().seq);
            if new < have {
                return Inserted::Older;
            }
            if new == have {
                entry.confirmed = entry.confirmed.max(confirmed);
                return Inserted::Same;
            }
            inserted = Inserted::Newer;
            self.remove(peer);
        }
        let agent = record.record().agent;
        let of_agent = self.by_agent.get(&agent);
        let victim = if of_agent.is_some_and(|devices| devices.len() >= self.max_records_per_agent) {
            of_agent.into_iter().flatten().map(|&device| (self.entries[&device].record.expires(), device)).min()
        } else if self.entries.len() >= self.max_records {
            self.by_expiry.first().copied()
        } else {
            None
        };
        if let Some((expires, device)) = victim {
            if expires > record.expires() {
                return Inserted::Full;
            }
            self.remove(device);
        }
        self.add(record, confirmed);
        inserted
    }

    fn add(&mut self, record: SignedRecord, confirmed: Option<Instant>) {
        let (peer, agent) = (record.record().peer, record.record().agent);
        self.by_agent.entry(agent).or_default().insert(peer);
        self.by_expiry.insert((record.expires(), peer));
        for path in &record.record().capabilities {
            self.by_path.insert((path.clone(), peer));
        }
        self.record_bytes += weight(&record);
        self.dirty.insert(peer);
        self.entries.insert(peer, Entry { record, confirmed });
    }

    fn remove(&mut self, peer: PeerId) -> Option<SignedRecord> {
        let Entry { record, .. } = self.entries.remove(&peer)?;
        let agent = record.record().agent;
        if let Some(devices) = self.by_agent.get_mut(&agent) {
            devices.remove(&peer);
            if devices.is_empty() {
                self.by_agent.remove(&agent);
            }
        }
        self.by_expiry.remove(&(record.expires(), peer));
        for path in &record.record().capabilities {
            self.by_path.remove(&(path.clone(), peer));
        }
        self.record_bytes -= weight(&record);
        self.dirty.insert(peer);
        Some(record)
    }

    /// Drops what has expired by `now`.
    pub(crate) fn evict(&mut self, now: WallTime) -> Vec<SignedRecord> {
        let mut expired = Vec::new();
        while let Some(&(expires, peer)) = self.by_expiry.first()
            && expires <= now
        {
            expired.extend(self.remove(peer));
        }
        expired
    }

    pub(crate) fn get(&self, peer: PeerId) -> Option<&Entry> {
        self.entries.get(&peer)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// All that is known, by device.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// The devices of `agent`.
    pub(crate) fn of_agent(&self, agent: AgentId) -> impl Iterator<Item = &Entry> {
        self.by_agent.get(&agent).into_iter().flatten().map(|peer| &self.entries[peer])
    }

    /// The devices that offer `path` or anything below it, each once.
    pub(crate) fn within<'a>(&'a self, path: &'a CapabilityPath) -> impl Iterator<Item = &'a Entry> {
        // What lies below a path sorts after it, but not next to it: `a`, `a-b`, `a/b`. All begin with its text.
        let peers: BTreeSet<_> = self
            .by_path
            .range((path.clone(), lowest())..)
            .take_while(|(candidate, _)| candidate.as_str().starts_with(path.as_str()))
            .filter(|(candidate, _)| candidate.is_within(path))
            .map(|&(_, peer)| peer)
            .collect();
        peers.into_iter().map(|peer| &self.entries[&peer])
    }

    /// Whether anything is to be written to disk.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// What is to be written to disk: the record of a device, or that it is gone.
    pub(crate) fn take_dirty(&mut self) -> Vec<(PeerId, Option<SignedRecord>)> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty.into_iter().map(|peer| (peer, self.entries.get(&peer).map(|entry| entry.record.clone()))).collect()
    }

    /// What was taken could not be written.
    pub(crate) fn put_back(&mut self, peers: impl IntoIterator<Item = PeerId>) {
        self.dirty.extend(peers);
    }
}

/// Sorts before every other device.
fn lowest() -> PeerId {
    PeerId::from_bytes(&[0, 0]).expect("the empty identity multihash is a PeerId")
}

/// A record in memory: its bytes, decoded once more, and its places in the index.
fn weight(record: &SignedRecord) -> usize {
    const PLACES_BYTES: usize = 512;
    const PATH_BYTES: usize = 128;
    2 * record.to_bytes().len() + PLACES_BYTES + record.record().capabilities.len() * PATH_BYTES
}

impl Footprint for Index {
    fn footprint_bytes(&self) -> usize {
        self.record_bytes + self.dirty.len() * size_of::<PeerId>()
    }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
