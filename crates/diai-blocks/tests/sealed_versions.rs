//! Sealed content that is sealed again: for the same readers, for others, for groups; and read in parts.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;
mod sealed_format;

use std::{collections::BTreeSet, sync::Mutex};

use bytes::Bytes;
use common::noise;
use diai_blocks::{
    Cid,
    sealed::{self, CHUNK_BYTES, Group, Keying, Keys, MAX_EPOCHS, MAX_OLDER, OpenError, Salt, SealError, SealOptions},
    unixfs::{self, WalkOptions},
};
use diai_core::memory::Sim;
use diai_identity::Identity;
use futures::StreamExt;
use proptest::prelude::*;
use sealed_format::{Counting, Desk, Watched, convergent, identity, owned, source};

fn run<T: 'static>(test: impl AsyncFnOnce(Sim) -> T + 'static) -> T {
    let sim = Sim::new(1);
    sim.clone().run(async move { test(sim).await })
}

fn readers(identities: &[&Identity]) -> SealOptions {
    SealOptions::readers(identities.iter().map(|identity| identity.certificate()).collect())
}

fn salt(byte: u8) -> Salt {
    Salt::from_bytes([byte; 32])
}

async fn blocks_under(desk: &Desk, root: Cid) -> BTreeSet<Cid> {
    let options = WalkOptions::default();
    unixfs::walk(&desk.store, root, &options).map(|visited| visited.unwrap().cid).collect().await
}

fn is_not_for_you<T>(outcome: Result<T, OpenError>) -> bool {
    matches!(outcome, Err(OpenError::NotForYou { .. }))
}

#[test]
fn a_salt_gives_equal_contents_equal_cids_and_nothing_else_does() {
    run(async |sim| {
        let desk = Desk::new(&sim, 1, 100);
        let (files, others) = ([("a", noise(1, 1_200_000))], [("a", noise(2, 1_200_000))]);
        let first = desk.seal(&files, &convergent(salt(1))).await;
        let again = desk.seal(&files, &convergent(salt(1))).await;
        assert_eq!(first.root, again.root);
        assert_eq!(desk.files(&desk.identity, first.root).await.unwrap(), owned(&files));
        for (files, options) in [
            (&files, convergent(salt(2))),
            (&files, SealOptions::default()),
            (&files, SealOptions::default()),
            (&others, convergent(salt(1))),
            (&[("b", files[0].1.clone())], convergent(salt(1))),
        ] {
            let other = desk.seal(files, &options).await.root;
            let shared = blocks_under(&desk, first.root).await.intersection(&blocks_under(&desk, other).await).count();
            assert_eq!(shared, 0);
        }
    });
}

#[test]
fn for_other_readers_convergent_content_has_other_grants_and_the_same_ciphertext() {
    run(async |sim| {
        let (desk, bob) = (Desk::new(&sim, 1, 100), identity(11));
        let files = [("a", noise(1, 1_200_000))];
        let mine = desk.seal(&files, &convergent(salt(1))).await.root;
        let options = SealOptions { keying: Keying::Convergent(salt(1)), ..readers(&[&bob]) };
        let ours = desk.seal(&files, &options).await.root;
        assert_eq!(ours, desk.seal(&files, &options).await.root);
        assert_ne!(mine, ours);
        assert_eq!(desk.child(mine, "content").await, desk.child(ours, "content").await);
        assert_eq!(desk.files(&bob, ours).await.unwrap(), owned(&files));
        assert!(is_not_for_you(desk.files(&bob, mine).await));
    });
}

#[test]
fn another_generation_of_a_devices_salt_gives_what_has_not_changed_another_key() {
    run(async |sim| {
        let desk = Desk::new(&sim, 1, 100);
        let files = [("a", noise(1, 1000))];
        let of = |generation| convergent(Salt::of_device(&desk.identity, generation));
        let first = desk.seal(&files, &of(0)).await.root;
        assert_eq!(desk.seal(&files, &of(0)).await.root, first);
        let second = desk.seal(&files, &of(1)).await.root;
        assert_eq!(blocks_under(&desk, first).await.intersection(&blocks_under(&desk, second).await).count(), 0);
        assert_eq!(desk.files(&desk.identity, second).await.unwrap(), owned(&files));
    });
}

