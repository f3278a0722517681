use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use diai_core::{
    AcceptOptions, Clock, Network, OpenError, PeerEvent, ProtocolId,
    os::{FsDisk, OsClock, OsEntropy, ThreadPool},
    timeout_at,
};
use diai_identity::Identity;
use futures::{StreamExt, poll};
use libp2p::{PeerId, Swarm, swarm::ConnectionId};
use tokio::sync::mpsc;

use super::{
    Shared, Streams,
    handler::{OpenFailure, OpenRequest},
    peer::Route,
    state::Action,
};
use crate::{Behaviour, Config, Parts, config::Limits, hello::Hello, kad::DhtShared, transport};

const PROTOCOL: ProtocolId = ProtocolId::new("/diai/churn/1");
const ROUNDS: usize = 200;

fn node(parts: &Parts) -> (Swarm<Behaviour>, Arc<Shared>) {
    let identity = Identity::generate(&OsEntropy, parts.clock.wall());
    let keypair = identity.device_keypair();
    let (behaviour, _) = Behaviour::new(identity, parts.clone(), &Config::test());
    let shared = behaviour.shared();
    (transport::swarm(keypair, behaviour, &Config::test()).unwrap(), shared)
}

async fn drive(mut swarm: Swarm<Behaviour>) {
    loop {
        swarm.select_next_some().await;
    }
}

/// A visitor comes, opens a stream, and is gone without a farewell.
async fn visit(parts: &Parts, host: PeerId, hosts: &Streams) {
    let (swarm, shared) = node(parts);
    let mut task = tokio::task::JoinSet::new();
    task.spawn(drive(swarm));
    let streams = Streams(shared);
    streams.connect(host, hosts.local_addrs()).await.unwrap();
    streams.open(host, &[PROTOCOL]).await.unwrap();
}

/// The shared state without a swarm: the tests say what connections do.
struct Bare {
    streams: Streams,
    folder: std::path::PathBuf,
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// What the handler of a connection has.
struct Connection {
    requests: mpsc::Receiver<OpenRequest>,
    keep: Arc<AtomicBool>,
}

impl Bare {
    fn new(limits: Limits) -> Self {
        let folder = std::env::temp_dir().join(format!("diai-net-bare-{}", PeerId::random()));
        let parts = Parts {
            clock: Arc::new(OsClock::new()),
            entropy: Arc::new(OsEntropy),
            disk: Arc::new(FsDisk::open(&folder).unwrap()),
            offload: Arc::new(ThreadPool::new(1)),
        };
        let shared = Shared::new(identity(), parts, limits, DhtShared::new().0);
        Self { streams: Streams(shared), folder }
    }

    fn connected(&self, peer: PeerId, id: usize, dialled: bool) -> Connection {
        let (opener, requests) = mpsc::channel(8);
        let keep = Arc::<AtomicBool>::default();
        let route = Route { dialled, relayed: false };
        self.streams.0.connected(peer, number(id), route, opener, Arc::clone(&keep));
        Connection { requests, keep }
    }

    fn certified(&self, who: &Identity, id: usize) {
        let shown = Hello { certificate: who.certificate(), addrs: Vec::new(), dht_server: false };
        self.streams.0.certified(who.peer(), number(id), shown, 1);
    }

    fn disconnected(&self, peer: PeerId, id: ConnectionId) {
        self.streams.0.state().disconnected(peer, id);
    }

