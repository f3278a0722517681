//! Which parts to fetch next.

use std::collections::{BTreeMap, BTreeSet};

use cid::Cid;
use diai_core::{AgentId, Instant};

use super::state::{Part, PartKey};

/// Parts that are fetched at a time, and those of them that may be one owner's.
const MAX_FETCHES: usize = 8;
const MAX_PER_OWNER: usize = 6;
/// Parts that are fetched at a time of owners whose last part did not come; one each.
const MAX_DOUBTFUL: usize = 4;

/// What is being fetched. Owners share the slots, and those whose parts do not come get few: what a member put who is
/// gone does not keep away what others put.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    running: BTreeMap<AgentId, usize>,
    doubtful: BTreeSet<AgentId>,
}

impl Fetches {
    /// Marks those of `parts` that are to be fetched now, and returns them; and when to look again.
    pub(super) fn start(
        &mut self,
        now: Instant,
        parts: &mut BTreeMap<PartKey, Part>,
    ) -> (Vec<(PartKey, Cid)>, Instant) {
        let mut next = Instant::NEVER;
        let mut due: BTreeMap<AgentId, Vec<_>> = BTreeMap::new();
        for (key, part) in parts.iter().filter(|(_, part)| !part.is_settled() && !part.fetching) {
            match part.due.at <= now {
                true => due.entry(key.0).or_default().push((part.due.wait, part.due.at, key.1)),
                false => next = next.min(part.due.at),
            }
        }
        // Those that failed least, and have waited longest, last.
        due.values_mut().for_each(|parts| parts.sort_unstable_by(|a, b| b.cmp(a)));
        let mut started = Vec::new();
        while let Some(owner) = self.next_owner(due.keys()) {
            let Some(name) = due.get_mut(&owner).and_then(Vec::pop).map(|(_, _, name)| name) else {
                due.remove(&owner);
                continue;
            };
            let key = (owner, name);
            if let Some(part) = parts.get_mut(&key) {
                part.fetching = true;
                *self.running.entry(owner).or_default() += 1;
                started.push((key, part.entry.root));
            }
        }
        (started, next)
    }

    /// Of the owners that may have a slot the one that has fewest.
    fn next_owner<'a>(&self, owners: impl Iterator<Item = &'a AgentId>) -> Option<AgentId> {
        let count = |owner: &AgentId| self.running.get(owner).copied().unwrap_or(0);
        if self.running.values().sum::<usize>() >= MAX_FETCHES {
            return None;
        }
        let doubtful: usize = self.doubtful.iter().map(count).sum();
        let may = |owner: &&AgentId| match self.doubtful.contains(owner) {
            true => count(owner) == 0 && doubtful < MAX_DOUBTFUL,
            false => count(owner) < MAX_PER_OWNER,
        };
        owners.filter(may).min_by_key(|owner| (self.doubtful.contains(owner), count(owner))).copied()
    }

    /// A part of `owner` came, or did not.
    pub(super) fn ended(&mut self, owner: AgentId, came: bool) {
        if let Some(count) = self.running.get_mut(&owner) {
            *count -= 1;
            if *count == 0 {
                self.running.remove(&owner);
            }
        }
        match came {
            true => self.doubtful.remove(&owner),
            false => self.doubtful.insert(owner),
        };
    }

    /// `owner` is here.
    pub(super) fn trust(&mut self, owner: &AgentId) {
        self.doubtful.remove(owner);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::workspace::{
        Entry,
        state::{Part, Retry},
    };

    fn owner(number: u8) -> AgentId {
        AgentId::from_bytes([number; 32])
    }

    fn parts(owners: &[u8]) -> BTreeMap<PartKey, Part> {
        let part = Part {
            entry: Entry { name: [0; 16], root: Cid::default(), tsize: 0 },
            info: None,
            bad: false,
            due: Retry::now(),
            fetching: false,
        };
        owners
            .iter()
            .flat_map(|&number| (0..100).map(move |name| (owner(number), [name; 16])))
            .map(|key| (key, part.clone()))
            .collect()
    }

    fn owners(started: &[(PartKey, Cid)]) -> Vec<AgentId> {
        started.iter().map(|(key, _)| key.0).collect()
    }

    #[test]
    fn owners_share_the_slots_and_one_alone_leaves_some_free() {
        let mut fetches = Fetches::default();
        let (alone, _) = fetches.start(Instant::default(), &mut parts(&[1]));
        assert_eq!(alone.len(), MAX_PER_OWNER);
        let (with, _) = fetches.start(Instant::default(), &mut parts(&[1, 2]));
        assert_eq!(owners(&with), [owner(2), owner(2)]);
    }

    #[test]
    fn owners_whose_parts_do_not_come_get_few_slots_until_one_comes() {
        let (mut fetches, now) = (Fetches::default(), Instant::default());
        let gone = [1, 2, 3, 4, 5, 6];
        let mut all = parts(&gone);
        let (started, _) = fetches.start(now, &mut all);
        assert_eq!(started.len(), MAX_FETCHES);
        for (key, _) in started {
            fetches.ended(key.0, false);
        }
        let (started, _) = fetches.start(now, &mut all);
        assert_eq!(started.len(), MAX_DOUBTFUL, "one each");
        let mut live = parts(&[9]);
        assert_eq!(owners(&fetches.start(now, &mut live).0), [owner(9); 4]);
        fetches.trust(&owner(1));
        for (key, _) in started {
            fetches.ended(key.0, true);
        }
        assert!(!fetches.start(now, &mut all).0.is_empty());
    }

    #[test]
    fn what_failed_least_is_tried_first_and_what_is_not_due_later() {
        let (mut fetches, now) = (Fetches::default(), Instant::default() + Duration::from_secs(100));
        let mut all = parts(&[1]);
        for (key, part) in &mut all {
            if key.1[0] < 90 {
                part.due.failed(Instant::default(), (Duration::from_secs(1), Duration::from_secs(60)));
            } else if key.1[0] < 96 {
                part.due.at = now + Duration::from_secs(5);
            }
        }
        let (started, next) = fetches.start(now, &mut all);
        assert_eq!(started.iter().filter(|(key, _)| key.1[0] >= 96).count(), 4);
        assert_eq!(next, now + Duration::from_secs(5));
    }
}
