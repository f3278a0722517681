//! A folder that was changed step by step is the folder that a fresh import of its entries gives.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::{collections::BTreeMap, sync::Arc};

use diai_blocks::{
    Block, BlockStore, Cid, CidVersion, MemoryStore, RAW,
    dag_pb::Link,
    unixfs::{
        self, Change, FolderEntry, ImportError, Leaves, Profile, ReadError, ShardSize, UpdateError, build_folder,
        build_folder_with, update_folder,
    },
};
use diai_core::{FileAttributes, FileTime, os::ThreadPool};
use futures::executor::block_on;
use proptest::prelude::*;

fn store() -> BlockStore {
    BlockStore::new(Arc::new(MemoryStore::new(1 << 30)), Arc::new(ThreadPool::new(1)))
}

fn leaf(seed: u32) -> Cid {
    Block::new(RAW, seed.to_le_bytes().to_vec()).unwrap().cid
}

fn entry(name: &str, seed: u32) -> FolderEntry {
    FolderEntry { name: name.into(), cid: leaf(seed), tsize: u64::from(seed) }
}

fn links(entries: &BTreeMap<String, u32>) -> Vec<Link> {
    entries.iter().map(|(name, seed)| entry(name, *seed).into()).collect()
}

async fn update(blocks: &BlockStore, folder: Cid, changes: Vec<Change>, profile: &Profile) -> Result<Cid, UpdateError> {
    let folder = update_folder(blocks, folder, changes, profile).await?;
    blocks.put_many(folder.blocks).await.unwrap();
    Ok(folder.root)
}

/// Names of which many begin with the same bits of hash: few of them make a deep trie.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![8 => (0u32..60).prop_map(|number| format!("n{number}")), 1 => "[a-zé字🦀]{1,20}"]
}

