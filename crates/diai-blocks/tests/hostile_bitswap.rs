//! Bitswap peers that are made to harm, one test for each family of faults that other implementations had. What is named
//! beside a test is where others were found out. More of them: `hostile.rs`, `bitswap.rs`, `bitswap_machines.rs`.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{Agent, join, noise};
use diai_blocks::{
    Block, BlocksConfig, Cid, DAG_PB, FetchOptions, MAX_BLOCK_BYTES, Multihash, RAW,
    bitswap::{
        MAX_MESSAGE_BYTES, Message, Payload, Prefix, Presence, ServerInput, ServerMachine, Version, Want, WantKind,
        decode, encode,
    },
    config::ServerConfig,
    dag_pb::{Link, Node},
    handle::AddOptions,
    unixfs::{Kind, UnixFs},
};
use diai_core::{
    AcceptOptions, Footprint, Instant, World, frame,
    memory::{AgentSpec, Sim},
    timeout_at,
};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};

fn raw(content: impl Into<Bytes>) -> Block {
    Block::new(RAW, content).unwrap()
}

fn want(cid: Cid, kind: WantKind) -> Want {
    Want { cid, priority: 1, cancel: false, kind, send_dont_have: true }
}

fn stranger(sim: &Sim, number: u64) -> World {
    join(sim, &common::identity(sim, number))
}

async fn say(world: &World, to: &Agent, bytes: &[u8]) {
    let mut stream = world.network.open(to.peer(), &Version::PROTOCOLS).await.unwrap().stream;
    // It may have been cut off in the middle.
    let _ = stream.write_all(bytes).await;
    let _ = stream.close().await;
}

/// CVE-2023-25568, GHSA-m974-xj4j-7qv5, GHSA-q3j6-22wf-3jh9, GHSA-6fcr-9h9g-23fq: what peers want fills the memory, and is
/// kept when they are gone. Beetswap lets a full want list be of any length.
#[test]
fn wants_are_capped_for_each_peer_also_in_full_lists_and_nothing_is_kept_of_who_is_gone() {
    let config = ServerConfig::default();
    let most = config.max_wants_per_peer;
    let mut server = ServerMachine::new(config);
    let cids: Vec<_> = (0..3 * most as u32).map(|number| raw(number.to_be_bytes().to_vec()).cid).collect();
    for number in 1..=20 {
        let peer = AgentSpec::example(number).peer;
        for (full, here) in [(false, false), (true, false), (false, true), (true, true), (false, false)] {
            let wants = cids.iter().map(|cid| (want(*cid, WantKind::Block), here)).collect();
            server.handle(Instant::from_nanos(1), ServerInput::Wants { peer, full, wants });
        }
    }
    // A want, its DONT_HAVE, and the peers that wait for each block.
    assert!(server.footprint_bytes() <= 20 * most * 600, "{} bytes", server.footprint_bytes());
    while server.poll_output().is_some() {}
    for number in 1..=20 {
        server.handle(Instant::from_nanos(1), ServerInput::Gone(AgentSpec::example(number).peer));
    }
    while server.poll_output().is_some() {}
    assert_eq!((server.clients(), server.footprint_bytes()), (0, 0));
}

#[test]
fn agents_forget_the_wants_of_peers_that_left() {
    let sim = Sim::new(1);
    sim.clone().run(async move {
        let alice = Agent::start(&sim, 1).await;
        let wants = (0..900u32).map(|number| want(raw(number.to_be_bytes().to_vec()).cid, WantKind::Have)).collect();
        let bytes = encode(&Message { wants, ..Message::default() }, Version::V1_2).concat();
        for number in 60..80 {
            let world = stranger(&sim, number);
            say(&world, &alice, &bytes).await;
            alice.world.clock.sleep_until(alice.within(1)).await;
            sim.kill(world.network.local_peer());
        }
        alice.world.clock.sleep_until(alice.within(30)).await;
        assert_eq!(alice.blocks.status().await.unwrap().bitswap.clients, 0);
    });
}

