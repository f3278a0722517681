use std::io;

use cid::Cid;

use crate::{
    FlushError, PutError,
    unixfs::{ImportError, ReadError},
};

/// Why nothing was sealed. Blocks stored until then are garbage.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// A path that could lead elsewhere, or stands twice, or is too long.
    #[error("the path {path:?} cannot be sealed: {why}")]
    Path {
        /// Which.
        path: String,
        /// What is wrong.
        why: &'static str,
    },
    /// Symbolic links are not sealed.
    #[error("{path:?} is a symbolic link, which cannot be sealed; leave it out or put a copy in its place")]
    Symlink {
        /// Where.
        path: String,
    },
    /// More entries than [`MAX_ENTRIES`](super::MAX_ENTRIES).
    #[error("more than {limit} entries; seal them in several parts")]
    TooMany {
        /// The cap.
        limit: usize,
    },
    /// More recipients than [`MAX_GRANTS`](super::MAX_GRANTS).
    #[error("{recipients} recipients, at most {limit} are possible")]
    TooManyRecipients {
        /// How many there are.
        recipients: usize,
        /// The cap.
        limit: usize,
    },
    /// A recipient's certificate is not valid.
    #[error("the certificate of {agent} is not valid ({reason}); get the current one from its record")]
    Recipient {
        /// Whose.
        agent: diai_core::AgentId,
        /// What is wrong.
        reason: diai_identity::VerifyError,
    },
    /// A file could not be read, or changed while it was.
    #[error("cannot read {path:?}: {source}")]
    Io {
        /// Which.
        path: String,
        /// What the disk said.
        source: io::Error,
    },
    /// A manifest longer than [`MAX_MANIFEST_BYTES`](super::MAX_MANIFEST_BYTES).
    #[error("the names take more than {limit} bytes; seal the entries in several parts")]
    ManifestTooLarge {
        /// The cap.
        limit: usize,
    },
    /// A version that refers to more than [`MAX_OLDER`](super::MAX_OLDER) others.
    #[error("it would refer to more than {limit} versions before; give the content, to have it sealed anew")]
    TooManyVersions {
        /// The cap.
        limit: usize,
    },
    /// A group is handed out by its owner only.
    #[error("only {owner}, who owns the group, can seal it for members")]
    NotOwner {
        /// Who that is.
        owner: diai_core::AgentId,
    },
    /// What is to be sealed anew cannot be read.
    #[error("the version before cannot be read ({reason}); fetch it, or seal without it")]
    Previous {
        /// Why not.
        #[source]
        reason: Box<OpenError>,
    },
    /// The ciphertext could not be imported.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// A block could not be stored.
    #[error(transparent)]
    Put(#[from] PutError),
    /// Blocks could not be made durable.
    #[error(transparent)]
    Flush(#[from] FlushError),
    /// The World is shutting down.
    #[error("sealing was interrupted by shutdown")]
    Closed,
}

/// Why sealed content was not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The CID leads to something else.
    #[error("{root} is not sealed content: {why}")]
    NotSealed {
        /// Which root.
        root: Cid,
        /// What is wrong.
        why: &'static str,
    },
    /// It is sealed by another version of the format.
    #[error("{root} is sealed by a version of the format that is not known here; use a newer one of this software")]
    Version {
        /// Which root.
        root: Cid,
    },
    /// The sealed content is no group that its owner signed.
    #[error("{root} is not a group, or was not made by its owner; ask the owner for the right CID")]
    NotAGroup {
        /// Which root.
        root: Cid,
    },
    /// There is no such file in it.
    #[error("{root} holds no file {path:?}; its manifest lists what there is")]
    NoEntry {
        /// Which root.
        root: Cid,
        /// The path.
        path: String,
    },
    /// No grant is for this agent's device, or for a group whose keys were given.
    #[error("{root} is sealed, and not for this agent; ask its owner to seal it for you")]
    NotForYou {
        /// Which root.
        root: Cid,
    },
    /// A chunk was changed, moved or cut off, or the manifest makes no sense.
    #[error("the sealed content of {root} was tampered with at chunk {chunk}; do not trust who made it")]
    Tampered {
        /// Which root.
        root: Cid,
        /// Counted from zero.
        chunk: u64,
    },
    /// More content than the caller allows.
    #[error("{root} holds {bytes} bytes, at most {limit} were asked for")]
    TooLarge {
        /// Which root.
        root: Cid,
        /// What its manifest says.
        bytes: u64,
        /// The cap.
        limit: u64,
    },
    /// A block cannot be had or read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A name in the manifest could lead out of the target folder.
    #[error("the name {path:?} is unsafe; nothing was written for it")]
    UnsafeName {
        /// The path.
        path: String,
    },
    /// The disk failed.
    #[error("cannot write {path:?}: {source}")]
    Io {
        /// Where.
        path: String,
        /// What the disk said.
        source: io::Error,
    },
    /// The World is shutting down.
    #[error("opening was interrupted by shutdown")]
    Closed,
}
