#![no_main]

use bytes::BytesMut;
use diai_blocks::{MAX_BLOCK_BYTES, dag::Frame};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut buffer = BytesMut::from(data);
    while let Ok(Some(length)) = Frame::length(&buffer) {
        let before = buffer.len();
        let Ok(Some(frame)) = Frame::take(&mut buffer) else { break };
        assert_eq!(before - buffer.len(), length);
        if let Frame::Block { data, .. } = &frame {
            assert!(data.len() <= MAX_BLOCK_BYTES);
        }
        let mut again = BytesMut::new();
        frame.put(&mut again);
        assert_eq!(Frame::take(&mut again).expect("what is sent is a frame"), Some(frame));
        assert!(again.is_empty());
    }
});
