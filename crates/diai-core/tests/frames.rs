//! Frames and bounded decoding against well-formed, malformed and random bytes.

use bytes::BytesMut;
use diai_core::{
    AgentId,
    bounded::{Bounds, DecodeError, Field, check},
    frame::{self, FrameError, ReadFrameError},
};
use futures::executor::block_on;
use proptest::prelude::*;

#[test]
fn a_prefix_that_is_over_long_not_shortest_or_too_big_is_refused() {
    let take = |bytes: &[u8]| frame::take(&mut BytesMut::from(bytes), 100);
    assert_eq!(take(&[0x80; 5]), Err(FrameError::Prefix));
    assert_eq!(take(&[0x81, 0x00]), Err(FrameError::Prefix));
    assert_eq!(take(&[101]), Err(FrameError::TooLong { bytes: 101, max_bytes: 100 }));
    assert_eq!(take(&[0xff, 0xff, 0xff, 0xff, 0x0f]), Err(FrameError::TooLong { bytes: 0xffff_ffff, max_bytes: 100 }));
    assert_eq!(take(&[2, 1]), Ok(None));
    assert_eq!(take(&[2, 1, 7, 9]).expect("whole").as_deref(), Some(&[1, 7][..]));
}

#[test]
fn a_stream_that_ends_within_a_frame_is_an_error_and_one_that_ends_between_is_not() {
    let read = |bytes: &'static [u8]| block_on(async move { frame::read(&mut &bytes[..], 10).await });
    assert!(read(&[]).expect("ends between frames").is_none());
    assert!(matches!(read(&[2, 1]), Err(ReadFrameError::Io(_))));
    assert!(matches!(read(&[0x82]), Err(ReadFrameError::Io(_))));
    assert!(matches!(read(&[11]), Err(ReadFrameError::Frame(FrameError::TooLong { .. }))));
}

const INNER: Bounds = Bounds::new("inner", &[Field::bytes(1, 1, 4)]);
const OUTER: Bounds = Bounds::new(
    "outer",
    &[Field::scalar(1), Field::scalars(2, 3), Field::message(3, 2, &INNER), Field::bytes(4, 1, 8)],
);
static LOOP: Bounds = Bounds::new("loop", &[Field::message(1, 1, &LOOP)]);

#[test]
fn bounds_hold_for_counts_lengths_depth_and_unknown_fields() {
    let over = |tag, limit| Err(DecodeError::OverLimit { message: "outer", tag, limit });
    assert_eq!(check(&[0x08, 1, 0x08, 2], &OUTER), over(1, 1));
    assert_eq!(check(&[0x12, 4, 1, 1, 1, 1], &OUTER), over(2, 3));
    assert_eq!(check(&[0x12, 6, 0x80, 1, 0x80, 0x80, 0x80, 1], &OUTER), Ok(()), "two numbers of two and four bytes");
    assert_eq!(check(&[&[0x12, 31][..], &[0xff; 31]].concat(), &OUTER), over(2, 3));
    assert_eq!(check(&[0x1a, 0, 0x1a, 0, 0x1a, 0], &OUTER), over(3, 2));
    let inner = Err(DecodeError::OverLimit { message: "inner", tag: 1, limit: 4 });
    assert_eq!(check(&[0x1a, 7, 0x0a, 5, 0, 0, 0, 0, 0], &OUTER), inner);
    assert_eq!(check(&[0x22, 9, 0, 0], &OUTER), Err(DecodeError::Malformed { message: "outer" }));
    assert_eq!(check(&[0x20, 9], &OUTER), Err(DecodeError::Malformed { message: "outer" }));
    assert_eq!(check(&[0x50, 1].repeat(17), &OUTER), Err(DecodeError::TooComplex { message: "outer" }));
    assert_eq!(check(&[0x50, 1].repeat(16), &OUTER), Ok(()));
    let deep = (0..20).fold(Vec::new(), |inner: Vec<u8>, _| [&[0x0a, inner.len() as u8], &inner[..]].concat());
    assert_eq!(check(&deep, &LOOP), Err(DecodeError::TooComplex { message: "loop" }));
}

#[test]
fn a_did_key_is_the_one_of_the_specification() {
    let key = [
        0x3b, 0x6a, 0x27, 0xbc, 0xce, 0xb6, 0xa4, 0x2d, 0x62, 0xa3, 0xa8, 0xd0, 0x2a, 0x6f, 0x0d, 0x73, 0x65, 0x32,
        0x15, 0x77, 0x1d, 0xe2, 0x43, 0xa6, 0x3a, 0xc0, 0x48, 0xa1, 0x8b, 0x59, 0xda, 0x29,
    ];
    let text = "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp";
    assert_eq!(AgentId::from_bytes(key).to_string(), text);
    for bad in
        ["", "did:web:x", "did:key:z", "did:key:z0OIl", "did:key:z6LSbysY2xFMRpGMhb7tFTLMpeuPRaqaWM1yECx2AtzE3KCc"]
    {
        assert!(bad.parse::<AgentId>().is_err(), "{bad}");
    }
    assert!(format!("{text}{text}").parse::<AgentId>().is_err());
}

proptest! {
    #[test]
    fn frames_survive_any_cut(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8), cut in 1usize..50) {
        let mut wire = BytesMut::new();
        frames.iter().for_each(|frame| frame::put(frame, &mut wire));
        let (mut buffer, mut taken) = (BytesMut::new(), Vec::new());
        for piece in wire.chunks(cut) {
            buffer.extend_from_slice(piece);
            while let Some(frame) = frame::take(&mut buffer, 300).expect("well-formed") {
                taken.push(frame.to_vec());
            }
        }
        prop_assert_eq!(taken, frames);
    }

    #[test]
    fn no_bytes_make_the_walk_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = check(&bytes, &OUTER);
        let _ = check(&bytes, &LOOP);
        let _ = frame::take(&mut BytesMut::from(&bytes[..]), 100);
    }

    #[test]
    fn every_agent_id_is_read_back(key in any::<[u8; 32]>()) {
        let id = AgentId::from_bytes(key);
        prop_assert_eq!(id.to_string().parse(), Ok(id));
    }
}
