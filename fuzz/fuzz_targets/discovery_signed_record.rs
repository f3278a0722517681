//! Records as they come, and records that their sender signed.
#![no_main]

use bytes::Bytes;
use diai_core::RecordValidator;
use diai_discovery::{AgentRecordValidator, SignedRecord, record_key};
use diai_fuzz::{MALLORY, NOW, signed};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = SignedRecord::verify(Bytes::copy_from_slice(data), *NOW);
    let bytes = signed("diai/agent-record/1", data);
    if let Ok(record) = SignedRecord::verify(bytes.clone(), *NOW) {
        assert_eq!((record.record().agent, record.record().peer), (MALLORY.agent(), MALLORY.peer()));
        assert!(record.expires() > *NOW);
        AgentRecordValidator.validate(&record_key(MALLORY.peer()), &bytes, *NOW).expect("it verifies");
    }
});
