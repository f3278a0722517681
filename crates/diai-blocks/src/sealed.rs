//! Sealed content: encrypted before it is hashed, so that anybody may hold and carry it and only those who were granted
//! the key can read it. The CID and one's own key suffice to open it, from any holder, also when its maker is gone.
//!
//! # Format
//! The root is a plain UnixFS folder, so that every IPFS node can walk, fetch and pin it:
//! - `content`: a file, the **ciphertext**, in chunks of 1 MiB as the profile `unixfs-v1-2025` cuts every file; each
//!   raw leaf is one sealed chunk.
//! - `g000`, `g001`, ...: **grants**, one raw block each, at most 256.
//!
//! **Key.** 32 random bytes, new for each sealing. Chunks are encrypted with ChaCha20-Poly1305 under
//! `SHA-256("diai/sealed-content/1" || key)`. Chunk `i` of `n` has the nonce `00000000 || LE64(i)` (a key never seals
//! two contents, so none repeats) and the associated data `"diai/sealed-chunk/1" || LE64(i) || LE64(n)`: no chunk can be
//! moved, left out or cut off. A chunk has 1,048,560 bytes of plaintext and 16 of tag; the last may be shorter.
//!
//! **Plaintext.** `LE32(length of manifest) || manifest || contents of the files || zeros`. The manifest (names, sizes,
//! when it was sealed) is `proto/sealed.proto`. The zeros round the length up to a class
//! ([`padded_bytes`]), so that the exact size stays hidden, at a cost of at most 12 %.
//!
//! **Grant.** `HPKE-seal(device key of the recipient, info, key)`, base mode, with
//! `info = "diai/grant/1" || agent id || CID of content`. So a grant says nothing of whom it is for; a recipient tries
//! each (256 at most, about 50 us each). Their number is filled up to a power of two with grants that nobody can open.
//!
//! A bystander learns: that it is sealed, its size class, and the class of the number of recipients. Sealing does not
//! prove who sealed: whoever has been granted the key could make another content with the same grants' recipients.
//! What links to the root (a signed workspace head, a signed agreement) says whose it is.
//!
//! # Limits
//! | what | limit |
//! |---|---|
//! | grants | [`MAX_GRANTS`], fill-ups included |
//! | entries of a manifest | [`MAX_ENTRIES`] |
//! | bytes of a path in it | [`MAX_PATH_BYTES`] |

mod chunks;
mod error;
mod manifest;
mod open;
mod seal;

pub use chunks::{CHUNK_BYTES, PLAIN_BYTES, padded_bytes};
pub use error::{OpenError, SealError};
pub(crate) use manifest::check_path;
pub use manifest::{Manifest, ManifestEntry};
pub use open::{SealedReader, access_proof, open};
pub(crate) use seal::seal_to;
pub use seal::{Sealed, Source, seal};

/// Grants of one sealed content, fill-ups included.
pub const MAX_GRANTS: usize = 256;
/// Files and folders in one sealed content.
pub const MAX_ENTRIES: usize = 100_000;
/// Bytes of a path in a manifest.
pub const MAX_PATH_BYTES: usize = 1024;

/// Name of the ciphertext in the root.
const CONTENT: &str = "content";

/// What a grant is bound to.
fn grant_info(agent: diai_core::AgentId, content: &cid::Cid) -> Vec<u8> {
    let mut info = b"diai/grant/1".to_vec();
    info.extend_from_slice(agent.as_bytes());
    info.extend_from_slice(&content.to_bytes());
    info
}

/// Whether `cid` has the form of sealed content: a folder of one `content` and its grants. Reads one block.
pub async fn is_sealed(source: &dyn crate::BlockSource, cid: crate::Cid) -> Result<bool, crate::unixfs::ReadError> {
    match crate::unixfs::stat(source, cid).await {
        Ok(stat) if stat.kind == crate::unixfs::Kind::Folder => {}
        Ok(_) | Err(crate::unixfs::ReadError::Codec { .. }) => return Ok(false),
        Err(error) => return Err(error),
    }
    // One more than there can be: a folder with other entries beside these is none.
    let entries = match crate::unixfs::entries(source, cid, MAX_GRANTS + 2).await {
        Err(crate::unixfs::ReadError::OverLimit { .. }) => return Ok(false),
        entries => entries?,
    };
    let grants = entries.iter().filter(|entry| {
        entry
            .name
            .strip_prefix('g')
            .is_some_and(|number| number.len() == 3 && number.bytes().all(|byte| byte.is_ascii_digit()))
    });
    Ok(entries.iter().any(|entry| entry.name == "content") && grants.count() + 1 == entries.len() && entries.len() > 1)
}
