use std::{fmt, str::FromStr};

/// Multicodec prefix of an Ed25519 public key, as a varint: what `did:key` puts before the 32 bytes.
const ED25519_PUB: [u8; 2] = [0xed, 0x01];
const DID_PREFIX: &str = "did:key:z";
/// A did:key of an Ed25519 key has 56 characters; longer input is refused before it is decoded.
const MAX_DID_CHARS: usize = 64;

/// Who an agent is: its Ed25519 root public key, written everywhere as a [did:key].
///
/// The conversion is pure both ways; no lookup is needed. An `AgentId` is not a network address: an agent's
/// devices each have a [`PeerId`](crate::PeerId), bound to the agent by a device certificate.
///
/// [did:key]: https://w3c-ccg.github.io/did-key-spec/
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentId([u8; 32]);

impl AgentId {
    /// The agent whose root public key these 32 bytes are. Whether they are a point on the curve is checked when a
    /// signature is verified, not here.
    pub const fn from_bytes(public_key: [u8; 32]) -> Self {
        Self(public_key)
    }

    /// The 32 bytes of the root public key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The last eight characters of the did:key, for logs and progress lines. Not unique.
    pub fn short(&self) -> String {
        let did = self.to_string();
        did[did.len().saturating_sub(8)..].to_owned()
    }
}

impl TryFrom<&[u8]> for AgentId {
    type Error = ParseAgentIdError;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        bytes.try_into().map(Self).map_err(|_| ParseAgentIdError::Length { bytes: bytes.len() })
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0u8; 34];
        bytes[..2].copy_from_slice(&ED25519_PUB);
        bytes[2..].copy_from_slice(&self.0);
        write!(f, "{DID_PREFIX}{}", bs58::encode(bytes).into_string())
    }
}

impl fmt::Debug for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for AgentId {
    type Err = ParseAgentIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_DID_CHARS {
            return Err(ParseAgentIdError::Length { bytes: text.len() });
        }
        let encoded = text.strip_prefix(DID_PREFIX).ok_or(ParseAgentIdError::NotDidKey)?;
        let bytes = bs58::decode(encoded).into_vec().map_err(|_| ParseAgentIdError::Base58)?;
        let key = bytes.strip_prefix(&ED25519_PUB).ok_or(ParseAgentIdError::NotEd25519)?;
        Self::try_from(key)
    }
}

/// Why a text or a byte string is no [`AgentId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseAgentIdError {
    /// The text does not start with `did:key:z`.
    #[error("not an agent id: expected a text that starts with did:key:z")]
    NotDidKey,
    /// What follows `did:key:z` is not base58btc.
    #[error("not an agent id: the part after did:key:z is not base58")]
    Base58,
    /// The key is of another kind than Ed25519.
    #[error("not an agent id: the key is not an Ed25519 key (did:key:z6Mk...)")]
    NotEd25519,
    /// The key has the wrong length.
    #[error("not an agent id: {bytes} bytes where a 32-byte key was expected")]
    Length {
        /// How many there were.
        bytes: usize,
    },
}
