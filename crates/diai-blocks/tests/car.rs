//! CAR files come and go whole, and hostile ones leave only what is true.

#![allow(clippy::unwrap_used, clippy::result_large_err, reason = "a test that cannot go on may panic")]

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use diai_blocks::{
    Block, BlockError, BlockSource, BlockStore, Cid, DAG_CBOR, MAX_BLOCK_BYTES, MemoryStore, Multihash, Pins, RAW,
    SourceError,
    car::{
        self, ExportError, ExportOptions, HeaderError, ImportError, ImportFailed, ImportOptions, Imported,
        MAX_HEADER_BYTES, MAX_REFUSED, MAX_ROOTS, ProgressFn, SectionError, Version,
    },
    ipld::CborError,
    unixfs,
};
use diai_core::{BoxFuture, Disk, Offload, OpenMode, memory::MemoryDisk, os::ThreadPool};
use futures::{AsyncRead, FutureExt, executor::block_on};
use proptest::prelude::*;

const KUBO: &[u8] = include_bytes!("fixtures/kubo.car");
const KUBO_ROOT: &str = "bafyreigjzct6ik22lkdyzosb7o6cyz3lvrsmqykcvcbatmyige7moqtxeq";
/// One more section holds an identity CID, which needs no block.
const KUBO_BLOCKS: u64 = 56;

fn pool() -> Arc<dyn Offload> {
    Arc::new(ThreadPool::new(2))
}

fn store() -> BlockStore {
    BlockStore::new(Arc::new(MemoryStore::new(256 << 20)), pool())
}

fn import(blocks: &BlockStore, file: &[u8]) -> Result<Imported, ImportFailed> {
    block_on(car::import(blocks, file, &ImportOptions::default()))
}

fn export(source: &dyn BlockSource, roots: &[Cid], options: &ExportOptions) -> Result<Vec<u8>, ExportError> {
    let mut file = Vec::new();
    block_on(car::export(source, roots, &mut file, options)).map(|_| file)
}

fn raw(content: impl Into<Bytes>) -> Block {
    Block::new(RAW, content.into()).unwrap()
}

