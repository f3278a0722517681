use std::{collections::VecDeque, time::Duration};

use diai_core::Instant;

use super::store::Store;
use crate::config::DhtConfig;

/// So many writes a second are begun; more wait. A receiver allows twice as many before it takes them for a flood.
pub(super) const PER_SECOND: usize = 256;

/// Something that others are to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Announce {
    /// That this device provides a key.
    Provide(Vec<u8>),
    /// The record under a key.
    Put(Vec<u8>),
}

/// Says what is to be announced (again) when: after a while, because others forget, and when the routing table has grown,
/// because the devices that are closest to our keys now may know nothing of them.
#[derive(Debug)]
pub(crate) struct Announcer {
    queue: VecDeque<Announce>,
    max_queue: usize,
    announced_to: usize,
    provide_interval: Duration,
    replicate_interval: Duration,
    next_provide: Instant,
    next_replicate: Instant,
    /// Writes that may be begun before the next tick.
    budget: usize,
}

impl Announcer {
    pub(crate) fn new(config: &DhtConfig, now: Instant) -> Self {
        Self {
            queue: VecDeque::new(),
            max_queue: config.provided_keys + config.records,
            announced_to: 0,
            provide_interval: config.provide_interval,
            replicate_interval: config.replicate_interval,
            next_provide: now + config.provide_interval,
            next_replicate: now + config.replicate_interval,
            budget: PER_SECOND,
        }
    }

    /// A second has passed.
    pub(crate) fn tick(&mut self, now: Instant, store: &Store) {
        self.budget = PER_SECOND;
        // Whatever is still being announced comes first.
        if self.queue.is_empty() && now >= self.next_provide {
            self.next_provide = now + self.provide_interval;
            self.queue.extend(store.providers.provided().cloned().map(Announce::Provide));
        }
        if self.queue.is_empty() && now >= self.next_replicate {
            self.next_replicate = now + self.replicate_interval;
            self.queue.extend(store.to_hand_on(self.replicate_interval).into_iter().map(Announce::Put));
        }
    }

    /// The routing table has so many entries now: when they have doubled, everything of ours is announced again.
    pub(crate) fn grown(&mut self, routes: usize, store: &Store) {
        if routes == 0 || routes < 2 * self.announced_to || !self.queue.is_empty() {
            return;
        }
        self.announced_to = routes;
        self.queue.extend(store.providers.provided().cloned().map(Announce::Provide));
        self.queue.extend(store.own_records().into_iter().map(Announce::Put));
    }

    /// Whether something may be announced at once; counts it.
    pub(crate) fn spend(&mut self) -> bool {
        let may = self.budget > 0;
        self.budget = self.budget.saturating_sub(1);
        may
    }

    /// Announces something later.
    pub(crate) fn defer(&mut self, announce: Announce) {
        // Beyond the cap it is announced with everything else, in time.
        if self.queue.len() < self.max_queue {
            self.queue.push_back(announce);
        }
    }

    /// What is to be announced now.
    pub(crate) fn next(&mut self) -> Option<Announce> {
        if self.queue.is_empty() || !self.spend() {
            return None;
        }
        self.queue.pop_front()
    }
}