#[test]
fn a_range_is_read_by_the_blocks_it_is_in() {
    run(async |sim| {
        let desk = Desk::new(&sim, 1, 100);
        let big = noise(1, 6 * CHUNK_BYTES);
        let files = [("big", big.clone()), ("small", noise(2, 100)), ("empty", Bytes::new())];
        let root = desk.seal(&files, &SealOptions::default()).await.root;
        let source = Watched::new(&desk.store);
        let reader = sealed::open(&source, &desk.identity, root).await.unwrap();
        assert_eq!(source.blocks(), 4, "root, grants, node of the content, chunk of the manifest");
        for (range, blocks) in [
            (2_500_000..2_500_100, 2),
            (2_500_000..2_500_000 + CHUNK_BYTES as u64, 3),
            (0..1, 2),
            (6 * CHUNK_BYTES as u64 - 1..u64::MAX, 2),
            (30 * CHUNK_BYTES as u64..u64::MAX, 0),
        ] {
            let read = reader.read_range("big", range.clone()).await.unwrap();
            let within = |at: u64| (at as usize).min(big.len());
            assert_eq!(read, big.slice(within(range.start)..within(range.end)));
            assert_eq!(source.blocks(), blocks, "{range:?}");
        }
        assert_eq!(reader.read_range("small", 10..20).await.unwrap(), files[1].1.slice(10..20));
        assert_eq!(reader.read_range("empty", 0..20).await.unwrap(), Bytes::new());
        let error = reader.read_range("other", 0..1).await.unwrap_err();
        assert!(matches!(error, OpenError::NoEntry { .. }), "{error}");
    });
}

#[test]
fn contents_that_alternate_are_fetched_once() {
    run(async |sim| {
        let desk = Desk::new(&sim, 1, 100);
        let names: Vec<String> = (0..20).map(|number| format!("file-{number:02}")).collect();
        let mut files: Vec<_> = names.iter().map(|name| (name.as_str(), noise(1, 100))).collect();
        let first = desk.seal(&files, &SealOptions::default()).await.root;
        files.iter_mut().step_by(3).for_each(|(_, data)| *data = noise(2, 100));
        let second = desk.reseal(first, Some(&files), &SealOptions::default()).await;
        assert_eq!(second.reused_bytes, 1300);
        let source = Watched::new(&desk.store);
        let reader = sealed::open(&source, &desk.identity, second.root).await.unwrap();
        assert_eq!(reader.read_all(1 << 20).await.unwrap(), owned(&files));
        assert_eq!(source.times(), 7, "root, grants, each content measured and read, its own for the manifest too");
    });
}

#[test]
fn who_is_taken_out_reads_what_was_and_nothing_of_what_comes() {
    run(async |sim| {
        let (desk, bob, eve) = (Desk::new(&sim, 1, 100), identity(11), identity(21));
        let before = [("kept", noise(1, CHUNK_BYTES)), ("gone", noise(2, 1000)), ("edited", noise(3, 1000))];
        let first = desk.seal(&before, &readers(&[&bob, &eve])).await.root;
        let after = [("kept", before[0].1.clone()), ("edited", noise(4, 1000)), ("new", noise(5, 1000))];
        let second = desk.reseal(first, Some(&after), &readers(&[&bob])).await;
        assert_eq!(second.reused_bytes, CHUNK_BYTES as u64);
        assert_eq!(desk.files(&bob, second.root).await.unwrap(), owned(&after));
        assert!(is_not_for_you(desk.files(&eve, second.root).await));
        assert_eq!(desk.files(&eve, first).await.unwrap(), owned(&before));
        let third = desk.reseal(second.root, Some(&after), &readers(&[])).await;
        assert_eq!(third.reused_bytes, third.manifest.content_bytes());
        assert!(is_not_for_you(desk.files(&bob, third.root).await));
        assert_eq!(desk.files(&desk.identity, third.root).await.unwrap(), owned(&after));
    });
}

#[test]
fn of_a_file_only_what_has_changed_is_sealed_anew() {
    run(async |sim| {
        let desk = Desk::new(&sim, 1, 100);
        let before = noise(1, 4 << 20);
        let mut after = before.to_vec();
        after[2_500_000] ^= 1;
        after.extend_from_slice(b"and more");
        let first = desk.seal(&[("a", before)], &SealOptions::default()).await.root;
        let files = [("a", Bytes::from(after))];
        let second = desk.reseal(first, Some(&files), &SealOptions::default()).await;
        assert_eq!(second.reused_bytes, 3 << 20);
        assert_eq!(desk.files(&desk.identity, second.root).await.unwrap(), owned(&files));
        let (old, new) = (blocks_under(&desk, first).await, blocks_under(&desk, second.root).await);
        assert_eq!(new.difference(&old).count(), 1 + 1 + 3, "root, grants, and a content of two chunks with its node");
        let reader = desk.open(&desk.identity, second.root).await.unwrap();
        let around = (3 << 20) - 100..(3 << 20) + 100;
        assert_eq!(reader.read_range("a", around).await.unwrap(), files[0].1.slice((3 << 20) - 100..(3 << 20) + 100));
    });
}

