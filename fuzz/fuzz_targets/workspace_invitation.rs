//! Invitations as they come, and invitations whose maker signed and encrypted any terms for us.
#![no_main]

use std::sync::Arc;

use bytes::Bytes;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit, Nonce, aead::Aead};
use diai_blocks::Blocks;
use diai_core::memory::Sim;
use diai_fuzz::{ALICE, Counting, Served, alices_world, message, signed};
use libfuzzer_sys::fuzz_target;

const NAME: &str = "diai/workspace-invitation/1";

/// An invitation for Alice to whatever `terms` are.
fn invitation(terms: &[u8]) -> Bytes {
    let key = [5; 32];
    let cipher = ChaCha20Poly1305::new(&key.into());
    let ciphertext = cipher.encrypt(&Nonce::default(), &*signed(NAME, terms)).expect("it is short");
    let info = [NAME.as_bytes(), ALICE.agent().as_bytes()].concat();
    let sealed_key = ALICE.encryption_key().seal(&Counting::new(6), &info, &key);
    message(&[(1, &sealed_key), (2, &ciphertext)])
}

fuzz_target!(|data: &[u8]| {
    let sim = Sim::new(0);
    let world = alices_world(&sim);
    sim.run(async {
        let blocks = Blocks::start(&world, ALICE.clone(), Arc::new(Served::default()), Default::default()).await;
        let blocks = blocks.expect("the disk is empty");
        let _ = blocks.join_workspace(Bytes::copy_from_slice(data)).await;
        let _ = blocks.join_workspace(invitation(data)).await;
    });
});
