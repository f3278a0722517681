//! A root key that lies elsewhere.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{Counting, DAY, DOMAIN, NOW, identity, message};
use diai_core::{AgentId, BoxFuture, Bytes};
use diai_identity::{Identity, LocalSigner, RenewError, Signer, SignerError, VerifyError};
use futures::executor::block_on;

/// Signs as it is told to, and remembers what.
struct Kms {
    claims: AgentId,
    key: LocalSigner,
    signed: Mutex<Vec<Bytes>>,
    refuses: Mutex<bool>,
}

impl Kms {
    fn holding(seed: u8, claims: u8) -> Arc<Self> {
        Arc::new(Self {
            claims: LocalSigner::from_seed(&[claims; 32]).agent(),
            key: LocalSigner::from_seed(&[seed; 32]),
            signed: Mutex::default(),
            refuses: Mutex::default(),
        })
    }
}

impl Signer for Kms {
    fn agent(&self) -> AgentId {
        self.claims
    }

    fn sign(&self, message: Bytes) -> BoxFuture<'static, Result<[u8; 64], SignerError>> {
        if *self.refuses.lock().unwrap() {
            return Box::pin(std::future::ready(Err(SignerError { reason: "out of office".into() })));
        }
        self.signed.lock().unwrap().push(message.clone());
        self.key.sign(message)
    }
}

#[test]
fn a_kms_certifies_devices_and_never_signs_anything_else() {
    let kms = Kms::holding(1, 1);
    let device = block_on(Identity::with_signer(kms.clone(), &Counting::from(30), NOW)).unwrap();
    assert_eq!(device.agent(), kms.agent());
    assert!(device.sign(DOMAIN, "hello").verify(DOMAIN, NOW).is_ok());

    let other = block_on(Identity::with_signer(kms.clone(), &Counting::from(60), NOW)).unwrap();
    assert_eq!(device.agent(), other.agent());
    assert_ne!(device.peer(), other.peer());

    let signed = kms.signed.lock().unwrap();
    assert_eq!(signed.len(), 2);
    assert!(signed.iter().all(|bytes| bytes.starts_with(&message("diai/device-certificate/1", b""))));
}

#[test]
fn renewal_goes_through_the_kms_and_reaches_all_clones() {
    let kms = Kms::holding(1, 1);
    let device = block_on(Identity::with_signer(kms.clone(), &Counting::from(30), NOW)).unwrap();
    let (clone, old) = (device.clone(), device.certificate());

    let renewed = block_on(device.renew_certificate(NOW + 20 * DAY)).unwrap();
    assert_eq!(clone.certificate(), renewed);
    assert_eq!(renewed.verify(NOW + 40 * DAY), Ok(()));
    assert_eq!((renewed.agent(), renewed.peer()), (old.agent(), old.peer()));
    assert_eq!(renewed.encryption_key(), old.encryption_key());
    assert!(renewed.seq() > old.seq());

    *kms.refuses.lock().unwrap() = true;
    let refused = block_on(device.renew_certificate(NOW + 21 * DAY));
    assert_eq!(refused, Err(RenewError::Signer(SignerError { reason: "out of office".into() })));
    assert_eq!(device.certificate(), renewed);
}

#[test]
fn a_kms_with_another_key_than_it_says_is_noticed_at_once() {
    let refused = block_on(Identity::with_signer(Kms::holding(9, 1), &Counting::from(30), NOW)).unwrap_err();
    let agent = identity(1).agent();
    assert_eq!(refused, RenewError::Signature { agent, reason: VerifyError::Root });
}

#[test]
fn numbers_of_certificates_grow_even_when_the_clock_goes_back() {
    let alice = identity(1);
    let mut last = alice.certificate().seq();
    for now in [NOW, NOW, NOW.minus(300 * DAY), NOW + Duration::from_millis(1), NOW + DAY] {
        let renewed = block_on(alice.renew_certificate(now)).unwrap();
        assert!(renewed.seq() > last);
        assert_eq!(renewed.not_before(), now);
        last = renewed.seq();
    }
}
