//! CAR files: blocks, one after the other, with the roots of their DAGs in front. Versions 1 and 2 are read, and written.
//!
//! [`import`] and [`import_path`] store what a file holds. Each block is hashed, and nothing in the file is believed but
//! that: an index in it is not read. What is valid in a damaged file is kept, and the [`ImportFailed`] says what was
//! not. [`export`] and [`export_path`] write DAGs depth first, each block once, parents before children, so that a
//! reader can check and use the file while it comes; of a partial export what is not here is left out and counted.
//!
//! # Limits
//! | what | limit |
//! |---|---|
//! | bytes of a header | [`MAX_HEADER_BYTES`] |
//! | roots | [`MAX_ROOTS`] |
//! | bytes of a block | [`MAX_BLOCK_BYTES`](crate::MAX_BLOCK_BYTES); longer ones are passed over and reported |
//! | faulty sections that are told one by one | [`MAX_REFUSED`] |
//! | memory of an import | about 30 MiB, whatever the file |
//! | memory of an export | 64 MiB of blocks at worst (8 MiB as a rule), 40 MiB of links that wait at worst, and about 70 bytes for each block that was written |
//!
//! ```
//! use std::sync::Arc;
//! use diai_blocks::{BlockStore, MemoryStore, car, unixfs};
//! use diai_core::os::ThreadPool;
//!
//! # futures::executor::block_on(async {
//! let store = || BlockStore::new(Arc::new(MemoryStore::new(64 << 20)), Arc::new(ThreadPool::new(2)));
//! let (here, there) = (store(), store());
//! let added = unixfs::import_reader(&here, b"a ring of light".as_slice(), &unixfs::ImportOptions::default()).await?;
//!
//! let mut file = Vec::new();
//! car::export(&here, &[added.root()], &mut file, &car::ExportOptions::default()).await?;
//! let imported = car::import(&there, file.as_slice(), &car::ImportOptions::default()).await?;
//! assert_eq!((imported.roots(), imported.done().blocks), (&[added.root()][..], 1));
//! # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
//! ```

mod error;
mod export;
mod header;
mod import;
mod scope;
mod sections;

use std::{fmt, sync::Arc};

pub use error::{ExportError, HeaderError, ImportError, ImportFailed, Refused, SectionError};
pub use export::{ExportOptions, Exported, Exporter, export, export_path};
pub use header::Version;
pub use import::{ImportOptions, Imported, import, import_path};

#[cfg(feature = "gateway")]
pub(crate) use self::{
    scope::Scope,
    sections::{Content, Section, Sections},
};

/// A longer header is refused.
pub const MAX_HEADER_BYTES: usize = 1 << 20;
/// More roots are refused.
pub const MAX_ROOTS: usize = 16 << 10;
/// Faulty sections of one file that are told one by one; more are only counted.
pub const MAX_REFUSED: usize = 32;

/// How far an import or export is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Progress {
    /// Blocks that were stored, or were here already; or that were written.
    pub blocks: u64,
    /// Bytes of their data.
    pub bytes: u64,
    /// Blocks of an import that were here already.
    pub held_blocks: u64,
    /// Blocks of a partial export that are not here, and were left out.
    pub missing_blocks: u64,
}

/// Somebody who wants to know how far it is.
#[derive(Clone)]
pub struct ProgressFn(Arc<dyn Fn(Progress) + Send + Sync>);

impl ProgressFn {
    /// Calls `told`, which must not block.
    pub fn new(told: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        Self(Arc::new(told))
    }

    fn tell(&self, progress: Progress) {
        (self.0)(progress);
    }
}

impl fmt::Debug for ProgressFn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProgressFn")
    }
}
