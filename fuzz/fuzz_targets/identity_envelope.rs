#![no_main]

use bytes::Bytes;
use diai_fuzz::NOW;
use diai_identity::{Domain, Signed};
use libfuzzer_sys::fuzz_target;

const MAX_BYTES: usize = 16 << 10;

fuzz_target!(|data: &[u8]| {
    if let Ok(signed) = Signed::from_bytes(Bytes::copy_from_slice(data), MAX_BYTES) {
        assert_eq!(Signed::from_bytes(signed.to_bytes(), 2 * MAX_BYTES).as_ref(), Ok(&signed));
        let _ = signed.verify(Domain::new("diai/fuzz/1"), *NOW);
    }
});
