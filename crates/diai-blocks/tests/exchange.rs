//! Agents that exchange blocks over the in-memory World.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use bytes::Bytes;
use common::{Agent, join, noise};
use diai_blocks::{
    Block, RAW,
    bitswap::{Message, Payload, Prefix, Version, decode, encode},
    fetch::{FetchError, FetchOptions},
    handle::{AddOptions, ContentError},
    unixfs,
};
use diai_core::{AcceptOptions, World, frame, memory::Sim};
use futures::{AsyncWriteExt, StreamExt};

#[test]
fn two_agents_exchange_twenty_mebibytes_and_nothing_comes_twice() {
    let sim = Sim::new(1);
    sim.clone().run(async move {
        let (alice, bob) = (Agent::start(&sim, 1).await, Agent::by_bitswap(&sim, 2).await);
        let content = noise(1, (20 << 20) + 12_345);
        let added = alice.blocks.add_bytes(content.clone(), AddOptions::default()).await.unwrap();
        let got = bob.blocks.get_bytes(added.cid, 64 << 20, bob.within(60)).await.unwrap();
        assert_eq!(Bytes::from(got), content);
        let status = bob.blocks.status().await.unwrap().bitswap;
        assert_eq!((status.blocks_received, status.duplicates, status.wants), (22, 0, 0));
        assert_eq!(alice.blocks.status().await.unwrap().bitswap.blocks_sent, 22);
    });
}

#[test]
fn a_folder_of_many_small_files_is_exchanged_and_written_out() {
    let sim = Sim::new(2);
    sim.clone().run(async move {
        let (alice, bob) = (Agent::start(&sim, 1).await, Agent::by_bitswap(&sim, 2).await);
        alice.connect(&bob).await;
        let files: Vec<_> = (0..2000).map(|n| (format!("file-{n:04}"), noise(n, 500 + n as usize))).collect();
        let added = alice.blocks.add_files(files.clone(), AddOptions::default()).await.unwrap();
        bob.blocks.export(added.cid, bob.world.disk.clone(), "out", bob.within(60)).await.unwrap();
        let file = bob.world.disk.open("out/file-1999", diai_core::OpenMode::Read).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_exact_at(0, &mut bytes).unwrap();
        assert_eq!(Bytes::from(bytes), files[1999].1);
        assert_eq!(bob.blocks.status().await.unwrap().bitswap.duplicates, 0);
    });
}

#[test]
fn ten_providers_share_the_work_and_few_blocks_come_twice() {
    let sim = Sim::new(3);
    sim.clone().run(async move {
        let content = noise(3, 16 << 20);
        let mut providers = Vec::new();
        let mut cid = None;
        for number in 0..10 {
            let agent = Agent::start(&sim, number).await;
            cid = Some(agent.blocks.add_bytes(content.clone(), AddOptions::default()).await.unwrap().cid);
            providers.push(agent);
        }
        let reader = Agent::by_bitswap(&sim, 99).await;
        for provider in &providers {
            reader.connect(provider).await;
        }
        let got = reader.blocks.get_bytes(cid.unwrap(), 64 << 20, reader.within(120)).await.unwrap();
        assert_eq!(got.len(), content.len());
        let status = reader.blocks.status().await.unwrap().bitswap;
        assert!(status.duplicates <= 2, "{} duplicates", status.duplicates);
        let mut busy = 0;
        for provider in &providers {
            busy += u32::from(provider.blocks.status().await.unwrap().bitswap.blocks_sent > 0);
        }
        assert!(busy >= 2, "only {busy} of ten served");
    });
}

#[test]
fn a_provider_that_dies_midway_is_replaced_by_another() {
    let sim = Sim::new(4);
    sim.clone().run(async move {
        let content = noise(4, 30 << 20);
        let (alice, carol) = (Agent::start(&sim, 1).await, Agent::start(&sim, 3).await);
        let cid = alice.blocks.add_bytes(content.clone(), AddOptions::default()).await.unwrap().cid;
        carol.blocks.add_bytes(content.clone(), AddOptions::default()).await.unwrap();
        let bob = Agent::by_bitswap(&sim, 2).await;
        bob.connect(&alice).await;
        let (dying, killer) = (alice.peer(), sim.clone());
        let progress = diai_blocks::fetch::FetchProgressFn::new(move |progress| {
            if progress.blocks > 5 {
                killer.kill(dying);
            }
        });
        let options = FetchOptions { progress: Some(progress), ..FetchOptions::until(bob.within(60)) };
        bob.blocks.fetch(cid, &options).await.unwrap();
        assert!(carol.blocks.status().await.unwrap().bitswap.blocks_sent > 0);
    });
}