    /// The dial that was asked for.
    fn dial(&self) -> ConnectionId {
        match self.streams.0.state().actions.pop_front() {
            Some(Action::Dial(opts)) => opts.connection_id(),
            other => panic!("no dial: {other:?}"),
        }
    }
}

/// Far from the numbers that dials get.
fn number(id: usize) -> ConnectionId {
    ConnectionId::new_unchecked(1_000_000 + id)
}

fn identity() -> Identity {
    Identity::generate(&OsEntropy, OsClock::new().wall())
}

#[tokio::test]
async fn a_connection_that_gives_no_stream_is_dialled_anew_though_it_stands() {
    let (bare, who) = (Bare::new(Limits::default()), identity());
    let mut connection = bare.connected(who.peer(), 1, true);
    bare.certified(&who, 1);
    let mut open = bare.streams.open(who.peer(), &[PROTOCOL]);
    assert!(poll!(&mut open).is_pending());
    let broken = Err(OpenFailure::Broken("reset".into()));
    assert!(connection.requests.recv().await.unwrap().reply.send(broken).is_ok());
    assert!(poll!(&mut open).is_pending());
    let dial = bare.dial();
    // Also when that fails, whoever waits is told at once.
    bare.streams.0.state().dial_failed(dial, "nobody there");
    let error = open.await.unwrap_err();
    assert_eq!(error, OpenError::Unreachable { peer: who.peer().to_string(), reason: "nobody there".into() });
}

#[tokio::test]
async fn a_connection_that_died_unnoticed_is_dialled_anew_and_the_new_one_serves() {
    let (bare, who) = (Bare::new(Limits::default()), identity());
    drop(bare.connected(who.peer(), 1, true));
    bare.certified(&who, 1);
    let mut open = bare.streams.open(who.peer(), &[PROTOCOL]);
    assert!(poll!(&mut open).is_pending());
    let dial = bare.dial();
    bare.streams.0.state().established(dial, who.peer());
    // The old one is reported closed before the new one is known: that is not the end.
    bare.disconnected(who.peer(), number(1));
    assert!(poll!(&mut open).is_pending());
    let (opener, mut requests) = mpsc::channel(8);
    bare.streams.0.connected(who.peer(), dial, Route { dialled: true, relayed: false }, opener, Arc::default());
    let shown = Hello { certificate: who.certificate(), addrs: Vec::new(), dht_server: false };
    bare.streams.0.certified(who.peer(), dial, shown, 1);
    assert!(poll!(&mut open).is_pending());
    assert!(requests.try_recv().is_ok());
}

#[tokio::test]
async fn whoever_waits_for_a_hello_is_told_when_its_connection_closes() {
    let (bare, who) = (Bare::new(Limits::default()), identity());
    let (first, second) = (number(1), number(2));
    let _first = bare.connected(who.peer(), 1, false);
    bare.streams.0.state().uncertified(who.peer(), first, "it has none".into());
    let _second = bare.connected(who.peer(), 2, false);
    let mut connect = bare.streams.connect(who.peer(), Vec::new());
    assert!(poll!(&mut connect).is_pending());
    bare.disconnected(who.peer(), second);
    assert_eq!(connect.await.unwrap().agent, None);
    let peer = PeerId::random();
    let mut connect = bare.streams.connect(peer, vec!["/ip4/127.0.0.1/tcp/1".parse().unwrap()]);
    assert!(poll!(&mut connect).is_pending());
    // This one closes before its handler has run.
    let dial = bare.dial();
    bare.streams.0.state().established(dial, peer);
    bare.disconnected(peer, dial);
    assert!(matches!(connect.await, Err(OpenError::Unreachable { .. })));
    assert_eq!(bare.streams.0.state().entries(), 1, "the first connection");
}

#[tokio::test]
async fn of_certificates_the_newest_counts_on_whichever_connection_it_was_shown() {
    let (bare, who) = (Bare::new(Limits::default()), identity());
    let (_old, _new) = (bare.connected(who.peer(), 1, true), bare.connected(who.peer(), 2, true));
    bare.certified(&who, 2);
    let before = Hello { certificate: who.certificate(), addrs: Vec::new(), dht_server: false };
    let renewed = who.renew_certificate(OsClock::new().wall()).await.unwrap();
    bare.certified(&who, 1);
    let certificate = || bare.streams.peer(who.peer()).unwrap().certificate;
    assert_eq!(certificate(), Some(renewed.to_bytes()), "though the other connection is preferred");
    bare.streams.0.certified(who.peer(), number(2), before, 1);
    assert_eq!(certificate(), Some(renewed.to_bytes()), "an older one does not take its place");
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_until_it_was_seen() {
    let (bare, who) = (Bare::new(Limits::default()), identity());
    let _connection = bare.connected(who.peer(), 1, true);
    bare.certified(&who, 1);
    let untold = |seq| bare.streams.0.state().untold(seq);
    assert!(untold(1).is_empty());
    assert_eq!(untold(2), [who.peer()]);
    bare.streams.0.state().told(&who.peer(), 2);
    assert!(untold(2).is_empty());
}

#[tokio::test]
async fn those_that_we_dialled_are_kept_before_those_that_came() {
    let bare = Bare::new(Limits { kept_connections: 2, ..Limits::default() });
    let people: Vec<_> = (0..4).map(|_| identity()).collect();
    let mut connections = Vec::new();
    for (index, who) in people.iter().enumerate() {
        connections.push(bare.connected(who.peer(), index, index == 3));
        bare.certified(who, index);
    }
    let kept: Vec<_> = connections.iter().map(|connection| connection.keep.load(Ordering::Relaxed)).collect();
    assert!(kept[3], "{kept:?}");
    assert_eq!(kept.iter().filter(|kept| **kept).count(), 2, "{kept:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_visitors_leave_nothing_behind() {
    let folder = std::env::temp_dir().join(format!("diai-net-churn-{}", PeerId::random()));
    let clock = Arc::new(OsClock::new());
    let parts = Parts {
        clock: clock.clone(),
        entropy: Arc::new(OsEntropy),
        disk: Arc::new(FsDisk::open(&folder).unwrap()),
        offload: Arc::new(ThreadPool::new(1)),
    };
    let (mut swarm, shared) = node(&parts);
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    let host = Streams(Arc::clone(&shared));
    while host.local_addrs().is_empty() {
        swarm.select_next_some().await;
    }
    let peer = *swarm.local_peer_id();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(drive(swarm));
    let mut events = host.events();
    let mut incoming = host.accept(&[PROTOCOL], AcceptOptions::default()).unwrap();
    let rounds = async {
        for _ in 0..ROUNDS {
            visit(&parts, peer, &host).await;
            drop(incoming.next().await.unwrap());
            while !matches!(events.next().await, Some(PeerEvent::Disconnected(_))) {}
        }
    };
    let deadline = clock.now() + std::time::Duration::from_secs(240);
    timeout_at(&*clock, deadline, rounds).await.unwrap();
    assert_eq!(shared.state().entries(), 0);
    assert!(shared.state().acceptors.values().all(|(_, acceptor)| acceptor.is_idle()));
    tasks.shutdown().await;
    drop((host, incoming, shared, parts));
    std::fs::remove_dir_all(folder).unwrap();
}
