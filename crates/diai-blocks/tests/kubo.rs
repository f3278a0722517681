//! Real Kubo is the judge: it and this crate give random trees the same CIDs, and each reads what the other wrote. Runs
//! where the variable `DIAI_KUBO` names a Kubo binary (0.43 or later); says that it was skipped elsewhere.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod kubo_peer;
mod tree;

use std::{collections::BTreeMap, sync::Arc};

use diai_blocks::{
    BlockStore, MemoryStore,
    unixfs::{self, ExportOptions, ImportOptions, Leaves, Profile},
};
use diai_core::{Offload, memory::MemoryDisk, os::ThreadPool};
use futures::executor::block_on;
use kubo_peer::Kubo;
use proptest::{
    prelude::*,
    test_runner::{TestCaseError, TestRunner},
};
use tree::{Tree, read, write};

fn pool() -> Arc<dyn Offload> {
    Arc::new(ThreadPool::new(2))
}

fn store() -> BlockStore {
    BlockStore::new(Arc::new(MemoryStore::new(4 << 30)), pool())
}

fn content(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

fn name() -> impl Strategy<Value = String> {
    let scripts = prop_oneof![
        "[a-zA-Z0-9 ._~%#?+=@!(){}'-]{1,12}",
        "[äßéñ字漢かな🦀한글ไทยעבריתالعربيةहिन्दीЖукωΣ\u{301}]{1,12}",
        "[a-z]{230,255}",
    ];
    // Names that some system cannot hold are refused when they are written, so they are none of these.
    let reserved = |stem: &str| ["con", "prn", "aux", "nul"].contains(&stem.to_ascii_lowercase().as_str());
    scripts.prop_filter("a name of this system", move |name: &String| {
        !matches!(name.as_str(), "." | "..")
            && name.len() <= 255
            && !reserved(name.split('.').next().unwrap().trim_end())
    })
}

/// Sizes around each limit of `profile`, and small ones.
fn file(profile: &Profile) -> impl Strategy<Value = Tree> + use<> {
    let chunk = profile.chunk_bytes;
    let limits = prop::sample::select(vec![0, 1, chunk - 1, chunk, chunk + 1, 2 * chunk, 2 * chunk + 1]);
    let size = prop_oneof![20 => 0usize..3000, 1 => limits];
    (size, any::<u64>()).prop_map(|(bytes, seed)| Tree::File(content(bytes, seed)))
}

fn small() -> impl Strategy<Value = Tree> {
    (0usize..20, any::<u64>()).prop_map(|(bytes, seed)| Tree::File(content(bytes, seed)))
}

fn folder(entries: impl Into<BTreeMap<String, Tree>>) -> Tree {
    Tree::Folder(entries.into())
}

/// Bushy, deep, wide around the threshold, and many small.
fn tree(profile: &Profile) -> impl Strategy<Value = Tree> + use<> {
    let leaf = prop_oneof![6 => file(profile), 1 => "[a-z]{1,8}(/[a-z]{1,3})?".prop_map(Tree::Link)];
    let bushy =
        leaf.prop_recursive(4, 40, 8, |inner| prop::collection::btree_map(name(), inner, 0..8).prop_map(folder));
    let deep = (1usize..100, small(), "[a-zé]{1,6}").prop_map(|(depth, leaf, name)| {
        (0..depth).fold(leaf, |inner, level| folder([(format!("{name}{}", level % 7), inner)]))
    });
    let wide = (800usize..960, 200usize..250, small()).prop_map(|(count, length, leaf)| {
        let name = |number: usize| format!("{number:04}{}", "x".repeat(length));
        folder((0..count).map(|number| (name(number), leaf.clone())).collect::<BTreeMap<_, _>>())
    });
    let many = prop::collection::btree_map("[a-z0-9é字]{1,10}", small(), 0..1500).prop_map(folder);
    let any = prop_oneof![4 => bushy, 1 => deep, 2 => wide, 1 => many];
    any.prop_map(|tree| folder([("in".to_owned(), tree)]))
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 20,
        ..ProptestConfig::with_cases(cases)
    })
}

