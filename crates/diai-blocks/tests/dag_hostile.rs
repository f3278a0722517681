//! Hostile senders and receivers of whole DAGs.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use bytes::{Bytes, BytesMut};
use cid::Cid;
use common::{Agent, identity, join, noise};
use diai_blocks::{
    Block, FetchOptions, RAW,
    dag::{End, EndReason, Frame, MAX_REQUEST_BYTES, PROTOCOL, Request, Scope},
    handle::AddOptions,
    unixfs,
};
use diai_core::{AcceptOptions, BoxStream, World, frame, memory::Sim};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use tokio::task::JoinSet;

/// What a sender says, and whether it holds the stream open afterwards.
type Script = Box<dyn Fn(u64) -> (Vec<u8>, bool) + Send>;

/// Answers every request by `script`, which is told how many came before.
async fn hostile(world: World, script: Script) {
    let mut incoming = world.network.accept(&[PROTOCOL], AcceptOptions::default()).unwrap();
    let (mut held, mut number) = (Vec::new(), 0);
    while let Some(inbound) = incoming.next().await {
        let mut stream = inbound.stream;
        let Ok(Some(_)) = frame::read(&mut stream, MAX_REQUEST_BYTES).await else { continue };
        let (answer, holds) = script(number);
        number += 1;
        // The other side may have left in the middle of it.
        let _ = stream.write_all(&answer).await;
        let _ = stream.flush().await;
        match holds {
            true => held.push(stream),
            false => drop(stream.close().await),
        }
    }
}

fn bytes(frames: &[Frame]) -> Vec<u8> {
    let mut out = BytesMut::new();
    frames.iter().for_each(|frame| frame.put(&mut out));
    out.to_vec()
}

fn end(reason: EndReason, blocks: u64, bytes: u64) -> Frame {
    Frame::End(End { reason, blocks, bytes, missing: 0, skipped: 0 })
}

fn block_frame(block: &Block) -> Frame {
    Frame::Block { cid: block.cid, data: block.data.clone() }
}

/// Bob asks somebody hostile alone, and gets the file from Alice all the same. `script` is made of the root and its first
/// leaf; `honest` of the six blocks are left for Alice to send.
fn against(seed: u64, script: impl FnOnce(Block, Block) -> Script + Send + 'static, cut_off: bool, honest: u64) {
    let sim = Sim::new(seed);
    sim.clone().run(async move {
        let (alice, bob) = (Agent::start(&sim, 1).await, Agent::start(&sim, 2).await);
        let content = noise(seed, 5 << 20);
        let cid = alice.blocks.add_bytes(content.clone(), AddOptions::default()).await.unwrap().cid;
        let get =
            async |cid: Cid| Block::verified(cid, alice.blocks.store().get(&cid).await.unwrap().unwrap()).unwrap();
        let root = get(cid).await;
        let leaf = get(unixfs::links(cid, &root.data).unwrap()[0]).await;
        let evil = identity(&sim, 66);
        let mut tasks = JoinSet::new();
        tasks.spawn(hostile(join(&sim, &evil), script(root, leaf)));
        bob.world.network.connect(evil.peer(), Vec::new()).await.unwrap();
        bob.blocks.fetch(cid, &FetchOptions::until(bob.within(120))).await.unwrap();
        assert_eq!(Bytes::from(unixfs::read_all(bob.blocks.store(), cid, 64 << 20).await.unwrap()), content);
        assert!(!bob.blocks.has(&stranger().cid), "what nobody asked for is stored");
        assert_eq!(bob.world.network.peer(evil.peer()).is_none(), cut_off);
        let status = alice.blocks.status().await.unwrap();
        assert_eq!(status.dag.blocks_sent + status.bitswap.blocks_sent, honest);
    });
}

fn stranger() -> Block {
    Block::new(RAW, &b"nobody asked for this"[..]).unwrap()
}

#[test]
fn a_sender_of_data_that_does_not_hash_to_its_cid_is_cut_off() {
    let script = |root: Block, _| -> Script {
        Box::new(move |_| (bytes(&[Frame::Block { cid: root.cid, data: Bytes::from_static(b"a lie") }]), true))
    };
    against(1, script, true, 6);
}

#[test]
fn a_good_block_that_nothing_announced_is_not_stored_and_its_sender_left() {
    against(2, |root, _| Box::new(move |_| (bytes(&[block_frame(&root), block_frame(&stranger())]), true)), false, 5);
}

#[test]
fn a_block_out_of_its_order_is_a_fault() {
    against(3, |_, leaf| Box::new(move |_| (bytes(&[block_frame(&leaf)]), true)), false, 6);
}

#[test]
fn missing_frames_without_end_are_no_answer() {
    let script =
        |root: Block, _| -> Script { Box::new(move |_| (bytes(&vec![Frame::Missing(root.cid); 50_000]), true)) };
    against(4, script, false, 6);
}

#[test]
fn a_skipped_frame_for_what_was_not_to_be_skipped_is_a_fault() {
    against(5, |root, _| Box::new(move |_| (bytes(&[Frame::Skipped(root.cid)]), true)), false, 6);
}

#[test]
fn a_frame_over_the_limit_cuts_its_sender_off_before_it_is_read() {
    against(6, |_, _| Box::new(|_| (vec![0x80, 0x80, 0x80, 0x02, 1, 2, 3], true)), true, 6);
}

#[test]
fn bytes_that_are_no_frame_cut_their_sender_off() {
    against(7, |_, _| Box::new(|_| (vec![0, 77, 1], true)), true, 6);
}

