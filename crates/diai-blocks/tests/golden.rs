//! The CIDs that Kubo 0.43 gives with `ipfs add -r` under both profiles. Byte `i` of a file is `i % 251` where nothing else
//! is said; what differs from the profile is said beside the recipe.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::sync::Arc;

use diai_blocks::{
    Block, BlockStore, Cid, CidVersion, DAG_PB, MemoryStore, RAW,
    dag_pb::{Link, Node},
    unixfs::{self, ImportOptions, Kind, Leaves, MAX_CHUNK_BYTES, Profile, UnixFs},
};
use diai_core::{Disk, FileAttributes, FileTime, OpenMode, memory::MemoryDisk, os::ThreadPool};
use futures::executor::block_on;

const NEW: Profile = Profile::UNIXFS_V1_2025;
const OLD: Profile = Profile::UNIXFS_V0_2015;

fn store() -> BlockStore {
    BlockStore::new(Arc::new(MemoryStore::new(1 << 30)), Arc::new(ThreadPool::new(2)))
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251) as u8).collect()
}

fn write(disk: &MemoryDisk, path: &str, content: &[u8]) {
    disk.open(path, OpenMode::CreateNew).unwrap().write_at(0, content).unwrap();
}

fn import_with(disk: &MemoryDisk, path: &str, options: &ImportOptions) -> (BlockStore, Cid) {
    let blocks = store();
    let imported = block_on(unixfs::import_path(&blocks, Arc::new(disk.clone()), path, options)).unwrap();
    let root = imported.root();
    (blocks, root)
}

fn import(disk: &MemoryDisk, path: &str, hidden: bool) -> (BlockStore, Cid) {
    import_with(disk, path, &ImportOptions { hidden, ..ImportOptions::default() })
}

/// The root of a file, which comes back as it was, from a disk and from a reader.
fn file(bytes: usize, profile: &Profile) -> String {
    let (disk, content) = (MemoryDisk::new(), pattern(bytes));
    write(&disk, "file", &content);
    let options = ImportOptions::profile(profile.clone());
    let (blocks, root) = import_with(&disk, "file", &options);
    assert!(block_on(unixfs::read_all(&blocks, root, bytes as u64)).unwrap() == content, "{bytes} bytes");
    assert_eq!(block_on(unixfs::import_reader(&blocks, &content[..], &options)).unwrap().root(), root);
    root.to_string()
}

fn folder(disk: &MemoryDisk, path: &str) -> [String; 2] {
    [NEW, OLD].map(|profile| import_with(disk, path, &ImportOptions::profile(profile)).1.to_string())
}

#[test]
fn files_of_sizes_around_a_chunk_have_kubos_cids() {
    for (bytes, cid) in [
        (0, "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"),
        (1, "bafkreidogqfzz75tpkmjzjke425xqcrmpcib2p5tg44hnbirumdbpl5adu"),
        (1_048_575, "bafkreielkxdkfu2eicjkgfuykayoada6n6dar2xzclejnxxhyn2niqhnce"),
        (1_048_576, "bafkreidddocae7lltzjlkooe5a3tmiwsgazn7logjvqk7bzttsidpzhxne"),
        (1_048_577, "bafybeidjogjfwuhbzwopgd4bn3skcf5m6oz72xshywcndzxgqb623nfclu"),
        (5_242_887, "bafybeihy7bim22kxffmtbte3avvzbwyyyjidvhaebjckpy4xkkxtuwdwga"),
    ] {
        assert_eq!(file(bytes, &NEW), cid, "{bytes} bytes");
    }
    for (bytes, cid) in [
        (0, "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH"),
        (1, "QmS9JArPwa55ePgDnyg6TzX24mYTS1b1vLqWNebyVotKxQ"),
        (262_143, "QmRfm83kqBpGJbGxJg1en9hpwq8eNnP4E2Dj8K73F4m983"),
        (262_144, "QmeqfRyS3vkku7n6krqC3DgGMex3x2sCpSeKMDmrG13QQq"),
        (262_145, "QmUSjGawaz4ptvREcMKSMJneWCa5j8dAz2wSAAvHtW2rnB"),
        (1_310_727, "QmNZyqnkJXRNzUhaaauwr66dr9mcDyRkGg6wQ1RzJvebGA"),
    ] {
        assert_eq!(file(bytes, &OLD), cid, "{bytes} bytes");
    }
}

