use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use diai_core::{
    AcceptError, AcceptOptions, BoxFuture, Inbound, Incoming, Misbehaviour, Multiaddr, Network, OpenError, Opened,
    PeerEvent, PeerEvents, PeerId, PeerInfo, ProtocolId, timeout_at,
};
use futures::Stream as Items;
use libp2p::{
    StreamProtocol,
    multiaddr::Protocol,
    swarm::{
        ConnectionId,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::sync::{OwnedSemaphorePermit, broadcast, mpsc, oneshot};

use super::{
    acceptor::{Acceptor, Counted, is_own},
    handler::{OpenFailure, OpenRequest},
    shared::Shared,
    state::{Need, Pick},
    upgrade::Negotiated,
};

/// A stream is asked for on so many connections before that is an error.
const ATTEMPTS: usize = 3;
/// The lookup of an unknown peer's addresses gets this part of the time there is.
const LOOKUP_DIVISOR: u32 = 2;

type Told = oneshot::Receiver<Result<(), OpenError>>;

/// What there is for a stream, or who will be told when there is.
enum Picked {
    Now(Pick),
    /// A hello is under way.
    Pending(Told),
    Absent(Absent),
}

/// No connection is there that was not tried.
struct Absent {
    told: Told,
    /// But one that was.
    anew: bool,
    /// A dial is under way.
    dialling: bool,
    /// Nobody has said where it is.
    unknown: bool,
}

/// The World's network.
#[derive(Clone)]
pub(crate) struct Streams(pub(crate) Arc<Shared>);

impl Network for Streams {
    fn local_peer(&self) -> PeerId {
        self.0.local
    }

    fn local_addrs(&self) -> Vec<Multiaddr> {
        self.0.local_addrs()
    }

    fn open(&self, peer: PeerId, protocols: &[ProtocolId]) -> BoxFuture<'static, Result<Opened, OpenError>> {
        let (streams, protocols) = (self.clone(), protocols.to_vec());
        Box::pin(async move { streams.in_time(peer, streams.open_one(peer, &protocols)).await })
    }

    fn accept(&self, protocols: &[ProtocolId], options: AcceptOptions) -> Result<Incoming, AcceptError> {
        let mut state = self.0.state();
        if state.closed {
            return Err(AcceptError::Closed);
        }
        if let Some(taken) = protocols.iter().find(|protocol| state.acceptors.contains_key(protocol.as_str())) {
            return Err(AcceptError::Taken(*taken));
        }
        let (acceptor, streams) = Acceptor::new(options);
        let acceptor = Arc::new(acceptor);
        for &protocol in protocols {
            state.acceptors.insert(protocol.as_str(), (protocol, Arc::clone(&acceptor)));
        }
        self.0.update_accepted(&state);
        Ok(Incoming::new(Accepted { shared: Arc::clone(&self.0), protocols: protocols.to_vec(), streams }))
    }

    fn connect(&self, peer: PeerId, addrs: Vec<Multiaddr>) -> BoxFuture<'static, Result<PeerInfo, OpenError>> {
        let streams = self.clone();
        Box::pin(async move { streams.in_time(peer, streams.connect_to(peer, addrs)).await })
    }

    fn dial(&self, addr: Multiaddr) -> BoxFuture<'static, Result<PeerInfo, OpenError>> {
        if let Some(Protocol::P2p(peer)) = addr.iter().last() {
            return self.connect(peer, vec![addr]);
        }
        let streams = self.clone();
        Box::pin(async move {
            let clock = &*streams.0.parts.clock;
            let deadline = clock.now() + streams.0.limits.open_timeout;
            let unreachable = |reason: &str| OpenError::Unreachable { peer: addr.to_string(), reason: reason.into() };
            let peer = match timeout_at(clock, deadline, streams.dial_unknown(addr.clone())).await {
                Ok(Ok(peer)) => peer,
                Ok(Err(OpenError::Unreachable { reason, .. })) => return Err(unreachable(&reason)),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(unreachable("nobody answered in time")),
            };
            streams.connect(peer, Vec::new()).await
        })
    }

    fn add_addrs(&self, peer: PeerId, addrs: Vec<Multiaddr>) {
        self.0.state().book.hear(peer, addrs);
    }

    fn peers(&self) -> Vec<PeerInfo> {
        self.0.state().peers()
    }

    fn peer(&self, peer: PeerId) -> Option<PeerInfo> {
        self.0.state().info(peer)
    }

    fn events(&self) -> PeerEvents {
        match self.0.state().subscribe() {
            Some(events) => PeerEvents::new(futures::stream::unfold(events, next_event)),
            None => PeerEvents::new(futures::stream::empty()),
        }
    }

    fn penalise(&self, peer: PeerId, misbehaviour: Misbehaviour) {
        self.0.penalise(peer, misbehaviour);
    }
}

