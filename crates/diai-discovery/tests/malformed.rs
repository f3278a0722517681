//! Bytes that are no record, and records that do not hold.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{Seeded, path};
use diai_core::{Misbehaviour, RecordValidator, WallTime, bounded::DecodeError};
use diai_discovery::{
    AgentRecord, AgentRecordValidator, Attributes, MAX_LIFETIME, MAX_RECORD_BYTES, RecordError, SignedRecord,
    record_key,
};
use diai_identity::Identity;
use proptest::prelude::*;

const NOW: WallTime = WallTime::from_unix_ms(1_800_000_000_000);
const HOUR: Duration = Duration::from_secs(3600);

fn identity(number: u64) -> Identity {
    Identity::generate(&Seeded::new(number), NOW)
}

fn record(identity: &Identity) -> AgentRecord {
    AgentRecord {
        agent: identity.agent(),
        peer: identity.peer(),
        seq: 7,
        not_before: NOW.minus(HOUR),
        expires: NOW + 2 * HOUR,
        addrs: vec!["/ip4/10.0.0.1/udp/4001/quic-v1".parse().unwrap()],
        capabilities: vec![path("market/data"), path("modeling/3d")],
        attributes: Attributes::from([("region".to_owned(), "eu".into()), ("slots".to_owned(), 4.into())]),
    }
}

fn signed() -> SignedRecord {
    let identity = identity(1);
    SignedRecord::sign(&identity, &record(&identity), NOW).unwrap()
}

#[test]
fn a_whole_record_comes_back_as_it_was_signed() {
    let signed = signed();
    assert_eq!(SignedRecord::verify(signed.to_bytes(), NOW), Ok(signed.clone()));
    assert_eq!(*signed.record(), record(&identity(1)));
    assert_eq!(*signed.certificate(), identity(1).certificate());
}

#[test]
fn a_truncated_record_is_refused_wherever_it_ends() {
    let bytes = signed().to_bytes();
    for end in 0..bytes.len() {
        assert!(SignedRecord::verify(bytes.slice(..end), NOW).is_err(), "{end}");
    }
}

#[test]
fn a_record_with_any_bit_flipped_is_refused() {
    let bytes = signed().to_bytes();
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(SignedRecord::verify(bytes.into(), NOW).is_err(), "bit {bit}");
    }
}

#[test]
fn an_over_long_record_is_refused_before_it_is_decoded() {
    let bytes = Bytes::from(vec![0; MAX_RECORD_BYTES + 1]);
    assert_eq!(SignedRecord::verify(bytes, NOW), Err(RecordError::TooLong { bytes: MAX_RECORD_BYTES + 1 }));
}

#[test]
fn a_record_of_another_device_or_agent_than_its_signer_is_refused() {
    let (one, other) = (identity(1), identity(2));
    let device = AgentRecord { peer: other.peer(), ..record(&one) };
    assert_eq!(SignedRecord::sign(&one, &device, NOW), Err(RecordError::WrongSigner { what: "device" }));
    let agent = AgentRecord { agent: other.agent(), ..record(&one) };
    assert_eq!(SignedRecord::sign(&one, &agent, NOW), Err(RecordError::WrongSigner { what: "agent" }));
}

#[test]
fn a_record_holds_from_its_first_to_its_last_millisecond_and_not_for_ever() {
    let signed = signed();
    let (not_before, expires) = (signed.record().not_before, signed.record().expires);
    let verify = |now| SignedRecord::verify(signed.to_bytes(), now).map(|_| ());
    let millisecond = Duration::from_millis(1);
    assert_eq!(verify(not_before.minus(millisecond)), Err(RecordError::NotYetValid));
    assert_eq!(verify(not_before), Ok(()));
    assert_eq!(verify(expires.minus(millisecond)), Ok(()));
    assert_eq!(verify(expires), Err(RecordError::Expired));
    let identity = identity(1);
    let eternal = AgentRecord { expires: NOW.minus(HOUR) + MAX_LIFETIME + millisecond, ..record(&identity) };
    assert_eq!(SignedRecord::sign(&identity, &eternal, NOW), Err(RecordError::TooLongLived));
}

#[test]
fn a_record_ends_with_its_certificate() {
    let identity = identity(1);
    let end = identity.certificate().expires();
    let record = AgentRecord { not_before: end.minus(HOUR), expires: end + HOUR, ..record(&identity) };
    let signed = SignedRecord::sign(&identity, &record, end.minus(Duration::from_millis(1))).unwrap();
    assert_eq!(signed.expires(), end);
    assert_eq!(SignedRecord::verify(signed.to_bytes(), end), Err(RecordError::Expired));
}

