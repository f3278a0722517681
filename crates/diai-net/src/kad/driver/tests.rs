use std::sync::Arc;

use diai_core::{
    InvalidRecord, Misbehaviour, RecordKey, RecordMeta, RecordValidator, WallTime,
    os::{FsDisk, OsClock, OsEntropy, ThreadPool},
};
use diai_identity::Identity;
use libp2p::kad::{InboundRequest, ProviderRecord};

use super::*;
use crate::{Parts, config::Limits, kad::DhtShared};

/// Takes what starts with `v`; `old` has expired.
struct Validator;

impl RecordValidator for Validator {
    fn validate(&self, _: &RecordKey, value: &[u8], now: WallTime) -> Result<RecordMeta, InvalidRecord> {
        match value {
            b"old" => Err(InvalidRecord::blameless("it has expired")),
            [b'v', ..] => Ok(RecordMeta { seq: 1, expires: now + Duration::from_secs(60) }),
            _ => Err(InvalidRecord::faulty("it does not start with v", Misbehaviour::Violation)),
        }
    }
}

struct Rig {
    driver: Driver,
    folder: std::path::PathBuf,
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn rig(config: DhtConfig) -> Rig {
    let folder = std::env::temp_dir().join(format!("diai-net-driver-{}", PeerId::random()));
    let parts = Parts {
        clock: Arc::new(OsClock::new()),
        entropy: Arc::new(OsEntropy),
        disk: Arc::new(FsDisk::open(&folder).unwrap()),
        offload: Arc::new(ThreadPool::new(1)),
    };
    let identity = Identity::generate(&OsEntropy, parts.clock.wall());
    let (dht, commands) = DhtShared::new();
    let shared = Shared::new(identity, parts, Limits::default(), Arc::clone(&dht));
    let table = super::super::Table { shared: dht, clock: Arc::new(OsClock::new()), max_value_bytes: 8192 };
    diai_core::Dht::register_validator(&table, "test", Arc::new(Validator));
    Rig { driver: Driver::new(shared, commands, config, true), folder }
}

impl Rig {
    fn put(&mut self, source: PeerId, key: Vec<u8>, value: &[u8]) {
        let connection = libp2p::swarm::ConnectionId::new_unchecked(1);
        let record = Some(Record::new(key, value.to_vec()));
        self.driver.on_request(InboundRequest::PutRecord { source, connection, record });
    }

    fn add(&mut self, source: PeerId, key: Vec<u8>) {
        let record = Some(ProviderRecord::new(kad::RecordKey::from(key), source, Vec::new()));
        self.driver.on_request(InboundRequest::AddProvider { record });
    }

    async fn validated(&mut self) {
        while let Some(validated) = futures::StreamExt::next(&mut self.driver.validating).await {
            self.driver.on_validated(validated);
        }
    }

    fn is_cut_off(&self, peer: PeerId) -> bool {
        self.driver.shared.is_cut_off(&peer)
    }
}

#[tokio::test]
async fn keys_and_values_that_are_too_long_are_not_held_and_held_against_their_sender() {
    let mut rig = rig(DhtConfig::default());
    let [putter, provider, big] = [(); 3].map(|()| PeerId::random());
    for number in 0..5_u8 {
        rig.put(putter, vec![number; 30 << 10], b"");
        rig.add(provider, vec![number; 30 << 10]);
        rig.put(big, [b"/test/", &[number][..]].concat(), &[b'v'; 9000]);
    }
    rig.validated().await;
    assert!(rig.is_cut_off(putter) && rig.is_cut_off(provider) && rig.is_cut_off(big));
    assert_eq!(kad::store::RecordStore::records(rig.driver.kad.store_mut()).count(), 0);
    assert!(rig.driver.kad.store_mut().providers.all(&[0; 30 << 10]).is_empty());
}

#[tokio::test]
async fn an_expired_record_is_nobodys_fault_and_a_wrong_one_its_senders() {
    let mut rig = rig(DhtConfig::default());
    let (slow, wrong) = (PeerId::random(), PeerId::random());
    for number in 0..50_u8 {
        rig.put(slow, [b"/test/", &[number][..]].concat(), b"old");
    }
    rig.put(wrong, b"/test/a".to_vec(), b"wrong");
    rig.put(wrong, b"/test/b".to_vec(), b"wrong");
    rig.validated().await;
    assert!(!rig.is_cut_off(slow));
    assert!(rig.is_cut_off(wrong));
}

#[tokio::test]
async fn whoever_floods_the_dht_is_cut_off_and_takes_no_place_from_others() {
    let mut rig = rig(DhtConfig::default());
    let (flooder, honest) = (PeerId::random(), PeerId::random());
    for number in 0..1000_u32 {
        rig.put(flooder, [b"/test/", &number.to_be_bytes()[..]].concat(), b"v");
    }
    rig.put(honest, b"/test/honest".to_vec(), b"v");
    assert_eq!(rig.driver.validating.len(), 64 + 1);
    rig.validated().await;
    assert!(rig.driver.kad.store_mut().live(b"/test/honest").is_some());
    assert!(rig.driver.validating_of.is_empty());
    for number in 0..100_000_u32 {
        rig.add(flooder, number.to_be_bytes().to_vec());
    }
    assert!(rig.is_cut_off(flooder));
    rig.add(honest, b"p".to_vec());
    assert_eq!(rig.driver.kad.store_mut().providers.all(b"p"), [honest]);
}

#[tokio::test]
async fn kad_itself_remembers_nothing_of_what_is_put() {
    let rig = rig(DhtConfig::default());
    let config = format!("{:?}", kad_config(&rig.driver.config));
    assert!(config.contains("record_replication_interval: None"), "{config}");
    assert!(config.contains("record_publication_interval: None"), "{config}");
}
