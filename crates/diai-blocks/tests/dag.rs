//! Whole DAGs between agents over the in-memory World.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use cid::Cid;
use common::{Agent, noise};
use diai_blocks::{
    Block, DAG_CBOR,
    config::{BlocksConfig, DagConfig},
    dag_pb::Link,
    fetch::{FetchOptions, FetchProgressFn},
    handle::AddOptions,
    unixfs,
};
use diai_core::memory::Sim;

async fn add(agent: &Agent, content: &Bytes) -> Cid {
    agent.blocks.add_bytes(content.clone(), AddOptions::default()).await.unwrap().cid
}

/// Blocks that an agent has sent, in whole DAGs and one by one.
async fn sent(agent: &Agent) -> (u64, u64) {
    let status = agent.blocks.status().await.unwrap();
    (status.dag.blocks_sent, status.bitswap.blocks_sent)
}

#[test]
fn a_file_comes_whole_in_one_request_and_nothing_comes_by_bitswap() {
    let sim = Sim::new(1);
    sim.clone().run(async move {
        let (alice, bob) = (Agent::start(&sim, 1).await, Agent::start(&sim, 2).await);
        alice.connect(&bob).await;
        let content = noise(1, (20 << 20) + 12_345);
        let cid = add(&alice, &content).await;
        let options = FetchOptions::until(bob.within(60));
        let progress = bob.blocks.fetch(cid, &options).await.unwrap();
        assert_eq!((progress.blocks, progress.local_blocks, progress.open_blocks), (22, 0, 0));
        assert_eq!(Bytes::from(unixfs::read_all(bob.blocks.store(), cid, 64 << 20).await.unwrap()), content);
        assert_eq!(sent(&alice).await, (22, 0));
        assert_eq!(alice.blocks.status().await.unwrap().dag.requests, 1);
        // What is here is not asked for again.
        let progress = bob.blocks.fetch(cid, &options).await.unwrap();
        assert_eq!((progress.blocks, progress.local_blocks), (0, 22));
        assert_eq!(alice.blocks.status().await.unwrap().dag.requests, 1);
    });
}

#[test]
fn a_folder_of_two_thousand_files_comes_from_a_provider_that_the_dht_names() {
    let sim = Sim::new(2);
    sim.clone().run(async move {
        let (alice, bob) = (Agent::start(&sim, 1).await, Agent::start(&sim, 2).await);
        let files: Vec<_> = (0..2000).map(|n| (format!("file-{n:04}"), noise(n, 500 + n as usize))).collect();
        let cid = alice.blocks.add_files(files.clone(), AddOptions::default()).await.unwrap().cid;
        let progress = bob.blocks.fetch(cid, &FetchOptions::until(bob.within(60))).await.unwrap();
        assert_eq!((progress.blocks, progress.local_blocks), (2001, 0));
        let (whole, single) = sent(&alice).await;
        assert!(whole >= 2000 && single <= 1, "{whole} in whole dags, {single} one by one");
    });
}

#[test]
fn a_folder_in_many_nodes_comes_whole() {
    let sim = Sim::new(3);
    sim.clone().run(async move {
        let (alice, bob) = (Agent::start(&sim, 1).await, Agent::start(&sim, 2).await);
        alice.connect(&bob).await;
        let file = Block::new(diai_blocks::RAW, noise(3, 4000)).unwrap();
        let link =
            |n| Link { cid: file.cid, name: format!("a name that is long enough to need nodes {n}"), tsize: 4000 };
        let folder = unixfs::build_folder((0..20_000).map(link).collect(), &unixfs::Profile::default()).unwrap();
        assert!(folder.blocks.len() > 100, "the folder is one node");
        let count = folder.blocks.len() as u64 + 1;
        alice.blocks.put_block(file).await.unwrap();
        alice.blocks.store().put_many(folder.blocks).await.unwrap();
        let progress = bob.blocks.fetch(folder.root, &FetchOptions::until(bob.within(60))).await.unwrap();
        assert_eq!(progress.blocks, count, "each block comes once");
        assert_eq!(sent(&alice).await, (count, 0));
    });
}

/// A list of links in dag-cbor.
fn cbor_list(links: &[Cid]) -> Block {
    assert!(links.len() < 24);
    let mut bytes = vec![0x80 | links.len() as u8];
    for link in links {
        let link = link.to_bytes();
        bytes.extend([0xd8, 42, 0x58, link.len() as u8 + 1, 0]);
        bytes.extend(link);
    }
    Block::new(DAG_CBOR, bytes).unwrap()
}

