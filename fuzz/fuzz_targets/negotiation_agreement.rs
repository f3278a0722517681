#![no_main]

use bytes::Bytes;
use diai_fuzz::NOW;
use diai_messaging::negotiation::{Agreement, When};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let now = Agreement::from_bytes(Bytes::copy_from_slice(data), When::At(*NOW));
    let ever = Agreement::from_bytes(Bytes::copy_from_slice(data), When::Ever);
    if let Ok(agreement) = ever {
        assert_eq!(Agreement::from_bytes(agreement.to_bytes(), When::Ever), Ok(agreement));
    } else {
        assert!(now.is_err());
    }
});
