use std::{collections::BTreeSet, fmt, sync::Arc};

use cid::Cid;
use diai_core::{Disk, Offload, database, offload};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::{
    BlockStore, GcError, PinError, SourceError, StoredBlock,
    store::{Key, Multihash},
    unixfs::{ReadError, WalkOptions, walk::Walk},
};

/// A pin's name, in bytes.
const MAX_NAME_BYTES: usize = 256;
/// What the database may cache.
const CACHE_BYTES: usize = 1 << 20;
/// Blocks looked at between two looks at the pins.
const PAGE_BLOCKS: usize = 1024;
const PINS: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("pins");

/// Named roots whose DAGs are kept, and the collection of all else.
///
/// Pins are durable when [`pin`](Self::pin) returns, together with the blocks under them. Cheap to clone.
#[derive(Clone)]
pub struct Pins {
    blocks: BlockStore,
    offload: Arc<dyn Offload>,
    shared: Arc<Shared>,
}

struct Shared {
    database: Database,
    /// One collection at a time.
    collecting: tokio::sync::Mutex<()>,
}

/// A named root.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pin {
    /// Its name, unique.
    pub name: String,
    /// What is kept, with everything below it.
    pub root: Cid,
}

/// What a collection did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Collected {
    /// Blocks removed.
    pub blocks: u64,
    /// Bytes of their data.
    pub bytes: u64,
    /// Blocks that are kept by pins and guards.
    pub kept: u64,
}

impl fmt::Debug for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pins")
    }
}

impl Pins {
    /// Opens the pins kept in the database file at `path`, or makes it. Blocks.
    pub fn open(blocks: BlockStore, disk: &dyn Disk, path: &str) -> Result<Self, PinError> {
        let database = database::open(disk, path, CACHE_BYTES).map_err(boxed)?;
        let transaction = database.begin_write().map_err(boxed)?;
        transaction.open_table(PINS).map_err(boxed)?;
        transaction.commit().map_err(boxed)?;
        let offload = blocks.offload().clone();
        let shared = Shared { database, collecting: tokio::sync::Mutex::default() };
        Ok(Self { blocks, offload, shared: Arc::new(shared) })
    }

