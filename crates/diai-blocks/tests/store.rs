//! The stores keep what was flushed, whatever happens.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod faulty;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
    mpsc::channel,
};

use diai_blocks::{
    Block, Cid, GetError, MAX_BLOCK_BYTES, MemoryStore, OpenStoreError, PutError, RAW, SegmentStore, Store, StoreConfig,
};
use diai_core::{Disk, DiskFile, OpenMode, memory::MemoryDisk, os::FsDisk};
use faulty::FaultyDisk;
use proptest::prelude::*;

fn block(number: u32, bytes: usize) -> Block {
    let data: Vec<u8> = number.to_le_bytes().into_iter().cycle().take(bytes.max(4)).collect();
    Block::new(RAW, data).unwrap()
}

fn open(disk: &MemoryDisk) -> SegmentStore {
    SegmentStore::open(Arc::new(disk.clone()), "blocks", StoreConfig::default()).unwrap()
}

fn small(disk: &MemoryDisk) -> SegmentStore {
    let config = StoreConfig { segment_bytes: 4 << 20, ..StoreConfig::default() };
    SegmentStore::open(Arc::new(disk.clone()), "blocks", config).unwrap()
}

#[track_caller]
fn assert_has(store: &dyn Store, blocks: &[Block]) {
    for block in blocks {
        assert!(store.has(&block.cid));
        assert_eq!(store.get(&block.cid).unwrap().as_ref(), Some(&block.data));
    }
}

fn file(disk: &MemoryDisk, name: &str) -> Arc<dyn DiskFile> {
    disk.open(&format!("blocks/{name}"), OpenMode::ReadWrite).unwrap()
}

const FIRST: &str = "00000001.segment";

#[test]
fn what_is_put_can_be_read_listed_and_removed_in_both_stores() {
    let disk = MemoryDisk::new();
    let stores: [Box<dyn Store>; 2] = [Box::new(MemoryStore::new(1 << 30)), Box::new(open(&disk))];
    for store in stores {
        let blocks: Vec<Block> = (0..100).map(|number| block(number, number as usize * 7)).collect();
        store.put(&blocks).unwrap();
        assert_has(&*store, &blocks);
        assert_eq!(store.stats().blocks, 100);
        let mut listed = Vec::new();
        while let page = store.list(listed.last(), 7)
            && !page.is_empty()
        {
            listed.extend(page.iter().map(|found| found.hash));
        }
        let mut expected: Vec<_> = blocks.iter().map(|block| *block.cid.hash()).collect();
        expected.sort_by(|a, b| a.digest().cmp(b.digest()));
        assert_eq!(listed, expected);
        store.remove(&[blocks[3].cid, blocks[4].cid]).unwrap();
        assert!(!store.has(&blocks[3].cid) && store.get(&blocks[4].cid).unwrap().is_none());
        assert_has(&*store, &blocks[5..]);
        assert_eq!(store.stats().blocks, 98);
    }
}

#[test]
fn cids_of_one_content_share_one_block() {
    let store = MemoryStore::new(1 << 20);
    let block = block(1, 10);
    store.put(std::slice::from_ref(&block)).unwrap();
    assert!(store.has(&Cid::new_v1(0x71, *block.cid.hash())));
}

#[test]
fn putting_what_is_there_writes_nothing() {
    let store = open(&MemoryDisk::new());
    let blocks = [block(1, 100), block(1, 100), block(2, 100)];
    store.put(&blocks).unwrap();
    let before = store.stats();
    assert_eq!(before.blocks, 2);
    store.put(&blocks).unwrap();
    assert_eq!(store.stats(), before);
}

#[test]
fn blocks_removals_and_re_puts_are_there_after_reopening() {
    let disk = MemoryDisk::new();
    let blocks: Vec<Block> = (0..50).map(|number| block(number, 1000)).collect();
    for round in 0..3 {
        let store = open(&disk);
        store.put(&blocks).unwrap();
        assert_has(&store, &blocks);
        store.remove(&[blocks[round].cid]).unwrap();
        store.flush().unwrap();
        drop(store);
        let store = open(&disk);
        assert!(!store.has(&blocks[round].cid));
        assert_eq!(store.stats().blocks, 49);
        assert_eq!(store.stats().damaged, 0);
    }
}

