//! Sealed payloads as they come, sealed to us, and sealed to us and signed.
#![no_main]

use diai_fuzz::{ALICE, Counting, NOW, signed};
use diai_messaging::sealed::open;
use libfuzzer_sys::fuzz_target;

const NAME: &str = "diai/sealed/1";

fuzz_target!(|data: &[u8]| {
    let seal = |plaintext: &[u8]| ALICE.encryption_key().seal(&Counting::new(4), NAME.as_bytes(), plaintext);
    let _ = open(&ALICE, *NOW, data);
    let _ = open(&ALICE, *NOW, &seal(data));
    if let Ok(opened) = open(&ALICE, *NOW, &seal(&signed(NAME, data))) {
        assert!(opened.expires > *NOW);
    }
});
