//! Sealed payloads.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use std::time::Duration;

use common::Counting;
use diai_core::{Bytes, WallTime};
use diai_identity::Identity;
use diai_messaging::sealed::{MAX_LIFE, MAX_PAYLOAD_BYTES, OpenError, SealError, open, seal_to};

const NOW: WallTime = WallTime::from_unix_ms(1_800_000_000_000);
const HOUR: Duration = Duration::from_secs(3600);

fn identity(number: u64) -> Identity {
    Identity::generate(&Counting::new(number << 32), NOW)
}

fn seal(from: &Identity, to: &Identity, life: Duration) -> Bytes {
    seal_to(&to.certificate(), from, &Counting::new(9), NOW, life, Bytes::from("secret")).unwrap()
}

#[test]
fn the_recipient_learns_the_payload_and_who_sent_it() {
    let (alice, bob) = (identity(1), identity(2));
    let sealed = seal(&alice, &bob, HOUR);
    assert!(!sealed.windows(6).any(|window| window == b"secret"));
    let agent = *alice.agent().as_bytes();
    assert!(!sealed.windows(32).any(|window| window == agent), "who carries it does not learn the sender");
    let opened = open(&bob, NOW, &sealed).unwrap();
    assert_eq!((opened.from, opened.peer, &opened.payload[..]), (alice.agent(), alice.peer(), &b"secret"[..]));
    assert_eq!(opened.expires, NOW + HOUR);
    assert_eq!(open(&bob, NOW, &sealed).unwrap().id, opened.id, "a replay is told by its id");
}

#[test]
fn others_learn_nothing_and_damage_is_noticed() {
    let (alice, bob, eve) = (identity(1), identity(2), identity(3));
    let sealed = seal(&alice, &bob, HOUR);
    assert_eq!(open(&eve, NOW, &sealed), Err(OpenError::NotForUs));
    for index in (0..sealed.len()).step_by(7) {
        let mut damaged = sealed.to_vec();
        damaged[index] ^= 1;
        assert_eq!(open(&bob, NOW, &damaged), Err(OpenError::NotForUs));
        assert_eq!(open(&bob, NOW, &sealed[..index]), Err(OpenError::NotForUs));
    }
}

#[test]
fn it_expires_and_never_lives_too_long() {
    let (alice, bob) = (identity(1), identity(2));
    let sealed = seal(&alice, &bob, HOUR);
    assert_eq!(open(&bob, NOW + HOUR, &sealed), Err(OpenError::Expired));
    let long = seal(&alice, &bob, MAX_LIFE * 2);
    assert_eq!(open(&bob, NOW, &long).unwrap().expires, NOW + MAX_LIFE);
}

#[test]
fn nobody_can_pass_a_payload_on_as_if_it_were_for_another() {
    let (alice, bob, carol) = (identity(1), identity(2), identity(3));
    // Bob opens what Alice signed for him and seals the signed bytes anew for Carol.
    let inner = bob.open_sealed(b"diai/sealed/1", &seal(&alice, &bob, HOUR)).unwrap();
    let forwarded = carol.encryption_key().seal(&Counting::new(4), b"diai/sealed/1", &inner);
    assert_eq!(open(&carol, NOW, &forwarded), Err(OpenError::OtherRecipient { recipient: bob.agent() }));
    // Unsigned bytes, sealed in the right way.
    let unsigned = carol.encryption_key().seal(&Counting::new(4), b"diai/sealed/1", b"hello");
    assert!(matches!(open(&carol, NOW, &unsigned), Err(OpenError::Envelope(_))));
    // Signed for another purpose.
    let other = alice.sign(diai_identity::Domain::new("diai/other/1"), Bytes::from("x")).to_bytes();
    let other = carol.encryption_key().seal(&Counting::new(4), b"diai/sealed/1", &other);
    assert!(matches!(open(&carol, NOW, &other), Err(OpenError::Sender(_))));
}

#[test]
fn what_is_too_long_is_neither_sealed_nor_opened() {
    let (alice, bob) = (identity(1), identity(2));
    let payload = Bytes::from(vec![0; MAX_PAYLOAD_BYTES + 1]);
    let error = seal_to(&bob.certificate(), &alice, &Counting::new(9), NOW, HOUR, payload).unwrap_err();
    assert_eq!(error, SealError::TooLarge { bytes: MAX_PAYLOAD_BYTES + 1 });
    let most = Bytes::from(vec![7; MAX_PAYLOAD_BYTES]);
    let sealed = seal_to(&bob.certificate(), &alice, &Counting::new(9), NOW, HOUR, most.clone()).unwrap();
    assert_eq!(open(&bob, NOW, &sealed).unwrap().payload, most);
    assert!(matches!(open(&bob, NOW, &vec![0; MAX_PAYLOAD_BYTES + 4096]), Err(OpenError::TooLarge { .. })));
    let expired = NOW + diai_identity::Certificate::LIFE + Duration::from_secs(600);
    let error = seal_to(&bob.certificate(), &alice, &Counting::new(9), expired, HOUR, Bytes::new()).unwrap_err();
    assert!(matches!(error, SealError::Certificate { .. }));
}