/// boxo#961: a panic at a message without a want list.
#[test]
fn messages_lack_any_part_and_are_answered_all_the_same() {
    let block = raw("x");
    let presences = vec![Presence { cid: block.cid, have: true }];
    let payload = vec![Payload { prefix: Prefix::of(&block.cid), data: block.data.clone() }];
    let messages = [
        Message::default(),
        Message { full: true, ..Message::default() },
        Message { presences, ..Message::default() },
        Message { payload, ..Message::default() },
        Message { pending_bytes: i32::MAX, ..Message::default() },
    ];
    for bytes in
        [&[][..], &[0x0a, 0], &[0x0a, 2, 0x10, 1], &[0x28, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]]
    {
        assert!(decode(&Bytes::copy_from_slice(bytes)).is_ok(), "{bytes:x?}");
    }
    let sim = Sim::new(2);
    sim.clone().run(async move {
        let alice = Agent::start(&sim, 1).await;
        let bob = stranger(&sim, 2);
        for message in messages {
            say(&bob, &alice, &encode(&message, Version::V1_2).concat()).await;
        }
        say(&bob, &alice, &[0, 0]).await;
        let cid = alice.blocks.add_bytes(noise(1, 100), AddOptions::default()).await.unwrap().cid;
        let mut incoming = bob.network.accept(&Version::PROTOCOLS, AcceptOptions::default()).unwrap();
        let ask = Message { wants: vec![want(cid, WantKind::Block)], ..Message::default() };
        say(&bob, &alice, &encode(&ask, Version::V1_2).concat()).await;
        let mut stream = incoming.next().await.unwrap().stream;
        let answer = decode(&frame::read(&mut stream, MAX_MESSAGE_BYTES).await.unwrap().unwrap()).unwrap();
        assert_eq!(answer.payload.len(), 1);
    });
}

/// Beetswap compares the length of the length with the limit, and buffers for ever what begins with no length.
#[test]
fn lengths_over_the_limit_or_without_end_end_the_stream_before_anything_is_read() {
    let sim = Sim::new(3);
    sim.clone().run(async move {
        let alice = Agent::start(&sim, 1).await;
        let over = u32::try_from(MAX_MESSAGE_BYTES + 1).unwrap();
        let over: Vec<u8> =
            (0..4).map(|part| (over >> (7 * part)) as u8 & 0x7f | if part < 3 { 0x80 } else { 0 }).collect();
        for (number, prefix) in [(60, over), (61, vec![0xff; 5]), (62, vec![0x80; 100]), (63, vec![0xff; 100_000])] {
            let world = stranger(&sim, number);
            let mut stream = world.network.open(alice.peer(), &Version::PROTOCOLS).await.unwrap().stream;
            stream.write_all(&prefix).await.unwrap();
            stream.flush().await.unwrap();
            let mut end = Vec::new();
            let ended = timeout_at(&*world.clock, alice.within(5), stream.read_to_end(&mut end)).await;
            assert!(ended.is_ok(), "{number}: it is still read");
            assert!(alice.world.network.peer(world.network.local_peer()).is_none(), "{number}: it is still heard");
        }
    });
}

/// Beetswap puts all that is wanted in one message, over the limit of every receiver; rust-ipfs refuses the largest block
/// with its prefix.
#[test]
fn the_largest_blocks_come_and_go_in_messages_within_the_limit() {
    let sim = Sim::new(4);
    sim.clone().run(async move {
        let alice = Agent::start(&sim, 1).await;
        let blocks: Vec<_> = (0..6).map(|seed| raw(noise(seed, MAX_BLOCK_BYTES))).collect();
        for block in &blocks {
            alice.blocks.put_block(block.clone()).await.unwrap();
        }
        let bob = stranger(&sim, 2);
        let mut incoming = bob.network.accept(&Version::PROTOCOLS, AcceptOptions::default()).unwrap();
        let wants = blocks.iter().map(|block| want(block.cid, WantKind::Block)).collect();
        say(&bob, &alice, &encode(&Message { wants, ..Message::default() }, Version::V1_2).concat()).await;
        let mut stream = incoming.next().await.unwrap().stream;
        let mut came = 0;
        while came < blocks.len() {
            let bytes = frame::read(&mut stream, MAX_MESSAGE_BYTES).await.unwrap().unwrap();
            came += decode(&bytes).unwrap().payload.len();
        }
        let carol = Agent::by_bitswap(&sim, 3).await;
        carol.connect(&alice).await;
        assert_eq!(carol.blocks.get_block(blocks[0].cid, carol.within(20)).await.unwrap(), blocks[0].data);
    });
}

