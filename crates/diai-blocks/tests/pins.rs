//! What is pinned or guarded stays, all else goes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::sync::{Arc, Mutex};

use diai_blocks::{
    Block, BlockStore, Cid, PinError, PinKind, PinState, Pins, ProgressFn, RAW, SegmentStore, StoreConfig,
    unixfs::{self, ImportOptions, Profile},
};
use diai_core::{memory::MemoryDisk, os::ThreadPool};
use futures::executor::block_on;

fn open(disk: &MemoryDisk) -> (BlockStore, Pins) {
    let store = SegmentStore::open(Arc::new(disk.clone()), "blocks", StoreConfig::default()).unwrap();
    let blocks = BlockStore::new(Arc::new(store), Arc::new(ThreadPool::new(2)));
    let pins = Pins::open(blocks.clone(), disk, "pins.redb").unwrap();
    (blocks, pins)
}

fn content(seed: u8) -> Vec<u8> {
    // No two seeds share a chunk.
    (0..4000u32).map(|at| (at / 256) as u8 + seed * 16).collect()
}

fn options() -> ImportOptions {
    let profile = Profile { chunk_bytes: 256, width: 4, ..Profile::default() };
    ImportOptions { profile, ..ImportOptions::default() }
}

async fn add(blocks: &BlockStore, seed: u8) -> Cid {
    unixfs::import_reader(blocks, content(seed).as_slice(), &options()).await.unwrap().root()
}

async fn readable(blocks: &BlockStore, root: Cid, seed: u8) -> bool {
    unixfs::read_all(blocks, root, 1 << 20).await.is_ok_and(|read| read == content(seed))
}

#[test]
fn what_is_pinned_stays_and_what_is_unpinned_goes() {
    let disk = MemoryDisk::new();
    let (blocks, pins) = open(&disk);
    block_on(async {
        let (kept, dropped, never) = (add(&blocks, 1).await, add(&blocks, 2).await, add(&blocks, 3).await);
        pins.pin("kept", kept).await.unwrap();
        pins.pin("dropped", dropped).await.unwrap();
        let collected = pins.gc().await.unwrap();
        assert!(collected.bytes > 4000);
        assert!(readable(&blocks, kept, 1).await && readable(&blocks, dropped, 2).await);
        assert!(!blocks.has(&never));
        assert_eq!(pins.unpin("dropped").await.unwrap(), Some(dropped));
        assert_eq!(pins.unpin("dropped").await.unwrap(), None);
        pins.gc().await.unwrap();
        assert!(readable(&blocks, kept, 1).await && !blocks.has(&dropped));
        assert_eq!(pins.gc().await.unwrap().blocks, 0);
    });
}

#[test]
fn pins_and_their_blocks_are_there_after_reopening() {
    let disk = MemoryDisk::new();
    let (blocks, pins) = open(&disk);
    let root = block_on(add(&blocks, 1));
    block_on(pins.pin("b", root)).unwrap();
    block_on(pins.pin("a", root)).unwrap();
    drop((blocks, pins));
    let (blocks, pins) = open(&disk.snapshot());
    let listed: Vec<_> = block_on(pins.pins()).unwrap().into_iter().map(|pin| (pin.name, pin.root)).collect();
    assert_eq!(listed, [("a".to_owned(), root), ("b".to_owned(), root)]);
    assert_eq!(block_on(pins.get("a")).unwrap(), Some(root));
    block_on(pins.gc()).unwrap();
    assert!(block_on(readable(&blocks, root, 1)));
}

#[test]
fn a_dag_with_a_block_missing_is_not_pinned() {
    let (blocks, pins) = open(&MemoryDisk::new());
    block_on(async {
        let root = add(&blocks, 1).await;
        let leaf = Block::new(RAW, content(1)[..256].to_vec()).unwrap().cid;
        blocks.remove(vec![leaf]).await.unwrap();
        assert!(matches!(pins.pin("a", root).await, Err(PinError::Incomplete { missing, .. }) if missing == leaf));
        let absent = Block::new(RAW, &b"absent"[..]).unwrap().cid;
        assert!(matches!(pins.pin("a", absent).await, Err(PinError::Incomplete { .. })));
        assert!(matches!(pins.pin("", root).await, Err(PinError::Name { .. })));
        assert!(pins.pins().await.unwrap().is_empty());
    });
}

#[test]
fn what_is_being_imported_or_fetched_is_not_collected() {
    let (blocks, pins) = open(&MemoryDisk::new());
    block_on(async {
        let imported = unixfs::import_reader(&blocks, content(1).as_slice(), &options()).await.unwrap();
        let early = add(&blocks, 2).await;
        // A fetch under way: part of the DAG is here, part is not.
        let partial = add(&blocks, 3).await;
        blocks.remove(vec![Block::new(RAW, content(3)[..256].to_vec()).unwrap().cid]).await.unwrap();
        let fetching = blocks.guard_root(partial);
        drop(imported);
        let collected = pins.gc().await.unwrap();
        assert!(!blocks.has(&early), "it was neither pinned nor guarded");
        assert!(collected.blocks > 20 && blocks.has(&partial));
        let put_meanwhile = Block::new(RAW, &b"new"[..]).unwrap();
        blocks.put(put_meanwhile.clone()).await.unwrap();
        pins.gc().await.unwrap();
        assert!(blocks.has(&put_meanwhile.cid));
        drop(fetching);
        pins.gc().await.unwrap();
        assert!(!blocks.has(&put_meanwhile.cid) && !blocks.has(&partial));
        assert_eq!(blocks.stats().blocks, 0);
        let imported = unixfs::import_reader(&blocks, content(4).as_slice(), &options()).await.unwrap();
        pins.gc().await.unwrap();
        pins.pin("a", imported.root()).await.unwrap();
        drop(imported);
        pins.gc().await.unwrap();
        assert_eq!(pins.pins().await.unwrap().len(), 1);
        assert!(readable(&blocks, pins.get("a").await.unwrap().unwrap(), 4).await);
    });
}