#[test]
fn readers_change_without_the_content_at_hand() {
    run(async |sim| {
        let (desk, bob) = (Desk::new(&sim, 1, 100), identity(11));
        let files = [("a", noise(1, 1_200_000)), ("folder/b", noise(2, 10))];
        let mut root = desk.seal(&files, &SealOptions::default()).await.root;
        for step in 0..5 {
            let options = if step % 2 == 0 { readers(&[&bob]) } else { SealOptions::default() };
            let next = desk.reseal(root, None, &options).await;
            assert_eq!(next.manifest.content_bytes(), next.reused_bytes);
            root = next.root;
            assert_eq!(desk.files(&desk.identity, root).await.unwrap(), owned(&files));
            assert_eq!(is_not_for_you(desk.files(&bob, root).await), step % 2 == 1);
        }
        let contents = unixfs::entries(&desk.store, root, 100).await.unwrap().len();
        assert_eq!(contents, 3, "content, grants and the one older content that has the bytes");
    });
}

#[test]
fn a_content_of_which_little_is_left_is_given_up() {
    run(async |sim| {
        let desk = Desk::new(&sim, 1, 100);
        let before = [("a", noise(1, 1 << 20)), ("b", noise(2, 1 << 17))];
        let first = desk.seal(&before, &SealOptions::default()).await.root;
        let second = desk.reseal(first, Some(&before[1..]), &SealOptions::default()).await;
        assert_eq!(second.reused_bytes, 0);
        assert_eq!(unixfs::entries(&desk.store, second.root, 10).await.unwrap().len(), 2);
        assert_eq!(desk.files(&desk.identity, second.root).await.unwrap(), owned(&before[1..]));
    });
}

#[test]
fn however_often_a_folder_changes_it_refers_to_few_versions_before() {
    run(async |sim| {
        let desk = Desk::new(&sim, 1, 100);
        let names: Vec<String> = (0..MAX_OLDER + 5).map(|number| format!("file-{number}")).collect();
        let files: Vec<_> =
            names.iter().enumerate().map(|(n, name)| (name.as_str(), noise(n as u64, 100 + n))).collect();
        let mut root = desk.seal(&files[..1], &SealOptions::default()).await.root;
        for end in 2..=files.len() {
            root = desk.reseal(root, Some(&files[..end]), &SealOptions::default()).await.root;
        }
        assert!(unixfs::entries(&desk.store, root, 100).await.unwrap().len() <= 2 + MAX_OLDER);
        assert_eq!(desk.files(&desk.identity, root).await.unwrap(), owned(&files));
    });
}

#[test]
fn only_who_can_open_the_version_before_makes_the_next() {
    run(async |sim| {
        let (desk, bob) = (Desk::new(&sim, 1, 100), identity(11));
        let root = desk.seal(&[("a", noise(1, 10))], &SealOptions::default()).await.root;
        let none = SealOptions::default();
        let error = sealed::reseal(&desk.world, &desk.store, &bob, root, None, &none).await.unwrap_err();
        assert!(matches!(error, SealError::Previous { .. }), "{error}");
    });
}

#[test]
fn members_open_what_is_sealed_for_their_epoch_of_a_group() {
    run(async |sim| {
        let (desk, bob, eve) = (Desk::new(&sim, 1, 100), identity(11), identity(21));
        let mut group = Group::create(desk.identity.agent(), &*desk.world.entropy);
        let files = [("plan", noise(1, 1000))];
        let everybody = [bob.certificate(), eve.certificate()];
        let handed = group.seal_for(&desk.world, &desk.store, &desk.identity, &everybody).await.unwrap().root;
        let of_bob = Group::open(&desk.store, &bob, handed).await.unwrap();
        let of_eve = Group::open(&desk.store, &eve, handed).await.unwrap();
        assert_eq!((of_bob.id(), of_bob.owner(), of_bob.epoch()), (group.id(), desk.identity.agent(), 0));
        let for_group = |group: &Group| SealOptions { groups: vec![group.clone()], ..SealOptions::default() };
        let first = desk.seal(&files, &for_group(&group)).await.root;
        let as_member = |identity: &Identity, group: &Group| Keys::new(identity.clone(), vec![group.clone()]);
        assert!(is_not_for_you(desk.files(&bob, first).await));
        for keys in [as_member(&bob, &of_bob), as_member(&eve, &of_eve)] {
            assert_eq!(desk.files(keys, first).await.unwrap(), owned(&files));
        }

        group.advance(&*desk.world.entropy);
        let rest = [bob.certificate()];
        let handed = group.seal_for(&desk.world, &desk.store, &desk.identity, &rest).await.unwrap().root;
        assert!(is_not_for_you(Group::open(&desk.store, &eve, handed).await));
        let of_bob = Group::open(&desk.store, &bob, handed).await.unwrap();
        let second = desk.reseal(first, None, &for_group(&group)).await.root;
        assert!(is_not_for_you(desk.files(as_member(&eve, &of_eve), second).await));
        for root in [first, second] {
            assert_eq!(desk.files(as_member(&bob, &of_bob), root).await.unwrap(), owned(&files));
        }
        let newcomer = group.without_past();
        assert!(is_not_for_you(desk.files(as_member(&eve, &newcomer), first).await));
        assert_eq!(desk.files(as_member(&eve, &newcomer), second).await.unwrap(), owned(&files));
    });
}

