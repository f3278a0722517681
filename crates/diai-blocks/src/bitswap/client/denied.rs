//! What nobody had, so that the same peers are not asked again at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use diai_core::{Instant, PeerId};

use super::{ClientMachine, Open};
use crate::{config::ClientConfig, store::Multihash};

/// Peers remembered to have said no, of one CID; others are asked again.
const MAX_PEERS: usize = 64;

/// CIDs that all who were asked said no to, when the last who wanted one gave up.
#[derive(Debug, Default)]
pub(super) struct Denials {
    denied: BTreeMap<Multihash, Denial>,
    /// By when they are forgotten.
    ends: BTreeSet<(Instant, Multihash)>,
    /// Wants that were opened meanwhile, and when their peers are asked.
    lifts: BTreeSet<(Instant, Multihash)>,
    /// Wants that were not sent to somebody for that.
    pub(super) spared: u64,
}

#[derive(Debug)]
struct Denial {
    until: Instant,
    wait: Duration,
    end: Instant,
    peers: BTreeSet<PeerId>,
}

impl Denials {
    /// Remembers that `peers` have not got `hash`.
    pub(super) fn add(&mut self, now: Instant, hash: Multihash, peers: BTreeSet<PeerId>, config: &ClientConfig) {
        let (first, longest) = config.deny_wait;
        let before = self.remove(&hash).filter(|before| before.end > now);
        let (wait, until) = match before {
            // It was not asked again since.
            Some(before) if before.until > now => (before.wait, before.until),
            Some(before) => ((2 * before.wait).min(longest), now + (2 * before.wait).min(longest)),
            None => (first, now + first),
        };
        // Remembered for longer than it holds, so that the next wait is a longer one.
        let end = until + longest;
        self.denied.insert(hash, Denial { until, wait, end, peers });
        self.ends.insert((end, hash));
        while self.denied.len() > config.max_denied
            && let Some((_, first)) = self.ends.first().copied()
        {
            self.remove(&first);
        }
    }

    /// Who need not be asked for `hash` now.
    pub(super) fn open(&mut self, now: Instant, hash: &Multihash) -> BTreeSet<PeerId> {
        let Some(denial) = self.denied.get(hash).filter(|denial| denial.until > now) else { return BTreeSet::new() };
        self.lifts.insert((denial.until, *hash));
        self.spared += denial.peers.len() as u64;
        denial.peers.clone()
    }

    /// A want has ended; `found` if somebody had it.
    pub(super) fn close(&mut self, hash: &Multihash, found: bool) {
        if let Some(denial) = self.denied.get(hash) {
            self.lifts.remove(&(denial.until, *hash));
        }
        if found {
            self.remove(hash);
        }
    }

    /// Whatever `peer` said, it may be another when it comes back.
    pub(super) fn gone(&mut self, peer: &PeerId) {
        self.denied.values_mut().for_each(|denial| _ = denial.peers.remove(peer));
    }

    pub(super) fn next_lift(&self) -> Option<Instant> {
        self.lifts.first().map(|(at, _)| *at)
    }

    fn remove(&mut self, hash: &Multihash) -> Option<Denial> {
        let denial = self.denied.remove(hash)?;
        self.ends.remove(&(denial.end, *hash));
        Some(denial)
    }

    pub(super) fn footprint_bytes(&self) -> usize {
        let peers: usize = self.denied.values().map(|denial| denial.peers.len()).sum();
        self.denied.len() * 300 + peers * 48 + self.lifts.len() * 96
    }
}

impl ClientMachine {
    /// Asks those again who said no to what has waited for long enough.
    pub(super) fn lift(&mut self, now: Instant) {
        while let Some(&(at, hash)) = self.denials.lifts.first()
            && at <= now
        {
            self.denials.lifts.pop_first();
            let Some(open) = self.open.get_mut(&hash) else { continue };
            // Where the denial made room for another, all whom it spared are asked.
            let denial = self.denials.denied.get(&hash);
            let spared = |peer: &PeerId| denial.is_none_or(|denial| denial.peers.contains(peer));
            let Open { refused, standing, .. } = &mut *open;
            refused.retain(|peer| !spared(peer) || standing.contains(peer));
            open.exhausted = false;
            if open.asked.is_none() {
                self.queue_first(hash);
            }
        }
    }

    /// Remembers who had not got what `open` wanted in vain.
    pub(super) fn deny(&mut self, now: Instant, hash: &Multihash, open: &Open) {
        if !open.exhausted {
            return;
        }
        let said_no = open.refused.iter().filter(|peer| self.peers.contains_key(peer));
        let peers: BTreeSet<_> = said_no.take(MAX_PEERS).copied().collect();
        if !peers.is_empty() {
            self.denials.add(now, *hash, peers, &self.config);
        }
    }
}
