//! Where blocks lie: the trait, one implementation in memory, one on disk.

mod compact;
mod damage;
mod index;
mod index_log;
mod key;
mod memory;
mod record;
mod recover;
mod rewrite;
mod segment;
mod table;

use std::sync::Arc;

use bytes::Bytes;
use cid::Cid;

pub(crate) use key::Key;
pub use memory::MemoryStore;
pub use segment::SegmentStore;

use crate::{Block, FlushError, GetError, PutError, RAW, RemoveError, block};

/// The hash by which blocks are kept: CIDs of one content under different codecs share one block.
pub type Multihash = multihash::Multihash<64>;

/// Where blocks lie. Calls block: make them through [`BlockStore`](crate::BlockStore) or the World's `Offload`; only
/// [`has`](Store::has), [`touch`](Store::touch) and [`stats`](Store::stats) answer from memory.
///
/// Implementations let many threads read while one writes. They never see identity CIDs (the [`BlockStore`
/// ](crate::BlockStore) answers those), and keep every block that was flushed until it is removed.
///
/// **Generations** let garbage collection run beside writers: each put, and each [`touch`](Store::touch), marks the
/// block with the current generation, and [`collect`](Store::collect) takes only blocks older than a given one.
pub trait Store: Send + Sync + 'static {
    /// Stores `blocks`. Readable when it returns, durable after [`flush`](Store::flush). What is there already is
    /// not written again.
    fn put(&self, blocks: &[Block]) -> Result<(), PutError>;

    /// The data of `cid`, checked against it; `None` when it is not here.
    fn get(&self, cid: &Cid) -> Result<Option<Bytes>, GetError>;

    /// Whether `cid` is here.
    fn has(&self, cid: &Cid) -> bool;

    /// Whether `cid` is here, and if so marks it as of the current generation.
    fn touch(&self, cid: &Cid) -> bool;

    /// Removes `cids`, whoever still needs them. What is not here is passed over.
    fn remove(&self, cids: &[Cid]) -> Result<(), RemoveError>;

    /// Begins a new generation and returns its number.
    fn begin_generation(&self) -> u32;

    /// Removes those of `hashes` that were neither put nor touched in generation `before` or later. Returns how many
    /// blocks and bytes that were.
    fn collect(&self, hashes: &[Multihash], before: u32) -> Result<(u64, u64), RemoveError>;

    /// Makes all that was put and removed before the call durable.
    fn flush(&self) -> Result<(), FlushError>;

    /// Gives some of the space of removed blocks back: a bounded step (about 8 MiB copied). Returns whether there is
    /// more to do.
    fn compact(&self) -> Result<bool, PutError>;

    /// Up to `limit` blocks after `after`, in an order that never changes. Blocks put or removed in between may or may
    /// not be seen; all others are seen once.
    fn list(&self, after: Option<&Multihash>, limit: usize) -> Vec<StoredBlock>;

    /// Bytes of the data of `cid`; `None` when it is not here.
    fn size(&self, cid: &Cid) -> Option<u32>;

    /// Hashes the block `hash` again, whatever the configuration says of reads, and sets it aside if it is damaged.
    fn check(&self, hash: &Multihash) -> Result<Checked, GetError> {
        let cid = Cid::new_v1(RAW, *hash);
        match self.get(&cid)? {
            None => Ok(Checked::Absent),
            Some(data) if block::verify(&cid, &data).is_ok() => Ok(Checked::Whole),
            Some(_) => Ok(Checked::Damaged),
        }
    }

    /// Up to `limit` blocks after `after` that were found damaged and set aside, in an order that never changes. They
    /// count as missing; putting one heals it, and [`remove`](Store::remove) forgets it.
    fn quarantined(&self, _after: Option<&Multihash>, _limit: usize) -> Vec<Multihash> {
        Vec::new()
    }

    /// Whether the block `hash` was found damaged and set aside.
    fn is_quarantined(&self, _hash: &Multihash) -> bool {
        false
    }

    /// Has `told` told of each block that is set aside, from now on, in place of whoever was told before.
    fn on_damage(&self, _told: DamageFn) {}

    /// Figures.
    fn stats(&self) -> StoreStats;
}

/// What a look at a block found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    /// It is what was stored.
    Whole,
    /// It is not, and was set aside.
    Damaged,
    /// It is not here.
    Absent,
}

/// Told of a block that is damaged; must not block.
pub type DamageFn = Arc<dyn Fn(Multihash) + Send + Sync>;

/// One block that a store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredBlock {
    /// Its hash.
    pub hash: Multihash,
    /// Bytes of its data.
    pub bytes: u32,
}

/// What a store holds and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct StoreStats {
    /// Blocks that can be read.
    pub blocks: u64,
    /// Bytes of their data.
    pub data_bytes: u64,
    /// Bytes on disk, removed blocks and index included.
    pub disk_bytes: u64,
    /// Bytes on disk that compaction can give back.
    pub dead_bytes: u64,
    /// The cap on `disk_bytes` that puts keep to.
    pub quota_bytes: u64,
    /// Segment files.
    pub segments: u64,
    /// Blocks that were found damaged and set aside, and have not been put again.
    pub quarantined: u64,
    /// Blocks found damaged since the store was opened, while opening it included.
    pub damaged: u64,
    /// Times the disk was synced since the store was opened.
    pub syncs: u64,
}

/// How a [`SegmentStore`] works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreConfig {
    /// Puts fail with [`PutError::QuotaExceeded`] rather than let the store take more bytes of disk, index included.
    /// Removal and compaction may pass it for a while, by at most half a segment. Default 64 GiB.
    pub quota_bytes: u64,
    /// A segment file is closed at this length and the next begun; from 4 MiB to 1 GiB. One file handle is held for
    /// each segment. Default 256 MiB.
    pub segment_bytes: u64,
    /// Hash each block again when it is read (0.6 ms a MiB). Without it damage on disk is found only by those who
    /// check, so leave it on unless the reader does. Default on.
    pub verify_reads: bool,
}

impl Default for StoreConfig {
    /// 64 GiB in segments of 256 MiB, reads verified. Memory: about 80 bytes a block, 4 MiB while writing, and up to
    /// 64 MiB while opening.
    fn default() -> Self {
        Self { quota_bytes: 64 << 30, segment_bytes: 256 << 20, verify_reads: true }
    }
}
