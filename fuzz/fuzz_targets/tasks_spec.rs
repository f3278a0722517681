#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| diai_tasks::fuzzing::spec(Bytes::copy_from_slice(data)));
