//! Engines that keep blocks by hash: ours, and what one would take otherwise.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use diai::{
    blocks::{Block, Cid, SegmentStore, Store, StoreConfig},
    core::os::FsDisk,
};
use redb::{Database, ReadableDatabase, TableDefinition};

use crate::Result;

/// Somewhere to keep blocks. What it gives back is not hashed again.
pub(crate) trait Engine: Send + Sync + Sized + 'static {
    const NAME: &'static str;

    fn open(folder: &Path) -> Result<Self>;

    /// Durable when it returns.
    fn put(&self, blocks: &[Block]) -> Result<()>;

    fn get(&self, cid: &Cid) -> Result<Option<Vec<u8>>>;

    fn has(&self, cid: &Cid) -> Result<bool>;
}

/// Segments with an index log. Reads are not hashed, as those of the others are not.
pub(crate) struct Ours(SegmentStore);

impl Engine for Ours {
    const NAME: &'static str = "diai";

    fn open(folder: &Path) -> Result<Self> {
        let config = StoreConfig { verify_reads: false, ..StoreConfig::default() };
        Ok(Self(SegmentStore::open(Arc::new(FsDisk::open(folder)?), "blocks", config)?))
    }

    fn put(&self, blocks: &[Block]) -> Result<()> {
        self.0.put(blocks)?;
        Ok(self.0.flush()?)
    }

    fn get(&self, cid: &Cid) -> Result<Option<Vec<u8>>> {
        Ok(self.0.get(cid)?.map(Into::into))
    }

    fn has(&self, cid: &Cid) -> Result<bool> {
        Ok(self.0.has(cid))
    }
}

pub(crate) struct Redb(Database);

const BLOCKS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("blocks");

impl Engine for Redb {
    const NAME: &'static str = "redb";

    fn open(folder: &Path) -> Result<Self> {
        let database = Database::create(folder.join("blocks.redb"))?;
        let transaction = database.begin_write()?;
        transaction.open_table(BLOCKS)?;
        transaction.commit()?;
        Ok(Self(database))
    }

    fn put(&self, blocks: &[Block]) -> Result<()> {
        let transaction = self.0.begin_write()?;
        {
            let mut table = transaction.open_table(BLOCKS)?;
            for block in blocks {
                table.insert(block.cid.hash().to_bytes().as_slice(), &block.data[..])?;
            }
        }
        Ok(transaction.commit()?)
    }

    fn get(&self, cid: &Cid) -> Result<Option<Vec<u8>>> {
        let table = self.0.begin_read()?.open_table(BLOCKS)?;
        Ok(table.get(cid.hash().to_bytes().as_slice())?.map(|value| value.value().to_vec()))
    }

    fn has(&self, cid: &Cid) -> Result<bool> {
        let table = self.0.begin_read()?.open_table(BLOCKS)?;
        Ok(table.get(cid.hash().to_bytes().as_slice())?.is_some())
    }
}

/// One file a block, in folders by the last characters of the CID, each file synced before it gets its name.
pub(crate) struct Files(PathBuf);

impl Files {
    fn folder(&self, cid: &str) -> PathBuf {
        self.0.join(&cid[cid.len() - 2..])
    }

    fn path(&self, cid: &Cid) -> PathBuf {
        let cid = cid.to_string();
        self.folder(&cid).join(cid)
    }
}

#[expect(clippy::disallowed_methods, reason = "the bare alternative to the World's Disk")]
impl Engine for Files {
    const NAME: &'static str = "one file a block";

    fn open(folder: &Path) -> Result<Self> {
        Ok(Self(folder.to_owned()))
    }

    fn put(&self, blocks: &[Block]) -> Result<()> {
        let mut folders = Vec::new();
        for block in blocks {
            let path = self.path(&block.cid);
            let folder = self.folder(&block.cid.to_string());
            fs::create_dir_all(&folder)?;
            let temporary = path.with_extension("new");
            let mut file = File::create(&temporary)?;
            file.write_all(&block.data)?;
            file.sync_data()?;
            fs::rename(temporary, path)?;
            folders.push(folder);
        }
        folders.sort();
        folders.dedup();
        for folder in folders {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    }

    fn get(&self, cid: &Cid) -> Result<Option<Vec<u8>>> {
        match fs::read(self.path(cid)) {
            Ok(data) => Ok(Some(data)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn has(&self, cid: &Cid) -> Result<bool> {
        Ok(self.path(cid).try_exists()?)
    }
}
