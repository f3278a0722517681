//! CAR files that are cut, damaged or made to harm leave only what is true.

#![allow(clippy::unwrap_used, clippy::result_large_err, reason = "a test that cannot go on may panic")]

mod car_file;

use std::sync::Arc;

use car_file::{KUBO, KUBO_BLOCKS, file, framed, header, import, pool, raw, section, store, varint};
use diai_blocks::{
    Block, BlockError, BlockStore, Cid, MAX_BLOCK_BYTES, MemoryStore, Multihash, RAW,
    car::{self, HeaderError, ImportError, ImportOptions, MAX_HEADER_BYTES, MAX_REFUSED, MAX_ROOTS, SectionError},
    ipld::CborError,
};
use futures::executor::block_on;
use proptest::prelude::*;

#[test]
fn a_file_cut_anywhere_is_an_error_and_every_whole_section_before_the_cut_is_kept() {
    let contents: Vec<_> = (0..5u8).map(|number| raw(vec![number; 1 + 100 * usize::from(number)])).collect();
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
