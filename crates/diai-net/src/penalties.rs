use std::{collections::BTreeMap, time::Duration};

use diai_core::{Instant, Misbehaviour, PeerId};

const CUT_OFF_POINTS: u64 = 100;
const HALF_LIFE_NANOS: u64 = 60_000_000_000;
/// Points are kept in thousandths, so that halving loses nothing that counts.
const SCALE: u64 = 1000;

/// Who did how much wrong, and who is cut off until when. Both lists are capped: of those with points the one with
/// the fewest is forgotten first, of those cut off the one who would be let in first.
#[derive(Debug)]
pub(crate) struct Penalties {
    points: BTreeMap<PeerId, (u64, Instant)>,
    cut_off: BTreeMap<PeerId, Instant>,
    duration: Duration,
    cap: usize,
}

impl Penalties {
    pub(crate) fn new(duration: Duration, cap: usize) -> Self {
        Self { points: BTreeMap::new(), cut_off: BTreeMap::new(), duration, cap }
    }

    /// Adds what `peer` did; true if that cuts it off now.
    pub(crate) fn add(&mut self, peer: PeerId, misbehaviour: Misbehaviour, now: Instant) -> bool {
        if self.is_cut_off(&peer, now) {
            return false;
        }
        let before = self.points.get(&peer).map_or(0, |&(points, since)| halved(points, now, since));
        let points = before + u64::from(misbehaviour.points()) * SCALE;
        if points < CUT_OFF_POINTS * SCALE {
            self.points.insert(peer, (points, now));
            evict(&mut self.points, self.cap, |&(points, since)| halved(points, now, since));
            return false;
        }
        self.points.remove(&peer);
        self.cut_off.insert(peer, now + self.duration);
        evict(&mut self.cut_off, self.cap, |&until| until.as_nanos());
        true
    }

    pub(crate) fn is_cut_off(&self, peer: &PeerId, now: Instant) -> bool {
        self.cut_off.get(peer).is_some_and(|&until| now < until)
    }

    /// Forgets what has passed.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.cut_off.retain(|_, &mut until| now < until);
        self.points.retain(|_, &mut (points, since)| halved(points, now, since) >= SCALE);
    }
}

fn halved(points: u64, now: Instant, since: Instant) -> u64 {
    let elapsed = now.as_nanos().saturating_sub(since.as_nanos());
    let halvings = elapsed / HALF_LIFE_NANOS;
    if halvings >= 32 {
        return 0;
    }
    // Straight between two halvings: close enough to the curve, and free of floats.
    let whole = points >> halvings;
    whole - whole / 2 * (elapsed % HALF_LIFE_NANOS) / HALF_LIFE_NANOS
}

fn evict<T>(entries: &mut BTreeMap<PeerId, T>, cap: usize, rank: impl Fn(&T) -> u64) {
    if entries.len() > cap
        && let Some(peer) = entries.iter().min_by_key(|(_, entry)| rank(entry)).map(|(peer, _)| *peer)
    {
        entries.remove(&peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * SECOND)
    }

    #[test]
    fn a_forgery_cuts_off_at_once_and_for_as_long_as_configured() {
        let mut penalties = Penalties::new(Duration::from_secs(10), 4);
        let peer = PeerId::random();
        assert!(penalties.add(peer, Misbehaviour::Forged, at(0)));
        assert!(penalties.is_cut_off(&peer, at(9)));
        assert!(!penalties.is_cut_off(&peer, at(10)));
    }

    #[test]
    fn small_offences_add_up_but_halve_every_minute() {
        let mut penalties = Penalties::new(Duration::from_secs(10), 4);
        let (quick, slow) = (PeerId::random(), PeerId::random());
        assert!(!penalties.add(quick, Misbehaviour::Violation, at(0)));
        assert!(penalties.add(quick, Misbehaviour::Violation, at(0)));
        assert!(!penalties.add(slow, Misbehaviour::Violation, at(0)));
        assert!(!penalties.add(slow, Misbehaviour::Violation, at(60)));
        assert!(!penalties.add(slow, Misbehaviour::Flooding, at(60)));
        assert!(penalties.add(slow, Misbehaviour::Flooding, at(60)));
    }

    #[test]
    fn the_lists_stay_within_their_cap() {
        let mut penalties = Penalties::new(Duration::from_secs(10), 4);
        for _ in 0..100 {
            penalties.add(PeerId::random(), Misbehaviour::Silent, at(0));
            penalties.add(PeerId::random(), Misbehaviour::Forged, at(0));
        }
        assert_eq!((penalties.points.len(), penalties.cut_off.len()), (4, 4));
        penalties.expire(at(3600));
        assert_eq!((penalties.points.len(), penalties.cut_off.len()), (0, 0));
    }
}
