//! The DHT of a simulation: one table, seen by all who are alive, after one round trip.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream};

use super::{state::Shared, time::Sleep};
use crate::{
    BoxFuture, Dht, DhtError, InvalidRecord, PeerId, ProviderStream, RecordKey, RecordMeta, RecordValidator, WallTime,
};

const PROVIDER_TTL: Duration = Duration::from_secs(48 * 3600);
const CLOSEST: usize = 20;

pub(super) struct MemoryDht {
    shared: Arc<Shared>,
    peer: PeerId,
    validators: Arc<Mutex<BTreeMap<&'static str, Arc<dyn RecordValidator>>>>,
}

impl MemoryDht {
    pub(super) fn new(shared: Arc<Shared>, peer: PeerId) -> Self {
        Self { shared, peer, validators: Arc::default() }
    }

    fn validate(&self, key: &RecordKey, value: &[u8], now: WallTime) -> Result<RecordMeta, InvalidRecord> {
        let validators = self.validators.lock().unwrap_or_else(PoisonError::into_inner);
        let validator = key.namespace().and_then(|namespace| validators.get(namespace)).cloned();
        drop(validators);
        let reason = || InvalidRecord::blameless("no validator is registered for its namespace");
        let meta = validator.ok_or_else(reason)?.validate(key, value, now)?;
        if meta.expires <= now {
            return Err(InvalidRecord::blameless("it has expired"));
        }
        Ok(meta)
    }

    /// Waits for one round trip; fails if this device is dead.
    fn round_trip(&self) -> BoxFuture<'static, Result<(), DhtError>> {
        let (shared, peer) = (self.shared.clone(), self.peer);
        Box::pin(async move {
            let deadline = {
                let mut state = shared.lock();
                let trip = state.latency() + state.latency();
                state.now + trip
            };
            Sleep { shared: shared.clone(), deadline, scheduled: None }.await;
            let alive = shared.lock().devices.get(&peer).is_some_and(|device| device.alive);
            if alive { Ok(()) } else { Err(DhtError::Closed) }
        })
    }
}

impl Dht for MemoryDht {
    fn closest(&self, key: RecordKey) -> BoxFuture<'static, Result<Vec<PeerId>, DhtError>> {
        let (shared, trip) = (self.shared.clone(), self.round_trip());
        Box::pin(async move {
            trip.await?;
            let state = shared.lock();
            // Any fixed order that depends on the key will do.
            let distance = |peer: &PeerId| {
                let bytes = peer.to_bytes();
                let salt = key.as_bytes().iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
                bytes.iter().rev().map(|byte| byte ^ salt).collect::<Vec<_>>()
            };
            let mut peers: Vec<_> =
                state.devices.iter().filter(|(_, device)| device.alive).map(|(peer, _)| *peer).collect();
            peers.sort_by_cached_key(distance);
            peers.truncate(CLOSEST);
            Ok(peers)
        })
    }

    fn put(&self, key: RecordKey, value: Bytes) -> BoxFuture<'static, Result<(), DhtError>> {
        let now = self.shared.lock().wall();
        let meta = self.validate(&key, &value, now);
        let (shared, trip) = (self.shared.clone(), self.round_trip());
        Box::pin(async move {
            let meta = meta?;
            trip.await?;
            let mut state = shared.lock();
            let newer =
                state.records.get(&key).is_none_or(|(_, held)| held.seq < meta.seq || held.expires <= state.wall());
            if newer {
                state.records.insert(key, (value, meta));
            }
            Ok(())
        })
    }

    fn get(&self, key: RecordKey) -> BoxFuture<'static, Result<Option<Bytes>, DhtError>> {
        let (shared, trip) = (self.shared.clone(), self.round_trip());
        Box::pin(async move {
            trip.await?;
            let state = shared.lock();
            let wall = state.wall();
            Ok(state.records.get(&key).filter(|(_, meta)| meta.expires > wall).map(|(value, _)| value.clone()))
        })
    }

    fn provide(&self, key: RecordKey) -> BoxFuture<'static, Result<(), DhtError>> {
        let (shared, peer, trip) = (self.shared.clone(), self.peer, self.round_trip());
        Box::pin(async move {
            trip.await?;
            let mut state = shared.lock();
            let expires = state.wall() + PROVIDER_TTL;
            state.providers.entry(key).or_default().insert(peer, expires);
            Ok(())
        })
    }

    fn stop_providing(&self, key: &RecordKey) {
        if let Some(providers) = self.shared.lock().providers.get_mut(key) {
            providers.remove(&self.peer);
        }
    }

    fn providers(&self, key: RecordKey) -> ProviderStream {
        let (shared, trip) = (self.shared.clone(), self.round_trip());
        stream::once(async move {
            trip.await?;
            let state = shared.lock();
            let wall = state.wall();
            let providers = state.providers.get(&key).into_iter().flatten();
            Ok(providers.filter(|(_, expires)| **expires > wall).map(|(peer, _)| *peer).collect())
        })
        .boxed()
    }

    fn register_validator(&self, namespace: &'static str, validator: Arc<dyn RecordValidator>) {
        self.validators.lock().unwrap_or_else(PoisonError::into_inner).insert(namespace, validator);
    }
}
