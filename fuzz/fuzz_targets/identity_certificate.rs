#![no_main]

use bytes::Bytes;
use diai_fuzz::NOW;
use diai_identity::Certificate;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(certificate) = Certificate::from_bytes(Bytes::copy_from_slice(data)) {
        assert_eq!(Certificate::from_bytes(certificate.to_bytes()).as_ref(), Ok(&certificate));
        let _ = certificate.verify(*NOW);
    }
});
