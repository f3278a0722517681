//! Sealed content: encrypted before it is hashed, so that anybody may hold and carry it and only those who were granted
//! the key can read it. The CID and one's own key suffice to open it, from any holder, also when its maker is gone.
//!
//! The format is specified in `docs/sealed.md`, with test vectors beside it. In short:
//! - The root is a plain UnixFS folder, so that every IPFS node can walk, fetch and pin it: `content`, the ciphertext;
//!   `grants`, the key, sealed with HPKE for each reader; `older-00`, ..., contents of versions before that are still in use.
//! - The **plaintext** is a manifest (names, sizes, places), the files, and zeros: names and sizes are hidden, and of the
//!   length only a class shows ([`padded_bytes`], at most a sixteenth more).
//! - **Chunks** of 1 MiB have a key of their own each, derived from the content's key, their number, and how many there
//!   are, and commit to it: none can be moved, left out, cut off, or opened by another key. Any place can be read without
//!   the rest ([`SealedReader::read_range`]).
//! - The key is random, or, by choice, a function of the content and a secret salt ([`Keying`]).
//! - **Readers** are agents and [`Group`]s. A grant says nothing of whom it is for; a reader tries each.
//! - To take a reader out, [`reseal`] makes a version for the others: what is new is under a new key, what has not changed
//!   stays as it is, readable for who could read it before.
//!
//! A bystander learns: that it is sealed, its size class, the class of the number of readers, and, of newer versions, which
//! contents they share with others. Sealing does not prove who sealed: whoever has been granted the key could make another
//! content with the same grants' recipients. What links to the root (a signed workspace head, a signed agreement) says
//! whose it is.
//!
//! # Limits
//! | what | limit |
//! |---|---|
//! | grants | [`MAX_GRANTS`], fill-ups included |
//! | entries of a manifest | [`MAX_ENTRIES`] |
//! | pieces that their contents are in | [`MAX_EXTENTS`] |
//! | bytes of a path in it | [`MAX_PATH_BYTES`] |
//! | bytes of a manifest | [`MAX_MANIFEST_BYTES`] |
//! | older contents that a version refers to | [`MAX_OLDER`] |
//! | epochs of a group whose keys are kept | [`MAX_EPOCHS`] |
//! | chunks that a reader keeps opened | 8, of 1 MiB at most |

mod chunks;
mod error;
mod export;
mod grants;
mod group;
mod keys;
mod manifest;
mod open;
mod parts;
mod plan;
mod reseal;
mod seal;
mod stream;

pub use chunks::{CHUNK_BYTES, PLAIN_BYTES, padded_bytes};
pub use error::{OpenError, SealError};
pub use group::{Group, GroupId};
pub use keys::{Keying, Keys, Salt};
pub(crate) use manifest::check_path;
pub use manifest::{Manifest, ManifestEntry};
pub use open::{SealedReader, access_proof, is_sealed, open};
pub use plan::Source;
pub use reseal::reseal;
pub(crate) use seal::seal_to;
pub use seal::{SealOptions, Sealed, seal};

/// Grants of one sealed content, fill-ups included.
pub const MAX_GRANTS: usize = 256;
/// Files and folders in one sealed content.
pub const MAX_ENTRIES: usize = 100_000;
/// Pieces in which the contents of all entries are.
pub const MAX_EXTENTS: usize = 200_000;
/// Bytes of a path in a manifest.
pub const MAX_PATH_BYTES: usize = 1024;
/// Bytes of a manifest.
pub const MAX_MANIFEST_BYTES: usize = 32 << 20;
/// Contents of versions before that a version refers to.
pub const MAX_OLDER: usize = 32;
/// Epochs of a group whose keys are kept.
pub const MAX_EPOCHS: usize = 64;

/// Name of the ciphertext in the root.
const CONTENT: &str = "content";
/// Name of the grants in the root.
const GRANTS: &str = "grants";
