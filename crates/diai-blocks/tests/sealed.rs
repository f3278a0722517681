//! Sealed content: who can open it, and what happens to it on its way.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::{Agent, noise};
use diai_blocks::{
    RAW,
    handle::{AddOptions, ContentError},
    sealed::{CHUNK_BYTES, Group, OpenError},
    unixfs,
};
use diai_core::{Disk, OpenMode, memory::Sim};

fn files() -> Vec<(String, Bytes)> {
    vec![
        ("model.stl".to_owned(), noise(1, 2_500_000)),
        ("notes/empty.txt".to_owned(), Bytes::new()),
        ("notes/idea.toml".to_owned(), Bytes::from_static(b"ring = \"solitaire\"")),
    ]
}

#[test]
fn a_recipient_reads_from_any_holder_when_the_adder_is_gone() {
    let sim = Sim::new(1);
    sim.clone().run(async move {
        let (alice, bob) = (Agent::start(&sim, 1).await, Agent::start(&sim, 2).await);
        let holder = Agent::start(&sim, 3).await;
        let options = AddOptions::sealed_for(vec![bob.certificate()]);
        let cid = alice.blocks.add_files(files(), options).await.unwrap().cid;
        holder.blocks.pin(cid, &Default::default()).await.unwrap();
        sim.kill(alice.peer());
        assert_eq!(bob.blocks.open_sealed(cid, 10 << 20, bob.within(60)).await.unwrap(), files());
        bob.blocks.export_sealed(cid, bob.world.disk.clone(), "out", bob.within(60)).await.unwrap();
        let file = bob.world.disk.open("out/notes/idea.toml", OpenMode::Read).unwrap();
        assert_eq!(file.len().unwrap(), 18);
        assert!(bob.world.disk.open("out/notes/empty.txt", OpenMode::Read).unwrap().is_empty().unwrap());

        let error = holder.blocks.open_sealed(cid, 10 << 20, holder.within(60)).await.unwrap_err();
        assert!(matches!(error, ContentError::Open(OpenError::NotForYou { root }) if root == cid), "{error}");
    });
}

#[test]
fn the_adder_reads_back_what_it_sealed_for_itself_alone() {
    let sim = Sim::new(2);
    sim.clone().run(async move {
        let alice = Agent::start(&sim, 1).await;
        let options = AddOptions { private: true, ..AddOptions::default() };
        let cid = alice.blocks.add_bytes(&b"mine"[..], options).await.unwrap().cid;
        let files = alice.blocks.open_sealed(cid, 100, alice.within(5)).await.unwrap();
        assert_eq!(files, [(String::new(), Bytes::from_static(b"mine"))]);
        let error = alice.blocks.open_sealed(cid, 3, alice.within(5)).await.unwrap_err();
        assert!(matches!(error, ContentError::Open(OpenError::TooLarge { bytes: 4, limit: 3, .. })), "{error}");
    });
}

#[test]
fn a_bystander_finds_neither_name_nor_content_in_any_block() {
    let sim = Sim::new(3);
    sim.clone().run(async move {
        let (alice, eve) = (Agent::start(&sim, 1).await, Agent::start(&sim, 2).await);
        let secret = Bytes::from("the budget is four thousand".repeat(1000));
        let files = vec![("budget.txt".to_owned(), secret)];
        let options = AddOptions::sealed_for(vec![]);
        let cid = alice.blocks.add_files(files, options).await.unwrap().cid;
        eve.blocks.fetch(cid, &Default::default()).await.unwrap();
        let mut seen = 0;
        for stored in eve.blocks.store().store().list(None, 1000) {
            let cid = cid::Cid::new_v1(RAW, stored.hash);
            let block = eve.blocks.store().get(&cid).await.unwrap().unwrap();
            seen += 1;
            for needle in
                [&b"budget"[..], b"thousand", alice.agent().as_bytes(), alice.identity.encryption_key().as_bytes()]
            {
                assert!(block.windows(needle.len()).all(|window| window != needle), "a block tells something");
            }
        }
        assert_eq!(seen, 3, "content, grant and root");
    });
}

