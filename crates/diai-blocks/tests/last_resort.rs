//! Who is asked when no peer has something.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{Agent, cbor_list, noise};
use diai_blocks::{
    Block, BlockStore, Cid, RAW,
    fetch::{BringError, Brought, FetchError, FetchOptions, Fetcher, LastResort},
    handle::AddOptions,
    ipld,
};
use diai_core::memory::Sim;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};

/// Somebody who has blocks, and notes what was asked for, and whether with all below it.
#[derive(Debug)]
struct Resort {
    blocks: BTreeMap<Cid, Block>,
    asked: Mutex<Vec<(Cid, bool)>>,
    patience: Duration,
}

impl Resort {
    fn of(blocks: impl IntoIterator<Item = Block>) -> Arc<Self> {
        let blocks = blocks.into_iter().map(|block| (block.cid, block)).collect();
        Arc::new(Self { blocks, asked: Mutex::default(), patience: Duration::from_secs(5) })
    }

    fn asked(&self) -> Vec<(Cid, bool)> {
        self.asked.lock().unwrap().clone()
    }

    fn behind(self: &Arc<Self>, agent: &Agent) -> Fetcher {
        agent.blocks.fetcher().clone().with_last_resort(Some(self.clone()))
    }
}

impl LastResort for Resort {
    fn patience(&self) -> Duration {
        self.patience
    }

    fn sealed(&self) -> bool {
        false
    }

    fn bring(&self, cid: Cid, whole: bool, store: BlockStore) -> BoxStream<'static, Result<Brought, BringError>> {
        self.asked.lock().unwrap().push((cid, whole));
        let (mut found, mut next) = (Vec::new(), vec![cid]);
        while let Some(block) = next.pop().and_then(|cid| self.blocks.get(&cid)) {
            found.push(block.clone());
            if whole {
                next.extend(ipld::links(&block.cid, &block.data).unwrap().into_iter().rev());
            }
        }
        let put = move |block: Block| {
            let store = store.clone();
            async move {
                let bytes = block.data.len() as u64;
                store.put(block).await.unwrap();
                Ok(Brought { blocks: 1, bytes })
            }
        };
        let end = stream::iter([Err("there is no more".into())]);
        stream::iter(found).then(put).chain(end).boxed()
    }
}

fn leaves(count: u64) -> Vec<Block> {
    (0..count).map(|seed| Block::new(RAW, noise(seed, 1000)).unwrap()).collect()
}

fn list(blocks: &[Block]) -> Block {
    cbor_list(&blocks.iter().map(|block| block.cid).collect::<Vec<_>>())
}

#[test]
fn a_dag_that_no_peer_has_comes_whole_from_the_last_resort_and_is_counted() {
    let sim = Sim::new(1);
    sim.clone().run(async move {
        let agent = Agent::by_bitswap(&sim, 1).await;
        let leaves = leaves(50);
        let root = list(&leaves);
        let resort = Resort::of(leaves.into_iter().chain([root.clone()]));
        let got = resort.behind(&agent).dag(root.cid, &FetchOptions::until(agent.within(60))).await.unwrap();
        let bytes = 50_000 + root.data.len() as u64;
        assert_eq!((got.blocks, got.bytes, got.local_blocks, got.open_blocks), (51, bytes, 0, 0));
        assert_eq!(resort.asked()[0], (root.cid, true));
    });
}

#[test]
fn what_is_missing_of_a_dag_is_asked_for_block_by_block_if_it_has_no_links() {
    let sim = Sim::new(2);
    sim.clone().run(async move {
        let agent = Agent::by_bitswap(&sim, 1).await;
        let leaves = leaves(40);
        let root = list(&leaves);
        agent.blocks.put_block(root.clone()).await.unwrap();
        for leaf in &leaves[..10] {
            agent.blocks.put_block(leaf.clone()).await.unwrap();
        }
        let resort = Resort::of(leaves.clone());
        let got = resort.behind(&agent).dag(root.cid, &FetchOptions::until(agent.within(60))).await.unwrap();
        assert_eq!((got.blocks, got.local_blocks), (30, 11));
        let mut asked = resort.asked();
        asked.sort();
        let mut missing: Vec<_> = leaves[10..].iter().map(|leaf| (leaf.cid, false)).collect();
        missing.sort();
        assert_eq!(asked, missing);
    });
}