fn profile() -> impl Strategy<Value = Profile> {
    let tight = |fanout, shard_size| Profile { shard_over_bytes: 500, fanout, shard_size, ..Profile::default() };
    let fanout = prop_oneof![Just(8usize), Just(16), Just(256)];
    let size = prop_oneof![Just(ShardSize::Block), Just(ShardSize::Links)];
    (fanout, size, any::<bool>()).prop_map(move |(fanout, size, old)| match old {
        false => tight(fanout, size),
        true => Profile { cid_version: CidVersion::V0, leaves: Leaves::DagPb, ..tight(fanout, size) },
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_sequence_of_changes_gives_the_folder_of_a_fresh_import(
        profile in profile(),
        start in prop::collection::btree_map(name(), any::<u32>(), 0..40),
        // Phases that mostly add, and that mostly remove, cross the threshold both ways.
        phases in prop::collection::vec((0u8..10, prop::collection::vec((name(), any::<u32>(), 0u8..10), 0..30)), 1..6),
        kept in any::<Option<u16>>(),
    ) {
        let blocks = store();
        let attributes = FileAttributes { mode: kept.map(|mode| u32::from(mode) & 0o7777), mtime: None };
        let mut entries = start;
        let folder = build_folder_with(links(&entries), attributes, &profile).unwrap();
        block_on(blocks.put_many(folder.blocks)).unwrap();
        let mut root = folder.root;
        for (removing, steps) in phases {
            let mut changes = Vec::new();
            for (name, seed, choice) in steps {
                if choice < removing {
                    let at = seed as usize % entries.len().max(1);
                    if let Some(name) = entries.keys().nth(at).cloned() {
                        entries.remove(&name);
                        changes.push(Change::Remove(name));
                    }
                } else {
                    changes.push(Change::Put(entry(&name, seed)));
                    entries.insert(name, seed);
                }
            }
            // All at once, and one by one.
            let together = block_on(update(&blocks, root, changes.clone(), &profile)).unwrap();
            for change in changes {
                root = block_on(update(&blocks, root, vec![change], &profile)).unwrap();
            }
            let fresh = build_folder_with(links(&entries), attributes, &profile).unwrap();
            prop_assert_eq!(root, fresh.root, "{} entries", entries.len());
            prop_assert_eq!(together, fresh.root);
            let listed = block_on(unixfs::entries(&blocks, root, 1000)).unwrap();
            prop_assert!(listed.iter().map(|entry| &entry.name).eq(entries.keys()));
        }
    }
}

#[test]
fn a_large_folder_is_sharded_when_it_grows_and_plain_again_when_it_shrinks() {
    let (blocks, profile) = (store(), Profile::default());
    let mut entries: BTreeMap<String, u32> = (0..5240).map(|number| (format!("n{number:04}"), 200)).collect();
    let plain = build_folder(links(&entries), &profile).unwrap();
    assert_eq!(plain.blocks.len(), 1);
    block_on(blocks.put_many(plain.blocks)).unwrap();
    let long = "y".repeat(249);
    let sharded = block_on(update(&blocks, plain.root, vec![Change::Put(entry(&long, 200))], &profile)).unwrap();
    entries.insert(long.clone(), 200);
    let sharded = block_on(update(&blocks, sharded, vec![Change::Put(entry("another, too", 200))], &profile)).unwrap();
    entries.insert("another, too".into(), 200);
    let fresh = build_folder(links(&entries), &profile).unwrap();
    assert_eq!((sharded, fresh.blocks.len() > 100), (fresh.root, true));
    // Only the shards on the way are made anew.
    let step = block_on(update_folder(&blocks, sharded, vec![Change::Put(entry("n0000", 201))], &profile)).unwrap();
    assert!(step.blocks.len() < 5, "{} blocks", step.blocks.len());
    let back = vec![Change::Remove(long), Change::Remove("another, too".into())];
    assert_eq!(block_on(update(&blocks, sharded, back, &profile)).unwrap(), plain.root);
}

#[test]
fn a_folder_of_another_profile_is_made_anew() {
    let blocks = store();
    let tight = |fanout| Profile { shard_over_bytes: 500, fanout, ..Profile::default() };
    let mut entries: BTreeMap<String, u32> = (0..50).map(|number| (format!("n{number}"), number)).collect();
    let wide = build_folder(links(&entries), &tight(256)).unwrap();
    block_on(blocks.put_many(wide.blocks)).unwrap();
    entries.insert("new".into(), 1);
    let old = Profile { cid_version: CidVersion::V0, ..tight(256) };
    for profile in [tight(8), old] {
        let updated = block_on(update(&blocks, wide.root, vec![Change::Put(entry("new", 1))], &profile)).unwrap();
        assert_eq!(updated, build_folder(links(&entries), &profile).unwrap().root, "{profile:?}");
    }
}

#[test]
fn what_cannot_be_changed_is_said() {
    let blocks = store();
    let profile = Profile { shard_over_bytes: 500, ..Profile::default() };
    for count in [3, 50] {
        let entries: BTreeMap<String, u32> = (0..count).map(|number| (format!("n{number}"), number)).collect();
        let folder = build_folder(links(&entries), &profile).unwrap();
        block_on(blocks.put_many(folder.blocks)).unwrap();
        let change = |change| block_on(update(&blocks, folder.root, vec![change], &profile)).unwrap_err();
        let missing = change(Change::Remove("n99".into()));
        assert!(matches!(missing, UpdateError::Read(ReadError::NoEntry { name, .. }) if name == "n99"));
        for name in ["".to_owned(), "x".repeat(4097)] {
            let refused = change(Change::Put(entry(&name, 1)));
            assert!(matches!(refused, UpdateError::Build(ImportError::Name { .. })), "{refused}");
        }
    }
    let file = Block::new(RAW, &b"x"[..]).unwrap();
    block_on(blocks.put(file.clone())).unwrap();
    let refused = block_on(update(&blocks, file.cid, Vec::new(), &profile));
    assert!(matches!(refused, Err(UpdateError::Read(ReadError::Codec { .. }))));
    let time = FileTime { seconds: -1, nanos: 5 };
    let kept = FileAttributes { mode: Some(0o750), mtime: Some(time) };
    let folder = build_folder_with(Vec::new(), kept, &profile).unwrap();
    block_on(blocks.put_many(folder.blocks)).unwrap();
    let root = block_on(update(&blocks, folder.root, vec![Change::Put(entry("a", 1))], &profile)).unwrap();
    assert_eq!(block_on(unixfs::stat(&blocks, root)).unwrap().attributes, kept);
}
