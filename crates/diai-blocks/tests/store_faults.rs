//! What writes that fail, and removals without end, leave behind.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod faulty;

use std::sync::{Arc, atomic::Ordering};

use diai_blocks::{Block, RAW, SegmentStore, Store, StoreConfig};
use diai_core::memory::MemoryDisk;
use faulty::FaultyDisk;

fn block(number: u32, bytes: usize) -> Block {
    let data: Vec<u8> = number.to_le_bytes().into_iter().cycle().take(bytes.max(4)).collect();
    Block::new(RAW, data).unwrap()
}

#[test]
fn a_removal_that_failed_removes_nothing_after_the_store_is_reopened() {
    let disk = Arc::new(FaultyDisk::default());
    let store = SegmentStore::open(disk.clone(), "blocks", StoreConfig::default()).unwrap();
    let kept = block(1, 1000);
    store.put(std::slice::from_ref(&kept)).unwrap();
    store.flush().unwrap();
    disk.faults.failing_writes.store(true, Ordering::Release);
    assert!(store.remove(&[kept.cid]).is_err());
    disk.faults.failing_writes.store(false, Ordering::Release);
    assert!(store.has(&kept.cid));
    store.put(std::slice::from_ref(&kept)).unwrap();
    let syncs = store.stats().syncs;
    store.flush().unwrap();
    assert_eq!(store.stats().syncs, syncs + 1, "that the rest of the write is gone is not durable");
    drop(store);
    let store = SegmentStore::open(disk, "blocks", StoreConfig::default()).unwrap();
    assert_eq!(store.get(&kept.cid).unwrap(), Some(kept.data));
}

#[test]
fn compaction_ends_when_only_tombstones_are_left_to_gain() {
    let config = StoreConfig { segment_bytes: 4 << 20, ..StoreConfig::default() };
    let store = SegmentStore::open(Arc::new(MemoryDisk::new()), "blocks", config).unwrap();
    // The oldest segment lives on, so that the tombstones in later ones are needed.
    let kept: Vec<_> = (0..3).map(|number| block(number, 1 << 20)).collect();
    store.put(&kept).unwrap();
    let mut steps = 0;
    for round in 0..4 {
        // 50 bytes for each tombstone: more than one segment of them.
        for start in (0..100_000).step_by(10_000) {
            let few: Vec<_> = (start..start + 10_000).map(|number| block(1000 + round * 100_000 + number, 4)).collect();
            store.put(&few).unwrap();
            store.remove(&few.iter().map(|block| block.cid).collect::<Vec<_>>()).unwrap();
        }
        while store.compact().unwrap() {
            steps += 1;
            assert!(steps < 100, "compaction goes on without end");
        }
    }
    for block in kept {
        assert_eq!(store.get(&block.cid).unwrap(), Some(block.data));
    }
    assert!(store.stats().disk_bytes < 24 << 20, "{:?}", store.stats());
}