#[test]
fn while_peers_deliver_the_last_resort_is_not_asked() {
    let sim = Sim::new(3);
    sim.clone().run(async move {
        let (alice, bob) = (Agent::by_bitswap(&sim, 1).await, Agent::by_bitswap(&sim, 2).await);
        alice.connect(&bob).await;
        let added = alice.blocks.add_bytes(noise(3, 20 << 20), AddOptions::default()).await.unwrap();
        let resort = Resort::of([]);
        let got = resort.behind(&bob).dag(added.cid, &FetchOptions::until(bob.within(60))).await.unwrap();
        assert_eq!(got.blocks, 21);
        assert_eq!(resort.asked(), []);
    });
}

#[test]
fn what_the_last_resort_lacks_is_not_found_and_it_is_not_asked_all_the_time() {
    let sim = Sim::new(4);
    sim.clone().run(async move {
        let agent = Agent::by_bitswap(&sim, 1).await;
        let (here, missing) = (leaves(3), Block::new(RAW, &b"missing"[..]).unwrap());
        let root = list(&[&here[..], std::slice::from_ref(&missing)].concat());
        let resort = Resort::of(here.into_iter().chain([root.clone()]));
        let failed = resort.behind(&agent).dag(root.cid, &FetchOptions::until(agent.within(90))).await.unwrap_err();
        assert!(matches!(failed, FetchError::NotFound { cid, .. } if cid == missing.cid), "{failed}");
        let often = resort.asked().iter().filter(|(cid, _)| *cid == missing.cid).count();
        assert!((2..=4).contains(&often), "{often}");
        assert!(failed.to_string().ends_with("the DHT names no provider; there is no more"), "{failed}");
        assert!(agent.blocks.has(&root.cid), "what came stays");
    });
}

#[test]
fn a_fetch_that_is_over_its_limit_ends_also_when_the_last_resort_brings_too_much() {
    let sim = Sim::new(5);
    sim.clone().run(async move {
        let agent = Agent::by_bitswap(&sim, 1).await;
        let leaves = leaves(50);
        let root = list(&leaves);
        let resort = Resort::of(leaves.into_iter().chain([root.clone()]));
        let options = FetchOptions { max_bytes: 20_000, ..FetchOptions::until(agent.within(60)) };
        let failed = resort.behind(&agent).dag(root.cid, &options).await.unwrap_err();
        assert!(matches!(failed, FetchError::OverLimit { limit: 20_000, .. }), "{failed}");
    });
}

#[test]
fn for_what_is_known_to_be_sealed_the_last_resort_is_not_asked() {
    let sim = Sim::new(6);
    sim.clone().run(async move {
        let (alice, bob) = (Agent::by_bitswap(&sim, 1).await, Agent::by_bitswap(&sim, 2).await);
        let options = AddOptions { silent: true, ..AddOptions::sealed_for(vec![bob.certificate()]) };
        let added = alice.blocks.add_bytes(noise(6, 5000), options).await.unwrap();
        let sealed = alice.blocks.store().get(&added.cid).await.unwrap().unwrap();
        bob.blocks.put_block(Block::verified(added.cid, sealed).unwrap()).await.unwrap();
        let resort = Resort::of([]);
        let failed = resort.behind(&bob).dag(added.cid, &FetchOptions::until(bob.within(60))).await.unwrap_err();
        assert!(matches!(failed, FetchError::NotFound { .. }));
        assert_eq!(resort.asked(), []);
    });
}

#[test]
fn one_block_comes_from_the_last_resort_too() {
    let sim = Sim::new(7);
    sim.clone().run(async move {
        let agent = Agent::by_bitswap(&sim, 1).await;
        let leaf = leaves(1).remove(0);
        let resort = Resort::of([leaf.clone()]);
        let options = FetchOptions::until(agent.within(60));
        assert_eq!(resort.behind(&agent).block(leaf.cid, &options).await.unwrap(), leaf.data);
        assert_eq!(resort.asked(), [(leaf.cid, false)]);
        assert_eq!(resort.behind(&agent).dag(leaf.cid, &options).await.unwrap().blocks, 0);
    });
}