#[test]
fn a_second_handle_on_the_folder_is_refused_until_the_first_is_gone() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    let second = SegmentStore::open(Arc::new(disk.clone()), "blocks", StoreConfig::default());
    assert!(matches!(second, Err(OpenStoreError::InUse { .. })));
    drop(store);
    open(&disk);
}

#[test]
fn a_torn_end_is_cut_at_every_byte_and_nothing_flushed_is_lost() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    let early: Vec<Block> = (0..4).map(|number| block(number, 60)).collect();
    store.put(&early[..2]).unwrap();
    store.flush().unwrap();
    store.put(&early[2..]).unwrap();
    store.remove(&[early[0].cid]).unwrap();
    store.flush().unwrap();
    let flushed = file(&disk, FIRST).len().unwrap();
    let late: Vec<Block> = (10..14).map(|number| block(number, 80)).collect();
    store.put(&late[..2]).unwrap();
    store.put(&late[2..]).unwrap();
    let end = file(&disk, FIRST).len().unwrap();
    let log = file(&disk, "index.log").len().unwrap();
    for cut in flushed..=end {
        // The log is never synced: any part of it may be missing as well.
        for log_cut in [0, log / 3, log] {
            let crashed = disk.snapshot();
            file(&crashed, FIRST).set_len(cut).unwrap();
            file(&crashed, "index.log").set_len(log_cut).unwrap();
            let store = open(&crashed);
            assert_has(&store, &early[1..]);
            assert!(!store.has(&early[0].cid));
            // It goes on as if nothing had happened, and that lasts.
            store.put(&late).unwrap();
            store.flush().unwrap();
            drop(store);
            let store = open(&crashed);
            assert_has(&store, &early[1..]);
            assert_has(&store, &late);
            assert_eq!(store.stats().damaged, 0);
        }
    }
}

#[test]
fn a_tail_that_reached_the_disk_in_pieces_costs_only_what_was_not_flushed() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    let early = block(1, 60);
    store.put(std::slice::from_ref(&early)).unwrap();
    store.flush().unwrap();
    let flushed = file(&disk, FIRST).len().unwrap();
    store.put(&[block(2, 60), block(3, 60)]).unwrap();
    let end = file(&disk, FIRST).len().unwrap();
    for at in flushed..end {
        let crashed = disk.snapshot();
        file(&crashed, FIRST).write_at(at, &[0xee]).unwrap();
        let store = open(&crashed);
        assert_has(&store, std::slice::from_ref(&early));
        for number in [2, 3] {
            let block = block(number, 60);
            assert!(matches!(store.get(&block.cid), Ok(None)) || store.get(&block.cid).unwrap() == Some(block.data));
        }
    }
}

#[test]
fn the_log_may_be_lost_or_damaged_anywhere() {
    let disk = MemoryDisk::new();
    let blocks: Vec<Block> = (0..6).map(|number| block(number, 50)).collect();
    let store = open(&disk);
    for block in &blocks {
        store.put(std::slice::from_ref(block)).unwrap();
        store.flush().unwrap();
    }
    store.remove(&[blocks[2].cid]).unwrap();
    store.flush().unwrap();
    drop(store);
    for at in 0..file(&disk, "index.log").len().unwrap() {
        let crashed = disk.snapshot();
        let mut byte = [0];
        file(&crashed, "index.log").read_exact_at(at, &mut byte).unwrap();
        file(&crashed, "index.log").write_at(at, &[byte[0] ^ 0x40]).unwrap();
        let store = open(&crashed);
        assert_has(&store, &[&blocks[..2], &blocks[3..]].concat());
        assert!(!store.has(&blocks[2].cid), "byte {at}");
    }
}

