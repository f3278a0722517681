//! Asking another when a peer is silent for longer than it mostly is.
//!
//! The first answer counts and the other peer is told that the want is over; what both send costs at most
//! [`ClientConfig::hedge_percent`](crate::config::ClientConfig::hedge_percent) of what comes.

use diai_core::{Instant, PeerId};

use super::ClientMachine;
use crate::{bitswap::peer::Peer, store::Multihash};

/// Bytes of credit that may be saved up.
const MAX_CREDIT: i64 = 8 << 20;
/// Blocks asked of others while one peer is silent.
const MAX_IN_A_SILENCE: u32 = 8;
/// Blocks asked of two whose second copy may still come.
const MAX_REMEMBERED: usize = 1024;

/// What second requests cost, and won.
#[derive(Debug, Default)]
pub(super) struct Hedges {
    /// Bytes that may still come twice.
    credit: i64,
    /// Bytes reserved for what was asked of two.
    reserved: std::collections::BTreeMap<Multihash, i64>,
    pub(super) asked: u64,
    pub(super) won: u64,
}

impl Hedges {
    pub(super) fn received(&mut self, bytes: usize, percent: u32) {
        let gained = bytes as i64 * i64::from(percent) / 100;
        self.credit = self.credit.saturating_add(gained).min(MAX_CREDIT);
    }

    /// A block came again.
    pub(super) fn duplicate(&mut self, hash: &Multihash, bytes: usize) {
        if let Some(reserved) = self.reserved.remove(hash) {
            self.credit -= bytes as i64 - reserved;
        }
    }

    fn reserve(&mut self, hash: Multihash, bytes: i64) {
        self.credit -= bytes;
        self.asked += 1;
        if self.reserved.len() >= MAX_REMEMBERED {
            // It has been paid for.
            self.reserved.pop_first();
        }
        self.reserved.insert(hash, bytes);
    }
}

impl ClientMachine {
    /// When `peer` has been silent for too long.
    pub(super) fn hedge_at(&self, peer: &Peer) -> Option<Instant> {
        let may = peer.in_flight > 0 && peer.hedged < MAX_IN_A_SILENCE && self.hedges.credit >= peer.block_bytes as i64;
        let silence = peer.silences.get().filter(|_| may && self.config.hedge_percent > 0)?;
        Some(peer.alive + silence.max(self.config.hedge_after) * (peer.hedged + 1))
    }

    pub(super) fn hedge(&mut self, now: Instant) {
        let due = |peer: &Peer| self.hedge_at(peer).is_some_and(|at| at <= now);
        let due: Vec<_> = self.peers.iter().filter(|(_, peer)| due(peer)).map(|(id, _)| *id).collect();
        for id in due {
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            // Counted also if nobody else has it: the next look comes later.
            peer.hedged += 1;
            let bytes = peer.block_bytes as i64;
            // What it was asked for first is most wanted.
            let owed = peer.standing.iter().filter_map(|hash| self.open.get(hash).map(|open| (open, hash)));
            let owed = owed.filter(|(open, _)| open.asked == Some(id) && open.second.is_none());
            let Some(hash) = owed.max_by_key(|(open, _)| open.priority).map(|(_, hash)| *hash) else { continue };
            let Some(other) = self.other_holder(&hash, id) else { continue };
            self.hedges.reserve(hash, bytes);
            self.ask_second(now, hash, other);
        }
    }

    /// The least busy peer besides `id` that is known, or likely, to have `hash`.
    fn other_holder(&self, hash: &Multihash, id: PeerId) -> Option<PeerId> {
        let open = self.open.get(hash)?;
        let sessions = open.sessions.iter().filter_map(|id| self.sessions.get(id));
        let candidates = open.holders.iter().chain(sessions.flat_map(|session| session.holders.keys()));
        let candidates = candidates.filter(|other| **other != id && open.may_have(other)).filter_map(|other| {
            let peer = self.peers.get(other).filter(|peer| !peer.stalled && self.has_room(peer))?;
            Some((peer.in_flight * 1024 / peer.window, *other))
        });
        candidates.min().map(|(_, other)| other)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::bitswap::peer::Quantile;

    #[test]
    fn the_estimate_comes_to_rest_near_what_one_of_twenty_exceeds() {
        let mut quantile = Quantile::default();
        let mut state = 1u64;
        let (mut above, mut told) = (0, 0);
        for number in 0..40_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let sample = Duration::from_micros(1000 + (state >> 33) % 9000);
            if number > 2_000 {
                told += 1;
                above += u32::from(sample > quantile.get().unwrap());
            }
            quantile.add(sample);
        }
        let share = f64::from(above) / f64::from(told);
        assert!((0.03..0.08).contains(&share), "{share}");
        // Slow times are learned within some tens of samples.
        (0..40).for_each(|_| quantile.add(Duration::from_millis(100)));
        assert!(quantile.get().unwrap() > Duration::from_millis(95));
    }
}
