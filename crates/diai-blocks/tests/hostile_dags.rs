//! DAGs that are made to harm, one test for each family of faults that other implementations of IPFS had: dag-pb, UnixFS,
//! shards, dag-cbor, CAR, names. What is named beside a test is where others were found out.

#![allow(clippy::unwrap_used, clippy::result_large_err, reason = "a test that cannot go on may panic")]

mod car_file;

use std::sync::Arc;

use bytes::Bytes;
use car_file::{file, section, store, varint};
use diai_blocks::{
    Block, BlockStore, Cid, DAG_CBOR, DAG_PB, MAX_BLOCK_BYTES, Multihash, Pins, RAW,
    car::{self, ExportOptions as CarOptions},
    dag_pb::{Link, Node},
    ipld,
    unixfs::{
        self, Change, ExportError, ExportOptions, FolderEntry, Kind, Profile, ReadError, UnixFs, UpdateError,
        WalkOptions,
    },
};
use diai_core::{
    Disk,
    memory::MemoryDisk,
    os::{FsDisk, ThreadPool},
};
use futures::{StreamExt, executor::block_on};

fn put(blocks: &BlockStore, node: Node) -> Cid {
    let block = Block::new(DAG_PB, node.encode()).unwrap();
    block_on(blocks.put(block.clone())).unwrap();
    block.cid
}

fn raw(blocks: &BlockStore, content: &'static [u8]) -> Cid {
    let block = Block::new(RAW, content).unwrap();
    block_on(blocks.put(block.clone())).unwrap();
    block.cid
}

fn link(name: &str, cid: Cid, tsize: u64) -> Link {
    Link { cid, name: name.into(), tsize }
}

fn folder(blocks: &BlockStore, links: Vec<Link>) -> Cid {
    put(blocks, Node { links, data: Some(UnixFs::new(Kind::Folder).encode()) })
}

/// A shard of 256 places.
fn shard(blocks: &BlockStore, fanout: u64, bits: &[u8], links: Vec<Link>) -> Cid {
    let data = UnixFs {
        data: Some(Bytes::copy_from_slice(bits)),
        hash_type: Some(0x22),
        fanout: Some(fanout),
        ..UnixFs::new(Kind::Shard)
    };
    put(blocks, Node { links, data: Some(data.encode()) })
}

fn export(blocks: &BlockStore, root: Cid, disk: Arc<dyn Disk>) -> Result<(), ExportError> {
    let pool: Arc<dyn diai_core::Offload> = Arc::new(ThreadPool::new(1));
    let options = ExportOptions { overwrite: true, ..ExportOptions::default() };
    block_on(unixfs::export(blocks, root, disk, "out", &pool, &options)).map(drop)
}

/// CVE-2022-2584, GHSA-mcq2-w56r-5w2w: panics of go-codec-dagpb and go-merkledag.
#[test]
fn a_dag_pb_node_that_is_cut_or_changed_anywhere_is_read_or_refused() {
    let blocks = store();
    let leaf = raw(&blocks, b"x");
    let data = UnixFs { filesize: Some(7), blocksizes: vec![3, 4], fanout: Some(256), ..UnixFs::new(Kind::Shard) };
    let node = Node { links: vec![link("a", leaf, 1), link("", leaf, u64::MAX)], data: Some(data.encode()) };
    let bytes = node.encode();
    for at in 0..bytes.len() {
        assert_ne!(Node::decode(&bytes[..at]).ok().as_ref(), Some(&node), "cut at {at}");
        for to in [0, 1, 0x7f, 0x80, 0xff, bytes[at] ^ 1, bytes[at] ^ 0x08, bytes[at] ^ 0x80] {
            let mut changed = bytes.to_vec();
            changed[at] = to;
            let Ok(read) = Node::decode(&changed) else { continue };
            // What is read can be written, read again, and looked at from every side.
            assert_eq!(Node::decode(&read.encode()).as_ref(), Ok(&read));
            let cid = put(&blocks, read);
            let _ = block_on(unixfs::stat(&blocks, cid));
            let _ = block_on(unixfs::entries(&blocks, cid, 10));
            let _ = block_on(unixfs::read_all(&blocks, cid, 1 << 10));
        }
    }
}

