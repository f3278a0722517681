//! What the client knows of one peer.

use std::collections::{BTreeSet, VecDeque};

use diai_core::Instant;

use super::message::Want;
use crate::store::Multihash;

/// Late duplicates of blocks asked for this recently are not held against a peer.
const REMEMBERED: usize = 4096;

#[derive(Debug)]
pub(super) struct Peer {
    /// Want-blocks that it has not answered.
    pub(super) in_flight: usize,
    /// Want-blocks that it may be given at once; grows with each block that it delivers.
    pub(super) window: usize,
    /// Wants that it knows of and that we have not ended.
    pub(super) standing: BTreeSet<Multihash>,
    /// When it last sent anything, or was last given something to do.
    pub(super) alive: Instant,
    /// Blocks delivered.
    pub(super) delivered: u64,
    /// Moving average of the bytes of its blocks.
    pub(super) block_bytes: usize,
    /// DONT_HAVEs in a row.
    pub(super) refusals: u32,
    /// Blocks that it sent unasked.
    pub(super) unasked: u32,
    /// What is to be sent to it.
    pub(super) outbox: Vec<Want>,
    recent: BTreeSet<Multihash>,
    recent_order: VecDeque<Multihash>,
}

impl Peer {
    pub(super) fn new(now: Instant, window: usize) -> Self {
        Self {
            in_flight: 0,
            window,
            standing: BTreeSet::new(),
            alive: now,
            delivered: 0,
            block_bytes: 256 << 10,
            refusals: 0,
            unasked: 0,
            outbox: Vec::new(),
            recent: BTreeSet::new(),
            recent_order: VecDeque::new(),
        }
    }

    /// Remembers that `hash` was asked of this peer.
    pub(super) fn remember(&mut self, hash: Multihash) {
        if !self.recent.insert(hash) {
            return;
        }
        self.recent_order.push_back(hash);
        if self.recent_order.len() > REMEMBERED
            && let Some(oldest) = self.recent_order.pop_front()
        {
            self.recent.remove(&oldest);
        }
    }

    pub(super) fn was_asked(&self, hash: &Multihash) -> bool {
        self.standing.contains(hash) || self.recent.contains(hash)
    }
}
