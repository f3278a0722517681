//! Slow, broken and greedy senders and receivers of whole DAGs, and answers that are cut.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use cid::Cid;
use common::{Agent, cbor_list, identity, join, noise};
use diai_blocks::{
    Block, DAG_PB, FetchError, FetchOptions, RAW,
    config::{BlocksConfig, DagConfig, FetchConfig},
    dag::{Frame, MAX_REQUEST_BYTES, PROTOCOL, Request, Scope},
    dag_pb::Link,
    fetch::Via,
    handle::AddOptions,
    unixfs,
};
use diai_core::{AcceptOptions, BoxStream, PeerId, World, frame, memory::Sim};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use tokio::task::JoinSet;

/// What came of each block in whole frames.
type Passed = Arc<Mutex<BTreeMap<Cid, u32>>>;

/// How a middleman passes on what a sender sends.
#[derive(Clone)]
struct Manner {
    /// Bytes of the answer of each request, by number; then it is cut. The last stands for all others.
    cuts: Vec<usize>,
    /// Passed on at a time, and the pause before each time.
    piece_bytes: usize,
    pause: Duration,
}

impl Default for Manner {
    fn default() -> Self {
        Self { cuts: vec![usize::MAX], piece_bytes: 64 << 10, pause: Duration::ZERO }
    }
}

/// Passes requests on to `sender`, and its answers back, after its `manner`; it speaks nothing else.
struct Middleman {
    peer: PeerId,
    passed: Passed,
    _tasks: JoinSet<()>,
}

impl Middleman {
    fn start(sim: &Sim, number: u64, sender: PeerId, manner: Manner) -> Self {
        let (identity, passed) = (identity(sim, number), Passed::default());
        let world = join(sim, &identity);
        let mut tasks = JoinSet::new();
        tasks.spawn(pass_on(world, sender, manner, passed.clone()));
        Self { peer: identity.peer(), passed, _tasks: tasks }
    }

    /// Blocks that were passed on wholly, and how often the most frequent of them was.
    fn passed(&self) -> (usize, u32) {
        let passed = self.passed.lock().unwrap();
        (passed.len(), passed.values().copied().max().unwrap_or(0))
    }
}

async fn pass_on(world: World, sender: PeerId, manner: Manner, passed: Passed) {
    let mut incoming = world.network.accept(&[PROTOCOL], AcceptOptions::default()).unwrap();
    let (mut passing, mut number) = (JoinSet::new(), 0);
    while let Some(inbound) = incoming.next().await {
        let mut stream = inbound.stream;
        let Ok(Some(request)) = frame::read(&mut stream, MAX_REQUEST_BYTES).await else { continue };
        let request = Request::decode(request).unwrap();
        let there = ask(&world, sender, &request.encode()).await;
        let mut manner = manner.clone();
        // Whether it has the root it says at once.
        if request.max_bytes == 0 {
            manner = Manner::default();
        } else {
            manner.cuts = vec![manner.cuts[number.min(manner.cuts.len() - 1)]];
            number += 1;
        }
        passing.spawn(answer(world.clone(), stream, there, manner, passed.clone()));
    }
}

async fn answer(world: World, mut stream: BoxStream, mut there: BoxStream, manner: Manner, passed: Passed) {
    let (mut piece, mut frames, mut left) = (vec![0; manner.piece_bytes], BytesMut::new(), manner.cuts[0]);
    loop {
        world.clock.sleep_until(world.clock.now() + manner.pause).await;
        let read = there.read(&mut piece).await.unwrap_or(0).min(left);
        left -= read;
        // The receiver may have left.
        if read == 0 || stream.write_all(&piece[..read]).await.is_err() || stream.flush().await.is_err() {
            break;
        }
        frames.extend_from_slice(&piece[..read]);
        while let Ok(Some(frame)) = Frame::take(&mut frames) {
            if let Frame::Block { cid, .. } = frame {
                *passed.lock().unwrap().entry(cid).or_default() += 1;
            }
        }
    }
    let _ = stream.close().await;
}

async fn ask(world: &World, peer: PeerId, frame: &[u8]) -> BoxStream {
    let mut stream = world.network.open(peer, &[PROTOCOL]).await.unwrap().stream;
    stream.write_all(frame).await.unwrap();
    stream.flush().await.unwrap();
    stream
}

async fn add(agent: &Agent, content: &Bytes) -> Cid {
    agent.blocks.add_bytes(content.clone(), AddOptions { silent: true, ..AddOptions::default() }).await.unwrap().cid
}