#[test]
fn the_number_of_grants_is_rounded_up_and_sizes_fall_into_classes() {
    let sim = Sim::new(4);
    sim.clone().run(async move {
        let alice = Agent::start(&sim, 1).await;
        let others: Vec<_> = (2..6).map(|n| common::identity(&sim, n).certificate()).collect();
        let mut shapes = Vec::new();
        for bytes in [10_000, 10_100] {
            let options = AddOptions::sealed_for(others.clone());
            let cid = alice.blocks.add_bytes(noise(bytes, bytes as usize), options).await.unwrap().cid;
            let entries = unixfs::entries(alice.blocks.store(), cid, 300).await.unwrap();
            let sizes: Vec<_> = entries.into_iter().map(|entry| (entry.name, entry.tsize)).collect();
            assert_eq!(sizes[1], ("grants".to_owned(), 14 + 8 * 80), "five recipients look like eight");
            shapes.push(sizes);
        }
        assert_eq!(shapes[0], shapes[1]);
    });
}

#[test]
fn what_is_no_sealed_content_is_said_to_be_none() {
    let sim = Sim::new(7);
    sim.clone().run(async move {
        let alice = Agent::start(&sim, 1).await;
        let plain = alice.blocks.add_bytes(&b"plain"[..], AddOptions::default()).await.unwrap().cid;
        let folder = vec![("a".to_owned(), Bytes::from_static(b"b"))];
        let folder = alice.blocks.add_files(folder, AddOptions::default()).await.unwrap().cid;
        for cid in [plain, folder] {
            let error = alice.blocks.open_sealed(cid, 1000, alice.within(5)).await.unwrap_err();
            assert!(matches!(error, ContentError::Open(OpenError::NotSealed { .. })), "{error}");
        }
    });
}

#[test]
fn a_folder_on_disk_is_sealed_with_its_empty_folders_and_without_hidden_files() {
    let sim = Sim::new(8);
    sim.clone().run(async move {
        let alice = Agent::start(&sim, 1).await;
        let disk = alice.world.disk.clone();
        let write =
            |path: &str, bytes: &[u8]| disk.open(path, OpenMode::CreateNew).unwrap().write_at(0, bytes).unwrap();
        disk.create_folder("in/deep/empty").unwrap();
        write("in/big", &noise(1, 2 * CHUNK_BYTES));
        write("in/deep/small", b"small");
        write("in/.hidden", b"hidden");
        let cid = alice.blocks.add_path(disk.clone(), "in", AddOptions::sealed_for(vec![])).await.unwrap().cid;
        let target: Arc<dyn Disk> = disk.clone();
        let written = alice.blocks.export_sealed(cid, target, "out", alice.within(5)).await.unwrap();
        assert_eq!(written, 2 * CHUNK_BYTES as u64 + 5);
        let names = |path: &str| disk.list(path).unwrap().into_iter().map(|entry| entry.name).collect::<Vec<_>>();
        assert_eq!(names("out"), ["big", "deep"]);
        assert_eq!(names("out/deep"), ["empty", "small"]);
    });
}

