use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use diai_core::{
    BoxFuture, Clock, Dht, DhtError, Instant, InvalidRecord, Multiaddr, PeerId, RecordKey, RecordMeta, RecordValidator,
    WallTime, os::FsDisk,
};
use futures::StreamExt;
use libp2p::kad::{ProviderRecord, RecordKey as Key, store::RecordStore};

use super::{
    DhtShared, Table,
    announcer::{Announce, Announcer},
    journal::Journal,
    query::{Inbox, ProviderQuery},
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
    store.providers.insert(ProviderRecord::new(Key::new(&name), peer, vec![addr; 100]));
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
    assert_eq!(store.providers.all(b"k").len(), 250);
}

#[test]
fn lookups_at_the_same_time_do_not_take_pages_from_each_other() {
    let (mut store, _) = store(DhtConfig::default());
    let peers: BTreeSet<_> = (0..100).map(|_| PeerId::random()).collect();
    for &peer in &peers {
        announce(&mut store, "k", peer);
    }
    let askers = [PeerId::random(), PeerId::random(), PeerId::random()];
    let mut named = [BTreeSet::new(), BTreeSet::new(), BTreeSet::new()];
    for _ in 0..5 {
        for (asker, named) in askers.iter().zip(&mut named) {
            store.asker = Some(*asker);
            let answer = store.providers(&Key::new(&"k"));
            named.extend(answer.iter().take(20).map(|provider| provider.provider));
        }
    }
    assert!(named.iter().all(|named| *named == peers));
    for _ in 0..1000 {
        store.asker = Some(PeerId::random());
        assert_eq!(store.providers(&Key::new(&"k")).len(), 40);
    }
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
    let config = DhtConfig { providers_per_key: 5, provider_entries: 12, ..DhtConfig::default() };
    let (mut store, clock) = store(config);
    assert!(store.providers.provide(b"own"));
    for round in 0..20 {
        clock.0.store(round, Ordering::Relaxed);
        for name in ["own", "a", "b", "c", "d", "e"] {
            announce(&mut store, name, PeerId::random());
        }
    }
    let held: Vec<_> = ["own", "a", "b", "c", "d", "e"].map(|name| store.providers.all(name.as_bytes()).len()).into();
    assert!(held.iter().all(|&count| count <= 5), "{held:?}");
    assert!(held.iter().sum::<usize>() <= 13, "{held:?}");
    assert!(store.providers.provides(b"own"));
    clock.0.store(u64::try_from(Duration::from_secs(24 * 3600).as_millis()).unwrap(), Ordering::Relaxed);
    store.expire();
    assert_eq!(store.providers.all(b"own").len(), 1, "only we are left");
    announce(&mut store, "f", PeerId::random());
    assert_eq!(store.providers.all(b"f").len(), 1, "there is room again");
    store.remove_provider(&Key::new(&"own"), &store_local(&store));
    assert!(!store.providers.provides(b"own") && store.providers.all(b"own").is_empty());
}

#[test]
fn whoever_floods_the_providers_gives_way_to_whoever_does_not() {
    let (mut store, clock) = store(DhtConfig { provider_entries: 1000, ..DhtConfig::default() });
    let (honest, flooder) = (PeerId::random(), PeerId::random());
    announce(&mut store, "early", honest);
    for index in 0..5000 {
        announce(&mut store, &format!("flood {index}"), flooder);
    }
    for index in 0..100 {
        announce(&mut store, &format!("late {index}"), honest);
    }
    assert!((0..100).all(|index| store.providers.all(format!("late {index}").as_bytes()) == [honest]));
    let ttl = u64::try_from(DhtConfig::default().provider_ttl.as_millis()).unwrap();
    clock.0.store(ttl / 2, Ordering::Relaxed);
    announce(&mut store, "early", honest);
    clock.0.store(ttl, Ordering::Relaxed);
    store.expire();
    assert_eq!(store.providers.all(b"early"), [honest], "what is held is held on, however full it is");
    assert!(store.providers.all(b"late 0").is_empty());
}

