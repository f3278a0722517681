//! Sealed content made or changed by somebody hostile, who may have been granted its key.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;
mod sealed_format;

use bytes::Bytes;
use common::noise;
use diai_blocks::{
    Cid,
    sealed::{self, CHUNK_BYTES, MAX_ENTRIES, MAX_MANIFEST_BYTES, OpenError, SealError, SealOptions},
};
use diai_core::memory::Sim;
use sealed_format::{Desk, field, grant, grants, head, identity, manifest, number, padme, plain, seal_chunks, source};

const KEY: [u8; 32] = [42; 32];

fn run<T: 'static>(test: impl AsyncFnOnce(Desk) -> T + 'static) -> T {
    let sim = Sim::new(1);
    sim.clone().run(async move { test(Desk::new(&sim, 1, 100)).await })
}

async fn error_of(desk: &Desk, root: Cid) -> OpenError {
    desk.files(&desk.identity, root).await.unwrap_err()
}

async fn refused_at(desk: &Desk, root: Cid, at: u64) {
    let error = error_of(desk, root).await;
    assert!(matches!(error, OpenError::Tampered { chunk, .. } if chunk == at), "chunk {at}: {error}");
}

fn padded(mut plain: Vec<u8>) -> Vec<u8> {
    plain.resize(padme(plain.len()), 0);
    plain
}

#[test]
fn what_another_writer_made_by_the_specification_is_opened() {
    run(async |desk| {
        let big = noise(1, CHUNK_BYTES);
        let files: [(&str, &[u8]); 2] = [("a/b", b"small"), ("big", &big)];
        let root = desk.root_of_plain(&plain(&files), &KEY).await;
        let expected: Vec<_> =
            files.iter().map(|(path, data)| ((*path).to_owned(), Bytes::copy_from_slice(data))).collect();
        assert_eq!(desk.files(&desk.identity, root).await.unwrap(), expected);
    });
}

#[test]
fn chunks_that_are_cut_off_moved_swapped_or_changed_are_refused() {
    run(async |desk| {
        let content = noise(1, 3 * CHUNK_BYTES);
        let chunks = seal_chunks(&KEY, &plain(&[("a", &content)]));
        assert_eq!(chunks.len(), 4);
        let other = seal_chunks(&[43; 32], &plain(&[("a", &content)]));
        let longer = seal_chunks(&KEY, &plain(&[("a", &noise(1, 4 * CHUNK_BYTES))]));

        // The last chunk away: what is left was sealed as part of four.
        refused_at(&desk, desk.root_of(&chunks[..3], &KEY).await, 0).await;
        let swapped = [chunks[0].clone(), chunks[2].clone(), chunks[1].clone(), chunks[3].clone()];
        refused_at(&desk, desk.root_of(&swapped, &KEY).await, 1).await;
        let twice = [chunks[0].clone(), chunks[1].clone(), chunks[1].clone(), chunks[3].clone()];
        refused_at(&desk, desk.root_of(&twice, &KEY).await, 2).await;
        let mixed = [chunks[0].clone(), other[1].clone(), chunks[2].clone(), chunks[3].clone()];
        refused_at(&desk, desk.root_of(&mixed, &KEY).await, 1).await;
        let of_longer = [chunks[0].clone(), chunks[1].clone(), longer[2].clone(), chunks[3].clone()];
        refused_at(&desk, desk.root_of(&of_longer, &KEY).await, 2).await;
        for at in [0, 1000, CHUNK_BYTES - 48, CHUNK_BYTES - 32, CHUNK_BYTES - 1] {
            let mut changed = chunks.clone();
            let mut bytes = changed[1].to_vec();
            bytes[at] ^= 1;
            changed[1] = bytes.into();
            refused_at(&desk, desk.root_of(&changed, &KEY).await, 1).await;
        }
        let cut = [chunks[0].clone(), chunks[1].clone(), chunks[2].clone(), chunks[3].slice(..chunks[3].len() - 1)];
        refused_at(&desk, desk.root_of(&cut, &KEY).await, 0).await;
        refused_at(&desk, desk.root_of(&chunks, &[43; 32]).await, 0).await;
    });
}

