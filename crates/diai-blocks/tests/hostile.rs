//! Peers that misuse the exchange of blocks.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use bytes::Bytes;
use common::{Agent, join, noise};
use diai_blocks::{
    Cid, RAW,
    bitswap::{Message, Version, Want, WantKind, decode, encode},
    handle::AddOptions,
};
use diai_core::{AcceptOptions, World, frame, memory::Sim};
use futures::{AsyncWriteExt, StreamExt};

fn stranger(sim: &Sim, number: u64) -> World {
    join(sim, &common::identity(sim, number))
}

#[test]
fn messages_that_say_nothing_are_passed_over_until_there_are_too_many() {
    let sim = Sim::new(1);
    sim.clone().run(async move {
        let alice = Agent::start(&sim, 1).await;
        let (chatty, flooding) = (stranger(&sim, 66), stranger(&sim, 67));
        let say_nothing = async |world: &World, times: usize| {
            let mut stream = world.network.open(alice.peer(), &Version::PROTOCOLS).await.unwrap().stream;
            stream.write_all(&vec![0; times]).await.unwrap();
            stream.flush().await.unwrap();
            // Until the other side has read it, or ends it.
            stream.close().await.unwrap();
            alice.world.clock.sleep_until(alice.within(1)).await;
        };
        say_nothing(&chatty, 30).await;
        say_nothing(&chatty, 30).await;
        assert!(alice.world.network.peer(chatty.network.local_peer()).is_some());
        say_nothing(&flooding, 1000).await;
        say_nothing(&flooding, 1000).await;
        assert!(alice.world.network.peer(flooding.network.local_peer()).is_none(), "it still is heard");
    });
}

#[test]
fn a_message_that_does_not_come_is_given_up() {
    let sim = Sim::new(2);
    sim.clone().run(async move {
        let alice = Agent::start(&sim, 1).await;
        let hostile = stranger(&sim, 66);
        let mut stream = hostile.network.open(alice.peer(), &Version::PROTOCOLS).await.unwrap().stream;
        // Of four mebibytes one byte.
        stream.write_all(&[0x80, 0x80, 0x80, 0x02, 0]).await.unwrap();
        stream.flush().await.unwrap();
        alice.world.clock.sleep_until(alice.within(11)).await;
        let broken = async {
            stream.write_all(&[0; 1 << 10]).await?;
            stream.flush().await
        };
        assert!(broken.await.is_err(), "the stream is still read");
    });
}

/// Asks `of` for `cids`, takes what is sent for open, and reads none of it.
async fn take_nothing(world: World, of: diai_core::PeerId, cids: Vec<Cid>) {
    let mut incoming = world.network.accept(&Version::PROTOCOLS, AcceptOptions::default()).unwrap();
    let mut stream = world.network.open(of, &Version::PROTOCOLS).await.unwrap().stream;
    let want = |cid| Want { cid, priority: 1, cancel: false, kind: WantKind::Block, send_dont_have: false };
    let message = Message { wants: cids.into_iter().map(want).collect(), ..Message::default() };
    for slice in encode(&message, Version::V1_2) {
        stream.write_all(&slice).await.unwrap();
    }
    stream.flush().await.unwrap();
    let mut kept = Vec::new();
    while let Some(inbound) = incoming.next().await {
        kept.push(inbound.stream);
    }
}

#[test]
fn peers_that_ask_and_do_not_read_stop_nobody_and_are_dropped() {
    let sim = Sim::new(3);
    sim.clone().run(async move {
        let (alice, bob) = (Agent::start(&sim, 1).await, Agent::start(&sim, 2).await);
        let content = noise(3, 10 << 20);
        let cid = alice.blocks.add_bytes(content.clone(), AddOptions::default()).await.unwrap().cid;
        let cids: Vec<_> =
            alice.blocks.store().store().list(None, 100).iter().map(|b| Cid::new_v1(RAW, b.hash)).collect();
        let mut tasks = tokio::task::JoinSet::new();
        for number in 60..80 {
            tasks.spawn(take_nothing(stranger(&sim, number), alice.peer(), cids.clone()));
        }
        alice.world.clock.sleep_until(alice.within(2)).await;
        assert_eq!(alice.blocks.status().await.unwrap().bitswap.clients, 20);
        let got = bob.blocks.get_bytes(cid, 64 << 20, bob.within(5)).await.unwrap();
        assert_eq!(Bytes::from(got), content);
        alice.world.clock.sleep_until(alice.within(12)).await;
        assert_eq!(alice.blocks.status().await.unwrap().bitswap.clients, 0, "their wants are still kept");
    });
}

#[test]
fn what_a_peer_wanted_before_its_wants_came_on_a_new_stream_is_void() {
    let sim = Sim::new(4);
    sim.clone().run(async move {
        let (alice, bob) = (Agent::start(&sim, 1).await, stranger(&sim, 2));
        let mut incoming = bob.network.accept(&Version::PROTOCOLS, AcceptOptions::default()).unwrap();
        let ghost = diai_blocks::Block::new(RAW, &b"nobody has this"[..]).unwrap().cid;
        alice.world.network.connect(bob.network.local_peer(), Vec::new()).await.unwrap();
        let fetch = alice.blocks.get_block(ghost, alice.within(5));
        let first = async {
            let mut stream = incoming.next().await.unwrap().stream;
            decode(&frame::read(&mut stream, 4 << 20).await.unwrap().unwrap()).unwrap()
        };
        let (_, message) = futures::join!(fetch, first);
        assert!(message.full, "{message:?}");
    });
}
