//! Fetching damaged blocks again in the background.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::task::JoinSet;

use crate::{
    StoreEvent,
    fetch::{FetchOptions, Fetcher},
};

/// Blocks fetched at a time; more wait in the queue of events, and what does not fit there waits for a repair.
const PARALLEL: usize = 4;
/// How long peers are asked for one.
const WITHIN: Duration = Duration::from_secs(60);

pub(super) struct Healer(Mutex<JoinSet<()>>);

impl Healer {
    /// Heals by `fetcher`, which must be one [for sealed content](Fetcher::for_sealed): what a damaged block is of nobody
    /// knows.
    pub(super) fn start(fetcher: Fetcher) -> Self {
        let mut tasks = JoinSet::new();
        let events = fetcher.store.events();
        tasks.spawn(run(fetcher, events));
        Self(Mutex::new(tasks))
    }

    pub(super) async fn stop(&self) {
        let mut tasks = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
    }
}

async fn run(fetcher: Fetcher, mut events: impl futures::Stream<Item = StoreEvent> + Send + Unpin) {
    let mut healing = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(told) = healing.next() => fetcher.store.tell(told),
            event = events.next(), if healing.len() < PARALLEL => match event {
                Some(StoreEvent::Damaged(cid)) => {
                    let fetcher = &fetcher;
                    healing.push(async move {
                        let until = FetchOptions::until(fetcher.world.clock.now() + WITHIN);
                        // Whether it was cached is known to the store still.
                        let options = FetchOptions { kept: !fetcher.store.is_cached(&cid), ..until };
                        match fetcher.block(cid, &options).await {
                            Ok(_) => StoreEvent::Healed(cid),
                            Err(_) => StoreEvent::NotHealed(cid),
                        }
                    });
                }
                Some(_) => {}
                None => return,
            },
        }
    }
}
