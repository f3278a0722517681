//! Streams between devices in memory.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use futures::stream;
use tokio::sync::{broadcast, mpsc};

use super::{
    state::{Acceptor, Shared},
    time::Sleep,
    wire::{End, Wire},
};
use crate::{
    AcceptError, AcceptOptions, BoxFuture, Inbound, Incoming, Misbehaviour, Multiaddr, Network, OpenError, Opened,
    PeerEvent, PeerEvents, PeerId, PeerInfo, ProtocolId,
};

/// At so many penalty points a peer is cut off.
const MAX_POINTS: u32 = 100;
const CUT_OFF: Duration = Duration::from_secs(60);
/// What is dialled but does not answer fails after this time.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);

pub(super) struct MemoryNetwork {
    shared: Arc<Shared>,
    peer: PeerId,
}

impl MemoryNetwork {
    pub(super) fn new(shared: Arc<Shared>, peer: PeerId) -> Self {
        Self { shared, peer }
    }
}

fn unreachable(peer: PeerId) -> OpenError {
    OpenError::Unreachable { peer: peer.to_string(), reason: "no answer".into() }
}

async fn pause(shared: &Arc<Shared>, duration: Duration) {
    let deadline = shared.lock().now + duration;
    Sleep { shared: shared.clone(), deadline, scheduled: None }.await;
}

async fn connect(shared: &Arc<Shared>, from: PeerId, to: PeerId) -> Result<PeerInfo, OpenError> {
    let trip = {
        let mut state = shared.lock();
        if state.devices.get(&from).is_none_or(|device| !device.alive) {
            return Err(OpenError::Closed);
        }
        if state.devices[&from].blocked_until.get(&to).is_some_and(|&until| until > state.now) {
            return Err(OpenError::CutOff { peer: to });
        }
        state.latency() + state.latency()
    };
    pause(shared, trip).await;
    let reached = {
        let mut state = shared.lock();
        let reachable = state.reachable(from, to);
        if reachable {
            state.connect(from, to);
        }
        reachable.then(|| state.devices[&to].info())
    };
    match reached {
        Some(info) => Ok(info),
        None => {
            pause(shared, DIAL_TIMEOUT).await;
            Err(unreachable(to))
        }
    }
}

/// Lays a pair of wires and hands one end to the acceptor.
fn lay(shared: &Arc<Shared>, from: PeerId, to: PeerId, protocols: &[ProtocolId]) -> Result<Opened, OpenError> {
    let mut state = shared.lock();
    if !state.devices.get(&from).is_some_and(|device| device.connected.contains(&to)) {
        return Err(unreachable(to));
    }
    let first = protocols.first().copied().unwrap_or(ProtocolId::new("/"));
    let (agent, acceptors) = (state.devices[&from].spec.agent, &state.devices[&to].acceptors);
    let Some(&protocol) = protocols.iter().find(|protocol| acceptors.contains_key(protocol)) else {
        return Err(OpenError::Unsupported { peer: to, protocol: first });
    };
    let (outward, inward) = (state.next_id(), state.next_id());
    state.wires.insert(outward, Wire::new(from, to));
    state.wires.insert(inward, Wire::new(to, from));
    let near = End { shared: shared.clone(), inward, outward, counted: None };
    let mut far = End { shared: shared.clone(), inward: outward, outward: inward, counted: None };
    let Some(acceptor) = state.devices.get_mut(&to).and_then(|device| device.acceptors.get_mut(&protocol)) else {
        return Err(OpenError::Unsupported { peer: to, protocol: first });
    };
    let open = acceptor.open.entry(from).or_default();
    let queue = acceptor.queue.clone();
    let admitted = *open < acceptor.options.max_per_peer;
    if admitted {
        *open += 1;
        far.counted = Some((to, protocol, from));
    }
    drop(state);
    // A full queue or a peer over its count drops the far end: the opener sees a stream that is reset.
    if admitted {
        drop(queue.try_send(Inbound { peer: from, agent: Some(agent), protocol, stream: Box::new(far) }));
    }
    Ok(Opened { protocol, stream: Box::new(near) })
}

impl Network for MemoryNetwork {
    fn local_peer(&self) -> PeerId {
        self.peer
    }

    fn local_addrs(&self) -> Vec<Multiaddr> {
        Vec::new()
    }