/// A dag-cbor list of links, at most 255.
fn node(cids: &[Cid]) -> Block {
    let mut data = match cids.len() {
        count @ 0..24 => vec![0x80 | count as u8],
        count => vec![0x98, count as u8],
    };
    for cid in cids {
        let cid = cid.to_bytes();
        data.extend([0xd8, 42, 0x58, cid.len() as u8 + 1, 0]);
        data.extend(cid);
    }
    Block::new(DAG_CBOR, data).unwrap()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

fn framed(content: &[u8]) -> Vec<u8> {
    [&varint(content.len() as u64)[..], content].concat()
}

fn section(cid: &Cid, data: &[u8]) -> Vec<u8> {
    framed(&[&cid.to_bytes()[..], data].concat())
}

/// A header without roots.
fn header() -> Vec<u8> {
    framed(b"\xa2\x65roots\x80\x67version\x01")
}

fn file(sections: &[Vec<u8>]) -> Vec<u8> {
    [header(), sections.concat()].concat()
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
    let root = node(&[leaf.cid, absent.cid]);
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
fn a_file_cut_anywhere_is_an_error_and_every_whole_section_before_the_cut_is_kept() {
    let contents: Vec<_> = (0..5u8).map(|number| raw(vec![number; 100 * usize::from(number)])).collect();
    let sections: Vec<_> = contents.iter().map(|block| section(&block.cid, &block.data)).collect();
    let whole = file(&sections);
    let mut ends = vec![header().len()];
    sections.iter().for_each(|section| ends.push(ends[ends.len() - 1] + section.len()));
    for cut in 0..whole.len() {
        let blocks = store();
        let outcome = import(&blocks, &whole[..cut]);
        let complete = ends.iter().filter(|end| **end <= cut).count().saturating_sub(1);
        match outcome {
            Ok(imported) => {
                assert!(ends.contains(&cut), "{cut}: a cut that cannot be seen is between two sections");
                assert_eq!(imported.done().blocks, complete as u64);
            }
            Err(failed) => {
                assert!(matches!(failed.error, ImportError::Truncated { offset } if offset <= cut as u64), "{cut}");
                assert_eq!(failed.kept.done().blocks, complete as u64, "{cut}");
            }
        }
        for (number, block) in contents.iter().enumerate() {
            assert_eq!(blocks.has(&block.cid), number < complete, "{cut}");
        }
    }
}

#[test]
fn faulty_sections_are_passed_over_and_all_others_are_kept() {
    let (a, b, c) = (raw("a"), raw("b"), raw("c"));
    let md5 = Cid::new_v1(RAW, Multihash::wrap(0xd5, &[7; 16]).unwrap());
    let short = Cid::new_v1(RAW, Multihash::wrap(0x12, &a.cid.hash().digest()[..4]).unwrap());
    let identity = |content: &[u8]| Cid::new_v1(RAW, Multihash::wrap(0, content).unwrap());
    let large = raw(vec![0; MAX_BLOCK_BYTES]);
    let too_large = vec![1; MAX_BLOCK_BYTES + 200];
    let faulty = [
        section(&a.cid, b"A"),
        section(&md5, b"md5"),
        section(&short, b"a"),
        section(&identity(b"held"), b"other"),
        section(&c.cid, &too_large),
        section(&c.cid, &too_large[..MAX_BLOCK_BYTES + 1]),
        framed(b"no CID"),
        framed(&[1]),
    ];
    let good = [section(&b.cid, b"b"), section(&identity(b"held"), b"held"), section(&large.cid, &large.data)];
    let bytes = file(&[&faulty[..4], &good, &faulty[4..], &[section(&c.cid, b"c")]].concat());
    let blocks = store();
    let failed = import(&blocks, &bytes).unwrap_err();
    assert!(matches!(&failed.error, ImportError::Refused { count: 8, first } if first.offset == 18), "{failed}");
    let kept = &failed.kept;
    assert_eq!((kept.done().blocks, kept.done().held_blocks, kept.refused_count()), (4, 1, 8));
    assert!(!blocks.has(&a.cid) && blocks.has(&b.cid) && blocks.has(&c.cid) && blocks.has(&large.cid));
    let reasons: Vec<_> = kept.refused().iter().map(|refused| refused.reason.clone()).collect();
    let bytes = MAX_BLOCK_BYTES;
    assert_eq!(
        reasons,
        [
            BlockError::WrongContent { cid: a.cid }.into(),
            BlockError::UnknownHash { cid: md5, code: 0xd5 }.into(),
            BlockError::UnknownHash { cid: short, code: 0x12 }.into(),
            BlockError::WrongContent { cid: identity(b"held") }.into(),
            BlockError::TooLarge { bytes: bytes + 200 }.into(),
            BlockError::TooLarge { bytes: bytes + 1 }.into(),
            SectionError::Cid,
            SectionError::Cid,
        ]
    );
}

#[test]
fn a_block_of_the_wrong_content_is_refused_also_when_the_right_one_is_here() {
    let (blocks, a) = (store(), raw("a"));
    block_on(blocks.put(a.clone())).unwrap();
    assert!(import(&blocks, &file(&[section(&a.cid, b"A")])).is_err());
    assert_eq!(block_on(blocks.get(&a.cid)).unwrap(), Some(a.data));
}

#[test]
fn faulty_sections_without_number_are_counted_and_only_the_first_are_told() {
    let bytes = file(&vec![framed(b"x"); 5000]);
    let failed = import(&store(), &bytes).unwrap_err();
    assert_eq!((failed.kept.refused_count(), failed.kept.refused().len()), (5000, MAX_REFUSED));
}

#[test]
fn lengths_that_lie_or_are_no_numbers_end_the_import_and_cost_nothing() {
    let a = raw("a");
    let good = section(&a.cid, b"a");
    let begun = file(&[good]);
    let after = |garbage: &[u8]| [&begun[..], garbage].concat();
    let end = begun.len() as u64;
    for (name, garbage, framing) in [
        ("zero", vec![0], true),
        ("no number", vec![0xff; 20], true),
        ("over 64 bits", [vec![0xff; 9], vec![2]].concat(), true),
        ("half a number", vec![0x80], false),
        ("a mebibyte that is not there", varint(1 << 20), false),
        ("an exbibyte that is not there", [varint(1 << 60), vec![1; 500]].concat(), false),
        ("all there can be", [varint(u64::MAX), vec![1; 500]].concat(), false),
    ] {
        let blocks = store();
        let failed = import(&blocks, &after(&garbage)).unwrap_err();
        match failed.error {
            ImportError::Framing { offset } if framing => assert_eq!(offset, end, "{name}"),
            ImportError::Truncated { offset } if !framing => assert!(offset >= end, "{name}"),
            error => panic!("{name}: {error}"),
        }
        assert!(blocks.has(&a.cid), "{name}");
    }
}

#[test]
fn headers_that_are_none_are_refused_by_kind() {
    let cid = raw("a").cid;
    let link = [&[0xd8, 42, 0x58, 37, 0][..], &cid.to_bytes()].concat();
    let many = |count: usize| {
        let count_bytes = match u16::try_from(count) {
            Ok(count) => [&[0x99][..], &count.to_be_bytes()].concat(),
            Err(_) => [&[0x9a][..], &(count as u32).to_be_bytes()].concat(),
        };
        let roots = b"\xd8\x2a\x45\0\x01\x55\0\0".repeat(count.min(MAX_ROOTS + 1));
        [&b"\xa2\x65roots"[..], &count_bytes, &roots, b"\x67version\x01"].concat()
    };
    for (name, header, error) in [
        ("no map", vec![1], HeaderError::Fields),
        ("no fields", vec![0xa0], HeaderError::Fields),
        ("no version", b"\xa1\x65roots\x80".to_vec(), HeaderError::Fields),
        ("no roots", b"\xa1\x67version\x01".to_vec(), HeaderError::Fields),
        ("roots in a pragma", b"\xa2\x65roots\x80\x67version\x02".to_vec(), HeaderError::Fields),
        ("another field", b"\xa2\x67version\x01\x65other\x80".to_vec(), HeaderError::Fields),
        ("a field twice", b"\xa2\x67version\x01\x67version\x01".to_vec(), HeaderError::Fields),
        ("three fields", b"\xa3\x65roots\x80\x67version\x01\x61a\x01".to_vec(), HeaderError::Fields),
        ("a root that is no link", b"\xa2\x65roots\x81\x01\x67version\x01".to_vec(), HeaderError::Fields),
        ("roots that are no list", [b"\xa2\x65roots", &link[..], b"\x67version\x01"].concat(), HeaderError::Fields),
        ("version 3", b"\xa2\x65roots\x80\x67version\x03".to_vec(), HeaderError::Version { version: 3 }),
        ("trailing", b"\xa2\x65roots\x80\x67version\x01\x00".to_vec(), CborError::Trailing.into()),
        ("cut short", b"\xa2\x65roots\x80\x67vers".to_vec(), CborError::Truncated.into()),
        ("roots that are not there", b"\xa2\x65roots\x99\x10\x00".to_vec(), CborError::Truncated.into()),
        ("indefinite", b"\xbf\x65roots\x80\xff".to_vec(), CborError::Item.into()),
        ("too many roots", many(MAX_ROOTS + 1), HeaderError::TooManyRoots),
        ("no end of roots", many(u32::MAX as usize), HeaderError::TooManyRoots),
    ] {
        let found = import(&store(), &framed(&header)).unwrap_err().error;
        assert!(matches!(&found, ImportError::Header(found) if *found == error), "{name}: {found}");
    }
    assert_eq!(import(&store(), &framed(&many(MAX_ROOTS))).unwrap().roots().len(), MAX_ROOTS);
    for bytes in [0, MAX_HEADER_BYTES as u64 + 1, 1 << 60] {
        let found = import(&store(), &[varint(bytes), vec![0; 99]].concat()).unwrap_err().error;
        assert!(
            matches!(&found, ImportError::Header(HeaderError::Length { bytes: found }) if *found == bytes),
            "{found}"
        );
    }
    assert!(matches!(import(&store(), b"").unwrap_err().error, ImportError::Truncated { offset: 0 }));
}

#[test]
fn an_import_keeps_to_its_cap_and_to_the_quota_and_what_came_before_stays() {
    let contents: Vec<_> = (0..9u8).map(|number| raw(vec![number; 1 << 20])).collect();
    let sections: Vec<_> = contents.iter().map(|block| section(&block.cid, &block.data)).collect();
    let bytes = file(&sections);
    let blocks = store();
    let options = ImportOptions { max_bytes: 5 << 20, ..ImportOptions::default() };
    let failed = block_on(car::import(&blocks, &bytes[..], &options)).unwrap_err();
    assert!(matches!(failed.error, ImportError::OverLimit { limit: 0x50_0000 }), "{failed}");
    assert!(blocks.stats().data_bytes <= 5 << 20 && failed.kept.done().bytes == blocks.stats().data_bytes);
    let full = BlockStore::new(Arc::new(MemoryStore::new(6 << 20)), pool());
    let failed = import(&full, &bytes).unwrap_err();
    assert!(matches!(failed.error, ImportError::Put(_)), "{failed}");
    assert!(failed.kept.done().blocks >= 4 && full.has(&contents[0].cid));
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
    let a = node(&[c.cid, c.cid]);
    let root = node(&[a.cid, b.cid, c.cid, a.cid]);
    let other = node(&[b.cid]);
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
    let absent = node(&[raw("below").cid]);
    let root = node(&[gone.cid, absent.cid, leaf.cid, gone.cid]);
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
    let inner = node(&[leaf.cid]);
    let identity = Cid::new_v1(DAG_CBOR, Multihash::wrap(0, &inner.data).unwrap());
    let root = node(&[identity]);
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
    let last = node(&[]);
    let (mut root, mut all) = (last.clone(), vec![last.clone()]);
    for depth in 0..300u32 {
        let leaves: Vec<_> = (0..20u32).map(|leaf| raw([depth, leaf].map(u32::to_be_bytes).concat())).collect();
        root = node(&[vec![root.cid], leaves.iter().map(|leaf| leaf.cid).collect()].concat());
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_damaged_file_never_brings_anything_false(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = KUBO.to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(bytes.len() - cut.index(1000));
        let blocks = store();
        let kept = match import(&blocks, &bytes) {
            Ok(imported) => imported,
            Err(failed) => *failed.kept,
        };
        prop_assert!(kept.done().blocks <= KUBO_BLOCKS + 1);
        for stored in blocks.store().list(None, 1000) {
            let cid = Cid::new_v1(RAW, stored.hash);
            let data = blocks.store().get(&cid).unwrap().unwrap();
            prop_assert!(Block::verified(cid, data).is_ok());
        }
    }

    #[test]
    fn any_bytes_are_a_file_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let blocks = store();
        let _ = import(&blocks, &bytes);
        let _ = import(&blocks, &file(&[bytes]));
    }
}
