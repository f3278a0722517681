//! The blocks of the store that are cached, beside those that are kept.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use cid::Cid;
use diai_core::Entropy;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{CacheStats, marks::Marks, policy::Policy};
use crate::{
    Block, FlushError, OpenCacheError, RemoveError,
    config::CacheConfig,
    store::{Key, Multihash, Store},
};

/// Changes that may wait to be written down, 60 bytes each.
const MAX_UNWRITTEN: usize = 4096;
/// Blocks that are removed in one step.
const PAGE_BLOCKS: usize = 256;

/// What is cached of a store. While its lock is held the store is asked only what it answers from memory.
#[derive(Debug)]
pub(crate) struct Cached {
    state: Mutex<State>,
    marks: Option<Marks>,
    /// Entries, those to be removed, arrivals, and changes to be written: none means that there is nothing to look for.
    known: AtomicUsize,
    /// There is something to remove, and perhaps nobody in its way any more.
    pub(super) wake: Notify,
}

struct State {
    policy: Policy<Key>,
    /// For the seed of the policy, which is drawn when the first block is asked for.
    entropy: Option<Arc<dyn Entropy>>,
    /// To be removed, in this order; some that were asked for again since are there in vain.
    condemned: VecDeque<Key>,
    condemned_bytes: BTreeMap<Key, u64>,
    /// Being put by so many who fetched them.
    arriving: BTreeMap<Key, u32>,
    /// Not written down yet: cached now, or no more. What is being written stays here until it is durable.
    unwritten: BTreeMap<Key, bool>,
    /// What must be written down before anything else is durable.
    urgent: bool,
    stats: CacheStats,
}

impl Cached {
    /// For what comes from now on.
    pub(crate) fn new(config: &CacheConfig, quota_bytes: u64, entropy: Arc<dyn Entropy>) -> Self {
        let max_bytes = config.max_bytes.min(quota_bytes / 2);
        let stats = CacheStats { max_bytes, ..CacheStats::default() };
        let state = State {
            policy: Policy::new(max_bytes, config.max_blocks, [0; 16]),
            entropy: Some(entropy),
            condemned: VecDeque::new(),
            condemned_bytes: BTreeMap::new(),
            arriving: BTreeMap::new(),
            unwritten: BTreeMap::new(),
            urgent: false,
            stats,
        };
        Self { state: Mutex::new(state), marks: None, known: AtomicUsize::new(0), wake: Notify::new() }
    }

    /// And for what was cached before, as the database file at `path` has it. Blocks.
    pub(crate) fn open(
        self,
        disk: &dyn diai_core::Disk,
        path: &str,
        store: &dyn Store,
    ) -> Result<Self, OpenCacheError> {
        let marks = Marks::open(disk, path)?;
        {
            let mut state = self.state.lock();
            marks.load(|hash| {
                let key = Key::from(&hash);
                match store.size(&raw(&hash)) {
                    Some(bytes) => state.take_in(key, u64::from(bytes)),
                    None => drop(state.unwritten.insert(key, false)),
                }
            })?;
            // They are written down already.
            state.unwritten.retain(|_, cached| !*cached);
            self.note(&state);
        }
        Ok(Self { marks: Some(marks), ..self })
    }

    fn note(&self, state: &State) {
        let known = state.policy.len() + state.condemned_bytes.len() + state.arriving.len() + state.unwritten.len();
        self.known.store(known, Ordering::Release);
    }

    /// Before `blocks`, which were fetched, are put: those of them that are not here come to be cached, unless somebody puts
    /// them as his own meanwhile, or they heal what was not cached.
    pub(crate) fn arriving(&self, blocks: &[Block], store: &dyn Store) -> Vec<(Key, u64)> {
        let mut state = self.state.lock();
        let mut coming = Vec::new();
        for block in blocks {
            let (key, hash) = (Key::from(block.cid.hash()), block.cid.hash());
            let cached = state.policy.contains(&key) || state.condemned_bytes.contains_key(&key);
            if cached || !(store.has(&block.cid) || store.is_quarantined(hash)) {
                *state.arriving.entry(key.clone()).or_default() += 1;
                coming.push((key, block.data.len() as u64));
            }
        }
        self.note(&state);
        coming
    }

