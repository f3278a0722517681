use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::atomic::{AtomicU32, Ordering},
};

use bytes::Bytes;
use cid::Cid;
use parking_lot::RwLock;

use super::{Multihash, Store, StoreStats, StoredBlock, key::Key};
use crate::{Block, FlushError, GetError, PutError, RemoveError};

/// Blocks in memory: for tests, and for agents without a disk. Nothing outlives it.
#[derive(Debug)]
pub struct MemoryStore {
    quota_bytes: u64,
    generation: AtomicU32,
    held: RwLock<Held>,
}

#[derive(Debug, Default)]
struct Held {
    blocks: BTreeMap<Key, (Bytes, u32)>,
    bytes: u64,
}

impl MemoryStore {
    /// An empty store of at most `quota_bytes` of data.
    pub fn new(quota_bytes: u64) -> Self {
        Self { quota_bytes, generation: AtomicU32::new(0), held: RwLock::default() }
    }
}

impl Held {
    fn remove(&mut self, key: &Key) -> u64 {
        let bytes = self.blocks.remove(key).map_or(0, |(data, _)| data.len() as u64);
        self.bytes -= bytes;
        bytes
    }
}

impl Store for MemoryStore {
    fn put(&self, blocks: &[Block]) -> Result<(), PutError> {
        let generation = self.generation.load(Ordering::Acquire);
        let mut held = self.held.write();
        for block in blocks {
            let key = Key::from(block.cid.hash());
            if let Some((_, touched)) = held.blocks.get_mut(&key) {
                *touched = generation;
                continue;
            }
            let needed_bytes = block.data.len() as u64;
            if held.bytes + needed_bytes > self.quota_bytes {
                let (quota_bytes, live_bytes) = (self.quota_bytes, held.bytes);
                return Err(PutError::QuotaExceeded { needed_bytes, quota_bytes, live_bytes, dead_bytes: 0 });
            }
            held.bytes += needed_bytes;
            held.blocks.insert(key, (block.data.clone(), generation));
        }
        Ok(())
    }

    fn get(&self, cid: &Cid) -> Result<Option<Bytes>, GetError> {
        Ok(self.held.read().blocks.get(&Key::from(cid.hash())).map(|(data, _)| data.clone()))
    }

    fn has(&self, cid: &Cid) -> bool {
        self.held.read().blocks.contains_key(&Key::from(cid.hash()))
    }

    fn touch(&self, cid: &Cid) -> bool {
        let generation = self.generation.load(Ordering::Acquire);
        let mut held = self.held.write();
        held.blocks.get_mut(&Key::from(cid.hash())).map(|(_, touched)| *touched = generation).is_some()
    }

    fn remove(&self, cids: &[Cid]) -> Result<(), RemoveError> {
        let mut held = self.held.write();
        for cid in cids {
            held.remove(&Key::from(cid.hash()));
        }
        Ok(())
    }

    fn begin_generation(&self) -> u32 {
        self.generation.fetch_add(1, Ordering::AcqRel) + 1
    }

    fn collect(&self, hashes: &[Multihash], before: u32) -> Result<(u64, u64), RemoveError> {
        let mut held = self.held.write();
        let (mut blocks, mut bytes) = (0, 0);
        for key in hashes.iter().map(Key::from) {
            if held.blocks.get(&key).is_some_and(|(_, touched)| *touched < before) {
                blocks += 1;
                bytes += held.remove(&key);
            }
        }
        Ok((blocks, bytes))
    }

    fn flush(&self) -> Result<(), FlushError> {
        Ok(())
    }

    fn compact(&self) -> Result<bool, PutError> {
        Ok(false)
    }

    fn list(&self, after: Option<&Multihash>, limit: usize) -> Vec<StoredBlock> {
        let from = after.map_or(Bound::Unbounded, |hash| Bound::Excluded(Key::from(hash)));
        let held = self.held.read();
        let blocks = held.blocks.range((from, Bound::Unbounded)).take(limit);
        blocks.map(|(key, (data, _))| StoredBlock { hash: key.multihash(), bytes: data.len() as u32 }).collect()
    }

    fn size(&self, cid: &Cid) -> Option<u32> {
        self.held.read().blocks.get(&Key::from(cid.hash())).map(|(data, _)| data.len() as u32)
    }

    fn stats(&self) -> StoreStats {
        let held = self.held.read();
        StoreStats {
            blocks: held.blocks.len() as u64,
            data_bytes: held.bytes,
            quota_bytes: self.quota_bytes,
            ..StoreStats::default()
        }
    }
}
