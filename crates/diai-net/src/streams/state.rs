use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use diai_core::{Bytes, Multiaddr, OpenError, PeerEvent, PeerId, PeerInfo, ProtocolId, WallTime};
use libp2p::swarm::{ConnectionId, dial_opts::DialOpts};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc, oneshot};

use super::{
    acceptor::Acceptor,
    handler::OpenRequest,
    peer::{Connection, HelloState, Peer, Route},
};
use crate::{address_book::AddressBook, config::Limits, hello::Hello, kad::Standing, penalties::Penalties};

/// Futures that may wait for one peer at a time.
const MAX_WAITING_PER_PEER: usize = 256;
/// What may wait for the swarm.
const MAX_ACTIONS: usize = 1024;
/// Events that a slow subscriber may lag behind.
const EVENTS: usize = 256;
/// Peers whose misdeeds are remembered.
const MAX_PENALTIES: usize = 4096;

/// What the swarm is to do.
#[derive(Debug)]
pub(crate) enum Action {
    Dial(DialOpts),
    Close(PeerId),
    CloseOne(PeerId, ConnectionId),
}

/// Who is connected, who waits for whom, who accepts what.
pub(crate) struct State {
    pub(crate) closed: bool,
    peers: BTreeMap<PeerId, Peer>,
    pub(crate) acceptors: BTreeMap<&'static str, (ProtocolId, Arc<Acceptor>)>,
    waiting: BTreeMap<PeerId, Vec<Waiter>>,
    dials: BTreeMap<ConnectionId, Dial>,
    /// Connections that are established and not yet among the peers'.
    coming: BTreeMap<ConnectionId, PeerId>,
    pub(crate) actions: VecDeque<Action>,
    pub(crate) penalties: Penalties,
    pub(crate) book: AddressBook,
    pub(crate) listen: Vec<Multiaddr>,
    events: Option<broadcast::Sender<PeerEvent>>,
    kept_connections: usize,
    streams_per_peer: usize,
}

/// What a waiter waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Any connection.
    Connection,
    /// The end of the hello, one way or the other.
    Hello,
}

struct Waiter {
    need: Need,
    reply: oneshot::Sender<Result<(), OpenError>>,
}

enum Dial {
    Known(PeerId),
    Unknown(oneshot::Sender<Result<PeerId, OpenError>>),
}

/// What there is to open a stream with.
pub(crate) enum Pick {
    Ready(ConnectionId, mpsc::Sender<OpenRequest>, OwnedSemaphorePermit),
    /// Connected, but the hello is under way.
    Pending,
    Uncertified(String),
    TooMany,
    Disconnected,
}

