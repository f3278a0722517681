use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use cid::Cid;
use diai_core::{AgentId, BoxFuture};

use crate::ArtifactError;

/// For whom an artifact is got. It matters where this agent can open what the other may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// For this agent itself.
    Own,
    /// For the task of another agent, which sees what it gets.
    Task {
        /// Names the task, the attempt, the requester and the worker.
        context: [u8; 32],
        /// What the requester's [`Artifacts::prove`] gave for the same artifact and context.
        proof: Option<[u8; 32]>,
    },
}

/// What an artifact holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// The content, opened if it was encrypted.
    pub bytes: Bytes,
    /// Whether it was.
    pub sealed: bool,
}

/// Counts what has come of one transfer, so that whoever waits for it can tell a slow one from none. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Flow(Arc<AtomicU64>);

impl Flow {
    /// More has come.
    pub fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    /// All that has come until now.
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Where programs, inputs and outputs are: a content-addressed store that can fetch from others. The `diai` facade
/// makes one of `diai-blocks`.
///
/// All futures are cancel-safe: dropping one stops the work, but for what is stored already.
pub trait Artifacts: Send + Sync + 'static {
    /// The content of `cid`, from here or from others; verified against the CID, and held here afterwards. Over
    /// `max_bytes` it fails without reading more.
    ///
    /// What is encrypted is opened for this agent itself, but for another only with a proof that it can open it too:
    /// without, whoever is served could read through its worker what is sealed for that worker.
    ///
    /// `holder`, if anybody, is known to have it: so it is asked first, and nobody else needs to hear of the CID.
    /// `flow` is told of all bytes as they come from others; a transfer in which nothing comes is given up.
    fn get(
        &self,
        cid: Cid,
        max_bytes: u64,
        access: Access,
        holder: Option<AgentId>,
        flow: Flow,
    ) -> BoxFuture<'static, Result<Content, ArtifactError>>;

    /// Proof, bound to `context`, that this agent can open the encrypted artifact `cid`, of no use for any other context
    /// and telling nothing of the content; `None` if it is not encrypted, or this agent cannot open it or find it.
    fn prove(&self, cid: Cid, context: [u8; 32]) -> BoxFuture<'static, Option<[u8; 32]>>;

    /// Keeps `bytes`, so that others can get them, and gives their CID: encrypted for `reader` and this agent, or, if
    /// there is none, plain. Need not be durable before [`flush`](Self::flush). Plain content of up to 64 KiB must become
    /// one raw block hashed with sha2-256, because its CID is also computed without the store.
    fn put(&self, bytes: Bytes, reader: Option<AgentId>) -> BoxFuture<'static, Result<Cid, ArtifactError>>;

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
