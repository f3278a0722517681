//! The client of IPFS's DHT beside servers that know each other.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use diai_blocks::{
    Block, IpfsDht, IpfsDhtConfig, Multihash, RAW,
    ipfs_dht::{DhtMessage, DhtPeer, Key, Kind, Lookup, MAX_CANDIDATES, REPLICATION},
};
use diai_core::{
    AcceptError, AcceptOptions, BoxFuture, Incoming, Misbehaviour, Multiaddr, Network, OpenError, Opened, PeerEvents,
    PeerId, PeerInfo, ProtocolId, World, frame,
    memory::{AgentSpec, Sim},
};
use futures::StreamExt;
use tokio::task::JoinSet;

const PRIVATE: ProtocolId = ProtocolId::new("/ipfs/lan/kad/1.0.0");

/// A network whose peers are no agents, at an address of this test's.
struct Strangers(Arc<dyn Network>);

fn addr() -> Multiaddr {
    "/ip4/10.0.0.7/tcp/4001".parse().unwrap()
}

fn stranger(mut info: PeerInfo) -> PeerInfo {
    info.agent = None;
    info
}

impl Network for Strangers {
    fn local_peer(&self) -> PeerId {
        self.0.local_peer()
    }

    fn local_addrs(&self) -> Vec<Multiaddr> {
        vec![addr()]
    }

    fn open(&self, peer: PeerId, protocols: &[ProtocolId]) -> BoxFuture<'static, Result<Opened, OpenError>> {
        self.0.open(peer, protocols)
    }

    fn accept(&self, protocols: &[ProtocolId], options: AcceptOptions) -> Result<Incoming, AcceptError> {
        self.0.accept(protocols, options)
    }

    fn connect(&self, peer: PeerId, addrs: Vec<Multiaddr>) -> BoxFuture<'static, Result<PeerInfo, OpenError>> {
        self.0.connect(peer, addrs)
    }

    fn dial(&self, addr: Multiaddr) -> BoxFuture<'static, Result<PeerInfo, OpenError>> {
        self.0.dial(addr)
    }

    fn add_addrs(&self, peer: PeerId, addrs: Vec<Multiaddr>) {
        self.0.add_addrs(peer, addrs);
    }

    fn peers(&self) -> Vec<PeerInfo> {
        self.0.peers().into_iter().map(stranger).collect()
    }

    fn peer(&self, peer: PeerId) -> Option<PeerInfo> {
        self.0.peer(peer).map(stranger)
    }

    fn events(&self) -> PeerEvents {
        self.0.events()
    }

    fn penalise(&self, peer: PeerId, misbehaviour: Misbehaviour) {
        self.0.penalise(peer, misbehaviour);
    }
}

fn client(sim: &Sim, number: u8) -> World {
    let world = sim.join(AgentSpec::example(number));
    World { network: Arc::new(Strangers(world.network.clone())), ..world }
}

type Held = Arc<Mutex<BTreeMap<PeerId, BTreeSet<Bytes>>>>;

/// Servers that all know each other, and what each was told that the client provides.
struct Servers {
    peers: Vec<PeerId>,
    held: Held,
    _tasks: JoinSet<()>,
}

impl Servers {
    /// `answer` may replace what the server of that number says.
    fn start(sim: &Sim, count: u8, answer: fn(u8) -> Option<Vec<u8>>) -> Self {
        let peers: Vec<_> = (1..=count).map(|number| AgentSpec::example(number).peer).collect();
        let (held, mut tasks) = (Held::default(), JoinSet::new());
        for number in 1..=count {
            let world = sim.join(AgentSpec::example(number));
            let mut incoming = world.network.accept(&[PRIVATE], AcceptOptions::default()).unwrap();
            let (me, peers, held) = (world.network.local_peer(), peers.clone(), held.clone());
            tasks.spawn(async move {
                while let Some(inbound) = incoming.next().await {
                    let mut stream = inbound.stream;
                    while let Ok(Some(question)) = frame::read(&mut stream, 1 << 20).await {
                        let message = DhtMessage::from_bytes(question).unwrap();
                        let said = match answer(number) {
                            Some(said) => said,
                            None if message.kind == Kind::AddProvider => {
                                assert_eq!(message.providers[0].peer, inbound.peer);
                                assert_eq!(message.providers[0].addrs, [addr()]);
                                held.lock().unwrap().entry(me).or_default().insert(message.key);
                                continue;
                            }
                            None => say(&message, &peers, &held, me),
                        };
                        let _ = frame::write(&mut stream, &said).await;
                    }
                }
            });
        }
        Self { peers, held, _tasks: tasks }
    }

