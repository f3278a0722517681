use std::collections::BTreeMap;

use diai_core::{Instant, PeerId};

/// So many writes a second are within what a device of ours sends to another; see [`super::announcer::PER_SECOND`].
const PER_SECOND: u64 = 512;
/// So many may come at once.
const BURST: u64 = 4096;
const NANOS: u64 = 1_000_000_000;

/// How fast each peer writes to the DHT: a bucket each, of which only those that are not full are kept. They fill within
/// seconds.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    /// What is left of each bucket, in parts of [`NANOS`], and when that was.
    buckets: BTreeMap<PeerId, (u64, Instant)>,
}

impl Rates {
    /// Whether `peer` may write now.
    pub(crate) fn take(&mut self, peer: PeerId, now: Instant) -> bool {
        let bucket = self.buckets.entry(peer).or_insert((BURST * NANOS, now));
        let left = filled(*bucket, now);
        let may = left >= NANOS;
        *bucket = (if may { left - NANOS } else { left }, now);
        may
    }

    /// Forgets the full buckets.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.buckets.retain(|_, bucket| filled(*bucket, now) < BURST * NANOS);
    }
}

fn filled((left, since): (u64, Instant), now: Instant) -> u64 {
    let elapsed = now.as_nanos().saturating_sub(since.as_nanos());
    elapsed.saturating_mul(PER_SECOND).saturating_add(left).min(BURST * NANOS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_a_flood_does_not_and_buckets_fill_and_are_forgotten() {
        let mut rates = Rates::default();
        let (quick, slow) = (PeerId::random(), PeerId::random());
        let start = Instant::from_nanos(0);
        assert_eq!((0..10_000).filter(|_| rates.take(quick, start)).count(), 4096);
        assert!(rates.take(slow, start), "each has its own");
        let later = Instant::from_nanos(NANOS);
        assert_eq!((0..10_000).filter(|_| rates.take(quick, later)).count(), 512);
        rates.expire(Instant::from_nanos(60 * NANOS));
        assert!(rates.buckets.is_empty());
    }
}