/// Blocks that an agent has sent, in whole DAGs and one by one.
async fn sent(agent: &Agent) -> (u64, u64) {
    let status = agent.blocks.status().await.unwrap();
    (status.dag.blocks_sent, status.bitswap.blocks_sent)
}

async fn with_fetch(sim: &Sim, number: u64, fetch: FetchConfig) -> Agent {
    Agent::with(sim, number, BlocksConfig { fetch, ..BlocksConfig::default() }).await
}

/// A tree of every shape that there is: files of many sizes, folders in folders, and a list of other lists.
fn random_tree(seed: u64) -> (Cid, Vec<Block>) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let (mut blocks, mut open) = (Vec::new(), Vec::new());
    for number in 0..120 + random(200) {
        let block = Block::new(RAW, noise(seed * 1000 + number, 1 + random(60_000) as usize)).unwrap();
        open.push(block.cid);
        blocks.push(block);
    }
    while open.len() > 1 {
        let taken: Vec<_> = open.drain(..(2 + random(30) as usize).min(open.len())).collect();
        let node = match random(2) {
            0 => vec![cbor_list(&taken)],
            _ => {
                let link = |(at, cid): (usize, &Cid)| Link { cid: *cid, name: format!("{at:03}"), tsize: 1 };
                let links = taken.iter().enumerate().map(link).collect();
                unixfs::build_folder(links, &unixfs::Profile::default()).unwrap().blocks
            }
        };
        open.push(node.last().unwrap().cid);
        blocks.extend(node);
    }
    (open[0], blocks)
}

#[test]
fn wherever_an_answer_is_cut_nothing_that_is_here_comes_again() {
    for seed in 1..=12 {
        let sim = Sim::new(seed);
        sim.clone().run(async move {
            let (alice, bob) = (Agent::start(&sim, 1).await, Agent::start(&sim, 2).await);
            let (root, blocks) = random_tree(seed);
            let (count, total): (u64, usize) = (blocks.len() as u64, blocks.iter().map(|block| block.data.len()).sum());
            alice.blocks.store().put_many(blocks).await.unwrap();
            let cut = |number: u64| {
                1 + (noise(seed + number, 8).iter().fold(0usize, |sum, byte| sum * 251 + *byte as usize)) % (total / 4)
            };
            let manner = Manner { cuts: (0..24).map(cut).chain([usize::MAX]).collect(), ..Manner::default() };
            let middleman = Middleman::start(&sim, 66, alice.peer(), manner);
            bob.world.network.connect(middleman.peer, Vec::new()).await.unwrap();
            let (mut came, mut fetches) = (0, 0);
            loop {
                fetches += 1;
                let options = FetchOptions::until(bob.within(20));
                let fetched = bob.blocks.fetch(root, &options).await;
                came += options.account.senders().iter().map(|sent| sent.blocks).sum::<u64>();
                assert_eq!(bob.blocks.store().stats().blocks, came);
                match fetched {
                    Ok(_) => break,
                    Err(error) => assert!(fetches <= 30, "{error}"),
                }
            }
            assert_eq!(came, count);
            assert!(fetches > 3, "it was hardly cut");
            assert_eq!(middleman.passed(), (count as usize, 1), "a block came again");
        });
    }
}

#[test]
fn a_malformed_root_is_asked_for_once() {
    let sim = Sim::new(20);
    sim.clone().run(async move {
        let (alice, bob, carol) =
            (Agent::start(&sim, 1).await, Agent::start(&sim, 2).await, Agent::start(&sim, 3).await);
        let root = Block::new(DAG_PB, &b"this is no node of anything"[..]).unwrap();
        for sender in [&alice, &carol] {
            sender.blocks.put_block(root.clone()).await.unwrap();
            sender.connect(&bob).await;
        }
        let error = bob.blocks.fetch(root.cid, &FetchOptions::until(bob.within(60))).await.unwrap_err();
        assert!(matches!(error, FetchError::Read(_)), "{error}");
        let (one, other) = (sent(&alice).await, sent(&carol).await);
        assert_eq!(one.0 + one.1 + other.0 + other.1, 1);
    });
}

