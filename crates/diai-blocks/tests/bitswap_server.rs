//! The machine that answers in Bitswap, driven by hand.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::time::Duration;

use bytes::Bytes;
use cid::Cid;
use diai_blocks::{
    Block, RAW,
    bitswap::{Presence, ServerInput, ServerMachine, ServerOutput, Want, WantKind},
    config::ServerConfig,
};
use diai_core::{Footprint, Instant, Misbehaviour, PeerId, memory::AgentSpec};

fn block(text: &str) -> Block {
    Block::new(RAW, Bytes::from(text.to_owned())).unwrap()
}

fn peer(number: u8) -> PeerId {
    AgentSpec::example(number).peer
}

const NOW: Instant = Instant::from_nanos(1);

fn want(cid: Cid, kind: WantKind) -> Want {
    Want { cid, priority: 1, cancel: false, kind, send_dont_have: true }
}

#[test]
fn the_server_always_answers_dont_have_when_asked_and_pushes_later() {
    let mut server = ServerMachine::new(ServerConfig::default());
    let (a, b) = (block("a").cid, block("b").cid);
    let wants = vec![(want(a, WantKind::Block), false), (want(b, WantKind::Have), false)];
    server.handle(NOW, ServerInput::Wants { peer: peer(1), full: false, wants });
    let no = |cid| Presence { cid, have: false };
    let answer = ServerOutput::Send { peer: peer(1), blocks: vec![], presences: vec![no(a), no(b)], bytes: 256 << 10 };
    assert_eq!(server.poll_output(), Some(answer));
    server.handle(NOW, ServerInput::Sent { peer: peer(1), blocks: 0, bytes: 0, took: Duration::ZERO });
    server.handle(NOW, ServerInput::Added(vec![a, b]));
    let pushed = ServerOutput::Send {
        peer: peer(1),
        blocks: vec![(a, false)],
        presences: vec![Presence { cid: b, have: true }],
        bytes: 256 << 10,
    };
    assert_eq!(server.poll_output(), Some(pushed));
    assert_eq!(server.poll_output(), None);
}

#[test]
fn a_peer_that_asks_for_a_lot_delays_only_itself() {
    let mut server = ServerMachine::new(ServerConfig { batches: 3, ..ServerConfig::default() });
    let cids: Vec<_> = (0..1000).map(|number| block(&number.to_string()).cid).collect();
    let wants =
        |range: std::ops::Range<usize>| cids[range].iter().map(|cid| (want(*cid, WantKind::Block), true)).collect();
    server.handle(NOW, ServerInput::Wants { peer: peer(1), full: false, wants: wants(0..1000) });
    let to = |output| match output {
        Some(ServerOutput::Send { peer, .. }) => Some(peer),
        _ => None,
    };
    assert_eq!(to(server.poll_output()), Some(peer(1)));
    assert_eq!(to(server.poll_output()), Some(peer(1)));
    assert_eq!(to(server.poll_output()), None, "two batches of one peer at a time");
    server.handle(NOW, ServerInput::Wants { peer: peer(2), full: false, wants: wants(0..3) });
    assert_eq!(to(server.poll_output()), Some(peer(2)));
    server.handle(NOW, ServerInput::Sent { peer: peer(1), blocks: 16, bytes: 16 << 20, took: Duration::ZERO });
    server.handle(NOW, ServerInput::Wants { peer: peer(3), full: false, wants: wants(0..3) });
    assert_eq!(to(server.poll_output()), Some(peer(3)), "who was served least goes first");
}

#[test]
fn ten_thousand_wants_at_once_are_capped_and_held_against_the_peer() {
    let mut server = ServerMachine::new(ServerConfig::default());
    let wants = (0..10_000).map(|number| (want(block(&number.to_string()).cid, WantKind::Block), false)).collect();
    server.handle(NOW, ServerInput::Wants { peer: peer(1), full: false, wants });
    let flooding = ServerOutput::Penalise { peer: peer(1), misbehaviour: Misbehaviour::Flooding };
    assert_eq!(server.poll_output(), Some(flooding));
    let Some(ServerOutput::Send { presences, .. }) = server.poll_output() else { panic!("no answer") };
    assert_eq!(presences.len(), 1024);
    server.handle(NOW, ServerInput::Gone(peer(1)));
    assert_eq!(Footprint::footprint_bytes(&server), 0);
}

#[test]
fn peers_that_take_nothing_hold_little_and_a_newcomer_is_served() {
    let mut server = ServerMachine::new(ServerConfig::default());
    let cids: Vec<_> = (0..100).map(|number| block(&number.to_string()).cid).collect();
    let wants = || cids.iter().map(|cid| (want(*cid, WantKind::Block), true)).collect();
    for number in 1..=20 {
        server.handle(NOW, ServerInput::Wants { peer: peer(number), full: false, wants: wants() });
    }
    let mut held = 0;
    while let Some(ServerOutput::Send { bytes, .. }) = server.poll_output() {
        held += bytes;
    }
    assert!(held <= 20 << 20, "{held} bytes for peers that took nothing yet");
    server.handle(NOW, ServerInput::Wants { peer: peer(21), full: false, wants: wants() });
    assert!(matches!(server.poll_output(), Some(ServerOutput::Send { peer: to, .. }) if to == peer(21)));
}

