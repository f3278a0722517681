use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;
use cid::Cid;
use diai_core::{BoxFuture, Offload, offload};
use futures::{Stream, stream};
use parking_lot::Mutex;
use tokio::sync::broadcast;

use crate::{
    Block, BlockError, BlockSource, FlushError, GetError, MAX_BLOCK_BYTES, PutError, RAW, RemoveError, SourceError,
    Store, StoreStats,
    block::known_content,
    cache::{Cached, make_room},
    identity_content,
};

/// The async door to a [`Store`]: cheap to clone, safe to share.
///
/// Cancel-safety: a dropped `put` or `remove` may or may not have happened; a dropped `get` or `flush` has no effect
/// on what is stored.
#[derive(Clone)]
pub struct BlockStore {
    store: Arc<dyn Store>,
    offload: Arc<dyn Offload>,
    guards: Arc<Mutex<Guards>>,
    observer: Arc<Mutex<Option<Observer>>>,
    events: broadcast::Sender<StoreEvent>,
    stored: broadcast::Sender<Arc<[Cid]>>,
    cached: Option<Arc<Cached>>,
}

/// What became of a block that was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreEvent {
    /// It is damaged and was set aside: it counts as missing until it is put again. The CID is that of a raw block, since a
    /// store knows the hash alone.
    Damaged(Cid),
    /// A peer had it, and it is here again.
    Healed(Cid),
    /// No peer had it in time. [`Blocks::repair`](crate::Blocks::repair) tries again.
    NotHealed(Cid),
    /// The subscriber was too slow and missed some.
    Missed,
}

/// Events that wait for a slow subscriber.
const EVENT_QUEUE: usize = 1024;
/// The same of puts, which name up to some thousand blocks each.
const STORED_QUEUE: usize = 64;

/// Times that room is made for one put: others, who put at the same time, may take it first.
const MAX_ROOM_MADE: usize = 16;

/// Told what was stored; the put waits for it.
type Observer = Arc<dyn Fn(Vec<Cid>) -> BoxFuture<'static, ()> + Send + Sync>;

/// Whose blocks are put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Own,
    Fetched,
}

#[derive(Default)]
struct Guards {
    next: u64,
    held: BTreeMap<u64, Held>,
}

struct Held {
    generation: u32,
    root: Option<Cid>,
}

impl fmt::Debug for BlockStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockStore").field("stats", &self.store.stats()).finish_non_exhaustive()
    }
}

impl BlockStore {
    /// The door to `store`, whose blocking calls are made on `offload`.
    pub fn new(store: Arc<dyn Store>, offload: Arc<dyn Offload>) -> Self {
        let events = broadcast::channel(EVENT_QUEUE).0;
        let damaged = events.clone();
        // Nobody may listen.
        store.on_damage(Arc::new(move |hash| drop(damaged.send(StoreEvent::Damaged(Cid::new_v1(RAW, hash))))));
        Self {
            store,
            offload,
            guards: Arc::default(),
            observer: Arc::default(),
            events,
            stored: broadcast::channel(STORED_QUEUE).0,
            cached: None,
        }
    }

    /// The same, where what is fetched is cached by `cached`. Of one store, there must be no door without it beside.
    pub(crate) fn with_cached(self, cached: Cached) -> Self {
        Self { cached: Some(Arc::new(cached)), ..self }
    }

    pub(crate) fn cached(&self) -> Option<&Arc<Cached>> {
        self.cached.as_ref()
    }