/// GO-2022-1155, CVE-2022-23495: go-merkledag panics when a node with strange links is encoded.
#[test]
fn links_of_every_form_are_encoded_and_read_again() {
    let hash = |code, digest: &[u8]| Cid::new_v1(RAW, Multihash::wrap(code, digest).unwrap());
    let cids =
        [hash(0, b""), hash(0, &[1; 64]), hash(0xd5, &[7; 16]), hash(0x12, &[7; 4]), hash(0xffff_ffff, &[7; 64])];
    let links: Vec<_> = cids.iter().map(|cid| link("\u{0}../", *cid, u64::MAX)).collect();
    let node = Node { links, data: None };
    assert_eq!(Node::decode(&node.encode()), Ok(node.clone()));
    let blocks = store();
    let root = put(&blocks, node);
    assert_eq!(ipld::links(&root, &block_on(blocks.get(&root)).unwrap().unwrap()).unwrap(), cids);
}

/// CVE-2023-23625, CVE-2023-23631: go-unixfs and go-unixfsnode panic or take all memory at a shard's width and bitfield.
#[test]
fn shards_of_a_senseless_width_or_bitfield_are_refused_at_every_entrance() {
    let blocks = store();
    let leaf = raw(&blocks, b"x");
    let one = |name: &str| vec![link(name, leaf, 1)];
    for (what, root) in [
        ("no width", shard(&blocks, 0, &[1], one("00a"))),
        ("width 1", shard(&blocks, 1, &[1], one("0a"))),
        ("no power of two", shard(&blocks, 255, &[1], one("00a"))),
        ("width of 2^63", shard(&blocks, 1 << 63, &[1], one("00a"))),
        ("width of all ones", shard(&blocks, u64::MAX, &[1], one("00a"))),
        ("a bitfield over the width", shard(&blocks, 8, &[1; 32], one("0a"))),
        ("a bitfield of two mebibytes", shard(&blocks, 256, &vec![0xff; (2 << 20) - 100], one("00a"))),
        ("more bits than links", shard(&blocks, 256, &[0xff; 32], one("00a"))),
        ("more links than bits", shard(&blocks, 256, &[], one("00a"))),
        ("names without a place", shard(&blocks, 256, &[1], one(""))),
        ("names that are no numbers", shard(&blocks, 256, &[1], one("zza"))),
        ("a name cut within a letter", shard(&blocks, 256, &[1], one("0é"))),
    ] {
        let refused = |error: &ReadError| matches!(error, ReadError::Malformed { .. });
        assert!(refused(&block_on(unixfs::entries(&blocks, root, 10)).unwrap_err()), "{what}: listed");
        assert!(refused(&block_on(unixfs::lookup(&blocks, root, "a")).unwrap_err()), "{what}: looked up");
        assert!(refused(&block_on(unixfs::resolve(&blocks, root, "a")).unwrap_err()), "{what}: resolved");
        let changes = vec![Change::Remove("a".into())];
        let update = block_on(unixfs::update_folder(&blocks, root, changes, &Profile::default()));
        assert!(matches!(update, Err(UpdateError::Read(error)) if refused(&error)), "{what}: updated");
        let disk = MemoryDisk::new();
        let exported = export(&blocks, root, Arc::new(disk.clone()));
        assert!(matches!(exported, Err(ExportError::Read(error)) if refused(&error)), "{what}: exported");
        assert!(disk.list("out").map_or(true, |names| names.is_empty()), "{what}: written");
    }
}