#[test]
fn lengths_that_do_not_follow_from_the_manifest_are_refused() {
    run(async |desk| {
        let good = plain(&[("a", b"content")]);
        let longer = [&good[..], &[0; 64]].concat();
        for plain in [&good[..good.len() - 1], &longer, &good[..4], &good[..1]] {
            refused_at(&desk, desk.root_of_plain(plain, &KEY).await, 0).await;
        }
        let empty = desk.root_of(&[Bytes::new()], &KEY).await;
        refused_at(&desk, empty, 0).await;
    });
}

#[test]
fn manifests_that_lie_are_refused() {
    run(async |desk| {
        let no_entry = [manifest(&[("a", 0, 7)]), field(3, &[number(2, 7), number(3, 1)].concat())].concat();
        let older = |plain_bytes: u64| {
            let older = [field(1, &desk_cid()), field(2, &[43; 32]), number(3, plain_bytes), number(4, 512)].concat();
            let extent = [number(1, 1), number(3, 7)].concat();
            [field(2, &[field(1, b"a"), number(3, 1)].concat()), field(3, &extent), field(4, &older)].concat()
        };
        let cases: Vec<(&str, Vec<u8>)> = vec![
            ("a path that leads out", manifest(&[("../a", 0, 7)])),
            ("an absolute path", manifest(&[("/a", 0, 7)])),
            ("a path twice", manifest(&[("a", 0, 7), ("a", 7, 7)])),
            ("a gap", manifest(&[("a", 1, 7)])),
            ("bytes that serve twice", manifest(&[("a", 0, 7), ("b", 0, 7)])),
            ("more than there is", manifest(&[("a", 0, 5000)])),
            ("impossibly much", manifest(&[("a", 0, u64::MAX)])),
            ("an extent of no entry", no_entry),
            ("fewer extents than it says", field(2, &[field(1, b"a"), number(3, 2)].concat())),
            ("an older content that is too short", older(518)),
            ("no protobuf", vec![0xff; 20]),
        ];
        for (what, manifest) in cases {
            let root = desk.root_of_plain(&padded([head(&manifest), vec![7; 7]].concat()), &KEY).await;
            let error = error_of(&desk, root).await;
            assert!(matches!(error, OpenError::Tampered { chunk: 0, .. }), "{what}: {error}");
        }
        // What it refers to must be linked, so that who pins the root holds it.
        let root = desk.root_of_plain(&padded(head(&older(1024))), &KEY).await;
        let error = error_of(&desk, root).await;
        assert!(matches!(error, OpenError::NotSealed { .. }), "{error}");
    });
}

fn desk_cid() -> Vec<u8> {
    diai_blocks::Block::new(diai_blocks::RAW, "older").unwrap().cid.to_bytes()
}

#[test]
fn manifests_over_the_limits_are_refused_without_being_read() {
    run(async |desk| {
        let mut huge = head(&[]);
        huge[..4].copy_from_slice(&(MAX_MANIFEST_BYTES as u32 + 1).to_le_bytes());
        refused_at(&desk, desk.root_of_plain(&padded(huge), &KEY).await, 0).await;
        let mut longer_than_all = head(&[]);
        longer_than_all[..4].copy_from_slice(&(MAX_MANIFEST_BYTES as u32).to_le_bytes());
        refused_at(&desk, desk.root_of_plain(&padded(longer_than_all), &KEY).await, 0).await;

        let many: Vec<u8> = (0..=MAX_ENTRIES).flat_map(|n| field(2, &field(1, n.to_string().as_bytes()))).collect();
        refused_at(&desk, desk.root_of_plain(&padded(head(&many)), &KEY).await, 0).await;

        let long: Vec<_> = (0..34_000)
            .map(|n| (format!("{n:05}{}", format!("/{}", "x".repeat(200)).repeat(5)), Bytes::new()))
            .collect();
        let long: Vec<_> = long.iter().map(|(path, data)| (path.as_str(), data.clone())).collect();
        let options = SealOptions::default();
        let sealed = sealed::seal(&desk.world, &desk.store, &desk.identity, source(&long), &options).await;
        assert!(matches!(sealed, Err(SealError::ManifestTooLarge { .. })));
    });
}

