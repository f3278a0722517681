use std::sync::atomic::{AtomicU64, Ordering};

use diai_core::{AgentId, PeerId};

use crate::SignedRecord;

/// What happens in discovery without being asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiscoveryEvent {
    /// A device became known, or published a newer record.
    Found(SignedRecord),
    /// The record of a device expired; it is no longer answered with.
    Expired {
        /// Its agent.
        agent: AgentId,
        /// The device.
        peer: PeerId,
    },
    /// This device signed a new record of its own.
    Announced {
        /// The record's seq.
        seq: u64,
    },
    /// Something of this device could not be placed in the DHT; it is tried again.
    NotPlaced {
        /// What: "the record", "the agent" or a capability path.
        what: String,
        /// Why not.
        reason: String,
    },
    /// This subscriber was too slow: so many events are lost to it.
    Missed(u64),
}

/// What discovery has seen since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Records in the local index now.
    pub known: usize,
    /// What the local index holds in memory now, in bytes, approximately.
    pub index_bytes: usize,
    /// Records that did not verify, whoever gave them.
    pub forged: u64,
    /// Records that did not hold (yet, or any more) when they came.
    pub expired: u64,
    /// Providers whose record does not offer what they are providers of.
    pub unfounded: u64,
    /// Providers whose record could not be had.
    pub unanswered: u64,
    /// Questions that were refused because their device asks too often.
    pub refused: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) forged: Counter,
    pub(crate) expired: Counter,
    pub(crate) unfounded: Counter,
    pub(crate) unanswered: Counter,
    pub(crate) refused: Counter,
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
