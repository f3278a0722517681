//! CAR files come and go whole.

#![allow(clippy::unwrap_used, clippy::result_large_err, reason = "a test that cannot go on may panic")]

mod car_file;
mod common;

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use car_file::{KUBO, KUBO_BLOCKS, KUBO_ROOT, file, import, pool, raw, section, store};
use common::{Agent, cbor_list};
use diai_blocks::{
    Block, BlockSource, BlockStore, Cid, DAG_CBOR, ExportCarError, Multihash, Pins, RAW, SourceError,
    car::{self, ExportError, ExportOptions, HeaderError, ImportError, ImportOptions, ProgressFn, Version},
    fetch::FetchError,
    unixfs,
};
use diai_core::{
    BoxFuture, Disk, OpenMode,
    memory::{MemoryDisk, Sim},
};
use futures::{AsyncRead, FutureExt, executor::block_on};

fn export(source: &dyn BlockSource, roots: &[Cid], options: &ExportOptions) -> Result<Vec<u8>, ExportError> {
    let mut file = Vec::new();
    block_on(car::export(source, roots, &mut file, options)).map(|_| file)
}

/// A CAR of version 2 around one of version 1.
fn v2(inner: &[u8], padding: usize, bytes: u64, index: u64, after: &[u8]) -> Vec<u8> {
    let mut out = b"\x0a\xa1\x67version\x02".to_vec();
    out.extend([0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    for number in [51 + padding as u64, bytes, index] {
        out.extend(number.to_le_bytes());
    }
    [out, vec![0xaa; padding], inner.to_vec(), after.to_vec()].concat()
}

/// What a CAR file of `roots` is read as: the CIDs in their order.
fn order(file: &[u8]) -> Vec<Cid> {
    let mut rest = file;
    let mut cids = Vec::new();
    let mut first = true;
    while !rest.is_empty() {
        let mut length = 0usize;
        let bytes = 1 + rest.iter().position(|byte| byte & 0x80 == 0).unwrap();
        rest[..bytes].iter().rev().for_each(|byte| length = length << 7 | usize::from(byte & 0x7f));
        let content = &rest[bytes..bytes + length];
        if !std::mem::take(&mut first) {
            cids.push(Cid::read_bytes(content).unwrap());
        }
        rest = &rest[bytes + length..];
    }
    cids
}

#[test]
fn what_kubo_exported_is_imported_whole_and_exported_as_the_same_bytes() {
    let blocks = store();
    let root: Cid = KUBO_ROOT.parse().unwrap();
    let imported = import(&blocks, KUBO).unwrap();
    assert_eq!((imported.version(), imported.roots()), (Version::V1, &[root][..]));
    assert_eq!((imported.done().blocks, imported.done().held_blocks), (KUBO_BLOCKS + 1, 1));
    assert_eq!(imported.done().bytes, blocks.stats().data_bytes);
    block_on(async {
        let tree: Cid = "bafybeiewtbufcahuy3yjbynzyyvkeknf4rb6c3arhnh744qkzkccxt6msa".parse().unwrap();
        let file = unixfs::resolve(&blocks, tree, "many/entry-031-of-a-folder-that-is-sharded.txt").await.unwrap();
        assert_eq!(unixfs::read_all(&blocks, file, 100).await.unwrap(), b"number 31\n");
        let large = unixfs::resolve(&blocks, tree, "large.txt").await.unwrap();
        assert_eq!(unixfs::read_all(&blocks, large, 1 << 20).await.unwrap().len(), 10_990);
        assert_eq!(unixfs::entries(&blocks, tree, 100).await.unwrap().len(), 3);
        // All of it is there, and more than the root is reached from it.
        let pins = Pins::open(blocks.clone(), &MemoryDisk::new(), "pins.redb").unwrap();
        pins.pin("kubo", root).await.unwrap();
        drop(imported);
        assert_eq!(pins.gc().await.unwrap().blocks, 0);
    });
    // Kubo writes blocks of identity CIDs too.
    let identity = section(&"bafkqaaa".parse().unwrap(), b"");
    let at = KUBO.windows(identity.len()).position(|bytes| bytes == identity).unwrap();
    let expected = [&KUBO[..at], &KUBO[at + identity.len()..]].concat();
    assert_eq!(export(&blocks, &[root], &ExportOptions::default()).unwrap(), expected);
    let again = import(&blocks, KUBO).unwrap();
    assert_eq!((again.done().blocks, again.done().held_blocks), (KUBO_BLOCKS + 1, KUBO_BLOCKS + 1));
}

#[test]
fn a_file_on_a_disk_comes_and_goes_in_both_versions() {
    let (blocks, disk) = (store(), Arc::new(MemoryDisk::new()));
    let content =
        Bytes::from((0..5_000_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect::<Vec<_>>());
    block_on(async {
        let added = unixfs::import_reader(&blocks, &content[..], &unixfs::ImportOptions::default()).await.unwrap();
        for (version, path) in [(Version::V1, "one.car"), (Version::V2, "two.car")] {
            let options = ExportOptions { version, ..ExportOptions::default() };
            let roots = [added.root()];
            let exported = car::export_path(&blocks, &roots, disk.clone(), path, &pool(), &options).await.unwrap();
            assert_eq!((exported.blocks, exported.missing), (6, 0));
            assert_eq!(exported.file_bytes, disk.open(path, OpenMode::Read).unwrap().len().unwrap());
            let there = store();
            let imported = car::import_path(&there, disk.clone(), path, &ImportOptions::default()).await.unwrap();
            assert_eq!((imported.version(), imported.roots()), (version, &roots[..]));
            assert_eq!((imported.done().blocks, imported.done().bytes), (exported.blocks, exported.bytes));
            assert_eq!(unixfs::read_all(&there, roots[0], 8 << 20).await.unwrap(), content);
            let again = car::export_path(&blocks, &roots, disk.clone(), path, &pool(), &options).await;
            assert!(matches!(again, Err(ExportError::Exists { path: found }) if found == path));
        }
        let options = ExportOptions { version: Version::V2, ..ExportOptions::default() };
        let streamed = car::export(&blocks, &[added.root()], Vec::new(), &options).await;
        assert!(matches!(streamed, Err(ExportError::Options(_))));
        let nowhere = car::import_path(&blocks, disk.clone(), "three.car", &ImportOptions::default()).await;
        assert!(matches!(nowhere.unwrap_err().error, ImportError::Io(_)));
    });
}

#[test]
fn an_export_that_fails_leaves_no_file() {
    let (blocks, disk) = (store(), Arc::new(MemoryDisk::new()));
    let (leaf, absent) = (raw("here"), raw("absent"));
    let root = cbor_list(&[leaf.cid, absent.cid]);
    block_on(async {
        blocks.put_many(vec![leaf, root.clone()]).await.unwrap();
        let options = ExportOptions::default();
        let failed =
            car::export_path(&blocks, &[root.cid], disk.clone(), "a.car", &pool(), &options).await.unwrap_err();
        assert!(failed.to_string().contains(&absent.cid.to_string()), "{failed}");
        assert!(disk.entry("a.car").is_err());
    });
}

#[test]
fn a_car_within_a_car_is_found_by_its_bounds_and_the_index_is_not_read() {
    let a = raw("a");
    let inner = file(&[section(&a.cid, &a.data)]);
    let length = inner.len() as u64;
    let index = b"\x81\x08 this is no index, and nobody cares";
    for (name, bytes) in [
        ("as it should be", v2(&inner, 0, length, 51 + length, index)),
        ("padded", v2(&inner, 1000, length, 0, b"")),
        ("an index offset that is a lie", v2(&inner, 0, length, 3, index)),
        ("streamed, without a size", v2(&inner, 0, 0, 0, b"")),
        ("streamed, and with an index", v2(&inner, 7, 0, 58 + length, index)),
    ] {
        let blocks = store();
        let imported = import(&blocks, &bytes).unwrap();
        assert_eq!((imported.version(), imported.done().blocks), (Version::V2, 1), "{name}");
        assert!(blocks.has(&a.cid), "{name}");
    }
    let cut = ("a section over its end", v2(&inner, 0, length - 1, 0, b""));
    let missing = ("more than there is", v2(&inner, 0, length + 1, 0, b""));
    for (name, bytes) in [cut, missing, ("padding without end", v2(&inner, 0, length, 0, b"")[..40].to_vec())] {
        let error = import(&store(), &bytes).unwrap_err().error;
        assert!(matches!(error, ImportError::Truncated { .. }), "{name}: {error}");
    }
    let mut far = v2(&inner, 0, length, 0, b"");
    far[27..35].copy_from_slice(&(1u64 << 60).to_le_bytes());
    assert!(matches!(import(&store(), &far).unwrap_err().error, ImportError::Truncated { offset: 51 }));
    for (begin, bytes) in [(50u64, length), (0, 0), (51, u64::MAX - 50)] {
        let mut broken = v2(&inner, 0, bytes, 0, b"");
        broken[27..35].copy_from_slice(&begin.to_le_bytes());
        let error = import(&store(), &broken).unwrap_err().error;
        assert!(matches!(error, ImportError::Header(HeaderError::Bounds)), "{begin}: {error}");
    }
    let nested = v2(&v2(&inner, 0, length, 0, b""), 0, 51 + length, 0, b"");
    let error = import(&store(), &nested).unwrap_err().error;
    assert!(matches!(error, ImportError::Header(HeaderError::Version { version: 2 })), "{error}");
}

#[test]
fn what_is_imported_is_kept_from_a_collection_until_it_is_let_go() {
    let blocks = store();
    let pins = Pins::open(blocks.clone(), &MemoryDisk::new(), "pins.redb").unwrap();
    let imported = import(&blocks, KUBO).unwrap();
    assert_eq!(block_on(pins.gc()).unwrap().blocks, 0);
    drop(imported);
    let failed = import(&blocks, &KUBO[..KUBO.len() - 1]).unwrap_err();
    assert_eq!(block_on(pins.gc()).unwrap().blocks, 1, "all but the last is held again");
    drop(failed);
    assert_eq!(block_on(pins.gc()).unwrap().blocks, KUBO_BLOCKS - 1);
}

/// A reader that gives little at a time, and at the end fails or waits for ever.
struct Slow<'a> {
    rest: &'a [u8],
    then: Poll<()>,
}

impl AsyncRead for Slow<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut [u8]) -> Poll<std::io::Result<usize>> {
        if self.rest.is_empty() {
            return self.then.map(|()| Err(std::io::Error::other("the line broke")));
        }
        let count = buffer.len().min(self.rest.len()).min(7);
        buffer[..count].copy_from_slice(&self.rest[..count]);
        self.rest = &self.rest[count..];
        Poll::Ready(Ok(count))
    }
}

