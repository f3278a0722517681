use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream as BoxedItems;

use crate::{BoxFuture, Misbehaviour, PeerId, WallTime};

/// A key of the DHT: `/<namespace>/` and then any bytes, at most 256 in all.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RecordKey(Bytes);

impl RecordKey {
    /// The longest key in bytes.
    pub const MAX_BYTES: usize = 256;

    /// The key `/<namespace>/<name>`; `None` if it is longer than [`RecordKey::MAX_BYTES`] or the namespace is empty
    /// or has a `/` in it.
    pub fn new(namespace: &str, name: &[u8]) -> Option<Self> {
        if namespace.is_empty() || namespace.contains('/') {
            return None;
        }
        let mut key = Vec::with_capacity(namespace.len() + name.len() + 2);
        key.push(b'/');
        key.extend_from_slice(namespace.as_bytes());
        key.push(b'/');
        key.extend_from_slice(name);
        (key.len() <= Self::MAX_BYTES).then(|| Self(key.into()))
    }

    /// Any bytes as a key, as a peer sent them; `None` if they are too long.
    pub fn from_bytes(bytes: Bytes) -> Option<Self> {
        (bytes.len() <= Self::MAX_BYTES).then_some(Self(bytes))
    }

    /// The whole key.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The namespace, if the key has one.
    pub fn namespace(&self) -> Option<&str> {
        let rest = self.0.strip_prefix(b"/")?;
        let end = rest.iter().position(|&byte| byte == b'/')?;
        std::str::from_utf8(&rest[..end]).ok()
    }

    /// What follows the namespace; the whole key if there is none.
    pub fn name(&self) -> &[u8] {
        self.namespace().map_or(&self.0, |namespace| &self.0[namespace.len() + 2..])
    }
}

/// Devices that provide a key, in batches as they are found. Ends when the lookup is done; dropping it stops the
/// lookup.
pub type ProviderStream = BoxedItems<'static, Result<Vec<PeerId>, DhtError>>;

/// A distributed hash table. Implementations hold records only where the validator of their namespace accepts them,
/// and of two valid records for one key keep the one with the higher [`RecordMeta::seq`].
///
/// All methods take their own time-outs (60 s at most) and are cancel-safe: dropping the future stops the lookup;
/// what was stored on other devices by then stays.
pub trait Dht: Send + Sync + 'static {
    /// The devices closest to `key`, nearest first, at most 20.
    fn closest(&self, key: RecordKey) -> BoxFuture<'static, Result<Vec<PeerId>, DhtError>>;

    /// Stores `value` under `key` on this device and on those closest to the key. The validator decides when it
    /// expires. Succeeds when at least one device, this one included, holds it.
    fn put(&self, key: RecordKey, value: Bytes) -> BoxFuture<'static, Result<(), DhtError>>;

    /// The newest valid record for `key`, `None` if nobody asked has one.
    fn get(&self, key: RecordKey) -> BoxFuture<'static, Result<Option<Bytes>, DhtError>>;

    /// Announces this device as a provider of `key`, and again before the announcement expires, until
    /// [`Dht::stop_providing`].
    fn provide(&self, key: RecordKey) -> BoxFuture<'static, Result<(), DhtError>>;

    /// Stops announcing. Announcements already made expire by themselves.
    fn stop_providing(&self, key: &RecordKey);

    /// Looks for providers of `key`. This device is among them if it provides the key.
    fn providers(&self, key: RecordKey) -> ProviderStream;

    /// Registers the validator of a namespace; replaces an earlier one. Records of namespaces without one are refused.
    fn register_validator(&self, namespace: &'static str, validator: Arc<dyn RecordValidator>);
}

/// Decides which records a device holds for others, and which of two is newer.
pub trait RecordValidator: Send + Sync + 'static {
    /// Checks everything that can be checked without asking anybody: form, signature, signer, time.
    fn validate(&self, key: &RecordKey, value: &[u8], now: WallTime) -> Result<RecordMeta, InvalidRecord>;
}

/// What a validator learns from a valid record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordMeta {
    /// Of two valid records for a key, the higher wins.
    pub seq: u64,
    /// When the record is no longer held.
    pub expires: WallTime,
}

/// Why a record is not held.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid record: {reason}")]
pub struct InvalidRecord {
    /// What is wrong with it.
    pub reason: String,
    /// What a device did wrong that sends it; `None` if its clock, ours, or the time on the way may be to blame.
    pub fault: Option<Misbehaviour>,
}

impl InvalidRecord {
    /// A record that no honest device holds, at whatever time.
    pub fn faulty(reason: impl Into<String>, fault: Misbehaviour) -> Self {
        Self { reason: reason.into(), fault: Some(fault) }
    }

    /// A record that may hold at another time, or for another device.
    pub fn blameless(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), fault: None }
    }
}

/// Why a DHT operation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DhtError {
    /// The caller's record would not be held by anybody.
    #[error("the record is not valid: {0}")]
    Invalid(#[from] InvalidRecord),
    /// Nobody answered in time.
    #[error("no device of the DHT answered in time; is any peer connected?")]
    Timeout,
    /// The local store is full.
    #[error("the local record store is full ({limit}); raise the limit or withdraw something")]
    Full {
        /// The cap that was reached.
        limit: usize,
    },
    /// The World has shut down.
    #[error("the network has shut down")]
    Closed,
}
