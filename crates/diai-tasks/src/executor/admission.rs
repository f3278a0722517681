//! Who may wait for a slot: this agent always, others as long as none takes what is meant for all.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use diai_core::AgentId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// The right to wait for a slot and to take it; given back with the last clone.
#[derive(Debug, Clone)]
pub(crate) struct Admission(#[allow(dead_code, reason = "held for its Drop")] Arc<Place>);

#[derive(Debug)]
struct Place {
    _permit: OwnedSemaphorePermit,
    guest: Option<(AgentId, Guests)>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some((agent, guests)) = &self.guest {
            let mut places = lock(guests);
            let left = places.get(agent).map_or(0, |taken| taken - 1);
            if left == 0 {
                places.remove(agent);
            } else {
                places.insert(*agent, left);
            }
        }
    }
}

/// How many places each other agent has; those without any are left out.
type Guests = Arc<Mutex<BTreeMap<AgentId, usize>>>;

fn lock(guests: &Guests) -> MutexGuard<'_, BTreeMap<AgentId, usize>> {
    guests.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The places. An agent has at most half of them, and all others together leave one to this agent itself; but where
/// there is one place only, anybody may have it.
pub(super) struct Admissions {
    places: Arc<Semaphore>,
    total: usize,
    guests: Guests,
}

impl Admissions {
    pub(super) fn new(total: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(total)), total, guests: Arc::default() }
    }

    fn has_room_among(&self, guests: &BTreeMap<AgentId, usize>, agent: AgentId) -> bool {
        let own = guests.get(&agent).copied().unwrap_or(0);
        let all: usize = guests.values().sum();
        own < (self.total / 2).max(1) && all < (self.total - 1).max(1)
    }

    /// Whether a task of `agent` would be admitted now.
    pub(super) fn has_room(&self, agent: AgentId) -> bool {
        self.places.available_permits() > 0 && self.has_room_among(&lock(&self.guests), agent)
    }

    /// A place for a task of `agent`, if there is one.
    pub(super) fn admit(&self, agent: AgentId) -> Option<Admission> {
        let mut guests = lock(&self.guests);
        if !self.has_room_among(&guests, agent) {
            return None;
        }
        let permit = self.places.clone().try_acquire_owned().ok()?;
        *guests.entry(agent).or_default() += 1;
        Some(Admission(Arc::new(Place { _permit: permit, guest: Some((agent, self.guests.clone())) })))
    }

    /// A place for a task of this agent, as soon as there is one.
    pub(super) async fn admit_later(&self) -> Option<Admission> {
        let permit = self.places.clone().acquire_owned().await.ok()?;
        Some(Admission(Arc::new(Place { _permit: permit, guest: None })))
    }

    /// Taken places.
    pub(super) fn taken(&self) -> usize {
        self.total - self.places.available_permits()
    }

    /// Completes when no place is taken; none is given while the answer is held.
    pub(super) async fn all(&self) -> Option<SemaphorePermit<'_>> {
        // An error says that it was closed before.
        self.places.acquire_many(u32::try_from(self.total).unwrap_or(u32::MAX)).await.ok()
    }

    pub(super) fn close(&self) {
        self.places.close();
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, poll};

    use super::*;

    fn agent(number: u8) -> AgentId {
        AgentId::from_bytes([number; 32])
    }

    #[test]
    fn a_stranger_takes_half_of_the_places_and_all_strangers_leave_one() {
        let places = Admissions::new(6);
        let first: Vec<_> = (0..9).filter_map(|_| places.admit(agent(1))).collect();
        assert_eq!(first.len(), 3);
        let second: Vec<_> = (0..9).filter_map(|_| places.admit(agent(2))).collect();
        assert_eq!(second.len(), 2);
        assert!(!places.has_room(agent(3)) && places.admit(agent(3)).is_none());
        let own = places.admit_later().now_or_never().flatten();
        assert!(own.is_some() && places.admit_later().now_or_never().is_none());
        let clone = first.first().cloned();
        drop(first);
        assert_eq!((places.taken(), places.has_room(agent(3))), (4, true));
        drop((clone, second, own));
        assert_eq!((places.taken(), lock(&places.guests).len()), (0, 0));
    }

    #[test]
    fn the_only_place_is_for_anybody() {
        let places = Admissions::new(1);
        let place = places.admit(agent(1));
        assert!(place.is_some() && !places.has_room(agent(2)));
        drop(place);
        assert!(places.has_room(agent(2)));
    }

    #[tokio::test]
    async fn whoever_waits_for_a_place_gets_none_when_all_is_over() {
        let places = Admissions::new(2);
        let last = places.admit(agent(1));
        let mut all = Box::pin(places.all());
        assert!(poll!(&mut all).is_pending());
        let mut late = Box::pin(places.admit_later());
        assert!(poll!(&mut late).is_pending());
        drop(last);
        let all = all.await;
        places.close();
        drop(all);
        assert!(late.await.is_none());
    }
}
