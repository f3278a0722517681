//! Nodes of dag-cbor and dag-json are told apart from rubbish, and walked, pinned and exchanged like those of dag-pb.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod common;

use std::sync::Arc;

use common::{Agent, cbor_list};
use diai_blocks::{
    Block, BlockStore, Cid, DAG_CBOR, DAG_JSON, MAX_BLOCK_BYTES, MemoryStore, PinError, Pins, RAW,
    fetch::FetchOptions,
    ipld::{self, CborError, JsonError, LinksError, MAX_DEPTH, MAX_LINKS},
    unixfs::{self, ReadError, WalkOptions},
};
use diai_core::{
    memory::{MemoryDisk, Sim},
    os::ThreadPool,
};
use futures::{StreamExt, executor::block_on};
use proptest::prelude::*;

fn raw(content: &str) -> Block {
    Block::new(RAW, content.to_owned()).unwrap()
}

fn cbor_links(data: &[u8]) -> Result<Vec<Cid>, LinksError> {
    ipld::links(&Cid::new_v1(DAG_CBOR, *raw("").cid.hash()), data)
}

fn json_links(data: impl AsRef<[u8]>) -> Result<Vec<Cid>, LinksError> {
    ipld::links(&Cid::new_v1(DAG_JSON, *raw("").cid.hash()), data.as_ref())
}