    /// They were put, if `put`. Writes down what has changed if it is much.
    pub(crate) fn arrived(&self, coming: Vec<(Key, u64)>, put: bool) {
        let much = {
            let mut state = self.state.lock();
            for (key, bytes) in coming {
                let Some(times) = state.arriving.get_mut(&key) else { continue };
                *times -= 1;
                if *times == 0 {
                    state.arriving.remove(&key);
                }
                if put {
                    state.take_in(key, bytes);
                }
            }
            self.note(&state);
            if !state.condemned.is_empty() {
                self.wake.notify_one();
            }
            state.unwritten.len() >= MAX_UNWRITTEN
        };
        if much && let Err(error) = self.write() {
            tracing::warn!(%error, "which blocks are cached could not be written down; those count as kept until gc");
        }
    }

    /// `cids` are somebody's own, or pinned: they are not cached any more, nor will be when they arrive now.
    pub(crate) fn own<'a>(&self, cids: impl Iterator<Item = &'a Cid>) {
        if self.known.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut state = self.state.lock();
        for key in cids.map(|cid| Key::from(cid.hash())) {
            state.arriving.remove(&key);
            state.give_up(&key, true);
        }
        self.note(&state);
    }

    /// Those of `hashes` that `gone` says have left the store are not cached any more.
    pub(crate) fn forget<'a>(&self, hashes: impl Iterator<Item = &'a Multihash>, gone: impl Fn(&Multihash) -> bool) {
        if self.known.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut state = self.state.lock();
        for hash in hashes.filter(|hash| gone(hash)) {
            state.give_up(&Key::from(hash), false);
        }
        self.note(&state);
    }

    /// Whether `cid` is cached, or was when it was here.
    pub(crate) fn contains(&self, cid: &Cid) -> bool {
        let (state, key) = (self.state.lock(), Key::from(cid.hash()));
        state.policy.contains(&key) || state.condemned_bytes.contains_key(&key)
    }

    /// A fetch found `cid` here.
    pub(crate) fn found(&self, cid: &Cid) {
        if self.known.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut state = self.state.lock();
        let key = Key::from(cid.hash());
        if let Some(bytes) = state.condemned_bytes.remove(&key) {
            // It was as good as gone, and is wanted.
            state.count(&key);
            state.hit(bytes);
            state.take_in(key, bytes);
        } else if let Some(bytes) = state.policy.bytes_of(&key) {
            state.count(&key);
            state.hit(bytes);
        }
    }

    /// A fetch did not find `cid` here.
    pub(crate) fn missed(&self, cid: &Cid) {
        let mut state = self.state.lock();
        let key = Key::from(cid.hash());
        state.stats.misses += 1;
        state.count(&key);
    }

    /// Removes what is condemned and nobody holds. `before` is the oldest generation that is held, and was taken before
    /// this call: what is put, touched or pinned meanwhile is of a later one. Looks at `all`, or ends where it meets many
    /// that are held.
    pub(crate) fn sweep(&self, store: &dyn Store, before: u32, all: bool) -> Result<(), RemoveError> {
        let mut left = self.state.lock().condemned.len();
        while left > 0 {
            let page: Vec<Multihash> = {
                let mut state = self.state.lock();
                let count = left.min(PAGE_BLOCKS).min(state.condemned.len());
                left = if count == 0 { 0 } else { left - count };
                let taken: Vec<_> = state.condemned.drain(..count).collect();
                taken.iter().filter(|key| state.condemned_bytes.contains_key(*key)).map(Key::multihash).collect()
            };
            let (outcome, looked_at) = (store.collect(&page, before), page.len());
            let mut state = self.state.lock();
            let mut removed = 0;
            for hash in page {
                let key = Key::from(&hash);
                if store.has(&raw(&hash)) {
                    if state.condemned_bytes.contains_key(&key) {
                        state.condemned.push_back(key);
                    }
                } else if let Some(bytes) = state.condemned_bytes.remove(&key) {
                    removed += 1;
                    state.stats.evicted_blocks += 1;
                    state.stats.evicted_bytes += bytes;
                    state.unwritten.insert(key, false);
                }
            }
            self.note(&state);
            outcome?;
            if !all && removed == 0 && looked_at > 0 {
                // Those that were condemned first are held; later ones mostly are too, and can wait.
                break;
            }
        }
        Ok(())
    }

    /// Condemns what is worth least, of `bytes` in all. Returns whether there was any.
    pub(crate) fn condemn(&self, bytes: u64) -> bool {
        let mut state = self.state.lock();
        let gone = state.policy.shrink(bytes);
        let any = !gone.is_empty();
        state.condemn(gone);
        any
    }

    /// Whether there is something to remove.
    pub(crate) fn has_condemned(&self) -> bool {
        self.known.load(Ordering::Acquire) > 0 && !self.state.lock().condemned.is_empty()
    }

    /// Somebody held what may be removed now.
    pub(crate) fn released(&self) {
        if self.has_condemned() {
            self.wake.notify_one();
        }
    }

    /// Whether something must be written down before what was put, or pinned, counts as durable.
    pub(crate) fn is_urgent(&self) -> bool {
        self.marks.is_some() && self.state.lock().urgent
    }

    /// Writes down what is cached, durably. Whoever calls while another writes waits for it. Blocks.
    pub(crate) fn write(&self) -> Result<(), OpenCacheError> {
        let written = |changes: BTreeMap<Key, bool>| {
            let mut state = self.state.lock();
            state.unwritten.retain(|key, cached| changes.get(key) != Some(cached));
            // Only now, or a flush meanwhile would not wait.
            state.urgent &= state.unwritten.values().any(|cached| !cached);
            self.note(&state);
        };
        let changes = || self.state.lock().unwritten.clone();
        let Some(marks) = &self.marks else {
            written(changes());
            return Ok(());
        };
        let outcome = marks.write(changes, written);
        if outcome.is_err() {
            let mut state = self.state.lock();
            if state.unwritten.len() >= MAX_UNWRITTEN {
                // A mark that is missing costs space; one that is not struck out costs data.
                state.unwritten.retain(|_, cached| !*cached);
            }
        }
        outcome
    }

    pub(crate) fn stats(&self) -> CacheStats {
        let state = self.state.lock();
        let blocks = state.policy.len() as u64;
        let condemned_bytes = state.condemned_bytes.values().sum();
        CacheStats { blocks, bytes: state.policy.bytes(), condemned_bytes, ..state.stats }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("stats", &self.stats).finish_non_exhaustive()
    }
}

