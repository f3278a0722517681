//! What the client knows of one peer.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use diai_core::Instant;

use super::message::Want;
use crate::store::Multihash;

/// Cancels that may wait for a peer; beyond, they are left out, and what it sends all the same is a duplicate.
const MAX_OUTBOX: usize = 4096;

#[derive(Debug)]
pub(super) struct Peer {
    /// Want-blocks that it has not answered.
    pub(super) in_flight: usize,
    /// Want-blocks that it may be given at once; grows with each block that it delivers.
    pub(super) window: usize,
    /// Wants that it knows of and that we have not ended.
    pub(super) standing: BTreeSet<Multihash>,
    /// Those of them that it answered with DONT_HAVE: it sends the block should it come.
    pub(super) waiting: Recent,
    /// When it last sent anything, took what we sent, or was last given something to do.
    pub(super) alive: Instant,
    /// Silence that passes for a stall: longer after each, as before after a block.
    pub(super) stall: Duration,
    /// It stalled and has not been heard since.
    pub(super) stalled: bool,
    /// It stalled before the message on its way reached its stream.
    pub(super) untold: bool,
    /// When to ask again for what it did not answer in time.
    pub(super) ask_again: Option<Instant>,
    /// Blocks delivered.
    pub(super) delivered: u64,
    /// Moving average of the bytes of its blocks.
    pub(super) block_bytes: usize,
    /// Blocks that it sent unasked.
    pub(super) unasked: u32,
    /// A message of wants is on its way to it; the outbox waits for the next.
    pub(super) writing: bool,
    /// What is to be sent to it.
    pub(super) outbox: BTreeMap<Multihash, Want>,
    /// When the last message with a block of its came, or it was first asked for one since it owed none.
    pub(super) last_block: Instant,
    /// How long it lets us wait for the next message with blocks, while it owes some.
    pub(super) silences: Quantile,
    /// Blocks that were asked of others since it was last heard.
    pub(super) hedged: u32,
}

impl Peer {
    pub(super) fn new(now: Instant, window: usize, stall: Duration, max_waiting: usize) -> Self {
        Self {
            in_flight: 0,
            window,
            standing: BTreeSet::new(),
            waiting: Recent::new(max_waiting),
            alive: now,
            stall,
            stalled: false,
            untold: false,
            ask_again: None,
            delivered: 0,
            block_bytes: 256 << 10,
            unasked: 0,
            writing: false,
            outbox: BTreeMap::new(),
            last_block: now,
            silences: Quantile::default(),
            hedged: 0,
        }
    }

    /// Wants that it has yet to answer.
    pub(super) fn unanswered(&self) -> usize {
        self.standing.len() - self.waiting.len()
    }

    /// Has it told of a want.
    pub(super) fn tell(&mut self, want: Want) {
        let hash = *want.cid.hash();
        self.standing.insert(hash);
        self.waiting.remove(&hash);
        self.outbox.insert(hash, want);
    }

    /// Ends a want; `cancel`, if any, says so to the peer.
    pub(super) fn end(&mut self, hash: &Multihash, cancel: Option<Want>) {
        self.standing.remove(hash);
        self.waiting.remove(hash);
        match cancel {
            Some(cancel) if self.outbox.len() < MAX_OUTBOX => drop(self.outbox.insert(*hash, cancel)),
            _ => drop(self.outbox.remove(hash)),
        }
    }
}

/// What 95 of 100 durations of late were not longer than, roughly, in 12 bytes.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Quantile {
    nanos: u64,
    samples: u32,
}

/// Durations that must be known before the estimate means anything.
const MIN_SAMPLES: u32 = 16;

impl Quantile {
    /// It goes up by nineteen steps for what is longer and down by one for what is not, so that it comes to rest where one of
    /// twenty is longer.
    pub(super) fn add(&mut self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 64).min(u64::MAX / 64);
        self.samples = self.samples.saturating_add(1);
        if self.samples == 1 {
            self.nanos = nanos.saturating_mul(2);
            return;
        }
        let step = self.nanos / 100 + 1;
        self.nanos = if nanos > self.nanos { self.nanos + 19 * step } else { self.nanos - step.min(self.nanos) };
    }

    pub(super) fn get(&self) -> Option<Duration> {
        (self.samples >= MIN_SAMPLES).then(|| Duration::from_nanos(self.nanos))
    }
}

/// The hashes inserted last, up to a cap.
#[derive(Debug)]
pub(super) struct Recent {
    limit: usize,
    next: u64,
    hashes: BTreeMap<Multihash, u64>,
    order: VecDeque<(u64, Multihash)>,
}

impl Recent {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, next: 0, hashes: BTreeMap::new(), order: VecDeque::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.hashes.len()
    }

    pub(super) fn contains(&self, hash: &Multihash) -> bool {
        self.hashes.contains_key(hash)
    }

    /// Returns the oldest, if there are too many now.
    pub(super) fn insert(&mut self, hash: Multihash) -> Option<Multihash> {
        self.next += 1;
        self.hashes.insert(hash, self.next);
        self.order.push_back((self.next, hash));
        if self.order.len() > 2 * self.limit {
            self.order.retain(|(number, hash)| self.hashes.get(hash) == Some(number));
        }
        while self.hashes.len() > self.limit
            && let Some((number, oldest)) = self.order.pop_front()
        {
            if self.hashes.get(&oldest) == Some(&number) {
                self.hashes.remove(&oldest);
                return Some(oldest);
            }
        }
        None
    }

    pub(super) fn remove(&mut self, hash: &Multihash) {
        self.hashes.remove(hash);
    }
}
