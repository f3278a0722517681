#![no_main]

use bytes::Bytes;
use diai_blocks::sealed::Group;
use diai_core::AgentId;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let data = Bytes::copy_from_slice(data);
    let owner = AgentId::from_bytes([1; 32]);
    if let Some(group) = Group::decode(owner, data.clone()) {
        assert_eq!(group.owner(), owner);
        assert_eq!(group.without_past().epoch(), group.epoch());
    }
    let _ = Group::from_signed(data);
});
