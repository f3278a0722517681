use super::Multihash;
use crate::block::SHA2_256;

/// A multihash, small for those that nearly all blocks have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Sha256([u8; 32]),
    /// Any other, as its bytes.
    Other(Box<[u8]>),
}

impl From<&Multihash> for Key {
    fn from(hash: &Multihash) -> Self {
        match (hash.code(), <[u8; 32]>::try_from(hash.digest())) {
            (SHA2_256, Ok(digest)) => Self::Sha256(digest),
            _ => Self::Other(hash.to_bytes().into()),
        }
    }
}

impl Key {
    pub(crate) fn multihash(&self) -> Multihash {
        match self {
            Self::Sha256(digest) => Multihash::wrap(SHA2_256, digest).expect("32 bytes fit"),
            Self::Other(bytes) => Multihash::from_bytes(bytes).expect("a key is made of a multihash"),
        }
    }

    /// The multihash that `bytes` are, exactly.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Multihash::from_bytes(bytes).ok().map(|hash| Self::from(&hash))
    }
}