#[test]
fn a_chain_deeper_than_a_sender_follows_comes_whole_and_nothing_of_it_twice() {
    let sim = Sim::new(21);
    sim.clone().run(async move {
        let (alice, bob) = (Agent::start(&sim, 1).await, Agent::start(&sim, 2).await);
        alice.connect(&bob).await;
        let mut blocks = vec![cbor_list(&[])];
        for _ in 0..66_000 {
            blocks.push(cbor_list(&[blocks.last().unwrap().cid]));
        }
        let (root, count) = (blocks.last().unwrap().cid, blocks.len() as u64);
        alice.blocks.store().put_many(blocks).await.unwrap();
        let progress = bob.blocks.fetch(root, &FetchOptions::until(bob.within(600))).await.unwrap();
        assert_eq!(progress.blocks, count);
        assert_eq!(sent(&alice).await, (count, 0));
        assert_eq!(alice.blocks.status().await.unwrap().dag.requests, 2);
    });
}

#[test]
fn a_dag_of_more_nodes_than_allowed_is_not_asked_for_again_and_again() {
    let sim = Sim::new(22);
    sim.clone().run(async move {
        let fetch = FetchConfig { max_nodes: 100, whole_dags: true, ..FetchConfig::default() };
        let (alice, bob, carol) =
            (Agent::start(&sim, 1).await, with_fetch(&sim, 2, fetch).await, Agent::start(&sim, 3).await);
        let mut blocks = vec![cbor_list(&[])];
        for _ in 0..300 {
            blocks.push(cbor_list(&[blocks.last().unwrap().cid]));
        }
        let root = blocks.last().unwrap().cid;
        for sender in [&alice, &carol] {
            sender.blocks.store().put_many(blocks.clone()).await.unwrap();
            sender.connect(&bob).await;
        }
        for _ in 0..2 {
            let error = bob.blocks.fetch(root, &FetchOptions::until(bob.within(60))).await.unwrap_err();
            assert!(matches!(error, FetchError::OverLimit { what: "nodes", .. }), "{error}");
        }
        let (one, other) = (sent(&alice).await, sent(&carol).await);
        assert!(one.0 + one.1 + other.0 + other.1 <= 2 * 301, "{one:?} and {other:?}");
        let asked = bob.world.clock.now();
        bob.blocks.fetch(root, &FetchOptions::until(bob.within(60))).await.unwrap_err();
        assert_eq!((sent(&alice).await, sent(&carol).await), (one, other));
        assert_eq!(bob.world.clock.now(), asked, "somebody was asked");
    });
}

#[test]
fn a_sender_below_the_floor_is_left_for_those_who_send_single_blocks() {
    let sim = Sim::new(23);
    sim.clone().run(async move {
        let (alice, bob) = (Agent::start(&sim, 1).await, Agent::start(&sim, 2).await);
        let content = noise(23, 20 << 20);
        let cid = add(&alice, &content).await;
        let manner = Manner { piece_bytes: 90 << 10, pause: Duration::from_secs(1), ..Manner::default() };
        let slow = Middleman::start(&sim, 66, alice.peer(), manner);
        bob.world.network.connect(slow.peer, Vec::new()).await.unwrap();
        alice.blocks.provide(cid);
        let begin = bob.world.clock.now();
        let options = FetchOptions::until(bob.within(600));
        bob.blocks.fetch(cid, &options).await.unwrap();
        let took = bob.world.clock.now().since(begin);
        assert!(took < Duration::from_secs(30), "it took {took:?}");
        assert!(bob.world.network.peer(slow.peer).is_some(), "to be slow is no misdeed");
    });
}

#[test]
fn after_half_of_the_time_what_is_left_comes_by_single_blocks() {
    let sim = Sim::new(24);
    sim.clone().run(async move {
        let (alice, bob) = (Agent::by_bitswap(&sim, 1).await, Agent::start(&sim, 2).await);
        let content = noise(24, 40 << 20);
        let cid = add(&alice, &content).await;
        // Above the floor, and too slow for the deadline all the same.
        let manner = Manner { piece_bytes: 60 << 10, pause: Duration::from_millis(80), ..Manner::default() };
        let slow = Middleman::start(&sim, 66, alice.peer(), manner);
        bob.world.network.connect(slow.peer, Vec::new()).await.unwrap();
        alice.blocks.provide(cid);
        let options = FetchOptions::until(bob.within(40));
        bob.blocks.fetch(cid, &options).await.unwrap();
        let senders = options.account.senders();
        let by = |via| senders.iter().filter(|sent| sent.via == via).map(|sent| sent.bytes).sum::<u64>();
        assert!(by(Via::WholeDag) > 12 << 20 && by(Via::Bitswap) + by(Via::WholeDag) >= 40 << 20, "{senders:?}");
    });
}