    fn closest(&self, hash: &Multihash) -> Vec<PeerId> {
        closest(&self.peers, &hash.to_bytes())
    }
}

fn closest(peers: &[PeerId], key: &[u8]) -> Vec<PeerId> {
    let target = Key::of(key);
    let mut peers = peers.to_vec();
    peers.sort_by_key(|peer| Key::of_peer(peer).distance(&target));
    peers.truncate(REPLICATION);
    peers
}

fn say(message: &DhtMessage, peers: &[PeerId], held: &Held, me: PeerId) -> Vec<u8> {
    let at = |peer: PeerId| DhtPeer { peer, addrs: vec![addr()] };
    let mut answer = DhtMessage::new(message.kind, message.key.clone());
    answer.closer = closest(peers, &message.key).into_iter().map(at).collect();
    let provides = held.lock().unwrap().get(&me).is_some_and(|held| held.contains(&message.key));
    answer.providers.extend((message.kind == Kind::GetProviders && provides).then(|| at(AgentSpec::example(250).peer)));
    answer.to_bytes()
}

fn hashes(count: u32) -> Vec<Multihash> {
    let block = |number: u32| Block::new(RAW, Bytes::from(number.to_be_bytes().to_vec())).unwrap();
    (0..count).map(|number| *block(number).cid.hash()).collect()
}

#[test]
fn thousands_of_keys_reach_their_closest_servers_by_few_lookups_and_are_found() {
    let sim = Sim::new(1);
    sim.clone().run(async move {
        let servers = Servers::start(&sim, 200, |_| None);
        let world = client(&sim, 250);
        let dht = IpfsDht::start(&world, &IpfsDhtConfig::default());
        world.network.connect(servers.peers[0], Vec::new()).await.unwrap();
        let hashes = hashes(2_000);
        let announced = dht.announce(hashes.clone()).await;
        assert_eq!((announced.keys, announced.failed), (2_000, 0));
        assert!(announced.lookups <= 64, "{} lookups", announced.lookups);
        let (mut right, mut all) = (0, 0);
        for hash in &hashes {
            let held = servers.held.lock().unwrap();
            let holds = |peer: &&PeerId| held.get(peer).is_some_and(|held| held.contains(&hash.to_bytes()[..]));
            right += servers.closest(hash).iter().filter(holds).count();
            all += REPLICATION;
        }
        assert!(right * 100 >= all * 90, "{right} of {all} at the closest");

        let other = client(&sim, 251);
        other.network.connect(servers.peers[1], Vec::new()).await.unwrap();
        let finder = IpfsDht::start(&other, &IpfsDhtConfig::default());
        for hash in hashes.iter().step_by(100) {
            let found: Vec<_> = finder.providers(*hash).collect().await;
            assert_eq!(found, [vec![world.network.local_peer()]]);
        }
        assert!(finder.servers() > REPLICATION);
    });
}

