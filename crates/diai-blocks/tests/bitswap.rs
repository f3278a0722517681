//! The bytes of Bitswap, and its machines driven by hand.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use bytes::Bytes;
use cid::Cid;
use diai_blocks::{
    Block, RAW,
    bitswap::{
        ClientInput, ClientMachine, ClientOutput, Message, Payload, Prefix, Presence, ServerInput, ServerMachine,
        ServerOutput, Version, Want, WantKind, decode, encode,
    },
    config::{ClientConfig, ServerConfig},
};
use diai_core::{Instant, Misbehaviour, PeerId, memory::AgentSpec};
use proptest::prelude::*;

fn block(text: &str) -> Block {
    Block::new(RAW, Bytes::from(text.to_owned())).unwrap()
}

fn peer(number: u8) -> PeerId {
    AgentSpec::example(number).peer
}

fn frame(message: &Message, version: Version) -> Bytes {
    let whole: Vec<u8> = encode(message, version).concat();
    let prefix = if whole.len() > 128 { 2 } else { 1 };
    Bytes::from(whole).slice(prefix..)
}

fn sample() -> Message {
    let (hello, world) = (block("hello"), block("world"));
    Message {
        full: false,
        wants: vec![
            Want { cid: world.cid, priority: 7, cancel: false, kind: WantKind::Have, send_dont_have: true },
            Want { cid: hello.cid, priority: 0, cancel: true, kind: WantKind::Block, send_dont_have: false },
        ],
        payload: vec![Payload { prefix: Prefix::of(&hello.cid), data: hello.data }],
        presences: vec![Presence { cid: world.cid, have: false }],
        pending_bytes: 9,
    }
}

#[test]
fn a_message_has_the_bytes_that_boxo_gives_it() {
    let hex: String = encode(&sample(), Version::V1_2).concat().iter().map(|byte| format!("{byte:02x}")).collect();
    let world = "01551220486ea46224d1bb4fb680f34f7c9ad96a8f24ec88be73ea8e5a6c65260e9cb8a7";
    let hello = "015512202cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    let wants = format!("0a58 0a2c 0a24{world} 1007 2001 2801 0a28 0a24{hello} 1801");
    let rest = format!("1a0d 0a0401551220 120568656c6c6f 2228 0a24{world} 1001 2809");
    assert_eq!(hex, format!("95 01 {wants} {rest}").replace(' ', ""));
    assert_eq!(decode(&frame(&sample(), Version::V1_2)).unwrap(), sample());
}

#[test]
fn older_peers_are_told_only_what_they_understand() {
    let old = decode(&frame(&sample(), Version::V1_1)).unwrap();
    assert_eq!((old.wants.len(), old.payload.len(), old.presences.len()), (1, 1, 0));
    let oldest = decode(&frame(&sample(), Version::V1_0)).unwrap();
    assert_eq!((oldest.wants.len(), oldest.payload.len()), (1, 0));
    let have = Message { presences: sample().presences, ..Message::default() };
    assert!(encode(&have, Version::V1_1).is_empty());
}

#[test]
fn a_cidv0_prefix_is_four_varints_and_its_block_is_found_again() {
    let cid = Cid::try_from("QmdfTbBqBPQ7VNxZEYEj14VmRuZBkqFbiwReogJgS1zR1n").unwrap();
    let message = Message {
        payload: vec![Payload { prefix: Prefix::of(&cid), data: Bytes::from_static(&[0x0a, 2, 8, 1]) }],
        ..Message::default()
    };
    let bytes = frame(&message, Version::V1_2);
    assert!(bytes.windows(6).any(|window| window == [0x0a, 4, 0x00, 0x70, 0x12, 0x20]));
    let payload = &decode(&bytes).unwrap().payload[0];
    assert_eq!(payload.prefix.cid(&payload.data).unwrap().version(), cid.version());
    let bare = decode(&frame(&message, Version::V1_0)).unwrap();
    assert_eq!(bare, message);
}