#[test]
fn a_slow_sender_does_not_keep_a_fetch_without_deadline_from_others() {
    let sim = Sim::new(31);
    sim.clone().run(async move {
        let (alice, bob) = (Agent::by_bitswap(&sim, 1).await, Agent::start(&sim, 2).await);
        let content = noise(31, 40 << 20);
        let cid = add(&alice, &content).await;
        let manner = Manner { piece_bytes: 200 << 10, pause: Duration::from_secs(1), ..Manner::default() };
        let slow = Middleman::start(&sim, 66, alice.peer(), manner);
        bob.world.network.connect(slow.peer, Vec::new()).await.unwrap();
        alice.blocks.provide(cid);
        let begin = bob.world.clock.now();
        let options = FetchOptions::default();
        bob.blocks.fetch(cid, &options).await.unwrap();
        let took = bob.world.clock.now().since(begin);
        assert!(took < Duration::from_secs(20), "it took {took:?}");
        assert!(options.account.senders().iter().any(|sent| sent.peer == alice.peer()));
    });
}

#[test]
fn a_reserve_takes_the_place_of_a_slow_sender() {
    let sim = Sim::new(32);
    sim.clone().run(async move {
        let fetch = FetchConfig { max_senders: 1, whole_dags: true, ..FetchConfig::default() };
        let (alice, bob) = (Agent::start(&sim, 1).await, with_fetch(&sim, 2, fetch).await);
        let content = noise(32, 40 << 20);
        let cid = add(&alice, &content).await;
        let manner = Manner { piece_bytes: 200 << 10, pause: Duration::from_secs(1), ..Manner::default() };
        let slow = Middleman::start(&sim, 66, alice.peer(), manner);
        bob.world.network.connect(slow.peer, Vec::new()).await.unwrap();
        alice.connect(&bob).await;
        let begin = bob.world.clock.now();
        let options = FetchOptions { holders: vec![slow.peer], ..FetchOptions::default() };
        bob.blocks.fetch(cid, &options).await.unwrap();
        let took = bob.world.clock.now().since(begin);
        assert!(took < Duration::from_secs(8), "it took {took:?}");
        let senders = options.account.senders();
        assert!(senders.iter().all(|sent| sent.via == Via::WholeDag), "{senders:?}");
    });
}

#[test]
fn a_sender_that_cuts_its_answers_after_a_block_each_is_left_for_those_who_send_single_blocks() {
    let sim = Sim::new(33);
    sim.clone().run(async move {
        let dag = DagConfig { max_bytes: 150_000, ..DagConfig::default() };
        let alice = Agent::with(&sim, 1, BlocksConfig { dag, ..BlocksConfig::default() }).await;
        let bob = Agent::start(&sim, 2).await;
        let mut blocks: Vec<_> = (0..60).map(|n| Block::new(RAW, noise(n, 100_000)).unwrap()).collect();
        let root = cbor_list(&blocks.iter().map(|block| block.cid).collect::<Vec<_>>());
        blocks.push(root.clone());
        alice.blocks.store().put_many(blocks).await.unwrap();
        alice.connect(&bob).await;
        bob.blocks.fetch(root.cid, &FetchOptions::until(bob.within(60))).await.unwrap();
        let requests = alice.blocks.status().await.unwrap().dag.requests;
        assert!(requests <= 4, "asked {requests} times");
    });
}

#[test]
fn a_slow_sender_loses_its_share_to_a_fast_one() {
    let sim = Sim::new(25);
    sim.clone().run(async move {
        let (alice, bob) = (Agent::start(&sim, 1).await, Agent::start(&sim, 2).await);
        let content = noise(25, 40 << 20);
        let cid = add(&alice, &content).await;
        let manner = Manner { piece_bytes: 200 << 10, pause: Duration::from_secs(1), ..Manner::default() };
        let slow = Middleman::start(&sim, 66, alice.peer(), manner);
        bob.world.network.connect(slow.peer, Vec::new()).await.unwrap();
        alice.connect(&bob).await;
        let begin = bob.world.clock.now();
        let options = FetchOptions::until(bob.within(600));
        bob.blocks.fetch(cid, &options).await.unwrap();
        let took = bob.world.clock.now().since(begin);
        assert!(took < Duration::from_secs(10), "it took {took:?}");
        assert_eq!(sent(&alice).await.1, 0, "something came by single blocks");
        let senders = options.account.senders();
        assert_eq!(senders.iter().map(|sent| sent.blocks).sum::<u64>(), 41);
        assert!(senders.iter().all(|sent| sent.via == Via::WholeDag), "{senders:?}");
    });
}

