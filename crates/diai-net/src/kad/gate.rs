use std::collections::BTreeMap;

use diai_core::PeerId;
use libp2p::swarm::ConnectionId;

/// What may wait for the end of one hello; an honest device sends that much within a round trip.
const MAX_HELD: usize = 64;
/// What may wait for all hellos, each of at most one DHT packet.
const MAX_HELD_IN_ALL: usize = 1024;

/// How far a connection has come with its hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The peer showed its certificate.
    Certified,
    /// The hello is under way.
    Pending,
    /// It has none, or is cut off.
    Refused,
}

/// Keeps what comes before the end of a connection's hello until then: nothing that a device without a certificate says
/// counts, but a device is not made to say it again.
#[derive(Debug)]
pub(crate) struct Gate<E> {
    held: BTreeMap<ConnectionId, (PeerId, Vec<E>)>,
    count: usize,
}

impl<E> Gate<E> {
    pub(crate) fn new() -> Self {
        Self { held: BTreeMap::new(), count: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Keeps `event` for later; what is too much is dropped: of whoever has most, so that a few that never end their
    /// hello leave room to others.
    pub(crate) fn hold(&mut self, peer: PeerId, id: ConnectionId, event: E) {
        if self.count >= MAX_HELD_IN_ALL {
            let own = self.held.get(&id).map_or(0, |(_, events)| events.len());
            let most = self.held.values_mut().map(|(_, events)| events).max_by_key(|events| events.len());
            match most.filter(|events| events.len() > own + 1) {
                Some(events) => drop(events.pop()),
                None => return,
            }
            self.count -= 1;
        }
        let (_, events) = self.held.entry(id).or_insert_with(|| (peer, Vec::new()));
        if events.len() < MAX_HELD {
            events.push(event);
            self.count += 1;
        }
    }

    /// What may pass now, in order; forgets what never will.
    pub(crate) fn release(
        &mut self,
        mut standing: impl FnMut(&PeerId, ConnectionId) -> Standing,
    ) -> Vec<(PeerId, ConnectionId, E)> {
        let ended = self.held.iter().map(|(id, (peer, _))| (*id, standing(peer, *id)));
        let ended: Vec<_> = ended.filter(|(_, standing)| *standing != Standing::Pending).collect();
        let mut passed = Vec::new();
        for (id, standing) in ended {
            let Some((peer, events)) = self.forget(id) else { continue };
            if standing == Standing::Certified {
                passed.extend(events.into_iter().map(|event| (peer, id, event)));
            }
        }
        passed
    }

    /// The connection is gone, or settled.
    pub(crate) fn forget(&mut self, id: ConnectionId) -> Option<(PeerId, Vec<E>)> {
        let held = self.held.remove(&id)?;
        self.count -= held.1.len();
        Some(held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_before_the_hello_waits_for_it_in_order_and_counts_only_with_a_certificate() {
        let mut gate = Gate::new();
        let (honest, stranger) = (PeerId::random(), PeerId::random());
        let [one, two] = [1, 2].map(ConnectionId::new_unchecked);
        for event in 0..3 {
            gate.hold(honest, one, event);
            gate.hold(stranger, two, event);
        }
        assert!(gate.release(|_, _| Standing::Pending).is_empty());
        let standing = |peer: &PeerId, _| if *peer == honest { Standing::Certified } else { Standing::Refused };
        assert_eq!(gate.release(standing), [(honest, one, 0), (honest, one, 1), (honest, one, 2)]);
        assert!(gate.is_empty() && gate.count == 0);
    }

    #[test]
    fn what_waits_is_capped_by_connection_and_in_all() {
        let mut gate = Gate::new();
        for connection in 0..100 {
            let id = ConnectionId::new_unchecked(connection);
            for event in 0..100 {
                gate.hold(PeerId::random(), id, event);
            }
        }
        assert_eq!(gate.count, MAX_HELD_IN_ALL);
        // The last to come was not kept out by those before it.
        let shares: Vec<_> = gate.held.values().map(|(_, events)| events.len()).collect();
        assert_eq!((shares.len(), shares.iter().sum()), (100, MAX_HELD_IN_ALL));
        assert!(shares.iter().all(|share| (9..=12).contains(share)), "{shares:?}");
        let first = gate.forget(ConnectionId::new_unchecked(0)).unwrap().1.len();
        assert_eq!(gate.count, MAX_HELD_IN_ALL - first);
        let mut alone = Gate::new();
        (0..100).for_each(|event| alone.hold(PeerId::random(), ConnectionId::new_unchecked(1), event));
        assert_eq!(alone.count, MAX_HELD);
    }
}