#[test]
fn files_of_sizes_around_a_full_node_have_kubos_cids() {
    // With `--chunker size-...`.
    for (chunk_bytes, bytes, cid) in [
        (16, 16_384, "bafybeifczdqstytics5dcatqxpt37sagocmudmp2jjsor3uul3326wx6we"),
        (16, 16_385, "bafybeicp36ggd4ooej4aftjhwk2ntk6mnffeb2vckqpqwmddmz7nndwhwa"),
        (16, 32_768, "bafybeigpgjroepixhvxfc4vvauiqeoaqjcp62hxk34eyltq5arcd73bxpq"),
        (1024, 1_048_577, "bafybeiesdinqbsa6kyvsc7d73ukuihhgxehslqkbwvcpgj76zerkzlguzm"),
    ] {
        assert_eq!(file(bytes, &Profile { chunk_bytes, ..NEW }), cid, "{bytes} bytes");
    }
    for (chunk_bytes, bytes, cid) in [
        (16, 2784, "Qme74tGUEq2c2zchW7rU44GZYTjL26VzMsqh9NBk6oWxyz"),
        (16, 2785, "QmZ2udiRewkni7HfXoL8vnYF9Vuyjp5y6KVhvGLiD1kbQc"),
        (16, 5568, "QmWmeiMJKZEXNXLGaeztwTaPArtLncNt1q3nWfLftYppq5"),
        (1024, 178_177, "QmVy7qLxyTg5DAVHUXUyux7Vp5DvGeEdopNhvvxjJZ6VFj"),
        (16, 16 * 174 * 174 + 1, "QmVnbnCgRdVFBQjgwkRQzHvLch1fU7H97Tyk4kNYe5DNzR"),
    ] {
        assert_eq!(file(bytes, &Profile { chunk_bytes, ..OLD }), cid, "{bytes} bytes");
    }
}

