use std::{fmt, sync::Arc};

use cid::Version;

use super::ImportError;

/// The longest chunk: a block of 2 MiB less what a node around it takes, as everywhere.
pub const MAX_CHUNK_BYTES: usize = (2 << 20) - 256;

/// What decides the CIDs: agents, and other implementations, that use the same profile make the same CIDs.
///
/// ```
/// use diai_blocks::unixfs::Profile;
///
/// let small = Profile { chunk_bytes: 64 << 10, ..Profile::named("unixfs-v1-2025").expect("it is known") };
/// assert_ne!(small, Profile::default());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Bytes of a chunk, at most [`MAX_CHUNK_BYTES`]. Default 1 MiB.
    pub chunk_bytes: usize,
    /// Links of a file's node, 2 to 16,384. Default 1024.
    pub width: usize,
    /// What the chunks become. Default raw.
    pub leaves: Leaves,
    /// Version of the CIDs of nodes; raw leaves have version 1 always. Default 1.
    pub cid_version: Version,
    /// A folder larger than this is sharded; 64 B to 1 MiB. Default 256 KiB.
    pub shard_over_bytes: usize,
    /// How large a folder is. Default by its block.
    pub shard_size: ShardSize,
    /// Links of a shard: a power of two, 8 to 1024. Default 256.
    pub fanout: usize,
}

/// What the chunks of a file become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Leaves {
    /// Blocks of the bytes and nothing else.
    #[default]
    Raw,
    /// dag-pb nodes with the bytes in them.
    DagPb,
}

/// How the size of a folder is counted, when it is compared with [`Profile::shard_over_bytes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ShardSize {
    /// The bytes of the one block that it would be.
    #[default]
    Block,
    /// The bytes of the names and CIDs of its entries.
    Links,
}

impl Profile {
    /// `unixfs-v1-2025`: CIDv1, SHA-256, raw leaves, chunks of 1 MiB, balanced trees 1024 wide, folders whose block is
    /// over 256 KiB sharded 256 wide.
    pub const UNIXFS_V1_2025: Self = Self {
        chunk_bytes: 1 << 20,
        width: 1024,
        leaves: Leaves::Raw,
        cid_version: Version::V1,
        shard_over_bytes: 256 << 10,
        shard_size: ShardSize::Block,
        fanout: 256,
    };

    /// `unixfs-v0-2015`: CIDv0, SHA-256, dag-pb leaves, chunks of 256 KiB, balanced trees 174 wide, folders of over
    /// 256 KiB of names and CIDs sharded 256 wide. What Kubo does when it is told nothing.
    pub const UNIXFS_V0_2015: Self = Self {
        chunk_bytes: 256 << 10,
        width: 174,
        leaves: Leaves::DagPb,
        cid_version: Version::V0,
        shard_over_bytes: 256 << 10,
        shard_size: ShardSize::Links,
        fanout: 256,
    };

    /// The names that [`named`](Self::named) knows.
    pub const NAMES: [&'static str; 2] = ["unixfs-v1-2025", "unixfs-v0-2015"];

    /// The profile of that name (`legacy-cid-v0` is another name of the older one).
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "unixfs-v1-2025" => Some(Self::UNIXFS_V1_2025),
            "unixfs-v0-2015" | "legacy-cid-v0" => Some(Self::UNIXFS_V0_2015),
            _ => None,
        }
    }

    pub(super) fn check(&self) -> Result<(), ImportError> {
        let wrong = |field, allowed| Err(ImportError::Options { field, allowed });
        match self {
            Self { chunk_bytes, .. } if !(1..=MAX_CHUNK_BYTES).contains(chunk_bytes) => {
                wrong("chunk_bytes", "1 B to 2 MiB - 256 B")
            }
            Self { width: ..2 | 16_385.., .. } => wrong("width", "2 to 16384"),
            Self { shard_over_bytes: ..64 | 0x10_0001.., .. } => wrong("shard_over_bytes", "64 B to 1 MiB"),
            Self { fanout, .. } if !fanout.is_power_of_two() || !(8..=1024).contains(fanout) => {
                wrong("fanout", "a power of two from 8 to 1024")
            }
            _ => Ok(()),
        }
    }
}

impl Default for Profile {
    fn default() -> Self {
        Self::UNIXFS_V1_2025
    }
}

/// How to import.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// What decides the CIDs. Default [`Profile::UNIXFS_V1_2025`].
    pub profile: Profile,
    /// Import entries whose names begin with a dot. Default no.
    pub hidden: bool,
    /// Import symbolic links, as links; otherwise they are left out. They are never followed. Default yes.
    pub symlinks: bool,
    /// Keep the permission bits of files and folders. Needs [`Leaves::DagPb`]. Default no.
    pub mode: bool,
    /// Keep the times of the last change. Needs [`Leaves::DagPb`]. Default no.
    pub mtime: bool,
    /// Pieces of a file (a chunk, or several small ones that are 1 MiB together), files of up to 4 MiB, and groups of
    /// small ones, that are read, hashed and stored at a time. Memory is 2 MiB for each that a worker has in hand, 8 MiB
    /// for files of 4 MiB; of a reader, its piece for each. Zero stands for 8. Default 0.
    pub parallel: usize,
    /// Told after each piece, on the importing task.
    pub progress: Option<ProgressFn>,
}

impl ImportOptions {
    /// The same with another profile.
    pub fn profile(profile: Profile) -> Self {
        Self { profile, ..Self::default() }
    }

    pub(super) fn check(&self) -> Result<(), ImportError> {
        self.profile.check()?;
        if (self.mode || self.mtime) && self.profile.leaves == Leaves::Raw {
            return Err(ImportError::Options {
                field: "leaves",
                allowed: "dag-pb where mode or mtime are kept, as raw leaves have no room for them",
            });
        }
        Ok(())
    }
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self {
            profile: Profile::default(),
            hidden: false,
            symlinks: true,
            mode: false,
            mtime: false,
            parallel: 0,
            progress: None,
        }
    }
}

/// Somebody who wants to know how far it is.
#[derive(Clone)]
pub struct ProgressFn(Arc<dyn Fn(Progress) + Send + Sync>);

impl ProgressFn {
    /// Calls `told`, which must not block.
    pub fn new(told: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        Self(Arc::new(told))
    }

    pub(super) fn tell(&self, progress: Progress) {
        (self.0)(progress);
    }
}

impl fmt::Debug for ProgressFn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProgressFn")
    }
}

/// How far an import or export is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Progress {
    /// Bytes of content done.
    pub bytes: u64,
    /// Files, links and folders done.
    pub entries: u64,
}
