//! Reading parts of files: what is fetched for it, and what comes out.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::{Agent, noise};
use diai_blocks::{
    Block, BlockStore, Cid, DAG_PB, MemoryStore,
    fetch::FetchOptions,
    handle::AddOptions,
    unixfs::{self, FileReader, ImportOptions, PREFETCH, Profile, ReadError},
};
use diai_core::{memory::Sim, os::ThreadPool, timeout_at};
use futures::{StreamExt, executor::block_on};
use proptest::prelude::*;

/// Leaves of 256 KiB under one root.
const LEAF: u64 = 256 << 10;
const LEAVES: u64 = 40;

struct Two {
    bob: Agent,
    _alice: Agent,
    cid: Cid,
    content: Bytes,
}

async fn two(sim: &Sim) -> Two {
    let (alice, bob) = (Agent::start(sim, 1).await, Agent::by_bitswap(sim, 2).await);
    bob.connect(&alice).await;
    let content = noise(1, (LEAF * LEAVES) as usize);
    let import = ImportOptions { profile: Profile::UNIXFS_V0_2015, ..ImportOptions::default() };
    let added = alice.blocks.add_bytes(content.clone(), AddOptions { import, ..AddOptions::default() }).await.unwrap();
    Two { bob, _alice: alice, cid: added.cid, content }
}

impl Two {
    async fn came(&self) -> u64 {
        self.bob.blocks.status().await.unwrap().bitswap.blocks_received
    }

    async fn reader(&self) -> FileReader<'static> {
        let options = FetchOptions::until(self.bob.within(600));
        self.bob.blocks.reader(self.cid, options).await.unwrap()
    }

    /// Lets come what was asked for.
    async fn settle(&self) {
        self.bob.world.clock.sleep_until(self.bob.within(1)).await;
    }
}

#[test]
fn a_range_comes_with_the_blocks_it_lies_in_and_no_other() {
    let sim = Sim::new(1);
    sim.clone().run(async move {
        let two = two(&sim).await;
        let mut came = 0;
        // From, to, and the leaves that come for it.
        for (from, to, leaves) in
            [(5 * LEAF + 7, 5 * LEAF + 8, 1), (9 * LEAF - 1, 10 * LEAF + 1, 3), (5 * LEAF, 6 * LEAF, 0)]
        {
            let got = two.bob.blocks.read_range(two.cid, from..to, two.bob.within(30)).await.unwrap();
            assert_eq!(got, two.content[from as usize..to as usize]);
            two.settle().await;
            came += leaves + u64::from(came == 0);
            assert_eq!(two.came().await, came);
        }
        let end = LEAVES * LEAF;
        let got = two.bob.blocks.read_range(two.cid, end - 10..end + 10, two.bob.within(30)).await.unwrap();
        assert_eq!(got, two.content[end as usize - 10..]);
        assert_eq!(two.bob.blocks.read_range(two.cid, end..end + 10, two.bob.within(30)).await.unwrap(), Bytes::new());
    });
}

#[test]
fn reads_here_and_there_fetch_nothing_ahead() {
    let sim = Sim::new(2);
    sim.clone().run(async move {
        let two = two(&sim).await;
        let mut reader = two.reader().await;
        for (number, leaf) in [30, 3, 22, 11, 38, 0].into_iter().enumerate() {
            reader.seek(leaf * LEAF + 100);
            let at = (leaf * LEAF) as usize + 100;
            assert_eq!(reader.read(1000).await.unwrap(), two.content[at..at + 1000]);
            two.settle().await;
            assert_eq!(two.came().await, 2 + number as u64);
        }
    });
}

#[test]
fn reads_in_order_fetch_ahead_more_and_more_and_each_block_once() {
    let sim = Sim::new(3);
    sim.clone().run(async move {
        let two = two(&sim).await;
        let mut reader = two.reader().await;
        let (mut ahead, mut got) = (Vec::new(), Vec::new());
        for read in 1..=LEAVES {
            let bytes = reader.read(1 << 20).await.unwrap();
            assert_eq!(bytes.len() as u64, LEAF);
            got.extend_from_slice(&bytes);
            two.settle().await;
            ahead.push(two.came().await - 1 - read);
        }
        assert_eq!(Bytes::from(got), two.content);
        // What a read of 1 MiB asks for may lie in four of them.
        assert_eq!(ahead[0], 3);
        assert!(ahead[1] < ahead[2] && ahead[2] < ahead[3], "{ahead:?}");
        assert!(ahead.iter().all(|ahead| *ahead < PREFETCH as u64), "{ahead:?}");
        let status = two.bob.blocks.status().await.unwrap().bitswap;
        assert_eq!((status.blocks_received, status.duplicates), (LEAVES + 1, 0));
        assert_eq!(reader.read(1).await.unwrap(), Bytes::new());
    });
}

