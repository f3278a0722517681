//! How slow a peer may be.

use std::time::Duration;

/// A peer that we wait so long for, in all, for so little is left. What it waits for us counts against nobody.
pub(super) const LEAST_RATE: (usize, Duration) = (1 << 20, Duration::from_secs(10));

/// What came, or went, while we waited.
#[derive(Debug, Default)]
pub(super) struct Pace {
    waited: Duration,
    bytes: usize,
}

impl Pace {
    /// How long to wait still before the peer is too slow.
    pub(super) fn left(&self) -> Duration {
        LEAST_RATE.1.saturating_sub(self.waited)
    }

    pub(super) fn note(&mut self, waited: Duration, bytes: usize) {
        self.waited += waited;
        self.bytes += bytes;
        if self.bytes >= LEAST_RATE.0 {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_moves_enough_may_go_on_and_who_does_not_has_no_time_left() {
        let mut pace = Pace::default();
        for _ in 0..100 {
            pace.note(Duration::from_secs(9), LEAST_RATE.0);
        }
        assert_eq!(pace.left(), LEAST_RATE.1);
        for _ in 0..10 {
            pace.note(Duration::from_secs(1), LEAST_RATE.0 / 11);
        }
        assert_eq!(pace.left(), Duration::ZERO);
    }
}