    /// What becomes of damaged blocks, from now on.
    pub fn events(&self) -> impl Stream<Item = StoreEvent> + Send + Unpin + 'static {
        let events = self.events.subscribe();
        Box::pin(stream::unfold(events, |mut events| async move {
            match events.recv().await {
                Ok(event) => Some((event, events)),
                Err(broadcast::error::RecvError::Lagged(_)) => Some((StoreEvent::Missed, events)),
                Err(broadcast::error::RecvError::Closed) => None,
            }
        }))
    }

    pub(crate) fn tell(&self, event: StoreEvent) {
        // Nobody may listen.
        let _ = self.events.send(event);
    }

    /// Has `observer` told of all that is put from now on, in place of whoever was told before.
    pub(crate) fn observe(&self, observer: impl Fn(Vec<Cid>) -> BoxFuture<'static, ()> + Send + Sync + 'static) {
        *self.observer.lock() = Some(Arc::new(observer));
    }

    /// The store behind the door, whose calls block.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The pool that the store's calls are made on.
    pub fn offload(&self) -> &Arc<dyn Offload> {
        &self.offload
    }

    /// The data of `cid`, checked against it; `None` when it is not here.
    pub async fn get(&self, cid: &Cid) -> Result<Option<Bytes>, GetError> {
        if let Some(content) = known_content(cid) {
            return Ok(Some(Bytes::copy_from_slice(content)));
        }
        if !self.store.has(cid) {
            return Ok(None);
        }
        let (store, cid) = (self.store.clone(), *cid);
        offload(&*self.offload, move || store.get(&cid)).await.map_err(|_| GetError::Closed)?
    }

    /// The same, where a damaged block counts as missing, as it does from then on.
    pub(crate) async fn get_whole(&self, cid: &Cid) -> Result<Option<Bytes>, GetError> {
        match self.get(cid).await {
            Err(GetError::Damaged { .. }) => Ok(None),
            got => got,
        }
    }

    /// The data of each of `cids`, in one go on one thread: for many small blocks. The caller bounds how many.
    pub async fn get_many(&self, cids: Vec<Cid>) -> Result<Vec<Result<Option<Bytes>, GetError>>, GetError> {
        let store = self.store.clone();
        let get = move |cid: Cid| match known_content(&cid) {
            Some(content) => Ok(Some(Bytes::copy_from_slice(content))),
            None => store.get(&cid),
        };
        offload(&*self.offload, move || cids.into_iter().map(get).collect()).await.map_err(|_| GetError::Closed)
    }

    /// Whether `cid` is here. Answered from memory.
    pub fn has(&self, cid: &Cid) -> bool {
        known_content(cid).is_some() || self.store.has(cid)
    }

    /// Bytes of the data of `cid`; `None` when it is not here. Answered from memory.
    pub fn size(&self, cid: &Cid) -> Option<u64> {
        let stored = || self.store.size(cid).map(u64::from);
        known_content(cid).map_or_else(stored, |content| Some(content.len() as u64))
    }

    /// Whether `cid` is here, and if so keeps it from a collection that runs now: what a fetch asks while it holds a
    /// [`Guard`], instead of [`has`](Self::has). Answered from memory.
    pub fn touch(&self, cid: &Cid) -> bool {
        known_content(cid).is_some() || self.store.touch(cid)
    }

    /// Stores `block`: readable when it returns, durable after [`flush`](Self::flush).
    pub async fn put(&self, block: Block) -> Result<(), PutError> {
        self.put_many(vec![block]).await
    }

    /// Stores `blocks`, written together, and sends them to peers that wait for them: readable when it returns, durable after [`flush`](Self::flush). Some
    /// thousand small blocks, or a few MiB, are a good measure.
    pub async fn put_many(&self, blocks: Vec<Block>) -> Result<(), PutError> {
        self.put_as(blocks, Origin::Own).await
    }

    /// The same for blocks that were fetched: they are cached, unless they are put, pinned or fetched for a pin besides.
    pub async fn put_fetched(&self, blocks: Vec<Block>) -> Result<(), PutError> {
        self.put_as(blocks, Origin::Fetched).await
    }

    async fn put_as(&self, mut blocks: Vec<Block>, origin: Origin) -> Result<(), PutError> {
        blocks.retain(|block| identity_content(&block.cid).is_none());
        if let Some(block) = blocks.iter().find(|block| block.data.len() > MAX_BLOCK_BYTES) {
            return Err(BlockError::TooLarge { bytes: block.data.len() }.into());
        }
        if blocks.is_empty() {
            return Ok(());
        }
        let cids = blocks.iter().map(|block| block.cid).collect();
        let door = self.clone();
        offload(&*self.offload, move || door.put_here(&blocks, origin)).await.map_err(|_| PutError::Closed)??;
        self.stored(cids).await;
        Ok(())
    }

    /// What is put, from now on.
    pub(crate) fn stored_events(&self) -> broadcast::Receiver<Arc<[Cid]>> {
        self.stored.subscribe()
    }

    /// Blocks.
    fn put_here(&self, blocks: &[Block], origin: Origin) -> Result<(), PutError> {
        let Some(cached) = &self.cached else { return self.store.put(blocks) };
        let coming = match origin {
            Origin::Fetched => cached.arriving(blocks, &*self.store),
            Origin::Own => {
                cached.own(blocks.iter().map(|block| &block.cid));
                Vec::new()
            }
        };
        let outcome = self.put_making_room(cached, blocks);
        match origin {
            Origin::Fetched => cached.arrived(coming, outcome.is_ok()),
            // Once more: a fetch may have brought some of them meanwhile.
            Origin::Own => cached.own(blocks.iter().map(|block| &block.cid)),
        }
        outcome
    }

    /// Cached blocks give way before a put fails.
    fn put_making_room(&self, cached: &Cached, blocks: &[Block]) -> Result<(), PutError> {
        for _ in 0..MAX_ROOM_MADE {
            match self.store.put(blocks) {
                Err(PutError::QuotaExceeded { needed_bytes, .. })
                    if make_room(cached, &*self.store, || self.guarded().0, needed_bytes)? => {}
                outcome => return outcome,
            }
        }
        self.store.put(blocks)
    }

    /// Removes what the cache has no room for, unless it is held. Blocks.
    pub(crate) fn sweep(&self) -> Result<(), RemoveError> {
        let Some(cached) = &self.cached else { return Ok(()) };
        // Taken first: what is put or pinned from here on is spared.
        let (before, _) = self.guarded();
        cached.sweep(&*self.store, before, false)
    }

    /// A fetch found `cid` here, and [touched](Self::touch) it: for a pin, which makes it kept, or for whoever reads it.
    pub(crate) fn found(&self, cid: &Cid, kept: bool) {
        match &self.cached {
            Some(cached) if kept => cached.own(std::iter::once(cid)),
            Some(cached) => cached.found(cid),
            None => {}
        }
    }

    /// Whether `cid` is, or was before it was damaged, cached.
    pub(crate) fn is_cached(&self, cid: &Cid) -> bool {
        self.cached.as_ref().is_some_and(|cached| cached.contains(cid))
    }

    /// A fetch did not find `cid` here.
    pub(crate) fn missed(&self, cid: &Cid) {
        if let Some(cached) = &self.cached {
            cached.missed(cid);
        }
    }

    async fn stored(&self, cids: Vec<Cid>) {
        if self.stored.receiver_count() > 0 {
            // They may have left since.
            let _ = self.stored.send(cids.as_slice().into());
        }
        let observer = self.observer.lock().clone();
        if let Some(observer) = observer {
            observer(cids).await;
        }
    }

    /// Has `make` make blocks on the pool, and stores them there and then: no block travels between threads, and
    /// several calls at a time hash and write beside each other. Returns what else `make` gives. As
    /// [`put_many`](Self::put_many) in all else; identity CIDs must not be among the blocks.
    pub(crate) async fn put_made<T, E>(
        &self,
        make: impl FnOnce() -> Result<(T, Vec<Block>), E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<PutError> + Send + 'static,
    {
        let door = self.clone();
        let work = move || {
            let (made, blocks) = make()?;
            door.put_here(&blocks, Origin::Own)?;
            Ok::<_, E>((made, blocks.iter().map(|block| block.cid).collect()))
        };
        let (made, cids) = offload(&*self.offload, work).await.map_err(|_| PutError::Closed)??;
        self.stored(cids).await;
        Ok(made)
    }

    /// Removes `cids`, whoever still needs them. Garbage collection is [`Pins::gc`](crate::Pins::gc).
    pub async fn remove(&self, cids: Vec<Cid>) -> Result<(), RemoveError> {
        let (store, cached) = (self.store.clone(), self.cached.clone());
        let work = move || {
            cached.iter().for_each(|cached| cached.own(cids.iter()));
            store.remove(&cids)
        };
        offload(&*self.offload, work).await.map_err(|_| RemoveError::Closed)?
    }

    /// Makes all that was put before the call durable. Calls at the same time share one sync of the disk.
    pub async fn flush(&self) -> Result<(), FlushError> {
        let (store, cached) = (self.store.clone(), self.cached.clone());
        let work = move || {
            // What is not cached any more must not be dropped after a crash.
            if let Some(cached) = cached.filter(|cached| cached.is_urgent()) {
                cached.write()?;
            }
            store.flush()
        };
        offload(&*self.offload, work).await.map_err(|_| FlushError::Closed)?
    }

    /// Figures.
    pub fn stats(&self) -> StoreStats {
        self.store.stats()
    }

    /// Keeps what is put or touched from now on, until the guard is dropped, from being collected: what an import
    /// holds until it has pinned its root.
    pub fn guard(&self) -> Guard {
        self.hold(None)
    }

    /// The same, and keeps what is here already of the DAG under `root` from a collection: what a fetch holds. From the
    /// cache, which drops what it has no room for, only what is put or touched from now on is kept, as by a fetch of `root`.
    pub fn guard_root(&self, root: Cid) -> Guard {
        self.hold(Some(root))
    }

    /// Keeps only what is here now of the DAG under `root`, whole or not: may be held for long, as it does not keep a
    /// collection from all that is put meanwhile.
    pub(crate) fn keep_root(&self, root: Cid) -> Guard {
        self.insert(|_| Held { generation: u32::MAX, root: Some(root) })
    }

    fn hold(&self, root: Option<Cid>) -> Guard {
        self.insert(|store| Held { generation: store.begin_generation(), root })
    }

    fn insert(&self, held: impl FnOnce(&dyn Store) -> Held) -> Guard {
        // Made under the lock, so that a collection sees the guard or begins its generation later.
        let mut guards = self.guards.lock();
        guards.next += 1;
        let id = guards.next;
        guards.held.insert(id, held(&*self.store));
        Guard { id, guards: self.guards.clone(), cached: self.cached.clone() }
    }

    /// The oldest generation that must be kept, beginning a new one, and the roots under guard.
    pub(crate) fn guarded(&self) -> (u32, Vec<Cid>) {
        let guards = self.guards.lock();
        let now = self.store.begin_generation();
        let oldest = guards.held.values().map(|held| held.generation).fold(now, u32::min);
        (oldest, guards.held.values().filter_map(|held| held.root).collect())
    }
}

impl BlockSource for BlockStore {
    fn block(&self, cid: Cid) -> BoxFuture<'_, Result<Bytes, SourceError>> {
        Box::pin(async move {
            match self.get(&cid).await {
                Ok(Some(data)) => Ok(data),
                // A damaged one counts as missing.
                Ok(None) | Err(GetError::Damaged { .. }) => {
                    Err(SourceError::NotFound { cid, asked: "the local store".into() })
                }
                Err(error) => Err(SourceError::Failed { cid, reason: error.to_string() }),
            }
        })
    }
}

/// Keeps blocks from garbage collection until it is dropped.
#[must_use = "blocks are kept only while the guard lives"]
pub struct Guard {
    id: u64,
    guards: Arc<Mutex<Guards>>,
    cached: Option<Arc<Cached>>,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.guards.lock().held.remove(&self.id);
        if let Some(cached) = &self.cached {
            cached.released();
        }
    }
}