/// Rust-ipfs keeps one stream of a peer and drops what comes on others; Kubo opens one for each message.
#[test]
fn what_a_peer_says_on_many_streams_at_once_is_all_heard() {
    let sim = Sim::new(5);
    sim.clone().run(async move {
        let alice = Agent::start(&sim, 1).await;
        let blocks: Vec<_> = (0..200).map(|seed| raw(noise(seed, 500))).collect();
        for block in &blocks {
            alice.blocks.put_block(block.clone()).await.unwrap();
        }
        let bob = stranger(&sim, 2);
        let mut incoming = bob.network.accept(&Version::PROTOCOLS, AcceptOptions::default()).unwrap();
        let mut open = Vec::new();
        for block in &blocks {
            let mut stream = bob.network.open(alice.peer(), &Version::PROTOCOLS).await.unwrap().stream;
            let message = Message { wants: vec![want(block.cid, WantKind::Block)], ..Message::default() };
            stream.write_all(&encode(&message, Version::V1_2).concat()).await.unwrap();
            stream.flush().await.unwrap();
            open.push(stream);
        }
        let mut stream = incoming.next().await.unwrap().stream;
        let mut came = 0;
        while came < blocks.len() {
            came += decode(&frame::read(&mut stream, MAX_MESSAGE_BYTES).await.unwrap().unwrap()).unwrap().payload.len();
        }
    });
}

/// Boxo's `verifcid`: hashes that are weak, cut short or unknown.
#[test]
fn blocks_under_weak_hashes_are_neither_taken_nor_given_and_cost_their_sender_nothing_more() {
    let prefix = |hash, digest_bytes| Prefix { version: 1, codec: RAW, hash, digest_bytes };
    for (hash, digest_bytes) in
        [(0xd5, 16), (0x11, 20), (0x12, 4), (0x12, 0), (0x12, 33), (0x13, 32), (0, 1), (0xb240, 64)]
    {
        assert_eq!(prefix(hash, digest_bytes).cid(b"x"), None, "{hash:x}, {digest_bytes} bytes");
    }
    let sim = Sim::new(6);
    sim.clone().run(async move {
        let (alice, bob) = (Agent::start(&sim, 1).await, stranger(&sim, 2));
        let weak = Cid::new_v1(RAW, Multihash::wrap(0x12, &raw("x").cid.hash().digest()[..4]).unwrap());
        alice.blocks.put_block(raw("x")).await.unwrap();
        let mut incoming = bob.network.accept(&Version::PROTOCOLS, AcceptOptions::default()).unwrap();
        let payload = vec![Payload { prefix: prefix(0x12, 4), data: Bytes::from_static(b"x") }];
        let message = Message { wants: vec![want(weak, WantKind::Block)], payload, ..Message::default() };
        say(&bob, &alice, &encode(&message, Version::V1_2).concat()).await;
        let mut stream = incoming.next().await.unwrap().stream;
        let answer = decode(&frame::read(&mut stream, MAX_MESSAGE_BYTES).await.unwrap().unwrap()).unwrap();
        assert_eq!(answer.presences, [Presence { cid: weak, have: false }]);
        assert!(alice.blocks.get_block(weak, alice.within(10)).await.is_err());
    });
}

/// Lattica gives on what it read from its disk or got from a peer without hashing it.
#[test]
fn what_a_peer_sends_unasked_or_under_a_wrong_prefix_is_not_stored() {
    let sim = Sim::new(7);
    sim.clone().run(async move {
        let (alice, mallory) = (Agent::start(&sim, 1).await, stranger(&sim, 2));
        let unasked = raw("nobody asked for this");
        let other = Prefix { codec: DAG_PB, ..Prefix::of(&unasked.cid) };
        let payload = [Prefix::of(&unasked.cid), other, Prefix::V0]
            .map(|prefix| Payload { prefix, data: unasked.data.clone() })
            .to_vec();
        say(&mallory, &alice, &encode(&Message { payload, ..Message::default() }, Version::V1_2).concat()).await;
        alice.world.clock.sleep_until(alice.within(2)).await;
        assert_eq!(alice.blocks.store().stats().blocks, 0);
    });
}