    /// Keeps `root` and everything below it under `name`, in place of what had the name. Every block must be here: it is
    /// walked to find out (leaves are not read). Blocks and pin are durable when it returns.
    ///
    /// Cancel-safety: dropping the future leaves the pin set or not set.
    pub async fn pin(&self, name: &str, root: Cid) -> Result<(), PinError> {
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return Err(PinError::Name { limit: MAX_NAME_BYTES });
        }
        // A collection that runs now spares what is touched from here on; one that begins sees the guard, or the pin.
        let guard = self.blocks.guard_root(root);
        self.check_complete(root).await?;
        self.blocks.flush().await?;
        let (name, cid) = (name.to_owned(), root.to_bytes());
        self.run(move |shared| {
            let transaction = shared.database.begin_write().map_err(boxed)?;
            transaction.open_table(PINS).map_err(boxed)?.insert(name.as_str(), cid.as_slice()).map_err(boxed)?;
            transaction.commit().map_err(boxed)?;
            Ok(())
        })
        .await?;
        drop(guard);
        Ok(())
    }

    async fn check_complete(&self, root: Cid) -> Result<(), PinError> {
        let mut walk = Walk::new(&self.blocks, WalkOptions::default());
        walk.add(root);
        while let Some(visited) = walk.next().await {
            match visited {
                Ok(visited) if self.blocks.touch(&visited.cid) => {}
                Ok(visited) => return Err(PinError::Incomplete { root, missing: visited.cid }),
                Err(ReadError::Source(SourceError::NotFound { cid, .. })) => {
                    return Err(PinError::Incomplete { root, missing: cid });
                }
                Err(reason) => return Err(PinError::Unwalkable { root, reason }),
            }
        }
        Ok(())
    }

    /// Gives `name` up; returns what it kept, if anything. Space comes back with [`gc`](Self::gc).
    pub async fn unpin(&self, name: &str) -> Result<Option<Cid>, PinError> {
        let name = name.to_owned();
        self.run(move |shared| {
            let transaction = shared.database.begin_write().map_err(boxed)?;
            let removed = {
                let mut table = transaction.open_table(PINS).map_err(boxed)?;
                let removed = table.remove(name.as_str()).map_err(boxed)?;
                removed.and_then(|cid| Cid::try_from(cid.value()).ok())
            };
            transaction.commit().map_err(boxed)?;
            Ok(removed)
        })
        .await
    }

    /// What is kept under `name`.
    pub async fn get(&self, name: &str) -> Result<Option<Cid>, PinError> {
        let name = name.to_owned();
        self.run(move |shared| {
            let transaction = shared.database.begin_read().map_err(boxed)?;
            let table = transaction.open_table(PINS).map_err(boxed)?;
            let found = table.get(name.as_str()).map_err(boxed)?;
            Ok(found.and_then(|cid| Cid::try_from(cid.value()).ok()))
        })
        .await
    }

    /// Every pin, sorted by name.
    pub async fn pins(&self) -> Result<Vec<Pin>, PinError> {
        self.run(read_pins).await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, PinError> + Send + 'static,
    ) -> Result<T, PinError> {
        let shared = self.shared.clone();
        offload(&*self.offload, move || work(&shared)).await.map_err(|_| PinError::Closed)?
    }

    /// Removes every block that no pin keeps and no [`Guard`](crate::Guard) guards, and gives space back to the disk.
    /// Readers and writers go on meanwhile. Memory: about 130 bytes for each block that is kept.
    ///
    /// A pin whose DAG is damaged stops it before anything is removed. One collection runs at a time, others wait.
    ///
    /// Cancel-safety: dropping the future stops it; what was removed until then is garbage all the same.
    pub async fn gc(&self) -> Result<Collected, GcError> {
        let _one = self.shared.collecting.lock().await;
        let (before, guarded) = self.blocks.guarded();
        let kept = self.mark(guarded).await?;
        let mut collected = Collected::default();
        let mut after: Option<Multihash> = None;
        loop {
            let page = self.blocks.store().list(after.as_ref(), PAGE_BLOCKS);
            let Some(last) = page.last() else { break };
            after = Some(last.hash);
            let (blocks, bytes) = self.collect_page(page, before, &kept).await?;
            collected.blocks += blocks;
            collected.bytes += bytes;
        }
        self.blocks.flush().await?;
        while self.compact().await? {}
        collected.kept = kept.len() as u64;
        Ok(collected)
    }

    /// All that is under pins, and what there is under `guarded`.
    async fn mark(&self, guarded: Vec<Cid>) -> Result<BTreeSet<Key>, GcError> {
        let mut kept = BTreeSet::new();
        let mut walk = Walk::new(&self.blocks, WalkOptions { max_blocks: usize::MAX, ..WalkOptions::default() });
        // The pins first: what a guarded DAG lacks must not pass for seen in theirs.
        for Pin { root, .. } in self.pins().await? {
            walk.add(root);
            while let Some(visited) = walk.next().await {
                let visited = visited.map_err(|reason| GcError::Pin { root, reason })?;
                kept.insert(Key::from(visited.cid.hash()));
            }
        }
        for root in guarded {
            walk.add(root);
            while let Some(visited) = walk.next().await {
                // A fetch that is under way keeps what there is.
                kept.extend(visited.ok().map(|visited| Key::from(visited.cid.hash())));
            }
        }
        Ok(kept)
    }

    async fn collect_page(
        &self,
        page: Vec<StoredBlock>,
        before: u32,
        kept: &BTreeSet<Key>,
    ) -> Result<(u64, u64), GcError> {
        let hashes = page.into_iter().map(|block| block.hash);
        let garbage: Vec<Multihash> = hashes.filter(|hash| !kept.contains(&Key::from(hash))).collect();
        if garbage.is_empty() {
            return Ok((0, 0));
        }
        let store = self.blocks.store().clone();
        let collected = offload(&*self.offload, move || store.collect(&garbage, before)).await;
        Ok(collected.map_err(|_| GcError::Remove(crate::RemoveError::Closed))??)
    }

    async fn compact(&self) -> Result<bool, GcError> {
        let store = self.blocks.store().clone();
        let more = offload(&*self.offload, move || store.compact()).await;
        Ok(more.map_err(|_| GcError::Compact(crate::PutError::Closed))??)
    }
}

fn read_pins(shared: &Shared) -> Result<Vec<Pin>, PinError> {
    let transaction = shared.database.begin_read().map_err(boxed)?;
    let table = transaction.open_table(PINS).map_err(boxed)?;
    let mut pins = Vec::new();
    for entry in table.iter().map_err(boxed)? {
        let (name, cid) = entry.map_err(boxed)?;
        if let Ok(root) = Cid::try_from(cid.value()) {
            pins.push(Pin { name: name.value().to_owned(), root });
        }
    }
    Ok(pins)
}

fn boxed(error: impl Into<redb::Error>) -> Box<redb::Error> {
    Box::new(error.into())
}
