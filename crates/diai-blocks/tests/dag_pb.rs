//! dag-pb nodes are encoded canonically and decoded strictly.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use bytes::Bytes;
use diai_blocks::{
    Block, Cid, MAX_BLOCK_BYTES, RAW,
    dag_pb::{DecodeError, Link, Node},
    unixfs::{Kind, UnixFs},
};
use proptest::prelude::*;

fn cid(number: u8) -> Cid {
    Block::new(RAW, vec![number]).unwrap().cid
}

fn node() -> impl Strategy<Value = Node> {
    let link =
        (any::<u8>(), ".{0,20}", any::<u64>()).prop_map(|(number, name, tsize)| Link { cid: cid(number), name, tsize });
    let data = prop::option::of(prop::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from));
    (prop::collection::vec(link, 0..20), data).prop_map(|(links, data)| Node { links, data })
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_the_same(node in node()) {
        let bytes = node.encode();
        prop_assert_eq!(bytes.len(), node.encoded_bytes());
        prop_assert_eq!(Node::decode(&bytes), Ok(node));
    }

    #[test]
    fn a_node_that_is_cut_short_or_followed_by_rubbish_is_not_taken_for_the_whole(node in node(), cut in any::<prop::sample::Index>()) {
        let bytes = node.encode();
        prop_assume!(!bytes.is_empty());
        let cut = cut.index(bytes.len());
        prop_assert_ne!(Node::decode(&bytes[..cut]), Ok(node));
        prop_assert!(Node::decode(&[&bytes[..], &[0x1d, 0, 0, 0, 0]].concat()).is_err());
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Node::decode(&bytes);
        let _ = UnixFs::decode(&bytes.into());
    }

    #[test]
    fn unixfs_data_decodes_to_what_was_encoded(
        kind in prop_oneof![Just(Kind::Raw), Just(Kind::Folder), Just(Kind::File), Just(Kind::Symlink), Just(Kind::Shard)],
        data in prop::option::of(prop::collection::vec(any::<u8>(), 0..50).prop_map(Bytes::from)),
        filesize in any::<Option<u64>>(),
        blocksizes in prop::collection::vec(any::<u64>(), 0..5),
        hash_type in any::<Option<u64>>(),
        fanout in any::<Option<u64>>(),
        mode in any::<Option<u32>>(),
    ) {
        let unixfs = UnixFs { data, filesize, blocksizes, hash_type, fanout, mode, ..UnixFs::new(kind) };
        prop_assert_eq!(UnixFs::decode(&unixfs.encode()), Ok(unixfs));
    }
}

#[test]
fn links_come_before_data_and_an_empty_name_is_written() {
    let node =
        Node { links: vec![Link { cid: cid(1), name: String::new(), tsize: 1 }], data: Some(Bytes::from_static(b"x")) };
    let bytes = node.encode();
    let after_cid = 2 + 2 + 36;
    assert_eq!(bytes[..4], [0x12, 42, 0x0a, 36]);
    assert_eq!(bytes[after_cid..], [0x12, 0, 0x18, 1, 0x0a, 1, b'x']);
}

#[test]
fn old_nodes_with_data_before_links_are_read() {
    let node = Node { links: vec![Link { cid: cid(1), name: "a".into(), tsize: 9 }], data: Some("d".into()) };
    let bytes = node.encode();
    let turned = [&bytes[bytes.len() - 3..], &bytes[..bytes.len() - 3]].concat();
    assert_eq!(Node::decode(&turned), Ok(node));
}

#[test]
fn malformed_nodes_are_refused_by_kind() {
    let node = Node { links: vec![Link { cid: cid(1), name: "a".into(), tsize: 9 }], data: Some("d".into()) };
    let bytes = node.encode();
    let twice = [&bytes[..], &bytes[bytes.len() - 3..]].concat();
    let around = [&bytes[..], &bytes[..bytes.len() - 3]].concat();
    for (bytes, error) in [
        (&twice[..], DecodeError::Field),
        (&around, DecodeError::Field),
        (&[0x0a, 5, 1], DecodeError::Truncated),
        (&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], DecodeError::Truncated),
        (&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2], DecodeError::Field),
        (&[0x12, 0], DecodeError::Cid),
        (&[0x12, 4, 0x0a, 2, 1, 0x55], DecodeError::Cid),
        (&[0x1a, 0], DecodeError::Field),
        (&[0x08, 1], DecodeError::Field),
    ] {
        assert_eq!(Node::decode(bytes), Err(error), "{bytes:x?}");
    }
    let mut name = bytes;
    let at = name.iter().rposition(|byte| *byte == b'a').unwrap();
    name[at] = 0xff;
    assert_eq!(Node::decode(&name), Err(DecodeError::Name));
}

#[test]
fn a_block_full_of_links_is_bounded() {
    let link = [0x12, 6, 0x0a, 4, 1, 0x55, 0, 0];
    let bytes = link.repeat(MAX_BLOCK_BYTES / link.len());
    assert_eq!(Node::decode(&bytes), Err(DecodeError::TooManyLinks));
}
