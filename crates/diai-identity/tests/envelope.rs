//! What an envelope promises to whoever verifies it.

mod common;

use std::time::Duration;

use common::{DAY, DOMAIN, NOW, body, certificate, envelope, identity, message, public, sign};
use diai_core::{AgentId, WallTime};
use diai_identity::{Certificate, DecodeSignedError, Domain, Signed, VerifyError};

const BY_ROOT: &str = "diai/device-certificate/1";
const BY_DEVICE: &str = "diai/device-consent/1";

/// A body for the root and the device with these seeds, valid for 30 days from now.
fn body_of(root: u8, device: u8) -> Vec<u8> {
    let expires = (NOW + 30 * DAY).as_unix_ms();
    body(&public(root), &public(device), identity(40).encryption_key().as_bytes(), NOW.as_unix_ms(), expires)
}

#[test]
fn a_payload_comes_out_as_it_went_in_with_its_signer() {
    let alice = identity(1);
    let wire = alice.sign(DOMAIN, "hello").to_bytes();
    assert!(wire.len() <= 5 + Signed::MAX_OVERHEAD_BYTES);
    const { assert!(Signed::MAX_OVERHEAD_BYTES < 512) };

    let signed = Signed::from_bytes(wire.clone(), wire.len()).unwrap();
    let verified = signed.verify(DOMAIN, NOW).unwrap();
    assert_eq!(verified.payload, "hello");
    assert_eq!((verified.agent, verified.peer), (alice.agent(), alice.peer()));
    assert_eq!(verified.certificate, alice.certificate());
    assert_eq!(signed.to_bytes(), wire);
}

#[test]
fn the_device_is_named_by_its_own_key_and_not_by_the_root() {
    let alice = identity(1);
    assert_eq!(alice.peer(), alice.device_keypair().public().to_peer_id());
    assert_eq!(alice.agent(), AgentId::from_bytes(public(1)));
    let device = alice.device_keypair().public().try_into_ed25519().unwrap();
    assert_eq!(device.to_bytes(), public(2));
}

#[test]
fn the_overhead_stays_within_its_limit_for_the_longest_numbers() {
    let times = WallTime::from_unix_ms(u64::MAX);
    let alice = diai_identity::Identity::generate(&common::Counting::from(1), times);
    let payload = vec![7; 1 << 20];
    let wire = alice.sign(DOMAIN, payload.clone()).to_bytes();
    assert!(wire.len() - payload.len() <= Signed::MAX_OVERHEAD_BYTES, "{} bytes", wire.len() - payload.len());
}

#[test]
fn a_signature_for_one_domain_means_nothing_in_another() {
    let signed = identity(1).sign(DOMAIN, "pay 5");
    let other = Domain::new("diai/test/2");
    assert_eq!(signed.verify(other, NOW), Err(VerifyError::Payload { domain: other }));
}

#[test]
fn bytes_cannot_move_between_domain_and_payload() {
    let long = Domain::new("diai/test/1x");
    let signed = identity(1).sign(DOMAIN, "xy");
    let moved = envelope(b"y", &signed.certificate().to_bytes(), &sign(2, DOMAIN.as_str(), b"xy"));
    let moved = Signed::from_bytes(moved, 1024).unwrap();
    assert_eq!(moved.verify(long, NOW), Err(VerifyError::Payload { domain: long }));
}

#[test]
fn a_payload_signed_by_another_device_is_refused() {
    let certificate = identity(1).certificate().to_bytes();
    let forged = envelope(b"hello", &certificate, &sign(7, DOMAIN.as_str(), b"hello"));
    let forged = Signed::from_bytes(forged, 1024).unwrap();
    assert_eq!(forged.verify(DOMAIN, NOW), Err(VerifyError::Payload { domain: DOMAIN }));
    assert_eq!(forged.verify_ever(DOMAIN), Err(VerifyError::Payload { domain: DOMAIN }));
}

#[test]
fn a_device_cannot_certify_itself() {
    let body = body_of(1, 7);
    let forged = certificate(&body, &sign(7, BY_ROOT, &body), &sign(7, BY_DEVICE, &body));
    assert_eq!(Certificate::from_bytes(forged).unwrap().verify(NOW), Err(VerifyError::Root));
}

#[test]
fn an_agent_cannot_claim_the_device_of_another_and_with_it_what_that_device_signed() {
    // Mallory (root 9) certifies Alice's device (2) as his own and signs the consent with whatever he has.
    let body = body_of(9, 2);
    let stolen = certificate(&body, &sign(9, BY_ROOT, &body), &sign(9, BY_DEVICE, &body));
    let stolen = envelope(b"I owe nothing", &stolen, &sign(2, DOMAIN.as_str(), b"I owe nothing"));
    let stolen = Signed::from_bytes(stolen, 1024).unwrap();
    assert_eq!(stolen.verify(DOMAIN, NOW), Err(VerifyError::Device));
}

