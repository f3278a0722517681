//! Real nodes on loopback.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use std::{path::PathBuf, sync::Arc, time::Duration};

use diai_core::{
    Bytes, Clock, Entropy, InvalidRecord, Misbehaviour, Multiaddr, PeerEvent, PeerEvents, PeerId, PeerInfo, RecordKey,
    RecordMeta, RecordValidator, WallTime, World,
    os::{FsDisk, OsClock, OsEntropy, ThreadPool},
    timeout_at,
};
use diai_identity::Identity;
use diai_net::{Config, Net, Parts};
use futures::StreamExt;

/// A folder of its own, removed at the end.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Self {
        let entropy: &dyn Entropy = &OsEntropy;
        Self(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("net-{:016x}", entropy.u64())))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn parts(folder: &Folder) -> Parts {
    Parts {
        clock: Arc::new(OsClock::new()),
        entropy: Arc::new(OsEntropy),
        disk: Arc::new(FsDisk::open(&folder.0).unwrap()),
        offload: Arc::new(ThreadPool::new(1)),
    }
}

pub fn identity() -> Identity {
    Identity::generate(&OsEntropy, OsClock::new().wall())
}

pub struct Node {
    pub net: Net,
    pub world: World,
    pub identity: Identity,
    pub folder: Folder,
}

impl Node {
    pub async fn start(config: Config) -> Self {
        Self::start_as(identity(), Folder::new(), config).await
    }

    pub async fn start_as(identity: Identity, folder: Folder, config: Config) -> Self {
        let net = Net::start(identity.clone(), parts(&folder), config).await.unwrap();
        Self { world: net.world(), net, identity, folder }
    }

    pub fn peer(&self) -> PeerId {
        self.identity.peer()
    }

    pub fn addrs(&self) -> Vec<Multiaddr> {
        self.world.network.local_addrs()
    }

    pub async fn meet(&self, other: &Self) -> PeerInfo {
        within(self.world.network.connect(other.peer(), other.addrs())).await.unwrap()
    }
}

/// Listens by one transport only.
pub fn only(listen: &str) -> Config {
    Config { listen: vec![listen.parse().unwrap()], ..Config::test() }
}

pub const TCP: &str = "/ip4/127.0.0.1/tcp/0";
pub const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

/// No test hangs: what takes a minute will not come.
pub async fn within<T>(work: impl Future<Output = T>) -> T {
    let clock = OsClock::new();
    timeout_at(&clock, clock.now() + Duration::from_secs(60), work).await.expect("it takes too long")
}

/// The next event that `wanted` picks.
pub async fn event<T>(events: &mut PeerEvents, mut wanted: impl FnMut(PeerEvent) -> Option<T>) -> T {
    within(async {
        loop {
            let event = events.next().await.expect("the World lives");
            if let Some(found) = wanted(event) {
                return found;
            }
        }
    })
    .await
}

/// A record is `v<seq>` and whatever follows; it holds for an hour.
pub struct Numbered;

impl RecordValidator for Numbered {
    fn validate(&self, _: &RecordKey, value: &[u8], now: WallTime) -> Result<RecordMeta, InvalidRecord> {
        match value {
            [b'v', seq, ..] => Ok(RecordMeta { seq: u64::from(*seq), expires: now + Duration::from_secs(3600) }),
            _ => Err(InvalidRecord::faulty("it does not start with v", Misbehaviour::Violation)),
        }
    }
}

/// Takes anything: what a hostile node runs.
pub struct Anything;

impl RecordValidator for Anything {
    fn validate(&self, _: &RecordKey, _: &[u8], now: WallTime) -> Result<RecordMeta, InvalidRecord> {
        Ok(RecordMeta { seq: 200, expires: now + Duration::from_secs(3600) })
    }
}

pub fn key(name: &str) -> RecordKey {
    RecordKey::new("test", name.as_bytes()).unwrap()
}

pub fn record(seq: u8, text: &str) -> Bytes {
    [&[b'v', seq], text.as_bytes()].concat().into()
}
