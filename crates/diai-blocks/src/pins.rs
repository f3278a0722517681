//! Named roots, and what keeping them means: collection of all else, checks, repair.

mod gc;
mod repair;
mod table;
mod verify;

use std::{fmt, sync::Arc};

use cid::Cid;
use diai_core::{Disk, Offload, database, offload};
use redb::Database;

use crate::{
    BlockStore, PinError, SourceError,
    progress::ProgressFn,
    unixfs::{ReadError, WalkOptions, walk::Walk},
};

pub use gc::{Collected, GcProgress};
pub use repair::{RepairProgress, Repaired};
pub use verify::{MissingBlock, Verified, VerifyProgress};

/// A pin's name, in bytes.
pub(crate) const MAX_NAME_BYTES: usize = 256;
/// What the database may cache.
const CACHE_BYTES: usize = 1 << 20;
/// Blocks between two words about progress.
const PROGRESS_BLOCKS: u64 = 256;
/// CIDs and names that a report has at most, of each sort.
const MAX_REPORTED: usize = 10_000;

/// Named roots that are kept, and the collection of all else.
///
/// A pin is durable when [`pin`](Self::pin) returns, together with its blocks. Before that it may be noted as pending
/// with [`begin`](Self::begin): what there is of it is kept, and it is found again after a crash. Cheap to clone.
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

/// What a pin keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum PinKind {
    /// The root and everything below it.
    #[default]
    Recursive,
    /// One block.
    Direct,
}

/// How far a pin is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PinState {
    /// All of it is here, and durable.
    Complete,
    /// It was begun and not ended: what there is of it is kept. Pin it again to go on, or unpin it.
    Pending,
}

/// A named root.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Pin {
    /// Its name, unique among those of one state.
    pub name: String,
    /// What is kept.
    pub root: Cid,
    /// With what is below it, or alone.
    pub kind: PinKind,
    /// Whether all of it is here.
    pub state: PinState,
}

/// How far pinning is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PinProgress {
    /// Blocks that came from peers.
    pub fetched_blocks: u64,
    /// Bytes of those.
    pub fetched_bytes: u64,
    /// Blocks known to be missing still; more may come to light.
    pub open_blocks: u64,
    /// Blocks found to be here by the walk that follows.
    pub blocks: u64,
    /// Bytes of those.
    pub bytes: u64,
}

impl fmt::Debug for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pins")
    }
}

impl Pins {
    /// Opens the pins kept in the database file at `path`, or makes it. Blocks.
    pub fn open(blocks: BlockStore, disk: &dyn Disk, path: &str) -> Result<Self, PinError> {
        let database = database::open(disk, path, CACHE_BYTES).map_err(table::boxed)?;
        table::prepare(&database)?;
        let offload = blocks.offload().clone();
        let shared = Shared { database, collecting: tokio::sync::Mutex::default() };
        Ok(Self { blocks, offload, shared: Arc::new(shared) })
    }

    /// Keeps `root` and everything below it under `name`, in place of what had the name. Every block must be here: it is
    /// walked to find out (leaves are not read). Blocks and pin are durable when it returns.
    ///
    /// Cancel-safety: dropping the future leaves the pin set or not set.
    pub async fn pin(&self, name: &str, root: Cid) -> Result<(), PinError> {
        self.pin_with(name, root, PinKind::Recursive, |_| {}).await
    }

    /// The same for a pin of any kind, with progress. A pin of this name that was [begun](Self::begin) is pending no more.
    pub async fn pin_with(
        &self,
        name: &str,
        root: Cid,
        kind: PinKind,
        progress: impl Fn(PinProgress) + Send,
    ) -> Result<(), PinError> {
        check_name(name)?;
        // A collection that runs now spares what is touched from here on; one that begins sees the guard, or the pin.
        let guard = self.blocks.guard_root(root);
        match kind {
            PinKind::Recursive => self.check_complete(root, progress).await?,
            PinKind::Direct if self.blocks.touch(&root) => self.blocks.found(&root, true),
            PinKind::Direct => return Err(PinError::Incomplete { root, missing: root }),
        }
        self.blocks.flush().await?;
        let name = name.to_owned();
        self.run(move |shared| table::complete(&shared.database, &name, root, kind)).await?;
        drop(guard);
        Ok(())
    }