#[test]
fn an_import_whose_reader_fails_or_that_is_given_up_keeps_what_came() {
    let blocks = store();
    let broken = Slow { rest: &KUBO[..KUBO.len() - 1], then: Poll::Ready(()) };
    let failed = block_on(car::import(&blocks, broken, &ImportOptions::default())).unwrap_err();
    assert!(matches!(&failed.error, ImportError::Io(error) if error.to_string() == "the line broke"));
    assert_eq!(failed.kept.done().blocks, KUBO_BLOCKS);
    let given_up = store();
    let stuck = Slow { rest: KUBO, then: Poll::Pending };
    let options = ImportOptions::default();
    assert!(car::import(&given_up, stuck, &options).now_or_never().is_none());
    assert_eq!(import(&given_up, KUBO).unwrap().done().blocks, KUBO_BLOCKS + 1, "it can be done again");
}

#[test]
fn progress_is_told_and_ends_with_all_of_it() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let progress = |told: &Arc<Mutex<Vec<_>>>| {
        let told = told.clone();
        Some(ProgressFn::new(move |progress| told.lock().unwrap().push(progress)))
    };
    let blocks = store();
    let options = ImportOptions { progress: progress(&told), ..ImportOptions::default() };
    let imported = block_on(car::import(&blocks, KUBO, &options)).unwrap();
    assert_eq!(told.lock().unwrap().last(), Some(&imported.done()));
    told.lock().unwrap().clear();
    let options = ExportOptions { progress: progress(&told), ..ExportOptions::default() };
    export(&blocks, imported.roots(), &options).unwrap();
    let last = *told.lock().unwrap().last().unwrap();
    assert_eq!((last.blocks, last.bytes, last.missing_blocks), (KUBO_BLOCKS, imported.done().bytes, 0));
}