#[test]
fn a_reserve_takes_the_place_of_a_sender_that_breaks_off() {
    let sim = Sim::new(26);
    sim.clone().run(async move {
        let fetch = FetchConfig { max_senders: 1, whole_dags: true, ..FetchConfig::default() };
        let (alice, bob) = (Agent::start(&sim, 1).await, with_fetch(&sim, 2, fetch).await);
        let content = noise(26, 20 << 20);
        let cid = add(&alice, &content).await;
        let manner = Manner { cuts: vec![5 << 20, 0], ..Manner::default() };
        let breaking = Middleman::start(&sim, 66, alice.peer(), manner);
        bob.world.network.connect(breaking.peer, Vec::new()).await.unwrap();
        alice.connect(&bob).await;
        let options = FetchOptions { holders: vec![breaking.peer], ..FetchOptions::until(bob.within(60)) };
        let progress = bob.blocks.fetch(cid, &options).await.unwrap();
        assert_eq!(progress.blocks, 21);
        let senders = options.account.senders();
        assert!(senders.len() == 2 && senders.iter().all(|sent| sent.via == Via::WholeDag), "{senders:?}");
        assert_eq!(sent(&alice).await.1, 0);
    });
}

#[test]
fn peers_that_never_read_leave_room_for_others() {
    let sim = Sim::new(27);
    sim.clone().run(async move {
        let (alice, bob) = (Agent::start(&sim, 1).await, Agent::start(&sim, 2).await);
        let content = noise(27, 20 << 20);
        let cid = add(&alice, &content).await;
        let request = Request { root: cid, scope: Scope::Dag, skips: Vec::new(), max_bytes: u64::MAX };
        let (mut worlds, mut lazy) = (Vec::new(), Vec::new());
        for number in 60..63 {
            let world = join(&sim, &identity(&sim, number));
            for _ in 0..DagConfig::default().max_streams_per_peer {
                lazy.push(ask(&world, alice.peer(), &request.encode()).await);
            }
            worlds.push(world);
        }
        alice.connect(&bob).await;
        bob.blocks.fetch(cid, &FetchOptions::until(bob.within(60))).await.unwrap();
        assert_eq!(sent(&alice).await.1, 0, "it was too busy with those who do not read");
    });
}

#[test]
fn a_receiver_below_the_floor_is_left() {
    let sim = Sim::new(29);
    sim.clone().run(async move {
        let alice = Agent::start(&sim, 1).await;
        let content = noise(29, 40 << 20);
        let cid = add(&alice, &content).await;
        let evil = identity(&sim, 66);
        let world = join(&sim, &evil);
        let request = Request { root: cid, scope: Scope::Dag, skips: Vec::new(), max_bytes: u64::MAX };
        let mut stream = ask(&world, alice.peer(), &request.encode()).await;
        let (mut piece, mut taken) = (vec![0; 64 << 10], 0);
        while let Ok(read @ 1..) = stream.read(&mut piece).await {
            taken += read;
            world.clock.sleep_until(world.clock.now() + Duration::from_secs(1)).await;
        }
        assert!(taken < 4 << 20, "{taken} bytes were sent at 64 KiB a second");
        assert!(alice.world.network.peer(evil.peer()).is_some(), "to be slow is no misdeed");
    });
}

#[test]
fn the_account_says_who_sent_what() {
    let sim = Sim::new(28);
    sim.clone().run(async move {
        let (alice, bob, carol) =
            (Agent::start(&sim, 1).await, Agent::start(&sim, 2).await, Agent::by_bitswap(&sim, 3).await);
        let content = noise(28, 5 << 20);
        let cid = add(&alice, &content).await;
        alice.connect(&bob).await;
        bob.connect(&carol).await;
        let options = FetchOptions::until(bob.within(60));
        let progress = bob.blocks.fetch(cid, &options).await.unwrap();
        let senders = options.account.senders();
        assert_eq!(senders.len(), 1);
        let all = (senders[0].peer, senders[0].via, senders[0].blocks, senders[0].bytes);
        assert_eq!(all, (alice.peer(), Via::WholeDag, progress.blocks, progress.bytes));
        let options = FetchOptions::until(carol.within(60));
        let progress = carol.blocks.fetch(cid, &options).await.unwrap();
        let senders = options.account.senders();
        assert!(senders.iter().all(|sent| sent.via == Via::Bitswap), "{senders:?}");
        assert_eq!(senders.iter().map(|sent| sent.bytes).sum::<u64>(), progress.bytes);
        assert_eq!(Via::Bitswap.to_string(), "bitswap");
    });
}
