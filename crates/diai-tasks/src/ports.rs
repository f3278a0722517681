use bytes::Bytes;
use cid::Cid;
use diai_core::{AgentId, BoxFuture};

use crate::ArtifactError;

/// Where programs, inputs and outputs are: a content-addressed store that can fetch from others. The `diai` facade
/// makes one of `diai-blocks`.
///
/// All futures are cancel-safe: dropping one stops the work, but for what is stored already.
pub trait Artifacts: Send + Sync + 'static {
    /// The content of `cid`, from here or from others; verified against the CID, and held here afterwards. Over
    /// `max_bytes` it fails without reading more.
    fn get(&self, cid: Cid, max_bytes: u64) -> BoxFuture<'static, Result<Bytes, ArtifactError>>;

    /// Keeps `bytes`, so that others can get them, and gives their CID. Need not be durable before
    /// [`flush`](Self::flush). Content of up to 64 KiB must become one raw block hashed with sha2-256, because its CID is
    /// also computed without the store.
    fn put(&self, bytes: Bytes) -> BoxFuture<'static, Result<Cid, ArtifactError>>;

    /// Makes all that was put before durable.
    fn flush(&self) -> BoxFuture<'static, Result<(), ArtifactError>>;

    /// The length of `cid`, if it is held here. Asks nobody else.
    fn held(&self, cid: Cid) -> BoxFuture<'static, Option<u64>>;
}

/// Who could do a task. The `diai` facade asks `diai-discovery`.
pub trait Candidates: Send + Sync + 'static {
    /// Agents that offer `capability`, the best first. Bounded in time by the implementation (it should answer within
    /// a second); an empty list is an answer.
    fn find(&self, capability: &str) -> BoxFuture<'static, Vec<AgentId>>;
}