#[test]
fn a_batch_is_as_large_as_the_peer_is_fast() {
    let mut server = ServerMachine::new(ServerConfig::default());
    let cids: Vec<_> = (0..1000).map(|number| block(&number.to_string()).cid).collect();
    let wants = cids.iter().map(|cid| (want(*cid, WantKind::Block), true)).collect();
    server.handle(NOW, ServerInput::Wants { peer: peer(1), full: false, wants });
    let mut batch = |seconds| {
        let mut largest = 0;
        let mut batches = 0;
        while let Some(ServerOutput::Send { bytes, .. }) = server.poll_output() {
            largest = largest.max(bytes);
            batches += 1;
        }
        for _ in 0..batches {
            let took = Duration::from_secs(seconds);
            server.handle(NOW, ServerInput::Sent { peer: peer(1), blocks: 1, bytes: 256 << 10, took });
        }
        (largest, batches)
    };
    assert_eq!(batch(0), (256 << 10, 2));
    assert_eq!(batch(0), (1 << 20, 2));
    assert_eq!(batch(0), (4 << 20, 2));
    assert_eq!(batch(10), (4 << 20, 2));
    assert_eq!(batch(10), (1 << 20, 2));
    assert_eq!(batch(10), (256 << 10, 2));
    assert_eq!(batch(10), (64 << 10, 1), "who is slow has one at a time");
}

fn send_to(output: Option<ServerOutput>) -> Option<PeerId> {
    match output {
        Some(ServerOutput::Send { peer, .. }) => Some(peer),
        _ => None,
    }
}

#[test]
fn peers_that_read_as_slowly_as_they_may_make_room_for_a_newcomer_and_are_served_again_later() {
    let mut server = ServerMachine::new(ServerConfig::default());
    let cids: Vec<_> = (0..100).map(|number| block(&number.to_string()).cid).collect();
    let wants = || cids.iter().map(|cid| (want(*cid, WantKind::Block), true)).collect();
    let at = |seconds| NOW + Duration::from_secs(seconds);
    let full = ServerConfig::default().batches;
    for number in 1..=200 {
        server.handle(at(0), ServerInput::Wants { peer: peer(number), full: false, wants: wants() });
    }
    let mut holders = Vec::new();
    while let Some(peer) = send_to(server.poll_output()) {
        holders.push(peer);
    }
    assert_eq!(holders.len(), full);
    // Some keep taking a little; all that came first keep their places no longer than some seconds.
    let newcomer = peer(201);
    server.handle(at(1), ServerInput::Wants { peer: newcomer, full: false, wants: wants() });
    assert_eq!(server.poll_output(), None, "nobody is slow yet");
    assert_eq!(server.poll_timeout(), Some(at(5)));
    server.handle(at(5), ServerInput::Timeout);
    let mut displaced = Vec::new();
    let mut served = Vec::new();
    while let Some(output) = server.poll_output() {
        match output {
            ServerOutput::Displace { peer } => displaced.push(peer),
            ServerOutput::Send { peer, .. } => served.push(peer),
            output => panic!("{output:?}"),
        }
    }
    assert_eq!(displaced.len(), full, "each of those who hold all");
    assert!(displaced.iter().all(|peer| holders.contains(peer)) && !served.iter().any(|peer| holders.contains(peer)));
    let mut seconds = 5;
    while !served.contains(&newcomer) {
        seconds += 5;
        assert!(seconds <= 5 * 5, "it waits no longer than the others in turn");
        server.handle(at(seconds), ServerInput::Timeout);
        served.extend(std::iter::from_fn(|| server.poll_output()).filter_map(|output| send_to(Some(output))));
    }
    // Nobody waits any more for the first time: who was displaced waits, and displaces nobody.
    server.handle(at(100), ServerInput::Timeout);
    while server.poll_output().is_some() {}
    assert_eq!(server.poll_timeout(), None);
    // When there is room again they are served from where they were.
    let now = at(101);
    for peer in served.iter().rev().take(full) {
        server.handle(now, ServerInput::Gone(*peer));
    }
    let again: Vec<_> = std::iter::from_fn(|| send_to(server.poll_output())).collect();
    assert!(again.iter().any(|peer| displaced.contains(peer)), "{again:?}");
}

#[test]
fn a_peer_that_takes_its_blocks_fast_is_never_displaced_and_who_became_fast_is_as_good_as_others() {
    let config = ServerConfig { batches: 2, ..ServerConfig::default() };
    let mut server = ServerMachine::new(config);
    let cids: Vec<_> = (0..1000).map(|number| block(&number.to_string()).cid).collect();
    let wants = || cids.iter().map(|cid| (want(*cid, WantKind::Block), true)).collect();
    let at = |seconds| NOW + Duration::from_secs(seconds);
    let (slow, fast, newcomer) = (peer(1), peer(2), peer(3));
    server.handle(at(0), ServerInput::Wants { peer: slow, full: false, wants: wants() });
    assert_eq!(send_to(server.poll_output()), Some(slow));
    server.handle(at(0), ServerInput::Wants { peer: fast, full: false, wants: wants() });
    assert_eq!(send_to(server.poll_output()), Some(fast));
    server.handle(at(4), ServerInput::Sent { peer: fast, blocks: 1, bytes: 1, took: Duration::from_secs(3) });
    assert_eq!(send_to(server.poll_output()), Some(fast));
    server.handle(at(6), ServerInput::Wants { peer: newcomer, full: false, wants: wants() });
    assert_eq!(server.poll_output(), Some(ServerOutput::Displace { peer: slow }));
    assert_eq!(send_to(server.poll_output()), Some(newcomer));
    assert_eq!(server.poll_output(), None);
}
