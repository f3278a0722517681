use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use diai_core::{BoxFuture, Clock, Instant, Multiaddr, PeerId, RecordMeta, WallTime, os::FsDisk};
use libp2p::kad::{ProviderRecord, RecordKey as Key, store::RecordStore};

use super::{
    journal::Journal,
    store::{Insert, Kept, Store},
};
use crate::DhtConfig;

/// A wall clock moved by hand.
#[derive(Default)]
struct HandClock(AtomicU64);

impl Clock for HandClock {
    fn now(&self) -> Instant {
        Instant::default()
    }

    fn wall(&self) -> WallTime {
        WallTime::from_unix_ms(self.0.load(Ordering::Relaxed))
    }

    fn sleep_until(&self, _: Instant) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

fn store(config: DhtConfig) -> (Store, Arc<HandClock>) {
    let clock = Arc::new(HandClock::default());
    (Store::new(PeerId::random(), clock.clone(), config), clock)
}

fn kept(name: &str, value: &str, seq: u64, expires_ms: u64) -> Kept {
    let meta = RecordMeta { seq, expires: WallTime::from_unix_ms(expires_ms) };
    Kept { key: name.into(), value: value.into(), meta, own: false }
}

fn value(store: &Store, name: &str) -> Option<Vec<u8>> {
    store.get(&Key::new(&name)).map(|record| record.value.clone())
}

#[test]
fn the_newer_record_stays_and_of_two_alike_the_greater() {
    let (mut store, _) = store(DhtConfig::default());
    assert_eq!(store.insert(kept("k", "b", 2, 10)), Insert::Held);
    assert_eq!(store.insert(kept("k", "b", 2, 10)), Insert::Same);
    assert_eq!(store.insert(kept("k", "z", 1, 10)), Insert::Older(2));
    assert_eq!(store.insert(kept("k", "a", 2, 10)), Insert::Older(2));
    assert_eq!(store.insert(kept("k", "c", 2, 10)), Insert::Held);
    assert_eq!(store.insert(kept("k", "a", 3, 10)), Insert::Held);
    assert_eq!(value(&store, "k"), Some(b"a".to_vec()));
}

#[test]
fn what_has_expired_is_neither_taken_nor_given() {
    let (mut store, clock) = store(DhtConfig::default());
    assert_eq!(store.insert(Kept { own: true, ..kept("k", "a", 1, 10) }), Insert::Held);
    clock.0.store(10, Ordering::Relaxed);
    assert_eq!(value(&store, "k"), None);
    assert_eq!(store.insert(kept("other", "a", 1, 10)), Insert::Unfit);
    assert!(store.own_records().is_empty(), "ours is not announced again either");
    store.expire();
    assert_eq!(store.take_changed(), [(b"k".to_vec(), None)]);
}

#[test]
fn a_full_store_keeps_what_is_nearest_and_all_that_is_its_own() {
    let config = DhtConfig { records: 10, ..DhtConfig::default() };
    let (mut store, _) = store(config);
    for index in 0..5 {
        let own = Kept { own: true, ..kept(&format!("own {index}"), "a", 1, 10) };
        assert_eq!(store.insert(own), Insert::Held);
    }
    for index in 0..100 {
        store.insert(kept(&format!("foreign {index}"), "a", 1, 10));
    }
    assert_eq!(store.records().count(), 10);
    assert_eq!(store.own_records().len(), 5);
    for index in 5..10 {
        let own = Kept { own: true, ..kept(&format!("own {index}"), "a", 1, 10) };
        assert_eq!(store.insert(own), Insert::Held, "ours takes the place of others'");
    }
    let own = Kept { own: true, ..kept("own 10", "a", 1, 10) };
    assert_eq!(store.insert(own), Insert::Full);
    let (mut store, _) = super::tests::store(DhtConfig { record_bytes: 10, ..DhtConfig::default() });
    assert_eq!(store.insert(kept("k", "123456789", 1, 10)), Insert::Held);
    assert_eq!(store.insert(kept("k", "1234567890", 2, 10)), Insert::Full);
    assert_eq!(value(&store, "k"), Some(b"123456789".to_vec()), "what was held stays");
}

fn announce(store: &mut Store, name: &str, peer: PeerId) {
    let addr: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
    store.insert_provider(ProviderRecord::new(Key::new(&name), peer, vec![addr; 100]));
}

#[test]
fn one_answer_after_the_other_names_every_provider() {
    let (mut store, _) = store(DhtConfig::default());
    let peers: BTreeSet<_> = (0..250).map(|_| PeerId::random()).collect();
    for &peer in &peers {
        announce(&mut store, "k", peer);
    }
    let mut named = BTreeSet::new();
    for _ in 0..13 {
        let answer = store.providers(&Key::new(&"k"));
        assert!(answer.iter().all(|provider| provider.addresses.len() <= 4));
        named.extend(answer.iter().take(20).map(|provider| provider.provider));
    }
    assert_eq!(named, peers);
    assert_eq!(store.all_providers(b"k").len(), 250);
}

#[test]
fn a_few_providers_are_all_named_each_time() {
    let (mut store, _) = store(DhtConfig::default());
    for _ in 0..20 {
        announce(&mut store, "k", PeerId::random());
    }
    for _ in 0..3 {
        assert_eq!(store.providers(&Key::new(&"k")).len(), 20);
    }
}

#[test]
fn providers_are_capped_by_key_and_in_all_but_never_ours() {
    let config = DhtConfig { providers_per_key: 5, provider_keys: 3, provider_entries: 12, ..DhtConfig::default() };
    let (mut store, clock) = store(config);
    assert!(store.provide(b"own"));
    for round in 0..20 {
        clock.0.store(round, Ordering::Relaxed);
        for name in ["own", "a", "b", "c", "d", "e"] {
            announce(&mut store, name, PeerId::random());
        }
    }
    let held: Vec<_> = ["own", "a", "b", "c", "d", "e"].map(|name| store.all_providers(name.as_bytes()).len()).into();
    assert!(held.iter().all(|&count| count <= 5), "{held:?}");
    assert!(held.iter().sum::<usize>() <= 12 && held.iter().filter(|&&count| count > 0).count() <= 4, "{held:?}");
    assert!(store.provides(b"own"));
    clock.0.store(u64::try_from(Duration::from_secs(24 * 3600).as_millis()).unwrap(), Ordering::Relaxed);
    store.expire();
    assert_eq!(store.all_providers(b"own").len(), 1, "only we are left");
    announce(&mut store, "f", PeerId::random());
    assert_eq!(store.all_providers(b"f").len(), 1, "there is room again");
    store.remove_provider(&Key::new(&"own"), &store_local(&store));
    assert!(!store.provides(b"own") && store.all_providers(b"own").is_empty());
}

fn store_local(store: &Store) -> PeerId {
    store.all_providers(b"own")[0]
}

#[test]
fn the_journal_gives_back_what_was_written_and_not_what_was_removed() {
    let folder = std::env::temp_dir().join(format!("diai-net-journal-{}", PeerId::random()));
    let disk = FsDisk::open(&folder).unwrap();
    let (journal, records) = Journal::open(&disk, 100).unwrap();
    assert!(records.is_empty());
    let (a, b) = (kept("a", "value", 7, 99), Kept { own: true, ..kept("b", "", 1, 10) });
    journal.write(&[(a.key.clone(), Some(a.clone())), (b.key.clone(), Some(b.clone()))]).unwrap();
    drop(journal);
    let (journal, records) = Journal::open(&disk, 100).unwrap();
    assert_eq!(records, [a.clone(), b.clone()]);
    journal.write(&[(a.key, None)]).unwrap();
    drop(journal);
    assert_eq!(Journal::open(&disk, 100).unwrap().1, [b]);
    std::fs::remove_dir_all(folder).unwrap();
}