#[test]
fn chunks_leaves_widths_and_versions_can_be_mixed_as_in_kubo() {
    for (profile, bytes, cid) in [
        (
            Profile { chunk_bytes: MAX_CHUNK_BYTES, ..NEW },
            MAX_CHUNK_BYTES + 1,
            "bafybeie5lz5vdlzxfsvk444minpi2taiydqszuvqjqipm7wbnsiijtuuim",
        ),
        (
            Profile { chunk_bytes: MAX_CHUNK_BYTES, ..OLD },
            MAX_CHUNK_BYTES + 1,
            "QmcQTVfbSPS6aD856DzNffch2HSmWB127Q5Z8Swr6R39Yp",
        ),
        (
            Profile { chunk_bytes: 1024, leaves: Leaves::Raw, ..OLD },
            3072,
            "QmSEb9Gpu5z2M59jaerVBB8VdYTrPcqKKACmDMyu3qUTDT",
        ),
        (
            Profile { chunk_bytes: 1024, leaves: Leaves::DagPb, ..NEW },
            3072,
            "bafybeibi7uktxu7ypdxu3r6fdko6ejmulox4smxpqnhb3i5qudw5mnmzjq",
        ),
        (
            Profile { chunk_bytes: 100, width: 5, ..NEW },
            3072,
            "bafybeifwfuo3oz7jomg5uwju2slu6rbmnpv3p4nkeraeaitbxlnzoqstsu",
        ),
    ] {
        assert_eq!(file(bytes, &profile), cid, "{profile:?}");
    }
    assert_eq!(OLD.cid_version, CidVersion::V0);
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
fn nested_folders_have_kubos_cids() {
    let disk = MemoryDisk::new();
    for folder in ["void", "nest/a/b/c/d/e", "nest/empty", "nest/a/empty"] {
        disk.create_folder(folder).unwrap();
    }
    write(&disk, "nest/a/b/c/d/e/deep", &pattern(1000));
    write(&disk, "nest/a/b/file", &pattern(70));
    write(&disk, "nest/top", b"");
    write(&disk, "nest/.hidden", &pattern(5));
    disk.create_link("nest/link", "a/b/file").unwrap();
    disk.create_link("nest/a/out", "../nowhere").unwrap();
    assert_eq!(
        folder(&disk, "void"),
        [
            "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354",
            "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn"
        ]
    );
    assert_eq!(
        folder(&disk, "nest"),
        [
            "bafybeibbm6j65ec52kazp6vdrwdh3hzik4bqmvzflqcdabkezczmgsiyre",
            "QmSZM5E9Ax2VYhRZtRHoaVj5xFVGAYNNYicwuw9FUFr8mh"
        ]
    );
    let hidden = |profile| {
        let options = ImportOptions { hidden: true, ..ImportOptions::profile(profile) };
        import_with(&disk, "nest", &options).1.to_string()
    };
    assert_eq!(
        [NEW, OLD].map(hidden),
        [
            "bafybeifunn3frn765clilkybwbci2hiurxdwz2mismk6xn27teiy2tdbpq",
            "QmcguTXXs49Vpj95mLnVGjfQHPvt1VedWHPvxNQc9kJKiY"
        ]
    );
}

#[test]
fn names_of_every_script_are_sorted_as_kubo_does() {
    let disk = MemoryDisk::new();
    disk.create_folder("scripts").unwrap();
    let names = [
        "a",
        "Z",
        "0",
        "ä",
        "字",
        "🦀",
        "한글",
        "ไทย",
        "עברית",
        "العربية",
        "देवनागरी",
        "русский",
        "ελληνικά",
        "a b",
        "a.b",
        "-x",
        "~",
        "Ａ",
        "e\u{301}",
        "é",
        "zz",
        "%20",
        "#",
        "?",
    ];
    for (bytes, name) in names.iter().enumerate() {
        write(&disk, &format!("scripts/{name}"), &pattern(bytes));
    }
    assert_eq!(
        folder(&disk, "scripts"),
        [
            "bafybeihfxlgzvjlw4xbrfpf5p75iujq2btpia6azdmnkbb4w2tljcgouiq",
            "QmSmhbYoMxuvd9aLibXkJGkA7kwPD8LNCCUpKrzhJu5Kew"
        ]
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
    // Its names and CIDs have 262,144 bytes, and one more.
    for (filler, shards, cid) in [
        (69, false, "QmSWoD84rx2BtUBynqfeVSrbfgdS6WdFZM54nzeUNEYZXx"),
        (70, true, "QmV8rWML9cP9GafH8JxJLiuxuAT27Ey6xeoK9wYizhc1GG"),
    ] {
        let disk = MemoryDisk::new();
        disk.create_folder("edge").unwrap();
        for number in 0..6719 {
            write(&disk, &format!("edge/n{number:04}"), b"x");
        }
        write(&disk, &format!("edge/{}", "y".repeat(filler)), b"x");
        let (blocks, root) = import_with(&disk, "edge", &ImportOptions::profile(OLD));
        assert_eq!(root.to_string(), cid, "{filler}");
        let data = block_on(blocks.get(&root)).unwrap().unwrap();
        let kind = UnixFs::decode(&Node::decode(&data).unwrap().data.unwrap()).unwrap().kind;
        assert_eq!(kind == Kind::Shard, shards);
    }
}

#[test]
fn shards_of_every_width_are_kubos() {
    // With `Import.UnixFSHAMTDirectoryMaxFanout` and a threshold of 1 KiB.
    let disk = MemoryDisk::new();
    disk.create_folder("many").unwrap();
    for bytes in 0..100 {
        write(&disk, &format!("many/file {bytes}"), &pattern(bytes));
    }
    for (fanout, new, old) in [
        (
            8,
            "bafybeigt5wfu5tancjuzkf5mmguohgr6other5bwd3ybpah6e7e2ioto7y",
            "QmUFPi1YReEBduP13HE241S7VPrfjzmrRaheRZ6BikrQ9c",
        ),
        (
            16,
            "bafybeihjjpcn5breooay46ahkws5rkv2alcdg5rzbqd3ae5dmn5x26dcqe",
            "QmP46X263HYQpM6QSmWjghkAxt11LhP7EPoMiEA6DQd762",
        ),
        (
            256,
            "bafybeigjsq5alak75vhsohhpzzb4s73hnj52m7efyskn6mnsc3a2cnq3zi",
            "QmeQrF2MCbeqdAFphpTSMaamcKuvX4DX6963UKT5xBLr4n",
        ),
        (
            1024,
            "bafybeihia2m4d6wctjzdlozjfzo2xrqo6oirwid7pkvt3o3ftfdno3szjq",
            "QmZUbZDSuTFRj65HweN1LnRdtPzamPTAKtVzWHgZczAMbd",
        ),
    ] {
        for (profile, cid) in [(NEW, new), (OLD, old)] {
            let options = ImportOptions::profile(Profile { fanout, shard_over_bytes: 1024, ..profile });
            let (blocks, root) = import_with(&disk, "many", &options);
            assert_eq!(root.to_string(), cid, "{fanout}");
            assert_eq!(block_on(unixfs::entries(&blocks, root, 100)).unwrap().len(), 100);
            let one = block_on(unixfs::resolve(&blocks, root, "file 77")).unwrap();
            assert_eq!(block_on(unixfs::stat(&blocks, one)).unwrap().bytes, 77);
        }
    }
}

fn attributes(mode: u32, seconds: i64, nanos: u32) -> FileAttributes {
    FileAttributes { mode: Some(mode), mtime: Some(FileTime { seconds, nanos }) }
}

#[test]
fn permissions_and_times_are_kept_as_kubo_keeps_them() {
    // With `--raw-leaves=false --chunker size-1024` and `--preserve-mode`, `--preserve-mtime`.
    let disk = MemoryDisk::new();
    disk.create_folder("attr/sub").unwrap();
    write(&disk, "attr/a", b"hello");
    write(&disk, "attr/sub/b", &pattern(3000));
    write(&disk, "attr/sub/none", b"");
    for (path, attributes) in [
        ("attr/a", attributes(0o640, 981_173_106, 789_000_000)),
        ("attr/sub/b", attributes(0o644, -28_670_094, 500_000_000)),
        ("attr/sub/none", attributes(0o600, 0, 0)),
        ("attr/sub", attributes(0o750, 5, 0)),
        ("attr", attributes(0o755, 1_000_000_000, 7)),
    ] {
        disk.set_attributes(path, attributes).unwrap();
    }
    let root = |profile: Profile, mode, mtime| {
        let profile = Profile { chunk_bytes: 1024, leaves: Leaves::DagPb, ..profile };
        let options = ImportOptions { mode, mtime, ..ImportOptions::profile(profile) };
        import_with(&disk, "attr", &options)
    };
    for (profile, mode, mtime, cid) in [
        (NEW, true, false, "bafybeiafjfwbx25tkvrderpxm675c4lvzulfwsn4bcs5pyufwtlh6hrrdy"),
        (OLD, true, false, "QmV5k45DzGeRT2aZhFCfkbuy6MVSVpjs2YCHSoRgwsRGrg"),
        (NEW, false, true, "bafybeiewvaisvamdwrufw3pfmqykxb6ht73nsdwq5mubjbrnno7w5qozgu"),
        (OLD, false, true, "QmPQA3c4R4YmczamofMsuCJrqAJco787bX9oijKC25une5"),
        (NEW, true, true, "bafybeih2s4vwtdddvh2eesztqouirvqjal3cp3d5etqpvu3f74o4k2cucu"),
        (OLD, true, true, "Qme6QgebCpUTM2NsukkGzPzD25MTaycepoeaUBSujpFw3J"),
    ] {
        let (blocks, root) = root(profile, mode, mtime);
        assert_eq!(root.to_string(), cid, "{mode} {mtime}");
        let file = block_on(unixfs::resolve(&blocks, root, "sub/b")).unwrap();
        let kept = block_on(unixfs::stat(&blocks, file)).unwrap().attributes;
        let found = attributes(0o644, -28_670_094, 500_000_000);
        assert_eq!(kept, FileAttributes { mode: found.mode.filter(|_| mode), mtime: found.mtime.filter(|_| mtime) });
    }
}

#[test]
fn a_sharded_folder_keeps_its_permissions_in_its_root() {
    let disk = MemoryDisk::new();
    disk.create_folder("many").unwrap();
    disk.set_attributes("many", FileAttributes { mode: Some(0o755), mtime: None }).unwrap();
    for number in 0..60 {
        write(&disk, &format!("many/n{number}"), b"x");
        disk.set_attributes(&format!("many/n{number}"), FileAttributes { mode: Some(0o644), mtime: None }).unwrap();
    }
    for (profile, cid) in [
        (NEW, "bafybeiahtjcc4wrg5erikhso3b3rmciz5r6vefb6i2rufigabdjw2oi3ye"),
        (OLD, "Qmczs2wYtZANmLyh8V2c9LdbVqRS4tecGpBLPax1ugERLN"),
    ] {
        let profile = Profile { fanout: 8, shard_over_bytes: 1024, leaves: Leaves::DagPb, ..profile };
        let options = ImportOptions { mode: true, ..ImportOptions::profile(profile) };
        let (blocks, root) = import_with(&disk, "many", &options);
        assert_eq!(root.to_string(), cid);
        assert_eq!(block_on(unixfs::stat(&blocks, root)).unwrap().attributes.mode, Some(0o755));
    }
}

/// Writes trickle DAGs, as `ipfs add --trickle --chunker size-1024 --max-file-links ...` does.
struct Trickle<'a> {
    blocks: &'a BlockStore,
    chunks: std::vec::IntoIter<Vec<u8>>,
    profile: Profile,
}

impl Trickle<'_> {
    fn put(&self, codec: u64, data: Vec<u8>) -> Cid {
        let mut block = Block::new(codec, data).unwrap();
        if codec == DAG_PB && self.profile.cid_version == CidVersion::V0 {
            block = Block::verified(Cid::new_v0(*block.cid.hash()).unwrap(), block.data).unwrap();
        }
        block_on(self.blocks.put(block.clone())).unwrap();
        block.cid
    }

    /// A node of leaves, and below them, four times each, nodes one, two, ... levels deeper, up to `depth`.
    fn node(&mut self, depth: usize) -> (Cid, u64, u64) {
        let mut parts = Vec::new();
        while parts.len() < self.profile.width
            && let Some(chunk) = self.chunks.next()
        {
            let bytes = chunk.len() as u64;
            let (codec, data) = match self.profile.leaves {
                Leaves::Raw => (RAW, chunk),
                Leaves::DagPb => {
                    let data = UnixFs { data: Some(chunk.into()), filesize: Some(bytes), ..UnixFs::new(Kind::Raw) };
                    (DAG_PB, Node { links: Vec::new(), data: Some(data.encode()) }.encode())
                }
            };
            let length = data.len() as u64;
            parts.push((self.put(codec, data), bytes, length));
        }
        for below in (1..depth).flat_map(|depth| [depth; 4]) {
            if self.chunks.len() == 0 {
                break;
            }
            parts.push(self.node(below));
        }
        let bytes = parts.iter().map(|(_, bytes, _)| bytes).sum();
        let data = UnixFs {
            filesize: Some(bytes),
            blocksizes: parts.iter().map(|(_, bytes, _)| *bytes).collect(),
            ..UnixFs::new(Kind::File)
        };
        let links =
            parts.iter().map(|(cid, _, tsize)| Link { cid: *cid, name: String::new(), tsize: *tsize }).collect();
        let node = Node { links, data: Some(data.encode()) }.encode();
        let tsize = node.len() as u64 + parts.iter().map(|(_, _, tsize)| tsize).sum::<u64>();
        (self.put(DAG_PB, node), bytes, tsize)
    }
}

