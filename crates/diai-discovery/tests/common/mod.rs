//! Agents over the in-memory World, and Worlds with a fault.
#![allow(dead_code, unreachable_pub, reason = "each test target is a crate of its own and uses some of it")]

use std::{
    io,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use diai_core::{
    AcceptError, AcceptOptions, BoxFuture, Bytes, Dht, DhtError, Disk, DiskFile, DiskLock, Entropy, Entry, Incoming,
    Misbehaviour, Multiaddr, Network, OpenError, OpenMode, Opened, PeerEvents, PeerId, PeerInfo, ProtocolId,
    ProviderStream, RecordKey, RecordValidator, World,
    memory::{AgentSpec, Sim},
    timeout_at,
};
use diai_discovery::{CapabilityPath, Config, Discovery, FindOptions, Found, Registration, record_key};
use diai_identity::Identity;
use futures::{StreamExt, stream};

/// Random bytes that are the same in every run.
pub struct Seeded(Mutex<u64>);

impl Seeded {
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }
}

impl Entropy for Seeded {
    fn fill(&self, buffer: &mut [u8]) {
        let mut state = self.0.lock().unwrap();
        for byte in buffer {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (*state >> 56) as u8;
        }
    }
}

/// A device in `sim` whose keys depend on `number` alone.
pub fn join(sim: &Sim, number: u64) -> (World, Identity) {
    let identity = Identity::generate(&Seeded::new(number), sim.wall());
    (join_as(sim, &identity), identity)
}

pub fn join_as(sim: &Sim, identity: &Identity) -> World {
    let certificate = identity.certificate().to_bytes();
    sim.join(AgentSpec { agent: identity.agent(), peer: identity.peer(), certificate })
}

/// A device that runs discovery with the default configuration.
pub struct Agent {
    pub world: World,
    pub identity: Identity,
    pub discovery: Discovery,
}

impl Agent {
    pub async fn start(sim: &Sim, number: u64) -> Self {
        let (world, identity) = join(sim, number);
        Self::start_in(world, identity).await
    }

    pub async fn start_in(world: World, identity: Identity) -> Self {
        let discovery = Discovery::start(&world, identity.clone(), Config::default()).await.unwrap();
        Self { world, identity, discovery }
    }

    pub async fn offering(sim: &Sim, number: u64, capabilities: &[&str]) -> Self {
        let agent = Self::start(sim, number).await;
        agent.register(capabilities).await;
        agent
    }

    pub async fn register(&self, capabilities: &[&str]) {
        self.discovery.register(registration(capabilities)).await.unwrap();
    }

    /// The devices that offer `text`, best first.
    pub async fn find(&self, text: &str) -> Vec<Found> {
        self.discovery.find_all(&path(text), FindOptions::default()).await
    }

    pub async fn find_peers(&self, text: &str) -> Vec<PeerId> {
        let mut peers: Vec<_> = self.find(text).await.iter().map(Found::peer).collect();
        peers.sort();
        peers
    }

    pub fn peer(&self) -> PeerId {
        self.identity.peer()
    }

    pub async fn wait(&self, duration: Duration) {
        self.world.clock.sleep_until(self.world.clock.now() + duration).await;
    }

    pub async fn connect(&self, other: &Self) {
        self.world.network.connect(other.peer(), Vec::new()).await.unwrap();
    }

    /// Waits until a record of `peer` satisfies `condition`.
    pub async fn wait_for(&self, peer: PeerId, condition: impl Fn(&diai_discovery::AgentRecord) -> bool) {
        let mut events = self.discovery.events();
        let found = async {
            while !self.discovery.known().iter().any(|record| record.peer == peer && condition(record)) {
                events.next().await.expect("discovery runs");
            }
        };
        let clock = &*self.world.clock;
        timeout_at(clock, clock.now() + Duration::from_secs(60), found).await.expect("the record comes");
    }
}

pub fn path(text: &str) -> CapabilityPath {
    text.parse().unwrap()
}

pub fn registration(capabilities: &[&str]) -> Registration {
    Registration::of(capabilities.iter().map(|text| path(text)))
}

/// A DHT that fails on demand, and counts.
pub struct FaultyDht {
    inner: Arc<dyn Dht>,
    /// Nothing works.
    pub dead: AtomicBool,
    /// Records are accepted, and lost.
    pub loses_records: AtomicBool,
    pub lookups: AtomicUsize,
    /// Named as providers before all others; a lookup of their records never ends.
    pub made_up: Mutex<Vec<PeerId>>,
}

impl FaultyDht {
    /// Puts it in front of the DHT of `world`.
    pub fn install(world: &mut World) -> Arc<Self> {
        let faulty = Arc::new(Self {
            inner: world.dht.clone(),
            dead: AtomicBool::new(false),
            loses_records: AtomicBool::new(false),
            lookups: AtomicUsize::new(0),
            made_up: Mutex::default(),
        });
        world.dht = faulty.clone();
        faulty
    }

    fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }
}

fn timeout<T: Send + 'static>() -> BoxFuture<'static, Result<T, DhtError>> {
    Box::pin(async { Err(DhtError::Timeout) })
}

