//! Permissions and times are written, read, and restored when asked; and what else a file's nodes may hold.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::sync::Arc;

use bytes::Bytes;
use diai_blocks::{
    Block, BlockStore, DAG_PB, MemoryStore, RAW,
    dag_pb::{Link, Node},
    unixfs::{self, DataError, ExportOptions, ImportOptions, Kind, Profile, UnixFs},
};
use diai_core::{
    Disk, FileAttributes, FileTime, Offload, OpenMode,
    memory::MemoryDisk,
    os::{FsDisk, ThreadPool},
};
use futures::executor::block_on;

fn pool() -> Arc<dyn Offload> {
    Arc::new(ThreadPool::new(2))
}

fn store() -> BlockStore {
    BlockStore::new(Arc::new(MemoryStore::new(1 << 30)), pool())
}

fn attributes(mode: u32, seconds: i64, nanos: u32) -> FileAttributes {
    FileAttributes { mode: Some(mode), mtime: Some(FileTime { seconds, nanos }) }
}

fn keeping() -> ImportOptions {
    ImportOptions { mode: true, mtime: true, ..ImportOptions::profile(Profile::UNIXFS_V0_2015) }
}

fn sample(disk: &dyn Disk) {
    disk.create_folder("in/sub").unwrap();
    disk.open("in/sub/file", OpenMode::CreateNew).unwrap().write_at(0, &[7; 600_000]).unwrap();
    disk.open("in/small", OpenMode::CreateNew).unwrap().write_at(0, b"small").unwrap();
    disk.create_link("in/link", "small").unwrap();
    for (path, attributes) in [
        ("in/sub/file", attributes(0o640, -28_670_094, 500_000_000)),
        ("in/small", attributes(0o4755, 981_173_106, 0)),
        ("in/sub", attributes(0o500, 5, 7)),
        ("in", attributes(0o700, 0, 0)),
    ] {
        disk.set_attributes(path, attributes).unwrap();
    }
}