/// Both have the same CID for `tree`, and each reads what the other wrote.
fn agree(
    kubo: &Kubo,
    reader: &Kubo,
    tree: &Tree,
    options: &ImportOptions,
    flags: &[&str],
) -> Result<(), TestCaseError> {
    let disk = Arc::new(kubo.scratch());
    write(&*disk, "tree", tree);
    let root = kubo.add(&disk.root().join("tree"), flags);
    let blocks = store();
    let imported = block_on(unixfs::import_path(&blocks, disk.clone(), "tree", options)).unwrap();
    prop_assert_eq!(imported.root(), root);

    let theirs = store();
    block_on(theirs.put_many(kubo.export(root))).unwrap();
    let memory = MemoryDisk::new();
    let exporting = ExportOptions { outside_links: true, ..ExportOptions::default() };
    block_on(unixfs::export(&theirs, root, Arc::new(memory.clone()), "out", &pool(), &exporting)).unwrap();
    prop_assert_eq!(&read(&memory, "out"), tree);

    reader.import(root, &blocks);
    reader.get(root, &disk.root().join("out"));
    prop_assert_eq!(&read(&*disk, "out"), tree);
    Ok(())
}

fn both_agree_on_random_trees(profile: Profile, name: &str) {
    let Some((kubo, reader)) = Kubo::pair(name) else { return };
    let options = ImportOptions { hidden: true, ..ImportOptions::profile(profile.clone()) };
    runner(24).run(&tree(&profile), |tree| agree(&kubo, &reader, &tree, &options, &["--hidden"])).unwrap();
}

#[test]
fn random_trees_under_the_profile_of_2025() {
    both_agree_on_random_trees(Profile::UNIXFS_V1_2025, "unixfs-v1-2025");
}

#[test]
fn random_trees_under_the_profile_of_2015() {
    both_agree_on_random_trees(Profile::UNIXFS_V0_2015, "unixfs-v0-2015");
}

#[test]
fn random_trees_with_permissions_and_times() {
    let Some((kubo, reader)) = Kubo::pair("unixfs-v0-2015-kept") else { return };
    let profile = Profile { chunk_bytes: 1000, ..Profile::UNIXFS_V0_2015 };
    let options = ImportOptions { hidden: true, mode: true, mtime: true, ..ImportOptions::profile(profile.clone()) };
    let flags = ["--hidden", "--preserve-mode", "--preserve-mtime", "--chunker", "size-1000"];
    runner(8).run(&tree(&profile), |tree| agree(&kubo, &reader, &tree, &options, &flags)).unwrap();
}

#[test]
fn random_settings_of_files() {
    let Some((kubo, reader)) = Kubo::pair("unixfs-v1-2025-mixed") else { return };
    let settings = (1usize..400, 2usize..12, any::<bool>(), 0usize..20_000, any::<u64>());
    let check = |(chunk_bytes, width, raw, bytes, seed): (usize, usize, bool, usize, u64)| {
        let leaves = if raw { Leaves::Raw } else { Leaves::DagPb };
        let profile = Profile { chunk_bytes, width, leaves, ..Profile::UNIXFS_V1_2025 };
        let flags = [
            format!("--chunker=size-{chunk_bytes}"),
            format!("--max-file-links={width}"),
            format!("--raw-leaves={raw}"),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        agree(&kubo, &reader, &Tree::File(content(bytes, seed)), &ImportOptions::profile(profile), &flags)
    };
    runner(16).run(&settings, check).unwrap();
}

#[test]
fn random_trickle_files_are_read() {
    let Some((kubo, _)) = Kubo::pair("unixfs-v0-2015-trickle") else { return };
    let check = |(chunk_bytes, width, raw, bytes, seed): (usize, usize, bool, usize, u64)| {
        let disk = kubo.scratch();
        let content = content(bytes, seed);
        write(&disk, "file", &Tree::File(content.clone()));
        let flags = [
            "--trickle".to_owned(),
            format!("--chunker=size-{chunk_bytes}"),
            format!("--max-file-links={width}"),
            format!("--raw-leaves={raw}"),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let root = kubo.add(&disk.root().join("file"), &flags);
        let blocks = store();
        block_on(blocks.put_many(kubo.export(root))).unwrap();
        prop_assert!(block_on(unixfs::read_all(&blocks, root, bytes as u64)).unwrap() == content);
        Ok(())
    };
    runner(12).run(&(1usize..400, 2usize..12, any::<bool>(), 0usize..20_000, any::<u64>()), check).unwrap();
}
