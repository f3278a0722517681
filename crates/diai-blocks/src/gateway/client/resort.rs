use std::time::Duration;

use cid::Cid;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};

use super::GatewayClient;
use crate::{
    Block, BlockStore,
    fetch::{Brought, LastResort},
    gateway::{DagScope, NoGateway, Query},
};

impl LastResort for GatewayClient {
    fn patience(&self) -> Duration {
        self.0.config.patience
    }

    fn sealed(&self) -> bool {
        self.0.config.sealed
    }

    fn bring(&self, cid: Cid, whole: bool, store: BlockStore) -> BoxStream<'static, Brought> {
        let client = self.clone();
        let groups = if whole {
            client.car(Query::car(cid, DagScope::All))
        } else {
            stream::once(async move { client.block(cid).await.map(|block| vec![block]) }).boxed()
        };
        let stored = groups.scan(store, move |store, group| {
            let store = store.clone();
            async move { put(cid, group, &store).await }
        });
        stored.boxed()
    }
}

async fn put(cid: Cid, group: Result<Vec<Block>, NoGateway>, store: &BlockStore) -> Option<Brought> {
    let group = match group {
        Ok(group) => group,
        Err(error) => {
            tracing::debug!(%error, "gateways were asked in vain");
            return None;
        }
    };
    let brought =
        Brought { blocks: group.len() as u64, bytes: group.iter().map(|block| block.data.len() as u64).sum() };
    match store.put_fetched(group).await {
        Ok(()) => Some(brought),
        Err(error) => {
            tracing::warn!(%cid, %error, "what a gateway sent cannot be stored");
            None
        }
    }
}