impl Dht for FaultyDht {
    fn closest(&self, key: RecordKey) -> BoxFuture<'static, Result<Vec<PeerId>, DhtError>> {
        if self.is_dead() { timeout() } else { self.inner.closest(key) }
    }

    fn put(&self, key: RecordKey, value: Bytes) -> BoxFuture<'static, Result<(), DhtError>> {
        if self.is_dead() {
            timeout()
        } else if self.loses_records.load(Ordering::Relaxed) {
            Box::pin(async { Ok(()) })
        } else {
            self.inner.put(key, value)
        }
    }

    fn get(&self, key: RecordKey) -> BoxFuture<'static, Result<Option<Bytes>, DhtError>> {
        if self.made_up.lock().unwrap().iter().any(|&peer| record_key(peer) == key) {
            return Box::pin(std::future::pending());
        }
        if self.is_dead() { timeout() } else { self.inner.get(key) }
    }

    fn provide(&self, key: RecordKey) -> BoxFuture<'static, Result<(), DhtError>> {
        if self.is_dead() { timeout() } else { self.inner.provide(key) }
    }

    fn stop_providing(&self, key: &RecordKey) {
        self.inner.stop_providing(key);
    }

    fn providers(&self, key: RecordKey) -> ProviderStream {
        self.lookups.fetch_add(1, Ordering::Relaxed);
        if self.is_dead() {
            return stream::once(async { Err(DhtError::Timeout) }).boxed();
        }
        let made_up = self.made_up.lock().unwrap().clone();
        stream::once(async { Ok(made_up) }).chain(self.inner.providers(key)).boxed()
    }

    fn register_validator(&self, namespace: &'static str, validator: Arc<dyn RecordValidator>) {
        self.inner.register_validator(namespace, validator);
    }
}

/// A network whose addresses are set by hand, and that remembers those it was told.
pub struct Addressed {
    inner: Arc<dyn Network>,
    pub local: Mutex<Vec<Multiaddr>>,
    pub added: Mutex<Vec<(PeerId, Vec<Multiaddr>)>>,
}

impl Addressed {
    /// Puts it in front of the network of `world`.
    pub fn install(world: &mut World, local: Vec<Multiaddr>) -> Arc<Self> {
        let network = Self { inner: world.network.clone(), local: Mutex::new(local), added: Mutex::default() };
        let network = Arc::new(network);
        world.network = network.clone();
        network
    }
}

impl Network for Addressed {
    fn local_peer(&self) -> PeerId {
        self.inner.local_peer()
    }

    fn local_addrs(&self) -> Vec<Multiaddr> {
        self.local.lock().unwrap().clone()
    }

    fn open(&self, peer: PeerId, protocols: &[ProtocolId]) -> BoxFuture<'static, Result<Opened, OpenError>> {
        self.inner.open(peer, protocols)
    }

    fn accept(&self, protocols: &[ProtocolId], options: AcceptOptions) -> Result<Incoming, AcceptError> {
        self.inner.accept(protocols, options)
    }

    fn connect(&self, peer: PeerId, addrs: Vec<Multiaddr>) -> BoxFuture<'static, Result<PeerInfo, OpenError>> {
        self.inner.connect(peer, addrs)
    }

    fn dial(&self, addr: Multiaddr) -> BoxFuture<'static, Result<PeerInfo, OpenError>> {
        self.inner.dial(addr)
    }

    fn add_addrs(&self, peer: PeerId, addrs: Vec<Multiaddr>) {
        self.added.lock().unwrap().push((peer, addrs));
    }

    fn peers(&self) -> Vec<PeerInfo> {
        self.inner.peers()
    }

    fn peer(&self, peer: PeerId) -> Option<PeerInfo> {
        self.inner.peer(peer)
    }

    fn events(&self) -> PeerEvents {
        self.inner.events()
    }

    fn penalise(&self, peer: PeerId, misbehaviour: Misbehaviour) {
        self.inner.penalise(peer, misbehaviour);
    }
}

/// A disk that knows which of its files are open.
pub struct WatchedDisk {
    inner: Arc<dyn Disk>,
    files: Mutex<Vec<Weak<dyn DiskFile>>>,
}

impl WatchedDisk {
    /// Puts it in front of the disk of `world`.
    pub fn install(world: &mut World) -> Arc<Self> {
        let disk = Arc::new(Self { inner: world.disk.clone(), files: Mutex::default() });
        world.disk = disk.clone();
        disk
    }

    pub fn open_files(&self) -> usize {
        self.files.lock().unwrap().iter().filter(|file| file.strong_count() > 0).count()
    }
}

/// A handle of its own for each opening, whatever the disk shares.
struct WatchedFile(Arc<dyn DiskFile>);

impl DiskFile for WatchedFile {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, data)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
}

impl Disk for WatchedDisk {
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file: Arc<dyn DiskFile> = Arc::new(WatchedFile(self.inner.open(path, mode)?));
        self.files.lock().unwrap().push(Arc::downgrade(&file));
        Ok(file)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.inner.remove(path)
    }

    fn create_folder(&self, path: &str) -> io::Result<()> {
        self.inner.create_folder(path)
    }

    fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        self.inner.list(path)
    }

    fn entry(&self, path: &str) -> io::Result<Entry> {
        self.inner.entry(path)
    }

    fn read_link(&self, path: &str) -> io::Result<String> {
        self.inner.read_link(path)
    }

    fn create_link(&self, path: &str, target: &str) -> io::Result<()> {
        self.inner.create_link(path, target)
    }

    fn sync_folder(&self, path: &str) -> io::Result<()> {
        self.inner.sync_folder(path)
    }

    fn lock(&self, path: &str) -> io::Result<DiskLock> {
        self.inner.lock(path)
    }
}
