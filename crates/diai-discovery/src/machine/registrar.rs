use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    time::Duration,
};

use diai_core::Instant;

use crate::{CapabilityPath, NotPlaced};

/// A network this small is placed in again whenever it grows: a record belongs on so many devices.
const REPLICATION: usize = 20;
/// After the network has doubled: long enough for a burst of new connections, and for their DHTs to meet.
const DOUBLED_DELAY: Duration = Duration::from_millis(200);
/// After it has grown by less.
const GROWN_DELAY: Duration = Duration::from_secs(10);

/// Something that stands in the DHT.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Item {
    /// The device's record under its key.
    Record,
    /// The device as a provider of its agent.
    Agent,
    /// The device as a provider of a capability, or of an ancestor of one.
    Capability(CapabilityPath),
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record => f.write_str("the record"),
            Self::Agent => f.write_str("the agent"),
            Self::Capability(path) => write!(f, "{path}"),
        }
    }
}

#[derive(Debug)]
pub(crate) enum Input {
    /// The agent offers these, and nothing else, from now on.
    Describe(Vec<CapabilityPath>),
    /// What the record says has changed otherwise: its addresses.
    Renew,
    /// So many certified devices are connected.
    Peers(usize),
    /// What [`Output::Place`] asked for is done, or failed for the reason given.
    Done(Item, Result<(), String>),
    /// Time has passed.
    Tick,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Make a new record, before anything is placed.
    Sign,
    /// Place this in the DHT, and say when it is done.
    Place(Item),
    /// Stop providing this.
    Stop(Item),
    /// Everything of the rounds up to this one was tried; these failed and are tried again.
    Settled { round: u64, failed: Vec<NotPlaced> },
}

#[derive(Debug, Clone)]
pub(crate) struct Intervals {
    pub(crate) refresh: Duration,
    pub(crate) min_backoff: Duration,
    pub(crate) max_backoff: Duration,
    pub(crate) max_placements: usize,
}

#[derive(Debug, Default)]
struct Slot {
    phase: Phase,
    /// Failures in a row.
    failures: u32,
    /// Must be placed again when it comes back from being placed.
    again: bool,
    /// Was tried since it was last described.
    tried: bool,
    error: String,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    #[default]
    Waiting,
    InFlight,
    Placed,
    Failed {
        retry_at: Instant,
    },
}

/// What this device has in the DHT and what it should have: places, retries with backoff, refreshes, and follows the
/// growth of the network. Holds at most 1 + 1 + 32 x 8 items.
#[derive(Debug)]
pub(crate) struct Registrar {
    intervals: Intervals,
    slots: BTreeMap<Item, Slot>,
    in_flight: usize,
    sign: bool,
    stops: BTreeSet<Item>,
    settled: VecDeque<Output>,
    round: u64,
    settled_round: u64,
    refresh_at: Instant,
    /// Certified devices connected now, and when all was last placed.
    peers: usize,
    placed_with: usize,
    replace_at: Option<Instant>,
    jitter: u64,
}

impl Registrar {
    /// Nothing is placed before the first [`Input::Describe`]. `jitter` is any number, different on each device.
    pub(crate) fn new(intervals: Intervals, jitter: u64) -> Self {
        Self {
            intervals,
            slots: BTreeMap::new(),
            in_flight: 0,
            sign: false,
            stops: BTreeSet::new(),
            settled: VecDeque::new(),
            round: 0,
            settled_round: 0,
            refresh_at: Instant::NEVER,
            peers: 0,
            placed_with: 0,
            replace_at: None,
            jitter,
        }
    }

    /// The round that the latest [`Input::Describe`] opened.
    pub(crate) fn round(&self) -> u64 {
        self.round
    }

