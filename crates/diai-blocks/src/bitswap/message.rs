//! What Bitswap peers say to each other.

use bytes::Bytes;
use cid::Cid;
use diai_core::ProtocolId;
use multihash::Multihash;
use sha2::{Digest, Sha256, Sha512};

/// Longest message, in bytes: what the Bitswap specification demands.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// Wants and presences for longer CIDs are ignored, as Kubo does.
pub const MAX_CID_BYTES: usize = 168;
/// Wants, presences or blocks in one message; more and the message is refused.
pub(crate) const MAX_ENTRIES: usize = 16_384;

use crate::{DAG_PB, block::SHA2_256};

const SHA2_512: u64 = 0x13;

/// Which Bitswap a stream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 1.0.0 and the unversioned protocol: bare blocks of CIDv0, nothing else.
    V1_0,
    /// 1.1.0: blocks with a CID prefix.
    V1_1,
    /// 1.2.0: want-have, HAVE and DONT_HAVE.
    V1_2,
}

impl Version {
    /// The protocols that are spoken, the preferred one first.
    pub const PROTOCOLS: [ProtocolId; 4] = [
        ProtocolId::new("/ipfs/bitswap/1.2.0"),
        ProtocolId::new("/ipfs/bitswap/1.1.0"),
        ProtocolId::new("/ipfs/bitswap/1.0.0"),
        ProtocolId::new("/ipfs/bitswap"),
    ];

    /// The version that `protocol` stands for.
    pub fn of(protocol: ProtocolId) -> Self {
        match protocol.as_str() {
            "/ipfs/bitswap/1.2.0" => Self::V1_2,
            "/ipfs/bitswap/1.1.0" => Self::V1_1,
            _ => Self::V1_0,
        }
    }
}

/// One message: wants of the sender, and answers to wants of the receiver.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// The wants replace all earlier ones of the sender.
    pub full: bool,
    /// What the sender wants, or wants no longer.
    pub wants: Vec<Want>,
    /// Blocks.
    pub payload: Vec<Payload>,
    /// Whether the sender has a block.
    pub presences: Vec<Presence>,
    /// Bytes that the sender has queued for the receiver.
    pub pending_bytes: i32,
}

impl Message {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        !self.full && self.wants.is_empty() && self.payload.is_empty() && self.presences.is_empty()
    }
}

/// A want, or the end of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// Which block.
    pub cid: Cid,
    /// The higher, the sooner.
    pub priority: i32,
    /// The block is wanted no longer.
    pub cancel: bool,
    /// The block itself, or only whether it is there.
    pub kind: WantKind,
    /// Answer DONT_HAVE if it is not there.
    pub send_dont_have: bool,
}

/// What is wanted of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WantKind {
    /// The block.
    #[default]
    Block,
    /// HAVE or DONT_HAVE.
    Have,
}

/// A block as it travels: its CID is the prefix and the hash of the data, so a block cannot lie about its CID, only
/// be another one than was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// The CID without the digest.
    pub prefix: Prefix,
    /// The content.
    pub data: Bytes,
}

/// A CID without its digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// CID version, 0 or 1.
    pub version: u64,
    /// Multicodec of the content.
    pub codec: u64,
    /// Multicodec of the hash function.
    pub hash: u64,
    /// Length of the digest in bytes.
    pub digest_bytes: u64,
}

impl Prefix {
    /// What a block of Bitswap 1.0.0 has.
    pub const V0: Self = Self { version: 0, codec: DAG_PB, hash: SHA2_256, digest_bytes: 32 };

    /// The prefix of `cid`.
    pub fn of(cid: &Cid) -> Self {
        Self {
            version: u64::from(cid.version()),
            codec: cid.codec(),
            hash: cid.hash().code(),
            digest_bytes: u64::from(cid.hash().size()),
        }
    }

    /// The CID of `data` under this prefix; hashes. `None` for other hash functions than SHA-256 and SHA-512, whole.
    pub fn cid(&self, data: &[u8]) -> Option<Cid> {
        let hash = match (self.hash, self.digest_bytes) {
            (SHA2_256, 32) => Multihash::wrap(SHA2_256, &Sha256::digest(data)).ok()?,
            (SHA2_512, 64) => Multihash::wrap(SHA2_512, &Sha512::digest(data)).ok()?,
            _ => return None,
        };
        match self.version {
            0 if self.codec == DAG_PB => Cid::new_v0(hash).ok(),
            1 => Some(Cid::new_v1(self.codec, hash)),
            _ => None,
        }
    }
}

/// Whether the sender has a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Presence {
    /// Which block.
    pub cid: Cid,
    /// HAVE or DONT_HAVE.
    pub have: bool,
}
