#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| diai_tasks::fuzzing::offer(Bytes::copy_from_slice(data)));
