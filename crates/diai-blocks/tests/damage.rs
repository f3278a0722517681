//! What happens to blocks that the disk changed: set aside, told, fetched again.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod common;

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cid::Cid;
use common::{Agent, noise};
use diai_blocks::{
    AddOptions, Block, BlockSource, BlockStore, Checked, GetError, MemoryStore, PinState, Pins, ProgressFn, RAW,
    SegmentStore, SourceError, Store, StoreConfig, StoreEvent,
    fetch::FetchOptions,
    unixfs::{self, ImportOptions, Profile},
};
use diai_core::{BoxFuture, Disk, OpenMode, memory::MemoryDisk, memory::Sim, os::ThreadPool};
use futures::{StreamExt, executor::block_on};

fn block(seed: u64) -> Block {
    Block::new(RAW, noise(seed, 600)).unwrap()
}

/// Changes the first byte of each of `blocks` where it lies on `disk`.
fn damage(disk: &dyn Disk, blocks: &[Block]) {
    let mut changed = 0;
    for entry in disk.list("blocks").unwrap().iter().filter(|entry| entry.name.ends_with(".segment")) {
        let file = disk.open(&format!("blocks/{}", entry.name), OpenMode::ReadWrite).unwrap();
        let mut content = vec![0; entry.bytes as usize];
        file.read_exact_at(0, &mut content).unwrap();
        for block in blocks {
            for at in 0..=content.len().saturating_sub(block.data.len()) {
                if content[at..].starts_with(&block.data) {
                    file.write_at(at as u64, &[!block.data[0]]).unwrap();
                    changed += 1;
                }
            }
        }
    }
    assert_eq!(changed, blocks.len());
}

fn open(disk: &MemoryDisk) -> SegmentStore {
    SegmentStore::open(Arc::new(disk.clone()), "blocks", StoreConfig::default()).unwrap()
}

#[test]
fn a_damaged_block_stays_set_aside_after_reopening_until_it_is_put_again() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    let (damaged, whole) = (block(1), block(2));
    store.put(&[damaged.clone(), whole.clone()]).unwrap();
    store.flush().unwrap();
    damage(&disk, std::slice::from_ref(&damaged));
    assert!(matches!(store.get(&damaged.cid), Err(GetError::Damaged { cid }) if cid == damaged.cid));
    let aside = |store: &SegmentStore| {
        assert!(!store.has(&damaged.cid) && store.size(&damaged.cid).is_none());
        assert_eq!(store.get(&damaged.cid).unwrap(), None);
        assert_eq!(store.quarantined(None, 10), [*damaged.cid.hash()]);
        assert_eq!((store.stats().blocks, store.stats().quarantined), (1, 1));
        assert_eq!(store.get(&whole.cid).unwrap().as_ref(), Some(&whole.data));
    };
    aside(&store);
    store.flush().unwrap();
    // With the index log and without it.
    let without_log = disk.snapshot();
    without_log.remove("blocks/index.log").unwrap();
    aside(&open(&disk.snapshot()));
    aside(&open(&without_log));
    store.put(std::slice::from_ref(&damaged)).unwrap();
    store.flush().unwrap();
    drop(store);
    let store = open(&disk);
    assert_eq!(store.get(&damaged.cid).unwrap(), Some(damaged.data));
    assert_eq!(store.stats().quarantined, 0);
}

#[test]
fn compaction_keeps_the_notes_of_damage_and_removal_forgets_them() {
    let disk = MemoryDisk::new();
    let config = StoreConfig { segment_bytes: 4 << 20, ..StoreConfig::default() };
    let open = || SegmentStore::open(Arc::new(disk.clone()), "blocks", config.clone()).unwrap();
    let store = open();
    let (one, other) = (block(1), block(2));
    store.put(&[one.clone(), other.clone()]).unwrap();
    damage(&disk, &[one.clone(), other.clone()]);
    assert_eq!(store.check(one.cid.hash()).unwrap(), Checked::Damaged);
    assert_eq!(store.check(other.cid.hash()).unwrap(), Checked::Damaged);
    // Fills segments, and leaves nearly nothing alive in them.
    for round in 0..4u64 {
        let filling: Vec<_> = (0..2).map(|at| Block::new(RAW, noise(100 + round * 2 + at, 2 << 20)).unwrap()).collect();
        store.put(&filling).unwrap();
        store.remove(&filling.iter().map(|block| block.cid).collect::<Vec<_>>()).unwrap();
    }
    store.remove(&[other.cid]).unwrap();
    let mut steps = 0;
    while store.compact().unwrap() {
        steps += 1;
        assert!(steps < 100, "compaction goes on without end");
    }
    assert!(store.stats().segments <= 2, "{:?}", store.stats());
    assert_eq!(store.quarantined(None, 10), [*one.cid.hash()]);
    drop(store);
    assert_eq!(open().quarantined(None, 10), [*one.cid.hash()]);
}