#[test]
fn permissions_and_times_come_back_only_when_asked_and_never_more_than_nine_bits() {
    let folder = concat!(env!("CARGO_TARGET_TMPDIR"), "/unixfs-attributes");
    let _ = std::fs::remove_dir_all(folder);
    for disk in [Arc::new(MemoryDisk::new()) as Arc<dyn Disk>, Arc::new(FsDisk::open(folder).unwrap())] {
        sample(&*disk);
        let blocks = store();
        let root = block_on(unixfs::import_path(&blocks, disk.clone(), "in", &keeping())).unwrap().root();
        let export = |target: &str, options: ExportOptions| {
            block_on(unixfs::export(&blocks, root, disk.clone(), target, &pool(), &options)).unwrap();
        };
        export("plain", ExportOptions::default());
        assert_ne!(disk.attributes("plain/sub/file").unwrap(), disk.attributes("in/sub/file").unwrap());
        export("out", ExportOptions { attributes: true, ..ExportOptions::default() });
        for path in ["sub/file", "sub", ""] {
            let [found, wanted] = ["out", "in"].map(|root| disk.attributes(&format!("{root}/{path}")).unwrap());
            assert_eq!(found, wanted, "{path:?}");
        }
        assert_eq!(disk.attributes("out/small").unwrap(), attributes(0o755, 981_173_106, 0));
        assert_eq!(disk.read_link("out/link").unwrap(), "small");
        let again = block_on(unixfs::import_path(&blocks, disk.clone(), "in", &ImportOptions::default())).unwrap();
        let stat = block_on(unixfs::stat(&blocks, again.root())).unwrap();
        assert_eq!(stat.attributes, FileAttributes::default());
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn times_are_encoded_as_kubo_does_and_malformed_ones_refused() {
    // The target `a`, at 2001-02-03 04:05:06; and a folder with 0755 half a second before 1969-02-03 04:05:07.
    let link = UnixFs {
        data: Some("a".into()),
        mtime: Some(FileTime { seconds: 981_173_106, nanos: 0 }),
        ..UnixFs::new(Kind::Symlink)
    };
    assert_eq!(link.encode()[..], b"\x08\x04\x12\x01a\x42\x06\x08\xf2\x86\xee\xd3\x03"[..]);
    let folder = UnixFs::new(Kind::Folder).with(attributes(0o750, -28_670_094, 500_000_000));
    let encoded = b"\x08\x01\x38\xe8\x03\x42\x10\x08\xf2\x8e\xaa\xf2\xff\xff\xff\xff\xff\x01\x15\x00\x65\xcd\x1d";
    assert_eq!(folder.encode()[..], encoded[..]);
    assert_eq!(UnixFs::decode(&folder.encode()), Ok(folder));
    for mtime in [&b""[..], b"\x15\x00\x00\x00\x00", b"\x08", b"\x08\x01\x15\x00", b"\x08\x01\x08\x01", b"\x10\x01"] {
        let bytes = [b"\x08\x01\x42", &[mtime.len() as u8][..], mtime].concat();
        assert_eq!(UnixFs::decode(&bytes.into()), Err(DataError::Field), "{mtime:?}");
    }
    // What has no meaning is read, and not passed on.
    let odd = UnixFs::new(Kind::Folder).with(attributes(0o100_644, 1, u32::MAX));
    let read = UnixFs::decode(&odd.encode()).unwrap();
    assert_eq!(read.attributes(), FileAttributes { mode: Some(0o644), mtime: None });
}

#[test]
fn a_file_may_have_content_beside_its_links_and_leaves_of_every_form() {
    let blocks = store();
    let put = |codec: u64, data: Vec<u8>| {
        let block = Block::new(codec, data).unwrap();
        block_on(blocks.put(block.clone())).unwrap();
        block.cid
    };
    let leaf = |kind: Kind, content: &'static str, filesize: bool| {
        let filesize = filesize.then_some(content.len() as u64);
        let data = UnixFs { data: Some(content.into()), filesize, ..UnixFs::new(kind) };
        put(DAG_PB, Node { links: Vec::new(), data: Some(data.encode()) }.encode())
    };
    let node = |own: &'static str, parts: &[diai_blocks::Cid], sizes: &[u64]| {
        let data = UnixFs {
            data: Some(own.into()),
            filesize: Some(own.len() as u64 + sizes.iter().sum::<u64>()),
            blocksizes: sizes.to_vec(),
            ..UnixFs::new(Kind::File)
        };
        let links = parts.iter().map(|cid| Link { cid: *cid, name: String::new(), tsize: 0 }).collect();
        put(DAG_PB, Node { links, data: Some(data.encode()) }.encode())
    };
    let inner = node("[in]", &[leaf(Kind::Raw, "raw-kind,", true), put(RAW, b"raw,".to_vec())], &[9, 4]);
    let parts = [leaf(Kind::File, "file,", true), inner, leaf(Kind::File, "sizeless", false)];
    let root = node("own ", &parts, &[5, 17, 8]);
    let content = b"own file,[in]raw-kind,raw,sizeless";
    assert_eq!(block_on(unixfs::read_all(&blocks, root, 100)).unwrap(), content);
    for from in 0..content.len() {
        for to in from..=content.len() {
            use futures::TryStreamExt;
            let range = unixfs::read_range(&blocks, root, from as u64..to as u64);
            let read: Vec<Bytes> = block_on(range.try_collect()).unwrap();
            assert_eq!(read.concat(), &content[from..to], "{from}..{to}");
        }
    }
}

#[test]
fn sizes_may_be_packed() {
    let plain = UnixFs { filesize: Some(300), blocksizes: vec![100, 200], ..UnixFs::new(Kind::File) };
    let packed = Bytes::from_static(b"\x08\x02\x18\xac\x02\x22\x03\x64\xc8\x01");
    assert_eq!(UnixFs::decode(&packed), Ok(plain));
    assert_eq!(UnixFs::decode(&Bytes::from_static(b"\x08\x02\x22\x01\x80")), Err(DataError::Field));
}