#[test]
fn an_export_is_depth_first_in_the_order_of_the_links_and_each_block_stands_once() {
    let blocks = store();
    let (b, c) = (raw("b"), raw("c"));
    // The second way to `c` comes first in depth: it must not wait for the first one.
    let a = cbor_list(&[c.cid, c.cid]);
    let root = cbor_list(&[a.cid, b.cid, c.cid, a.cid]);
    let other = cbor_list(&[b.cid]);
    block_on(blocks.put_many(vec![a.clone(), b.clone(), c.clone(), root.clone(), other.clone()])).unwrap();
    let exported = export(&blocks, &[root.cid, other.cid, root.cid], &ExportOptions::default()).unwrap();
    assert_eq!(order(&exported), [root.cid, a.cid, c.cid, b.cid, other.cid]);
    assert_eq!(import(&store(), &exported).unwrap().roots(), [root.cid, other.cid, root.cid]);
    assert!(matches!(export(&blocks, &[], &ExportOptions::default()), Err(ExportError::Options(_))));
}

#[test]
fn a_partial_export_leaves_out_what_is_not_here_and_counts_it() {
    let blocks = store();
    let (leaf, gone) = (raw("leaf"), raw("gone"));
    let absent = cbor_list(&[raw("below").cid]);
    let root = cbor_list(&[gone.cid, absent.cid, leaf.cid, gone.cid]);
    block_on(blocks.put_many(vec![leaf.clone(), root.clone()])).unwrap();
    let whole = export(&blocks, &[root.cid], &ExportOptions::default()).unwrap_err();
    let ExportError::Read(unixfs::ReadError::Source(SourceError::NotFound { cid, .. })) = whole else {
        panic!("{whole}");
    };
    assert_eq!(cid, gone.cid);
    let options = ExportOptions { partial: true, ..ExportOptions::default() };
    let mut file = Vec::new();
    let exported = block_on(car::export(&blocks, &[root.cid], &mut file, &options)).unwrap();
    assert_eq!((exported.blocks, exported.missing, exported.file_bytes), (2, 2, file.len() as u64));
    assert_eq!(order(&file), [root.cid, leaf.cid]);
}

