#![no_main]

use bytes::Bytes;
use diai_blocks::unixfs::UnixFs;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(node) = UnixFs::decode(&Bytes::copy_from_slice(data)) {
        assert_eq!(UnixFs::decode(&node.encode()), Ok(node));
    }
});
