//! Servers of the DHT of IPFS that are made to harm.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use bytes::Bytes;
use diai_blocks::{
    Block, RAW,
    ipfs_dht::{DhtMessage, DhtPeer, Key, Kind, Lookup, MAX_CANDIDATES, MAX_MESSAGE_BYTES, MAX_PEERS, REPLICATION},
};
use diai_core::{Multiaddr, PeerId, memory::AgentSpec};

fn peer(number: u32) -> PeerId {
    let hash = *Block::new(RAW, number.to_be_bytes().to_vec()).unwrap().cid.hash();
    PeerId::from_multihash(hash).unwrap()
}

fn addr(number: u16) -> Multiaddr {
    format!("/ip4/10.0.0.1/tcp/{number}").parse().unwrap()
}

fn answer(peers: u32, addrs: u16) -> DhtMessage {
    let mut answer = DhtMessage::new(Kind::GetProviders, Bytes::from_static(&[0x12, 2, 7, 7]));
    answer.closer =
        (0..peers).map(|number| DhtPeer { peer: peer(number), addrs: (1..=addrs).map(addr).collect() }).collect();
    answer
}

fn read(bytes: impl Into<Bytes>) -> Option<DhtMessage> {
    DhtMessage::from_bytes(bytes.into()).ok()
}

fn field(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut field = vec![tag << 3 | 2];
    let mut length = content.len();
    while length >= 0x80 {
        field.push(length as u8 | 0x80);
        length >>= 7;
    }
    field.push(length as u8);
    [&field, content].concat()
}

#[test]
fn an_answer_names_no_more_peers_keys_and_addresses_than_there_is_room_for() {
    let most = u32::try_from(MAX_PEERS).unwrap();
    assert_eq!(read(answer(most, 1).to_bytes()).unwrap().closer.len(), MAX_PEERS);
    assert_eq!(read(answer(most + 1, 1).to_bytes()), None);
    // Of many addresses the first few count, of very many the whole answer is refused.
    let with = |addrs: usize| {
        let addrs = (0..addrs).flat_map(|number| field(2, addr(number as u16 + 1).as_ref()));
        let peer = [field(1, &peer(1).to_bytes()), addrs.collect()].concat();
        read([vec![8, 4], field(8, &peer)].concat())
    };
    assert_eq!(with(100).unwrap().closer[0].addrs.len(), 16);
    assert_eq!(with(129), None);
    assert_eq!(read([vec![8, 4], field(2, &[7; 129])].concat()), None, "a key of 129 bytes");
    assert_eq!(read([vec![8, 4], field(8, &field(1, &[7; 129]))].concat()), None, "a peer id of 129 bytes");
    assert!(answer(most, 16).to_bytes().len() <= MAX_MESSAGE_BYTES);
}

#[test]
fn peers_and_addresses_that_are_none_are_left_out_and_the_others_kept() {
    let good = [field(1, &peer(1).to_bytes()), field(2, addr(1).as_ref()), field(2, b"no address")].concat();
    let bytes = [vec![8, 3], field(8, &field(1, b"no peer")), field(8, &good), field(9, &field(1, &[]))].concat();
    let read = read(bytes).unwrap();
    assert_eq!((read.closer, read.providers), (vec![DhtPeer { peer: peer(1), addrs: vec![addr(1)] }], Vec::new()));
}

#[test]
fn answers_that_are_cut_or_changed_anywhere_are_read_or_refused() {
    let bytes = answer(3, 2).to_bytes();
    for at in 0..bytes.len() {
        let _ = read(bytes[..at].to_vec());
        for to in [0, 0x7f, 0x80, 0xff, bytes[at] ^ 1, bytes[at] ^ 8] {
            let mut changed = bytes.clone();
            changed[at] = to;
            let _ = read(changed);
        }
    }
    for kind in [0, 1, 5, 255] {
        assert_eq!(read(vec![8, kind]), None, "kind {kind}");
    }
}

/// Every answer names new peers that are closer than all before.
#[test]
fn a_server_that_makes_peers_up_without_end_ends_no_lookup_and_fills_no_memory() {
    let local = AgentSpec::example(250).peer;
    let target = Key::of(b"target");
    let mut lookup = Lookup::new(target, local, REPLICATION, [peer(0)]);
    let (mut next, mut asked) = (1, 0);
    while let Some(one) = lookup.next_peer() {
        asked += 1;
        if one == peer(0) {
            let named: Vec<_> = (next..next + 256).map(peer).collect();
            next += 256;
            lookup.answered(&one, named);
        } else {
            // Those that it made up are not there.
            lookup.failed(&one);
        }
    }
    assert!(asked <= 257 && lookup.is_done());
    // One that is there under many names, and makes more up in each.
    let mut lookup = Lookup::new(target, local, REPLICATION, [peer(0)]);
    let mut asked = 0;
    for _ in 0..100 {
        let Some(one) = lookup.next_peer() else { break };
        asked += 1;
        let named: Vec<_> = (next..next + 256).map(peer).collect();
        next += 256;
        lookup.answered(&one, named.into_iter().chain([local, one]));
    }
    assert!(asked <= 100 && lookup.closest().count() <= MAX_CANDIDATES);
}
