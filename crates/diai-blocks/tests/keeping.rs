//! Any interleaving of puts, pins, collections and crashes keeps what must be kept, and a collection nothing else.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod faulty;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use diai_blocks::{
    Block, BlockStore, Cid, MemoryStore, Multihash, PinKind, PinState, Pins, RAW, SegmentStore, StoreConfig,
    unixfs::{self, ImportOptions, Profile, WalkOptions},
};
use diai_core::os::ThreadPool;
use faulty::FaultyDisk;
use futures::{StreamExt, executor::block_on};
use proptest::prelude::*;

/// Contents that share no block.
const CONTENTS: u8 = 6;
const NAMES: u8 = 3;

#[derive(Debug, Clone)]
enum Step {
    /// Puts a block that nobody keeps.
    Put(u8),
    Flush,
    /// Imports a content and pins it.
    Pin {
        content: u8,
        name: u8,
    },
    /// Begins to pin a content of which only the root is here.
    Begin {
        content: u8,
        name: u8,
    },
    Unpin(u8),
    Collect,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..20u8).prop_map(Step::Put),
        1 => Just(Step::Flush),
        3 => (0..CONTENTS, 0..NAMES).prop_map(|(content, name)| Step::Pin { content, name }),
        1 => (0..CONTENTS, 0..NAMES).prop_map(|(content, name)| Step::Begin { content, name }),
        2 => (0..NAMES).prop_map(Step::Unpin),
        3 => Just(Step::Collect),
    ]
}

/// A loose block: many fill a segment.
fn loose(seed: u8) -> Block {
    Block::new(RAW, vec![seed; 400 << 10]).unwrap()
}

fn content(seed: u8) -> Vec<u8> {
    (0..40u32).flat_map(|at| [vec![100 + seed; 30_000], at.to_le_bytes().to_vec()].concat()).collect()
}

fn options() -> ImportOptions {
    ImportOptions {
        profile: Profile { chunk_bytes: 30_004, width: 5, ..Profile::default() },
        ..ImportOptions::default()
    }
}

/// What a content is: its root, the root's block, and the hashes of all of it.
struct Dag {
    root: Block,
    hashes: BTreeSet<Multihash>,
}

async fn dag(seed: u8) -> Dag {
    let store = BlockStore::new(Arc::new(MemoryStore::new(8 << 20)), Arc::new(ThreadPool::new(1)));
    let root = unixfs::import_reader(&store, &content(seed)[..], &options()).await.unwrap().root();
    let walk = unixfs::walk(&store, root, &WalkOptions::default());
    let hashes = walk.map(|visited| *visited.unwrap().cid.hash()).collect().await;
    let data = store.get(&root).await.unwrap().unwrap();
    Dag { root: Block::verified(root, data).unwrap(), hashes }
}

struct Agent {
    disk: FaultyDisk,
    blocks: BlockStore,
    pins: Pins,
}

impl Agent {
    fn open(disk: FaultyDisk) -> Self {
        let config = StoreConfig { segment_bytes: 4 << 20, ..StoreConfig::default() };
        let store = SegmentStore::open(Arc::new(disk.clone()), "blocks", config).unwrap();
        let blocks = BlockStore::new(Arc::new(store), Arc::new(ThreadPool::new(1)));
        let pins = Pins::open(blocks.clone(), &disk, "pins.redb").unwrap();
        Self { disk, blocks, pins }
    }

    async fn take(&self, step: &Step, dags: &[Dag]) {
        match *step {
            Step::Put(seed) => self.blocks.put(loose(seed)).await.unwrap(),
            Step::Flush => self.blocks.flush().await.unwrap(),
            Step::Pin { content: seed, name } => {
                let imported = unixfs::import_reader(&self.blocks, &content(seed)[..], &options()).await.unwrap();
                self.pins.pin(&name.to_string(), imported.root()).await.unwrap();
            }
            Step::Begin { content: seed, name } => {
                let _guard = self.blocks.guard();
                self.blocks.put(dags[usize::from(seed)].root.clone()).await.unwrap();
                self.blocks.flush().await.unwrap();
                let root = dags[usize::from(seed)].root.cid;
                self.pins.begin(&name.to_string(), root, PinKind::Recursive).await.unwrap();
            }
            Step::Unpin(name) => drop(self.pins.unpin(&name.to_string()).await.unwrap()),
            Step::Collect => drop(self.pins.gc().await.unwrap()),
        }
    }