#[test]
fn a_segment_whose_head_is_torn_is_begun_anew_and_a_foreign_one_is_refused() {
    let disk = MemoryDisk::new();
    drop(open(&disk));
    disk.open("blocks/00000002.segment", OpenMode::CreateNew).unwrap().write_at(0, &[0; 5]).unwrap();
    let store = open(&disk);
    store.put(&[block(1, 10)]).unwrap();
    store.flush().unwrap();
    drop(store);
    assert_has(&open(&disk), &[block(1, 10)]);
    file(&disk, "00000002.segment").write_at(0, b"diaiseg9").unwrap();
    let refused = SegmentStore::open(Arc::new(disk), "blocks", StoreConfig::default());
    assert!(matches!(refused, Err(OpenStoreError::Format { .. })));
}

#[test]
fn a_damaged_block_is_never_served_and_can_be_put_again() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    let blocks = [block(1, 100), block(2, 100)];
    store.put(&blocks).unwrap();
    store.flush().unwrap();
    let end = file(&disk, FIRST).len().unwrap();
    file(&disk, FIRST).write_at(end - 1, &[0xff]).unwrap();
    assert!(matches!(store.get(&blocks[1].cid), Err(GetError::Damaged { .. })));
    assert!(!store.has(&blocks[1].cid) && store.get(&blocks[1].cid).unwrap().is_none());
    assert_eq!(store.stats().damaged, 1);
    store.put(&blocks).unwrap();
    store.flush().unwrap();
    assert_has(&store, &blocks);
    drop(store);
    assert_has(&open(&disk), &blocks);
}

#[test]
fn a_full_store_says_so_and_takes_blocks_again_after_removal_and_compaction() {
    let disk = MemoryDisk::new();
    let config = StoreConfig { quota_bytes: 16 << 20, segment_bytes: 4 << 20, ..StoreConfig::default() };
    let store = SegmentStore::open(Arc::new(disk.clone()), "blocks", config).unwrap();
    let mut stored = Vec::new();
    let refused = loop {
        let next = block(stored.len() as u32, 1 << 20);
        match store.put(std::slice::from_ref(&next)) {
            Ok(()) => stored.push(next),
            Err(error) => break error,
        }
    };
    assert!(refused.to_string().contains("raise quota_bytes"));
    assert!(matches!(refused, PutError::QuotaExceeded { quota_bytes: 0x100_0000, .. }));
    assert!((14..16).contains(&stored.len()));
    assert_has(&store, &stored);
    let (gone, kept) = stored.split_at(stored.len() - 3);
    store.remove(&gone.iter().map(|block| block.cid).collect::<Vec<_>>()).unwrap();
    while store.compact().unwrap() {}
    let on_disk: u64 = disk.list("blocks").unwrap().iter().map(|entry| entry.bytes).sum();
    assert_eq!(on_disk, store.stats().disk_bytes);
    assert!(on_disk < 8 << 20, "{on_disk}");
    store.put(gone.get(..3).unwrap()).unwrap();
    store.flush().unwrap();
    drop(store);
    let store = small(&disk);
    assert_has(&store, kept);
    assert_has(&store, &gone[..3]);
    assert_eq!(store.stats().blocks, 6);
}

#[test]
fn the_memory_store_keeps_to_its_quota() {
    let store = MemoryStore::new(100);
    store.put(&[block(1, 60)]).unwrap();
    assert!(matches!(store.put(&[block(2, 60)]), Err(PutError::QuotaExceeded { .. })));
    store.remove(&[block(1, 60).cid]).unwrap();
    store.put(&[block(2, 60)]).unwrap();
}

#[test]
fn collection_spares_what_was_put_or_touched_since() {
    let disk = MemoryDisk::new();
    let stores: [Box<dyn Store>; 2] = [Box::new(MemoryStore::new(1 << 30)), Box::new(open(&disk))];
    for store in stores {
        let blocks: Vec<Block> = (0..4).map(|number| block(number, 10)).collect();
        store.put(&blocks[..3]).unwrap();
        let generation = store.begin_generation();
        assert!(store.touch(&blocks[0].cid));
        store.put(&blocks[1..2]).unwrap();
        store.put(&blocks[3..]).unwrap();
        let hashes: Vec<_> = blocks.iter().map(|block| *block.cid.hash()).collect();
        assert_eq!(store.collect(&hashes, generation).unwrap(), (1, 10));
        assert!(!store.has(&blocks[2].cid) && !store.touch(&blocks[2].cid));
        assert_has(&*store, &blocks[..2]);
        assert_has(&*store, &blocks[3..]);
    }
}