#[test]
fn what_nobody_has_ends_at_the_deadline_and_says_who_was_asked() {
    let sim = Sim::new(5);
    sim.clone().run(async move {
        let (alice, bob) = (Agent::start(&sim, 1).await, Agent::start(&sim, 2).await);
        alice.connect(&bob).await;
        let ghost = Block::new(RAW, &b"nobody has this"[..]).unwrap().cid;
        // Announced, but not there.
        alice.blocks.provide(ghost);
        let deadline = bob.within(20);
        let error = bob.blocks.get_bytes(ghost, 100, deadline).await.unwrap_err();
        assert_eq!(bob.world.clock.now(), deadline);
        let ContentError::Fetch(FetchError::NotFound { cid, asked }) = error else { panic!("{error}") };
        assert_eq!(cid, ghost);
        assert_eq!(asked.peers, [alice.peer()]);
        assert_eq!(asked.providers, [alice.peer()]);
    });
}

#[test]
fn a_block_that_arrives_later_is_pushed_to_those_who_were_told_it_is_not_there() {
    let sim = Sim::new(6);
    sim.clone().run(async move {
        let (alice, bob) = (Agent::start(&sim, 1).await, Agent::start(&sim, 2).await);
        alice.connect(&bob).await;
        let block = Block::new(RAW, &b"late"[..]).unwrap();
        let (cid, deadline) = (block.cid, bob.within(30));
        let wanting = bob.blocks.get_block(cid, deadline);
        let putting = async {
            alice.world.clock.sleep_until(alice.within(3)).await;
            alice.blocks.put_block(block).await.unwrap();
            alice.world.clock.now()
        };
        let (got, put_at) = futures::join!(wanting, putting);
        assert_eq!(got.unwrap(), &b"late"[..]);
        assert!(bob.world.clock.now().since(put_at).as_millis() < 100);
    });
}

/// A device that answers every want-block with other bytes than were asked for.
async fn lie(world: World) {
    let mut incoming = world.network.accept(&Version::PROTOCOLS, AcceptOptions::default()).unwrap();
    while let Some(inbound) = incoming.next().await {
        let mut wants = inbound.stream;
        let mut answers = world.network.open(inbound.peer, &Version::PROTOCOLS).await.unwrap().stream;
        while let Ok(Some(bytes)) = frame::read(&mut wants, 4 << 20).await {
            let message = decode(&bytes).unwrap();
            let payload = message.wants.iter().filter(|want| !want.cancel).map(|want| Payload {
                prefix: Prefix::of(&want.cid),
                data: Bytes::from(format!("a lie about {}", want.cid)),
            });
            let lies = Message { payload: payload.collect(), ..Message::default() };
            for slice in encode(&lies, Version::V1_2) {
                if answers.write_all(&slice).await.is_err() {
                    break;
                }
            }
        }
    }
}

#[test]
fn a_peer_that_sends_other_blocks_than_asked_is_cut_off_and_another_asked() {
    let sim = Sim::new(7);
    sim.clone().run(async move {
        let liar = common::identity(&sim, 66);
        let world = join(&sim, &liar);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(lie(world));
        let (alice, bob) = (Agent::start(&sim, 1).await, Agent::by_bitswap(&sim, 2).await);
        let content = noise(7, 3 << 20);
        let cid = alice.blocks.add_bytes(content.clone(), AddOptions::default()).await.unwrap().cid;
        bob.world.network.connect(liar.peer(), Vec::new()).await.unwrap();
        let got = bob.blocks.get_bytes(cid, 64 << 20, bob.within(60)).await.unwrap();
        assert_eq!(Bytes::from(got), content);
        assert!(bob.world.network.open(liar.peer(), &Version::PROTOCOLS).await.is_err(), "the liar is still served");
    });
}

#[test]
fn garbage_on_a_stream_cuts_its_sender_off_and_others_are_served() {
    let sim = Sim::new(8);
    sim.clone().run(async move {
        let (alice, bob) = (Agent::start(&sim, 1).await, Agent::start(&sim, 2).await);
        let hostile = common::identity(&sim, 66);
        let world = join(&sim, &hostile);
        let cid = alice.blocks.add_bytes(noise(8, 100_000), AddOptions::default()).await.unwrap().cid;
        let mut stream = world.network.open(alice.peer(), &Version::PROTOCOLS).await.unwrap().stream;
        stream.write_all(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).await.unwrap();
        stream.flush().await.unwrap();
        bob.blocks.get_bytes(cid, 1 << 20, bob.within(30)).await.unwrap();
        assert!(alice.world.network.peer(hostile.peer()).is_none(), "the sender of garbage is still connected");
    });
}

#[test]
fn an_unpinned_root_is_withdrawn_and_pins_are_announced_again_after_a_restart() {
    let sim = Sim::new(9);
    sim.clone().run(async move {
        let alice = Agent::start(&sim, 1).await;
        let mut events = alice.blocks.provide_events();
        let kept = alice.blocks.add_bytes(noise(1, 5000), AddOptions::default()).await.unwrap().cid;
        let gone = alice.blocks.add_bytes(noise(2, 5000), AddOptions::default()).await.unwrap().cid;
        events.next().await.unwrap();
        events.next().await.unwrap();
        assert!(alice.blocks.unpin(gone).await.unwrap());
        alice.blocks.gc().await.unwrap();
        assert!(alice.blocks.has(&kept) && !alice.blocks.has(&gone));
        let (peer, identity) = (alice.peer(), alice.identity.clone());
        alice.blocks.shutdown().await.unwrap();
        drop((alice, events));
        sim.kill(peer);
        let alice = Agent::on(sim.rejoin(peer), identity).await;
        let bob = Agent::start(&sim, 2).await;
        assert_eq!(bob.blocks.get_bytes(kept, 10_000, bob.within(30)).await.unwrap(), noise(1, 5000));
        assert!(bob.blocks.get_bytes(gone, 10_000, bob.within(30)).await.is_err());
        drop(alice);
    });
}

