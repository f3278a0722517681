//! What is cached of others' content, and how it stands to what is kept.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use bytes::Bytes;
use common::{Agent, noise};
use diai_blocks::{
    Cid, StoreConfig,
    config::{BlocksConfig, CacheConfig, FetchConfig},
    fetch::FetchOptions,
    handle::AddOptions,
};
use diai_core::memory::Sim;

const MIB: u64 = 1 << 20;

fn caching(max_bytes: u64) -> BlocksConfig {
    let cache = CacheConfig { max_bytes, ..CacheConfig::default() };
    let fetch = FetchConfig { whole_dags: false, ..FetchConfig::default() };
    // Small segments, so that what is dropped is soon given back.
    let store = StoreConfig { segment_bytes: 4 << 20, ..StoreConfig::default() };
    BlocksConfig { cache, fetch, store, ..BlocksConfig::default() }
}

/// Files of one block each, added by `agent`.
async fn files(agent: &Agent, seeds: std::ops::Range<u64>) -> Vec<Cid> {
    let mut cids = Vec::new();
    for seed in seeds {
        let options = AddOptions { silent: true, ..AddOptions::default() };
        cids.push(agent.blocks.add_bytes(noise(seed, 1 << 20), options).await.unwrap().cid);
    }
    cids
}

async fn get(agent: &Agent, cids: &[Cid]) {
    for cid in cids {
        agent.blocks.get_bytes(*cid, 2 * MIB, agent.within(30)).await.unwrap();
    }
    settle(agent).await;
}

/// Lets the background do what it has to.
async fn settle(agent: &Agent) {
    agent.world.clock.sleep_until(agent.within(1)).await;
}

fn held(agent: &Agent, cids: &[Cid]) -> usize {
    cids.iter().filter(|cid| agent.blocks.has(cid)).count()
}

#[test]
fn what_nobody_keeps_is_dropped_beyond_the_budget_and_what_is_added_or_pinned_never() {
    let sim = Sim::new(1);
    sim.clone().run(async move {
        let alice = Agent::start(&sim, 1).await;
        let bob = Agent::with(&sim, 2, caching(8 * MIB)).await;
        bob.connect(&alice).await;
        let theirs = files(&alice, 0..40).await;
        let own = files(&bob, 100..110).await;
        for cid in &theirs[..5] {
            bob.blocks.pin(*cid, &FetchOptions::until(bob.within(30))).await.unwrap();
        }
        assert_eq!(bob.blocks.cache_stats().blocks, 0, "what is pinned is not cached");
        get(&bob, &theirs[5..]).await;
        let stats = bob.blocks.cache_stats();
        assert!(stats.bytes <= 8 * MIB && stats.bytes >= 7 * MIB, "{stats:?}");
        assert_eq!((stats.misses, stats.condemned_bytes, stats.blocks + stats.evicted_blocks), (35, 0, 35));
        assert_eq!((held(&bob, &own), held(&bob, &theirs[..5])), (10, 5));
        assert_eq!(held(&bob, &theirs[5..]) as u64, stats.blocks);
        assert_eq!(bob.blocks.store().stats().data_bytes, 15 * MIB + stats.bytes);
    });
}

#[test]
fn what_was_cached_and_is_pinned_or_added_then_stays_also_after_a_kill() {
    let sim = Sim::new(2);
    sim.clone().run(async move {
        let alice = Agent::start(&sim, 1).await;
        let bob = Agent::with(&sim, 2, caching(8 * MIB)).await;
        bob.connect(&alice).await;
        let theirs = files(&alice, 0..40).await;
        get(&bob, &theirs[..4]).await;
        bob.blocks.shutdown().await.unwrap();
        let (peer, identity) = (bob.peer(), bob.identity.clone());
        drop(bob);
        sim.kill(peer);
        settle(&alice).await;

        let bob = Agent::configured(sim.rejoin(peer), identity.clone(), caching(8 * MIB)).await;
        bob.connect(&alice).await;
        assert_eq!(bob.blocks.cache_stats().bytes, 4 * MIB, "what was cached is cached again");
        bob.blocks.pin(theirs[0], &FetchOptions::until(bob.within(30))).await.unwrap();
        assert_eq!(files(&bob, 1..2).await, theirs[1..2]);
        assert_eq!(bob.blocks.cache_stats().bytes, 2 * MIB);
        drop(bob);
        sim.kill(peer);
        settle(&alice).await;

        let bob = Agent::configured(sim.rejoin(peer), identity, caching(8 * MIB)).await;
        bob.connect(&alice).await;
        assert_eq!(bob.blocks.cache_stats().bytes, 2 * MIB);
        get(&bob, &theirs[4..]).await;
        get(&bob, &theirs[4..]).await;
        assert_eq!(held(&bob, &theirs[..2]), 2);
        assert!(held(&bob, &theirs[2..]) <= 8);
    });
}