#[test]
fn what_was_here_before_and_is_imported_again_is_kept() {
    let (blocks, pins) = open(&MemoryDisk::new());
    block_on(async {
        let garbage = add(&blocks, 1).await;
        let imported = unixfs::import_reader(&blocks, content(1).as_slice(), &options()).await.unwrap();
        assert_eq!(imported.root(), garbage);
        assert_eq!(pins.gc().await.unwrap().blocks, 0);
        drop(imported);
        assert!(pins.gc().await.unwrap().blocks > 0);
    });
}

#[test]
fn a_damaged_pin_stops_the_collection_before_anything_is_taken() {
    let (blocks, pins) = open(&MemoryDisk::new());
    block_on(async {
        let root = add(&blocks, 1).await;
        pins.pin("a", root).await.unwrap();
        let other = add(&blocks, 2).await;
        blocks.remove(vec![root]).await.unwrap();
        let stopped = pins.gc().await.unwrap_err().to_string();
        assert!(stopped.contains(&root.to_string()), "{stopped}");
        assert!(blocks.has(&other));
        pins.unpin("a").await.unwrap();
        pins.gc().await.unwrap();
        assert_eq!(blocks.stats().blocks, 0);
    });
}

#[test]
fn a_direct_pin_keeps_one_block_alone() {
    let (blocks, pins) = open(&MemoryDisk::new());
    block_on(async {
        let root = add(&blocks, 1).await;
        pins.pin_with("root", root, PinKind::Direct, |_| {}).await.unwrap();
        pins.gc().await.unwrap();
        assert!(blocks.has(&root));
        assert_eq!(blocks.stats().blocks, 1);
        let absent = Block::new(RAW, &b"absent"[..]).unwrap().cid;
        let refused = pins.pin_with("absent", absent, PinKind::Direct, |_| {}).await;
        assert!(matches!(refused, Err(PinError::Incomplete { missing, .. }) if missing == absent));
    });
}

#[test]
fn a_pin_that_was_begun_is_found_after_a_crash_keeps_what_there_is_and_can_be_ended() {
    let disk = MemoryDisk::new();
    let (blocks, pins) = open(&disk);
    let (root, other) = block_on(async {
        let (root, other) = (add(&blocks, 1).await, add(&blocks, 2).await);
        pins.pin("a", other).await.unwrap();
        let leaf = Block::new(RAW, content(1)[..256].to_vec()).unwrap().cid;
        blocks.remove(vec![leaf]).await.unwrap();
        pins.begin("a", root, PinKind::Recursive).await.unwrap();
        blocks.flush().await.unwrap();
        (root, other)
    });
    let killed = disk.snapshot();
    drop((blocks, pins));
    let (blocks, pins) = open(&killed);
    block_on(async {
        let listed: Vec<_> = pins.pins().await.unwrap().into_iter().map(|pin| (pin.root, pin.state)).collect();
        assert_eq!(listed, [(other, PinState::Complete), (root, PinState::Pending)]);
        assert_eq!(pins.get("a").await.unwrap(), Some(other), "it is kept until the new one is complete");
        assert_eq!(pins.gc().await.unwrap().blocks, 0);
        assert!(matches!(pins.pin("a", root).await, Err(PinError::Incomplete { .. })));
        blocks.put(Block::new(RAW, content(1)[..256].to_vec()).unwrap()).await.unwrap();
        let told: Arc<Mutex<Vec<_>>> = Arc::default();
        pins.pin_with("a", root, PinKind::Recursive, |progress| told.lock().unwrap().push(progress)).await.unwrap();
        let last = *told.lock().unwrap().last().unwrap();
        assert!(last.blocks > 16 && last.bytes > 4000, "{last:?}");
        assert_eq!(pins.pins().await.unwrap().len(), 1);
        pins.gc().await.unwrap();
        assert!(readable(&blocks, root, 1).await && !blocks.has(&other));
    });
}

#[test]
fn pins_are_given_up_by_what_they_keep() {
    let (blocks, pins) = open(&MemoryDisk::new());
    block_on(async {
        let (root, other) = (add(&blocks, 1).await, add(&blocks, 2).await);
        pins.pin("a", root).await.unwrap();
        pins.pin("b", root).await.unwrap();
        pins.pin("c", other).await.unwrap();
        pins.begin("d", root, PinKind::Recursive).await.unwrap();
        let given_up = pins.unpin_all(move |pin| pin.root == root).await.unwrap();
        assert_eq!(given_up.iter().map(|pin| &pin.name[..]).collect::<Vec<_>>(), ["a", "b", "d"]);
        assert_eq!(pins.pins().await.unwrap().len(), 1);
    });
}

#[test]
fn a_collection_says_how_far_it_is() {
    let (blocks, pins) = open(&MemoryDisk::new());
    block_on(async {
        let root = add(&blocks, 1).await;
        add(&blocks, 2).await;
        pins.pin("a", root).await.unwrap();
        let told: Arc<Mutex<Vec<_>>> = Arc::default();
        let telling = told.clone();
        let progress = ProgressFn::new(move |progress| telling.lock().unwrap().push(progress));
        let before = blocks.stats().blocks;
        let collected = pins.gc_with(Some(progress)).await.unwrap();
        let last = *told.lock().unwrap().last().unwrap();
        assert_eq!((last.swept, last.collected), (before, collected));
        assert_eq!(collected.kept, blocks.stats().blocks);
        assert!(last.marked >= collected.kept);
    });
}
