use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, atomic::AtomicBool};

use diai_core::{AgentId, Misbehaviour, Multiaddr, OpenError, PeerId};
use diai_identity::Identity;
use futures::task::AtomicWaker;
use libp2p::{Stream, StreamProtocol, multiaddr::Protocol, swarm::ConnectionId};
use tokio::sync::mpsc;

use super::{
    handler::OpenRequest,
    peer::Route,
    state::{Action, State},
};
use crate::{
    Parts, address_book,
    config::Limits,
    hello::{self, Hello, HelloError},
    kad::{DhtShared, Standing},
};

/// What the swarm's task, the connections' tasks and the handles share. Nothing waits or computes under the lock.
pub(crate) struct Shared {
    pub(crate) identity: Identity,
    pub(crate) local: PeerId,
    pub(crate) parts: Parts,
    pub(crate) limits: Limits,
    pub(crate) dht: Arc<DhtShared>,
    state: Mutex<State>,
    /// What connections advertise and accept; follows `State::acceptors`.
    accepted: RwLock<Arc<[StreamProtocol]>>,
    waker: AtomicWaker,
}

impl Shared {
    pub(crate) fn new(identity: Identity, parts: Parts, limits: Limits, dht: Arc<DhtShared>) -> Arc<Self> {
        Arc::new(Self {
            local: identity.peer(),
            state: Mutex::new(State::new(&limits)),
            accepted: RwLock::new(Arc::from([StreamProtocol::new(hello::PROTOCOL.as_str())])),
            waker: AtomicWaker::new(),
            identity,
            parts,
            limits,
            dht,
        })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn register(&self, waker: &std::task::Waker) {
        self.waker.register(waker);
    }

    /// Has the behaviour look at what there is to do.
    pub(crate) fn wake(&self) {
        self.waker.wake();
    }

    pub(crate) fn accepted_protocols(&self) -> Arc<[StreamProtocol]> {
        Arc::clone(&self.accepted.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Brings what connections advertise in line with who accepts.
    pub(crate) fn update_accepted(&self, state: &State) {
        let own = std::iter::once(hello::PROTOCOL.as_str());
        let protocols = own.chain(state.acceptors.keys().copied()).map(StreamProtocol::new).collect();
        *self.accepted.write().unwrap_or_else(PoisonError::into_inner) = protocols;
    }

    /// What this device shows.
    pub(crate) fn own_hello(&self) -> Hello {
        let addrs = self.state().listen.iter().take(hello::MAX_ADDRS).cloned().collect();
        Hello { certificate: self.identity.certificate(), addrs, dht_server: self.dht.is_server() }
    }

    pub(crate) fn local_addrs(&self) -> Vec<Multiaddr> {
        self.state().listen.iter().map(|addr| addr.clone().with(Protocol::P2p(self.local))).collect()
    }

    pub(crate) fn add_listen_addr(&self, addr: &Multiaddr) {
        let Some(addr) = address_book::plain(addr.clone(), self.local) else { return };
        let mut state = self.state();
        if !state.listen.contains(&addr) && state.listen.len() < 2 * hello::MAX_ADDRS {
            state.listen.push(addr);
        }
    }

    pub(crate) fn remove_listen_addr(&self, addr: &Multiaddr) {
        self.state().listen.retain(|known| known != addr);
    }

    pub(crate) fn connected(
        &self,
        peer: PeerId,
        connection: ConnectionId,
        route: Route,
        opener: mpsc::Sender<OpenRequest>,
        keep: Arc<AtomicBool>,
    ) {
        self.state().connected(peer, connection, route, opener, keep);
    }

    /// The hello on a connection is done: the peer showed this, and saw our certificate with number `told`.
    pub(crate) fn certified(&self, peer: PeerId, connection: ConnectionId, shown: Hello, told: u64) {
        let dht_server = shown.dht_server;
        tracing::debug!(%peer, agent = %shown.certificate.agent(), "hello");
        let addrs = {
            let mut state = self.state();
            state.certified(peer, connection, shown);
            state.told(&peer, told);
            state.book.addrs(&peer)
        };
        if dht_server {
            self.dht.route(peer, addrs);
        }
        self.dht.wake();
    }

    /// The hello on a connection came to nothing.
    pub(crate) fn uncertified(&self, peer: PeerId, connection: ConnectionId, error: &HelloError) {
        let reason = error.to_string();
        tracing::debug!(%peer, %reason, "no hello");
        let mut state = self.state();
        if let Some(misbehaviour) = error.misbehaviour() {
            state.resolve(&peer, None, &Err(OpenError::Uncertified { peer, reason }));
            // Whether or not its misdeeds suffice to cut it off, it is not talked to.
            state.act(Action::Close(peer));
            drop(state);
            self.penalise(peer, misbehaviour);
        } else if matches!(error, HelloError::Stream(_)) {
            // The connection is breaking, or the peer does not believe us: of no use either way.
            state.act(Action::CloseOne(peer, connection));
            drop(state);
        } else {
            state.uncertified(peer, connection, reason);
            return;
        }
        self.wake();
    }

    pub(crate) fn deliver(&self, peer: PeerId, agent: Option<AgentId>, protocol: &str, stream: Stream) {
        let Some((protocol, acceptor)) = self.state().acceptors.get(protocol).cloned() else { return };
        acceptor.offer(peer, agent, protocol, stream);
    }

    pub(crate) fn penalise(&self, peer: PeerId, misbehaviour: Misbehaviour) {
        let now = self.parts.clock.now();
        let mut state = self.state();
        if state.closed || !state.penalties.add(peer, misbehaviour, now) {
            return;
        }
        tracing::info!(%peer, ?misbehaviour, "cut off for misbehaviour");
        state.resolve(&peer, None, &Err(OpenError::CutOff { peer }));
        state.act(Action::Close(peer));
        drop(state);
        self.dht.forget(peer);
        self.wake();
    }

    /// How far a connection has come; one that is certified speaks for all connections of its peer.
    pub(crate) fn standing(&self, peer: &PeerId, connection: ConnectionId) -> Standing {
        let now = self.parts.clock.now();
        let state = self.state();
        if state.penalties.is_cut_off(peer, now) { Standing::Refused } else { state.standing(peer, connection) }
    }

    pub(crate) fn is_cut_off(&self, peer: &PeerId) -> bool {
        let now = self.parts.clock.now();
        self.state().penalties.is_cut_off(peer, now)
    }

    /// Ends all streams of events and of inbound streams, and all that waits.
    pub(crate) fn close(&self) {
        self.state().close();
        self.dht.close();
    }
}