#[test]
fn malformed_messages_are_refused() {
    let whole = frame(&sample(), Version::V1_2);
    for end in 1..whole.len() {
        if let Ok(cut) = decode(&whole.slice(..end)) {
            assert_ne!(cut, sample(), "cut at {end}");
        }
    }
    let refused = |bytes: &[u8], what: &str| assert!(decode(&Bytes::copy_from_slice(bytes)).is_err(), "{what}");
    refused(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f], "a length beyond the end");
    refused(&[0xff; 11], "an endless varint");
    refused(&[0x08, 0x01], "a number for a want list");
    refused(&[0x0a, 0x02, 0x0a, 0x00], "a want without a CID");
    refused(&[0x0a, 0x05, 0x0a, 0x03, 0x0a, 0x01, 0x77], "a CID that is none");
    refused(&[0x1a, 0x02, 0x12, 0x00], "a block without a prefix");
    refused(&[0x1a, 0x06, 0x0a, 0x04, 0x00, 0x55, 0x12, 0x20], "a CIDv0 of raw bytes");
    refused(&[0x1a, 0x04, 0x0a, 0x02, 0x12, 0x20], "a prefix of two varints");
    refused(&[0x03], "a group");
    refused(&[0x00, 0x00], "tag zero");
    let mut large = vec![0x12, 0x81, 0x80, 0x80, 0x01];
    large.resize(5 + (2 << 20) + 1, 0);
    refused(&large, "a block over 2 MiB");
    refused(&vec![0; (4 << 20) + 1], "a message over 4 MiB");
    refused(&[0x22, 0x00].repeat(20_000), "presences without a CID");
    let presence = frame(&Message { presences: sample().presences, ..Message::default() }, Version::V1_2);
    refused(&presence[2..].repeat(16_385), "too many presences");
}

#[test]
fn wants_for_identity_and_overlong_cids_are_passed_over_and_unknown_fields_skipped() {
    let mut bytes = vec![0x0a, 0x0a, 0x0a, 0x08, 0x0a, 0x06, 0x01, 0x55, 0x00, 0x02, b'h', b'i'];
    bytes.extend_from_slice(&[0x32, 0x01, 0x00]);
    assert_eq!(decode(&bytes.into()).unwrap(), Message::default());
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&bytes.into());
    }

    #[test]
    fn a_changed_message_never_panics(at in 0usize..140, to in any::<u8>()) {
        let mut bytes = frame(&sample(), Version::V1_2).to_vec();
        let at = at % bytes.len();
        bytes[at] = to;
        let _ = decode(&bytes.into());
    }
}

struct Hand {
    machine: ClientMachine,
    now: Instant,
}

impl Hand {
    fn new(peers: u8) -> Self {
        let mut hand = Self { machine: ClientMachine::new(ClientConfig::default()), now: Instant::from_nanos(1) };
        (1..=peers).for_each(|number| hand.say(ClientInput::Connected(peer(number))));
        hand
    }

    fn say(&mut self, input: ClientInput) {
        self.machine.handle(self.now, input);
    }

    fn outputs(&mut self) -> Vec<ClientOutput> {
        std::iter::from_fn(|| self.machine.poll_output()).collect()
    }

    /// Who was sent a want-block for `cid`, and who a want-have.
    fn asked(&mut self, cid: Cid) -> (Vec<PeerId>, Vec<PeerId>) {
        let (mut blocks, mut haves) = (Vec::new(), Vec::new());
        for output in self.outputs() {
            let ClientOutput::Send { peer, wants } = output else { continue };
            for want in wants.iter().filter(|want| want.cid == cid && !want.cancel) {
                assert!(want.send_dont_have);
                if want.kind == WantKind::Block { blocks.push(peer) } else { haves.push(peer) }
            }
        }
        (blocks, haves)
    }

    fn presence(&mut self, from: PeerId, cid: Cid, have: bool) {
        self.say(ClientInput::Received { peer: from, blocks: vec![], presences: vec![Presence { cid, have }] });
    }

    fn block(&mut self, from: PeerId, cid: Cid) {
        self.say(ClientInput::Received { peer: from, blocks: vec![(cid, 5)], presences: vec![] });
    }

    fn timeout(&mut self) {
        self.now = self.machine.poll_timeout().unwrap();
        self.say(ClientInput::Timeout);
    }
}