#[test]
fn links_out_of_identity_cids_are_followed_and_they_themselves_left_out() {
    let (blocks, leaf) = (store(), raw("leaf"));
    let inner = cbor_list(&[leaf.cid]);
    let identity = Cid::new_v1(DAG_CBOR, Multihash::wrap(0, &inner.data).unwrap());
    let root = cbor_list(&[identity]);
    block_on(blocks.put_many(vec![leaf.clone(), root.clone()])).unwrap();
    let exported = export(&blocks, &[root.cid], &ExportOptions::default()).unwrap();
    assert_eq!(order(&exported), [root.cid, leaf.cid]);
}

#[test]
fn an_export_keeps_to_its_limits() {
    let blocks = store();
    let imported = import(&blocks, KUBO).unwrap();
    let over = |options: &ExportOptions| {
        let failed = export(&blocks, imported.roots(), options).unwrap_err();
        let ExportError::Read(unixfs::ReadError::OverLimit { what, .. }) = failed else { panic!("{failed}") };
        what
    };
    assert_eq!(over(&ExportOptions { max_blocks: 20, ..ExportOptions::default() }), "blocks");
    assert_eq!(over(&ExportOptions { max_bytes: 5000, ..ExportOptions::default() }), "bytes");
    let malformed = Block::new(DAG_CBOR, &[0x81][..]).unwrap();
    block_on(blocks.put(malformed.clone())).unwrap();
    let failed = export(&blocks, &[malformed.cid], &ExportOptions::default()).unwrap_err();
    assert!(matches!(failed, ExportError::Read(unixfs::ReadError::Links { cid, .. }) if cid == malformed.cid));
}