/// CVE-2020-26279, go-ipfs-files#56: a fetched folder writes outside its target, here by names within shards, and through
/// links that are in the target already, on a real disk.
#[test]
fn names_in_shards_and_links_on_the_disk_lead_no_writer_outside() {
    let blocks = store();
    let evil = raw(&blocks, b"evil");
    for name in ["..", "../x", "/etc/x", "a/../../x", "a\\..\\x", "nul\0byte", "", "."] {
        // The place of a name follows from its hash: all that there are are tried.
        let placed = (0..256usize).find_map(|place| {
            let mut bits = [0; 32];
            bits[31 - place / 8] = 1 << (place % 8);
            let root = shard(&blocks, 256, &bits, vec![link(&format!("{place:02X}{name}"), evil, 1)]);
            block_on(unixfs::entries(&blocks, root, 10)).is_ok().then_some(root)
        });
        // An empty name is that of a shard below.
        assert_eq!(placed.is_none(), name.is_empty(), "{name:?}");
        let Some(root) = placed else { continue };
        let disk = MemoryDisk::new();
        assert!(
            matches!(export(&blocks, root, Arc::new(disk.clone())), Err(ExportError::UnsafeName { .. })),
            "{name:?}"
        );
        assert!(disk.list("out").map_or(true, |names| names.is_empty()) && disk.list("").unwrap().len() <= 1);
    }
    #[cfg(unix)]
    {
        let place = tempfile::tempdir().unwrap();
        let (inside, outside) = (place.path().join("in"), place.path().join("outside"));
        for folder in [&inside, &inside.join("out"), &outside] {
            std::fs::create_dir(folder).unwrap();
        }
        std::os::unix::fs::symlink(&outside, inside.join("out/a")).unwrap();
        std::os::unix::fs::symlink(outside.join("b"), inside.join("out/b")).unwrap();
        let inner = folder(&blocks, vec![link("x", evil, 1)]);
        for root in [folder(&blocks, vec![link("a", inner, 1)]), folder(&blocks, vec![link("b", evil, 1)])] {
            let _ = export(&blocks, root, Arc::new(FsDisk::open(&inside).unwrap()));
        }
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "something was written through a link");
    }
}

/// CVE-2026-35480, CVE-2026-42328: go-ipld-prime makes room for what dag-cbor claims, and recurses.
#[test]
fn dag_cbor_that_claims_much_or_is_deep_takes_neither_memory_nor_stack() {
    let cid = Cid::new_v1(DAG_CBOR, *Block::new(RAW, &b""[..]).unwrap().cid.hash());
    for head in [0x9b, 0xbb, 0x5b, 0x7b] {
        let claims = [&[head][..], &u64::MAX.to_be_bytes(), &[0; 9]].concat();
        assert!(ipld::links(&cid, &claims).is_err(), "{head:x}");
        let claims = [&[head][..], &(1u64 << 40).to_be_bytes(), &[0; 9]].concat();
        assert!(ipld::links(&cid, &claims).is_err(), "{head:x}");
    }
    for repeated in [&[0x81][..], &[0xa1, 0x61, b'a'], &[0xd8, 42], &[0xc0]] {
        assert!(ipld::links(&cid, &repeated.repeat(MAX_BLOCK_BYTES / repeated.len())).is_err(), "{repeated:x?}");
    }
}

/// GHSA-9x4h-8wgm-8xfg: go-car makes room for what a file claims, and believes its index.
#[test]
fn a_car_that_claims_much_takes_no_memory_and_its_index_is_not_believed() {
    for length in [1u64 << 31, 1 << 40, 1 << 62, u64::MAX] {
        let claims = [file(&[]), varint(length), vec![0; 64]].concat();
        assert!(car_file::import(&store(), &claims).is_err(), "{length}");
        assert!(car_file::import(&store(), &[varint(length), vec![0; 64]].concat()).is_err(), "{length}");
    }
    // An index that names another block at the place of the first.
    let (a, b) = (car_file::raw("a"), car_file::raw("b"));
    let inner = file(&[section(&a.cid, &a.data)]);
    let index = [&[0x81, 0x08][..], &b.cid.hash().to_bytes(), &59u64.to_le_bytes()].concat();
    let pragma = b"\x0a\xa1\x67version\x02";
    let bounds = [51, inner.len() as u64, 51 + inner.len() as u64].map(u64::to_le_bytes).concat();
    let whole = [&pragma[..], &[0; 16], &bounds, &inner, &index].concat();
    let blocks = store();
    assert_eq!(car_file::import(&blocks, &whole).unwrap().done().blocks, 1);
    assert!(blocks.has(&a.cid) && !blocks.has(&b.cid));
}