#[test]
fn a_chain_of_dag_cbor_whose_links_all_come_twice_is_sent_once() {
    let sim = Sim::new(4);
    sim.clone().run(async move {
        let (alice, bob) = (Agent::start(&sim, 1).await, Agent::start(&sim, 2).await);
        alice.connect(&bob).await;
        let mut last = cbor_list(&[]);
        let mut blocks = vec![last.clone()];
        // Two to the two thousandth paths lead to the end.
        for _ in 0..2000 {
            last = cbor_list(&[last.cid, last.cid]);
            blocks.push(last.clone());
        }
        alice.blocks.store().put_many(blocks).await.unwrap();
        let progress = bob.blocks.fetch(last.cid, &FetchOptions::until(bob.within(60))).await.unwrap();
        assert_eq!(progress.blocks, 2001);
        assert_eq!(sent(&alice).await, (2001, 0));
    });
}

#[test]
fn a_fetch_that_was_cut_goes_on_where_it_was() {
    for (seed, cut_at) in [(0, 1), (1, 3), (2, 9), (3, 17), (4, 26)] {
        let sim = Sim::new(seed);
        sim.clone().run(async move {
            let (alice, bob) = (Agent::start(&sim, 1).await, Agent::start(&sim, 2).await);
            alice.connect(&bob).await;
            let content = noise(seed, 30 << 20);
            let cid = add(&alice, &content).await;
            let cut = Arc::new(AtomicBool::new(false));
            let (cutting, cutter, whom) = (cut.clone(), sim.clone(), alice.peer());
            let progress = FetchProgressFn::new(move |progress| {
                if progress.blocks >= cut_at && !cutting.swap(true, Ordering::SeqCst) {
                    cutter.kill(whom);
                }
            });
            let options = FetchOptions { progress: Some(progress), ..FetchOptions::until(bob.within(5)) };
            bob.blocks.fetch(cid, &options).await.unwrap_err();
            let came = bob.blocks.store().stats().blocks;
            assert!(came >= cut_at && came < 31, "{came} blocks came");
            let (peer, identity) = (alice.peer(), alice.identity.clone());
            alice.blocks.shutdown().await.unwrap();
            drop(alice);
            let alice = Agent::on(sim.rejoin(peer), identity).await;
            alice.connect(&bob).await;
            let progress = bob.blocks.fetch(cid, &FetchOptions::until(bob.within(60))).await.unwrap();
            assert_eq!(progress.blocks, 31 - came);
            assert_eq!(sent(&alice).await, (31 - came, 0));
        });
    }
}

#[test]
fn of_a_changed_folder_only_what_changed_is_sent() {
    let sim = Sim::new(5);
    sim.clone().run(async move {
        let (alice, bob) = (Agent::start(&sim, 1).await, Agent::start(&sim, 2).await);
        alice.connect(&bob).await;
        let mut files: Vec<_> = (0..200).map(|n| (format!("{n:03}"), noise(n, 100_000))).collect();
        let first = alice.blocks.add_files(files.clone(), AddOptions::default()).await.unwrap().cid;
        bob.blocks.fetch(first, &FetchOptions::until(bob.within(60))).await.unwrap();
        files[100].1 = noise(777, 100_000);
        let second = alice.blocks.add_files(files, AddOptions::default()).await.unwrap().cid;
        let (before, _) = sent(&alice).await;
        let progress = bob.blocks.fetch(second, &FetchOptions::until(bob.within(60))).await.unwrap();
        assert_eq!(progress.blocks, 2);
        let (after, _) = sent(&alice).await;
        assert!(after - before <= 40, "{} blocks were sent", after - before);
    });
}

#[test]
fn what_one_sender_lacks_comes_from_others_block_by_block() {
    let sim = Sim::new(6);
    sim.clone().run(async move {
        let (alice, carol) = (Agent::start(&sim, 1).await, Agent::by_bitswap(&sim, 3).await);
        let bob = Agent::start(&sim, 2).await;
        let content = noise(6, 10 << 20);
        let cid = add(&alice, &content).await;
        add(&carol, &content).await;
        let leaf = unixfs::links(cid, &alice.blocks.store().get(&cid).await.unwrap().unwrap()).unwrap()[4];
        alice.blocks.store().remove(vec![leaf]).await.unwrap();
        alice.connect(&bob).await;
        bob.connect(&carol).await;
        let progress = bob.blocks.fetch(cid, &FetchOptions::until(bob.within(60))).await.unwrap();
        assert_eq!(progress.blocks, 11);
        assert_eq!(Bytes::from(unixfs::read_all(bob.blocks.store(), cid, 64 << 20).await.unwrap()), content);
    });
}