#[test]
fn a_group_is_joined_by_its_cid_and_opens_what_is_for_it() {
    let sim = Sim::new(10);
    sim.clone().run(async move {
        let (alice, bob) = (Agent::start(&sim, 1).await, Agent::start(&sim, 2).await);
        let eve = Agent::start(&sim, 3).await;
        let mut group = Group::create(alice.agent(), &*alice.world.entropy);
        let handed = alice.blocks.add_group(&group, &[bob.certificate(), eve.certificate()]).await.unwrap().cid;
        for member in [&bob, &eve] {
            assert_eq!(member.blocks.join_group(handed, member.within(60)).await.unwrap().id(), group.id());
        }
        let to_group = |group: &Group| AddOptions { sealed_for_groups: vec![group.clone()], ..AddOptions::default() };
        let first = alice.blocks.add_files(files(), to_group(&group)).await.unwrap().cid;
        for member in [&alice, &bob, &eve] {
            assert_eq!(member.blocks.open_sealed(first, 10 << 20, member.within(60)).await.unwrap(), files());
        }

        let (stale, all) = (group.clone(), handed);
        group.advance(&*alice.world.entropy);
        let handed = alice.blocks.add_group(&group.without_past(), &[bob.certificate()]).await.unwrap().cid;
        bob.blocks.join_group(handed, bob.within(60)).await.unwrap();
        // What was sealed for the epoch before stays readable, and the state of then changes nothing.
        assert_eq!(bob.blocks.open_sealed(first, 10 << 20, bob.within(60)).await.unwrap(), files());
        assert_eq!(bob.blocks.join_group(all, bob.within(60)).await.unwrap().epoch(), 1);
        let second = alice.blocks.regrant(first, to_group(&stale)).await.unwrap();
        assert_eq!(second.bytes, 2_500_018);
        assert_eq!(bob.blocks.open_sealed(second.cid, 10 << 20, bob.within(60)).await.unwrap(), files());
        for outcome in [
            eve.blocks.join_group(handed, eve.within(60)).await.map(drop),
            eve.blocks.open_sealed(second.cid, 10 << 20, eve.within(60)).await.map(drop),
        ] {
            let error = outcome.unwrap_err();
            assert!(matches!(error, ContentError::Open(OpenError::NotForYou { .. })), "{error}");
        }
    });
}

#[test]
fn a_newer_version_is_made_of_one_that_lies_elsewhere_and_a_range_of_it_fetches_little() {
    let sim = Sim::new(11);
    sim.clone().run(async move {
        let (alice, bob) = (Agent::by_bitswap(&sim, 1).await, Agent::by_bitswap(&sim, 2).await);
        let carol = Agent::by_bitswap(&sim, 3).await;
        let options = AddOptions::sealed_for(vec![bob.certificate()]);
        let first = alice.blocks.add_files(files(), options).await.unwrap().cid;
        let mut newer = files();
        newer[2].1 = Bytes::from_static(b"ring = \"trilogy\"");
        let options = AddOptions { replaces: Some(first), ..AddOptions::sealed_for(vec![carol.certificate()]) };
        let second = bob.blocks.add_files(newer.clone(), options).await.unwrap().cid;

        let range = 1_200_000..1_200_100;
        let read = carol.blocks.read_sealed_range(second, "model.stl", range, carol.within(60)).await.unwrap();
        assert_eq!(read, newer[0].1.slice(1_200_000..1_200_100));
        let held = carol.blocks.store().store().list(None, 1000).len();
        assert_eq!(held, 5, "root, grants, newest content, node of the older content and one of its three chunks");
        assert_eq!(carol.blocks.open_sealed(second, 10 << 20, carol.within(60)).await.unwrap(), newer);
        let error = alice.blocks.open_sealed(second, 10 << 20, alice.within(60)).await.unwrap_err();
        assert!(matches!(error, ContentError::Open(OpenError::NotForYou { .. })), "{error}");
    });
}

#[test]
fn sealing_has_the_bytes_of_the_format() {
    let sim = Sim::new(9);
    sim.clone().run(async move {
        let alice = Agent::start(&sim, 1).await;
        let cid = alice.blocks.add_bytes(&b"golden"[..], AddOptions::sealed_for(vec![])).await.unwrap().cid;
        let grants = unixfs::lookup(alice.blocks.store(), cid, "grants").await.unwrap().cid;
        let grants = alice.blocks.store().get(&grants).await.unwrap().unwrap();
        let hex: String = grants.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((cid.to_string().as_str(), hex.as_str()), (
            "bafybeifpvbrqum2isj5pcsa23zq6awdldnylni6nvqeaw2bklgdfuxrr2y",
            "646961692f7365616c65642f320a5815f0b1e011db6acbd2787468b64c500a4dc5f938839faeec8bb14d1743492429cd38e679f8\
             4b13ce9c0d6234a06567aae559de196ae7311534ca249865d22da29f916f0d21d59cf156537605976ccd"
        ));
    });
}
