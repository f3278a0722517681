use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use cid::Cid;
use diai_core::{BoxFuture, PeerId};
use tokio::{
    sync::oneshot,
    task::{AbortHandle, JoinSet},
};

use super::{FetchError, FetchOptions, Fetcher, dag::Scope, dag::Walk};
use crate::{BlockSource, SourceError};

/// Peers remembered for the next block.
const MAX_HOLDERS: usize = 8;

/// A [`BlockSource`] with a network behind it: what is not in the store is fetched and stored. Who delivered one block
/// is asked first for the next.
///
/// Fetches go on while nobody polls for their blocks, so that a reader that pauses holds up no other.
pub struct NetworkSource {
    shared: Arc<Shared>,
    tasks: Mutex<JoinSet<()>>,
}

struct Shared {
    fetcher: Fetcher,
    options: FetchOptions,
    holders: Mutex<Vec<PeerId>>,
}

impl fmt::Debug for NetworkSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetworkSource").field("options", &self.shared.options).finish_non_exhaustive()
    }
}

/// Ends a fetch that nobody waits for any more.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl NetworkSource {
    pub(super) fn new(fetcher: Fetcher, options: FetchOptions) -> Self {
        let holders = Mutex::new(options.holders.clone());
        Self { shared: Arc::new(Shared { fetcher, options, holders }), tasks: Mutex::default() }
    }

    async fn fetch(&self, cid: Cid) -> Result<Bytes, FetchError> {
        let store = &self.shared.fetcher.store;
        // Also for what comes: that of the fetch is gone when it is read.
        let _guard = store.guard();
        if store.touch(&cid)
            && let Some(data) = store.get_whole(&cid).await?
        {
            store.found(&cid, self.shared.options.kept);
            return Ok(data);
        }
        let (reply, outcome) = oneshot::channel();
        let _task = {
            let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            while tasks.try_join_next().is_some() {}
            let shared = self.shared.clone();
            // Nobody may wait any more.
            AbortOnDrop(tasks.spawn(async move { drop(reply.send(shared.fetch(cid).await)) }))
        };
        outcome.await.unwrap_or(Err(FetchError::Closed))?;
        if let Some(data) = store.get_whole(&cid).await? {
            return Ok(data);
        }
        self.shared.fetcher.block(cid, &self.shared.options()).await
    }
}

impl Shared {
    fn options(&self) -> FetchOptions {
        let holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner).clone();
        FetchOptions { holders, progress: None, ..self.options.clone() }
    }

    async fn fetch(&self, cid: Cid) -> Result<(), FetchError> {
        let options = self.options();
        let mut walk = Walk::new(&self.fetcher, cid, Scope::Block, &options);
        let outcome = walk.run().await;
        self.remember(walk.deliverers());
        outcome.map(drop)
    }

    fn remember(&self, peers: Vec<PeerId>) {
        let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        for peer in peers {
            if !holders.contains(&peer) {
                holders.truncate(MAX_HOLDERS - 1);
                holders.insert(0, peer);
            }
        }
    }
}

impl BlockSource for NetworkSource {
    fn block(&self, cid: Cid) -> BoxFuture<'_, Result<Bytes, SourceError>> {
        Box::pin(async move {
            self.fetch(cid).await.map_err(|error| match error {
                FetchError::NotFound { cid, asked } => SourceError::NotFound { cid, asked: asked.to_string() },
                other => SourceError::Failed { cid, reason: other.to_string() },
            })
        })
    }
}
