//! Trees come back as they were, and hostile ones come to nothing.

#![allow(clippy::unwrap_used, clippy::result_large_err, reason = "a test that cannot go on may panic")]

mod tree;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use diai_blocks::{
    Block, BlockStore, Cid, DAG_PB, MemoryStore, RAW,
    dag_pb::{Link, Node},
    unixfs::{
        self, ExportError, ExportOptions, ImportError, ImportOptions, Kind, Profile, ProgressFn, ReadError, UnixFs,
        WalkOptions,
    },
};
use diai_core::{
    Disk, Offload,
    memory::MemoryDisk,
    os::{FsDisk, ThreadPool},
};
use futures::{StreamExt, TryStreamExt, executor::block_on};
use proptest::prelude::*;
use tree::{Tree, read, write};

fn pool() -> Arc<dyn Offload> {
    Arc::new(ThreadPool::new(2))
}

fn store() -> BlockStore {
    BlockStore::new(Arc::new(MemoryStore::new(4 << 30)), pool())
}

/// Small limits, so that small trees have many levels and shards.
fn tight() -> ImportOptions {
    let profile = Profile { chunk_bytes: 16, width: 3, shard_over_bytes: 300, ..Profile::default() };
    ImportOptions { profile, hidden: true, ..ImportOptions::default() }
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..200).prop_map(Tree::File),
        1 => "[a-z]{1,8}(/[a-z]{1,3})?".prop_map(Tree::Link),
    ];
    let name = "[a-zäß字🦀._ -]{1,12}[0-9a-z]x";
    leaf.prop_recursive(4, 60, 25, move |inner| prop::collection::btree_map(name, inner, 0..25).prop_map(Tree::Folder))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_tree_comes_back_as_it_was(tree in tree()) {
        let Tree::Folder(_) = &tree else { return Ok(()) };
        let memory = MemoryDisk::new();
        write(&memory, "in", &tree);
        let blocks = store();
        let options = tight();
        let imported = block_on(unixfs::import_path(&blocks, Arc::new(memory.clone()), "in", &options)).unwrap();
        let again = block_on(unixfs::import_path(&blocks, Arc::new(memory.clone()), "in", &options)).unwrap();
        prop_assert_eq!(imported.root(), again.root());
        let pool = pool();
        let out = Arc::new(memory.clone());
        let options = ExportOptions::default();
        let exported = block_on(unixfs::export(&blocks, imported.root(), out, "out", &pool, &options)).unwrap();
        prop_assert_eq!(read(&memory, "out"), tree);
        prop_assert_eq!(exported.bytes, imported.content_bytes());
        prop_assert_eq!(exported.files + exported.folders + exported.links, imported.entries());
    }

    #[test]
    fn any_range_of_a_file_is_what_the_file_holds(
        content in prop::collection::vec(any::<u8>(), 0..600), from in 0u64..700, length in 0u64..700,
    ) {
        let blocks = store();
        let imported = block_on(unixfs::import_reader(&blocks, content.as_slice(), &tight())).unwrap();
        let range = from..from + length;
        let read = unixfs::read_range(&blocks, imported.root(), range.clone());
        let read: Vec<Bytes> = block_on(read.try_collect()).unwrap();
        let clip = |at: u64| (at as usize).min(content.len());
        prop_assert_eq!(read.concat(), &content[clip(range.start)..clip(range.end)]);
    }
}

fn sample() -> Tree {
    let file = |bytes: usize| Tree::File((0..bytes).map(|at| (at % 251) as u8).collect());
    let many = (0..300).map(|number| (format!("file {number}"), file(number))).collect();
    Tree::Folder(BTreeMap::from([
        ("empty".into(), Tree::Folder(BTreeMap::new())),
        ("nothing".into(), file(0)),
        ("large".into(), file(3 << 20)),
        ("many".into(), Tree::Folder(many)),
        ("link".into(), Tree::Link("many/file 7".into())),
    ]))
}

