//! Bytes that are no certificate and no envelope.

mod common;

use common::{DOMAIN, NOW, body, certificate, envelope, field, identity, number, public, sign};
use diai_core::bounded::DecodeError;
use diai_identity::{Certificate, DecodeCertificateError, DecodeSignedError, EncryptionKey, Signed, WeakKeyError};
use proptest::prelude::*;

const ROOT_SIGNATURE: &str = "diai/device-certificate/1";
const DEVICE_SIGNATURE: &str = "diai/device-consent/1";

fn signed_certificate(body: &[u8]) -> Vec<u8> {
    certificate(body, &sign(1, ROOT_SIGNATURE, body), &sign(2, DEVICE_SIGNATURE, body))
}

fn encryption() -> [u8; 32] {
    *identity(1).encryption_key().as_bytes()
}

#[test]
fn the_writer_of_these_tests_makes_good_certificates() {
    let good = signed_certificate(&body(&public(1), &public(2), &encryption(), 0, 2 * NOW.as_unix_ms()));
    assert_eq!(Certificate::from_bytes(good).unwrap().verify(NOW), Ok(()));
}

#[test]
fn a_certificate_cut_anywhere_is_refused() {
    let whole = identity(1).certificate().to_bytes();
    for end in 0..whole.len() {
        assert!(Certificate::from_bytes(whole.slice(..end)).is_err(), "cut at {end}");
    }
}

#[test]
fn an_envelope_cut_anywhere_is_refused() {
    let whole = identity(1).sign(DOMAIN, "hello").to_bytes();
    for end in 0..whole.len() {
        assert!(Signed::from_bytes(whole.slice(..end), 4096).is_err(), "cut at {end}");
    }
}

#[test]
fn no_flipped_bit_of_an_envelope_goes_unnoticed() {
    let whole = identity(1).sign(DOMAIN, "hello").to_bytes();
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let verified = Signed::from_bytes(flipped, 4096).map(|signed| signed.verify_ever(DOMAIN));
        assert!(!matches!(verified, Ok(Ok(_))), "bit {bit} was not missed");
    }
}

#[test]
fn an_over_long_certificate_is_refused() {
    let mut bytes = identity(1).certificate().to_bytes().to_vec();
    bytes.extend(field(15, &[0; Certificate::MAX_BYTES]));
    let (bytes_len, max_bytes) = (bytes.len(), Certificate::MAX_BYTES);
    assert_eq!(
        Certificate::from_bytes(bytes.clone()),
        Err(DecodeCertificateError::TooLong { bytes: bytes_len, max_bytes })
    );
    let wrapped = Signed::from_bytes(envelope(b"", &bytes, &[0; 64]), 4096);
    let limit = Certificate::MAX_BYTES;
    assert_eq!(
        wrapped,
        Err(DecodeSignedError::Malformed(DecodeError::OverLimit { message: "envelope", tag: 2, limit }))
    );
}

#[test]
fn fields_of_a_wrong_length_are_refused() {
    let (agent, device, key, far) = (public(1), public(2), encryption(), 2 * NOW.as_unix_ms());
    let bodies = [
        body(&agent[..31], &device, &key, 0, far),
        body(&agent, &device[..31], &key, 0, far),
        body(&agent, &device, &key[..31], 0, far),
        body(&[&agent[..], &[0]].concat(), &device, &key, 0, far),
        body(&[], &device, &key, 0, far),
    ];
    for body in bodies {
        let refused = Certificate::from_bytes(signed_certificate(&body));
        assert!(matches!(refused, Err(DecodeCertificateError::Malformed(_))), "{refused:?}");
    }
    let body = body(&agent, &device, &key, 0, far);
    for (by_root, by_device) in [(63, 64), (65, 64), (64, 0), (64, 65)] {
        let refused = Certificate::from_bytes(certificate(&body, &vec![1; by_root], &vec![1; by_device]));
        assert!(matches!(refused, Err(DecodeCertificateError::Malformed(_))), "{refused:?}");
    }
    let good = signed_certificate(&body);
    for signature in [0, 63, 65] {
        let refused = Signed::from_bytes(envelope(b"x", &good, &vec![1; signature]), 4096);
        assert!(matches!(refused, Err(DecodeSignedError::Malformed(_))), "{refused:?}");
    }
}