    fn open(&self, peer: PeerId, protocols: &[ProtocolId]) -> BoxFuture<'static, Result<Opened, OpenError>> {
        let (shared, from, protocols) = (self.shared.clone(), self.peer, protocols.to_vec());
        Box::pin(async move {
            connect(&shared, from, peer).await?;
            lay(&shared, from, peer, &protocols)
        })
    }

    fn accept(&self, protocols: &[ProtocolId], options: AcceptOptions) -> Result<Incoming, AcceptError> {
        let (queue, waiting) = mpsc::channel(options.max_waiting.max(1));
        let mut state = self.shared.lock();
        let id = state.next_id();
        let device = state.devices.get_mut(&self.peer).filter(|device| device.alive).ok_or(AcceptError::Closed)?;
        if let Some(&taken) = protocols.iter().find(|protocol| device.acceptors.contains_key(protocol)) {
            return Err(AcceptError::Taken(taken));
        }
        for &protocol in protocols {
            let acceptor = Acceptor { id, queue: queue.clone(), options, open: Default::default() };
            device.acceptors.insert(protocol, acceptor);
        }
        let guard = Unaccept { shared: Arc::downgrade(&self.shared), peer: self.peer, id };
        Ok(Incoming::new(stream::unfold((waiting, guard), |(mut waiting, guard)| async move {
            waiting.recv().await.map(|inbound| (inbound, (waiting, guard)))
        })))
    }

    fn connect(&self, peer: PeerId, _: Vec<Multiaddr>) -> BoxFuture<'static, Result<PeerInfo, OpenError>> {
        let (shared, from) = (self.shared.clone(), self.peer);
        Box::pin(async move { connect(&shared, from, peer).await })
    }

    fn dial(&self, addr: Multiaddr) -> BoxFuture<'static, Result<PeerInfo, OpenError>> {
        let (shared, from) = (self.shared.clone(), self.peer);
        let peer = addr.iter().find_map(|part| match part {
            multiaddr::Protocol::P2p(peer) => Some(peer),
            _ => None,
        });
        Box::pin(async move {
            let reason = "an address in memory is /p2p/<peer>".to_owned();
            let peer = peer.ok_or(OpenError::Unreachable { peer: addr.to_string(), reason })?;
            connect(&shared, from, peer).await
        })
    }

    fn add_addrs(&self, _: PeerId, _: Vec<Multiaddr>) {}

    fn peers(&self) -> Vec<PeerInfo> {
        let state = self.shared.lock();
        let connected = state.devices.get(&self.peer).map(|device| &device.connected);
        connected.into_iter().flatten().filter_map(|peer| state.devices.get(peer)).map(super::Device::info).collect()
    }

    fn peer(&self, peer: PeerId) -> Option<PeerInfo> {
        let state = self.shared.lock();
        let connected = state.devices.get(&self.peer)?.connected.contains(&peer);
        connected.then(|| state.devices.get(&peer).map(super::Device::info)).flatten()
    }

    fn events(&self) -> PeerEvents {
        let state = self.shared.lock();
        let events = match state.devices.get(&self.peer) {
            Some(device) => device.events.subscribe(),
            None => broadcast::channel(1).1,
        };
        PeerEvents::new(stream::unfold(events, |mut events| async move {
            match events.recv().await {
                Ok(event) => Some((event, events)),
                Err(broadcast::error::RecvError::Lagged(_)) => Some((PeerEvent::Missed, events)),
                Err(broadcast::error::RecvError::Closed) => None,
            }
        }))
    }

    fn penalise(&self, peer: PeerId, misbehaviour: Misbehaviour) {
        let mut state = self.shared.lock();
        let now = state.now;
        let Some(device) = state.devices.get_mut(&self.peer) else { return };
        let (points, since) = device.points.entry(peer).or_insert((0, now));
        let minutes = u32::try_from(now.since(*since).as_secs() / 60).unwrap_or(u32::MAX);
        *points = points.checked_shr(minutes).unwrap_or(0) + misbehaviour.points();
        *since = now;
        if *points >= MAX_POINTS {
            device.points.remove(&peer);
            device.blocked_until.insert(peer, now + CUT_OFF);
            drop(state);
            self.shared.disconnect(self.peer, peer);
        }
    }
}

/// Takes an acceptor back when its [`Incoming`] is dropped.
struct Unaccept {
    shared: Weak<Shared>,
    peer: PeerId,
    id: u64,
}

impl Drop for Unaccept {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade() else { return };
        let mut removed = Vec::new();
        if let Some(device) = shared.lock().devices.get_mut(&self.peer) {
            let mine: Vec<_> = device
                .acceptors
                .iter()
                .filter(|(_, acceptor)| acceptor.id == self.id)
                .map(|(&protocol, _)| protocol)
                .collect();
            removed.extend(mine.iter().filter_map(|protocol| device.acceptors.remove(protocol)));
        }
        // Dropped after the lock: streams that wait in the queue take it when they are dropped.
        drop(removed);
    }
}