#[test]
fn one_peer_gets_the_want_block_and_the_others_a_want_have() {
    let mut hand = Hand::new(4);
    let cid = block("a").cid;
    hand.say(ClientInput::Want { session: 1, cids: vec![cid] });
    let (blocks, haves) = hand.asked(cid);
    assert_eq!((blocks.len(), haves.len()), (1, 3));
    // Its DONT_HAVE moves the want to whoever said HAVE, as the only want-block.
    hand.presence(haves[1], cid, true);
    assert_eq!(hand.asked(cid), (vec![], vec![]));
    hand.presence(blocks[0], cid, false);
    assert_eq!(hand.asked(cid), (vec![haves[1]], vec![]));
    hand.block(haves[1], cid);
    let outputs = hand.outputs();
    assert!(outputs.contains(&ClientOutput::Wanted { cid, sessions: vec![1], peer: haves[1] }));
    let cancels = outputs.iter().filter(|output| matches!(output, ClientOutput::Send { wants, .. } if wants[0].cancel));
    assert_eq!(cancels.count(), 3, "all who know of it but the deliverer");
}

#[test]
fn who_delivered_is_asked_alone_for_the_next_blocks_of_the_session() {
    let mut hand = Hand::new(4);
    let (root, next) = (block("root").cid, block("next").cid);
    hand.say(ClientInput::Want { session: 1, cids: vec![root] });
    let (first, _) = hand.asked(root);
    hand.block(first[0], root);
    hand.outputs();
    hand.say(ClientInput::Want { session: 1, cids: vec![next] });
    assert_eq!(hand.asked(next), (first, vec![]));
}

#[test]
fn when_all_said_no_the_want_is_exhausted_and_a_newcomer_is_asked() {
    let mut hand = Hand::new(2);
    let cid = block("a").cid;
    hand.say(ClientInput::Want { session: 1, cids: vec![cid] });
    hand.outputs();
    hand.presence(peer(1), cid, false);
    hand.presence(peer(2), cid, false);
    assert!(hand.outputs().contains(&ClientOutput::Exhausted { sessions: vec![1], cid }));
    hand.say(ClientInput::Connected(peer(3)));
    assert_eq!(hand.asked(cid).0, [peer(3)]);
    // A late push of one that said no is as good.
    hand.block(peer(1), cid);
    assert!(matches!(hand.outputs()[0], ClientOutput::Wanted { .. }));
}

#[test]
fn silence_and_disconnection_move_wants_to_the_next_peer() {
    let mut hand = Hand::new(2);
    let cid = block("a").cid;
    hand.say(ClientInput::Want { session: 1, cids: vec![cid] });
    let (blocks, haves) = hand.asked(cid);
    hand.presence(haves[0], cid, true);
    hand.outputs();
    hand.timeout();
    let outputs = hand.outputs();
    let silent = ClientOutput::Penalise { peer: blocks[0], misbehaviour: Misbehaviour::Silent };
    assert!(outputs.contains(&silent), "{outputs:?}");
    assert!(outputs.iter().any(|output| matches!(output, ClientOutput::Send { peer, .. } if *peer == haves[0])));
    hand.say(ClientInput::Gone(haves[0]));
    assert!(hand.outputs().contains(&ClientOutput::Exhausted { sessions: vec![1], cid }));
}

#[test]
fn a_wrong_block_is_held_against_who_owes_one_and_a_late_double_is_not() {
    let mut hand = Hand::new(2);
    let (cid, other) = (block("a").cid, block("b").cid);
    hand.say(ClientInput::Want { session: 1, cids: vec![cid] });
    let (blocks, haves) = hand.asked(cid);
    hand.block(haves[0], other);
    assert_eq!(hand.outputs(), [], "unasked, but it owes nothing");
    hand.block(blocks[0], other);
    let wrong = ClientOutput::Penalise { peer: blocks[0], misbehaviour: Misbehaviour::WrongContent };
    assert!(hand.outputs().contains(&wrong));
    hand.block(haves[0], cid);
    hand.block(haves[0], cid);
    assert_eq!(hand.machine.duplicates(), 1);
    assert!(!hand.outputs().iter().any(|output| matches!(output, ClientOutput::Penalise { .. })));
}