#[test]
fn everything_of_ours_is_announced_again_in_time_and_what_others_hand_on_is_not() {
    let config = DhtConfig::default();
    let (mut store, clock) = store(config.clone());
    let at = |seconds: u64| Instant::from_nanos(seconds * 1_000_000_000);
    let far = 1 << 50;
    let mut announcer = Announcer::new(&config, at(0));
    assert!(store.providers.provide(b"provided"));
    assert_eq!(store.insert(Kept { own: true, ..kept("own", "a", 1, far) }), Insert::Held);
    assert_eq!(store.insert(kept("quiet", "a", 1, far)), Insert::Held);
    assert_eq!(store.insert(kept("expired", "a", 1, 1000)), Insert::Held);
    announcer.tick(at(3599), &store);
    assert_eq!(announcer.next(), None);
    clock.0.store(3_600_000, Ordering::Relaxed);
    assert_eq!(store.insert(kept("handed on", "a", 1, far)), Insert::Held);
    let mut announced = Vec::new();
    for second in 3600..3603 {
        announcer.tick(at(second), &store);
        announced.extend(std::iter::from_fn(|| announcer.next()));
    }
    let put = |key: &str| Announce::Put(key.into());
    assert_eq!(announced, [Announce::Provide(b"provided".to_vec()), put("own"), put("quiet")]);
}

#[test]
fn announcing_much_takes_its_time_and_loses_nothing() {
    let config = DhtConfig::default();
    let (mut store, _) = store(config.clone());
    for index in 0..1000 {
        assert!(store.providers.provide(format!("{index}").as_bytes()));
    }
    let mut announcer = Announcer::new(&config, Instant::default());
    announcer.grown(1, &store);
    let mut rounds = Vec::new();
    for _ in 0..5 {
        rounds.push(std::iter::from_fn(|| announcer.next()).count());
        announcer.tick(Instant::default(), &store);
    }
    assert_eq!(rounds.iter().sum::<usize>(), 1000);
    assert!(rounds.iter().all(|&count| count <= 256), "{rounds:?}");
    while announcer.spend() {}
    announcer.defer(Announce::Provide(b"later".to_vec()));
    assert_eq!(announcer.next(), None);
    announcer.tick(Instant::default(), &store);
    assert_eq!(announcer.next(), Some(Announce::Provide(b"later".to_vec())));
}

#[test]
fn invented_providers_neither_fill_a_lookup_nor_keep_it_going_alone() {
    let inbox = Arc::new(Inbox::default());
    let mut query = ProviderQuery::new(b"k".to_vec(), Arc::clone(&inbox));
    let here: Vec<_> = (0..40).map(|_| PeerId::random()).collect();
    query.begin(here.clone(), Instant::from_nanos(1));
    query.found(here.clone());
    assert!(!query.next_round(Instant::default()), "nothing of that was new");
    query.found((0..1400).map(|_| PeerId::random()).collect::<Vec<_>>());
    assert!(query.next_round(Instant::default()));
    // A full answer without news and news in a short one: neither promises more.
    query.found(here[..20].to_vec());
    query.found(vec![PeerId::random()]);
    assert!(!query.next_round(Instant::default()));
    let mut cx = Context::from_waker(futures::task::noop_waker_ref());
    let Poll::Ready(Some(Ok(found))) = inbox.poll(&mut cx) else { panic!("there are some") };
    assert_eq!(found.len(), 40 + 20 + 1);
    drop(query);
    assert!(matches!(inbox.poll(&mut cx), Poll::Ready(None)));
}

#[tokio::test]
async fn whatever_is_asked_of_a_driver_that_is_gone_ends_with_that() {
    let (shared, commands) = DhtShared::new();
    let table = Table { shared: Arc::clone(&shared), clock: Arc::new(HandClock::default()), max_value_bytes: 10 };
    table.register_validator("test", Arc::new(Nothing));
    let key = RecordKey::new("test", b"k").unwrap();
    let (mut get, mut providers) = (table.get(key.clone()), table.providers(key.clone()));
    assert!(futures::poll!(&mut get).is_pending() && futures::poll!(providers.next()).is_pending());
    // As the behaviour ends: closed first, and then dropped.
    shared.close();
    drop(commands);
    assert_eq!(get.await, Err(DhtError::Closed));
    assert_eq!(providers.next().await, Some(Err(DhtError::Closed)));
    assert_eq!(providers.next().await, None);
}

