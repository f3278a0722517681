#![no_main]

use diai_blocks::{Cid, DAG_JSON, Multihash, ipld};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let cid = Cid::new_v1(DAG_JSON, Multihash::default());
    if let Ok(links) = ipld::links(&cid, data) {
        assert!(links.len() <= ipld::MAX_LINKS && links.len() <= data.len());
        // A node within a list has the same links.
        let around = [b"[", data, b"]"].concat();
        if let Ok(again) = ipld::links(&cid, &around) {
            assert_eq!(again, links);
        }
    }
});