    fn hashes(&self) -> BTreeSet<Multihash> {
        self.blocks.store().list(None, usize::MAX).into_iter().map(|block| block.hash).collect()
    }
}

/// What must be there.
#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    complete: BTreeMap<u8, u8>,
    pending: BTreeMap<u8, u8>,
    loose: BTreeSet<u8>,
    flushed: BTreeSet<u8>,
}

impl Model {
    fn take(&mut self, step: &Step) {
        match *step {
            Step::Put(seed) => drop(self.loose.insert(seed)),
            Step::Flush => self.flushed.extend(&self.loose),
            Step::Pin { content, name } => {
                self.flushed.extend(&self.loose);
                self.complete.insert(name, content);
                self.pending.remove(&name);
            }
            Step::Begin { content, name } => {
                self.flushed.extend(&self.loose);
                self.pending.insert(name, content);
            }
            Step::Unpin(name) => {
                self.complete.remove(&name);
                self.pending.remove(&name);
            }
            Step::Collect => {
                self.loose.clear();
                self.flushed.clear();
            }
        }
    }

    async fn pins(agent: &Agent, dags: &[Dag]) -> (BTreeMap<u8, u8>, BTreeMap<u8, u8>) {
        let (mut complete, mut pending) = (BTreeMap::new(), BTreeMap::new());
        for pin in agent.pins.pins().await.unwrap() {
            let seed = dags.iter().position(|dag| dag.root.cid == pin.root).unwrap() as u8;
            let states = if pin.state == PinState::Complete { &mut complete } else { &mut pending };
            states.insert(pin.name.parse().unwrap(), seed);
        }
        (complete, pending)
    }

    /// Whatever else happens, all of this is here.
    async fn holds(&self, agent: &Agent, dags: &[Dag]) {
        for seed in self.complete.values() {
            let root: Cid = dags[usize::from(*seed)].root.cid;
            assert_eq!(unixfs::read_all(&agent.blocks, root, 8 << 20).await.unwrap(), content(*seed));
        }
        for seed in self.pending.values() {
            assert!(agent.blocks.has(&dags[usize::from(*seed)].root.cid));
        }
        for seed in &self.flushed {
            assert_eq!(agent.blocks.get(&loose(*seed).cid).await.unwrap(), Some(loose(*seed).data));
        }
        assert_eq!(agent.blocks.stats().quarantined, 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, ..ProptestConfig::default() })]

    #[test]
    fn what_must_be_kept_is_kept_and_a_collection_keeps_nothing_else(
        // Some steps are killed in the middle of one of their changes of the disk.
        steps in prop::collection::vec((step(), prop::option::weighted(0.4, 1..40u64)), 1..25),
    ) {
        block_on(async {
            let mut dags = Vec::new();
            for seed in 0..CONTENTS {
                dags.push(dag(seed).await);
            }
            let mut agent = Agent::open(FaultyDisk::default());
            let mut model = Model::default();
            for (step, kill) in steps {
                let before = model.clone();
                model.take(&step);
                if let Some(change) = kill {
                    agent.disk.remember_at(change);
                }
                agent.take(&step, &dags).await;
                if kill.is_some() {
                    agent = Agent::open(agent.disk.after_kill());
                    let found = Model::pins(&agent, &dags).await;
                    // The step happened or not.
                    let steps = [(before.complete.clone(), before.pending.clone()), (model.complete.clone(), model.pending.clone())];
                    assert!(steps.contains(&found), "{step:?}: {found:?}, not one of {steps:?}");
                    (model.complete, model.pending) = found;
                    model.flushed = if matches!(step, Step::Collect) { BTreeSet::new() } else { before.flushed };
                    model.loose = model.flushed.clone();
                }
                model.holds(&agent, &dags).await;
            }
            agent.pins.gc().await.unwrap();
            model.take(&Step::Collect);
            model.holds(&agent, &dags).await;
            let mut kept = BTreeSet::new();
            for seed in model.complete.values() {
                kept.extend(dags[usize::from(*seed)].hashes.iter().copied());
            }
            for seed in model.pending.values() {
                let dag = &dags[usize::from(*seed)];
                kept.insert(*dag.root.cid.hash());
                kept.extend(agent.hashes().intersection(&dag.hashes));
            }
            assert_eq!(agent.hashes(), kept);
            assert_eq!(agent.pins.gc().await.unwrap().blocks, 0);
        });
    }
}