#[test]
fn dropping_a_fetch_ends_its_wants() {
    let sim = Sim::new(10);
    sim.clone().run(async move {
        let (alice, bob) = (Agent::start(&sim, 1).await, Agent::start(&sim, 2).await);
        alice.connect(&bob).await;
        let ghost = Block::new(RAW, &b"nobody has this"[..]).unwrap().cid;
        let short = bob.within(2);
        let fetch = bob.blocks.get_block(ghost, bob.within(600));
        assert!(diai_core::timeout_at(&*bob.world.clock, short, fetch).await.is_err());
        bob.world.clock.sleep_until(bob.within(1)).await;
        assert_eq!(bob.blocks.status().await.unwrap().bitswap.wants, 0);
        assert_eq!(alice.blocks.status().await.unwrap().bitswap.clients, 0, "the want still stands at the other side");
    });
}

#[test]
fn equal_seeds_give_equal_runs() {
    let run = || {
        let sim = Sim::new(11);
        sim.clone().run({
            let sim = sim.clone();
            async move {
                let (alice, bob) = (Agent::start(&sim, 1).await, Agent::start(&sim, 2).await);
                let cid = alice.blocks.add_bytes(noise(1, 5 << 20), AddOptions::default()).await.unwrap().cid;
                bob.blocks.get_bytes(cid, 64 << 20, bob.within(60)).await.unwrap();
            }
        });
        sim.trace_hash()
    };
    assert_eq!(run(), run());
}

#[test]
fn what_a_fetch_found_here_is_durable_when_it_returns() {
    let sim = Sim::new(12);
    sim.clone().run(async move {
        let bob = Agent::start(&sim, 2).await;
        let block = Block::new(RAW, &b"put by somebody else, not flushed"[..]).unwrap();
        let cid = block.cid;
        bob.blocks.put_block(block).await.unwrap();
        let before = bob.blocks.store().stats().syncs;
        bob.blocks.fetch(cid, &FetchOptions::until(bob.within(1))).await.unwrap();
        assert_eq!(bob.blocks.store().stats().syncs, before + 1);
    });
}

#[test]
fn what_is_added_goes_at_once_to_those_who_wait_for_it() {
    let sim = Sim::new(13);
    sim.clone().run(async move {
        let (alice, bob, carol) =
            (Agent::start(&sim, 1).await, Agent::start(&sim, 2).await, Agent::start(&sim, 3).await);
        let content = noise(13, 3 << 20);
        let silent = || AddOptions { silent: true, ..AddOptions::default() };
        let cid = carol.blocks.add_bytes(content.clone(), silent()).await.unwrap().cid;
        alice.connect(&bob).await;
        let wanting = bob.blocks.get_bytes(cid, 64 << 20, bob.within(30));
        let adding = async {
            alice.world.clock.sleep_until(alice.within(3)).await;
            alice.blocks.add_bytes(content.clone(), silent()).await.unwrap();
            alice.world.clock.now()
        };
        let (got, added_at) = futures::join!(wanting, adding);
        assert_eq!(Bytes::from(got.unwrap()), content);
        assert!(bob.world.clock.now().since(added_at).as_millis() < 1000);
    });
}

#[test]
fn readers_that_pause_hold_up_no_other_fetch() {
    let sim = Sim::new(14);
    sim.clone().run(async move {
        let (alice, bob) = (Agent::start(&sim, 1).await, Agent::start(&sim, 2).await);
        alice.connect(&bob).await;
        let mut paused = Vec::new();
        for seed in 0..3 {
            let added = alice.blocks.add_bytes(noise(seed, 40 << 20), AddOptions::default()).await.unwrap();
            let source = bob.blocks.fetcher().source(FetchOptions::until(bob.within(60)));
            paused.push((source, added.cid));
        }
        let mut reading: Vec<_> =
            paused.iter().map(|(source, cid)| Box::pin(unixfs::read(source, *cid, u64::MAX))).collect();
        for reader in &mut reading {
            reader.next().await.unwrap().unwrap();
        }
        // They hold what they have asked for, and take nothing more.
        bob.world.clock.sleep_until(bob.within(5)).await;
        let content = noise(14, 8 << 20);
        let cid = alice.blocks.add_bytes(content.clone(), AddOptions::default()).await.unwrap().cid;
        let got = bob.blocks.get_bytes(cid, 64 << 20, bob.within(10)).await.unwrap();
        assert_eq!(Bytes::from(got), content);
    });
}