#[test]
fn a_tree_passes_through_real_files() {
    let folder = concat!(env!("CARGO_TARGET_TMPDIR"), "/unixfs-real-files");
    let _ = std::fs::remove_dir_all(folder);
    let disk = Arc::new(FsDisk::open(folder).unwrap());
    write(&*disk, "in", &sample());
    let blocks = store();
    let imported = block_on(unixfs::import_path(&blocks, disk.clone(), "in", &ImportOptions::default())).unwrap();
    let pool = pool();
    let options = ExportOptions::default();
    let exported = block_on(unixfs::export(&blocks, imported.root(), disk.clone(), "out", &pool, &options)).unwrap();
    assert_eq!((exported.files, exported.folders, exported.links), (302, 3, 1));
    assert!(read(&*disk, "out") == sample());
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_reader_and_a_file_of_one_content_get_one_cid() {
    let content: Vec<u8> = (0..5_000_000u32).map(|at| (at * 7) as u8).collect();
    let disk = MemoryDisk::new();
    write(&disk, "file", &Tree::File(content.clone()));
    let blocks = store();
    let options = ImportOptions::default();
    let one = block_on(unixfs::import_path(&blocks, Arc::new(disk), "file", &options)).unwrap();
    let two = block_on(unixfs::import_reader(&blocks, content.as_slice(), &options)).unwrap();
    assert_eq!(one.root(), two.root());
    assert_eq!(one.tsize(), two.tsize());
    assert!(block_on(unixfs::read_all(&blocks, one.root(), 5_000_000)).unwrap() == content);
    let refused = block_on(unixfs::read_all(&blocks, one.root(), 4_999_999));
    assert!(matches!(refused, Err(ReadError::OverLimit { what: "bytes", .. })));
}

#[test]
fn hidden_entries_stay_out_unless_wanted_and_progress_is_told() {
    let disk = Arc::new(MemoryDisk::new());
    let hidden = Tree::Folder(BTreeMap::from([
        (".git".into(), Tree::Folder(BTreeMap::new())),
        (".env".into(), Tree::File(b"secret".to_vec())),
        ("a".into(), Tree::File(b"shown".to_vec())),
    ]));
    write(&*disk, "in", &hidden);
    let blocks = store();
    let told = Arc::new(AtomicU64::new(0));
    let teller = told.clone();
    let progress = ProgressFn::new(move |progress| teller.store(progress.bytes, Ordering::Relaxed));
    let options = ImportOptions { progress: Some(progress), ..ImportOptions::default() };
    let imported = block_on(unixfs::import_path(&blocks, disk.clone(), "in", &options)).unwrap();
    let names = |root| block_on(unixfs::entries(&blocks, root, 10)).unwrap().into_iter().map(|entry| entry.name);
    assert_eq!(names(imported.root()).collect::<Vec<_>>(), ["a"]);
    assert_eq!(told.load(Ordering::Relaxed), 5);
    let options = ImportOptions { hidden: true, ..ImportOptions::default() };
    let imported = block_on(unixfs::import_path(&blocks, disk, "in", &options)).unwrap();
    assert_eq!(names(imported.root()).collect::<Vec<_>>(), [".env", ".git", "a"]);
}

#[test]
fn paths_are_resolved_through_plain_and_sharded_folders() {
    let blocks = store();
    let disk = Arc::new(MemoryDisk::new());
    write(&*disk, "in", &sample());
    let root = block_on(unixfs::import_path(&blocks, disk, "in", &tight())).unwrap().root();
    let at = block_on(unixfs::resolve(&blocks, root, "/many/file 299")).unwrap();
    assert_eq!(block_on(unixfs::stat(&blocks, at)).unwrap().bytes, 299);
    let many = block_on(unixfs::resolve(&blocks, root, "many")).unwrap();
    assert_eq!(block_on(unixfs::entries(&blocks, many, 300)).unwrap().len(), 300);
    assert!(matches!(block_on(unixfs::entries(&blocks, many, 299)), Err(ReadError::OverLimit { .. })));
    for (path, name) in [("many/file 300", "file 300"), ("nothing at all", "nothing at all")] {
        let missing = block_on(unixfs::resolve(&blocks, root, path));
        assert!(matches!(missing, Err(ReadError::NoEntry { name: found, .. }) if found == name));
    }
    assert!(matches!(block_on(unixfs::resolve(&blocks, root, "nothing/x")), Err(ReadError::Codec { .. })));
    let link = block_on(unixfs::resolve(&blocks, root, "link")).unwrap();
    assert_eq!(block_on(unixfs::stat(&blocks, link)).unwrap().target.as_deref(), Some("many/file 7"));
}

#[test]
fn a_walk_names_every_block_once_and_what_is_missing() {
    let blocks = store();
    let disk = Arc::new(MemoryDisk::new());
    write(&*disk, "in", &sample());
    let root = block_on(unixfs::import_path(&blocks, disk, "in", &tight())).unwrap().root();
    let walked = |options: &WalkOptions| block_on(unixfs::walk(&blocks, root, options).collect::<Vec<_>>());
    let plain = walked(&WalkOptions::default());
    assert_eq!(plain.len() as u64, blocks.stats().blocks);
    let fetched = walked(&WalkOptions { leaves: true, ..WalkOptions::default() });
    assert_eq!(fetched.len(), plain.len());
    assert!(fetched.iter().all(|visited| visited.as_ref().unwrap().data.is_some()));
    let limited = walked(&WalkOptions { max_blocks: 10, ..WalkOptions::default() });
    assert!(matches!(limited.last(), Some(Err(ReadError::OverLimit { what: "blocks", .. }))));
    let many = block_on(unixfs::resolve(&blocks, root, "many")).unwrap();
    block_on(blocks.remove(vec![many])).unwrap();
    let missing: Vec<_> = walked(&WalkOptions::default()).into_iter().filter_map(Result::err).collect();
    assert!(matches!(missing.as_slice(), [ReadError::Source(_)]));
}

#[test]
fn folders_with_equal_names_and_senseless_profiles_are_refused() {
    let link = |name: &str| Link { cid: Block::new(RAW, &b""[..]).unwrap().cid, name: name.into(), tsize: 0 };
    let refused = unixfs::build_folder(vec![link("a"), link("b"), link("a")], &Profile::default());
    assert!(matches!(refused, Err(ImportError::Collision { .. })));
    let options = ImportOptions { profile: Profile { width: 1, ..Profile::default() }, ..ImportOptions::default() };
    assert!(matches!(
        block_on(unixfs::import_reader(&store(), &b"x"[..], &options)),
        Err(ImportError::Options { field: "width", .. })
    ));
}

// What strangers make.

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

fn folder(blocks: &BlockStore, entries: &[(&str, Cid)]) -> Cid {
    let links = entries.iter().map(|(name, cid)| Link { cid: *cid, name: (*name).into(), tsize: 1 }).collect();
    put(blocks, Node { links, data: Some(UnixFs::new(Kind::Folder).encode()) })
}

fn link_to(blocks: &BlockStore, target: &'static str) -> Cid {
    let data = UnixFs { data: Some(target.into()), ..UnixFs::new(Kind::Symlink) };
    put(blocks, Node { links: Vec::new(), data: Some(data.encode()) })
}

fn file(blocks: &BlockStore, parts: &[(Cid, u64)], filesize: u64) -> Cid {
    let data = UnixFs {
        filesize: Some(filesize),
        blocksizes: parts.iter().map(|(_, bytes)| *bytes).collect(),
        ..UnixFs::new(Kind::File)
    };
    let links = parts.iter().map(|(cid, _)| Link { cid: *cid, name: String::new(), tsize: 1 }).collect();
    put(blocks, Node { links, data: Some(data.encode()) })
}

fn export(blocks: &BlockStore, root: Cid, disk: &MemoryDisk, options: &ExportOptions) -> Result<(), ExportError> {
    block_on(unixfs::export(blocks, root, Arc::new(disk.clone()), "out", &pool(), options)).map(drop)
}

#[test]
fn names_that_lead_outside_are_refused_and_nothing_is_written_outside() {
    let blocks = store();
    let evil = raw(&blocks, b"evil");
    for name in ["..", ".", "", "../x", "/etc/x", "a/b", "a\\b", "nul\0", "CON", "aux.txt"] {
        let disk = MemoryDisk::new();
        for root in [folder(&blocks, &[(name, evil)]), folder(&blocks, &[("in", folder(&blocks, &[(name, evil)]))])] {
            let refused = export(&blocks, root, &disk, &ExportOptions { overwrite: true, ..ExportOptions::default() });
            assert!(matches!(refused, Err(ExportError::UnsafeName { .. })), "{name:?}");
        }
        let names: Vec<String> = disk.list("").unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["out"], "{name:?}");
        assert!(disk.list("out").unwrap().iter().all(|entry| entry.name == "in"));
    }
}

