//! Dropping in the background what the cache has no room for.

use std::sync::{Mutex, PoisonError};

use diai_core::offload;
use tokio::task::JoinSet;

use crate::{BlockStore, PutError};

/// Removed blocks may take this share of the disk, or so many bytes, before space is given back.
const DEAD_SHARE: u64 = 4;
const MAX_DEAD_BYTES: u64 = 256 << 20;

pub(crate) struct Sweeper(Mutex<JoinSet<()>>);

impl Sweeper {
    pub(crate) fn start(store: BlockStore) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(run(store));
        Self(Mutex::new(tasks))
    }

    /// Ends it; which blocks are cached is written down.
    pub(crate) async fn stop(&self, store: &BlockStore) {
        let mut tasks = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
        let Some(cached) = store.cached().cloned() else { return };
        if let Ok(Err(error)) = offload(&**store.offload(), move || cached.write()).await {
            tracing::warn!(%error, "which blocks are cached could not be written down; those count as kept until gc");
        }
    }
}

async fn run(store: BlockStore) {
    let Some(cached) = store.cached().cloned() else { return };
    loop {
        cached.wake.notified().await;
        if !cached.has_condemned() {
            continue;
        }
        let sweeping = store.clone();
        let Ok(swept) = offload(&**store.offload(), move || sweeping.sweep()).await else { return };
        if let Err(error) = swept {
            tracing::warn!(%error, "blocks of the cache could not be removed");
        }
        let stats = store.stats();
        if stats.dead_bytes > (stats.disk_bytes / DEAD_SHARE).min(MAX_DEAD_BYTES)
            && let Err(error) = compact(&store).await
        {
            tracing::warn!(%error, "space of the cache could not be given back");
        }
    }
}

async fn compact(store: &BlockStore) -> Result<(), PutError> {
    if store.flush().await.is_err() {
        return Err(PutError::Failed);
    }
    loop {
        let step = store.store().clone();
        if !offload(&**store.offload(), move || step.compact()).await.map_err(|_| PutError::Closed)?? {
            return Ok(());
        }
    }
}