    /// Notes durably that `root` is to be pinned under `name`: from now on a collection keeps what there is of it, and
    /// [`pins`](Self::pins) lists it as pending. A complete pin of the same name is kept until this one is complete.
    pub async fn begin(&self, name: &str, root: Cid, kind: PinKind) -> Result<(), PinError> {
        check_name(name)?;
        let name = name.to_owned();
        self.run(move |shared| table::begin(&shared.database, &name, root, kind)).await
    }

    async fn check_complete(&self, root: Cid, progress: impl Fn(PinProgress) + Send) -> Result<(), PinError> {
        let mut walk = Walk::new(&self.blocks, WalkOptions::default());
        walk.add(root);
        let mut done = PinProgress::default();
        while let Some(visited) = walk.next().await {
            match visited {
                Ok(visited) if self.blocks.touch(&visited.cid) => {
                    self.blocks.found(&visited.cid, true);
                    done.blocks += 1;
                    done.bytes += self.blocks.size(&visited.cid).unwrap_or_default();
                    if done.blocks.is_multiple_of(PROGRESS_BLOCKS) {
                        progress(done);
                    }
                }
                Ok(visited) => return Err(PinError::Incomplete { root, missing: visited.cid }),
                Err(ReadError::Source(SourceError::NotFound { cid, .. })) => {
                    return Err(PinError::Incomplete { root, missing: cid });
                }
                Err(reason) => return Err(PinError::Unwalkable { root, reason }),
            }
        }
        progress(done);
        Ok(())
    }

    /// Gives `name` up, be it complete or pending; returns what it kept, if anything. Space comes back with
    /// [`gc`](Self::gc).
    pub async fn unpin(&self, name: &str) -> Result<Option<Cid>, PinError> {
        let name = name.to_owned();
        let removed = self.run(move |shared| table::remove(&shared.database, |pin| pin.name == name)).await?;
        Ok(removed.into_iter().min_by_key(|pin| pin.state).map(|pin| pin.root))
    }

    /// Gives up every pin that `chosen` picks, in one step; returns them.
    pub async fn unpin_all(&self, chosen: impl Fn(&Pin) -> bool + Send + 'static) -> Result<Vec<Pin>, PinError> {
        self.run(move |shared| table::remove(&shared.database, chosen)).await
    }

    /// What is kept whole under `name`.
    pub async fn get(&self, name: &str) -> Result<Option<Cid>, PinError> {
        let name = name.to_owned();
        self.run(move |shared| table::get(&shared.database, &name)).await
    }

    /// Every pin, sorted by name, the complete one first.
    pub async fn pins(&self) -> Result<Vec<Pin>, PinError> {
        self.run(|shared| table::list(&shared.database)).await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, PinError> + Send + 'static,
    ) -> Result<T, PinError> {
        let shared = self.shared.clone();
        offload(&*self.offload, move || work(&shared)).await.map_err(|_| PinError::Closed)?
    }
}

fn check_name(name: &str) -> Result<(), PinError> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Err(PinError::Name { limit: MAX_NAME_BYTES });
    }
    Ok(())
}

fn tell<T>(progress: Option<&ProgressFn<T>>, how_far: T) {
    if let Some(progress) = progress {
        progress.tell(how_far);
    }
}

/// Adds to what is reported, up to a cap.
fn report<T>(list: &mut Vec<T>, truncated: &mut bool, item: T) {
    if list.len() < MAX_REPORTED { list.push(item) } else { *truncated = true }
}