/// Asks `of` for `cids`, and reads no more of what comes than keeps it from being given up.
async fn read_slowly(world: World, of: diai_core::PeerId, cids: Vec<Cid>) {
    let mut incoming = world.network.accept(&Version::PROTOCOLS, AcceptOptions::default()).unwrap();
    let mut stream = world.network.open(of, &Version::PROTOCOLS).await.unwrap().stream;
    let wants = cids.into_iter().map(|cid| want(cid, WantKind::Block)).collect();
    stream.write_all(&encode(&Message { wants, ..Message::default() }, Version::V1_2).concat()).await.unwrap();
    stream.flush().await.unwrap();
    let mut buffer = vec![0; 80 << 10];
    while let Some(inbound) = incoming.next().await {
        let mut stream = inbound.stream;
        while stream.read_exact(&mut buffer).await.is_ok() {
            world.clock.sleep_until(world.clock.now() + Duration::from_secs(9)).await;
        }
    }
}

#[test]
fn peers_that_read_as_slowly_as_they_may_do_not_keep_a_newcomer_waiting() {
    let sim = Sim::new(9);
    sim.clone().run(async move {
        let server = ServerConfig { batches: 4, ..ServerConfig::default() };
        let alice = Agent::with(&sim, 1, BlocksConfig { server, ..BlocksConfig::default() }).await;
        let bob = Agent::by_bitswap(&sim, 2).await;
        let cid = alice.blocks.add_bytes(noise(3, 10 << 20), AddOptions::default()).await.unwrap().cid;
        let list = alice.blocks.store().store().list(None, 100);
        let cids: Vec<_> = list.iter().map(|block| Cid::new_v1(RAW, block.hash)).collect();
        let mut tasks = tokio::task::JoinSet::new();
        for number in 60..68 {
            tasks.spawn(read_slowly(stranger(&sim, number), alice.peer(), cids.clone()));
        }
        alice.world.clock.sleep_until(alice.within(3)).await;
        bob.connect(&alice).await;
        assert_eq!(bob.blocks.get_bytes(cid, 64 << 20, bob.within(20)).await.unwrap().len(), 10 << 20);
        assert_eq!(alice.blocks.status().await.unwrap().bitswap.clients, 8, "they are still served, in turn");
    });
}

/// Deep chains end a recursion's stack; a bomb has 2^60 leaves in 61 blocks.
#[test]
fn chains_of_thousands_and_bombs_are_fetched_as_the_blocks_they_have() {
    let sim = Sim::new(8);
    sim.clone().run(async move {
        let alice = Agent::start(&sim, 1).await;
        let node = async |links: Vec<Link>| {
            let node = Node { links, data: Some(UnixFs::new(Kind::Folder).encode()) };
            let block = Block::new(DAG_PB, node.encode()).unwrap();
            alice.blocks.put_block(block.clone()).await.unwrap();
            block.cid
        };
        let link = |name: &str, cid| Link { cid, name: name.into(), tsize: 1 };
        let (mut deep, mut bomb) = (node(vec![]).await, node(vec![]).await);
        for _ in 0..2_000 {
            deep = node(vec![link("a", deep)]).await;
        }
        for _ in 0..60 {
            bomb = node(vec![link("a", bomb), link("b", bomb)]).await;
        }
        for (number, whole) in [(2, true), (3, false)] {
            let bob = if whole { Agent::start(&sim, number).await } else { Agent::by_bitswap(&sim, number).await };
            bob.connect(&alice).await;
            for (root, blocks) in [(bomb, 61), (deep, 2_061)] {
                bob.blocks.fetch(root, &FetchOptions::until(bob.within(600))).await.unwrap();
                assert_eq!(bob.blocks.store().stats().blocks, blocks, "whole: {whole}");
            }
            let pinned = bob.blocks.pin(deep, &FetchOptions::until(bob.within(600))).await;
            assert!(pinned.is_ok(), "{pinned:?}");
        }
    });
}
