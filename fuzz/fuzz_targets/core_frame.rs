//! Both ways to read frames agree on every byte.
#![no_main]

use bytes::BytesMut;
use diai_core::frame::{self, ReadFrameError};
use futures::executor::block_on;
use libfuzzer_sys::fuzz_target;

const MAX_BYTES: usize = 4096;

fuzz_target!(|data: &[u8]| {
    let (mut buffer, mut stream) = (BytesMut::from(data), data);
    loop {
        match (frame::take(&mut buffer, MAX_BYTES), block_on(frame::read(&mut stream, MAX_BYTES))) {
            (Ok(Some(taken)), Ok(Some(read))) => assert_eq!(taken, read),
            (Ok(None), Ok(None) | Err(ReadFrameError::Io(_))) => return,
            (Err(taken), Err(ReadFrameError::Frame(read))) => {
                assert_eq!(taken, read);
                return;
            }
            (taken, read) => panic!("taken {taken:?}, read {read:?}"),
        }
    }
});
