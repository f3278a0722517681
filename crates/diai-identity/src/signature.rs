use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use diai_core::WallTime;
use ed25519_dalek::{Signature, VerifyingKey};

/// What a signature is for. A signature for one domain means nothing in another.
///
/// What is signed is `varint(length of domain) domain payload`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Domain(&'static str);

impl Domain {
    /// The longest name in bytes.
    pub const MAX_BYTES: usize = 64;

    /// The domain called `name`, such as `diai/agent-record/1`: 1 to 64 bytes. Names that start with `libp2p` are
    /// refused, because the device key signs for libp2p as well, in the same form.
    ///
    /// # Panics
    /// If the name is not such a name; in a constant that is a compile error.
    pub const fn new(name: &'static str) -> Self {
        let bytes = name.as_bytes();
        assert!(!bytes.is_empty() && bytes.len() <= Self::MAX_BYTES, "a domain has 1 to 64 bytes");
        assert!(!matches!(bytes, [b'l', b'i', b'b', b'p', b'2', b'p', ..]), "this domain belongs to libp2p");
        Self(name)
    }

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        self.0
    }

    /// The bytes that are signed.
    pub(crate) fn message(self, payload: &[u8]) -> Bytes {
        let mut message = BytesMut::with_capacity(self.0.len() + payload.len() + 1);
        // At most 64, so that the varint is one byte.
        message.put_u8(self.0.len() as u8);
        message.extend_from_slice(self.0.as_bytes());
        message.extend_from_slice(payload);
        message.freeze()
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Why a certificate or an envelope is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The root of the agent did not sign the certificate.
    #[error("the certificate is not signed by the agent it names; do not trust whoever sent it")]
    Root,
    /// The device did not consent to the certificate: the agent claims a device that is not its own.
    #[error("the certificate is not signed by the device it names; do not trust whoever sent it")]
    Device,
    /// The device did not sign the payload for this domain.
    #[error("the payload is not signed for {domain} by the device it is said to come from")]
    Payload {
        /// What it should have been signed for.
        domain: Domain,
    },
    /// The certificate is not valid yet, more than [`Certificate::MAX_SKEW`](crate::Certificate::MAX_SKEW) ahead.
    #[error("the certificate becomes valid in {} s only; is the clock right, here and there?", .not_before.since(*.now).as_secs())]
    NotYetValid {
        /// From when it is valid.
        not_before: WallTime,
        /// When it was checked.
        now: WallTime,
    },
    /// The certificate has expired.
    #[error("the certificate expired {} s ago; its agent has to renew it", .now.since(*.expires).as_secs())]
    Expired {
        /// Until when it was valid.
        expires: WallTime,
        /// When it was checked.
        now: WallTime,
    },
}

/// Whether `key` signed `message`, strictly: small-order keys and signatures in a second form are refused.
pub(crate) fn is_signed_by(key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
    VerifyingKey::from_bytes(key).is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(signature)).is_ok())
}