#[test]
fn compaction_goes_on_beside_writers_readers_and_removers() {
    let disk = MemoryDisk::new();
    let store = small(&disk);
    let keep: Vec<Block> = (0..200).map(|number| block(number, 10_000)).collect();
    let waste: Vec<Block> = (1000..2500).map(|number| block(number, 10_000)).collect();
    for (index, group) in waste.chunks(50).enumerate() {
        store.put(group).unwrap();
        store.put(keep.get(index * 6..(index * 6 + 6).min(keep.len())).unwrap_or(&[])).unwrap();
    }
    store.put(&keep).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for group in waste.chunks(20) {
                store.remove(&group.iter().map(|block| block.cid).collect::<Vec<_>>()).unwrap();
                store.compact().unwrap();
            }
            while store.compact().unwrap() {}
            done.store(true, Ordering::Release);
        });
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                assert_has(&store, &keep);
            }
        });
        for number in 5000..5100 {
            store.put(&[block(number, 1000)]).unwrap();
            store.flush().unwrap();
        }
    });
    drop(store);
    let store = small(&disk);
    assert_has(&store, &keep);
    assert_has(&store, &(5000..5100).map(|number| block(number, 1000)).collect::<Vec<_>>());
    assert_eq!(store.stats().blocks, 300);
    assert!(store.stats().disk_bytes < 12 << 20, "{:?}", store.stats());
}

#[test]
fn removed_blocks_do_not_come_back_when_the_log_is_lost_after_compaction() {
    let disk = MemoryDisk::new();
    let store = small(&disk);
    let keep = block(0, 1 << 20);
    let first: Vec<Block> = (1..3).map(|number| block(number, 1 << 20)).collect();
    let second: Vec<Block> = (10..16).map(|number| block(number, 1 << 20)).collect();
    store.put(&[std::slice::from_ref(&keep), &first].concat()).unwrap();
    store.put(&second).unwrap();
    // Tombstones for the first segment lie in a later one, which dies as a whole.
    store.remove(&[first[0].cid]).unwrap();
    store.put(&(20..26).map(|number| block(number, 1 << 20)).collect::<Vec<_>>()).unwrap();
    store.remove(&second.iter().map(|block| block.cid).collect::<Vec<_>>()).unwrap();
    while store.compact().unwrap() {}
    store.flush().unwrap();
    drop(store);
    disk.remove("blocks/index.log").unwrap();
    let store = small(&disk);
    assert!(!store.has(&first[0].cid));
    assert_has(&store, &[keep, first[1].clone()]);
    for block in second {
        assert!(!store.has(&block.cid));
    }
}

#[test]
fn flushes_at_the_same_time_share_one_sync() {
    let disk = FaultyDisk::default();
    let faults = disk.faults.clone();
    let store = SegmentStore::open(Arc::new(disk), "blocks", StoreConfig::default()).unwrap();
    let gate = faults.gate.lock().unwrap();
    let (entered, first_entered) = channel();
    *faults.entered.lock().unwrap() = Some(entered);
    store.put(&[block(1, 100)]).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| store.flush().unwrap());
        first_entered.recv().unwrap();
        store.put(&[block(2, 100)]).unwrap();
        store.put(&[block(3, 100)]).unwrap();
        assert_has(&store, &[block(1, 100), block(2, 100), block(3, 100)]);
        for _ in 0..7 {
            scope.spawn(|| store.flush().unwrap());
        }
        drop(gate);
    });
    assert_eq!(store.stats().syncs, 2);
    store.flush().unwrap();
    assert_eq!(store.stats().syncs, 2, "nothing new, no sync");
}