#[test]
fn reads_are_not_hashed_again_where_the_reader_does_it_but_a_check_always_is() {
    let disk = MemoryDisk::new();
    let config = StoreConfig { verify_reads: false, ..StoreConfig::default() };
    let store = SegmentStore::open(Arc::new(disk.clone()), "blocks", config).unwrap();
    let told: Arc<Mutex<Vec<_>>> = Arc::default();
    let telling = told.clone();
    store.on_damage(Arc::new(move |hash| telling.lock().unwrap().push(hash)));
    let one = block(1);
    store.put(std::slice::from_ref(&one)).unwrap();
    assert_eq!(store.check(one.cid.hash()).unwrap(), Checked::Whole);
    damage(&disk, std::slice::from_ref(&one));
    assert!(store.get(&one.cid).unwrap().is_some_and(|data| data != one.data));
    assert_eq!(store.check(one.cid.hash()).unwrap(), Checked::Damaged);
    assert_eq!(store.check(one.cid.hash()).unwrap(), Checked::Absent);
    assert_eq!(*told.lock().unwrap(), [*one.cid.hash()]);
}

#[test]
fn what_opening_finds_damaged_is_noted_too() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    let (damaged, whole) = (block(1), block(2));
    store.put(&[damaged.clone(), whole]).unwrap();
    store.flush().unwrap();
    drop(store);
    disk.remove("blocks/index.log").unwrap();
    damage(&disk, std::slice::from_ref(&damaged));
    let store = open(&disk);
    assert_eq!((store.stats().quarantined, store.stats().damaged), (1, 1));
    store.flush().unwrap();
    drop(store);
    assert_eq!(open(&disk).quarantined(None, 10), [*damaged.cid.hash()]);
}

fn options() -> ImportOptions {
    ImportOptions { profile: Profile { chunk_bytes: 256, width: 4, ..Profile::default() }, ..ImportOptions::default() }
}

struct Pinned {
    disk: MemoryDisk,
    blocks: BlockStore,
    pins: Pins,
    root: Cid,
    content: Bytes,
}

/// A pinned file of 40 leaves.
async fn pinned() -> Pinned {
    let disk = MemoryDisk::new();
    let blocks = BlockStore::new(Arc::new(open(&disk)), Arc::new(ThreadPool::new(2)));
    let pins = Pins::open(blocks.clone(), &disk, "pins.redb").unwrap();
    let content = noise(7, 256 * 40);
    let root = unixfs::import_reader(&blocks, &content[..], &options()).await.unwrap().root();
    pins.pin("file", root).await.unwrap();
    Pinned { disk, blocks, pins, root, content }
}

fn leaf(content: &Bytes, at: usize) -> Block {
    Block::new(RAW, content.slice(at * 256..(at + 1) * 256)).unwrap()
}

/// Somebody who has what is in a store of its own, and does not say what is not.
struct Elsewhere(BlockStore);

impl BlockSource for Elsewhere {
    fn block(&self, cid: Cid) -> BoxFuture<'_, Result<Bytes, SourceError>> {
        self.0.block(cid)
    }
}

async fn elsewhere(content: &Bytes) -> BlockStore {
    let store = BlockStore::new(Arc::new(MemoryStore::new(1 << 20)), Arc::new(ThreadPool::new(1)));
    drop(unixfs::import_reader(&store, &content[..], &options()).await.unwrap());
    store
}

