//! Servers of IPFS's DHT that know each other.

#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use diai_blocks::{
    Block, Multihash, RAW,
    ipfs_dht::{DhtMessage, DhtPeer, Key, Kind, REPLICATION},
};
use diai_core::{
    AcceptError, AcceptOptions, BoxFuture, Incoming, Instant, Misbehaviour, Multiaddr, Network, OpenError, Opened,
    PeerEvents, PeerId, PeerInfo, ProtocolId, World, frame,
    memory::{AgentSpec, Sim},
};
use futures::StreamExt;
use tokio::task::JoinSet;

pub const PRIVATE: ProtocolId = ProtocolId::new("/ipfs/lan/kad/1.0.0");

/// Keys that a server holds whatever they are.
const MOST_HELD: usize = 2_000;
pub const PUBLIC: ProtocolId = ProtocolId::new("/ipfs/kad/1.0.0");

pub type Addrs = Arc<Mutex<Vec<Multiaddr>>>;

/// A network whose peers are no agents, at addresses of this test's.
struct Strangers(Arc<dyn Network>, Addrs);

pub fn addr() -> Multiaddr {
    "/ip4/10.0.0.7/tcp/4001".parse().unwrap()
}

pub fn public_addr() -> Multiaddr {
    "/ip4/8.8.8.7/tcp/4001".parse().unwrap()
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
        self.1.lock().unwrap().clone()
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

pub fn client(sim: &Sim, number: u8) -> World {
    client_at(sim, number, vec![addr()]).0
}

pub fn client_at(sim: &Sim, number: u8, addrs: Vec<Multiaddr>) -> (World, Addrs) {
    let world = sim.join(AgentSpec::example(number));
    let addrs = Arc::new(Mutex::new(addrs));
    (World { network: Arc::new(Strangers(world.network.clone(), addrs.clone())), ..world }, addrs)
}

/// What each server was told, and where its provider is.
pub type Held = Arc<Mutex<BTreeMap<PeerId, BTreeMap<Bytes, Vec<Multiaddr>>>>>;

/// Servers of one network that all know each other.
pub struct Servers {
    pub peers: Vec<PeerId>,
    pub held: Held,
    _tasks: JoinSet<()>,
}

/// What a server does in place of what it should.
pub enum Odd {
    Say(Vec<u8>),
    /// Thinks about each message for so long.
    Slow(Duration),
    /// Answers nothing.
    Mute,
}

impl Servers {
    pub fn start(sim: &Sim, count: u8, odd: fn(u8) -> Option<Odd>) -> Self {
        Self::of(PRIVATE, sim, 1..=count, odd)
    }

    pub fn of(
        protocol: ProtocolId,
        sim: &Sim,
        numbers: std::ops::RangeInclusive<u8>,
        odd: fn(u8) -> Option<Odd>,
    ) -> Self {
        let peers: Vec<_> = numbers.clone().map(|number| AgentSpec::example(number).peer).collect();
        let (held, mut tasks) = (Held::default(), JoinSet::new());
        for number in numbers {
            let world = sim.join(AgentSpec::example(number));
            let options = AcceptOptions { max_waiting: 4096, max_per_peer: 4096, uncertified: true };
            let mut incoming = world.network.accept(&[protocol], options).unwrap();
            let (me, peers, held) = (world.network.local_peer(), peers.clone(), held.clone());
            tasks.spawn(async move {
                let mut serving = JoinSet::new();
                while let Some(inbound) = incoming.next().await {
                    let (peers, held, clock) = (peers.clone(), held.clone(), world.clock.clone());
                    serving.spawn(async move {
                        let mut stream = inbound.stream;
                        while let Ok(Some(question)) = frame::read(&mut stream, 1 << 20).await {
                            let mut message = DhtMessage::from_bytes(question).unwrap();
                            let odd = odd(number);
                            if let Some(Odd::Slow(time)) = odd {
                                clock.sleep_until(clock.now() + time).await;
                            }
                            let said = match odd {
                                Some(Odd::Say(said)) => said,
                                Some(Odd::Mute) => std::future::pending().await,
                                _ if message.kind == Kind::AddProvider => {
                                    let DhtPeer { peer, addrs } = message.providers.remove(0);
                                    assert_eq!(peer, inbound.peer);
                                    let mut held = held.lock().unwrap();
                                    let held = held.entry(me).or_default();
                                    if held.len() < MOST_HELD || is_sample(&message.key) {
                                        held.insert(Bytes::copy_from_slice(&message.key), addrs);
                                    }
                                    continue;
                                }
                                _ => say(&message, &peers, &held, me, protocol),
                            };
                            let _ = frame::write(&mut stream, &said).await;
                        }
                    });
                }
            });
        }
        Self { peers, held, _tasks: tasks }
    }

    /// Of so many announcements of `hashes` as there should be, how many are where they should be.
    pub fn landed<'a>(&self, hashes: impl IntoIterator<Item = &'a Multihash>) -> (usize, usize) {
        let (mut right, mut all) = (0, 0);
        let held = self.held.lock().unwrap();
        for hash in hashes {
            let key = hash.to_bytes();
            let holds = |peer: &&PeerId| held.get(peer).is_some_and(|held| held.contains_key(&key[..]));
            let closest = closest(&self.peers, &key);
            right += closest.iter().filter(holds).count();
            all += closest.len();
        }
        (right, all)
    }

    /// Where whoever holds `hash` was told that its provider is.
    pub fn told(&self, hash: &Multihash) -> Vec<Vec<Multiaddr>> {
        let held = self.held.lock().unwrap();
        held.values().filter_map(|held| held.get(&hash.to_bytes()[..])).cloned().collect()
    }
}

pub fn within(world: &World, seconds: u64) -> Instant {
    world.clock.now() + Duration::from_secs(seconds)
}

/// What a server with much to hold holds for the test to look at.
pub fn is_sample(key: &[u8]) -> bool {
    key.last().is_some_and(|last| *last < 32)
}

pub async fn sleep(world: &World, seconds: u64) {
    world.clock.sleep_until(world.clock.now() + Duration::from_secs(seconds)).await;
}

fn closest(peers: &[PeerId], key: &[u8]) -> Vec<PeerId> {
    let target = Key::of(key);
    let mut peers = peers.to_vec();
    peers.sort_by_key(|peer| Key::of_peer(peer).distance(&target));
    peers.truncate(REPLICATION);
    peers
}

fn say(message: &DhtMessage, peers: &[PeerId], held: &Held, me: PeerId, protocol: ProtocolId) -> Vec<u8> {
    let addr = if protocol == PRIVATE { addr() } else { public_addr() };
    let at = |peer: PeerId| DhtPeer { peer, addrs: vec![addr.clone()] };
    let mut answer = DhtMessage::new(message.kind, message.key.clone());
    answer.closer = closest(peers, &message.key).into_iter().map(at).collect();
    let provides = held.lock().unwrap().get(&me).is_some_and(|held| held.contains_key(&message.key));
    answer.providers.extend((message.kind == Kind::GetProviders && provides).then(|| at(AgentSpec::example(250).peer)));
    answer.to_bytes()
}

pub fn hashes(count: u32) -> Vec<Multihash> {
    let block = |number: u32| Block::new(RAW, Bytes::from(number.to_be_bytes().to_vec())).unwrap();
    (0..count).map(|number| *block(number).cid.hash()).collect()
}