impl State {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            closed: false,
            peers: BTreeMap::new(),
            acceptors: BTreeMap::new(),
            waiting: BTreeMap::new(),
            dials: BTreeMap::new(),
            coming: BTreeMap::new(),
            actions: VecDeque::new(),
            penalties: Penalties::new(limits.cut_off, MAX_PENALTIES),
            book: AddressBook::new(limits.remembered_peers, limits.addrs_per_peer),
            listen: Vec::new(),
            events: Some(broadcast::Sender::new(EVENTS)),
            kept_connections: limits.kept_connections,
            streams_per_peer: limits.streams_per_peer,
        }
    }

    /// Ends all that waits, and accepts and announces nothing more.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.peers.clear();
        self.coming.clear();
        self.acceptors.clear();
        self.actions.clear();
        self.events = None;
        let waiting = std::mem::take(&mut self.waiting);
        for waiter in waiting.into_values().flatten() {
            let _ = waiter.reply.send(Err(OpenError::Closed));
        }
        for dial in std::mem::take(&mut self.dials).into_values() {
            if let Dial::Unknown(reply) = dial {
                let _ = reply.send(Err(OpenError::Closed));
            }
        }
    }

    pub(crate) fn subscribe(&self) -> Option<broadcast::Receiver<PeerEvent>> {
        self.events.as_ref().map(broadcast::Sender::subscribe)
    }

    fn announce(&self, event: PeerEvent) {
        if let Some(events) = &self.events {
            // Nobody listens: nobody misses it.
            let _ = events.send(event);
        }
    }

    pub(crate) fn connected(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        route: Route,
        opener: mpsc::Sender<OpenRequest>,
        keep: Arc<AtomicBool>,
    ) {
        self.coming.remove(&id);
        if self.closed {
            return;
        }
        let streams_per_peer = self.streams_per_peer;
        let entry = self.peers.entry(peer).or_insert_with(|| Peer {
            connections: Vec::new(),
            streams: Arc::new(Semaphore::new(streams_per_peer)),
            rtt: None,
            told: None,
            announced: None,
        });
        entry.connections.push(Connection { id, opener, route, keep, hello: HelloState::Pending });
        self.resolve(&peer, Some(Need::Connection), &Ok(()));
    }

    /// The peer showed `shown` on one connection. Of all that it showed the newest certificate counts, on every one: it
    /// shows a renewed one on whichever it likes.
    pub(crate) fn certified(&mut self, peer: PeerId, id: ConnectionId, shown: Hello) {
        let Some(entry) = self.peers.get_mut(&peer) else { return };
        let Some(index) = entry.connections.iter().position(|connection| connection.id == id) else { return };
        let known = entry.best().map(|(_, _, known)| known.clone());
        let newer = |known: &Hello| {
            let (known, shown) = (&known.certificate, &shown.certificate);
            known.agent() == shown.agent() && known.seq() > shown.seq()
        };
        let newest = known.filter(newer).unwrap_or(shown);
        entry.connections[index].hello = HelloState::Certified(newest.clone());
        for connection in &mut entry.connections {
            if matches!(connection.hello, HelloState::Certified(_)) {
                connection.hello = HelloState::Certified(newest.clone());
            }
        }
        self.book.show(peer, newest.addrs);
        self.keep_some();
        self.announce_once(peer, Some(newest.certificate.to_bytes()));
        self.resolve(&peer, None, &Ok(()));
    }

    /// The peer has seen this certificate of ours.
    pub(crate) fn told(&mut self, peer: &PeerId, seq: u64) {
        if let Some(entry) = self.peers.get_mut(peer) {
            entry.told = entry.told.max(Some(seq));
        }
    }

    /// The certified peers that have not seen our certificate with this number.
    pub(crate) fn untold(&self, seq: u64) -> Vec<PeerId> {
        let untold = |entry: &Peer| entry.best().is_some() && entry.told < Some(seq);
        self.peers.iter().filter(|(_, entry)| untold(entry)).map(|(peer, _)| *peer).collect()
    }

    pub(crate) fn uncertified(&mut self, peer: PeerId, id: ConnectionId, reason: String) {
        let Some(connection) = self.connection(&peer, id) else { return };
        connection.hello = HelloState::Uncertified(reason);
        let Some(entry) = self.peers.get(&peer) else { return };
        if entry.connections.iter().all(Connection::is_settled) {
            if entry.announced.is_none() {
                self.announce_once(peer, None);
            }
            self.resolve(&peer, None, &Ok(()));
        }
    }

    pub(crate) fn disconnected(&mut self, peer: PeerId, id: ConnectionId) {
        self.coming.remove(&id);
        if let Some(entry) = self.peers.get_mut(&peer) {
            entry.connections.retain(|connection| connection.id != id);
            if entry.connections.is_empty() {
                let announced = entry.announced.is_some();
                self.peers.remove(&peer);
                if announced {
                    self.announce(PeerEvent::Disconnected(peer));
                }
            }
        }
        if !self.is_coming(&peer) {
            if self.is_connected(&peer) {
                // Whoever waited for the hello of this one has the others.
                self.resolve(&peer, None, &Ok(()));
            } else {
                self.fail(&peer, "the connection closed");
            }
        }
        self.keep_some();
    }

    /// Whether something is under way that will tell those who wait for `peer`: a dial, or a hello.
    fn is_coming(&self, peer: &PeerId) -> bool {
        let settled = |entry: &Peer| entry.connections.iter().all(Connection::is_settled);
        self.is_dialling(peer)
            || self.coming.values().any(|coming| coming == peer)
            || !self.peers.get(peer).is_none_or(settled)
    }

    fn announce_once(&mut self, peer: PeerId, certificate: Option<Bytes>) {
        let Some(entry) = self.peers.get_mut(&peer) else { return };
        if entry.announced.as_ref() == Some(&certificate) {
            return;
        }
        entry.announced = Some(certificate);
        if let Some(info) = self.info(peer) {
            self.announce(PeerEvent::Connected(info));
        }
    }

    fn connection(&mut self, peer: &PeerId, id: ConnectionId) -> Option<&mut Connection> {
        self.peers.get_mut(peer)?.connections.iter_mut().find(|connection| connection.id == id)
    }

    /// Keeps one connection each of so many certified peers alive, and lets the others idle out: first those that this
    /// device dialled, then those that it keeps already. Whoever comes cannot push out whom we chose.
    fn keep_some(&self) {
        let mut peers: Vec<_> = self.peers.values().filter(|entry| entry.best().is_some()).collect();
        peers.sort_by_key(|entry| (!entry.is_dialled(), !entry.is_kept()));
        let (kept, idle) = peers.split_at(self.kept_connections.min(peers.len()));
        for entry in kept.iter().filter(|entry| !entry.is_kept()) {
            if let Some((_, connection, _)) = entry.best() {
                connection.keep.store(true, Ordering::Relaxed);
            }
        }
        for connection in idle.iter().flat_map(|entry| &entry.connections) {
            connection.keep.store(false, Ordering::Relaxed);
        }
    }

    pub(crate) fn info(&self, peer: PeerId) -> Option<PeerInfo> {
        let entry = self.peers.get(&peer)?;
        let certificate = entry.best().map(|(_, _, shown)| &shown.certificate);
        Some(PeerInfo {
            peer,
            agent: certificate.map(|certificate| certificate.agent()),
            certificate: certificate.map(|certificate| certificate.to_bytes()),
            addrs: self.book.addrs(&peer),
            rtt: entry.rtt,
        })
    }

    pub(crate) fn peers(&self) -> Vec<PeerInfo> {
        self.peers.keys().filter_map(|&peer| self.info(peer)).collect()
    }

    pub(crate) fn is_connected(&self, peer: &PeerId) -> bool {
        self.peers.contains_key(peer)
    }

    /// The peers whose certificate has expired.
    pub(crate) fn expired(&self, now: WallTime) -> Vec<PeerId> {
        let expired = |entry: &Peer| entry.best().is_some_and(|(_, _, shown)| shown.certificate.expires() <= now);
        self.peers.iter().filter(|(_, entry)| expired(entry)).map(|(peer, _)| *peer).collect()
    }

    pub(crate) fn standing(&self, peer: &PeerId, id: ConnectionId) -> Standing {
        let Some(entry) = self.peers.get(peer) else { return Standing::Pending };
        if entry.best().is_some() {
            return Standing::Certified;
        }
        let refused =
            |connection: &Connection| connection.id == id && matches!(connection.hello, HelloState::Uncertified(_));
        if entry.connections.iter().any(refused) { Standing::Refused } else { Standing::Pending }
    }

    pub(crate) fn why_uncertified(&self, peer: &PeerId) -> Option<&str> {
        let entry = self.peers.get(peer)?;
        entry.connections.iter().rev().find_map(|connection| match &connection.hello {
            HelloState::Uncertified(reason) => Some(reason.as_str()),
            _ => None,
        })
    }

    pub(crate) fn set_rtt(&mut self, peer: &PeerId, rtt: Duration) {
        if let Some(entry) = self.peers.get_mut(peer) {
            entry.rtt = Some(rtt);
        }
    }

    /// The connection to open a stream on: direct before relayed, then the newest; never one of `tried`.
    pub(crate) fn pick(&self, peer: &PeerId, certified: bool, tried: &[ConnectionId]) -> Pick {
        let Some(entry) = self.peers.get(peer) else { return Pick::Disconnected };
        let live = || entry.connections.iter().filter(|connection| !tried.contains(&connection.id));
        let usable = |connection: &&Connection| !certified || matches!(connection.hello, HelloState::Certified(_));
        if let Some(connection) =
            live().filter(usable).max_by_key(|connection| (!connection.route.relayed, connection.id))
        {
            return match Arc::clone(&entry.streams).try_acquire_owned() {
                Ok(permit) => Pick::Ready(connection.id, connection.opener.clone(), permit),
                Err(_) => Pick::TooMany,
            };
        }
        if live().any(|connection| matches!(connection.hello, HelloState::Pending)) {
            return Pick::Pending;
        }
        match self.why_uncertified(peer) {
            // One that was certified broke: a new one will be certified again.
            Some(reason) if entry.best().is_none() => Pick::Uncertified(reason.to_owned()),
            _ => Pick::Disconnected,
        }
    }

    /// A receiver that is told when `peer` is there, or will not be.
    pub(crate) fn wait(
        &mut self,
        peer: PeerId,
        need: Need,
    ) -> Result<oneshot::Receiver<Result<(), OpenError>>, OpenError> {
        let waiting = self.waiting.entry(peer).or_default();
        waiting.retain(|waiter| !waiter.reply.is_closed());
        if waiting.len() >= MAX_WAITING_PER_PEER {
            return Err(OpenError::TooMany { peer, limit: MAX_WAITING_PER_PEER });
        }
        let (reply, told) = oneshot::channel();
        waiting.push(Waiter { need, reply });
        Ok(told)
    }

    /// Forgets waiters whose futures were dropped.
    pub(crate) fn sweep(&mut self) {
        self.waiting.retain(|_, waiting| {
            waiting.retain(|waiter| !waiter.reply.is_closed());
            !waiting.is_empty()
        });
    }

    /// Tells those who wait for `peer`: all, or only those with this need.
    pub(crate) fn resolve(&mut self, peer: &PeerId, need: Option<Need>, outcome: &Result<(), OpenError>) {
        let Some(waiting) = self.waiting.remove(peer) else { return };
        let (told, rest): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|waiter| need.is_none_or(|need| waiter.need == need));
        for waiter in told {
            let _ = waiter.reply.send(outcome.clone());
        }
        if !rest.is_empty() {
            self.waiting.insert(*peer, rest);
        }
    }

    fn fail(&mut self, peer: &PeerId, reason: &str) {
        let error = OpenError::Unreachable { peer: peer.to_string(), reason: reason.to_owned() };
        self.resolve(peer, None, &Err(error));
    }

    /// Hands something to the swarm; false if it is too far behind.
    pub(crate) fn act(&mut self, action: Action) -> bool {
        if self.actions.len() >= MAX_ACTIONS {
            return false;
        }
        self.actions.push_back(action);
        true
    }

    /// Dials `peer`; false if the swarm is too far behind.
    pub(crate) fn dial_peer(&mut self, peer: PeerId, opts: DialOpts) -> bool {
        let id = opts.connection_id();
        let queued = self.act(Action::Dial(opts));
        if queued {
            self.dials.insert(id, Dial::Known(peer));
        }
        queued
    }

    /// Dials whoever is there; the receiver is told who it was.
    pub(crate) fn dial_unknown(&mut self, opts: DialOpts) -> Option<oneshot::Receiver<Result<PeerId, OpenError>>> {
        let id = opts.connection_id();
        let (reply, told) = oneshot::channel();
        self.act(Action::Dial(opts)).then(|| {
            self.dials.insert(id, Dial::Unknown(reply));
            told
        })
    }

    pub(crate) fn is_dialling(&self, peer: &PeerId) -> bool {
        self.dials.values().any(|dial| matches!(dial, Dial::Known(dialled) if dialled == peer))
    }

    pub(crate) fn established(&mut self, id: ConnectionId, peer: PeerId) {
        if self.closed {
            return;
        }
        self.coming.insert(id, peer);
        if let Some(Dial::Unknown(reply)) = self.dials.remove(&id) {
            let _ = reply.send(Ok(peer));
        }
    }

    /// A dial was not needed: the peer is connected.
    pub(crate) fn dial_spared(&mut self, id: ConnectionId) {
        self.dials.remove(&id);
    }

    pub(crate) fn dial_failed(&mut self, id: ConnectionId, reason: &str) {
        match self.dials.remove(&id) {
            Some(Dial::Unknown(reply)) => {
                let error = OpenError::Unreachable { peer: "the address".into(), reason: reason.to_owned() };
                let _ = reply.send(Err(error));
            }
            // Even if it is connected: whoever dialled all the same has no use for the connections that there are.
            Some(Dial::Known(peer)) if !self.is_coming(&peer) => self.fail(&peer, reason),
            _ => {}
        }
    }

    /// Entries of all maps that a connection or a dial makes, for the test that none is left behind.
    #[cfg(test)]
    pub(crate) fn entries(&self) -> usize {
        self.peers.len() + self.coming.len() + self.waiting.len() + self.dials.len() + self.actions.len()
    }
}