/// Counts the leaves that were asked for before the last node was.
struct Counting {
    blocks: BlockStore,
    last: Cid,
    leaves: AtomicUsize,
    before_last: AtomicUsize,
}

impl BlockSource for Counting {
    fn block(&self, cid: Cid) -> BoxFuture<'_, Result<Bytes, SourceError>> {
        let leaves = self.leaves.fetch_add(usize::from(cid.codec() == RAW), Ordering::Relaxed);
        if cid == self.last {
            self.before_last.store(leaves, Ordering::Relaxed);
        }
        self.blocks.block(cid)
    }
}

#[test]
fn a_deep_dag_with_many_leaves_at_every_level_does_not_fill_the_memory_with_them() {
    let blocks = store();
    let last = cbor_list(&[]);
    let (mut root, mut all) = (last.clone(), vec![last.clone()]);
    for depth in 0..300u32 {
        let leaves: Vec<_> = (0..20u32).map(|leaf| raw([depth, leaf].map(u32::to_be_bytes).concat())).collect();
        root = cbor_list(&[vec![root.cid], leaves.iter().map(|leaf| leaf.cid).collect()].concat());
        all.extend(leaves);
        all.push(root.clone());
    }
    let count = all.len();
    block_on(blocks.put_many(all)).unwrap();
    let source = Counting { blocks, last: last.cid, leaves: AtomicUsize::new(0), before_last: AtomicUsize::new(0) };
    let exported = export(&source, &[root.cid], &ExportOptions::default()).unwrap();
    assert_eq!(order(&exported).len(), count);
    assert!(source.before_last.load(Ordering::Relaxed) <= 32, "{:?}", source.before_last);
}

#[test]
fn an_agent_adds_a_car_file_pins_what_is_whole_and_writes_it_again() {
    let sim = Sim::new(9);
    sim.clone().run(async move {
        let (alice, bob) = (Agent::start(&sim, 1).await, Agent::start(&sim, 2).await);
        let disk = Arc::new(MemoryDisk::new());
        disk.open("kubo.car", OpenMode::CreateNew).unwrap().write_at(0, KUBO).unwrap();
        let root: Cid = KUBO_ROOT.parse().unwrap();
        let options = ImportOptions::default();
        let added = alice.blocks.import_car(disk.clone(), "kubo.car", &options).await.unwrap();
        assert_eq!(
            (&added.roots[..], &added.pinned[..], added.done.blocks),
            (&[root][..], &[root][..], KUBO_BLOCKS + 1)
        );
        assert_eq!(alice.blocks.gc().await.unwrap().blocks, 0);

        // By the DHT alone: the root was announced.
        let options = ExportOptions::default();
        let written = bob.blocks.export_car(root, disk.clone(), "bob.car", &options, bob.within(60)).await.unwrap();
        assert_eq!((written.blocks, written.missing), (KUBO_BLOCKS, 0));

        let (here, gone) = (raw("here"), raw("gone"));
        let part = cbor_list(&[here.cid, gone.cid]);
        alice.blocks.store().put_many(vec![here, part.clone()]).await.unwrap();
        let now = alice.world.clock.now();
        let whole = alice.blocks.export_car(part.cid, disk.clone(), "part.car", &options, now).await;
        assert!(matches!(whole, Err(ExportCarError::Fetch(FetchError::NotFound { cid, .. })) if cid == gone.cid));
        let partial = ExportOptions { partial: true, ..ExportOptions::default() };
        let written = alice.blocks.export_car(part.cid, disk.clone(), "part.car", &partial, now).await.unwrap();
        assert_eq!((written.blocks, written.missing), (2, 1));
        let nothing = alice.blocks.export_car(gone.cid, disk.clone(), "gone.car", &partial, now).await;
        assert!(matches!(nothing, Err(ExportCarError::Fetch(_))) && disk.entry("gone.car").is_err());

        let added = bob.blocks.import_car(disk, "part.car", &ImportOptions::default()).await.unwrap();
        assert_eq!((&added.roots[..], &added.pinned[..], added.done.blocks), (&[part.cid][..], &[][..], 2));
    });
}
