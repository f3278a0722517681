//! What is announced in the DHT of IPFS beside roots: all that is below them, or all there is.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cid::Cid;
use diai_core::{Instant, World, offload};
use futures::StreamExt;
use tokio::sync::{Notify, broadcast::error::RecvError};

use super::keep::announced;
use crate::{
    BlockStore, PinKind, Pins,
    config::ProvideStrategy,
    ipfs_dht::IpfsDht,
    unixfs::{WalkOptions, walk},
};

/// Keys that are handed over at a time.
const BATCH: usize = 4096;
/// How often everything is gathered anew, so that what went unnoticed is dropped: twice between two announcements.
const AGAIN: Duration = Duration::from_secs(11 * 3600);
/// How soon after something is given up, and how long after the last time.
const SOON: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(60));

/// What happened to pins since somebody looked.
#[derive(Default)]
pub(super) struct Changes {
    pinned: Mutex<BTreeSet<Cid>>,
    lost: Mutex<bool>,
    wake: Notify,
}

impl Changes {
    pub(super) fn pinned(&self, root: Cid) {
        lock(&self.pinned).insert(root);
        self.wake.notify_one();
    }

    /// A pin was given up, or blocks collected.
    pub(super) fn lost(&self) {
        *lock(&self.lost) = true;
        self.wake.notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) struct Extent {
    pub(super) world: World,
    pub(super) dht: IpfsDht,
    pub(super) store: BlockStore,
    pub(super) pins: Pins,
    pub(super) strategy: ProvideStrategy,
}

impl Extent {
    pub(super) fn is_more_than_roots(&self) -> bool {
        self.strategy != ProvideStrategy::Roots
    }

    pub(super) async fn run(self, changes: Arc<Changes>) {
        let clock = self.world.clock.clone();
        let mut stored = self.store.stored_events();
        let all = self.strategy == ProvideStrategy::All;
        let (mut gather, mut gathered) = (clock.now(), Instant::default());
        loop {
            tokio::select! {
                biased;
                () = clock.sleep_until(gather) => {
                    lock(&changes.pinned).clear();
                    *lock(&changes.lost) = false;
                    self.gather().await;
                    gathered = clock.now();
                    gather = gathered + AGAIN;
                }
                () = changes.wake.notified() => {
                    let pinned = std::mem::take(&mut *lock(&changes.pinned));
                    if std::mem::take(&mut *lock(&changes.lost)) {
                        gather = gather.min((clock.now() + SOON.0).max(gathered + SOON.1));
                    }
                    if !all {
                        self.below(|root| pinned.contains(&root)).await;
                    }
                }
                cids = stored.recv(), if all => match cids {
                    Ok(cids) => self.dht.provide_many(cids.iter().map(|cid| *cid.hash())),
                    Err(RecvError::Lagged(_)) => gather = clock.now(),
                    // Not while this store is here.
                    Err(RecvError::Closed) => return,
                },
            }
        }
    }

    /// Names everything, and drops what is no longer to be announced.
    async fn gather(&self) {
        self.dht.begin_round();
        let complete = match self.strategy {
            ProvideStrategy::All => self.everything().await,
            _ => self.below(|_| true).await,
        };
        if complete {
            self.dht.end_round();
        }
    }

    async fn everything(&self) -> bool {
        let mut last = None;
        loop {
            let store = self.store.store().clone();
            let list = move || store.list(last.as_ref(), BATCH);
            let Ok(blocks) = offload(&**self.store.offload(), list).await else { return false };
            let Some(end) = blocks.last() else { return true };
            last = Some(end.hash);
            self.dht.provide_many(blocks.into_iter().map(|block| block.hash));
        }
    }

    /// Names what is below those roots of announced pins that are `chosen`.
    async fn below(&self, chosen: impl Fn(Cid) -> bool) -> bool {
        let Ok(pins) = self.pins.pins().await else { return false };
        let is_recursive = |pin: &crate::Pin| pin.kind == PinKind::Recursive;
        for root in pins.iter().filter(|pin| is_recursive(pin)).filter_map(announced).filter(|root| chosen(*root)) {
            let (options, mut batch) = (WalkOptions::default(), Vec::new());
            let mut walked = std::pin::pin!(walk(&self.store, root, &options));
            while let Some(visited) = walked.next().await {
                // What is not here any more cannot be announced.
                let Ok(visited) = visited else { continue };
                batch.push(*visited.cid.hash());
                if batch.len() == BATCH {
                    self.dht.provide_many(batch.drain(..));
                }
            }
            self.dht.provide_many(batch);
        }
        true
    }
}
