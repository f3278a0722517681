//! Who may fetch what: what is denied looks like what is not here.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use common::{Agent, join, noise};
use diai_blocks::{
    Block, BlocksConfig, Cid, FetchOptions, RAW,
    bitswap::{Message, Presence, Version, Want, WantKind, decode, encode},
    dag::{self, Frame, Request, Scope},
    handle::AddOptions,
    serve::{AllowList, Asker},
};
use diai_core::{AcceptOptions, Incoming, World, frame, memory::Sim, timeout_at};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};

fn raw(text: &'static str) -> Block {
    Block::new(RAW, Bytes::from_static(text.as_bytes())).unwrap()
}

async fn ask(asker: &World, of: &Agent, wants: Vec<Want>) {
    let mut stream = asker.network.open(of.peer(), &Version::PROTOCOLS).await.unwrap().stream;
    let message = Message { wants, ..Message::default() };
    for slice in encode(&message, Version::V1_2) {
        stream.write_all(&slice).await.unwrap();
    }
    stream.close().await.unwrap();
}

/// All that is answered within a second.
async fn answers(asker: &World, incoming: &mut Incoming, stream: &mut Option<diai_core::BoxStream>) -> Vec<Message> {
    let until = asker.clock.now() + std::time::Duration::from_secs(1);
    let mut messages = Vec::new();
    let read = async {
        loop {
            if stream.is_none() {
                *stream = Some(incoming.next().await.unwrap().stream);
            }
            let stream = stream.as_mut().unwrap();
            messages.push(decode(&frame::read(stream, 4 << 20).await.unwrap().unwrap()).unwrap());
        }
    };
    let ended: Result<(), _> = timeout_at(&*asker.clock, until, read).await;
    assert!(ended.is_err());
    messages
}

fn want(cid: Cid, kind: WantKind, send_dont_have: bool) -> Want {
    Want { cid, priority: 1, cancel: false, kind, send_dont_have }
}

#[test]
fn what_bitswap_may_not_give_is_answered_like_what_is_not_here_now_and_when_it_comes() {
    let sim = Sim::new(1);
    sim.clone().run(async move {
        let (secret, open, absent, later) = (raw("secret"), raw("open"), raw("absent"), raw("later"));
        let denied = [*secret.cid.hash(), *later.cid.hash()];
        let config = BlocksConfig::default().serving(move |_: &Asker, cid: &Cid| !denied.contains(cid.hash()));
        let alice = Agent::with(&sim, 1, config).await;
        alice.blocks.put_block(secret.clone()).await.unwrap();
        alice.blocks.put_block(open.clone()).await.unwrap();
        let bob = join(&sim, &common::identity(&sim, 2));
        let mut incoming = bob.network.accept(&Version::PROTOCOLS, AcceptOptions::default()).unwrap();
        let mut stream = None;
        for kind in [WantKind::Have, WantKind::Block] {
            let wants = [&secret, &absent, &later, &open].map(|block| want(block.cid, kind, true)).to_vec();
            ask(&bob, &alice, wants).await;
            let messages = answers(&bob, &mut incoming, &mut stream).await;
            let mut presences: Vec<_> = messages.iter().flat_map(|message| message.presences.clone()).collect();
            let mut expected: Vec<_> =
                [&secret, &absent, &later].map(|block| Presence { cid: block.cid, have: false }).to_vec();
            if kind == WantKind::Have {
                expected.push(Presence { cid: open.cid, have: true });
            }
            presences.sort_unstable_by_key(|presence| presence.cid);
            expected.sort_unstable_by_key(|presence| presence.cid);
            assert_eq!(presences, expected);
            let blocks: usize = messages.iter().map(|message| message.payload.len()).sum();
            assert_eq!(blocks, usize::from(kind == WantKind::Block));
        }
        // Wants stay: what comes now is pushed, what is denied is not, be it asked for as a block or a word.
        ask(&bob, &alice, vec![want(secret.cid, WantKind::Have, false)]).await;
        for block in [&later, &secret, &absent] {
            alice.blocks.put_block(block.clone()).await.unwrap();
        }
        let messages = answers(&bob, &mut incoming, &mut stream).await;
        let pushed: Vec<_> = messages.into_iter().flat_map(|message| message.payload).map(|block| block.data).collect();
        assert_eq!(pushed, [absent.data]);
    });
}