#[test]
fn links_that_lead_outside_are_refused_unless_allowed_and_never_written_through() {
    let blocks = store();
    let evil = raw(&blocks, b"evil");
    for target in ["/etc", "..", "../elsewhere", "in/../../elsewhere"] {
        let root = folder(&blocks, &[("link", link_to(&blocks, target))]);
        let disk = MemoryDisk::new();
        assert!(matches!(export(&blocks, root, &disk, &ExportOptions::default()), Err(ExportError::UnsafeLink { .. })));
        assert!(disk.list("out").unwrap().is_empty());
        let allowed = ExportOptions { outside_links: true, overwrite: true, ..ExportOptions::default() };
        export(&blocks, root, &disk, &allowed).unwrap();
        assert_eq!(disk.read_link("out/link").unwrap(), target);
        // A later export that has a folder, or a file, of the link's name does not pass through it.
        disk.create_folder("elsewhere").unwrap();
        for entry in [folder(&blocks, &[("x", evil)]), evil] {
            let root = folder(&blocks, &[("link", entry)]);
            assert!(export(&blocks, root, &disk, &allowed).is_err());
        }
        assert!(disk.list("elsewhere").unwrap().is_empty());
    }
}

#[test]
fn two_entries_of_one_name_are_refused_before_anything_is_written() {
    let blocks = store();
    let inner = folder(&blocks, &[("x", raw(&blocks, b"evil"))]);
    let root = folder(&blocks, &[("a", link_to(&blocks, "b")), ("a", inner)]);
    let disk = MemoryDisk::new();
    let refused = export(&blocks, root, &disk, &ExportOptions::default());
    assert!(matches!(refused, Err(ExportError::Read(ReadError::Malformed { .. }))));
    assert!(disk.list("").unwrap().is_empty());
}

