//! What the disk holds never passes the quota by puts, and the log that is written anew loses nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use diai_blocks::{Block, PutError, RAW, SegmentStore, Store, StoreConfig};
use diai_core::{Disk, memory::MemoryDisk};
use proptest::prelude::*;

fn block(number: u64, bytes: usize) -> Block {
    Block::new(RAW, number.to_le_bytes().into_iter().cycle().take(bytes.max(8)).collect::<Vec<u8>>()).unwrap()
}

/// Bytes of all files of the store.
fn on_disk(disk: &MemoryDisk) -> u64 {
    disk.list("blocks").unwrap().iter().map(|entry| entry.bytes).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn puts_keep_to_the_quota_of_disk_bytes_whatever_their_size(
        puts in prop::collection::vec((1..60usize, 8..60_000usize, any::<bool>()), 1..30),
    ) {
        let disk = MemoryDisk::new();
        let quota_bytes = 10 << 20;
        let config = StoreConfig { quota_bytes, segment_bytes: 4 << 20, ..StoreConfig::default() };
        let store = SegmentStore::open(Arc::new(disk.clone()), "blocks", config).unwrap();
        let mut number = 0;
        for (count, bytes, flush) in puts {
            let blocks: Vec<_> = (0..count as u64).map(|at| block(number + at, bytes)).collect();
            number += count as u64;
            match store.put(&blocks) {
                Ok(()) => {}
                Err(error @ PutError::QuotaExceeded { needed_bytes, live_bytes, dead_bytes, .. }) => {
                    prop_assert!(needed_bytes + live_bytes + dead_bytes > quota_bytes - 8);
                    prop_assert!(error.to_string().contains("gc, or raise quota_bytes"));
                }
                Err(error) => return Err(TestCaseError::fail(error.to_string())),
            }
            if flush {
                store.flush().unwrap();
            }
            let (said, held) = (store.stats().disk_bytes, on_disk(&disk));
            prop_assert!(held <= said && said <= quota_bytes, "{held} held, {said} said");
        }
        store.flush().unwrap();
        prop_assert_eq!(store.stats().disk_bytes, on_disk(&disk));
    }
}

#[test]
fn the_log_is_written_anew_beside_writers_and_removers_and_loses_nothing() {
    let disk = MemoryDisk::new();
    let config = StoreConfig { segment_bytes: 4 << 20, ..StoreConfig::default() };
    let store = Arc::new(SegmentStore::open(Arc::new(disk.clone()), "blocks", config.clone()).unwrap());
    let ending = Arc::new(AtomicBool::new(false));
    let writer = thread::spawn({
        let (store, ending) = (store.clone(), ending.clone());
        move || {
            let mut kept = BTreeSet::new();
            let mut round = 0u64;
            while !ending.load(Ordering::Acquire) {
                let some: Vec<_> = (0..50).map(|at| block((1 << 40) + round * 50 + at, 40)).collect();
                store.put(&some).unwrap();
                store.remove(&some[..25].iter().map(|block| block.cid).collect::<Vec<_>>()).unwrap();
                kept.extend(some[25..].iter().map(|block| block.cid));
                if round.is_multiple_of(3) {
                    store.flush().unwrap();
                }
                round += 1;
            }
            kept
        }
    });
    let mut snapshots = Vec::new();
    for round in 0..2u64 {
        // Entries of the log that mean nothing any more.
        for start in 0..7 {
            let few: Vec<_> = (0..6_000).map(|at| block((round * 7 + start) * 6_000 + at, 8)).collect();
            store.put(&few).unwrap();
            store.remove(&few.iter().map(|block| block.cid).collect::<Vec<_>>()).unwrap();
        }
        store.flush().unwrap();
        while store.compact().unwrap() {}
        snapshots.push(disk.snapshot());
    }
    ending.store(true, Ordering::Release);
    let kept = writer.join().unwrap();
    store.flush().unwrap();
    snapshots.push(disk.snapshot());
    let last = snapshots.len() - 1;
    for (at, snapshot) in snapshots.into_iter().enumerate() {
        let without_log = snapshot.snapshot();
        without_log.remove("blocks/index.log").unwrap();
        let list = |disk: MemoryDisk| {
            let store = SegmentStore::open(Arc::new(disk), "blocks", config.clone()).unwrap();
            store.list(None, usize::MAX).into_iter().map(|block| block.hash).collect::<BTreeSet<_>>()
        };
        let found = list(snapshot);
        assert_eq!(found, list(without_log), "the log says what the segments say");
        if at == last {
            assert_eq!(found, kept.iter().map(|cid| *cid.hash()).collect());
        }
    }
}
