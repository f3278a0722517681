use std::{collections::BTreeMap, time::Duration};

use diai_core::{Footprint, Instant, PeerId};

/// Devices whose questions are counted; the one that asked longest ago is forgotten first.
const MAX_PEERS: usize = 1024;

/// One token bucket per device.
#[derive(Debug)]
pub(crate) struct Limiter {
    burst: u32,
    /// Time until a bucket gains one token.
    refill: Duration,
    /// When the bucket will be, or was, full.
    full_at: BTreeMap<PeerId, Instant>,
}

impl Limiter {
    pub(crate) fn new(burst: u32, per_second: u32) -> Self {
        Self { burst, refill: Duration::from_secs(1) / per_second.max(1), full_at: BTreeMap::new() }
    }

    /// Takes a token of `peer`; `false` if there is none.
    pub(crate) fn allow(&mut self, peer: PeerId, now: Instant) -> bool {
        let full_at = self.full_at.get(&peer).copied().unwrap_or(now).max(now);
        if full_at.since(now) > self.refill * self.burst.saturating_sub(1) {
            return false;
        }
        self.full_at.insert(peer, full_at + self.refill);
        if self.full_at.len() > MAX_PEERS {
            self.full_at.retain(|_, full_at| *full_at > now);
        }
        if self.full_at.len() > MAX_PEERS
            && let Some(fullest) = self.full_at.iter().min_by_key(|(_, full_at)| **full_at).map(|(peer, _)| *peer)
        {
            self.full_at.remove(&fullest);
        }
        true
    }
}

impl Footprint for Limiter {
    fn footprint_bytes(&self) -> usize {
        self.full_at.len() * size_of::<(PeerId, Instant)>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u32) -> PeerId {
        let mut bytes = vec![0, 4];
        bytes.extend(number.to_be_bytes());
        PeerId::from_bytes(&bytes).unwrap()
    }

    #[test]
    fn a_burst_is_allowed_and_then_only_the_rate() {
        let mut limiter = Limiter::new(3, 2);
        let start = Instant::from_nanos(0);
        let allowed = (0..10).filter(|_| limiter.allow(peer(1), start)).count();
        assert_eq!(allowed, 3);
        assert!(limiter.allow(peer(2), start), "another device has a bucket of its own");
        assert!(!limiter.allow(peer(1), start + Duration::from_millis(499)));
        assert!(limiter.allow(peer(1), start + Duration::from_millis(500)));
        assert!(!limiter.allow(peer(1), start + Duration::from_millis(500)));
        let later = start + Duration::from_secs(60);
        assert_eq!((0..10).filter(|_| limiter.allow(peer(1), later)).count(), 3);
    }

    #[test]
    fn the_number_of_buckets_is_bounded() {
        let mut limiter = Limiter::new(1, 1);
        for number in 0..5000 {
            assert!(limiter.allow(peer(number), Instant::from_nanos(u64::from(number))));
        }
        assert!(limiter.footprint_bytes() <= MAX_PEERS * size_of::<(PeerId, Instant)>());
    }
}
