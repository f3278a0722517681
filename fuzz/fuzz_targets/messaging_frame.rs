#![no_main]

use diai_messaging::codec::{decode, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(Some((frame, bytes))) = decode(data) {
        assert!(bytes <= data.len());
        let mut again = Vec::new();
        encode(&frame, &mut again);
        assert_eq!(decode(&again), Ok(Some((frame, again.len()))));
    }
});
