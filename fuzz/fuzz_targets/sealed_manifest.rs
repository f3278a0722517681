#![no_main]

use bytes::Bytes;
use diai_blocks::sealed::{MAX_ENTRIES, MAX_PATH_BYTES, Manifest};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some(manifest) = Manifest::decode(Bytes::copy_from_slice(data)) {
        assert!(manifest.entries.len() <= MAX_ENTRIES);
        for entry in &manifest.entries {
            assert!(entry.path.len() <= MAX_PATH_BYTES);
            assert!(entry.path.split('/').all(|name| name != ".." && name != "."));
        }
        let _ = manifest.content_bytes();
    }
});
