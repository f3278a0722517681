use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use diai_core::{PeerId, WallTime, World, timeout_at};
use diai_identity::Identity;
use futures::{
    FutureExt,
    future::{BoxFuture, Shared as SharedFuture, WeakShared},
};
use tokio::{
    runtime,
    sync::{Semaphore, broadcast, watch},
    task::JoinSet,
};

use crate::{
    Config, DiscoveryEvent, RecordError, SignedRecord,
    event::Counters,
    exchange,
    index::{Index, Inserted},
    message::record_key,
    record::verify_of,
    store::Store,
};

/// A connected device is asked at most so often by lookups, whatever it is a provider of: half as often as it must bear.
const ASK_INTERVAL: Duration = Duration::from_millis(500);

pub(crate) type Fetch = BoxFuture<'static, Option<SignedRecord>>;

/// What the handle, the lookups and the tasks have in common.
pub(crate) struct Shared {
    pub(crate) world: World,
    pub(crate) identity: Identity,
    pub(crate) config: Config,
    /// `None` once closed, so that a new start may open it though a lookup of ours is still held by somebody.
    store: Mutex<Option<Store>>,
    /// This device's newest record; `None` before the first was signed.
    pub(crate) own: watch::Sender<Option<SignedRecord>>,
    pub(crate) events: broadcast::Sender<DiscoveryEvent>,
    pub(crate) counters: Counters,
    index: Mutex<Index>,
    /// The seq of our record that a connected device was last told.
    told: Mutex<BTreeMap<PeerId, u64>>,
    permits: Semaphore,
    fetches: Mutex<BTreeMap<PeerId, WeakShared<Fetch>>>,
    runtime: runtime::Handle,
}

impl Shared {
    /// Must be called within a tokio runtime.
    pub(crate) fn new(world: World, identity: Identity, config: Config, store: Store) -> Self {
        Self {
            store: Mutex::new(Some(store)),
            own: watch::Sender::new(None),
            events: broadcast::Sender::new(config.event_capacity),
            counters: Counters::default(),
            index: Mutex::new(Index::new(config.max_records, config.max_records_per_agent)),
            told: Mutex::default(),
            permits: Semaphore::new(config.max_fetches),
            fetches: Mutex::default(),
            runtime: runtime::Handle::current(),
            world,
            identity,
            config,
        }
    }

    pub(crate) fn index(&self) -> MutexGuard<'_, Index> {
        lock(&self.index)
    }

    pub(crate) fn told(&self) -> MutexGuard<'_, BTreeMap<PeerId, u64>> {
        lock(&self.told)
    }

    /// The index on disk; `None` once closed.
    pub(crate) fn store(&self) -> Option<Store> {
        lock(&self.store).clone()
    }

    pub(crate) fn close_store(&self) {
        let store = lock(&self.store).take();
        // Outside the lock: it writes.
        drop(store);
    }

    pub(crate) fn wall(&self) -> WallTime {
        self.world.clock.wall()
    }

    pub(crate) fn emit(&self, event: DiscoveryEvent) {
        // Nobody listening is no failure.
        let _ = self.events.send(event);
    }

    /// This device's newest record.
    pub(crate) fn own_record(&self) -> Option<SignedRecord> {
        self.own.borrow().clone()
    }

    /// Takes in a record that was just confirmed; returns the newest of its device.
    pub(crate) fn learn(&self, record: SignedRecord) -> SignedRecord {
        let peer = record.record().peer;
        if peer == self.identity.peer() {
            return record;
        }
        let now = self.world.clock.now();
        let (inserted, newest) = {
            let mut index = self.index();
            let inserted = index.insert(record.clone(), Some(now));
            (inserted, index.get(peer).map_or(record, |entry| entry.record.clone()))
        };
        if matches!(inserted, Inserted::New | Inserted::Newer) {
            self.world.network.add_addrs(peer, newest.addrs());
            self.emit(DiscoveryEvent::Found(newest.clone()));
        }
        newest
    }

    /// Verifies `bytes` as the record of `peer` and takes it in.
    pub(crate) fn learn_bytes(&self, peer: PeerId, bytes: Bytes) -> Result<SignedRecord, RecordError> {
        let record = verify_of(peer, bytes, self.wall());
        match &record {
            Err(RecordError::Expired | RecordError::NotYetValid) => self.counters.expired.add(),
            Err(_) => self.counters.forged.add(),
            Ok(_) => {}
        }
        record.map(|record| self.learn(record))
    }

    /// Fetches the newest record of `peer`; whoever asks meanwhile waits for the same answer. It has a task of its own, which
    /// ends with the last who waits: a lookup that is kept and not polled keeps no permit from the others.
    pub(crate) fn fetch(self: &Arc<Self>, peer: PeerId) -> SharedFuture<Fetch> {
        let mut fetches = lock(&self.fetches);
        if let Some(running) = fetches.get(&peer).and_then(WeakShared::upgrade) {
            return running;
        }
        fetches.retain(|_, fetch| fetch.upgrade().is_some_and(|fetch| fetch.peek().is_none()));
        let mut task = JoinSet::new();
        task.spawn_on(fetch(self.clone(), peer), &self.runtime);
        let fetch = async move { task.join_next().await?.ok()? }.boxed().shared();
        if let Some(weak) = fetch.downgrade() {
            fetches.insert(peer, weak);
        }
        fetch
    }
}

/// A connected device is asked itself. Of another the DHT is asked, and only if that knows nothing it is dialled.
async fn fetch(shared: Arc<Shared>, peer: PeerId) -> Option<SignedRecord> {
    let connected = shared.world.network.peer(peer).is_some();
    let confirmed = shared.index().get(peer).and_then(|entry| entry.confirmed);
    if let Some(confirmed) = confirmed.filter(|_| connected) {
        shared.world.clock.sleep_until(confirmed + ASK_INTERVAL).await;
    }
    // One question at a time to each, so that the connections are bound enough.
    if connected && let Ok(Some(record)) = exchange::ask(&shared, peer).await {
        return Some(record);
    }
    let _permit = shared.permits.acquire().await.ok()?;
    let deadline = shared.world.clock.now() + shared.config.fetch_timeout;
    let got = timeout_at(&*shared.world.clock, deadline, shared.world.dht.get(record_key(peer))).await;
    if let Ok(Ok(Some(bytes))) = got
        && let Ok(record) = shared.learn_bytes(peer, bytes)
    {
        return Some(record);
    }
    if connected {
        return None;
    }
    exchange::ask(&shared, peer).await.ok().flatten()
}

/// Nothing panics while it holds one of these locks, and each is left whole by every statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
