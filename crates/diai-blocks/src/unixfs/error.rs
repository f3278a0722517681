use std::io;

use cid::Cid;

use super::DataError;
use crate::{BlockError, FlushError, PutError, SourceError, dag_pb, ipld::LinksError};

/// Why a DAG cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// A block did not come.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A block is no dag-pb node.
    #[error("block {cid} is malformed: {reason}")]
    Node {
        /// Which block.
        cid: Cid,
        /// What is wrong.
        reason: dag_pb::DecodeError,
    },
    /// A block of another codec with links is malformed.
    #[error("block {cid} is malformed: {reason}")]
    Links {
        /// Which block.
        cid: Cid,
        /// What is wrong.
        reason: LinksError,
    },
    /// A node holds no valid UnixFS data.
    #[error("block {cid} is malformed: {reason}")]
    Data {
        /// Which block.
        cid: Cid,
        /// What is wrong.
        reason: DataError,
    },
    /// A node contradicts itself or its parent.
    #[error("block {cid} is malformed: {what}")]
    Malformed {
        /// Which block.
        cid: Cid,
        /// What is wrong.
        what: &'static str,
    },
    /// The codec is not one of UnixFS.
    #[error("{cid} is of codec {codec:#x}, which is no file and no folder")]
    Codec {
        /// Which block.
        cid: Cid,
        /// Its codec.
        codec: u64,
    },
    /// A file was expected.
    #[error("{cid} is no file")]
    NotAFile {
        /// What is something else.
        cid: Cid,
    },
    /// A folder was expected.
    #[error("{cid} is no folder")]
    NotAFolder {
        /// What is something else.
        cid: Cid,
    },
    /// The folder has no such entry.
    #[error("{name:?} is not in folder {folder}")]
    NoEntry {
        /// The folder.
        folder: Cid,
        /// The name.
        name: String,
    },
    /// Over a limit of the reader.
    #[error("{cid} has more than {limit} {what}; raise the limit if you trust its maker")]
    OverLimit {
        /// The root, or the block where it was seen.
        cid: Cid,
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
}

/// Why nothing was imported. Blocks put until then are not pinned, and garbage.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The disk, or the reader, failed.
    #[error("cannot read {path:?}: {source}")]
    Io {
        /// What was read.
        path: String,
        /// What the disk said.
        source: io::Error,
    },
    /// The file shrank or grew while it was read.
    #[error("{path:?} changed while it was imported; import it again")]
    Changed {
        /// Which file.
        path: String,
    },
    /// Folders deeper than [`MAX_DEPTH`](super::MAX_DEPTH).
    #[error("{path:?} lies deeper than 128 folders")]
    TooDeep {
        /// Where.
        path: String,
    },
    /// Two entries of one folder have one name, or names that collide in all 64 bits of their hash.
    #[error("a folder cannot hold both {first:?} and {second:?}")]
    Collision {
        /// One name.
        first: String,
        /// The other.
        second: String,
    },
    /// A name without a byte, or with more than 4,096.
    #[error("a folder cannot hold an entry named {name:?}: names have 1 to 4096 bytes")]
    Name {
        /// The name.
        name: String,
    },
    /// The profile or the options make no sense.
    #[error("{field} of the import options must be {allowed}")]
    Options {
        /// Which field.
        field: &'static str,
        /// What it may be.
        allowed: &'static str,
    },
    /// A block could not be made.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// A block could not be stored.
    #[error(transparent)]
    Put(#[from] PutError),
    /// Blocks could not be made durable.
    #[error(transparent)]
    Flush(#[from] FlushError),
    /// The World is shutting down.
    #[error("the import was interrupted by shutdown")]
    Closed,
}

/// Why a folder was not updated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// The folder as it is cannot be read, or has no entry that was to be removed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The folder as it would be cannot be made.
    #[error(transparent)]
    Build(#[from] ImportError),
}

/// Why a DAG was not, or not wholly, exported. What was written until then stays.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The DAG cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A name that could lead elsewhere, or that some system cannot hold.
    #[error("the name {name:?} in folder {folder} is unsafe; nothing was written for it")]
    UnsafeName {
        /// The folder.
        folder: Cid,
        /// The name.
        name: String,
    },
    /// A symbolic link that leaves the target folder.
    #[error("the link {path:?} leads to {target:?}, out of the folder; allow outside_links if you trust its maker")]
    UnsafeLink {
        /// Where the link would be.
        path: String,
        /// Where it leads.
        target: String,
    },
    /// Something is there already.
    #[error("{path:?} exists; choose another target, or allow overwrite (which replaces files only)")]
    Exists {
        /// What is there.
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
    #[error("the export was interrupted by shutdown")]
    Closed,
}