#[test]
fn a_read_that_is_dropped_is_done_by_the_next() {
    let sim = Sim::new(4);
    sim.clone().run(async move {
        let two = two(&sim).await;
        let clock = two.bob.world.clock.clone();
        let mut reader = two.reader().await;
        let mut got = Vec::new();
        let mut dropped = 0;
        while got.len() < two.content.len() {
            let soon = clock.now() + std::time::Duration::from_micros(100);
            match timeout_at(&*clock, soon, reader.read(100_000)).await {
                Ok(read) => got.extend_from_slice(&read.unwrap()),
                Err(_) => dropped += 1,
            }
        }
        assert!(dropped > 0, "none was dropped");
        assert_eq!(Bytes::from(got), two.content);
        assert_eq!(two.bob.blocks.status().await.unwrap().bitswap.duplicates, 0);
    });
}

fn store() -> BlockStore {
    BlockStore::new(Arc::new(MemoryStore::new(64 << 20)), Arc::new(ThreadPool::new(2)))
}

#[test]
fn a_folder_is_no_file_and_a_missing_block_may_come_later() {
    block_on(async {
        let store = store();
        let folder = unixfs::build_folder(Vec::new(), &Profile::default()).unwrap();
        store.put_many(folder.blocks).await.unwrap();
        assert!(matches!(FileReader::open(&store, folder.root).await, Err(ReadError::NotAFile { .. })));
        let options = ImportOptions { profile: Profile::UNIXFS_V0_2015, ..ImportOptions::default() };
        let content = noise(1, 3 * LEAF as usize);
        let file = unixfs::import_reader(&store, &content[..], &options).await.unwrap();
        let mut walk =
            Box::pin(unixfs::walk(&store, file.root(), &unixfs::WalkOptions { leaves: true, ..Default::default() }));
        let (mut leaf, mut at) = (None, 0);
        while let Some(visited) = walk.next().await {
            let visited = visited.unwrap();
            at += 1;
            // The root, then the leaves.
            if at == 3 {
                leaf = Some(Block::new(DAG_PB, visited.data.unwrap()).unwrap());
            }
        }
        drop(walk);
        let leaf = leaf.unwrap();
        store.remove(vec![leaf.cid]).await.unwrap();
        let mut reader = FileReader::open(&store, file.root()).await.unwrap();
        assert_eq!(reader.read(usize::MAX).await.unwrap(), content[..LEAF as usize]);
        assert!(matches!(reader.read(10).await, Err(ReadError::Source(_))));
        store.put(leaf).await.unwrap();
        assert_eq!(reader.read(10).await.unwrap(), content[LEAF as usize..LEAF as usize + 10]);
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn reads_and_seeks_give_what_the_content_has_there(
        bytes in 0usize..300_000,
        chunk in 1000usize..50_000,
        steps in prop::collection::vec((any::<bool>(), 0u64..320_000, 0usize..60_000), 1..60),
    ) {
        block_on(async {
            let (store, content) = (store(), noise(bytes as u64, bytes));
            let profile = Profile { chunk_bytes: chunk, width: 3, ..Profile::default() };
            let options = ImportOptions { profile, ..ImportOptions::default() };
            let file = unixfs::import_reader(&store, &content[..], &options).await.unwrap();
            let mut reader = FileReader::open(&store, file.root()).await.unwrap();
            assert_eq!(reader.bytes(), bytes as u64);
            for (seek, to, max_bytes) in steps {
                if seek {
                    reader.seek(to);
                }
                let at = reader.position().min(bytes as u64) as usize;
                let got = reader.read(max_bytes).await.unwrap();
                assert_eq!(got, content[at..at + got.len()]);
                assert_eq!(got.is_empty(), max_bytes == 0 || at == bytes);
                assert!(got.len() <= max_bytes);
            }
        });
    }
}
