//! The bytes of `/diai/dag/1`.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use bytes::{Bytes, BytesMut};
use cid::Cid;
use diai_blocks::{
    Block, MAX_BLOCK_BYTES, RAW,
    dag::{DecodeFrameError, DecodeRequestError, End, EndReason, Frame, MAX_SKIPS, MAX_TURNS, Request, Scope, Skip},
};
use diai_core::frame;
use proptest::prelude::*;

const HELLO: &str = "015512202cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

fn hello() -> Block {
    Block::new(RAW, &b"hello"[..]).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn frame_hex(frame: &Frame) -> String {
    let mut out = BytesMut::new();
    frame.put(&mut out);
    hex(&out)
}

#[test]
fn frames_are_these_bytes() {
    let Block { cid, data, .. } = hello();
    assert_eq!(frame_hex(&Frame::Block { cid, data }), format!("29{HELLO}68656c6c6f"));
    assert_eq!(frame_hex(&Frame::Missing(cid)), format!("000124{HELLO}"));
    assert_eq!(frame_hex(&Frame::Skipped(cid)), format!("000224{HELLO}"));
    let end = End { reason: EndReason::Complete, blocks: 2, bytes: 300, missing: 1, skipped: 0 };
    assert_eq!(frame_hex(&Frame::End(end)), "0003090801100218ac022001");
}

#[test]
fn a_request_is_these_bytes() {
    let cid = hello().cid;
    let skips = vec![Skip::links(cid, [true, true, false, false, false, true])];
    assert_eq!(skips[0].turns, [0, 2, 3, 1]);
    let request = Request { root: cid, scope: Scope::Dag, skips, max_bytes: 128 };
    let skip = format!("1a2c0a24{HELLO}1a0400020301");
    assert_eq!(hex(&request.encode()), format!("570a24{HELLO}{skip}208001"));
    let whole = Request { root: cid, scope: Scope::Block, skips: vec![Skip::whole(cid)], max_bytes: 0 };
    assert_eq!(hex(&whole.encode()), format!("520a24{HELLO}10011a280a24{HELLO}1001"));
}

#[test]
fn a_block_frame_is_a_section_of_a_car_file() {
    let Block { cid, data, .. } = hello();
    let mut frame = BytesMut::new();
    Frame::Block { cid, data }.put(&mut frame);
    let store = diai_blocks::MemoryStore::new(1 << 20);
    let pool = std::sync::Arc::new(diai_core::os::ThreadPool::new(1));
    let blocks = diai_blocks::BlockStore::new(std::sync::Arc::new(store), pool);
    let mut car = Vec::new();
    futures::executor::block_on(async {
        blocks.put(hello()).await.unwrap();
        let options = diai_blocks::car::ExportOptions::default();
        diai_blocks::car::export(&blocks, &[cid], &mut car, &options).await.unwrap();
    });
    assert!(car.ends_with(&frame));
}

#[test]
fn skips_leave_out_the_links_that_they_name() {
    let links: Vec<_> = (0u8..6).map(|n| Block::new(RAW, vec![n]).unwrap().cid).collect();
    let pick = |skip: &Skip| -> Vec<usize> {
        let left = skip.remaining(links.clone());
        left.iter().map(|cid| links.iter().position(|link| link == cid).unwrap()).collect()
    };
    let root = hello().cid;
    assert_eq!(pick(&Skip::links(root, [true, true, false, false, false, true])), [2, 3, 4]);
    assert_eq!(pick(&Skip::links(root, [])), [0, 1, 2, 3, 4, 5]);
    assert!(pick(&Skip::whole(root)).is_empty());
    let far = Skip { cid: root, whole: false, turns: vec![1, u32::MAX, u32::MAX, u32::MAX, 7] };
    assert_eq!(pick(&far), [0]);
    assert_eq!(pick(&Skip { cid: root, whole: false, turns: vec![0, 0, 2, 0, 1, 1] }), [0, 1, 2, 4, 5]);
}

fn take(bytes: &[u8]) -> Result<Option<Frame>, DecodeFrameError> {
    Frame::take(&mut BytesMut::from(bytes))
}

#[test]
fn what_is_no_frame_is_an_error_and_what_is_not_whole_waits() {
    assert!(matches!(take(&[0, 9, 0]), Err(DecodeFrameError::Kind { kind: 9 })));
    assert!(matches!(take(&[0xff, 0xff, 0xff, 0xff]), Err(DecodeFrameError::Length { .. })));
    assert!(matches!(take(&[0xa9, 0]), Err(DecodeFrameError::Length { .. })), "a length longer than need be");
    assert!(matches!(take(&[0, 1, 0xff, 0x7f]), Err(DecodeFrameError::Length { .. })));
    assert!(matches!(take(&[0, 1, 1, 7]), Err(DecodeFrameError::Cid)));
    assert!(matches!(take(&[3, 1, 2, 3]), Err(DecodeFrameError::Cid)));
    assert!(matches!(take(&[0, 3, 2, 8, 9]), Err(DecodeFrameError::Reason { reason: 9 })));
    assert!(matches!(take(&[0, 3, 2, 8]), Ok(None)));
    let mut long = BytesMut::new();
    Frame::Block { cid: hello().cid, data: vec![0; MAX_BLOCK_BYTES + 1].into() }.put(&mut long);
    assert!(matches!(take(&long), Err(DecodeFrameError::Length { limit: MAX_BLOCK_BYTES })));
    let mut whole = BytesMut::new();
    Frame::Missing(hello().cid).put(&mut whole);
    for cut in 0..whole.len() {
        assert_eq!(take(&whole[..cut]).unwrap(), None);
    }
}

#[test]
fn a_request_over_a_limit_or_malformed_is_refused() {
    let cid = hello().cid;
    let decode = |request: &Request| {
        let framed = request.encode();
        Request::decode(frame::take(&mut BytesMut::from(&framed[..]), 1 << 20).unwrap().unwrap())
    };
    let with = |skips| Request { root: cid, scope: Scope::Dag, skips, max_bytes: 1 };
    assert!(decode(&with(vec![Skip::whole(cid); MAX_SKIPS])).is_ok());
    assert!(matches!(decode(&with(vec![Skip::whole(cid); MAX_SKIPS + 1])), Err(DecodeRequestError::Message(_))));
    let turns = |count| Skip { cid, whole: false, turns: vec![1; count] };
    assert!(decode(&with(vec![turns(MAX_TURNS)])).is_ok());
    assert!(matches!(decode(&with(vec![turns(MAX_TURNS), turns(1)])), Err(DecodeRequestError::Turns)));
    assert!(matches!(Request::decode(Bytes::new()), Err(DecodeRequestError::Cid)));
    let scope = [&[0x0a, 36][..], &cid.to_bytes(), &[0x10, 2]].concat();
    assert!(matches!(Request::decode(scope.into()), Err(DecodeRequestError::Scope { scope: 2 })));
}

fn cids() -> impl Strategy<Value = Cid> {
    any::<[u8; 4]>().prop_map(|bytes| Block::new(RAW, bytes.to_vec()).unwrap().cid)
}

proptest! {
    #[test]
    fn a_request_comes_back_equal(root in cids(), skips in prop::collection::vec((cids(), any::<bool>(), prop::collection::vec(any::<u32>(), 0..9)), 0..9), max_bytes: u64) {
        let skips = skips.into_iter().map(|(cid, whole, turns)| Skip { cid, whole, turns }).collect();
        let request = Request { root, scope: Scope::Dag, skips, max_bytes };
        let mut framed = BytesMut::from(&request.encode()[..]);
        prop_assert_eq!(Request::decode(frame::take(&mut framed, 1 << 20).unwrap().unwrap()).unwrap(), request);
    }

    #[test]
    fn any_bytes_are_frames_or_an_error(bytes in prop::collection::vec(prop_oneof![0u8..4, any::<u8>()], 0..200)) {
        let mut buffer = BytesMut::from(&bytes[..]);
        while let Ok(Some(frame)) = Frame::take(&mut buffer) {
            let mut again = BytesMut::new();
            frame.put(&mut again);
            prop_assert_eq!(Frame::take(&mut again).unwrap(), Some(frame));
        }
    }

    #[test]
    fn what_a_skip_leaves_are_the_links_not_left_out(left_out in prop::collection::vec(any::<bool>(), 0..60)) {
        let links: Vec<_> = (0..left_out.len()).map(|n| Block::new(RAW, vec![n as u8]).unwrap().cid).collect();
        let stay: Vec<_> = links.iter().zip(&left_out).filter(|(_, out)| !**out).map(|(cid, _)| *cid).collect();
        prop_assert_eq!(Skip::links(hello().cid, left_out).remaining(links), stay);
    }
}