#[test]
fn an_older_content_of_another_length_or_key_is_refused() {
    run(async |desk| {
        let first = desk.seal(&[("a", noise(1, 1000))], &SealOptions::default()).await.root;
        let content = desk.child(first, "content").await;
        for plain_bytes in [1536u64, 3000] {
            let older =
                [field(1, &content.to_bytes()), field(2, &KEY), number(3, plain_bytes), number(4, 512)].concat();
            let extent = [number(1, 1), number(3, 500)].concat();
            let manifest =
                [field(2, &[field(1, b"a"), number(3, 1)].concat()), field(3, &extent), field(4, &older)].concat();
            let newest = desk.root_of_plain(&padded(head(&manifest)), &KEY).await;
            let (newest, grants) = (desk.child(newest, "content").await, desk.child(newest, "grants").await);
            let root = desk.folder(&[("content", newest), ("grants", grants), ("older-00", content)]).await;
            refused_at(&desk, root, 0).await;
        }
    });
}

#[test]
fn grants_open_only_what_they_were_made_for_and_who_they_were_made_for() {
    run(async |desk| {
        let bob = identity(11);
        let good = desk.root_of_plain(&plain(&[("a", b"content")]), &KEY).await;
        let other = desk.root_of_plain(&plain(&[("a", b"another")]), &KEY).await;
        let (content, moved) = (desk.child(good, "content").await, desk.child(other, "grants").await);
        let root = desk.folder(&[("content", content), ("grants", moved)]).await;
        let error = error_of(&desk, root).await;
        assert!(matches!(error, OpenError::NotForYou { .. }), "{error}");
        assert!(matches!(desk.files(&bob, good).await, Err(OpenError::NotForYou { .. })));

        let real = grant(&desk.identity, &content, &KEY);
        let with = async |data: Vec<u8>| {
            let grants = desk.raw(data).await;
            let root = desk.folder(&[("content", content), ("grants", grants)]).await;
            desk.files(&desk.identity, root).await.map(drop)
        };
        assert!(with(grants(std::slice::from_ref(&real))).await.is_ok());
        assert!(with(grants(&[vec![0; 80], real.clone()])).await.is_ok());
        let mut changed = real.clone();
        changed[40] ^= 1;
        assert!(matches!(with(grants(&[changed])).await, Err(OpenError::NotForYou { .. })));
        assert!(matches!(with(grants(&[])).await, Err(OpenError::NotForYou { .. })));
        assert!(matches!(with(grants(&[real[..79].to_vec()])).await, Err(OpenError::NotSealed { .. })));
        assert!(matches!(with(grants(&vec![real.clone(); 257])).await, Err(OpenError::NotSealed { .. })));
        assert!(matches!(with(real.clone()).await, Err(OpenError::NotSealed { .. })));
        let newer = [&b"diai/sealed/3\n"[..], &real].concat();
        assert!(matches!(with(newer).await, Err(OpenError::Version { .. })));
    });
}

#[test]
fn two_readers_are_never_given_two_keys_that_open_one_content_differently() {
    run(async |desk| {
        let bob = identity(11);
        let content = desk.child(desk.root_of_plain(&plain(&[("a", b"content")]), &KEY).await, "content").await;
        let both = grants(&[grant(&desk.identity, &content, &KEY), grant(&bob, &content, &[43; 32])]);
        let root = desk.folder(&[("content", content), ("grants", desk.raw(both).await)]).await;
        assert!(desk.files(&desk.identity, root).await.is_ok());
        assert!(matches!(desk.files(&bob, root).await, Err(OpenError::Tampered { chunk: 0, .. })));
    });
}

#[test]
fn roots_of_another_form_are_not_sealed() {
    run(async |desk| {
        let good = desk.root_of_plain(&plain(&[("a", b"content")]), &KEY).await;
        let (content, grants) = (desk.child(good, "content").await, desk.child(good, "grants").await);
        for links in [
            &[("content", content)][..],
            &[("grants", grants)],
            &[("content", content), ("grants", grants), ("other", content)],
            &[("content", content), ("grants", grants), ("older-01", content)],
        ] {
            let root = desk.folder(links).await;
            assert!(!sealed::is_sealed(&desk.store, root).await.unwrap());
            assert!(matches!(error_of(&desk, root).await, OpenError::NotSealed { .. }));
        }
        assert!(sealed::is_sealed(&desk.store, good).await.unwrap());
    });
}