/// A dag-json map of links.
fn json(cids: &[Cid]) -> Block {
    let links: Vec<_> = cids.iter().map(|cid| format!(r#""{cid}":{{"/":"{cid}"}}"#)).collect();
    Block::new(DAG_JSON, format!("{{{}}}", links.join(","))).unwrap()
}

/// The root, and all blocks of a small DAG of all codecs.
fn mixed() -> (Cid, Vec<Block>) {
    let (a, b, c) = (raw("a"), raw("b"), raw("c"));
    let low = json(&[a.cid, b.cid]);
    let mid = cbor_list(&[low.cid, c.cid]);
    let top = json(&[mid.cid]);
    let root = cbor_list(&[top.cid, low.cid]);
    (root.cid, vec![a, b, c, low, mid, top, root])
}

#[test]
fn what_kubo_takes_for_dag_cbor_is_taken() {
    let identity: Cid = "bafkqaaa".parse().unwrap();
    let link = [0xd8, 42, 0x45, 0, 1, 0x55, 0, 0];
    assert_eq!(cbor_links(&link), Ok(vec![identity]));
    assert_eq!(
        cbor_links(&[&[0xa2, 0x61, b'a'][..], &link, &[0x61, b'b', 0x81], &link].concat()),
        Ok(vec![identity; 2])
    );
    let v0: Cid = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn".parse().unwrap();
    let v0_bytes = [&[0xd8, 42, 0x58, 35, 0][..], &v0.to_bytes()].concat();
    assert_eq!(cbor_links(&v0_bytes), Ok(vec![v0]));
    for leaf in [
        &[0xc0, 0x61, b'a'][..], // a tag on a text is overlooked
        &[0xc0, 0xa0],           // and on a map
        &[0xd8, 42, 0x61, b'a'], // also that of links
        &[0x61, 0xff],           // text that is no UTF-8
        &[0xf7],                 // undefined
        &[0xf9, 0, 0],           // a float of two bytes
        &[0xfb, 0x40, 9, 0x21, 0xfb, 0, 0, 0, 0],
        &[0x20],
        &[0xa2, 0x61, b'a', 1, 0x61, b'a', 2], // a key that stands twice hides no link
    ] {
        assert_eq!(cbor_links(leaf), Ok(vec![]), "{leaf:x?}");
    }
}

#[test]
fn what_is_no_dag_cbor_is_refused_by_kind() {
    let link = |content: &[u8]| [&[0xd8, 42, 0x40 | content.len() as u8][..], content].concat();
    let no_prefix = link(&[1, 0x55, 0, 0]);
    let (empty, trailing, short) = (link(&[]), link(&[0, 1, 0x55, 0, 0, 0]), link(&[0, 1, 0x55, 0x12, 0x20, 1]));
    for (bytes, error) in [
        (&[][..], CborError::Truncated),
        (&[0x62, b'a'], CborError::Truncated),
        (&[0x81], CborError::Truncated),
        (&[0xa1, 0x61, b'a'], CborError::Truncated),
        (&[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], CborError::Truncated),
        (&[0xbb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0], CborError::Truncated),
        (&[0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0], CborError::Truncated),
        (&[1, 1], CborError::Trailing),
        (&[0x9f, 0xff], CborError::Item),
        (&[0xbf, 0xff], CborError::Item),
        (&[0x7f, 0x61, b'a', 0xff], CborError::Item),
        (&[0xff], CborError::Item),
        (&[0xe0], CborError::Item),
        (&[0xf8, 32], CborError::Item),
        (&[0xf9, 0x7e, 0], CborError::Item),
        (&[0xfb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0], CborError::Item),
        (&[0xfb, 0xff, 0xf0, 0, 0, 0, 0, 0, 0], CborError::Item),
        (&[0x18, 1], CborError::NotShortest),
        (&[0x19, 0, 0xff], CborError::NotShortest),
        (&[0x1b, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], CborError::NotShortest),
        (&[0xd9, 0, 42, 0x40], CborError::NotShortest),
        (&[0xc0, 0x41, 1], CborError::Tag),
        (&[0xc0, 0xd8, 42, 0x45, 0, 1, 0x55, 0, 0], CborError::Tag),
        (&[0xa1, 1, 1], CborError::Key),
        (&[0xa1, 0x41, b'a', 1], CborError::Key),
        (&[0xa1, 0x80, 1], CborError::Key),
        (&no_prefix, CborError::Link),
        (&empty, CborError::Link),
        (&trailing, CborError::Link),
        (&short, CborError::Link),
    ] {
        assert_eq!(cbor_links(bytes), Err(error.into()), "{bytes:x?}");
    }
}

#[test]
fn what_kubo_takes_for_dag_json_is_taken() {
    let cid = raw("x").cid;
    for one in [
        format!(r#"{{"/":"{cid}"}}"#),
        format!(" {{\t\"/\" : \"{cid}\"\r\n}} "),
        format!(r#"{{"\u002f":"{cid}"}}"#),
        format!(r#"[{{"a":[{{"/":"{cid}"}}],"b":{{}}}},[],-1.5e3,true,false,null,"\"\\\/\b\f\n\r\t\ud800"]"#),
        format!(r#"{{"/":{{"bytes":"AQI","x":{{"/":"{cid}"}}}}}}"#),
        format!(r#"[{{"/":"{cid}",}},]"#),
        format!("{{\"/\":\"{cid}\"}}\0"),
        format!(r#"{{"/":{{"/":"{cid}"}}}}"#),
    ] {
        assert_eq!(json_links(&one), Ok(vec![cid]), "{one}");
    }
    let v0 = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn";
    assert_eq!(json_links(format!(r#"{{"/":"{v0}"}}"#)), Ok(vec![v0.parse().unwrap()]));
    for none in [
        format!(r#"{{"/":"{cid}","a":1}}"#),
        format!(r#"{{"!":1,"/":"{cid}"}}"#),
        r#"{"/":{"bytes":"AQI"}}"#.to_owned(),
        r#"{"/":{"bytes":"AQI="}}"#.to_owned(),
        r#"{"/":{"bytes":""}}"#.to_owned(),
        r#"{"/":1}"#.to_owned(),
        "007".to_owned(),
    ] {
        assert_eq!(json_links(&none), Ok(vec![]), "{none}");
    }
    assert_eq!(json_links(b"\"\xff\""), Ok(vec![]));
}

#[test]
fn what_is_no_dag_json_is_refused_by_kind() {
    let syntax = |offset| JsonError::Syntax { offset };
    for (text, error) in [
        ("", JsonError::Truncated),
        ("[1", JsonError::Truncated),
        ("{\"a\"", JsonError::Truncated),
        ("\"a", JsonError::Truncated),
        ("\"\\u12", JsonError::Truncated),
        ("tru", JsonError::Truncated),
        ("1 2", syntax(2)),
        ("+1", syntax(0)),
        ("-", syntax(0)),
        ("[,]", syntax(1)),
        ("{,}", syntax(1)),
        ("[1,,2]", syntax(3)),
        ("[1 2]", syntax(3)),
        ("[1}", syntax(2)),
        ("{\"a\":1]", syntax(6)),
        ("{1:1}", syntax(1)),
        ("{\"a\" 1}", syntax(5)),
        ("nul!", syntax(3)),
        ("\"\u{1}\"", syntax(1)),
        ("\"\\x\"", syntax(2)),
        (r#"[{"/":"nope"}]"#, JsonError::Link { offset: 1 }),
        (r#"{"/":""}"#, JsonError::Link { offset: 0 }),
        (r#"{"/":"/ipfs/QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn"}"#, JsonError::Link { offset: 0 }),
        (r#"{"/":{"bytes":"*"}}"#, JsonError::Bytes { offset: 0 }),
        (r#"{"/":{"bytes":"A"}}"#, JsonError::Bytes { offset: 0 }),
        (r#"{"/":{"bytes":"AQ="}}"#, JsonError::Bytes { offset: 0 }),
    ] {
        assert_eq!(json_links(text), Err(error.into()), "{text}");
    }
    let long = format!(r#"{{"/":"b{}"}}"#, "a".repeat(1 << 20));
    assert_eq!(json_links(long), Err(JsonError::Link { offset: 0 }.into()));
}

#[test]
fn depth_and_links_are_bounded_whatever_a_node_claims() {
    let nested = |depth| [vec![0x81; depth], vec![0]].concat();
    assert_eq!(cbor_links(&nested(MAX_DEPTH)), Ok(vec![]));
    assert_eq!(cbor_links(&nested(MAX_DEPTH + 1)), Err(CborError::TooDeep.into()));
    assert_eq!(cbor_links(&vec![0x81; MAX_BLOCK_BYTES]), Err(CborError::TooDeep.into()));
    assert_eq!(cbor_links(&b"\xa1\x61a".repeat(MAX_BLOCK_BYTES / 3)), Err(CborError::TooDeep.into()));
    let nested = |depth| ["[".repeat(depth), "]".repeat(depth)].concat();
    assert_eq!(json_links(nested(MAX_DEPTH)), Ok(vec![]));
    assert_eq!(json_links(nested(MAX_DEPTH + 1)), Err(JsonError::TooDeep.into()));
    assert_eq!(json_links(r#"{"/":"#.repeat(MAX_BLOCK_BYTES / 5)), Err(JsonError::TooDeep.into()));

    let link = [0xd8, 42, 0x45, 0, 1, 0x55, 0, 0];
    let list = |count: usize| [&[0x9a][..], &(count as u32).to_be_bytes(), &link.repeat(count)].concat();
    assert_eq!(cbor_links(&list(MAX_LINKS)).unwrap().len(), MAX_LINKS);
    assert_eq!(cbor_links(&list(MAX_LINKS + 1)), Err(CborError::TooManyLinks.into()));
    let list = |count: usize| format!("[{}]", vec![r#"{"/":"bafkqaaa"}"#; count].join(","));
    assert_eq!(json_links(list(MAX_LINKS)).unwrap().len(), MAX_LINKS);
    assert_eq!(json_links(list(MAX_LINKS + 1)), Err(JsonError::TooManyLinks.into()));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = cbor_links(&bytes);
        let _ = json_links(&bytes);
    }

    #[test]
    fn json_that_another_reader_takes_is_taken(text in r#"(\{("[a-z/\\u0-9]{0,4}":[0-9]{1,3},?){0,3}\}|[\[\]{}",:0-9a/ ]{0,30})"#) {
        if serde_json::from_str::<serde_json::Value>(&text).is_ok() {
            match json_links(&text) {
                Ok(_) | Err(LinksError::Json(JsonError::Link { .. } | JsonError::Bytes { .. })) => {}
                refused => prop_assert!(false, "{text}: {refused:?}"),
            }
        }
    }

    #[test]
    fn all_links_of_a_node_are_found_in_their_order_and_none_in_a_part_of_it(count in 0usize..40, cut in any::<prop::sample::Index>()) {
        let cids: Vec<_> = (0..count).map(|number| raw(&number.to_string()).cid).collect();
        for node in [cbor_list(&cids), json(&cids)] {
            prop_assert_eq!(ipld::links(&node.cid, &node.data), Ok(cids.clone()));
            let part = &node.data[..cut.index(node.data.len())];
            prop_assert!(ipld::links(&node.cid, part).is_err());
        }
    }
}

#[test]
fn codecs_without_links_are_leaves() {
    for codec in [RAW, 0x51, 0x72, 0x0200] {
        let cid = Cid::new_v1(codec, *raw("").cid.hash());
        assert_eq!(ipld::links(&cid, b"{\"/\":\"bafkqaaa\"}"), Ok(vec![]));
        assert!(!ipld::has_links(codec));
    }
}

fn store() -> BlockStore {
    BlockStore::new(Arc::new(MemoryStore::new(64 << 20)), Arc::new(ThreadPool::new(2)))
}

#[test]
fn a_walk_follows_the_links_of_every_codec_and_fetches_no_leaf() {
    let blocks = store();
    let (root, all) = mixed();
    let nodes: Vec<_> = all.iter().filter(|block| block.cid.codec() != RAW).cloned().collect();
    block_on(async {
        blocks.put_many(nodes).await.unwrap();
        let walk = unixfs::walk(&blocks, root, &WalkOptions::default());
        let visited: Vec<_> = walk.map(|visited| visited.unwrap()).collect().await;
        let named: std::collections::BTreeSet<_> = visited.iter().map(|visited| visited.cid).collect();
        assert_eq!(named, all.iter().map(|block| block.cid).collect());
        assert!(visited.iter().all(|visited| visited.data.is_none() == (visited.cid.codec() == RAW)));
    });
}

#[test]
fn a_malformed_node_is_an_error_of_the_walk_that_says_which() {
    let blocks = store();
    let bad = Block::new(DAG_CBOR, &[0x81][..]).unwrap();
    let root = json(&[bad.cid]);
    block_on(async {
        blocks.put_many(vec![bad.clone(), root.clone()]).await.unwrap();
        let walk = unixfs::walk(&blocks, root.cid, &WalkOptions::default());
        let visited: Vec<_> = walk.collect().await;
        assert!(visited[0].is_ok());
        let reason = LinksError::Cbor(CborError::Truncated);
        assert_eq!(visited[1], Err(ReadError::Links { cid: bad.cid, reason }));
    });
}

#[test]
fn what_is_under_a_pinned_node_stays_and_all_of_it_must_be_there() {
    let blocks = store();
    let pins = Pins::open(blocks.clone(), &MemoryDisk::new(), "pins.redb").unwrap();
    let (root, all) = mixed();
    block_on(async {
        blocks.put_many(all[1..].to_vec()).await.unwrap();
        let missing = all[0].cid;
        assert!(
            matches!(pins.pin("a", root).await, Err(PinError::Incomplete { missing: found, .. }) if found == missing)
        );
        blocks.put(all[0].clone()).await.unwrap();
        pins.pin("a", root).await.unwrap();
        blocks.put(raw("garbage")).await.unwrap();
        let collected = pins.gc().await.unwrap();
        assert_eq!((collected.blocks, collected.kept), (1, all.len() as u64));
        assert!(all.iter().all(|block| blocks.has(&block.cid)));
        pins.unpin("a").await.unwrap();
        assert_eq!(pins.gc().await.unwrap().blocks, all.len() as u64);
    });
}

#[test]
fn a_fetch_brings_all_that_is_under_a_node_and_a_pin_announces_and_keeps_it() {
    let sim = Sim::new(7);
    sim.clone().run(async move {
        let (alice, bob) = (Agent::start(&sim, 1).await, Agent::start(&sim, 2).await);
        let (root, all) = mixed();
        alice.blocks.store().put_many(all.clone()).await.unwrap();
        alice.blocks.pin(root, &FetchOptions::default()).await.unwrap();
        // By the DHT alone: nobody told Bob who has it.
        let progress = bob.blocks.fetch(root, &FetchOptions::until(bob.within(60))).await.unwrap();
        assert_eq!(progress.blocks, all.len() as u64);
        assert!(all.iter().all(|block| bob.blocks.has(&block.cid)));
        bob.blocks.pin(root, &FetchOptions::default()).await.unwrap();
        bob.blocks.gc().await.unwrap();
        assert!(all.iter().all(|block| bob.blocks.has(&block.cid)));
        assert!(!bob.blocks.is_sealed(root).await.unwrap(), "a node is no sealed content, and no error either");
    });
}

#[test]
fn a_node_that_was_seen_under_another_codec_is_followed_all_the_same() {
    let sim = Sim::new(8);
    sim.clone().run(async move {
        let (alice, bob) = (Agent::start(&sim, 1).await, Agent::start(&sim, 2).await);
        // The same bytes, once as a leaf and once as a node.
        let (leaf, node) = (raw("below"), cbor_list(&[raw("below").cid]));
        let root = json(&[Cid::new_v1(RAW, *node.cid.hash()), node.cid]);
        alice.blocks.store().put_many(vec![leaf.clone(), node, root.clone()]).await.unwrap();
        alice.connect(&bob).await;
        bob.blocks.fetch(root.cid, &FetchOptions::until(bob.within(60))).await.unwrap();
        assert!(bob.blocks.has(&leaf.cid));
    });
}