impl State {
    fn count(&mut self, key: &Key) {
        if let Some(entropy) = self.entropy.take() {
            self.policy.set_seed(entropy.bytes());
        }
        self.policy.access(key);
    }

    fn take_in(&mut self, key: Key, bytes: u64) {
        self.condemned_bytes.remove(&key);
        self.unwritten.insert(key.clone(), true);
        let gone = self.policy.insert(key, bytes);
        self.condemn(gone);
    }

    fn condemn(&mut self, gone: Vec<(Key, u64)>) {
        for (key, bytes) in gone {
            self.condemned_bytes.insert(key.clone(), bytes);
            self.condemned.push_back(key);
        }
        // Those asked for again since would pile up.
        if self.condemned.len() > 2 * self.condemned_bytes.len() + PAGE_BLOCKS {
            let mut seen = std::collections::BTreeSet::new();
            self.condemned.retain(|key| self.condemned_bytes.contains_key(key) && seen.insert(key.clone()));
        }
    }

    fn give_up(&mut self, key: &Key, own: bool) {
        if self.policy.remove(key).or(self.condemned_bytes.remove(key)).is_some() {
            self.unwritten.insert(key.clone(), false);
        }
        // Also of one that left the store before, and has come again: its mark may still be there.
        self.urgent |= own && self.unwritten.get(key) == Some(&false);
    }

    fn hit(&mut self, bytes: u64) {
        self.stats.hits += 1;
        self.stats.hit_bytes += bytes;
    }
}

impl From<OpenCacheError> for FlushError {
    fn from(error: OpenCacheError) -> Self {
        Self::Io(std::io::Error::other(error))
    }
}