#[test]
fn the_validator_holds_a_record_only_under_the_key_of_its_device() {
    let signed = signed();
    let key = record_key(signed.record().peer);
    let meta = AgentRecordValidator.validate(&key, &signed.to_bytes(), NOW).unwrap();
    assert_eq!((meta.seq, meta.expires), (7, signed.record().expires));
    let other = record_key(identity(2).peer());
    assert!(AgentRecordValidator.validate(&other, &signed.to_bytes(), NOW).is_err());
    assert!(AgentRecordValidator.validate(&key, &signed.to_bytes(), NOW + 3 * HOUR).is_err());
    assert!(AgentRecordValidator.validate(&key, b"", NOW).is_err());
}

#[test]
fn the_validator_blames_whoever_sends_a_forgery_but_nobody_for_the_time() {
    let signed = signed();
    let key = record_key(signed.record().peer);
    let fault = |value: &[u8], now| AgentRecordValidator.validate(&key, value, now).unwrap_err().fault;
    assert_eq!(fault(&signed.to_bytes(), NOW + 3 * HOUR), None, "it expired on its way");
    assert_eq!(fault(&signed.to_bytes(), NOW.minus(2 * HOUR)), None, "our clock may be slow");
    assert_eq!(fault(b"nonsense", NOW), Some(Misbehaviour::Malformed));
    let other = identity(2);
    let forged = SignedRecord::sign(&other, &record(&other), NOW).unwrap();
    assert_eq!(fault(&forged.to_bytes(), NOW), Some(Misbehaviour::Forged));
}

#[test]
fn fields_out_of_order_or_out_of_bounds_are_named() {
    let identity = identity(1);
    let decode = |record: AgentRecord| AgentRecord::from_bytes(record.to_bytes());
    let wrong = |field| Err(DecodeError::Value { message: "agent record", field });
    let unsorted = vec![path("b"), path("a")];
    assert_eq!(decode(AgentRecord { capabilities: unsorted, ..record(&identity) }), wrong("capabilities"));
    let twice = vec![path("a"), path("a")];
    assert_eq!(decode(AgentRecord { capabilities: twice, ..record(&identity) }), wrong("capabilities"));
    let bad_name = Attributes::from([("A".to_owned(), true.into())]);
    assert_eq!(decode(AgentRecord { attributes: bad_name, ..record(&identity) }), wrong("attributes"));

    let over = |tag, limit| Err(DecodeError::OverLimit { message: "agent record", tag, limit });
    let many = (0..33).map(|number| path(&format!("a{number:02}"))).collect();
    assert_eq!(decode(AgentRecord { capabilities: many, ..record(&identity) }), over(7, 32));
    let many = (0..9).map(|port| format!("/ip4/10.0.0.1/tcp/{port}").parse().unwrap()).collect();
    assert_eq!(decode(AgentRecord { addrs: many, ..record(&identity) }), over(6, 8));
    let many = (0..17).map(|number| (format!("a{number:02}"), true.into())).collect();
    assert_eq!(decode(AgentRecord { attributes: many, ..record(&identity) }), over(8, 16));
    let long = Attributes::from([("a".to_owned(), "x".repeat(257).as_str().into())]);
    let error = decode(AgentRecord { attributes: long, ..record(&identity) });
    assert_eq!(error, Err(DecodeError::OverLimit { message: "attribute", tag: 2, limit: 256 }));
}

#[test]
fn a_decimal_has_one_form() {
    // mantissa 10 (zigzag 20), scale 1: one, written as 1.0.
    let mut bytes = record(&identity(1)).to_bytes().to_vec();
    bytes.extend_from_slice(&[0x42, 0x09, 0x0a, 0x01, b'z', 0x22, 0x04, 0x08, 0x14, 0x10, 0x01]);
    let error = AgentRecord::from_bytes(bytes.into());
    assert_eq!(error, Err(DecodeError::Value { message: "agent record", field: "attributes" }));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_the_decoders_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let bytes = Bytes::from(bytes);
        prop_assert!(SignedRecord::verify(bytes.clone(), NOW).is_err());
        if let Ok(record) = AgentRecord::from_bytes(bytes) {
            prop_assert_eq!(AgentRecord::from_bytes(record.to_bytes()), Ok(record));
        }
    }
}
