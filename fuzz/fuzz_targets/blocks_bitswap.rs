#![no_main]

use bytes::{Bytes, BytesMut};
use diai_blocks::bitswap::{MAX_MESSAGE_BYTES, Version, decode, encode};
use diai_core::frame;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(message) = decode(&Bytes::copy_from_slice(data)) {
        for version in [Version::V1_0, Version::V1_1, Version::V1_2] {
            let mut sent = BytesMut::from(encode(&message, version).concat().as_slice());
            if let Some(again) = frame::take(&mut sent, MAX_MESSAGE_BYTES).expect("what is sent is a frame") {
                let again = decode(&again).expect("and a message");
                assert!(version != Version::V1_2 || again == message);
            }
            assert!(sent.is_empty());
        }
    }
});