#[test]
fn a_check_names_what_is_damaged_and_missing_and_a_repair_gets_it_back() {
    block_on(async {
        let Pinned { disk, blocks, pins, root, content } = pinned().await;
        let found = pins.verify(None).await.unwrap();
        assert!(found.damaged.is_empty() && found.missing.is_empty() && !found.truncated);
        assert_eq!((found.blocks, found.pins), (blocks.stats().blocks, 1));
        // A leaf is damaged, another and the root are gone.
        damage(&disk, &[leaf(&content, 3)]);
        blocks.remove(vec![leaf(&content, 9).cid, root]).await.unwrap();
        let told: Arc<Mutex<Vec<_>>> = Arc::default();
        let telling = told.clone();
        let progress = ProgressFn::new(move |progress| telling.lock().unwrap().push(progress));
        let found = pins.verify(Some(progress)).await.unwrap();
        assert_eq!(found.damaged, [leaf(&content, 3).cid]);
        let missing: Vec<_> = found.missing.iter().map(|missing| (&missing.pin[..], missing.cid)).collect();
        assert_eq!(missing, [("file", root)], "what is below the root cannot be known");
        let last = *told.lock().unwrap().last().unwrap();
        assert_eq!((last.damaged, last.missing, last.pins), (1, 1, 1));
        let source = Elsewhere(elsewhere(&content).await);
        let repaired = pins.repair(&source, None).await.unwrap();
        assert_eq!(repaired.blocks, 3, "{repaired:?}");
        assert!(repaired.lost.is_empty() && repaired.pending.is_empty());
        assert_eq!(unixfs::read_all(&blocks, root, 1 << 20).await.unwrap(), content);
        assert_eq!(blocks.stats().quarantined, 0);
        let found = pins.verify(None).await.unwrap();
        assert!(found.damaged.is_empty() && found.missing.is_empty());
    });
}

#[test]
fn what_nobody_has_is_dropped_and_its_pin_is_pending_until_it_is_pinned_again() {
    block_on(async {
        let Pinned { disk, blocks, pins, root, content } = pinned().await;
        damage(&disk, &[leaf(&content, 3)]);
        pins.verify(None).await.unwrap();
        let nobody = Elsewhere(elsewhere(&Bytes::new()).await);
        let repaired = pins.repair(&nobody, None).await.unwrap();
        assert!(repaired.lost.contains(&leaf(&content, 3).cid), "{repaired:?}");
        assert_eq!(repaired.pending[0].root, root);
        assert_eq!((blocks.stats().quarantined, pins.get("file").await.unwrap()), (0, None));
        assert_eq!(pins.pins().await.unwrap()[0].state, PinState::Pending);
        // What there is of it is kept.
        assert_eq!(pins.gc().await.unwrap().blocks, 0);
        blocks.put(leaf(&content, 3)).await.unwrap();
        pins.pin("file", root).await.unwrap();
        assert_eq!(pins.pins().await.unwrap()[0].state, PinState::Complete);
    });
}

#[test]
fn a_damaged_block_is_fetched_again_from_a_peer_that_has_it() {
    let sim = Sim::new(5);
    sim.run(async {
        let (alice, bob) = (Agent::start(&sim, 1).await, Agent::start(&sim, 2).await);
        alice.connect(&bob).await;
        let content = noise(7, 3 << 20);
        let added = alice.blocks.add_bytes(content.clone(), AddOptions::default()).await.unwrap();
        bob.blocks.pin(added.cid, &FetchOptions::until(bob.within(60))).await.unwrap();
        let damaged = Block::new(RAW, content.slice(1 << 20..2 << 20)).unwrap();
        let mut events = bob.blocks.store_events();
        damage(&*bob.world.disk, std::slice::from_ref(&damaged));
        // Whoever asks for it gets it at once.
        let got = bob.blocks.get_block(damaged.cid, bob.within(60)).await.unwrap();
        assert_eq!(got, damaged.data);
        assert_eq!(events.next().await, Some(StoreEvent::Damaged(damaged.cid)));
        assert_eq!(events.next().await, Some(StoreEvent::Healed(damaged.cid)));
        // And if only a check finds it, it comes in the background.
        let other = Block::new(RAW, content.slice(2 << 20..)).unwrap();
        damage(&*bob.world.disk, std::slice::from_ref(&other));
        assert_eq!(bob.blocks.verify(None).await.unwrap().missing.len(), 1);
        assert_eq!(events.next().await, Some(StoreEvent::Damaged(other.cid)));
        assert_eq!(events.next().await, Some(StoreEvent::Healed(other.cid)));
        assert!(bob.blocks.verify(None).await.unwrap().damaged.is_empty());
        assert_eq!(bob.blocks.get_bytes(added.cid, 4 << 20, bob.within(60)).await.unwrap(), content);
    });
}
