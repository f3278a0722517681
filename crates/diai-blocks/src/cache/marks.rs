//! Which blocks are cached, kept across restarts: a database with the multihash of each. What is marked late, or not at all,
//! is garbage that a collection takes; what ceases to be cached is struck out before anybody is told that it is durable.

use std::collections::BTreeMap;

use diai_core::{Disk, database};
use parking_lot::Mutex;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::{
    OpenCacheError,
    store::{Key, Multihash},
};

const CACHED: TableDefinition<'static, &'static [u8], ()> = TableDefinition::new("cached");
/// What the database may cache.
const CACHE_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Marks {
    database: Mutex<Database>,
}

impl Marks {
    pub(super) fn open(disk: &dyn Disk, path: &str) -> Result<Self, OpenCacheError> {
        let database = database::open(disk, path, CACHE_BYTES).map_err(boxed)?;
        let transaction = database.begin_write().map_err(boxed)?;
        transaction.open_table(CACHED).map_err(boxed)?;
        transaction.commit().map_err(boxed)?;
        Ok(Self { database: Mutex::new(database) })
    }

    /// Hands all to `each`, in the order of their hashes.
    pub(super) fn load(&self, mut each: impl FnMut(Multihash)) -> Result<(), OpenCacheError> {
        let transaction = self.database.lock().begin_read().map_err(boxed)?;
        let table = transaction.open_table(CACHED).map_err(boxed)?;
        for entry in table.iter().map_err(boxed)? {
            let (hash, _) = entry.map_err(boxed)?;
            if let Ok(hash) = Multihash::from_bytes(hash.value()) {
                each(hash);
            }
        }
        Ok(())
    }

    /// Writes what `changes` gives: what is cached now, or no more; gives it to `written` when it is durable. Whoever comes
    /// meanwhile waits until then, so that what changes later is written later.
    pub(super) fn write(
        &self,
        changes: impl FnOnce() -> BTreeMap<Key, bool>,
        written: impl FnOnce(BTreeMap<Key, bool>),
    ) -> Result<(), OpenCacheError> {
        let database = self.database.lock();
        let changes = changes();
        if changes.is_empty() {
            return Ok(());
        }
        let transaction = database.begin_write().map_err(boxed)?;
        {
            let mut table = transaction.open_table(CACHED).map_err(boxed)?;
            for (key, cached) in &changes {
                let hash = key.multihash().to_bytes();
                match cached {
                    true => drop(table.insert(hash.as_slice(), ()).map_err(boxed)?),
                    false => drop(table.remove(hash.as_slice()).map_err(boxed)?),
                }
            }
        }
        transaction.commit().map_err(boxed)?;
        written(changes);
        Ok(())
    }
}

fn boxed(error: impl Into<redb::Error>) -> Box<redb::Error> {
    Box::new(error.into())
}