#[test]
fn a_sender_that_falls_silent_is_left_and_what_it_sent_stays() {
    against(8, |root, leaf| Box::new(move |_| (bytes(&[block_frame(&root), block_frame(&leaf)]), true)), false, 4);
}

#[test]
fn an_end_that_comes_too_early_or_lies_about_the_counts_is_a_fault() {
    let early = |root: Block, _| -> Script {
        let length = root.data.len() as u64;
        Box::new(move |_| (bytes(&[block_frame(&root), end(EndReason::Complete, 1, length)]), false))
    };
    against(9, early, false, 5);
    let wrong = |root: Block, _| -> Script {
        Box::new(move |_| (bytes(&[block_frame(&root), end(EndReason::Limit, 7, 7)]), false))
    };
    against(10, wrong, false, 5);
    against(11, |_, _| Box::new(|_| (bytes(&[end(EndReason::Complete, 0, 0)]), false)), false, 6);
}

#[test]
fn a_sender_that_ends_again_and_again_without_a_block_is_not_asked_without_end() {
    against(
        12,
        |_, _| {
            Box::new(|number| {
                assert!(number < 4, "asked {number} times");
                (bytes(&[end(EndReason::Limit, 0, 0)]), false)
            })
        },
        false,
        6,
    );
}

#[test]
fn a_stream_that_ends_in_the_middle_of_a_block_is_no_answer() {
    let script = |root: Block, leaf: Block| -> Script {
        let mut answer = bytes(&[block_frame(&root), block_frame(&leaf)]);
        answer.truncate(answer.len() - 1000);
        Box::new(move |_| (answer.clone(), false))
    };
    against(13, script, false, 5);
}

async fn ask(world: &World, agent: &Agent, frame: &[u8]) -> BoxStream {
    let mut stream = world.network.open(agent.peer(), &[PROTOCOL]).await.unwrap().stream;
    stream.write_all(frame).await.unwrap();
    stream.flush().await.unwrap();
    stream
}

fn request(root: Cid) -> Request {
    Request { root, scope: Scope::Dag, skips: Vec::new(), max_bytes: u64::MAX }
}

#[test]
fn an_unknown_root_is_missing_and_that_is_all() {
    let sim = Sim::new(20);
    sim.clone().run(async move {
        let alice = Agent::start(&sim, 1).await;
        let world = join(&sim, &identity(&sim, 66));
        let cid = stranger().cid;
        let mut answer = Vec::new();
        ask(&world, &alice, &request(cid).encode()).await.read_to_end(&mut answer).await.unwrap();
        let all = End { reason: EndReason::Complete, blocks: 0, bytes: 0, missing: 1, skipped: 0 };
        assert_eq!(answer, bytes(&[Frame::Missing(cid), Frame::End(all)]));
    });
}

#[test]
fn whoever_asks_malformed_or_with_a_skip_list_without_end_is_cut_off() {
    let endless = [&[0xff, 0xff, 0xff, 0x7f][..], &[0x1a; 4000]].concat();
    let over = {
        let cid = stranger().cid;
        let skips = vec![diai_blocks::dag::Skip::whole(cid); diai_blocks::dag::MAX_SKIPS + 1];
        Request { skips, ..request(cid) }.encode().to_vec()
    };
    for (seed, frame) in [(21, endless), (22, over), (23, vec![3, 9, 9, 9])] {
        let sim = Sim::new(seed);
        sim.clone().run(async move {
            let alice = Agent::start(&sim, 1).await;
            let evil = identity(&sim, 66);
            let world = join(&sim, &evil);
            let mut answer = Vec::new();
            // It ends by a reset, or with nothing.
            let _ = ask(&world, &alice, &frame).await.read_to_end(&mut answer).await;
            assert!(answer.is_empty());
            assert!(alice.world.network.peer(evil.peer()).is_none(), "still connected");
        });
    }
}

#[test]
fn whoever_never_reads_is_given_up_and_holds_up_nobody() {
    let sim = Sim::new(24);
    sim.clone().run(async move {
        let (alice, bob) = (Agent::start(&sim, 1).await, Agent::start(&sim, 2).await);
        let content = noise(24, 40 << 20);
        let cid = alice.blocks.add_bytes(content.clone(), AddOptions::default()).await.unwrap().cid;
        let world = join(&sim, &identity(&sim, 66));
        let mut lazy = Vec::new();
        for _ in 0..8 {
            lazy.push(ask(&world, &alice, &request(cid).encode()).await);
        }
        alice.connect(&bob).await;
        let progress = bob.blocks.fetch(cid, &FetchOptions::until(bob.within(60))).await.unwrap();
        assert_eq!(progress.blocks, 41);
        bob.world.clock.sleep_until(bob.within(60)).await;
        for mut stream in lazy {
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            assert!(answer.len() < 20 << 20, "{} bytes were written for who did not read", answer.len());
        }
    });
}

#[test]
fn whoever_asks_nothing_is_not_waited_for() {
    let sim = Sim::new(25);
    sim.clone().run(async move {
        let alice = Agent::start(&sim, 1).await;
        let world = join(&sim, &identity(&sim, 66));
        let mut stream = ask(&world, &alice, &[50, 1]).await;
        let (mut answer, before) = (Vec::new(), alice.world.clock.now());
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.is_empty() && alice.world.clock.now().since(before).as_secs() < 60);
    });
}