#[test]
fn a_scan_does_not_flush_what_is_read_often() {
    let sim = Sim::new(3);
    sim.clone().run(async move {
        let alice = Agent::start(&sim, 1).await;
        let bob = Agent::with(&sim, 2, caching(16 * MIB)).await;
        bob.connect(&alice).await;
        let (often, scanned) = (files(&alice, 0..10).await, files(&alice, 100..160).await);
        for _ in 0..3 {
            get(&bob, &often).await;
        }
        get(&bob, &scanned).await;
        assert!(held(&bob, &often) >= 9, "{} of 10 are left", held(&bob, &often));
        let before = bob.blocks.cache_stats();
        get(&bob, &often).await;
        let after = bob.blocks.cache_stats();
        assert!(after.hits - before.hits >= 9 && after.misses - before.misses <= 1, "{after:?}");
    });
}

#[test]
fn a_file_larger_than_the_cache_is_read_whole_and_dropped_after() {
    let sim = Sim::new(4);
    sim.clone().run(async move {
        let alice = Agent::start(&sim, 1).await;
        let bob = Agent::with(&sim, 2, caching(4 * MIB)).await;
        let content = noise(4, 24 << 20);
        let cid = alice.blocks.add_bytes(content.clone(), AddOptions::default()).await.unwrap().cid;
        let guard = bob.blocks.store().guard_root(cid);
        let got = bob.blocks.get_bytes(cid, 64 * MIB, bob.within(60)).await.unwrap();
        assert_eq!(Bytes::from(got), content);
        settle(&bob).await;
        let held = bob.blocks.cache_stats();
        assert!(held.condemned_bytes >= 20 * MIB && held.evicted_blocks == 0, "{held:?}");
        drop(guard);
        settle(&bob).await;
        let stats = bob.blocks.cache_stats();
        assert!(stats.condemned_bytes == 0 && stats.bytes <= 4 * MIB, "{stats:?}");
        assert_eq!(bob.blocks.store().stats().data_bytes, stats.bytes);
    });
}

#[test]
fn cached_content_gives_way_before_an_import_or_a_pin_fails_for_the_quota() {
    let sim = Sim::new(5);
    sim.clone().run(async move {
        let alice = Agent::start(&sim, 1).await;
        let mut config = caching(40 * MIB);
        config.store.quota_bytes = 80 << 20;
        let bob = Agent::with(&sim, 2, config).await;
        bob.connect(&alice).await;
        let theirs = files(&alice, 0..60).await;
        get(&bob, &theirs[..40]).await;
        assert!(bob.blocks.cache_stats().bytes >= 36 * MIB);
        let own = files(&bob, 100..140).await;
        for cid in &theirs[40..60] {
            bob.blocks.pin(*cid, &FetchOptions::until(bob.within(30))).await.unwrap();
        }
        assert_eq!((held(&bob, &own), held(&bob, &theirs[40..])), (40, 20));
        assert!(bob.blocks.store().stats().disk_bytes <= 80 * MIB);
        // When nothing of the cache is left to give, the error is as before.
        let full = bob.blocks.add_bytes(noise(500, 30 << 20), AddOptions::default()).await.unwrap_err();
        assert!(full.to_string().contains("quota"), "{full}");
        assert_eq!((held(&bob, &own), held(&bob, &theirs[40..])), (40, 20));
    });
}

#[test]
fn without_room_for_a_single_block_everything_is_read_all_the_same() {
    let sim = Sim::new(10);
    sim.clone().run(async move {
        let (alice, bob) = (Agent::start(&sim, 1).await, Agent::with(&sim, 2, caching(0)).await);
        bob.connect(&alice).await;
        let theirs = files(&alice, 0..5).await;
        for cid in theirs.iter().chain(&theirs) {
            assert_eq!(bob.blocks.get_block(*cid, bob.within(30)).await.unwrap().len(), 1 << 20);
            let range = bob.blocks.read_range(*cid, 10..20, bob.within(30)).await.unwrap();
            assert_eq!(range.len(), 10);
        }
        settle(&bob).await;
        let stats = bob.blocks.cache_stats();
        assert_eq!((stats.blocks, stats.condemned_bytes), (0, 0), "{stats:?}");
        assert_eq!(bob.blocks.store().stats().blocks, 0);
    });
}

#[test]
fn a_collection_takes_cached_content_and_the_cache_knows() {
    let sim = Sim::new(6);
    sim.clone().run(async move {
        let (alice, bob) = (Agent::start(&sim, 1).await, Agent::with(&sim, 2, caching(8 * MIB)).await);
        bob.connect(&alice).await;
        let theirs = files(&alice, 0..5).await;
        get(&bob, &theirs).await;
        assert_eq!(bob.blocks.cache_stats().blocks, 5);
        assert_eq!(bob.blocks.gc().await.unwrap().blocks, 5);
        assert_eq!((bob.blocks.cache_stats().blocks, bob.blocks.cache_stats().bytes), (0, 0));
    });
}

