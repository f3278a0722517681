use std::time::Duration;

use diai_core::Entropy;
use diai_identity::Identity;

use super::*;
use crate::{AgentRecord, Attributes};

const NOW: WallTime = WallTime::from_unix_ms(1_800_000_000_000);

/// Makes device number `n` out of `n`.
struct Fixed(u8);

impl Entropy for Fixed {
    fn fill(&self, buffer: &mut [u8]) {
        for (at, byte) in buffer.iter_mut().enumerate() {
            *byte = self.0 ^ at as u8;
        }
    }
}

fn record(number: u8, seq: u64, minutes: u64, capabilities: &[&str]) -> SignedRecord {
    let identity = Identity::generate(&Fixed(number), NOW);
    let record = AgentRecord {
        agent: identity.agent(),
        peer: identity.peer(),
        seq,
        not_before: NOW,
        expires: NOW + Duration::from_secs(60 * minutes),
        addrs: Vec::new(),
        capabilities: capabilities.iter().map(|text| text.parse().unwrap()).collect(),
        attributes: Attributes::new(),
    };
    SignedRecord::sign(&identity, &record, NOW).unwrap()
}

fn within(index: &Index, text: &str) -> BTreeSet<PeerId> {
    let path = text.parse().unwrap();
    let peers: Vec<_> = index.within(&path).map(|entry| entry.record.record().peer).collect();
    let unique: BTreeSet<_> = peers.iter().copied().collect();
    assert_eq!(unique.len(), peers.len(), "each once");
    unique
}

fn peer(record: &SignedRecord) -> PeerId {
    record.record().peer
}

#[test]
fn a_path_finds_itself_and_what_lies_below_but_not_what_only_sorts_beside_it() {
    let mut index = Index::new(10, 10);
    let all =
        [record(1, 1, 60, &["a", "a/b", "a/c"]), record(2, 1, 60, &["a-b", "a.b"]), record(3, 1, 60, &["a/b/c", "ab"])];
    for record in &all {
        assert_eq!(index.insert(record.clone(), None), Inserted::New);
    }
    assert_eq!(within(&index, "a"), BTreeSet::from([peer(&all[0]), peer(&all[2])]));
    assert_eq!(within(&index, "a/b"), BTreeSet::from([peer(&all[0]), peer(&all[2])]));
    assert_eq!(within(&index, "a/b/c"), BTreeSet::from([peer(&all[2])]));
    assert_eq!(within(&index, "a-b"), BTreeSet::from([peer(&all[1])]));
    assert!(within(&index, "b").is_empty());
}

#[test]
fn only_a_newer_record_replaces_another() {
    let mut index = Index::new(10, 10);
    let first = record(1, 5, 60, &["a"]);
    assert_eq!(index.insert(first.clone(), None), Inserted::New);
    assert_eq!(index.insert(record(1, 4, 90, &["b"]), None), Inserted::Older);
    assert_eq!(index.insert(first.clone(), Some(Instant::from_nanos(9))), Inserted::Same);
    assert_eq!(index.get(peer(&first)).unwrap().confirmed, Some(Instant::from_nanos(9)));
    assert_eq!(index.insert(record(1, 6, 30, &["c"]), None), Inserted::Newer);
    assert!(within(&index, "a").is_empty());
    assert_eq!(within(&index, "c").len(), 1);
    assert_eq!(index.of_agent(first.record().agent).count(), 1);
}

#[test]
fn a_full_index_drops_what_expires_first_and_stays_within_its_footprint() {
    let mut index = Index::new(20, 10);
    for number in 0..60 {
        index.insert(record(number, 1, 60 + u64::from(number), &["a/b", "c"]), None);
    }
    let kept: BTreeSet<_> = (40..60).map(|number| peer(&record(number, 1, 60, &[]))).collect();
    assert_eq!(within(&index, "a"), kept);
    assert_eq!(index.insert(record(100, 1, 1, &["a"]), None), Inserted::Full);
    assert!(index.footprint_bytes() < 20 * 3 * 1024, "{}", index.footprint_bytes());
    let expired = index.evict(NOW + Duration::from_secs(60 * 109));
    assert_eq!(expired.len(), 10);
    assert_eq!(index.len(), 10);
    index.evict(NOW + Duration::from_secs(60 * 200));
    index.take_dirty();
    assert_eq!((index.len(), index.footprint_bytes()), (0, 0));
    assert!(index.by_path.is_empty() && index.by_agent.is_empty() && index.by_expiry.is_empty());
}

#[test]
fn what_is_dirty_is_what_differs_from_the_disk() {
    let mut index = Index::new(10, 10);
    let (one, two) = (record(1, 1, 60, &[]), record(2, 1, 30, &[]));
    index.insert(one.clone(), None);
    index.insert(two.clone(), None);
    assert_eq!(index.take_dirty().len(), 2);
    assert!(!index.is_dirty());
    index.insert(one, None);
    assert!(!index.is_dirty(), "nothing new");
    index.evict(NOW + Duration::from_secs(60 * 30));
    let dirty = index.take_dirty();
    assert_eq!(dirty, [(peer(&two), None)]);
    index.put_back([peer(&two)]);
    assert!(index.is_dirty());
}
