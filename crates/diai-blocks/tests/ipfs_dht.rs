//! The client of IPFS's DHT beside servers that know each other.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use diai_blocks::{
    Block, BlockStore, FetchOptions, IpfsDht, IpfsDhtConfig, MemoryStore, Multihash, RAW,
    bitswap::Bitswap,
    config::{ClientConfig, FetchConfig, ServerConfig},
    fetch::{Fetcher, provider_key},
    ipfs_dht::{DhtMessage, DhtPeer, Key, Kind, Lookup, MAX_CANDIDATES, REPLICATION},
};
use diai_core::{
    AcceptError, AcceptOptions, BoxFuture, Incoming, Instant, Misbehaviour, Multiaddr, Network, OpenError, Opened,
    PeerEvents, PeerId, PeerInfo, ProtocolId, World, frame,
    memory::{AgentSpec, Sim},
    timeout_at,
};
use futures::StreamExt;
use tokio::task::JoinSet;

const PRIVATE: ProtocolId = ProtocolId::new("/ipfs/lan/kad/1.0.0");

/// Keys of the long announcement; without optimisation more take a minute.
const KEYS: u32 = if cfg!(debug_assertions) { 10_000 } else { 100_000 };
/// Keys that a server holds whatever they are.
const MOST_HELD: usize = 2_000;
const PUBLIC: ProtocolId = ProtocolId::new("/ipfs/kad/1.0.0");

type Addrs = Arc<Mutex<Vec<Multiaddr>>>;

/// A network whose peers are no agents, at addresses of this test's.
struct Strangers(Arc<dyn Network>, Addrs);

fn addr() -> Multiaddr {
    "/ip4/10.0.0.7/tcp/4001".parse().unwrap()
}

fn public_addr() -> Multiaddr {
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

fn client(sim: &Sim, number: u8) -> World {
    client_at(sim, number, vec![addr()]).0
}

fn client_at(sim: &Sim, number: u8, addrs: Vec<Multiaddr>) -> (World, Addrs) {
    let world = sim.join(AgentSpec::example(number));
    let addrs = Arc::new(Mutex::new(addrs));
    (World { network: Arc::new(Strangers(world.network.clone(), addrs.clone())), ..world }, addrs)
}

/// What each server was told, and where its provider is.
type Held = Arc<Mutex<BTreeMap<PeerId, BTreeMap<Bytes, Vec<Multiaddr>>>>>;

/// Servers of one network that all know each other.
struct Servers {
    peers: Vec<PeerId>,
    held: Held,
    _tasks: JoinSet<()>,
}

/// What a server does in place of what it should.
enum Odd {
    Say(Vec<u8>),
    /// Thinks about each message for so long.
    Slow(Duration),
    /// Answers nothing.
    Mute,
}

impl Servers {
    fn start(sim: &Sim, count: u8, odd: fn(u8) -> Option<Odd>) -> Self {
        Self::of(PRIVATE, sim, 1..=count, odd)
    }

    fn of(protocol: ProtocolId, sim: &Sim, numbers: std::ops::RangeInclusive<u8>, odd: fn(u8) -> Option<Odd>) -> Self {
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
    fn landed<'a>(&self, hashes: impl IntoIterator<Item = &'a Multihash>) -> (usize, usize) {
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
    fn told(&self, hash: &Multihash) -> Vec<Vec<Multiaddr>> {
        let held = self.held.lock().unwrap();
        held.values().filter_map(|held| held.get(&hash.to_bytes()[..])).cloned().collect()
    }
}

fn within(world: &World, seconds: u64) -> Instant {
    world.clock.now() + Duration::from_secs(seconds)
}

/// What a server with much to hold holds for the test to look at.
fn is_sample(key: &[u8]) -> bool {
    key.last().is_some_and(|last| *last < 32)
}

async fn sleep(world: &World, seconds: u64) {
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
        sleep(&world, 1).await;
        let (right, all) = servers.landed(&hashes);
        assert!(right * 100 >= all * 99, "{right} of {all} at the closest");

        let other = client(&sim, 251);
        other.network.connect(servers.peers[1], Vec::new()).await.unwrap();
        let finder = IpfsDht::start(&other, &IpfsDhtConfig::default());
        for hash in hashes.iter().step_by(100) {
            let found: Vec<_> = finder.providers(*hash).collect().await;
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].providers, [world.network.local_peer()]);
        }
        assert!(finder.servers() > REPLICATION);
    });
}