#[test]
fn what_a_collection_took_and_is_added_then_is_not_cached_after_a_kill() {
    let sim = Sim::new(9);
    sim.clone().run(async move {
        let alice = Agent::start(&sim, 1).await;
        let bob = Agent::with(&sim, 2, caching(8 * MIB)).await;
        bob.connect(&alice).await;
        let theirs = files(&alice, 0..2).await;
        get(&bob, &theirs).await;
        bob.blocks.shutdown().await.unwrap();
        let (peer, identity) = (bob.peer(), bob.identity.clone());
        drop(bob);
        sim.kill(peer);
        settle(&alice).await;

        let bob = Agent::configured(sim.rejoin(peer), identity.clone(), caching(8 * MIB)).await;
        assert_eq!(bob.blocks.gc().await.unwrap().blocks, 2);
        assert_eq!(files(&bob, 0..2).await, theirs);
        drop(bob);
        sim.kill(peer);
        settle(&alice).await;

        let bob = Agent::configured(sim.rejoin(peer), identity, caching(8 * MIB)).await;
        assert_eq!((held(&bob, &theirs), bob.blocks.cache_stats().bytes), (2, 0));
    });
}

#[test]
fn a_damaged_block_of_a_pin_that_a_reader_fetches_again_is_not_cached() {
    let sim = Sim::new(7);
    sim.clone().run(async move {
        let (alice, bob) = (Agent::start(&sim, 1).await, Agent::with(&sim, 2, caching(4 * MIB)).await);
        bob.connect(&alice).await;
        let theirs = files(&alice, 0..20).await;
        bob.blocks.pin(theirs[0], &FetchOptions::until(bob.within(30))).await.unwrap();
        let disk = &bob.world.disk;
        let segment = disk.list("blocks").unwrap().into_iter().find(|entry| entry.name.ends_with(".segment")).unwrap();
        let file = disk.open(&format!("blocks/{}", segment.name), diai_core::OpenMode::ReadWrite).unwrap();
        file.write_at(500_000, b"damage").unwrap();
        bob.blocks.get_block(theirs[0], bob.within(30)).await.unwrap();
        assert_eq!(bob.blocks.store().stats().damaged, 1);
        assert_eq!(bob.blocks.cache_stats().blocks, 0);
        get(&bob, &theirs[1..]).await;
        assert_eq!(held(&bob, &theirs[..1]), 1);
    });
}

#[test]
fn providers_of_a_root_are_tried_first_the_next_time_without_the_dht() {
    let sim = Sim::new(8);
    sim.clone().run(async move {
        let alice = Agent::start(&sim, 1).await;
        let bob = Agent::by_bitswap(&sim, 2).await;
        let options = AddOptions { silent: true, ..AddOptions::default() };
        let cid = alice.blocks.add_bytes(noise(8, 3 << 20), options).await.unwrap().cid;
        alice.blocks.provide(cid);
        bob.blocks.get_bytes(cid, 8 * MIB, bob.within(30)).await.unwrap();
        assert_eq!(bob.blocks.cache_stats().provider_hits, 0);
        bob.blocks.gc().await.unwrap();
        // The DHT knows nothing any more, and they are not connected; what was learned is enough.
        alice.blocks.withdraw(cid);
        alice.blocks.shutdown().await.unwrap();
        let (peer, identity) = (alice.peer(), alice.identity.clone());
        drop(alice);
        sim.kill(peer);
        settle(&bob).await;
        let _alice = Agent::on(sim.rejoin(peer), identity).await;
        bob.blocks.get_bytes(cid, 8 * MIB, bob.within(30)).await.unwrap();
        assert_eq!(bob.blocks.cache_stats().provider_hits, 1);
    });
}

#[test]
fn what_nobody_had_is_not_asked_for_again_at_once_and_a_peer_that_connects_is() {
    let sim = Sim::new(9);
    sim.clone().run(async move {
        let (alice, bob) = (Agent::start(&sim, 1).await, Agent::by_bitswap(&sim, 2).await);
        bob.connect(&alice).await;
        let carol = Agent::start(&sim, 3).await;
        let content = noise(9, 1000);
        let cid = files(&carol, 9..10).await[0];
        assert!(bob.blocks.get_block(cid, bob.within(1)).await.is_err());
        assert!(bob.blocks.get_block(cid, bob.within(1)).await.is_err());
        let spared = bob.blocks.status().await.unwrap().bitswap.wants_spared;
        assert_eq!((spared, bob.blocks.cache_stats().lookups_spared > 0), (1, true));
        let started = bob.world.clock.now();
        let (got, ()) = futures::join!(bob.blocks.get_block(cid, bob.within(30)), async {
            carol.connect(&bob).await;
        });
        assert_eq!(got.unwrap().len(), 1 << 20);
        assert!(bob.world.clock.now().since(started).as_millis() < 1000);
        drop(content);
    });
}
