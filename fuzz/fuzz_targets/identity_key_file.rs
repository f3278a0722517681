//! A key file with any content and the right hash. No passphrase: Argon2id would take all the time.
#![no_main]

use diai_core::{
    memory::{MemoryDisk, Sim},
    write_atomically,
};
use diai_fuzz::{Counting, alices_world};
use diai_identity::key_file::KeyFile;
use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};

fuzz_target!(|data: &[u8]| {
    let disk = MemoryDisk::new();
    let file = [data, Sha256::digest(data).as_slice()].concat();
    write_atomically(&disk, KeyFile::PATH, &file).expect("the disk is in memory");
    let clock = alices_world(&Sim::new(0)).clock;
    if let Ok(opened) = KeyFile::open_or_create(&disk, &*clock, &Counting::new(3), None) {
        assert!(!opened.is_new());
    }
});
