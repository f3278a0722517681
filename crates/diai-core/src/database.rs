//! redb databases over the World's [`Disk`]: for small records and journals, never for blocks.

use std::{fmt, io, sync::Arc};

use redb::{Database, DatabaseError, StorageBackend};

use crate::{Disk, DiskFile, OpenMode};

struct Backend(Arc<dyn DiskFile>);

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Backend")
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, data)
    }
}

/// Opens the database at `path`, or makes it, with a cache of at most `cache_bytes`. Blocks.
pub fn open(disk: &dyn Disk, path: &str, cache_bytes: usize) -> Result<Database, DatabaseError> {
    let file = disk.open(path, OpenMode::ReadWrite)?;
    Database::builder().set_cache_size(cache_bytes).create_with_backend(Backend(file))
}