#[test]
fn servers_that_lie_are_silent_or_flood_do_not_keep_a_lookup_from_its_end() {
    let sim = Sim::new(2);
    sim.clone().run(async move {
        let servers = Servers::start(&sim, 60, |number| match number % 6 {
            0 => Some(Odd::Say(vec![0xff; 40])),
            1 => Some(Odd::Say(vec![8; 1 << 20])),
            2 => {
                // Made-up peers, closer and closer.
                let closer = (0..=255).map(|last| {
                    let seed = [number, last, 7, 7].repeat(8);
                    let key = Block::new(RAW, Bytes::from(seed)).unwrap();
                    DhtPeer { peer: PeerId::from_multihash(*key.cid.hash()).unwrap(), addrs: vec![addr()] }
                });
                let mut answer = DhtMessage::new(Kind::FindNode, Bytes::new());
                answer.closer = closer.collect();
                Some(Odd::Say(answer.to_bytes()))
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
        sleep(&world, 1).await;
        world.network.connect(servers.peers[0], Vec::new()).await.unwrap();
        while servers.held.lock().unwrap().len() < 3 {
            sleep(&world, 1).await;
        }
        dht.stop().await;
    });
}

#[test]
fn what_one_network_took_is_announced_on_the_other_when_somebody_comes_there() {
    let sim = Sim::new(4);
    sim.clone().run(async move {
        let private = Servers::start(&sim, 3, |_| None);
        let public = Servers::of(PUBLIC, &sim, 11..=13, |_| None);
        let (world, _) = client_at(&sim, 250, vec![addr(), public_addr()]);
        let dht = IpfsDht::start(&world, &IpfsDhtConfig::default());
        let hash = hashes(1)[0];
        dht.provide(hash);
        world.network.connect(private.peers[0], Vec::new()).await.unwrap();
        sleep(&world, 70).await;
        assert_eq!(private.told(&hash), vec![vec![addr()]; 3]);
        let status = dht.status();
        assert_eq!((status.private.waiting_first, status.public.waiting_first), (0, 1));
        world.network.connect(public.peers[0], Vec::new()).await.unwrap();
        sleep(&world, 70).await;
        assert_eq!(public.told(&hash), vec![vec![public_addr()]; 3]);
        assert_eq!(dht.status().public.waiting_first, 0);
    });
}

#[test]
fn all_is_announced_again_soon_after_this_device_got_a_new_address() {
    let sim = Sim::new(5);
    sim.clone().run(async move {
        let servers = Servers::start(&sim, 3, |_| None);
        let (world, addrs) = client_at(&sim, 250, vec![addr()]);
        let dht = IpfsDht::start(&world, &IpfsDhtConfig::default());
        let hashes = hashes(2);
        dht.provide(hashes[0]);
        dht.provide_many([hashes[1]]);
        world.network.connect(servers.peers[0], Vec::new()).await.unwrap();
        sleep(&world, 40).await;
        let moved: Multiaddr = "/ip4/10.0.0.8/tcp/4001".parse().unwrap();
        *addrs.lock().unwrap() = vec![moved.clone()];
        sleep(&world, 40).await;
        for hash in &hashes {
            assert_eq!(servers.told(hash), vec![vec![moved.clone()]; 3]);
        }
        // An address that comes and goes does not have all announced every time.
        let before = dht.status().private.records;
        for turn in 0..8 {
            *addrs.lock().unwrap() = if turn % 2 == 0 { vec![addr()] } else { vec![moved.clone()] };
            sleep(&world, 35).await;
        }
        let records = dht.status().private.records - before;
        assert!(records <= 2 * 3, "{records} announcements");
    });
}

#[test]
fn a_new_root_does_not_wait_for_a_long_announcement() {
    let sim = Sim::new(6);
    sim.clone().run(async move {
        let servers = Servers::start(&sim, 160, |_| Some(Odd::Slow(Duration::from_secs(2))));
        let world = client(&sim, 250);
        let dht = IpfsDht::start(&world, &IpfsDhtConfig::default());
        world.network.connect(servers.peers[0], Vec::new()).await.unwrap();
        let mut hashes = hashes(401);
        let root = hashes.pop().unwrap();
        dht.provide_many(hashes);
        sleep(&world, 1).await;
        dht.provide(root);
        sleep(&world, 20).await;
        let status = dht.status();
        assert_eq!((status.keys, status.private.waiting_first), (401, 0));
        assert!(status.private.waiting > 0, "the long one is still under way: {status:?}");
        let (right, all) = servers.landed([&root]);
        assert_eq!(right, all);
        sleep(&world, 1_000).await;
        assert_eq!(dht.status().private.waiting, 0);
    });
}

#[test]
fn very_many_keys_are_announced_by_few_lookups_and_land_where_they_are_looked_for() {
    let (keys, servers) = (KEYS, 200);
    let sim = Sim::new(7);
    sim.clone().run(async move {
        let servers = Servers::start(&sim, servers, |_| None);
        let world = client(&sim, 250);
        let dht = IpfsDht::start(&world, &IpfsDhtConfig::default());
        world.network.connect(servers.peers[0], Vec::new()).await.unwrap();
        let hashes = hashes(keys);
        for some in hashes.chunks(4096) {
            dht.provide_many(some.iter().copied());
        }
        while dht.status().private.waiting > 0 {
            sleep(&world, 1).await;
        }
        sleep(&world, 61).await;
        let status = dht.status();
        assert_eq!((status.keys, status.private.failed), (keys as usize, 0));
        let network = status.private;
        assert!(network.lookups * 500 <= u64::from(keys), "{} lookups", network.lookups);
        // Whatever goes over the network but the announcements themselves, of which the protocol wants one for each key and server.
        assert!((network.questions + network.batches) * 10 <= u64::from(keys), "{network:?}");
        assert!(network.records <= 20 * u64::from(keys), "{network:?}");
        let (right, all) = servers.landed(hashes.iter().filter(|hash| is_sample(hash.digest())));
        assert!(right * 100 >= all * 95, "{right} of {all} at the closest");
    });
}

#[test]
fn whoever_reads_no_answers_keeps_nobody_from_looking() {
    let sim = Sim::new(8);
    sim.clone().run(async move {
        let servers = Servers::start(&sim, 30, |_| None);
        let world = client(&sim, 250);
        let config = IpfsDhtConfig { max_lookups: 1, ..IpfsDhtConfig::default() };
        let dht = IpfsDht::start(&world, &config);
        world.network.connect(servers.peers[0], Vec::new()).await.unwrap();
        let hashes = hashes(2);
        assert_eq!(dht.announce(hashes.clone()).await.keys, 2);
        let mut unread = dht.providers(hashes[0]);
        assert!(unread.next().await.is_some());
        let found = timeout_at(&*world.clock, within(&world, 5), dht.providers(hashes[1]).count()).await;
        assert_eq!(found, Ok(1));
        assert_eq!(unread.next().await, None, "the other ended long ago");
    });
}

#[test]
fn a_lookup_that_nobody_waits_for_any_more_makes_room_at_once() {
    let sim = Sim::new(9);
    sim.clone().run(async move {
        let servers = Servers::start(&sim, 3, |number| (number == 1).then_some(Odd::Mute));
        let world = client(&sim, 250);
        let dht = IpfsDht::start(&world, &IpfsDhtConfig { max_lookups: 1, ..IpfsDhtConfig::default() });
        world.network.connect(servers.peers[0], Vec::new()).await.unwrap();
        let hash = hashes(1)[0];
        let waiting = dht.providers(hash);
        sleep(&world, 1).await;
        drop(waiting);
        let begun = world.clock.now();
        world.network.connect(servers.peers[1], Vec::new()).await.unwrap();
        dht.provide(hash);
        while servers.told(&hash).len() < 2 {
            sleep(&world, 1).await;
        }
        assert!(world.clock.now().since(begun) < Duration::from_secs(13), "one silence of ten seconds is its own");
    });
}

#[test]
fn keys_beyond_the_cap_are_left_out_and_counted() {
    let sim = Sim::new(10);
    sim.clone().run(async move {
        let world = client(&sim, 250);
        let dht = IpfsDht::start(&world, &IpfsDhtConfig { max_keys: 10, ..IpfsDhtConfig::default() });
        let hashes = hashes(12);
        dht.provide_many(hashes.iter().copied());
        assert_eq!((dht.status().keys, dht.status().left_out), (10, 2));
        dht.stop_providing(&hashes[0]);
        dht.provide(hashes[11]);
        assert_eq!((dht.status().keys, dht.status().left_out), (10, 2));
    });
}

/// Silent servers, and a provider that only the agents' own DHT names, after a while.
#[test]
fn a_slow_lookup_in_the_dht_of_ipfs_delays_none_in_the_agents_own() {
    let sim = Sim::new(11);
    sim.clone().run(async move {
        let servers = Servers::start(&sim, 60, |_| Some(Odd::Mute));
        let (alice, bob) = (sim.join(AgentSpec::example(249)), client(&sim, 250));
        for server in &servers.peers {
            bob.network.connect(*server, Vec::new()).await.unwrap();
        }
        let store = |world: &World| BlockStore::new(Arc::new(MemoryStore::new(1 << 20)), world.offload.clone());
        let (hers, his) = (store(&alice), store(&bob));
        let _serving = Bitswap::start(&alice, hers.clone(), ClientConfig::default(), ServerConfig::default()).unwrap();
        let bitswap = Bitswap::start(&bob, his.clone(), ClientConfig::default(), ServerConfig::default()).unwrap();
        let dht = IpfsDht::start(&bob, &IpfsDhtConfig::default());
        let fetcher = Fetcher::new(bob.clone(), his, bitswap, FetchConfig::default()).with_ipfs_dht(Some(dht));
        let block = Block::new(RAW, Bytes::from_static(b"rare")).unwrap();
        hers.put(block.clone()).await.unwrap();
        let begun = bob.clock.now();
        let options = FetchOptions::until(within(&bob, 300));
        let (fetched, ()) = futures::join!(fetcher.block(block.cid, &options), async {
            sleep(&alice, 12).await;
            alice.dht.provide(provider_key(&block.cid).unwrap()).await.unwrap();
        });
        assert_eq!(fetched.unwrap(), block.data);
        let took = bob.clock.now().since(begun);
        assert!(took < Duration::from_secs(35), "{took:?}");
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