#[test]
fn signatures_of_root_and_device_on_a_certificate_do_not_stand_in_for_each_other() {
    let body = body_of(1, 1);
    let swapped = certificate(&body, &sign(1, BY_DEVICE, &body), &sign(1, BY_ROOT, &body));
    assert_eq!(Certificate::from_bytes(swapped).unwrap().verify(NOW), Err(VerifyError::Root));
}

#[test]
fn an_expired_certificate_is_refused_now_but_its_past_signatures_stay_provable() {
    let signed = identity(1).sign(DOMAIN, "agreed");
    let expires = signed.certificate().expires();
    let just_before = expires.minus(Duration::from_millis(1));
    assert!(signed.verify(DOMAIN, just_before).is_ok());
    assert_eq!(signed.verify(DOMAIN, expires), Err(VerifyError::Expired { expires, now: expires }));
    assert_eq!(signed.verify_ever(DOMAIN).unwrap().payload, "agreed");
}

#[test]
fn a_clock_may_lag_two_minutes_and_no_more() {
    let certificate = identity(1).certificate();
    let lagging = NOW.minus(Duration::from_secs(120));
    assert_eq!(certificate.verify(lagging), Ok(()));
    let now = lagging.minus(Duration::from_millis(1));
    assert_eq!(certificate.verify(now), Err(VerifyError::NotYetValid { not_before: NOW, now }));
}

#[test]
fn a_certificate_is_due_when_less_than_half_of_its_life_is_left_or_it_is_not_valid() {
    let certificate = identity(1).certificate();
    assert!(!certificate.is_due(NOW));
    assert!(!certificate.is_due(NOW + 15 * DAY));
    assert!(certificate.is_due(NOW + 15 * DAY + Duration::from_millis(1)));
    assert!(certificate.is_due(NOW + 31 * DAY));
    assert!(certificate.is_due(NOW.minus(DAY)));
}

#[test]
fn a_signature_in_its_second_form_is_refused() {
    // S + L is the same number modulo the group's order L; lax verifiers take it as well.
    const L: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut signature = sign(2, DOMAIN.as_str(), b"hello");
    let mut carry = 0;
    for (byte, add) in signature[32..].iter_mut().zip(L) {
        carry += u16::from(*byte) + u16::from(add);
        *byte = carry as u8;
        carry >>= 8;
    }
    let certificate = identity(1).certificate().to_bytes();
    let second = Signed::from_bytes(envelope(b"hello", &certificate, &signature), 1024).unwrap();
    assert_eq!(second.verify(DOMAIN, NOW), Err(VerifyError::Payload { domain: DOMAIN }));
}

#[test]
fn a_root_key_of_small_order_under_which_one_signature_fits_every_message_is_refused() {
    use ed25519_dalek::{Signature, Verifier, VerifyingKey};

    let mut neutral = [0; 32];
    neutral[0] = 1;
    let mut fits_all = [0; 64];
    fits_all[0] = 1;
    let body = body(&neutral, &public(2), identity(40).encryption_key().as_bytes(), 0, (NOW + DAY).as_unix_ms());
    let lax = VerifyingKey::from_bytes(&neutral).unwrap();
    assert!(lax.verify(&message(BY_ROOT, &body), &Signature::from_bytes(&fits_all)).is_ok(), "a lax check is fooled");

    let forged = Certificate::from_bytes(certificate(&body, &fits_all, &sign(2, BY_DEVICE, &body))).unwrap();
    assert_eq!(forged.verify(NOW), Err(VerifyError::Root));
}

#[test]
fn an_envelope_over_the_readers_limit_is_refused_before_it_is_decoded() {
    let wire = identity(1).sign(DOMAIN, "hello").to_bytes();
    let (bytes, max_bytes) = (wire.len(), wire.len() - 1);
    assert_eq!(Signed::from_bytes(wire, max_bytes), Err(DecodeSignedError::TooLong { bytes, max_bytes }));
}

#[test]
fn debug_output_shows_neither_payload_nor_secrets() {
    let alice = identity(1);
    let shown = format!("{alice:?} {:?}", alice.sign(DOMAIN, "confidential"));
    assert!(shown.contains(&alice.agent().to_string()));
    assert!(!shown.contains("confidential") && !shown.contains("0101") && !shown.contains("1, 1, 1"));
}