#[test]
fn what_is_denied_of_a_dag_is_missing_in_it_whatever_is_asked() {
    let sim = Sim::new(2);
    sim.clone().run(async move {
        let inner = Arc::new(AtomicBool::new(false));
        let (leaf, root) = (raw("leaf"), common::cbor_list(&[raw("leaf").cid]));
        let (all, hidden) = (inner.clone(), *leaf.cid.hash());
        let config = BlocksConfig::default()
            .serving(move |_: &Asker, cid: &Cid| all.load(Ordering::Relaxed) || *cid.hash() != hidden);
        let alice = Agent::with(&sim, 1, config).await;
        let bob = join(&sim, &common::identity(&sim, 2));
        alice.blocks.put_block(root.clone()).await.unwrap();
        let get = async |max_bytes: u64, top: Cid| {
            let mut stream = bob.network.open(alice.peer(), &[dag::PROTOCOL]).await.unwrap().stream;
            let request = Request { root: top, scope: Scope::Dag, max_bytes, skips: Vec::new() };
            stream.write_all(&request.encode()).await.unwrap();
            stream.flush().await.unwrap();
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).await.unwrap();
            bytes
        };
        let without: Vec<_> =
            [get(1 << 20, root.cid).await, get(1 << 20, leaf.cid).await, get(0, leaf.cid).await].to_vec();
        alice.blocks.put_block(leaf.clone()).await.unwrap();
        let denied: Vec<_> =
            [get(1 << 20, root.cid).await, get(1 << 20, leaf.cid).await, get(0, leaf.cid).await].to_vec();
        assert_eq!(denied, without, "a block that is here and denied is as one that is not");
        inner.store(true, Ordering::Relaxed);
        assert_ne!(get(1 << 20, root.cid).await, without[0]);
        let mut block = bytes::BytesMut::new();
        Frame::Block { cid: leaf.cid, data: leaf.data }.put(&mut block);
        assert!(get(1 << 20, leaf.cid).await.starts_with(&block));
    });
}

#[test]
fn certified_devices_get_all_and_strangers_one_dag() {
    let sim = Sim::new(3);
    sim.clone().run(async move {
        let for_all = AllowList::default();
        let listed = for_all.clone();
        let agents = Arc::new(AtomicBool::new(true));
        let certified = agents.clone();
        let policy = move |asker: &Asker, cid: &Cid| {
            asker.agent.is_some() && certified.load(Ordering::Relaxed) || listed.contains(cid)
        };
        let (alice, bob) =
            (Agent::with(&sim, 1, BlocksConfig::default().serving(policy)).await, Agent::start(&sim, 2).await);
        let open = alice.blocks.add_bytes(noise(1, 3 << 20), AddOptions::default()).await.unwrap().cid;
        let other = alice.blocks.add_bytes(noise(2, 3 << 20), AddOptions::default()).await.unwrap().cid;
        let third = alice.blocks.add_bytes(noise(3, 3 << 20), AddOptions::default()).await.unwrap().cid;
        for_all.allow(alice.blocks.store(), open).await.unwrap();
        bob.connect(&alice).await;
        bob.blocks.fetch(other, &FetchOptions::until(bob.within(20))).await.unwrap();
        // From here on nobody counts as certified.
        agents.store(false, Ordering::Relaxed);
        bob.blocks.fetch(open, &FetchOptions::until(bob.within(20))).await.unwrap();
        assert!(bob.blocks.fetch(third, &FetchOptions::until(bob.within(20))).await.is_err());
        let absent = AllowList::default();
        assert!(absent.allow(bob.blocks.store(), third).await.is_err());
        assert!(!absent.contains(&third));
    });
}

#[test]
fn without_a_policy_sealed_and_plain_content_and_parts_of_pins_are_served_and_damaged_blocks_are_not() {
    let sim = Sim::new(4);
    sim.clone().run(async move {
        let (alice, bob) = (Agent::start(&sim, 1).await, Agent::start(&sim, 2).await);
        bob.connect(&alice).await;
        let plain = alice.blocks.add_bytes(noise(1, 1 << 10), AddOptions::default()).await.unwrap().cid;
        let sealed = AddOptions { private: true, ..AddOptions::default() };
        let sealed = alice.blocks.add_bytes(noise(2, 1 << 10), sealed).await.unwrap().cid;
        for cid in [plain, sealed] {
            bob.blocks.fetch(cid, &FetchOptions::until(bob.within(20))).await.unwrap();
        }
        // A pin that nobody can complete.
        let (part, nowhere) = (raw("part"), raw("nowhere"));
        let root = common::cbor_list(&[part.cid, nowhere.cid]);
        alice.blocks.put_block(part.clone()).await.unwrap();
        alice.blocks.put_block(root.clone()).await.unwrap();
        assert!(alice.blocks.pin(root.cid, &FetchOptions::until(alice.within(5))).await.is_err());
        assert_eq!(bob.blocks.get_block(part.cid, bob.within(20)).await.unwrap(), part.data);
        // Damage on alice's disk.
        let good = raw("good, and soon no more");
        alice.blocks.put_block(good.clone()).await.unwrap();
        alice.blocks.flush().await.unwrap();
        let disk = alice.world.disk.clone();
        for entry in disk.list("blocks").unwrap().into_iter().filter(|entry| entry.name.ends_with(".segment")) {
            let file = disk.open(&format!("blocks/{}", entry.name), diai_core::OpenMode::ReadWrite).unwrap();
            let mut bytes = vec![0; file.len().unwrap() as usize];
            file.read_exact_at(0, &mut bytes).unwrap();
            if let Some(at) = bytes.windows(good.data.len()).position(|window| window == good.data) {
                file.write_at(at as u64, b"evil").unwrap();
            }
        }
        assert!(bob.blocks.get_block(good.cid, bob.within(20)).await.is_err());
        assert_eq!(alice.blocks.store().stats().quarantined, 1);
    });
}
