use bytes::Bytes;
use cid::Cid;
use multihash::Multihash;
use sha2::{Digest, Sha256, Sha512};

use crate::BlockError;

/// Larger blocks are neither made, stored nor accepted: what every Bitswap peer must be able to take.
pub const MAX_BLOCK_BYTES: usize = 2 << 20;
/// An identity CID holds its content itself; more than this many bytes are refused.
pub const MAX_IDENTITY_BYTES: usize = 64;
/// The codec of blocks that are bytes and nothing else.
pub const RAW: u64 = 0x55;
/// The codec of UnixFS nodes.
pub const DAG_PB: u64 = 0x70;
/// The codec of CBOR nodes with links.
pub const DAG_CBOR: u64 = 0x71;
/// The codec of JSON nodes with links.
pub const DAG_JSON: u64 = 0x0129;

pub(crate) const IDENTITY: u64 = 0x00;
pub(crate) const SHA2_256: u64 = 0x12;
const SHA2_512: u64 = 0x13;

/// Bytes and the CID that they hash to. Whoever holds one need not check it again. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Block {
    /// What the data hashes to.
    pub cid: Cid,
    /// At most [`MAX_BLOCK_BYTES`].
    pub data: Bytes,
}

impl Block {
    /// The block of `data` under `codec`: CIDv1, SHA-256. Hashes on the calling thread (0.6 ms a MiB), so large data
    /// belongs on the World's `Offload`.
    pub fn new(codec: u64, data: impl Into<Bytes>) -> Result<Self, BlockError> {
        let data = data.into();
        check_size(data.len())?;
        Ok(Self { cid: Cid::new_v1(codec, sha2_256(&data)), data })
    }

    /// The block of `data` if it hashes to `cid`. SHA-256, SHA-512 and identity are understood.
    pub fn verified(cid: Cid, data: impl Into<Bytes>) -> Result<Self, BlockError> {
        let data = data.into();
        verify(&cid, &data)?;
        Ok(Self { cid, data })
    }
}

/// The content of an identity CID, which holds it instead of a digest; `None` for every other CID.
pub fn identity_content(cid: &Cid) -> Option<&[u8]> {
    let hash = cid.hash();
    (hash.code() == IDENTITY && hash.digest().len() <= MAX_IDENTITY_BYTES).then(|| hash.digest())
}

/// SHA-256 of nothing.
const EMPTY_SHA2_256: [u8; 32] = [
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27, 0xae, 0x41,
    0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
];

/// The content of a CID that tells it without any block: an identity CID's, or nothing, whose hash everybody knows. Kubo
/// answers that it does not have an empty block, also when it has.
pub(crate) fn known_content(cid: &Cid) -> Option<&[u8]> {
    let is_empty = cid.hash().code() == SHA2_256 && cid.hash().digest() == EMPTY_SHA2_256;
    identity_content(cid).or_else(|| is_empty.then_some(&[]))
}

pub(crate) fn verify(cid: &Cid, data: &[u8]) -> Result<(), BlockError> {
    check_size(data.len())?;
    let hash = cid.hash();
    let matches = match (hash.code(), hash.digest().len()) {
        (SHA2_256, 32) => Sha256::digest(data).as_slice() == hash.digest(),
        (SHA2_512, 64) => Sha512::digest(data).as_slice() == hash.digest(),
        (IDENTITY, 0..=MAX_IDENTITY_BYTES) => data == hash.digest(),
        (code, _) => return Err(BlockError::UnknownHash { cid: *cid, code }),
    };
    if matches { Ok(()) } else { Err(BlockError::WrongContent { cid: *cid }) }
}

pub(crate) fn sha2_256(data: &[u8]) -> Multihash<64> {
    Multihash::wrap(SHA2_256, &Sha256::digest(data)).expect("a SHA-256 digest fits 64 bytes")
}

fn check_size(bytes: usize) -> Result<(), BlockError> {
    if bytes > MAX_BLOCK_BYTES { Err(BlockError::TooLarge { bytes }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_has_the_cid_that_others_give_it() {
        let block = Block::new(RAW, &b"hello"[..]).unwrap();
        assert_eq!(block.cid.to_string(), "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq");
    }

    #[test]
    fn data_that_does_not_hash_to_the_cid_is_refused() {
        let cid = Block::new(RAW, &b"hello"[..]).unwrap().cid;
        assert!(matches!(Block::verified(cid, &b"hellO"[..]), Err(BlockError::WrongContent { .. })));
        assert!(Block::verified(cid, &b"hello"[..]).is_ok());
    }

    #[test]
    fn a_block_over_the_limit_is_refused_and_one_at_the_limit_is_not() {
        assert!(Block::new(RAW, vec![0; MAX_BLOCK_BYTES]).is_ok());
        assert!(matches!(Block::new(RAW, vec![0; MAX_BLOCK_BYTES + 1]), Err(BlockError::TooLarge { .. })));
    }

    #[test]
    fn unknown_and_shortened_hashes_are_refused() {
        let md5 = Cid::new_v1(RAW, Multihash::wrap(0xd5, &[0; 16]).unwrap());
        assert!(matches!(Block::verified(md5, &b""[..]), Err(BlockError::UnknownHash { code: 0xd5, .. })));
        let short = Cid::new_v1(RAW, Multihash::wrap(SHA2_256, &Sha256::digest(b"hello")[..4]).unwrap());
        assert!(matches!(Block::verified(short, &b"hello"[..]), Err(BlockError::UnknownHash { .. })));
    }

    #[test]
    fn an_identity_cid_answers_for_itself() {
        let cid = Cid::new_v1(RAW, Multihash::wrap(IDENTITY, b"tiny").unwrap());
        assert_eq!(identity_content(&cid), Some(&b"tiny"[..]));
        assert!(Block::verified(cid, &b"tiny"[..]).is_ok());
        assert!(Block::verified(cid, &b"Tiny"[..]).is_err());
    }
}