#[test]
fn what_exists_is_kept_unless_overwriting_is_allowed() {
    let blocks = store();
    let root = folder(&blocks, &[("a", raw(&blocks, b"new"))]);
    let disk = MemoryDisk::new();
    write(&disk, "out", &Tree::Folder(BTreeMap::from([("a".into(), Tree::File(b"old, and longer".to_vec()))])));
    assert!(matches!(export(&blocks, root, &disk, &ExportOptions::default()), Err(ExportError::Exists { .. })));
    assert_eq!(read(&disk, "out/a"), Tree::File(b"old, and longer".to_vec()));
    export(&blocks, root, &disk, &ExportOptions { overwrite: true, ..ExportOptions::default() }).unwrap();
    assert_eq!(read(&disk, "out/a"), Tree::File(b"new".to_vec()));
}

#[test]
fn a_file_whose_sizes_lie_is_refused() {
    let blocks = store();
    let part = raw(&blocks, b"12345");
    for root in [
        file(&blocks, &[(part, 4)], 4),
        file(&blocks, &[(part, 5)], 6),
        file(&blocks, &[(part, 5), (raw(&blocks, b""), 0)], 5),
        file(&blocks, &[(part, u64::MAX), (part, 5)], 4),
        file(&blocks, &[(file(&blocks, &[(part, 5)], 5), 6)], 6),
        file(&blocks, &[(folder(&blocks, &[]), 1)], 1),
    ] {
        let refused = block_on(unixfs::read_all(&blocks, root, 1 << 20));
        assert!(matches!(refused, Err(ReadError::Malformed { .. } | ReadError::NotAFile { .. })), "{refused:?}");
    }
    assert_eq!(block_on(unixfs::read_all(&blocks, file(&blocks, &[(part, 5), (part, 5)], 10), 10)).unwrap().len(), 10);
}

#[test]
fn bombs_and_deep_chains_end_at_a_limit() {
    let blocks = store();
    // 2^60 bytes in 60 blocks.
    let (mut root, mut bytes) = (raw(&blocks, b"x"), 1u64);
    for _ in 0..60 {
        bytes *= 2;
        root = file(&blocks, &[(root, bytes / 2), (root, bytes / 2)], bytes);
    }
    let refused = block_on(unixfs::read_all(&blocks, root, 1 << 30));
    assert!(matches!(refused, Err(ReadError::OverLimit { what: "bytes", .. })));
    let refused = export(&blocks, root, &MemoryDisk::new(), &ExportOptions { max_bytes: 1000, ..Default::default() });
    assert!(matches!(refused, Err(ExportError::Read(ReadError::OverLimit { .. }))));
    // 2^60 entries in 60 folders.
    let mut root = raw(&blocks, b"x");
    for _ in 0..60 {
        root = folder(&blocks, &[("a", root), ("b", root)]);
    }
    let refused = export(&blocks, root, &MemoryDisk::new(), &ExportOptions { max_entries: 500, ..Default::default() });
    assert!(matches!(refused, Err(ExportError::Read(ReadError::OverLimit { what: "entries", .. }))));
    assert_eq!(block_on(unixfs::walk(&blocks, root, &WalkOptions::default()).count()), 61);
    // A byte under a thousand nodes, and nothing under a thousand folders.
    let (mut deep, mut inner) = (raw(&blocks, b"x"), folder(&blocks, &[]));
    for _ in 0..1000 {
        deep = file(&blocks, &[(deep, 1)], 1);
        inner = folder(&blocks, &[("a", inner)]);
    }
    let refused = block_on(unixfs::read_all(&blocks, deep, 1 << 20));
    assert!(matches!(refused, Err(ReadError::OverLimit { what: "levels", .. })));
    assert!(export(&blocks, inner, &MemoryDisk::new(), &ExportOptions::default()).is_err());
    assert_eq!(block_on(unixfs::walk(&blocks, inner, &WalkOptions::default()).count()), 1001);
}

