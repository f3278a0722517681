//! The bytes of Bitswap.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use bytes::Bytes;
use cid::Cid;
use diai_blocks::{
    Block, RAW,
    bitswap::{Message, Payload, Prefix, Presence, Version, Want, WantKind, decode, encode},
};
use proptest::prelude::*;

fn block(text: &str) -> Block {
    Block::new(RAW, Bytes::from(text.to_owned())).unwrap()
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
