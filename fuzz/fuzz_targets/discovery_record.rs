#![no_main]

use bytes::Bytes;
use diai_discovery::AgentRecord;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(record) = AgentRecord::from_bytes(Bytes::copy_from_slice(data)) {
        assert_eq!(AgentRecord::from_bytes(record.to_bytes()), Ok(record));
    }
});
