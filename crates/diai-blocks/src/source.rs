use bytes::Bytes;
use cid::Cid;
use diai_core::BoxFuture;

/// Where blocks come from when a DAG is read: a store, or a store with a network behind it.
///
/// Implementations return only data that hashes to the CID; readers do not hash again.
pub trait BlockSource: Send + Sync {
    /// The data of `cid`. Dropping the future gives the block up.
    fn block(&self, cid: Cid) -> BoxFuture<'_, Result<Bytes, SourceError>>;
}

/// Why a block did not come.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// Nobody who was asked has it.
    #[error("block {cid} was not found; asked: {asked}")]
    NotFound {
        /// Which block.
        cid: Cid,
        /// Who was asked.
        asked: String,
    },
    /// It could not be had for another reason.
    #[error("block {cid} could not be had: {reason}")]
    Failed {
        /// Which block.
        cid: Cid,
        /// What happened.
        reason: String,
    },
}