async fn next_event(mut events: broadcast::Receiver<PeerEvent>) -> Option<(PeerEvent, broadcast::Receiver<PeerEvent>)> {
    match events.recv().await {
        Ok(event) => Some((event, events)),
        Err(broadcast::error::RecvError::Lagged(_)) => Some((PeerEvent::Missed, events)),
        Err(broadcast::error::RecvError::Closed) => None,
    }
}

impl Streams {
    async fn in_time<T>(&self, peer: PeerId, work: impl Future<Output = Result<T, OpenError>>) -> Result<T, OpenError> {
        let clock = &*self.0.parts.clock;
        let deadline = clock.now() + self.0.limits.open_timeout;
        timeout_at(clock, deadline, work).await.unwrap_or(Err(OpenError::Timeout { peer }))
    }

    fn check(&self, peer: PeerId) -> Result<(), OpenError> {
        if self.0.state().closed {
            return Err(OpenError::Closed);
        }
        if self.0.is_cut_off(&peer) {
            return Err(OpenError::CutOff { peer });
        }
        if peer == self.0.local {
            let reason = "that is this device".into();
            return Err(OpenError::Unreachable { peer: peer.to_string(), reason });
        }
        Ok(())
    }

    async fn open_one(&self, peer: PeerId, protocols: &[ProtocolId]) -> Result<Opened, OpenError> {
        let own = protocols.iter().any(|protocol| is_own(protocol.as_str()));
        let mut tried = Vec::new();
        let mut dialled = false;
        let mut reason = String::from("no connection lasted");
        while tried.len() < ATTEMPTS {
            self.check(peer)?;
            let need = if own { Need::Hello } else { Need::Connection };
            match self.pick(peer, need, &tried, dialled)? {
                Picked::Now(Pick::Ready(id, opener, permit)) => {
                    tried.push(id);
                    match self.ask(peer, &opener, protocols).await? {
                        Ok(stream) => return Ok(opened(stream, protocols, permit)),
                        Err(broken) => reason = broken,
                    }
                }
                Picked::Pending(told) => match told.await.unwrap_or(Err(OpenError::Closed)) {
                    Err(OpenError::Unreachable { reason: broken, .. }) if !dialled => reason = broken,
                    told => told?,
                },
                Picked::Absent(absent) => {
                    dialled = true;
                    self.dial_and_wait(peer, absent, Vec::new()).await?;
                }
                Picked::Now(Pick::Pending | Pick::Disconnected) => break,
                Picked::Now(Pick::Uncertified(reason)) => {
                    // What needs no certificate can be spoken all the same.
                    let others: Vec<_> = protocols.iter().copied().filter(|one| !is_own(one.as_str())).collect();
                    if others.is_empty() {
                        return Err(OpenError::Uncertified { peer, reason });
                    }
                    return Box::pin(self.open_one(peer, &others)).await;
                }
                Picked::Now(Pick::TooMany) => {
                    return Err(OpenError::TooMany { peer, limit: self.0.limits.streams_per_peer });
                }
            }
        }
        Err(OpenError::Unreachable { peer: peer.to_string(), reason })
    }

    /// Picks a connection, or waits from this very moment on: what happens between a look and a wait would be missed.
    fn pick(&self, peer: PeerId, need: Need, tried: &[ConnectionId], dialled: bool) -> Result<Picked, OpenError> {
        let mut state = self.0.state();
        Ok(match state.pick(&peer, need == Need::Hello, tried) {
            Pick::Pending => Picked::Pending(state.wait(peer, Need::Hello)?),
            Pick::Disconnected if !dialled => {
                // All that are there were tried: only a new one may do better.
                let anew = state.is_connected(&peer);
                let dialling = state.is_dialling(&peer);
                let unknown = !anew && state.book.addrs(&peer).is_empty();
                Picked::Absent(Absent { told: state.wait(peer, need)?, anew, dialling, unknown })
            }
            picked => Picked::Now(picked),
        })
    }