#[test]
fn a_field_that_stands_twice_is_refused() {
    let far = number(5, 2 * NOW.as_unix_ms());
    let twice = [body(&public(1), &public(2), &encryption(), 0, 1), far].concat();
    assert!(matches!(Certificate::from_bytes(signed_certificate(&twice)), Err(DecodeCertificateError::Malformed(_))));

    let wire = identity(1).sign(DOMAIN, "hello").to_bytes();
    let twice = [&wire[..], &field(1, b"bye")].concat();
    assert!(matches!(Signed::from_bytes(twice, 4096), Err(DecodeSignedError::Malformed(_))));
}

#[test]
fn fields_of_a_newer_version_are_skipped_and_still_signed() {
    let newer = [body(&public(1), &public(2), &encryption(), 0, 2 * NOW.as_unix_ms()), field(9, b"new")].concat();
    let newer = Certificate::from_bytes(signed_certificate(&newer)).unwrap();
    assert_eq!(newer.verify(NOW), Ok(()));
}

#[test]
fn a_device_key_that_is_no_point_is_refused() {
    let no_point = [2; 32];
    assert!(ed25519_dalek::VerifyingKey::from_bytes(&no_point).is_err());
    let body = body(&public(1), &no_point, &encryption(), 0, 2);
    assert_eq!(Certificate::from_bytes(signed_certificate(&body)), Err(DecodeCertificateError::DeviceKey));
}

#[test]
fn a_certificate_that_ends_before_it_begins_is_refused() {
    let body = body(&public(1), &public(2), &encryption(), 2, 1);
    assert_eq!(Certificate::from_bytes(signed_certificate(&body)), Err(DecodeCertificateError::Times));
}

#[test]
fn encryption_keys_of_small_order_are_refused_with_their_top_bit_set_or_not() {
    let mut weak = vec![[0; 32]];
    let edge = |first: u8| {
        let mut bytes = [0xff; 32];
        (bytes[0], bytes[31]) = (first, 0x7f);
        bytes
    };
    weak.extend([0xec, 0xed, 0xee].map(edge));
    let mut one = [0; 32];
    one[0] = 1;
    weak.push(one);
    for text in [
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    ] {
        weak.push(common::unhex(text).try_into().unwrap());
    }
    for mut key in weak {
        for top in [0, 0x80] {
            key[31] = key[31] & 0x7f | top;
            assert_eq!(EncryptionKey::from_bytes(key), Err(WeakKeyError));
            let body = body(&public(1), &public(2), &key, 0, 2);
            let refused = Certificate::from_bytes(signed_certificate(&body));
            assert_eq!(refused, Err(DecodeCertificateError::EncryptionKey(WeakKeyError)));
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_decode_or_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = Certificate::from_bytes(bytes.clone());
        let _ = Signed::from_bytes(bytes, 512);
    }

    #[test]
    fn any_key_that_is_accepted_can_be_sealed_to(key in any::<[u8; 32]>()) {
        if let Ok(key) = EncryptionKey::from_bytes(key) {
            key.seal(&common::Counting::from(1), b"", b"x");
        }
    }

    #[test]
    fn any_payload_survives_its_envelope(payload in proptest::collection::vec(any::<u8>(), 0..300)) {
        let wire = identity(1).sign(DOMAIN, payload.clone()).to_bytes();
        let verified = Signed::from_bytes(wire, 1024).unwrap().verify(DOMAIN, NOW).unwrap();
        prop_assert_eq!(&verified.payload[..], &payload[..]);
    }
}
