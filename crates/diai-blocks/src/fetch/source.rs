use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use cid::Cid;
use diai_core::{BoxFuture, PeerId};

use super::{FetchError, FetchOptions, Fetcher, dag::Scope, dag::Walk};
use crate::{BlockSource, SourceError};

/// Peers remembered for the next block.
const MAX_HOLDERS: usize = 8;

/// A [`BlockSource`] with a network behind it: what is not in the store is fetched and stored. Who delivered one block
/// is asked first for the next.
#[derive(Debug)]
pub struct NetworkSource {
    fetcher: Fetcher,
    options: FetchOptions,
    holders: Mutex<Vec<PeerId>>,
}

impl NetworkSource {
    pub(super) fn new(fetcher: Fetcher, options: FetchOptions) -> Self {
        let holders = Mutex::new(options.holders.clone());
        Self { fetcher, options, holders }
    }

    async fn fetch(&self, cid: Cid) -> Result<Bytes, FetchError> {
        if let Some(data) = self.fetcher.store.get(&cid).await? {
            return Ok(data);
        }
        let holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let options = FetchOptions { holders, progress: None, ..self.options.clone() };
        let mut walk = Walk::new(&self.fetcher, cid, Scope::Block, &options);
        let outcome = walk.run().await;
        self.remember(walk.deliverers());
        outcome?;
        self.fetcher.block(cid, &options).await
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