#[test]
fn servers_that_lie_are_silent_or_flood_do_not_keep_a_lookup_from_its_end() {
    let sim = Sim::new(2);
    sim.clone().run(async move {
        let servers = Servers::start(&sim, 60, |number| match number % 6 {
            0 => Some(vec![0xff; 40]),
            1 => Some(vec![8; 1 << 20]),
            2 => {
                // Made-up peers, closer and closer.
                let closer = (0..=255).map(|last| {
                    let seed = [number, last, 7, 7].repeat(8);
                    let key = Block::new(RAW, Bytes::from(seed)).unwrap();
                    DhtPeer { peer: PeerId::from_multihash(*key.cid.hash()).unwrap(), addrs: vec![addr()] }
                });
                let mut answer = DhtMessage::new(Kind::FindNode, Bytes::new());
                answer.closer = closer.collect();
                Some(answer.to_bytes())
            }
            _ => None,
        });
        let world = client(&sim, 250);
        let dht = IpfsDht::start(&world, &IpfsDhtConfig::default());
        world.network.connect(servers.peers[2], Vec::new()).await.unwrap();
        let announced = dht.announce(hashes(10)).await;
        assert_eq!((announced.keys, announced.failed), (10, 0), "{announced:?}");
    });
}

#[test]
fn what_is_provided_while_nobody_is_there_is_announced_when_somebody_comes() {
    let sim = Sim::new(3);
    sim.clone().run(async move {
        let servers = Servers::start(&sim, 3, |_| None);
        let world = client(&sim, 250);
        let dht = IpfsDht::start(&world, &IpfsDhtConfig::default());
        let hash = hashes(1)[0];
        dht.provide(hash);
        world.clock.sleep_until(world.clock.now() + std::time::Duration::from_secs(1)).await;
        world.network.connect(servers.peers[0], Vec::new()).await.unwrap();
        while servers.held.lock().unwrap().len() < 3 {
            world.clock.sleep_until(world.clock.now() + std::time::Duration::from_secs(1)).await;
        }
        dht.stop().await;
    });
}

#[test]
fn a_message_has_the_bytes_that_go_gives_it() {
    let mut message = DhtMessage::new(Kind::AddProvider, Bytes::from_static(&[0x12, 0x02, 0xaa, 0xbb]));
    message
        .providers
        .push(DhtPeer { peer: AgentSpec::example(1).peer, addrs: vec!["/ip4/10.0.0.1/tcp/1".parse().unwrap()] });
    let bytes = message.to_bytes();
    let peer = AgentSpec::example(1).peer.to_bytes();
    let inner = [&[0x0a, peer.len() as u8][..], &peer, &[0x12, 8, 4, 10, 0, 0, 1, 6, 0, 1, 0x18, 1]].concat();
    let golden = [&[8, 2, 0x12, 4, 0x12, 2, 0xaa, 0xbb, 0x4a, inner.len() as u8][..], &inner].concat();
    assert_eq!(bytes, golden);
    assert_eq!(DhtMessage::from_bytes(bytes.into()), Ok(message));
    for bad in [&[8, 9][..], &[8, 4, 0x12], &[0x42, 200, 1]] {
        assert!(DhtMessage::from_bytes(Bytes::copy_from_slice(bad)).is_err(), "{bad:?}");
    }
}

#[test]
fn a_lookup_asks_ten_at_a_time_and_keeps_few_in_sight() {
    let local = AgentSpec::example(250).peer;
    let peers: Vec<_> = (0..=249).map(|number| AgentSpec::example(number).peer).collect();
    let mut lookup = Lookup::new(Key::of(b"key"), local, REPLICATION, peers.clone().into_iter().take(1).chain([local]));
    let first = lookup.next_peer().unwrap();
    assert_eq!((first, lookup.next_peer()), (peers[0], None));
    lookup.answered(&first, peers.iter().copied());
    let asked: Vec<_> = std::iter::from_fn(|| lookup.next_peer()).collect();
    assert_eq!(asked.len(), 10);
    assert!(!lookup.is_done());
    for peer in &asked {
        lookup.failed(peer);
    }
    let mut rounds = 0;
    while let Some(peer) = lookup.next_peer() {
        lookup.answered(&peer, peers.iter().copied());
        rounds += 1;
    }
    assert!(lookup.is_done() && rounds <= MAX_CANDIDATES);
    assert!(lookup.closest().count() >= REPLICATION);
    assert_eq!(lookup.silent().count(), 10);
}