#[test]
fn after_a_failed_sync_nothing_is_promised_until_the_store_is_reopened() {
    let disk = Arc::new(FaultyDisk::default());
    let store = SegmentStore::open(disk.clone(), "blocks", StoreConfig::default()).unwrap();
    store.put(&[block(1, 10)]).unwrap();
    store.flush().unwrap();
    store.put(&[block(2, 10)]).unwrap();
    disk.faults.failing.store(true, Ordering::Release);
    assert!(store.flush().is_err());
    disk.faults.failing.store(false, Ordering::Release);
    assert!(store.flush().is_err(), "the disk may have dropped what it could not write");
    assert!(matches!(store.put(&[block(3, 10)]), Err(PutError::Failed)));
    assert_has(&store, &[block(1, 10)]);
    drop(store);
    let store = SegmentStore::open(disk, "blocks", StoreConfig::default()).unwrap();
    assert_has(&store, &[block(1, 10)]);
    store.put(&[block(3, 10)]).unwrap();
}

#[test]
fn large_and_empty_blocks_pass_through_real_files() {
    let folder = concat!(env!("CARGO_TARGET_TMPDIR"), "/store-real-files");
    let _ = std::fs::remove_dir_all(folder);
    let disk = Arc::new(FsDisk::open(folder).unwrap());
    let config = StoreConfig { segment_bytes: 4 << 20, ..StoreConfig::default() };
    let blocks: Vec<Block> = (0..8).map(|number| block(number, MAX_BLOCK_BYTES)).collect();
    let empty = Block::new(RAW, Vec::new()).unwrap();
    let store = SegmentStore::open(disk.clone(), "blocks", config.clone()).unwrap();
    store.put(&blocks).unwrap();
    store.put(std::slice::from_ref(&empty)).unwrap();
    store.flush().unwrap();
    drop(store);
    let store = SegmentStore::open(disk, "blocks", config).unwrap();
    assert_has(&store, &blocks);
    assert_has(&store, &[empty]);
    drop(store);
    std::fs::remove_dir_all(folder).unwrap();
}

#[derive(Debug, Clone)]
enum Step {
    Put(Vec<u32>),
    Remove(Vec<u32>),
    Flush,
    Compact,
    Reopen,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let numbers = || prop::collection::vec(0u32..24, 1..6);
    prop_oneof![
        4 => numbers().prop_map(Step::Put),
        3 => numbers().prop_map(Step::Remove),
        2 => Just(Step::Flush),
        1 => Just(Step::Compact),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Beside a set as the model; blocks of half a MiB, so that segments roll and die.
    #[test]
    fn any_history_leaves_what_the_model_holds(steps in prop::collection::vec(step(), 1..30)) {
        let blocks: Vec<Block> = (0..24).map(|number| block(number, 500_000)).collect();
        let make = |number: &u32| blocks[*number as usize].clone();
        let disk = MemoryDisk::new();
        let mut store = Some(small(&disk));
        let mut model = std::collections::BTreeSet::new();
        for step in steps {
            let open = store.as_ref().unwrap();
            match step {
                Step::Put(numbers) => {
                    open.put(&numbers.iter().map(make).collect::<Vec<_>>()).unwrap();
                    model.extend(numbers);
                }
                Step::Remove(numbers) => {
                    open.remove(&numbers.iter().map(|number| make(number).cid).collect::<Vec<_>>()).unwrap();
                    model.retain(|number| !numbers.contains(number));
                }
                Step::Flush => open.flush().unwrap(),
                Step::Compact => while open.compact().unwrap() {},
                Step::Reopen => {
                    drop(store.take());
                    store = Some(small(&disk));
                }
                // The memory disk loses nothing at a crash, but the log lacks all since the last flush.
                Step::Crash => {
                    let _ = disk.remove("blocks/index.log");
                    drop(store.take());
                    store = Some(small(&disk));
                }
            }
            let open = store.as_ref().unwrap();
            prop_assert_eq!(open.stats().blocks, model.len() as u64);
            for number in 0..24 {
                prop_assert_eq!(open.has(&make(&number).cid), model.contains(&number));
            }
        }
        for number in &model {
            let block = make(number);
            prop_assert_eq!(store.as_ref().unwrap().get(&block.cid).unwrap(), Some(block.data));
        }
    }
}
