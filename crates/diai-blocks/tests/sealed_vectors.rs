//! `docs/sealed-vectors.json`: what is in it is made and opened by this crate, and refused where it says so.
//!
//! `DIAI_WRITE_VECTORS=1 cargo test -p diai-blocks --test sealed_vectors` writes the file anew, after a change of the format.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;
mod sealed_format;

use bytes::Bytes;
use diai_blocks::{
    Block, Cid, DAG_PB, RAW,
    dag_pb::Link,
    sealed::{Group, Keying, Keys, OpenError, Salt, SealOptions, padded_bytes},
    unixfs::{self, Profile, WalkOptions},
};
use diai_core::{Entropy, memory::Sim};
use diai_identity::{EncryptionKey, Identity};
use futures::StreamExt;
use hkdf::Hkdf;
use sealed_format::{
    Counting, Desk, convergent, grant, grants, head, identity, manifest, padme, plain, seal_chunk, seal_chunks,
};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

const VECTORS: &str = include_str!("../../../docs/sealed-vectors.json");
/// Longer blocks stand in the file by their CID only.
const MAX_BLOCK_BYTES: usize = 4096;
const KEY: [u8; 32] = [42; 32];

fn run<T: 'static>(test: impl AsyncFnOnce(Sim) -> T + 'static) -> T {
    let sim = Sim::new(1);
    sim.clone().run(async move { test(sim).await })
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn reader(number: u8) -> Value {
    json!({
        "agent": hex(identity(number).agent().as_bytes()),
        "encryption_secret": hex([number + 2; 32]),
        "encryption_key": hex(identity(number).encryption_key().as_bytes()),
    })
}

/// Bytes that are a function of their place.
fn counted(bytes: usize) -> Bytes {
    (0..bytes).map(|at| (at % 251) as u8).collect()
}

async fn blocks(desk: &Desk, root: Cid) -> Value {
    let mut blocks = Map::new();
    let options = WalkOptions::default();
    let cids: Vec<Cid> = unixfs::walk(&desk.store, root, &options).map(|visited| visited.unwrap().cid).collect().await;
    for cid in cids {
        let data = desk.store.get(&cid).await.unwrap().unwrap();
        let data = if data.len() <= MAX_BLOCK_BYTES { json!(hex(data)) } else { json!({ "bytes": data.len() }) };
        blocks.insert(cid.to_string(), data);
    }
    Value::Object(blocks)
}

async fn files(desk: &Desk, keys: impl Into<Keys>, root: Cid) -> Value {
    let files = desk.files(keys, root).await.unwrap();
    let data = |data: &Bytes| {
        if data.len() <= MAX_BLOCK_BYTES {
            json!(hex(data))
        } else {
            assert_eq!(*data, counted(data.len()));
            json!({ "bytes": data.len(), "each": "its place modulo 251" })
        }
    };
    files.iter().map(|(path, content)| json!({ "path": path, "content": data(content) })).collect()
}

fn chunk_vectors() -> Value {
    let cases = [(0u64, 1u64), (0, 2), (1, 2), (1 << 40, 1 << 41)];
    let chunk = |(index, count): (u64, u64)| {
        json!({
            "key": hex(KEY), "index": index, "count": count,
            "plaintext": hex(b"a ring of light"),
            "sealed": hex(seal_chunk(&KEY, index, count, b"a ring of light")),
        })
    };
    cases.into_iter().map(chunk).collect()
}

fn padding_vectors() -> Value {
    let lengths = [0u64, 1024, 1025, 1088, 1089, 10_000, 1_000_000, 1_048_577, 123_456_789, (1 << 40) + 1];
    lengths.into_iter().map(|length| json!({ "length": length, "padded": padded_bytes(length) })).collect()
}

async fn content_vectors(sim: &Sim) -> Value {
    let (desk, bob) = (Desk::new(sim, 1, 100), identity(11));
    let salt = || Salt::from_bytes([7; 32]);
    let mut contents = Vec::new();
    let mut add = |name: &str, readers: Value, salt: Value, root: Cid, files: Value, blocks: Value| {
        contents.push(json!({
            "name": name, "readers": readers, "salt": salt, "root": root.to_string(), "files": files, "blocks": blocks,
        }));
    };
    let small = [("idea.txt", Bytes::from_static(b"a ring of light")), ("notes/empty", Bytes::new())];

    let random = desk.seal(&small, &SealOptions::default()).await.root;
    let opened = files(&desk, &desk.identity, random).await;
    add("random key, one reader", json!([reader(1)]), Value::Null, random, opened, blocks(&desk, random).await);

    let three = SealOptions {
        recipients: vec![bob.certificate(), identity(21).certificate()],
        keying: Keying::Convergent(salt()),
        ..SealOptions::default()
    };
    let root = desk.seal(&small, &three).await.root;
    let opened = files(&desk, &bob, root).await;
    let everybody = json!([reader(1), reader(11), reader(21)]);
    add(
        "convergent, three readers and a fill-up",
        everybody,
        json!(hex([7; 32])),
        root,
        opened,
        blocks(&desk, root).await,
    );

    let big = [("big", counted(2_500_000))];
    let root = desk.seal(&big, &convergent(salt())).await.root;
    let opened = files(&desk, &desk.identity, root).await;
    add("convergent, three chunks", json!([reader(1)]), json!(hex([7; 32])), root, opened, blocks(&desk, root).await);

    let changed = [("idea.txt", small[0].1.clone()), ("more.txt", Bytes::from_static(b"solitaire"))];
    let root = desk.reseal(random, Some(&changed), &SealOptions::default()).await.root;
    let opened = files(&desk, &desk.identity, root).await;
    add("a version that refers to the first", json!([reader(1)]), Value::Null, root, opened, blocks(&desk, root).await);
    Value::Array(contents)
}

/// What a group of two epochs looks like, and content for its second.
async fn group_vector(sim: &Sim) -> Value {
    let (desk, bob) = (Desk::new(sim, 31, 150), identity(11));
    let mut group = Group::create(desk.identity.agent(), &Counting(60.into()));
    group.advance(&Counting(62.into()));
    let options = SealOptions { groups: vec![group.clone()], ..SealOptions::default() };
    let root = desk.seal(&[("", Bytes::from_static(b"for all of us"))], &options).await.root;
    let sealed = group.seal_for(&desk.world, &desk.store, &desk.identity, &[bob.certificate()]).await.unwrap().root;
    json!({
        "owner": reader(31), "member": reader(11),
        "nonce": hex([60; 32]), "id": hex(group.id().as_bytes()), "epoch": 1, "keys": [hex([61; 32]), hex([62; 32])],
        "root": sealed.to_string(), "blocks": blocks(&desk, sealed).await,
        "content": {
            "root": root.to_string(),
            "files": files(&desk, Keys::new(bob, vec![group]), root).await,
            "blocks": blocks(&desk, root).await,
        },
    })
}

/// Roots that refer to one content twice.
async fn refused_older(desk: &Desk, content: Cid) -> [(&'static str, &'static str, Cid); 3] {
    let twice = [(content, KEY), (content, [43; 32])];
    let of_one_key = [(content, KEY), (desk.raw("another").await, KEY)];
    [
        ("an older content twice", "tampered", desk.root_of_older(&twice, &[44; 32]).await),
        ("two older contents of one key", "tampered", desk.root_of_older(&of_one_key, &[44; 32]).await),
        ("an older content of the own key", "tampered", desk.root_of_older(&twice[..1], &KEY).await),
    ]
}

async fn refused_vectors(sim: &Sim) -> Value {
    let desk = Desk::new(sim, 1, 200);
    let good = plain(&[("a", b"content")]);
    let padded = |mut plain: Vec<u8>| {
        plain.resize(padme(plain.len()), 0);
        plain
    };
    let of_manifest = |manifest: &[u8]| padded([head(manifest), b"content".to_vec()].concat());
    let chunk = seal_chunks(&KEY, &good);
    let mut changed = chunk[0].to_vec();
    changed[0] ^= 1;
    let mut commitment = chunk[0].to_vec();
    *commitment.last_mut().unwrap() ^= 1;
    let mut too_long = head(&[]);
    too_long[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    let content = desk.child(desk.root_of(&chunk, &KEY).await, "content").await;
    let with_grants = async |data: Vec<u8>| {
        let grants = desk.raw(data).await;
        desk.folder(&[("content", content), ("grants", grants)]).await
    };
    let own = grant(&desk.identity, &content, &KEY);
    let cases = [
        ("a changed ciphertext", "tampered", desk.root_of(&[changed.into()], &KEY).await),
        ("a changed commitment", "tampered", desk.root_of(&[commitment.into()], &KEY).await),
        ("a chunk cut short", "tampered", desk.root_of(&[chunk[0].slice(..500)], &KEY).await),
        ("the first of two chunks alone", "tampered", desk.root_of(&[seal_chunk(&KEY, 0, 2, &good)], &KEY).await),
        (
            "the second of two chunks as the first",
            "tampered",
            desk.root_of(&[seal_chunk(&KEY, 1, 2, &good)], &KEY).await,
        ),
        ("a grant of another key", "tampered", desk.root_of(&chunk, &[43; 32]).await),
        ("a longer padding", "tampered", desk.root_of_plain(&[&good[..], &[0; 64]].concat(), &KEY).await),
        ("a manifest that is too long", "tampered", desk.root_of_plain(&padded(too_long), &KEY).await),
        (
            "a path that leads out",
            "tampered",
            desk.root_of_plain(&of_manifest(&manifest(&[("../a", 0, 7)])), &KEY).await,
        ),
        ("a gap between contents", "tampered", desk.root_of_plain(&of_manifest(&manifest(&[("a", 1, 6)])), &KEY).await),
        (
            "bytes that serve twice",
            "tampered",
            desk.root_of_plain(&of_manifest(&manifest(&[("a", 0, 7), ("b", 0, 7)])), &KEY).await,
        ),
        (
            "a grant for somebody else",
            "not for you",
            with_grants(grants(&[grant(&identity(11), &content, &KEY)])).await,
        ),
        (
            "a grant of other content",
            "not for you",
            with_grants(grants(&[grant(&desk.identity, &Cid::default(), &KEY)])).await,
        ),
        ("a grant cut short", "not sealed", with_grants(grants(&[own[..79].to_vec()])).await),
        ("another version", "version", with_grants([&b"diai/sealed/3\n"[..], &own].concat()).await),
        ("no grants", "not sealed", desk.folder(&[("content", content)]).await),
    ];
    let mut refused = Vec::new();
    for (name, error, root) in cases.into_iter().chain(refused_older(&desk, content).await) {
        refused.push(json!({
            "name": name, "error": error, "reader": reader(1), "root": root.to_string(), "blocks": blocks(&desk, root).await,
        }));
    }
    Value::Array(refused)
}

fn made() -> Value {
    run(async |sim| {
        json!({
            "format": "diai/sealed/2, see sealed.md",
            "chunks": chunk_vectors(),
            "padding": padding_vectors(),
            "contents": content_vectors(&sim).await,
            "group": group_vector(&sim).await,
            "refused": refused_vectors(&sim).await,
        })
    })
}

#[test]
fn the_vectors_are_what_is_made() {
    let made = format!("{:#}\n", made());
    if std::env::var_os("DIAI_WRITE_VECTORS").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/sealed-vectors.json");
        #[allow(clippy::disallowed_methods, reason = "the file is written by hand, when the format changes")]
        std::fs::write(path, &made).unwrap();
    } else if made != VECTORS {
        // The first difference says more than both texts.
        let differ = made.lines().zip(VECTORS.lines()).find(|(made, there)| made != there);
        panic!("docs/sealed-vectors.json is not what is made: {differ:?}");
    }
}

/// Puts the blocks of a vector; true if all of them are there.
async fn put(desk: &Desk, blocks: &Value) -> bool {
    let mut all = true;
    for (cid, data) in blocks.as_object().unwrap() {
        let cid: Cid = cid.parse().unwrap();
        let Some(data) = data.as_str() else {
            all = false;
            continue;
        };
        assert!([RAW, DAG_PB].contains(&cid.codec()));
        let block = Block::new(cid.codec(), unhex(data)).unwrap();
        assert_eq!(block.cid, cid);
        desk.store.put(block).await.unwrap();
    }
    all
}

fn who(reader: &Value) -> Identity {
    let known = [1, 11, 21, 31].map(identity);
    let agent = reader["agent"].as_str().unwrap();
    known.into_iter().find(|identity| hex(identity.agent().as_bytes()) == agent).unwrap()
}

fn root(vector: &Value) -> Cid {
    vector["root"].as_str().unwrap().parse().unwrap()
}

#[test]
fn a_writer_that_knows_the_specification_alone_makes_the_convergent_root() {
    run(async |sim| {
        let vectors: Value = serde_json::from_str(VECTORS).unwrap();
        let vector = &vectors["contents"][1];
        let files: Vec<_> = vector["files"]
            .as_array()
            .unwrap()
            .iter()
            .map(|file| (file["path"].as_str().unwrap(), unhex(file["content"].as_str().unwrap())))
            .collect();
        let salt = unhex(vector["salt"].as_str().unwrap());
        let desk = Desk::new(&sim, 1, 0);
        let derived = |info: &[&[u8]]| -> Vec<u8> {
            let mut derived = vec![0; if info[0] == b"fill-up" { 64 } else { 32 }];
            let salted = Hkdf::<Sha256>::new(Some(b"diai/sealed-convergent/2"), &salt);
            salted.expand(&info.concat(), &mut derived).unwrap();
            derived
        };

        let files: Vec<_> = files.iter().map(|(path, data)| (*path, &data[..])).collect();
        let plain = plain(&files);
        let pieces = plain.chunks((1 << 20) - 48).map(Sha256::digest);
        let begin =
            Sha256::new().chain_update(b"diai/sealed-plaintext/2").chain_update((plain.len() as u64).to_le_bytes());
        let hash = pieces.fold(begin, |all, piece| all.chain_update(piece)).finalize();
        let key: [u8; 32] = derived(&[b"key", &hash]).try_into().unwrap();
        let content = desk.raw(seal_chunks(&key, &plain).concat()).await.to_bytes();

        let mut sealed = Vec::new();
        for reader in vector["readers"].as_array().unwrap() {
            let [agent, public] = ["agent", "encryption_key"].map(|name| unhex(reader[name].as_str().unwrap()));
            let ephemeral = Once(derived(&[b"grant", &key, &content, &agent, &public]));
            let info = [b"diai/sealed-grant/2", &agent[..], &content].concat();
            sealed.push(public_key(&public).seal(&ephemeral, &info, &key));
        }
        let fill_up = derived(&[b"fill-up", &key, &content, &[0; 8]]);
        sealed.push(public_key(&fill_up[..32]).seal(&Once(fill_up[32..].to_vec()), b"", &[0; 32]));
        sealed.sort();
        let grants = desk.raw(grants(&sealed)).await;
        let link = |(name, cid): (&str, Cid), tsize| Link { cid, name: name.into(), tsize };
        let content = link(("content", Cid::try_from(&content[..]).unwrap()), plain.len() as u64 + 48);
        let links = vec![content, link(("grants", grants), 14 + 4 * 80)];
        assert_eq!(unixfs::build_folder(links, &Profile::UNIXFS_V1_2025).unwrap().root, root(vector));
    });
}

/// The bytes that an ephemeral key is made of.
struct Once(Vec<u8>);

impl Entropy for Once {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.0);
    }
}