struct Nothing;

impl RecordValidator for Nothing {
    fn validate(&self, _: &RecordKey, _: &[u8], _: WallTime) -> Result<RecordMeta, InvalidRecord> {
        Err(InvalidRecord::blameless("nothing is valid"))
    }
}

#[test]
fn what_was_provided_again_after_it_was_withdrawn_stays_provided() {
    let (shared, _commands) = DhtShared::new();
    let table = Table { shared: Arc::clone(&shared), clock: Arc::new(HandClock::default()), max_value_bytes: 10 };
    let key = RecordKey::new("test", b"k").unwrap();
    table.stop_providing(&key);
    let mut cx = Context::from_waker(futures::task::noop_waker_ref());
    assert!(table.provide(key.clone()).as_mut().poll(&mut cx).is_pending());
    assert!(shared.take_withdrawn().is_empty());
    table.stop_providing(&key);
    assert_eq!(shared.take_withdrawn().len(), 1);
}

fn store_local(store: &Store) -> PeerId {
    store.providers.all(b"own")[0]
}

fn journal_folder() -> std::path::PathBuf {
    std::env::temp_dir().join(format!("diai-net-journal-{}", PeerId::random()))
}

const START: WallTime = WallTime::from_unix_ms(0);

#[test]
fn the_journal_gives_back_what_was_written_and_not_what_was_removed() {
    let folder = journal_folder();
    let disk = FsDisk::open(&folder).unwrap();
    let (journal, records) = Journal::open(&disk, START).unwrap();
    assert!(records.is_empty());
    let (a, b) = (kept("a", "value", 7, 99), Kept { own: true, ..kept("b", "", 1, 10) });
    journal.write(&[(a.key.clone(), Some(a.clone())), (b.key.clone(), Some(b.clone()))]).unwrap();
    drop(journal);
    let (journal, records) = Journal::open(&disk, START).unwrap();
    assert_eq!(records, [a.clone(), b.clone()]);
    journal.write(&[(a.key, None)]).unwrap();
    drop(journal);
    assert_eq!(Journal::open(&disk, START).unwrap().1, [b]);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_expired_while_the_device_was_down_leaves_the_journal() {
    let folder = journal_folder();
    let disk = FsDisk::open(&folder).unwrap();
    let (journal, _) = Journal::open(&disk, START).unwrap();
    let expired: Vec<_> = (0..100).map(|index| kept(&format!("a {index}"), "old", 1, 10)).collect();
    let live = kept("z", "new", 1, 1000);
    let all: Vec<_> = expired.iter().chain([&live]).map(|kept| (kept.key.clone(), Some(kept.clone()))).collect();
    journal.write(&all).unwrap();
    drop(journal);
    assert_eq!(Journal::open(&disk, WallTime::from_unix_ms(10)).unwrap().1, std::slice::from_ref(&live));
    assert_eq!(Journal::open(&disk, START).unwrap().1, [live], "they are gone for good");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_is_loaded_in_vain_is_to_leave_the_journal_and_what_was_not_written_is_still_to_be() {
    let (mut store, clock) = store(DhtConfig { records: 2, ..DhtConfig::default() });
    clock.0.store(10, Ordering::Relaxed);
    let own = |name: &str| Kept { own: true, ..kept(name, "a", 1, 1000) };
    store.load(vec![kept("expired", "a", 1, 10), own("a"), own("b"), own("too many")]);
    let removed = |name: &str| (name.as_bytes().to_vec(), None);
    let changes = store.take_changed();
    assert_eq!(changes, [removed("expired"), removed("too many")]);
    assert!(store.take_changed().is_empty());
    store.still_changed(changes.into_iter().map(|(key, _)| key).collect());
    assert_eq!(store.take_changed(), [removed("expired"), removed("too many")]);
    store.still_changed((0..10).map(|index| vec![index]).chain([b"a".to_vec()]).collect());
    assert_eq!(store.take_changed(), [(b"a".to_vec(), Some(own("a")))], "however long the disk fails");
}