    /// Asks one connection; the inner error says how the connection failed.
    async fn ask(
        &self,
        peer: PeerId,
        opener: &mpsc::Sender<OpenRequest>,
        protocols: &[ProtocolId],
    ) -> Result<Result<Negotiated, String>, OpenError> {
        let (reply, told) = oneshot::channel();
        let names = protocols.iter().map(|protocol| StreamProtocol::new(protocol.as_str())).collect();
        match opener.try_send(OpenRequest { protocols: names, reply }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Closed(_)) => return Ok(Err("the connection closed".into())),
            Err(mpsc::error::TrySendError::Full(_)) => {
                return Err(OpenError::TooMany { peer, limit: self.0.limits.waiting_opens });
            }
        }
        match (told.await, protocols.first()) {
            (Ok(Ok(stream)), _) => Ok(Ok(stream)),
            (Ok(Err(OpenFailure::Unsupported)), Some(&protocol)) => Err(OpenError::Unsupported { peer, protocol }),
            (Ok(Err(OpenFailure::Timeout)), _) => Err(OpenError::Timeout { peer }),
            (Ok(Err(OpenFailure::Broken(reason))), _) => Ok(Err(reason)),
            (Ok(Err(OpenFailure::Unsupported)), None) => Ok(Err("no protocol was asked for".into())),
            (Err(_), _) => Ok(Err("the connection closed".into())),
        }
    }

    async fn connect_to(&self, peer: PeerId, addrs: Vec<Multiaddr>) -> Result<PeerInfo, OpenError> {
        self.check(peer)?;
        self.0.state().book.hear(peer, addrs.iter().cloned());
        let mut dialled = false;
        loop {
            match self.pick(peer, Need::Hello, &[], dialled)? {
                Picked::Absent(absent) => {
                    dialled = true;
                    self.dial_and_wait(peer, absent, addrs.clone()).await?;
                }
                Picked::Now(Pick::Pending | Pick::Disconnected) => {
                    let reason = "the connection closed".into();
                    return Err(OpenError::Unreachable { peer: peer.to_string(), reason });
                }
                Picked::Pending(told) => match told.await.unwrap_or(Err(OpenError::Closed)) {
                    Err(OpenError::Unreachable { .. }) if !dialled => {}
                    told => told?,
                },
                Picked::Now(Pick::Ready(..) | Pick::TooMany | Pick::Uncertified(_)) => {
                    if let Some(info) = self.0.state().info(peer) {
                        return Ok(info);
                    }
                }
            }
        }
    }

    /// Waits until `peer` is there, dialling it if nobody does: at `addrs`, at those known, or else at those that the
    /// DHT knows.
    async fn dial_and_wait(&self, peer: PeerId, absent: Absent, addrs: Vec<Multiaddr>) -> Result<(), OpenError> {
        let Absent { told, anew, dialling, unknown } = absent;
        let dial = !addrs.is_empty() || !dialling;
        let find = async {
            if dial && unknown && addrs.is_empty() {
                let within = self.0.limits.open_timeout / LOOKUP_DIVISOR;
                self.look_up(peer, within).await;
            }
            if dial {
                self.dial_peer(peer, addrs, anew)?;
            }
            std::future::pending::<Result<(), OpenError>>().await
        };
        // Whoever connects first, from whichever side, ends the wait.
        tokio::select! {
            biased;
            told = told => told.unwrap_or(Err(OpenError::Closed)),
            failed = find => failed,
        }
    }

    async fn look_up(&self, peer: PeerId, within: Duration) {
        let clock = &*self.0.parts.clock;
        // Without an answer the dial says what is missing.
        let _ = timeout_at(clock, clock.now() + within, self.0.dht.find_peer(peer)).await;
    }

    /// `anew`: although there is a connection.
    fn dial_peer(&self, peer: PeerId, addrs: Vec<Multiaddr>, anew: bool) -> Result<(), OpenError> {
        let mut state = self.0.state();
        if !anew && state.is_connected(&peer) {
            return Ok(());
        }
        let mut all = addrs;
        all.extend(state.book.addrs(&peer));
        let condition = if anew { PeerCondition::Always } else { PeerCondition::Disconnected };
        let opts = DialOpts::peer_id(peer).condition(condition).addresses(all);
        let queued = state.dial_peer(peer, opts.extend_addresses_through_behaviour().build());
        drop(state);
        self.0.wake();
        let reason = || "too many dials wait already".into();
        if queued { Ok(()) } else { Err(OpenError::Unreachable { peer: peer.to_string(), reason: reason() }) }
    }

    async fn dial_unknown(&self, addr: Multiaddr) -> Result<PeerId, OpenError> {
        let told = {
            let mut state = self.0.state();
            if state.closed {
                return Err(OpenError::Closed);
            }
            state.dial_unknown(DialOpts::unknown_peer_id().address(addr).build())
        };
        self.0.wake();
        let busy = || OpenError::Unreachable { peer: String::new(), reason: "too many dials wait already".into() };
        told.ok_or_else(busy)?.await.unwrap_or(Err(OpenError::Closed))
    }
}

fn opened((stream, name): Negotiated, protocols: &[ProtocolId], permit: OwnedSemaphorePermit) -> Opened {
    let agreed = protocols.iter().find(|protocol| protocol.as_str() == name.as_ref());
    let protocol = *agreed.expect("the negotiation picks one of those asked for");
    Opened { protocol, stream: Box::new(Counted { stream, _permit: permit }) }
}

/// What `accept` hands out; stops accepting when dropped.
struct Accepted {
    shared: Arc<Shared>,
    protocols: Vec<ProtocolId>,
    streams: mpsc::Receiver<Inbound>,
}

impl Items for Accepted {
    type Item = Inbound;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Inbound>> {
        self.streams.poll_recv(cx)
    }
}

impl Drop for Accepted {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if state.closed {
            return;
        }
        for protocol in &self.protocols {
            state.acceptors.remove(protocol.as_str());
        }
        self.shared.update_accepted(&state);
    }
}
