#![no_main]

use diai_blocks::gateway::{DagScope, Format, MAX_TARGET_BYTES, Query};
use libfuzzer_sys::fuzz_target;

// A line of the path and query of a URL, and perhaps one of an `Accept` header.
fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (target, accept) = text.split_once('\n').map_or((text, None), |(target, accept)| (target, Some(accept)));
    if let Ok(query) = Query::parse(target, accept) {
        assert!(target.len() <= MAX_TARGET_BYTES);
        assert!(query.path.iter().all(|name| !name.is_empty()));
        assert!(query.format == Format::Car || query.path.is_empty() && query.bytes.is_none());
        assert!(query.bytes.is_none() || query.scope == DagScope::Entity);
        if let Some(bytes) = query.bytes {
            for size in [0, 1, 1 << 20, u64::MAX] {
                let range = bytes.within(size);
                assert!(range.start <= range.end && range.end <= size);
            }
        }
        let again = query.target();
        // What is written in full may be longer than what was read.
        if again.len() <= MAX_TARGET_BYTES {
            assert_eq!(Query::parse(&again, Some(query.accept())), Ok(query));
        }
    }
});