fn public_key(bytes: &[u8]) -> EncryptionKey {
    EncryptionKey::from_bytes(bytes.try_into().unwrap()).unwrap()
}

#[test]
fn each_reader_of_a_vector_opens_it() {
    run(async |sim| {
        let vectors: Value = serde_json::from_str(VECTORS).unwrap();
        for vector in vectors["contents"].as_array().unwrap() {
            let desk = Desk::new(&sim, 1, 0);
            if put(&desk, &vector["blocks"]).await {
                for reader in vector["readers"].as_array().unwrap() {
                    assert_eq!(files(&desk, &who(reader), root(vector)).await, vector["files"], "{}", vector["name"]);
                }
            }
        }
        let group = &vectors["group"];
        let desk = Desk::new(&sim, 1, 0);
        assert!(put(&desk, &group["blocks"]).await && put(&desk, &group["content"]["blocks"]).await);
        let member = who(&group["member"]);
        let opened = Group::open(&desk.store, &member, root(group)).await.unwrap();
        assert_eq!(hex(opened.id().as_bytes()), group["id"]);
        let keys = Keys::new(member, vec![opened]);
        assert_eq!(files(&desk, keys, root(&group["content"])).await, group["content"]["files"]);
    });
}

#[test]
fn what_a_vector_says_is_refused_is_refused_for_its_reason() {
    run(async |sim| {
        let vectors: Value = serde_json::from_str(VECTORS).unwrap();
        let refused = vectors["refused"].as_array().unwrap();
        assert!(refused.len() >= 19);
        for vector in refused {
            let desk = Desk::new(&sim, 1, 0);
            assert!(put(&desk, &vector["blocks"]).await);
            let reason = match desk.files(&who(&vector["reader"]), root(vector)).await.unwrap_err() {
                OpenError::Tampered { .. } => "tampered",
                OpenError::NotForYou { .. } => "not for you",
                OpenError::NotSealed { .. } => "not sealed",
                OpenError::Version { .. } => "version",
                other => panic!("{}: {other}", vector["name"]),
            };
            assert_eq!(vector["error"], reason, "{}", vector["name"]);
        }
    });
}

#[test]
fn chunks_of_the_vectors_follow_from_their_keys() {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    for chunk in vectors["chunks"].as_array().unwrap() {
        let key: [u8; 32] = unhex(chunk["key"].as_str().unwrap()).try_into().unwrap();
        let (index, count) = (chunk["index"].as_u64().unwrap(), chunk["count"].as_u64().unwrap());
        let sealed = seal_chunk(&key, index, count, &unhex(chunk["plaintext"].as_str().unwrap()));
        assert_eq!(hex(sealed), chunk["sealed"]);
    }
}