#[test]
fn a_peer_is_given_no_more_than_its_window_and_sessions_that_end_cancel() {
    let mut hand = Hand::new(1);
    let cids: Vec<_> = (0..100).map(|number| block(&number.to_string()).cid).collect();
    hand.say(ClientInput::Want { session: 1, cids: cids.clone() });
    let sent = |outputs: &[ClientOutput], cancel| {
        outputs
            .iter()
            .map(|output| match output {
                ClientOutput::Send { wants, .. } => wants.iter().filter(|want| want.cancel == cancel).count(),
                _ => 0,
            })
            .sum::<usize>()
    };
    // The first goes alone until the peer has proved itself; the others wait for it or for its want-have.
    let first = sent(&hand.outputs(), false);
    assert!(first <= 100);
    hand.block(peer(1), cids[0]);
    hand.outputs();
    hand.say(ClientInput::End(1));
    assert!(sent(&hand.outputs(), true) > 0);
    assert_eq!(hand.machine.wants(), 0);
    hand.block(peer(1), cids[1]);
    assert_eq!(hand.machine.duplicates(), 1, "what was cancelled too late is no crime");
}

fn want(cid: Cid, kind: WantKind) -> Want {
    Want { cid, priority: 1, cancel: false, kind, send_dont_have: true }
}

#[test]
fn the_server_always_answers_dont_have_when_asked_and_pushes_later() {
    let mut server = ServerMachine::new(ServerConfig::default());
    let (a, b) = (block("a").cid, block("b").cid);
    let wants = vec![(want(a, WantKind::Block), false), (want(b, WantKind::Have), false)];
    server.handle(ServerInput::Wants { peer: peer(1), full: false, wants });
    let no = |cid| Presence { cid, have: false };
    let answer = ServerOutput::Send { peer: peer(1), blocks: vec![], presences: vec![no(a), no(b)] };
    assert_eq!(server.poll_output(), Some(answer));
    server.handle(ServerInput::Sent { peer: peer(1), blocks: 0, bytes: 0 });
    server.handle(ServerInput::Added(vec![a, b]));
    let pushed = ServerOutput::Send {
        peer: peer(1),
        blocks: vec![(a, false)],
        presences: vec![Presence { cid: b, have: true }],
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
    server.handle(ServerInput::Wants { peer: peer(1), full: false, wants: wants(0..1000) });
    let to = |output| match output {
        Some(ServerOutput::Send { peer, .. }) => Some(peer),
        _ => None,
    };
    assert_eq!(to(server.poll_output()), Some(peer(1)));
    assert_eq!(to(server.poll_output()), Some(peer(1)));
    assert_eq!(to(server.poll_output()), None, "two batches of one peer at a time");
    server.handle(ServerInput::Wants { peer: peer(2), full: false, wants: wants(0..3) });
    assert_eq!(to(server.poll_output()), Some(peer(2)));
    server.handle(ServerInput::Sent { peer: peer(1), blocks: 16, bytes: 16 << 20 });
    server.handle(ServerInput::Wants { peer: peer(3), full: false, wants: wants(0..3) });
    assert_eq!(to(server.poll_output()), Some(peer(3)), "who was served least goes first");
}

#[test]
fn ten_thousand_wants_at_once_are_capped_and_held_against_the_peer() {
    let mut server = ServerMachine::new(ServerConfig::default());
    let wants = (0..10_000).map(|number| (want(block(&number.to_string()).cid, WantKind::Block), false)).collect();
    server.handle(ServerInput::Wants { peer: peer(1), full: false, wants });
    let flooding = ServerOutput::Penalise { peer: peer(1), misbehaviour: Misbehaviour::Flooding };
    assert_eq!(server.poll_output(), Some(flooding));
    let Some(ServerOutput::Send { presences, .. }) = server.poll_output() else { panic!("no answer") };
    assert_eq!(presences.len(), 1024);
    server.handle(ServerInput::Gone(peer(1)));
    assert_eq!(diai_core::Footprint::footprint_bytes(&server), 0);
}
