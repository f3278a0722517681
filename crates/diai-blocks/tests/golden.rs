//! The CIDs that Kubo 0.43 gives with `ipfs add -r --only-hash` under the profile `unixfs-v1-2025`. Byte `i` of a file is
//! `i % 251` where nothing else is said.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::sync::Arc;

use diai_blocks::{
    BlockStore, Cid, MemoryStore,
    unixfs::{self, ImportOptions, Kind, Profile},
};
use diai_core::{Disk, OpenMode, memory::MemoryDisk, os::ThreadPool};
use futures::executor::block_on;

fn store() -> BlockStore {
    BlockStore::new(Arc::new(MemoryStore::new(1 << 30)), Arc::new(ThreadPool::new(2)))
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251) as u8).collect()
}

fn write(disk: &MemoryDisk, path: &str, content: &[u8]) {
    disk.open(path, OpenMode::CreateNew).unwrap().write_at(0, content).unwrap();
}

fn import(disk: &MemoryDisk, path: &str, hidden: bool) -> (BlockStore, Cid) {
    let blocks = store();
    let options = ImportOptions { hidden, ..ImportOptions::default() };
    let imported = block_on(unixfs::import_path(&blocks, Arc::new(disk.clone()), path, &options)).unwrap();
    let root = imported.root();
    (blocks, root)
}

#[test]
fn files_of_sizes_around_a_chunk_have_kubos_cids() {
    for (bytes, cid) in [
        (0, "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"),
        (1, "bafkreidogqfzz75tpkmjzjke425xqcrmpcib2p5tg44hnbirumdbpl5adu"),
        (1 << 20, "bafkreidddocae7lltzjlkooe5a3tmiwsgazn7logjvqk7bzttsidpzhxne"),
        ((1 << 20) + 1, "bafybeidjogjfwuhbzwopgd4bn3skcf5m6oz72xshywcndzxgqb623nfclu"),
        (5 << 20, "bafybeif3cqzr34eco3pr3jiypjq5j5ine35czekpyoa6q5uvwecywczeem"),
    ] {
        let disk = MemoryDisk::new();
        write(&disk, "file", &pattern(bytes));
        assert_eq!(import(&disk, "file", false).1.to_string(), cid, "{bytes} bytes");
    }
}

#[test]
fn a_file_of_three_levels_has_kubos_cid() {
    // With `--chunker size-1024`: 1,025 chunks, one more than a node has links.
    let profile = Profile { chunk_bytes: 1024, ..Profile::default() };
    let options = ImportOptions { profile, ..ImportOptions::default() };
    let blocks = store();
    let imported = block_on(unixfs::import_reader(&blocks, &pattern((1 << 20) + 1)[..], &options)).unwrap();
    assert_eq!(imported.root().to_string(), "bafybeiesdinqbsa6kyvsc7d73ukuihhgxehslqkbwvcpgj76zerkzlguzm");
}

#[test]
fn a_folder_with_all_kinds_of_entries_has_kubos_cid() {
    let disk = MemoryDisk::new();
    for folder in ["three/sub", "three/empty"] {
        disk.create_folder(folder).unwrap();
    }
    write(&disk, "three/a", &pattern(1));
    write(&disk, "three/b", &pattern((1 << 20) + 1));
    write(&disk, "three/sub/c", &pattern(300));
    write(&disk, "three/.hidden", &pattern(5));
    disk.create_link("three/link", "a").unwrap();
    assert_eq!(
        import(&disk, "three", false).1.to_string(),
        "bafybeigikagtxfqdwehxlav5surj4mqsgf2bsafno6obwu33uyrq3blnp4"
    );
    assert_eq!(
        import(&disk, "three", true).1.to_string(),
        "bafybeid3sr57rxounxx2o3kbae7pelnmdj7pg7b47c63zetkgfhq7jrofu"
    );
}

#[test]
fn a_folder_of_10_000_entries_is_sharded_as_kubo_does() {
    let disk = MemoryDisk::new();
    disk.create_folder("many").unwrap();
    for number in 0..10_000 {
        write(&disk, &format!("many/file-{number:05}"), number.to_string().as_bytes());
    }
    let (blocks, root) = import(&disk, "many", false);
    assert_eq!(root.to_string(), "bafybeiajkvj2mojnpcezthjg7oub5ji7td4sef2ozcqmhdht65tkxnb7cu");
    let entries = block_on(unixfs::entries(&blocks, root, 10_000)).unwrap();
    assert!(entries.iter().map(|entry| entry.name.clone()).eq((0..10_000).map(|number| format!("file-{number:05}"))));
    let one = block_on(unixfs::resolve(&blocks, root, "file-07654")).unwrap();
    assert_eq!(block_on(unixfs::read_all(&blocks, one, 10)).unwrap(), b"7654");
}

#[test]
fn a_folder_is_sharded_at_the_same_byte_as_kubos() {
    // Its one block would have 262,144 bytes, the limit, and one more.
    for (filler, cid) in [
        (91, "bafybeigxrx4px5n5j4nbdl7idziamemiuihg6bzdblvlit3oiwlpucp664"),
        (92, "bafybeibr4uqnjuzlzijy7c3xtyjky75uggxwyz2weko2uci7ss2cr2n63q"),
    ] {
        let disk = MemoryDisk::new();
        disk.create_folder("edge").unwrap();
        for number in 0..5341 {
            write(&disk, &format!("edge/n{number:04}"), b"x");
        }
        write(&disk, &format!("edge/{}", "y".repeat(filler)), b"x");
        write(&disk, &format!("edge/{}", "y".repeat(249)), b"x");
        let (blocks, root) = import(&disk, "edge", false);
        assert_eq!(root.to_string(), cid, "{filler}");
        assert_eq!(block_on(unixfs::stat(&blocks, root)).unwrap().kind, Kind::Folder);
    }
}
