//! Bytes that are no frame: a typed error, whatever they are, and never a panic.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use diai_core::{Priority, Refusal};
use diai_messaging::{
    codec::{self, FrameError},
    message::{Frame, HEADER_BYTES, Hello, Limits, MAX_FRAME_BYTES, Mode},
};
use proptest::prelude::*;

fn header(kind: u8, bytes: usize, id: u64) -> Vec<u8> {
    let mut header = (u32::from(kind) | (u32::try_from(bytes).unwrap() << 8)).to_le_bytes().to_vec();
    header.extend_from_slice(&id.to_le_bytes());
    header
}

fn with(kind: u8, id: u64, payload: &[u8]) -> Vec<u8> {
    [header(kind, payload.len(), id), payload.to_vec()].concat()
}

fn frames() -> Vec<Frame<'static>> {
    let limits = Limits { request_window_bytes: 1 << 20, reply_window_bytes: 1 << 20, ..Limits::FLOOR };
    vec![
        Frame::Hello(Hello { incarnation: 1, number: 2, seen_incarnation: 3, seen_number: 4, limits }),
        Frame::Request {
            id: 1,
            mode: Mode::Streaming,
            priority: Priority::Low,
            deadline_ms: 1000,
            total: 5,
            service: "echo",
            body: b"body",
        },
        Frame::RequestData { id: 1, body: b"more" },
        Frame::Response { id: 2, total: 9, body: b"answer" },
        Frame::Part { id: 3, total: 4, body: b"part" },
        Frame::ReplyData { id: 3, body: b"more" },
        Frame::End { id: 4 },
        Frame::Ack { id: 5 },
        Frame::Refusal { id: 6, refusal: Refusal::Busy { retry_after_ms: 250 } },
        Frame::Refusal { id: 6, refusal: Refusal::NotAllowed { reason: "no".into() } },
        Frame::Cancel { id: 7 },
        Frame::Cancelled { id: 8 },
        Frame::Credit { request_bytes: 1, reply_bytes: 2 },
        Frame::StreamCredit { id: 9, bytes: 3 },
        Frame::Ping { token: 0 },
        Frame::Pong { token: 1 },
        Frame::Bye,
    ]
}

#[test]
fn every_frame_comes_back_as_it_was_and_every_prefix_of_it_is_not_whole() {
    for frame in frames() {
        let mut bytes = Vec::new();
        codec::encode(&frame, &mut bytes);
        assert_eq!(codec::decode(&bytes), Ok(Some((frame, bytes.len()))));
        for length in 0..bytes.len() {
            assert_eq!(codec::decode(&bytes[..length]), Ok(None));
        }
    }
}

#[test]
fn an_announced_length_over_the_limit_is_refused_before_the_payload() {
    for (kind, limit) in [(0u8, 256), (1, MAX_FRAME_BYTES), (3, MAX_FRAME_BYTES), (6, 0), (8, 1025), (11, 8), (13, 0)] {
        let head = header(kind, limit + 1, 1);
        assert_eq!(codec::decode(&head[..4]), Err(FrameError::TooLong { kind, bytes: limit + 1, limit }));
    }
}

#[test]
fn truncated_payloads_are_malformed() {
    for (kind, payload) in [
        (0u8, &[0u8; 51][..]),
        (1, &[0; 8]),
        (1, &[0, 0, 0, 0, 0, 0, 0, 0, 5, b'e']),
        (2, &[]),
        (3, &[0; 3]),
        (4, &[]),
        (5, &[]),
        (8, &[]),
        (8, &[0, 1, 2]),
        (12, &[1]),
    ] {
        let id = u64::from(kind != 0);
        assert_eq!(codec::decode(&with(kind, id, payload)), Err(FrameError::Malformed { kind }), "{kind} {payload:?}");
    }
    assert_eq!(codec::decode(&with(11, 0, &[1; 7])), Err(FrameError::Malformed { kind: 11 }));
}

#[test]
fn values_that_mean_nothing_are_malformed() {
    let malformed = |kind, bytes: Vec<u8>| assert_eq!(codec::decode(&bytes), Err(FrameError::Malformed { kind }));
    // More body than the whole length.
    malformed(3, with(3, 1, &[1, 0, 0, 0, 9, 9]));
    // An id where none belongs, and none where one does.
    malformed(15, with(15, 1, &[]));
    malformed(6, with(6, 0, &[]));
    // Flags on a kind that has none; a mode and a priority that do not exist.
    malformed(6, with(6 | 0x10, 1, &[]));
    let request = [0, 0, 0, 0, 0, 0, 0, 0, 1, b'e'];
    malformed(1, with(1 | 0x30, 1, &request));
    malformed(1, with(1 | 0xc0, 1, &request));
    // A service without a name, one that is too long, and one that is no text.
    malformed(1, with(1, 1, &[0; 9]));
    let long: Vec<u8> = [&[0; 8][..], &[129], &[b'e'; 129]].concat();
    malformed(1, with(1, 1, &long));
    malformed(1, with(1, 1, &[0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff]));
    // A reason that is no text.
    malformed(8, with(8, 1, &[2, 0xff]));
}

#[test]
fn a_hello_of_a_newer_peer_is_understood() {
    let mut bytes = Vec::new();
    codec::encode(&frames()[0], &mut bytes);
    let longer = with(0, 0, &[&bytes[HEADER_BYTES..], &[7; 20]].concat());
    let (frame, length) = codec::decode(&longer).unwrap().unwrap();
    assert_eq!((frame, length), (frames()[0].clone(), longer.len()));
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let mut rest = &bytes[..];
        while let Ok(Some((frame, length))) = codec::decode(rest) {
            // What was decoded encodes to as much, except that a newer peer's hello and some refusals lose what is unknown.
            if !matches!(frame, Frame::Hello(_) | Frame::Refusal { .. }) {
                let mut again = Vec::new();
                codec::encode(&frame, &mut again);
                prop_assert_eq!(codec::decode(&again), Ok(Some((frame, again.len()))));
            }
            rest = &rest[length..];
        }
    }
}
