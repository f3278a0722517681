#![no_main]

use bytes::{Bytes, BytesMut};
use diai_blocks::dag::{MAX_SKIPS, MAX_TURNS, Request};
use diai_core::frame;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(request) = Request::decode(Bytes::copy_from_slice(data)) {
        assert!(request.skips.len() <= MAX_SKIPS);
        assert!(request.skips.iter().map(|skip| skip.turns.len()).sum::<usize>() <= MAX_TURNS);
        for skip in &request.skips {
            assert!(skip.remaining(vec![request.root; 9]).len() <= 9);
        }
        let mut sent = BytesMut::from(&request.encode()[..]);
        let again = frame::take(&mut sent, usize::MAX).expect("what is sent is a frame").expect("and whole");
        assert_eq!(Request::decode(again).expect("and a request"), request);
    }
});
