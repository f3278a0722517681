//! Who may fetch what from here: asked for every block before Bitswap, [`dag`](crate::dag) or our HTTP gateway says or
//! sends anything about it.
//!
//! What is denied is answered like what is not here, so that nobody learns of it: DONT_HAVE where that was asked for,
//! *missing* within a DAG, status 404 or a CAR file cut short over HTTP, and nothing when the block comes later. Without a policy everything in the store is served to
//! everybody: sealed content, which says nothing to those without its key, and plain content alike; also what a pin has
//! of its DAG before it is complete. Damaged blocks count as not here.
//!
//! # Example
//! Plain content for certified devices of agents, and one DAG for everybody:
//! ```
//! use diai_blocks::{Block, BlockStore, BlocksConfig, MemoryStore, RAW, serve::{AllowList, Asker}};
//! # use std::sync::Arc;
//! # use diai_core::os::ThreadPool;
//!
//! # futures::executor::block_on(async {
//! # let blocks = BlockStore::new(Arc::new(MemoryStore::new(64 << 20)), Arc::new(ThreadPool::new(1)));
//! # let root = Block::new(RAW, &b"for all"[..])?.cid;
//! # blocks.put(Block::new(RAW, &b"for all"[..])?).await?;
//! let for_all = AllowList::default();
//! for_all.allow(&blocks, root).await?;
//! let listed = for_all.clone();
//! let policy = move |asker: &Asker, cid: &diai_blocks::Cid| asker.agent.is_some() || listed.contains(cid);
//! let config = BlocksConfig::default().serving(policy);
//! assert!(for_all.contains(&root));
//! # drop(config);
//! # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
//! ```

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use cid::Cid;
use diai_core::{AgentId, PeerId};
use futures::StreamExt;

use crate::{
    BlockStore,
    store::Key,
    unixfs::{ReadError, WalkOptions, walk},
};

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Asker {
    /// The device, proven by the transport; `None` for whoever asks our gateway, over HTTP.
    pub peer: Option<PeerId>,
    /// Its agent; `None` for devices that showed no certificate, such as IPFS nodes.
    pub agent: Option<AgentId>,
}

/// Decides who may fetch what. Any closure of that form is one.
pub trait ServePolicy: Send + Sync + 'static {
    /// Whether `asker` may know of and have `cid`. Called for every block that anybody asks for, and again when it is sent:
    /// it must be quick and must not block. Codec and version of the CID are the asker's choice; the hash alone says what
    /// the block is.
    fn allows(&self, asker: &Asker, cid: &Cid) -> bool;
}

impl<F: Fn(&Asker, &Cid) -> bool + Send + Sync + 'static> ServePolicy for F {
    fn allows(&self, asker: &Asker, cid: &Cid) -> bool {
        self(asker, cid)
    }
}

/// The policy of a server; by default there is none, and all is served.
#[derive(Clone, Default)]
pub struct ServeRule(Option<Arc<dyn ServePolicy>>);

impl ServeRule {
    /// What `policy` says.
    pub fn new(policy: impl ServePolicy) -> Self {
        Self(Some(Arc::new(policy)))
    }

    /// The rule for one who asks; `agent` is looked up only if it matters.
    pub(crate) fn gate(&self, peer: Option<PeerId>, agent: impl FnOnce() -> Option<AgentId>) -> Gate {
        Gate(self.0.clone().map(|policy| (policy, Asker { peer, agent: agent() })))
    }
}

impl fmt::Debug for ServeRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "ServeRule(by policy)" } else { "ServeRule(everything)" })
    }
}

impl PartialEq for ServeRule {
    /// Whether both are one and the same policy, or none.
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        }
    }
}

impl Eq for ServeRule {}

/// What one who asks may have.
#[derive(Clone)]
pub(crate) struct Gate(Option<(Arc<dyn ServePolicy>, Asker)>);

impl Gate {
    pub(crate) fn allows(&self, cid: &Cid) -> bool {
        self.0.as_ref().is_none_or(|(policy, asker)| policy.allows(asker, cid))
    }

    /// Whether there is nothing to ask.
    pub(crate) fn is_open(&self) -> bool {
        self.0.is_none()
    }
}

/// The blocks of some DAGs, by hash; as a policy it allows them and nothing else. Cheap to clone, changed for all clones.
/// Memory: about 60 bytes a block.
#[derive(Clone, Default)]
pub struct AllowList(Arc<RwLock<BTreeSet<Key>>>);

impl AllowList {
    /// Adds what `store` has of the DAG under `root`; all of it, or an error that says what is not here or not readable.
    pub async fn allow(&self, store: &BlockStore, root: Cid) -> Result<(), ReadError> {
        let mut blocks = BTreeSet::new();
        let mut walked = std::pin::pin!(walk(store, root, &WalkOptions::default()));
        while let Some(visited) = walked.next().await {
            blocks.insert(Key::from(visited?.cid.hash()));
        }
        self.0.write().unwrap_or_else(PoisonError::into_inner).append(&mut blocks);
        Ok(())
    }

    /// Allows nothing any more.
    pub fn clear(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Whether the block `cid` is in one of the DAGs.
    pub fn contains(&self, cid: &Cid) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(&Key::from(cid.hash()))
    }
}

impl fmt::Debug for AllowList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AllowList")
    }
}

impl ServePolicy for AllowList {
    fn allows(&self, _: &Asker, cid: &Cid) -> bool {
        self.contains(cid)
    }
}
