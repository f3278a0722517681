use std::fmt;

use bytes::Bytes;
use diai_core::{AgentId, BoxFuture};
use ed25519_dalek::{Signer as _, SigningKey};

/// Signs with the root key of an agent, wherever that key lies: in this process ([`LocalSigner`]), in a KMS or an HSM,
/// or with a person who is asked.
///
/// The root signs nothing but device certificates: `message` is always `varint(25) "diai/device-certificate/1"` and a
/// certificate's body, which a signer may check before it signs.
pub trait Signer: Send + Sync + 'static {
    /// Whose root key this is.
    fn agent(&self) -> AgentId;

    /// The Ed25519 signature (RFC 8032, not pre-hashed) of `message`.
    ///
    /// Cancel-safety: dropping the future gives up the signature; nothing else may depend on it.
    fn sign(&self, message: Bytes) -> BoxFuture<'static, Result<[u8; 64], SignerError>>;
}

/// Why the root did not sign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the root key did not sign: {reason}")]
pub struct SignerError {
    /// What the signer said.
    pub reason: String,
}

/// A root key in this process. It is wiped from memory when dropped.
pub struct LocalSigner(SigningKey);

impl LocalSigner {
    /// The signer of the root whose Ed25519 seed this is.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    pub(crate) fn seed(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    pub(crate) fn sign_now(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl Signer for LocalSigner {
    fn agent(&self) -> AgentId {
        AgentId::from_bytes(self.0.verifying_key().to_bytes())
    }

    fn sign(&self, message: Bytes) -> BoxFuture<'static, Result<[u8; 64], SignerError>> {
        Box::pin(std::future::ready(Ok(self.sign_now(&message))))
    }
}

impl fmt::Debug for LocalSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalSigner({})", self.agent())
    }
}