/// A CID with this hash, whatever it is of.
fn raw(hash: &Multihash) -> Cid {
    Cid::new_v1(crate::RAW, *hash)
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        thread::{scope, yield_now},
    };

    use diai_core::os::{OsEntropy, ThreadPool};
    use futures::executor::block_on;

    use super::*;
    use crate::{BlockStore, MemoryStore, RAW};

    fn block(number: u64) -> Block {
        Block::new(RAW, number.to_le_bytes().repeat(100)).unwrap()
    }

    fn store(max_bytes: u64) -> BlockStore {
        let config = CacheConfig { max_bytes, ..CacheConfig::default() };
        let cached = Cached::new(&config, 1 << 30, Arc::new(OsEntropy));
        BlockStore::new(Arc::new(MemoryStore::new(1 << 30)), Arc::new(ThreadPool::new(4))).with_cached(cached)
    }

    /// Numbers below `below` that are a function of a seed.
    fn numbers(seed: u64, below: u64) -> impl Iterator<Item = u64> {
        std::iter::successors(Some(seed), |state| {
            Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407))
        })
        .map(move |state| (state >> 33) % below)
        .skip(1)
    }

    #[test]
    fn what_is_put_or_pinned_stays_whatever_fetches_and_sweeps_do_beside() {
        let store = store(20_000);
        let done = AtomicUsize::new(0);
        let own = |seed| {
            let mut put = BTreeSet::new();
            for number in numbers(seed, 2_000).take(1_500) {
                block_on(store.put(block(number))).unwrap();
                put.insert(number);
            }
            done.fetch_add(1, Ordering::Release);
            put
        };
        // As a pin does: under a guard, what is here is touched and made kept.
        let pin = |seed| {
            let mut pinned = BTreeSet::new();
            for number in numbers(seed, 2_000).take(3_000) {
                let _guard = store.guard();
                let cid = block(number).cid;
                if store.touch(&cid) {
                    store.found(&cid, true);
                    pinned.insert(number);
                }
            }
            done.fetch_add(1, Ordering::Release);
            pinned
        };
        let fetch = |seed| {
            for number in numbers(seed, 2_000) {
                if done.load(Ordering::Acquire) == 4 {
                    return;
                }
                let _guard = store.guard();
                let cid = block(number).cid;
                if store.touch(&cid) {
                    store.found(&cid, false);
                } else {
                    store.missed(&cid);
                    block_on(store.put_fetched(vec![block(number)])).unwrap();
                }
            }
        };
        let sweep = || {
            while done.load(Ordering::Acquire) < 4 {
                store.sweep().unwrap();
                yield_now();
            }
        };
        let kept: BTreeSet<u64> = scope(|threads| {
            threads.spawn(sweep);
            (10..12).for_each(|seed| _ = threads.spawn(move || fetch(seed)));
            let keeping: Vec<_> = vec![
                threads.spawn(|| own(1)),
                threads.spawn(|| own(2)),
                threads.spawn(|| pin(3)),
                threads.spawn(|| pin(4)),
            ];
            keeping.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        store.sweep().unwrap();
        let lost = kept.iter().filter(|number| !store.has(&block(**number).cid)).count();
        assert_eq!(lost, 0, "of {}", kept.len());
        let stats = store.cached().unwrap().stats();
        assert!(stats.evicted_blocks > 0 && stats.bytes <= 20_000, "{stats:?}");
        assert_eq!(store.stats().data_bytes, 800 * kept.len() as u64 + stats.bytes + stats.condemned_bytes);
    }

    #[test]
    fn what_is_condemned_and_asked_for_again_is_cached_again() {
        let store = store(20_000);
        let guard = store.guard();
        for number in 0..100 {
            store.missed(&block(number).cid);
            block_on(store.put_fetched(vec![block(number)])).unwrap();
        }
        let condemned = || store.cached().unwrap().stats().condemned_bytes;
        let before = condemned();
        assert!(before >= 100 * 800 - 20_000);
        let number = (0..100).find(|number| store.cached().unwrap().state.lock().is_condemned(&block(*number).cid));
        let cid = block(number.unwrap()).cid;
        for _ in 0..10 {
            store.found(&cid, false);
        }
        assert_eq!(condemned(), before, "another went for it");
        drop(guard);
        store.sweep().unwrap();
        assert!(condemned() == 0 && store.has(&cid));
    }

    #[test]
    fn room_is_found_behind_any_number_of_blocks_that_are_held() {
        let cached = Cached::new(&CacheConfig::default(), 1 << 30, Arc::new(OsEntropy));
        let full = Arc::new(MemoryStore::new(900 * 800));
        let store = BlockStore::new(full, Arc::new(ThreadPool::new(1))).with_cached(cached);
        block_on(store.put_fetched((0..900).map(block).collect())).unwrap();
        let _guard = store.guard();
        assert!((0..600).all(|number| store.touch(&block(number).cid)));
        block_on(store.put_many((1000..1010).map(block).collect())).unwrap();
        assert!((0..600).chain(1000..1010).all(|number| store.has(&block(number).cid)));
    }

    impl State {
        fn is_condemned(&self, cid: &Cid) -> bool {
            self.condemned_bytes.contains_key(&Key::from(cid.hash()))
        }
    }
}