#[test]
fn trickle_files_of_kubo_are_read() {
    for (bytes, new, old, wide) in [
        (
            0,
            "bafybeif7ztnhq65lumvvtr4ekcwd2ifwgm3awq4zfr3srh462rwyinlb4y",
            "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH",
            "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH",
        ),
        (
            1,
            "bafybeiatqrf5qpcdvxj4bh574zy2fjx6u373pnxb3jhnus4mtodpg4w4f4",
            "QmcBmLQtSpKgG8TpQwKWx82bxy2PZAfYSewvQdwToBEvrj",
            "QmcBmLQtSpKgG8TpQwKWx82bxy2PZAfYSewvQdwToBEvrj",
        ),
        (
            1024,
            "bafybeif5yula2bdslm5n5st3hvdxvs5nwcg33pipyattucyb4lox7rqr7m",
            "QmPk42T9mSSnTnczy8FjD9YtUcGi9dVK5wnZTwuHqirWmr",
            "QmPk42T9mSSnTnczy8FjD9YtUcGi9dVK5wnZTwuHqirWmr",
        ),
        (
            1025,
            "bafybeiaac5l2hurqujnezj2so4aqmrmckpcexhdtxat7gu7bsirnhixr2a",
            "QmYYECYGYzLazACWjorgGDU74M5HsABkp4hPCSHXceXYnf",
            "QmYYECYGYzLazACWjorgGDU74M5HsABkp4hPCSHXceXYnf",
        ),
        (
            30_725,
            "bafybeidlqhqjx3h4qmny3rfkruxqoh2iot3uvggykcp2aolezhveapyzdi",
            "QmSkTCR1eSHfbjZ3yYSJr9Awma2GeoqADSXnaaEVdCwSri",
            "QmSbEekrkmQXQHHmp5vXzaitbEte6QgRQan4ip3csYQNaL",
        ),
        (
            204_805,
            "bafybeigo4geh4t6coqfalq73imqahvlwzmqyowz7vsec7ph5ly63es5yuu",
            "QmegmMYzcCzWFcPZBQwaWeNwCrZuefV8yeJq7e814ydnU1",
            "QmWidSALoe1qcHi3eEdKH24GQwdR9EmBJxBdeduGp5VhbS",
        ),
    ] {
        for (profile, width, cid) in [(NEW, 3, new), (OLD, 3, old), (OLD, 174, wide)] {
            let (blocks, content) = (store(), pattern(bytes));
            let chunks: Vec<Vec<u8>> = content.chunks(1024).map(<[u8]>::to_vec).collect();
            let profile = Profile { width, ..profile };
            let root = Trickle { blocks: &blocks, chunks: chunks.into_iter(), profile }.node(usize::MAX).0;
            assert_eq!(root.to_string(), cid, "{bytes} bytes, {width} wide");
            assert!(block_on(unixfs::read_all(&blocks, root, bytes as u64)).unwrap() == content);
        }
    }
}
