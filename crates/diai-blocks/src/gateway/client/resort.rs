use std::time::Duration;

use cid::Cid;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};

use super::GatewayClient;
use crate::{
    Block, BlockStore, PutError,
    fetch::{BringError, Brought, LastResort},
    gateway::{DagScope, Query},
};

impl LastResort for GatewayClient {
    fn patience(&self) -> Duration {
        self.0.config.patience
    }

    fn sealed(&self) -> bool {
        self.0.config.sealed
    }

    fn bring(&self, cid: Cid, whole: bool, store: BlockStore) -> BoxStream<'static, Result<Brought, BringError>> {
        let client = self.clone();
        let groups = if whole {
            client.car(Query::car(cid, DagScope::All))
        } else {
            stream::once(async move { client.block(cid).await.map(|block| vec![block]) }).boxed()
        };
        // What cannot be stored ends it, as what a gateway does wrong does.
        let stored = stream::try_unfold((groups, store), |(mut groups, store)| async move {
            let Some(group) = groups.next().await.transpose()? else { return Ok(None) };
            Ok(Some((put(group, &store).await?, (groups, store))))
        });
        stored.boxed()
    }
}

async fn put(group: Vec<Block>, store: &BlockStore) -> Result<Brought, PutError> {
    let (blocks, bytes) = (group.len() as u64, group.iter().map(|block| block.data.len() as u64).sum());
    store.put_fetched(group).await?;
    Ok(Brought { blocks, bytes })
}