#[test]
fn a_group_is_handed_out_by_its_owner_alone_and_keeps_few_epochs() {
    run(async |sim| {
        let (desk, bob) = (Desk::new(&sim, 1, 100), identity(11));
        let mut group = Group::create(desk.identity.agent(), &*desk.world.entropy);
        let error = group.seal_for(&desk.world, &desk.store, &bob, &[]).await.unwrap_err();
        assert!(matches!(error, SealError::NotOwner { owner } if owner == desk.identity.agent()), "{error}");
        let plain = desk.seal(&[("", noise(1, 100))], &readers(&[&bob])).await.root;
        let error = Group::open(&desk.store, &bob, plain).await.unwrap_err();
        assert!(matches!(error, OpenError::NotAGroup { .. }), "{error}");
        let options = SealOptions { groups: vec![group.clone()], ..SealOptions::default() };
        let old = desk.seal(&[("a", noise(1, 10))], &options).await.root;
        (0..MAX_EPOCHS).for_each(|_| group.advance(&*desk.world.entropy));
        assert!(is_not_for_you(desk.files(Keys::new(bob.clone(), vec![group.clone()]), old).await));
        let handed = group.seal_for(&desk.world, &desk.store, &desk.identity, &[bob.certificate()]).await.unwrap().root;
        assert_eq!(Group::open(&desk.store, &bob, handed).await.unwrap().epoch(), MAX_EPOCHS as u64);
    });
}

#[test]
fn a_grant_of_a_group_looks_like_any_other() {
    run(async |sim| {
        let (desk, bob) = (Desk::new(&sim, 1, 100), identity(11));
        let group = Group::create(desk.identity.agent(), &Counting(Mutex::new(5)));
        let for_group = SealOptions { groups: vec![group.clone()], ..SealOptions::default() };
        for options in [for_group, readers(&[&bob])] {
            let root = desk.seal(&[("a", noise(1, 10))], &options).await.root;
            let grants = desk.store.get(&desk.child(root, "grants").await).await.unwrap().unwrap();
            assert_eq!(grants.len(), 14 + 2 * 80);
            // What tells X25519 keys from random bytes at once: they are below 2^255.
            assert!(grants[14..].chunks(80).all(|grant| grant[31] < 0x80));
            assert!(grants.windows(32).all(|window| window != group.id().as_bytes()));
        }
    });
}

/// Sizes around the limits of chunks, heads and classes.
fn sizes() -> impl Strategy<Value = usize> {
    let (chunk, head) = (CHUNK_BYTES - 48, 512);
    let limits = prop::sample::select(vec![
        0,
        1,
        512,
        1024,
        2048,
        chunk - head,
        chunk,
        2 * chunk - head,
        2 * chunk,
        CHUNK_BYTES,
    ]);
    (limits, -2i64..=2).prop_map(|(limit, off)| limit.saturating_add_signed(off as isize))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5))]

    #[test]
    fn what_was_sealed_is_opened_whatever_the_sizes(
        sizes in prop::collection::vec(sizes(), 1..3),
        changed in any::<prop::sample::Index>(),
        start in 0u64..2_200_000,
        length in 0u64..2_200_000,
        mode in any::<bool>(),
    ) {
        run(async move |sim| {
            let desk = Desk::new(&sim, 1, 100);
            let names = ["a", "b"];
            let mut files: Vec<_> = names.iter().zip(&sizes).map(|(name, size)| (*name, noise(3, *size))).collect();
            let options = if mode { convergent(salt(1)) } else { SealOptions::default() };
            let first = desk.seal(&files, &options).await.root;
            assert_eq!(desk.files(&desk.identity, first).await.unwrap(), owned(&files));
            let index = changed.index(files.len());
            files[index].1 = noise(9, sizes[index] + 1);
            let second = sealed::reseal(&desk.world, &desk.store, &desk.identity, first, Some(source(&files)), &options);
            let second = second.await.unwrap().root;
            assert_eq!(desk.files(&desk.identity, second).await.unwrap(), owned(&files));
            let reader = desk.open(&desk.identity, second).await.unwrap();
            for (path, data) in &files {
                let within = |at: u64| (at as usize).min(data.len());
                let read = reader.read_range(path, start..start + length).await.unwrap();
                assert_eq!(read, data.slice(within(start)..within(start + length)));
            }
        });
    }
}
