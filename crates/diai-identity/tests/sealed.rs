//! Sealing to a device.

mod common;

use common::{Counting, identity};
use diai_identity::{EncryptionKey, OpenSealedError, SharedKey};
use zeroize::Zeroizing;

const INFO: &[u8] = b"diai/test-seal/1";

#[test]
fn only_the_device_it_was_sealed_to_opens_it() {
    let (alice, bob) = (identity(1), identity(11));
    let sealed = alice.encryption_key().seal(&Counting::from(50), INFO, b"for alice");
    assert_eq!(sealed.len(), 9 + EncryptionKey::SEAL_OVERHEAD_BYTES);
    assert_eq!(alice.open_sealed(INFO, &sealed).unwrap(), b"for alice");
    assert_eq!(bob.open_sealed(INFO, &sealed), Err(OpenSealedError));
}

#[test]
fn it_opens_for_its_own_purpose_only() {
    let alice = identity(1);
    let sealed = alice.encryption_key().seal(&Counting::from(50), INFO, b"for alice");
    assert_eq!(alice.open_sealed(b"diai/other/1", &sealed), Err(OpenSealedError));
}

#[test]
fn an_empty_message_can_be_sealed() {
    let alice = identity(1);
    let sealed = alice.encryption_key().seal(&Counting::from(50), INFO, b"");
    assert_eq!(alice.open_sealed(INFO, &sealed).unwrap(), b"");
}

#[test]
fn no_flipped_bit_and_no_cut_goes_unnoticed() {
    let alice = identity(1);
    let sealed = alice.encryption_key().seal(&Counting::from(50), INFO, b"for alice");
    for bit in 0..sealed.len() * 8 {
        let mut flipped = sealed.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(alice.open_sealed(INFO, &flipped), Err(OpenSealedError), "bit {bit}");
    }
    for end in 0..sealed.len() {
        assert_eq!(alice.open_sealed(INFO, &sealed[..end]), Err(OpenSealedError), "cut at {end}");
    }
}

#[test]
fn sealing_twice_gives_two_different_texts() {
    let (key, entropy) = (identity(1).encryption_key(), Counting::from(50));
    assert_ne!(key.seal(&entropy, INFO, b"same"), key.seal(&entropy, INFO, b"same"));
}

#[test]
fn whoever_holds_a_shared_key_opens_what_is_sealed_with_it() {
    let (first, other) = (SharedKey::generate(&Counting::from(1)), SharedKey::generate(&Counting::from(2)));
    let second = SharedKey::from_bytes(Zeroizing::new(*first.as_bytes()));
    let sealed = first.encryption_key().seal(&Counting::from(3), INFO, b"for all of us");
    assert_eq!(second.open_sealed(INFO, &sealed).unwrap(), b"for all of us");
    assert_eq!(other.open_sealed(INFO, &sealed), Err(OpenSealedError));
    assert!(!format!("{first:?}").contains(&format!("{:02x}{:02x}", first.as_bytes()[0], first.as_bytes()[1])));
}

#[test]
fn a_device_derives_the_same_secret_for_a_purpose_each_time_and_no_other_device_does() {
    let (alice, bob) = (identity(1), identity(11));
    assert_eq!(alice.derive_secret(b"diai/a/1"), alice.derive_secret(b"diai/a/1"));
    assert_ne!(alice.derive_secret(b"diai/a/1"), alice.derive_secret(b"diai/b/1"));
    assert_ne!(alice.derive_secret(b"diai/a/1"), bob.derive_secret(b"diai/a/1"));
}