/// iroh-car takes blocks as they are named.
#[test]
fn a_car_brings_no_block_under_a_name_that_it_does_not_hash_to() {
    let (a, b) = (car_file::raw("a"), car_file::raw("b"));
    let blocks = store();
    assert!(car_file::import(&blocks, &file(&[section(&a.cid, &b.data)])).is_err());
    assert_eq!((blocks.has(&a.cid), blocks.has(&b.cid)), (false, false));
}

/// Boxo limits what its gateway answers of such: 2^60 leaves in 61 blocks.
#[test]
fn a_bomb_is_walked_pinned_and_exported_as_the_few_blocks_it_has() {
    let blocks = store();
    let mut root = raw(&blocks, b"boom");
    for _ in 0..60 {
        root = folder(&blocks, vec![link("a", root, 1), link("b", root, 1)]);
    }
    assert_eq!(block_on(unixfs::walk(&blocks, root, &WalkOptions::default()).count()), 61);
    let pins = Pins::open(blocks.clone(), &MemoryDisk::new(), "pins.redb").unwrap();
    block_on(pins.pin("bomb", root)).unwrap();
    assert_eq!(block_on(pins.gc()).unwrap().blocks, 0);
    let mut bytes = Vec::new();
    block_on(car::export(&blocks, &[root], &mut bytes, &CarOptions::default())).unwrap();
    assert!(bytes.len() < 61 * 200, "{} bytes", bytes.len());
}

/// Sizes in links and nodes are their maker's word.
#[test]
fn untrue_sizes_of_links_and_nodes_are_hints_that_break_nothing() {
    let blocks = store();
    let leaf = raw(&blocks, b"12345");
    let lying: Vec<_> = (0..4).map(|number| link(&format!("{number}"), leaf, u64::MAX)).collect();
    let root = folder(&blocks, lying);
    assert_eq!(block_on(unixfs::entries(&blocks, root, 10)).unwrap().len(), 4);
    let entry = |name: &str| FolderEntry { name: name.into(), cid: leaf, tsize: u64::MAX };
    let changes = vec![Change::Put(entry("5")), Change::Put(entry("6")), Change::Remove("0".into())];
    block_on(unixfs::update_folder(&blocks, root, changes, &Profile::default())).unwrap();
    export(&blocks, root, Arc::new(MemoryDisk::new())).unwrap();
    let sizes = UnixFs { filesize: Some(u64::MAX), blocksizes: vec![u64::MAX, u64::MAX], ..UnixFs::new(Kind::File) };
    let nodes = Node { links: vec![link("", leaf, 0), link("", leaf, 0)], data: Some(sizes.encode()) };
    let root = put(&blocks, nodes);
    let _ = block_on(unixfs::stat(&blocks, root));
    assert!(block_on(unixfs::read_all(&blocks, root, 1 << 20)).is_err());
    for range in [0..5, u64::MAX - 1..u64::MAX, 3..u64::MAX, 0..u64::MAX] {
        let read = unixfs::read_range(&blocks, root, range);
        let _ = block_on(read.collect::<Vec<_>>());
    }
    assert!(export(&blocks, root, Arc::new(MemoryDisk::new())).is_err());
}

/// Boxo's `verifcid`: digests that are cut short, or by functions that are broken, name nothing.
#[test]
fn a_block_under_a_weak_or_cut_hash_is_never_taken() {
    let blocks = store();
    let digest = *Block::new(RAW, &b"x"[..]).unwrap().cid.hash();
    for (code, bytes) in [(0xd5, 16), (0x11, 20), (0x12, 1), (0x12, 4), (0x12, 31), (0x13, 20), (0xb240, 64)] {
        let mut weak = [0; 64];
        weak[..32].copy_from_slice(digest.digest());
        let cid = Cid::new_v1(RAW, Multihash::wrap(code, &weak[..bytes]).unwrap());
        assert!(Block::verified(cid, &b"x"[..]).is_err(), "{code:x}, {bytes} bytes");
        assert!(car_file::import(&blocks, &file(&[section(&cid, b"x")])).is_err(), "{code:x}, {bytes} bytes");
        assert!(!blocks.has(&cid));
    }
}
