//! Announcing roots in the background.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cid::Cid;
use diai_core::{Instant, PeerEvent, World};
use futures::{Stream, StreamExt, stream, stream::FuturesUnordered};
use tokio::{
    sync::{Notify, broadcast},
    task::JoinSet,
};

use super::extent::{Changes, Extent};
use crate::{fetch::provider_key, ipfs_dht::IpfsDht};

/// Announcements under way at a time.
const PARALLEL: usize = 16;
const EVENT_QUEUE: usize = 1024;
/// How long after a failure it is tried again, unless a peer connects before.
const RETRY: Duration = Duration::from_secs(60);

/// What became of an announcement.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProvideEvent {
    /// The DHT holds it; it is refreshed from now on.
    Announced(Cid),
    /// Nobody took it; it is tried again.
    Failed {
        /// Which root.
        cid: Cid,
        /// What happened.
        reason: String,
    },
    /// The subscriber was too slow and missed some.
    Missed,
}

pub(super) struct Announcer {
    shared: Arc<Shared>,
    tasks: Mutex<JoinSet<()>>,
}

struct Shared {
    world: World,
    ipfs_dht: Option<IpfsDht>,
    /// Where somebody announces more than roots.
    changes: Option<Arc<Changes>>,
    roots: Mutex<Roots>,
    wake: Notify,
    events: broadcast::Sender<ProvideEvent>,
}

#[derive(Default)]
struct Roots {
    wanted: BTreeSet<Cid>,
    todo: BTreeSet<Cid>,
}

impl Announcer {
    /// `extent` is what else is announced in the DHT of IPFS, if there is one.
    pub(super) fn start(world: World, extent: Option<Extent>, roots: BTreeSet<Cid>) -> Self {
        let ipfs_dht = extent.as_ref().map(|extent| extent.dht.clone());
        let more = extent.filter(Extent::is_more_than_roots).map(|extent| (extent, Arc::<Changes>::default()));
        let changes = more.as_ref().map(|(_, changes)| changes.clone());
        for root in &roots {
            ipfs_dht.iter().for_each(|dht| dht.provide(*root.hash()));
        }
        let roots = Mutex::new(Roots { todo: roots.clone(), wanted: roots });
        let (wake, events) = (Notify::new(), broadcast::channel(EVENT_QUEUE).0);
        let shared = Arc::new(Shared { world, ipfs_dht, changes, roots, wake, events });
        let mut tasks = JoinSet::new();
        if let Some((extent, changes)) = more {
            tasks.spawn(extent.run(changes));
        }
        tasks.spawn(run(shared.clone()));
        Self { shared, tasks: Mutex::new(tasks) }
    }

    pub(super) fn announce(&self, cid: Cid) {
        let mut roots = self.shared.roots();
        if roots.wanted.insert(cid) {
            roots.todo.insert(cid);
            self.shared.wake.notify_one();
            self.shared.ipfs_dht.iter().for_each(|dht| dht.provide(*cid.hash()));
        }
        self.shared.changes.iter().for_each(|changes| changes.pinned(cid));
    }

    /// Blocks were collected.
    pub(super) fn collected(&self) {
        self.shared.changes.iter().for_each(|changes| changes.lost());
    }

    pub(super) fn withdraw(&self, cid: Cid) {
        let mut roots = self.shared.roots();
        roots.wanted.remove(&cid);
        roots.todo.remove(&cid);
        drop(roots);
        self.shared.ipfs_dht.iter().for_each(|dht| dht.stop_providing(cid.hash()));
        self.shared.changes.iter().for_each(|changes| changes.lost());
        if let Some(key) = provider_key(&cid) {
            self.shared.world.dht.stop_providing(&key);
        }
    }

    pub(super) fn events(&self) -> impl Stream<Item = ProvideEvent> + Send + Unpin + 'static {
        let events = self.shared.events.subscribe();
        Box::pin(stream::unfold(events, |mut events| async move {
            match events.recv().await {
                Ok(event) => Some((event, events)),
                Err(broadcast::error::RecvError::Lagged(_)) => Some((ProvideEvent::Missed, events)),
                Err(broadcast::error::RecvError::Closed) => None,
            }
        }))
    }

    pub(super) async fn stop(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
        if let Some(dht) = &self.shared.ipfs_dht {
            dht.stop().await;
        }
    }
}

impl Shared {
    fn roots(&self) -> MutexGuard<'_, Roots> {
        self.roots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn run(shared: Arc<Shared>) {
    let mut running = FuturesUnordered::new();
    let mut peers = shared.world.network.events();
    // Roots that failed, tried again together.
    let mut failed = BTreeSet::new();
    let mut retry = Instant::NEVER;
    loop {
        while running.len() < PARALLEL
            && let Some(cid) = { shared.roots().todo.pop_first() }
        {
            let Some(key) = provider_key(&cid) else { continue };
            let providing = shared.world.dht.provide(key);
            running.push(async move { (cid, providing.await) });
        }
        tokio::select! {
            biased;
            Some((cid, outcome)) = running.next() => {
                let wanted = shared.roots().wanted.contains(&cid);
                let event = match outcome {
                    Ok(()) if !wanted => {
                        if let Some(key) = provider_key(&cid) {
                            shared.world.dht.stop_providing(&key);
                        }
                        continue;
                    }
                    Ok(()) => ProvideEvent::Announced(cid),
                    Err(error) => {
                        failed.insert(cid);
                        retry = retry.min(shared.world.clock.now() + RETRY);
                        ProvideEvent::Failed { cid, reason: error.to_string() }
                    }
                };
                // Nobody may listen.
                let _ = shared.events.send(event);
            }
            () = shared.wake.notified() => {}
            Some(event) = peers.next(), if !failed.is_empty() => {
                if matches!(event, PeerEvent::Connected(_)) {
                    try_again(&shared, &mut failed, &mut retry);
                }
            }
            () = shared.world.clock.sleep_until(retry) => try_again(&shared, &mut failed, &mut retry),
        }
    }
}

fn try_again(shared: &Shared, failed: &mut BTreeSet<Cid>, retry: &mut Instant) {
    *retry = Instant::NEVER;
    let mut roots = shared.roots();
    for cid in std::mem::take(failed) {
        if roots.wanted.contains(&cid) {
            roots.todo.insert(cid);
        }
    }
}