#[test]
fn several_senders_share_the_work_and_nothing_comes_twice() {
    let sim = Sim::new(7);
    sim.clone().run(async move {
        let content = noise(7, 64 << 20);
        let bob = Agent::start(&sim, 2).await;
        let mut senders = Vec::new();
        let mut cid = None;
        for number in 10..14 {
            let agent = Agent::start(&sim, number).await;
            cid = Some(add(&agent, &content).await);
            agent.connect(&bob).await;
            senders.push(agent);
        }
        let progress = bob.blocks.fetch(cid.unwrap(), &FetchOptions::until(bob.within(120))).await.unwrap();
        assert_eq!(progress.blocks, 65);
        let (mut total, mut busy) = (0, 0);
        for sender in &senders {
            let (whole, single) = sent(sender).await;
            assert_eq!(single, 0);
            total += whole;
            busy += u32::from(whole > 4);
        }
        assert_eq!((total, busy), (65, 4));
    });
}

#[test]
fn one_block_alone_is_asked_for_once_however_many_have_it() {
    let sim = Sim::new(17);
    sim.clone().run(async move {
        let bob = Agent::start(&sim, 2).await;
        let (mut senders, mut cid) = (Vec::new(), None);
        for number in 10..13 {
            let agent = Agent::start(&sim, number).await;
            cid = Some(add(&agent, &noise(9, 70_000)).await);
            agent.connect(&bob).await;
            senders.push(agent);
        }
        let progress = bob.blocks.fetch(cid.unwrap(), &FetchOptions::until(bob.within(60))).await.unwrap();
        assert_eq!((progress.blocks, progress.bytes), (1, 70_000));
    });
}

#[test]
fn the_share_of_a_sender_that_dies_is_taken_over() {
    let sim = Sim::new(8);
    sim.clone().run(async move {
        let content = noise(8, 40 << 20);
        let (alice, bob, carol) =
            (Agent::start(&sim, 1).await, Agent::start(&sim, 2).await, Agent::start(&sim, 3).await);
        let cid = add(&alice, &content).await;
        add(&carol, &content).await;
        alice.connect(&bob).await;
        carol.connect(&bob).await;
        let (dying, killer) = (carol.peer(), sim.clone());
        let progress = FetchProgressFn::new(move |progress| {
            if progress.blocks == 10 {
                killer.kill(dying);
            }
        });
        let options = FetchOptions { progress: Some(progress), ..FetchOptions::until(bob.within(60)) };
        bob.blocks.fetch(cid, &options).await.unwrap();
        assert_eq!(sent(&alice).await.1, 0, "the rest came block by block");
        assert_eq!(Bytes::from(unixfs::read_all(bob.blocks.store(), cid, 64 << 20).await.unwrap()), content);
    });
}

#[test]
fn a_sender_with_tight_limits_is_asked_again_until_all_is_there() {
    let sim = Sim::new(9);
    sim.clone().run(async move {
        let dag = DagConfig { max_bytes: 3 << 20, ..DagConfig::default() };
        let alice = Agent::with(&sim, 1, BlocksConfig { dag, ..BlocksConfig::default() }).await;
        let bob = Agent::start(&sim, 2).await;
        alice.connect(&bob).await;
        let content = noise(9, 20 << 20);
        let cid = add(&alice, &content).await;
        let progress = bob.blocks.fetch(cid, &FetchOptions::until(bob.within(60))).await.unwrap();
        assert_eq!(progress.blocks, 21);
        assert_eq!(sent(&alice).await, (21, 0));
    });
}

#[test]
fn a_sender_that_is_busy_leaves_the_work_to_bitswap() {
    let sim = Sim::new(10);
    sim.clone().run(async move {
        let dag = DagConfig { max_streams: 0, ..DagConfig::default() };
        let alice = Agent::with(&sim, 1, BlocksConfig { dag, ..BlocksConfig::default() }).await;
        let bob = Agent::start(&sim, 2).await;
        alice.connect(&bob).await;
        let cid = add(&alice, &noise(10, 5 << 20)).await;
        let progress = bob.blocks.fetch(cid, &FetchOptions::until(bob.within(60))).await.unwrap();
        assert_eq!(progress.blocks, 6);
        assert_eq!(sent(&alice).await, (0, 6));
    });
}