    pub(crate) fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Describe(paths) => self.describe(now, &paths),
            Input::Renew => self.renew(now),
            Input::Peers(count) => self.grown(now, count),
            Input::Done(item, result) => self.done(now, item, result),
            Input::Tick => {}
        }
        self.tick(now);
        self.settle();
    }

    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        if std::mem::take(&mut self.sign) {
            return Some(Output::Sign);
        }
        if let Some(item) = self.stops.pop_first() {
            return Some(Output::Stop(item));
        }
        if self.in_flight < self.intervals.max_placements
            && let Some((item, slot)) = self.slots.iter_mut().find(|(_, slot)| slot.phase == Phase::Waiting)
        {
            slot.phase = Phase::InFlight;
            self.in_flight += 1;
            return Some(Output::Place(item.clone()));
        }
        self.settled.pop_front()
    }

    pub(crate) fn poll_timeout(&self) -> Instant {
        let retries = self.slots.values().filter_map(|slot| match slot.phase {
            Phase::Failed { retry_at } => Some(retry_at),
            _ => None,
        });
        retries.chain(self.replace_at).chain([self.refresh_at]).min().unwrap_or(Instant::NEVER)
    }

    fn describe(&mut self, now: Instant, paths: &[CapabilityPath]) {
        self.round += 1;
        let capabilities = paths.iter().flat_map(|path| path.ancestors().chain([path.clone()]));
        let wanted: BTreeSet<_> =
            [Item::Record, Item::Agent].into_iter().chain(capabilities.map(Item::Capability)).collect();
        let gone: Vec<_> = self.slots.keys().filter(|item| !wanted.contains(*item)).cloned().collect();
        for item in gone {
            // What is in flight is stopped when it is done.
            if self.slots.remove(&item).is_some_and(|slot| slot.phase != Phase::InFlight) {
                self.stops.insert(item);
            }
        }
        for item in wanted {
            self.stops.remove(&item);
            let slot = self.slots.entry(item).or_default();
            slot.tried = slot.phase == Phase::Placed;
            if let Phase::Failed { .. } = slot.phase {
                slot.phase = Phase::Waiting;
            }
        }
        self.renew(now);
    }

    /// A new record is to be made and placed.
    fn renew(&mut self, now: Instant) {
        let Some(slot) = self.slots.get_mut(&Item::Record) else { return };
        self.sign = true;
        slot.again();
        // The new record lasts as long as any.
        self.refresh_at = now + self.jittered(self.intervals.refresh);
    }

    fn grown(&mut self, now: Instant, count: usize) {
        self.peers = count;
        if count == 0 {
            // Whoever comes next may have forgotten us.
            self.placed_with = 0;
        }
        let delay = if count >= (2 * self.placed_with).max(1) {
            DOUBLED_DELAY
        } else if count > self.placed_with && count <= REPLICATION {
            GROWN_DELAY
        } else {
            return;
        };
        let at = now + delay;
        self.replace_at = Some(self.replace_at.map_or(at, |planned| planned.min(at)));
    }

    fn done(&mut self, now: Instant, item: Item, result: Result<(), String>) {
        self.in_flight -= 1;
        let Some(slot) = self.slots.get_mut(&item) else {
            self.stops.insert(item);
            return;
        };
        if std::mem::take(&mut slot.again) {
            slot.phase = Phase::Waiting;
            return;
        }
        slot.tried = true;
        match result {
            Ok(()) => {
                slot.phase = Phase::Placed;
                slot.failures = 0;
            }
            Err(error) => {
                let doubled = self.intervals.min_backoff.saturating_mul(1 << slot.failures.min(20));
                slot.failures = slot.failures.saturating_add(1);
                slot.error = error;
                let backoff = doubled.min(self.intervals.max_backoff);
                let retry_at = now + self.jittered(backoff);
                if let Some(slot) = self.slots.get_mut(&item) {
                    slot.phase = Phase::Failed { retry_at };
                }
            }
        }
    }

    fn tick(&mut self, now: Instant) {
        if self.refresh_at <= now {
            self.renew(now);
            self.replace();
        }
        if self.replace_at.is_some_and(|at| at <= now) {
            self.replace();
        }
        for slot in self.slots.values_mut() {
            if matches!(slot.phase, Phase::Failed { retry_at } if retry_at <= now) {
                slot.phase = Phase::Waiting;
            }
        }
    }

    /// All is to be placed again: others are near the keys now.
    fn replace(&mut self) {
        self.replace_at = None;
        self.placed_with = self.peers;
        self.slots.values_mut().for_each(Slot::again);
    }

    fn settle(&mut self) {
        if self.settled_round == self.round || self.slots.values().any(|slot| !slot.tried) {
            return;
        }
        self.settled_round = self.round;
        let failed = self.slots.iter().filter(|(_, slot)| matches!(slot.phase, Phase::Failed { .. }));
        let failed =
            failed.map(|(item, slot)| NotPlaced { what: item.to_string(), reason: slot.error.clone() }).collect();
        self.settled.push_back(Output::Settled { round: self.round, failed });
    }

    /// `duration`, at most a tenth shorter, so that devices which started together do not stay together.
    fn jittered(&mut self, duration: Duration) -> Duration {
        self.jitter = self.jitter.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        duration - duration / 1000 * u32::try_from((self.jitter >> 33) % 100).unwrap_or(0)
    }
}

impl Slot {
    fn again(&mut self) {
        if self.phase == Phase::InFlight {
            self.again = true;
        } else {
            self.phase = Phase::Waiting;
        }
    }
}

#[cfg(test)]
#[path = "registrar_tests.rs"]
mod tests;
