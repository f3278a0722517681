//! What an agent announces in the DHT of IPFS, by its strategy.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use common::{Agent, noise};
use diai_blocks::{
    BlocksConfig, FetchOptions, IpfsDhtConfig,
    config::ProvideStrategy::{self, All, Pinned, Roots},
    handle::AddOptions,
};
use diai_core::memory::Sim;

async fn start(sim: &Sim, provide: ProvideStrategy) -> Agent {
    let config = BlocksConfig { ipfs_dht: Some(IpfsDhtConfig::default()), provide, ..BlocksConfig::default() };
    Agent::with(sim, 1, config).await
}

/// How many keys are announced, some seconds later.
async fn keys(agent: &Agent, seconds: u64) -> usize {
    agent.world.clock.sleep_until(agent.within(seconds)).await;
    agent.blocks.status().await.unwrap().ipfs_dht.unwrap().keys
}

/// A file of a root and four leaves.
async fn add(agent: &Agent, seed: u64, silent: bool) -> diai_blocks::Cid {
    let options = AddOptions { silent, ..AddOptions::default() };
    agent.blocks.add_bytes(noise(seed, 4 << 20), options).await.unwrap().cid
}

#[test]
fn by_default_roots_are_announced_and_nothing_below_them() {
    let sim = Sim::new(1);
    sim.clone().run(async move {
        let agent = start(&sim, Roots).await;
        let cid = add(&agent, 1, false).await;
        add(&agent, 2, true).await;
        assert_eq!(keys(&agent, 20).await, 1);
        agent.blocks.unpin(cid).await.unwrap();
        assert_eq!(keys(&agent, 1).await, 0);
    });
}

#[test]
fn pinned_announces_all_blocks_of_pins_but_those_added_silently_and_drops_what_is_given_up() {
    let sim = Sim::new(2);
    sim.clone().run(async move {
        let agent = start(&sim, Pinned).await;
        let cid = add(&agent, 1, false).await;
        add(&agent, 2, true).await;
        assert_eq!(keys(&agent, 20).await, 5);
        let other = add(&agent, 3, false).await;
        assert_eq!(keys(&agent, 2).await, 10);
        agent.blocks.unpin(cid).await.unwrap();
        assert_eq!(keys(&agent, 100).await, 5);
        // What a block that is still wanted under another pin has is announced on.
        agent.blocks.pin(other, &FetchOptions::default()).await.unwrap();
        assert_eq!(keys(&agent, 100).await, 5);
    });
}

#[test]
fn all_announces_every_block_there_is_and_drops_what_is_collected() {
    let sim = Sim::new(3);
    sim.clone().run(async move {
        let agent = start(&sim, All).await;
        let cid = add(&agent, 1, false).await;
        add(&agent, 2, true).await;
        assert_eq!(keys(&agent, 2).await, 10);
        assert_eq!(agent.blocks.store().stats().blocks, 10);
        agent.blocks.unpin(cid).await.unwrap();
        agent.blocks.gc().await.unwrap();
        assert_eq!(keys(&agent, 100).await, 5);
    });
}

#[test]
fn all_blocks_of_a_store_are_announced_after_a_restart() {
    let sim = Sim::new(4);
    sim.clone().run(async move {
        let agent = start(&sim, Roots).await;
        add(&agent, 1, true).await;
        assert_eq!(keys(&agent, 2).await, 0);
        agent.blocks.shutdown().await.unwrap();
        let Agent { world, identity, calls, blocks } = agent;
        drop(blocks);
        let config = BlocksConfig { ipfs_dht: Some(IpfsDhtConfig::default()), provide: All, ..BlocksConfig::default() };
        let blocks = diai_blocks::Blocks::start(&world, identity.clone(), calls.clone(), config).await.unwrap();
        let agent = Agent { world, identity, calls, blocks };
        assert_eq!(keys(&agent, 2).await, 5);
    });
}
