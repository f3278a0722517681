use std::io;

use cid::Cid;

/// Why bytes are no block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BlockError {
    /// More than [`MAX_BLOCK_BYTES`](crate::MAX_BLOCK_BYTES).
    #[error("a block of {bytes} bytes is over the limit of 2 MiB; cut the data into smaller blocks")]
    TooLarge {
        /// How long it is.
        bytes: usize,
    },
    /// The data does not hash to the CID.
    #[error("the data does not hash to {cid}")]
    WrongContent {
        /// What was asked for.
        cid: Cid,
    },
    /// The CID's hash function is not known here, or its digest is cut short.
    #[error("{cid} is of hash function {code:#x}, which cannot be checked here; SHA-256 and SHA-512 can")]
    UnknownHash {
        /// Which CID.
        cid: Cid,
        /// Its hash function.
        code: u64,
    },
}

/// Why a store could not be opened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenStoreError {
    /// Another process, or another handle of this one, has the store open.
    #[error("the block store in {folder:?} is open already; close the other agent or choose another folder")]
    InUse {
        /// Which folder.
        folder: String,
    },
    /// The folder holds a store of a format that this version does not know.
    #[error(
        "{file:?} is no segment of a block store of this version; use the version that wrote it, or another folder"
    )]
    Format {
        /// Which file.
        file: String,
    },
    /// The configuration makes no sense.
    #[error("store configuration: {0}")]
    Config(&'static str),
    /// The disk failed.
    #[error("cannot open the block store: {0}")]
    Io(#[from] io::Error),
}

/// Why blocks were not put. None of them was, unless blocks before them in the same call already were.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PutError {
    /// The store is full.
    #[error(
        "the block store is full: {needed_bytes} bytes more would pass its quota of {quota_bytes} ({live_bytes} in use, \
         {dead_bytes} waiting for compaction); unpin something and run gc, or raise quota_bytes"
    )]
    QuotaExceeded {
        /// What the blocks would take on disk.
        needed_bytes: u64,
        /// The cap.
        quota_bytes: u64,
        /// What stored blocks take.
        live_bytes: u64,
        /// What removed blocks still take.
        dead_bytes: u64,
    },
    /// A block is too large or of an unknown hash.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// The disk failed to make earlier writes durable; what it holds is uncertain until the store is reopened.
    #[error("the disk failed to make blocks durable; free or repair it, then reopen the store")]
    Failed,
    /// The disk failed.
    #[error("cannot write blocks: {0}")]
    Io(#[from] io::Error),
    /// The World is shutting down.
    #[error("the block store has shut down")]
    Closed,
}

/// Why a block was not got.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GetError {
    /// What the disk holds does not hash to the CID any more. The block was set aside: it counts as missing from now
    /// on and can be put again.
    #[error("the stored block {cid} is damaged and was set aside; fetch it again from a peer")]
    Damaged {
        /// Which block.
        cid: Cid,
    },
    /// The disk failed.
    #[error("cannot read block {cid}: {source}")]
    Io {
        /// Which block.
        cid: Cid,
        /// What the disk said.
        source: io::Error,
    },
    /// The World is shutting down.
    #[error("the block store has shut down")]
    Closed,
}

/// Why blocks were not removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoveError {
    /// The disk failed to make earlier writes durable; see [`PutError::Failed`].
    #[error("the disk failed to make blocks durable; free or repair it, then reopen the store")]
    Failed,
    /// The disk failed.
    #[error("cannot remove blocks: {0}")]
    Io(#[from] io::Error),
    /// The World is shutting down.
    #[error("the block store has shut down")]
    Closed,
}

/// Why blocks are not durable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FlushError {
    /// The disk failed to make earlier writes durable; see [`PutError::Failed`].
    #[error("the disk failed to make blocks durable; free or repair it, then reopen the store")]
    Failed,
    /// The disk failed.
    #[error("cannot make blocks durable: {0}")]
    Io(#[from] io::Error),
    /// The World is shutting down.
    #[error("the block store has shut down")]
    Closed,
}

/// Why a pin was not set, removed or listed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PinError {
    /// Not all blocks of the DAG are here.
    #[error("{root} cannot be pinned: its block {missing} is not stored here; fetch it first")]
    Incomplete {
        /// What was to be pinned.
        root: Cid,
        /// The first block found missing.
        missing: Cid,
    },
    /// The DAG cannot be walked.
    #[error("{root} cannot be pinned: {reason}")]
    Unwalkable {
        /// What was to be pinned.
        root: Cid,
        /// Why.
        reason: crate::unixfs::ReadError,
    },
    /// The name is empty or too long.
    #[error("a pin's name has 1 to {limit} bytes")]
    Name {
        /// The cap.
        limit: usize,
    },
    /// The database of pins failed.
    #[error("the database of pins failed: {0}")]
    Database(#[from] Box<redb::Error>),
    /// The blocks could not be made durable first.
    #[error(transparent)]
    Flush(#[from] FlushError),
    /// The World is shutting down.
    #[error("the block store has shut down")]
    Closed,
}

/// Why the list of cached blocks could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenCacheError {
    /// Its database failed.
    #[error("the database of cached blocks failed; remove it to have them count as kept until the next gc: {0}")]
    Database(#[from] Box<redb::Error>),
}

/// Why garbage collection stopped. What was collected until then stays collected; nothing pinned was touched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GcError {
    /// A pinned DAG cannot be walked to its end, so that what it needs is unknown.
    #[error("nothing more is collected: the pinned {root} cannot be walked ({reason}); fetch it again or unpin it")]
    Pin {
        /// Which pin.
        root: Cid,
        /// Why.
        reason: crate::unixfs::ReadError,
    },
    /// The pins could not be read.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// Blocks could not be removed.
    #[error(transparent)]
    Remove(#[from] RemoveError),
    /// Removal could not be made durable.
    #[error(transparent)]
    Flush(#[from] FlushError),
    /// Compaction failed.
    #[error("compaction failed: {0}")]
    Compact(#[from] PutError),
}

/// Why a check stopped before its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The disk failed.
    #[error(transparent)]
    Get(#[from] GetError),
    /// The pins could not be read.
    #[error(transparent)]
    Pins(#[from] PinError),
}

/// Why a repair stopped before its end. What was got until then is stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(clippy::large_enum_variant, reason = "errors name their CIDs, which have 96 bytes each")]
pub enum RepairError {
    /// The pins could not be read or written.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// What was got could not be made durable.
    #[error(transparent)]
    Flush(#[from] FlushError),
    /// Notes of damage could not be dropped.
    #[error(transparent)]
    Remove(#[from] RemoveError),
}