#[test]
fn hostile_shards_are_refused() {
    let blocks = store();
    let leaf = raw(&blocks, b"x");
    let shard = |fanout: u64, bits: &[u8], names: &[&str]| {
        let data = UnixFs {
            data: Some(Bytes::copy_from_slice(bits)),
            hash_type: Some(0x22),
            fanout: Some(fanout),
            ..UnixFs::new(Kind::Shard)
        };
        let links = names.iter().map(|name| Link { cid: leaf, name: (*name).into(), tsize: 1 }).collect();
        put(&blocks, Node { links, data: Some(data.encode()) })
    };
    // The hash of `a` begins with 0x85.
    let mut bits = [0; 17];
    bits[0] = 1 << 5;
    assert_eq!(block_on(unixfs::entries(&blocks, shard(256, &bits, &["85a"]), 10)).unwrap()[0].name, "a");
    let misplaced = block_on(unixfs::entries(&blocks, shard(256, &[2], &["01a"]), 10));
    assert!(matches!(misplaced, Err(ReadError::Malformed { .. })), "{misplaced:?}");
    for root in [
        shard(0, &[], &[]),
        shard(7, &[2], &["1a"]),
        shard(1 << 40, &[2], &["01a"]),
        shard(2048, &[2], &["001a"]),
        shard(256, &[2; 33], &["01a"]),
        shard(256, &[6], &["01a"]),
        shard(256, &[2], &["02a"]),
        shard(256, &[2], &["1"]),
        shard(256, &[0x04, 0], &["0aa"]),
        shard(256, &[2], &["01a", "01b"]),
        shard(256, &[6], &["02a", "01b"]),
        shard(256, &[2], &["é1"]),
    ] {
        for refused in [
            block_on(unixfs::entries(&blocks, root, 10)).map(drop),
            block_on(unixfs::lookup(&blocks, root, "a")).map(drop),
        ] {
            assert!(matches!(refused, Err(ReadError::Malformed { .. })), "{refused:?}");
        }
    }
    // Shards in shards without end.
    let mut root = shard(256, &[], &[]);
    for _ in 0..20 {
        let data = UnixFs {
            data: Some(Bytes::from_static(&[1])),
            hash_type: Some(0x22),
            fanout: Some(256),
            ..UnixFs::new(Kind::Shard)
        };
        root = put(
            &blocks,
            Node { links: vec![Link { cid: root, name: "00".into(), tsize: 1 }], data: Some(data.encode()) },
        );
    }
    assert!(matches!(block_on(unixfs::entries(&blocks, root, 10)), Err(ReadError::Malformed { .. })));
}

#[test]
fn a_few_shards_that_are_linked_many_times_end_at_once() {
    let blocks = store();
    let leaf = raw(&blocks, b"x");
    let shard = |links: Vec<Link>| {
        let data = UnixFs {
            data: Some(Bytes::copy_from_slice(if links.is_empty() { &[] } else { &[0xff; 32] })),
            hash_type: Some(0x22),
            fanout: Some(256),
            ..UnixFs::new(Kind::Shard)
        };
        put(&blocks, Node { links, data: Some(data.encode()) })
    };
    let all = |cid: Cid, name: &str| {
        let link = |index| Link { cid, name: format!("{index:02X}{name}"), tsize: 1 };
        shard((0..256).map(link).collect())
    };
    for mut root in [shard(Vec::new()), all(leaf, "one name in all places")] {
        for _ in 0..7 {
            root = all(root, "");
        }
        let refused = block_on(unixfs::entries(&blocks, root, 1 << 20));
        assert!(matches!(refused, Err(ReadError::Malformed { .. })), "{refused:?}");
    }
    // A folder without entries may be one empty shard.
    assert_eq!(block_on(unixfs::entries(&blocks, shard(Vec::new()), 10)).unwrap(), []);
}
