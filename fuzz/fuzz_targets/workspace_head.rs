//! Heads as they come, and heads that their sender signed.
#![no_main]

use bytes::Bytes;
use diai_blocks::{
    config::WorkspaceConfig,
    workspace::{Head, SignedHead},
};
use diai_fuzz::{MALLORY, signed};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let config = WorkspaceConfig::default();
    let _ = SignedHead::verify(Bytes::copy_from_slice(data), &config);
    let Ok(head) = Head::decode(Bytes::copy_from_slice(data)) else { return };
    assert_eq!(Head::decode(head.encode().into()).as_ref(), Ok(&head));
    if let Ok(signed) = SignedHead::verify(signed("diai/workspace-head/1", data), &config) {
        assert_eq!((signed.owner, &signed.head), (MALLORY.agent(), &head));
    }
});
