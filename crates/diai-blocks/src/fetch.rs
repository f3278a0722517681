//! Getting blocks and whole DAGs: from the store, from connected peers, from providers that the DHT knows, and at last from
//! whoever else may have them ([`LastResort`]: HTTP gateways, if any are configured). Whole DAGs come in one request where a
//! peer speaks [`dag`](crate::dag), and whatever is left by [`bitswap`](crate::bitswap).

mod account;
mod dag;
mod lookups;
mod recall;
mod rescue;
mod source;
mod whole;

use std::{fmt, sync::Arc};

use bytes::Bytes;
use cid::Cid;
use diai_core::{Instant, PeerId, RecordKey, World};
use parking_lot::Mutex;

pub use account::{FetchAccount, SentBy, Via};
pub use rescue::{BringError, Brought, LastResort};
pub use source::NetworkSource;

use self::dag::{Scope, Walk};
use crate::{
    BlockStore, FlushError, GetError, PinProgress, PutError,
    bitswap::Bitswap,
    cache::Lookups,
    config::{CacheConfig, FetchConfig},
    ipfs_dht::IpfsDht,
    unixfs::ReadError,
};

/// The key under which providers of `cid` are announced and looked up: the same for every CID with this hash. `None`
/// for digests over 200 bytes, which nobody uses.
pub fn provider_key(cid: &Cid) -> Option<RecordKey> {
    RecordKey::new("diai-block", &cid.hash().to_bytes())
}

/// Who was asked in vain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Asked {
    /// Peers that were asked for the block.
    pub peers: Vec<PeerId>,
    /// Those that the DHT named as providers; not all of them could be reached, perhaps.
    pub providers: Vec<PeerId>,
    /// What became of it when the last resort was asked, if it was, and failed.
    pub last_resort: Option<String>,
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |peers: &[PeerId]| peers.iter().map(PeerId::to_string).collect::<Vec<_>>().join(", ");
        match self.peers.len() {
            0 => f.write_str("the local store, no peer")?,
            _ => write!(f, "the local store, {} peers ({})", self.peers.len(), list(&self.peers))?,
        }
        match self.providers.len() {
            0 => f.write_str("; the DHT names no provider")?,
            _ => write!(f, "; the DHT names {} providers ({})", self.providers.len(), list(&self.providers))?,
        }
        self.last_resort.as_ref().map_or(Ok(()), |failed| write!(f, "; {failed}"))
    }
}

/// Why a DAG was not fetched, or not wholly. What came until then is stored, and need not come again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// A block did not come in time.
    #[error("block {cid} was not found in time; asked: {asked}")]
    NotFound {
        /// Which block.
        cid: Cid,
        /// Who was asked.
        asked: Asked,
    },
    /// The DAG is larger than the caller, or the configuration, allows.
    #[error("{root} has more than {limit} {what}; raise the limit if you trust its maker")]
    OverLimit {
        /// What was fetched.
        root: Cid,
        /// Of what.
        what: &'static str,
        /// The cap.
        limit: u64,
    },
    /// A node is malformed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A block could not be stored.
    #[error(transparent)]
    Put(#[from] PutError),
    /// A stored block could not be read.
    #[error(transparent)]
    Get(#[from] GetError),
    /// What came could not be made durable.
    #[error(transparent)]
    Flush(#[from] FlushError),
    /// The exchange has shut down.
    #[error("the exchange of blocks has shut down")]
    Closed,
}

/// How to fetch.
#[derive(Clone, Default)]
pub struct FetchOptions {
    /// When to give up. Without one a fetch gives up when no block has come for [`FetchConfig::patience`].
    pub deadline: Option<Instant>,
    /// A DAG of more bytes is refused; zero stands for [`FetchConfig::max_bytes`]. Default 0.
    pub max_bytes: u64,
    /// Peers that are likely to have it; asked first, and dialled if need be.
    pub holders: Vec<PeerId>,
    /// What comes is to be pinned: it is no cached content, and what is here of it ceases to be. Default no.
    pub kept: bool,
    /// Told whenever blocks have come, on the fetching task.
    pub progress: Option<FetchProgressFn>,
    /// Who sent what, to be looked at during the fetch and after it, whatever became of it. A clone is the same account.
    pub account: FetchAccount,
}

impl fmt::Debug for FetchOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetchOptions")
            .field("deadline", &self.deadline)
            .field("max_bytes", &self.max_bytes)
            .field("holders", &self.holders)
            .field("kept", &self.kept)
            .finish_non_exhaustive()
    }
}

impl FetchOptions {
    /// Gives up at `deadline`.
    pub fn until(deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..Self::default() }
    }
}

/// Somebody who wants to know how far a fetch is.
#[derive(Clone)]
pub struct FetchProgressFn(Arc<dyn Fn(FetchProgress) + Send + Sync>);

impl FetchProgressFn {
    /// Calls `told`, which must not block.
    pub fn new(told: impl Fn(FetchProgress) + Send + Sync + 'static) -> Self {
        Self(Arc::new(told))
    }
}

impl fmt::Debug for FetchProgressFn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FetchProgressFn")
    }
}

/// How far a fetch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct FetchProgress {
    /// Blocks that came from peers.
    pub blocks: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Blocks that were here already.
    pub local_blocks: u64,
    /// Blocks known to be missing still; more may come to light.
    pub open_blocks: u64,
}

impl From<FetchProgress> for PinProgress {
    fn from(FetchProgress { blocks, bytes, open_blocks, .. }: FetchProgress) -> Self {
        Self { fetched_blocks: blocks, fetched_bytes: bytes, open_blocks, ..Self::default() }
    }
}

/// Fetches blocks and DAGs into a store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Fetcher {
    pub(crate) world: World,
    pub(crate) store: BlockStore,
    pub(crate) bitswap: Bitswap,
    pub(crate) config: FetchConfig,
    pub(crate) ipfs_dht: Option<IpfsDht>,
    pub(crate) lookups: Arc<Mutex<Lookups>>,
    pub(crate) last_resort: Option<Arc<dyn LastResort>>,
}

impl Fetcher {
    /// Fetches into `store`, by `bitswap`, with providers from the DHT of `world`.
    pub fn new(world: World, store: BlockStore, bitswap: Bitswap, config: FetchConfig) -> Self {
        let lookups = Arc::new(Mutex::new(Lookups::new(CacheConfig::default())));
        Self { world, store, bitswap, config, ipfs_dht: None, lookups, last_resort: None }
    }

    /// Remembers what the DHT says as `config` has it.
    #[must_use]
    pub fn with_cache(self, config: CacheConfig) -> Self {
        Self { lookups: Arc::new(Mutex::new(Lookups::new(config))), ..self }
    }

    /// Asks the DHT of IPFS too.
    #[must_use]
    pub fn with_ipfs_dht(self, dht: Option<IpfsDht>) -> Self {
        Self { ipfs_dht: dht, ..self }
    }

    /// Asks `resort` for what no peer has.
    #[must_use]
    pub fn with_last_resort(self, resort: Option<Arc<dyn LastResort>>) -> Self {
        Self { last_resort: resort, ..self }
    }

    /// The same for content that is known to be sealed, which the last resort may not be asked for.
    pub(crate) fn for_sealed(&self) -> Self {
        let resort = self.last_resort.clone().filter(|resort| resort.sealed());
        Self { last_resort: resort, ..self.clone() }
    }

    /// The block `cid`, from here or from whoever has it; it is stored, not flushed.
    ///
    /// Cancel-safety: dropping the future ends the want.
    pub async fn block(&self, cid: Cid, options: &FetchOptions) -> Result<Bytes, FetchError> {
        // Also for what comes: the walk's own is gone when it is read.
        let _guard = self.store.guard();
        if self.store.touch(&cid)
            && let Some(data) = self.store.get_whole(&cid).await?
        {
            self.store.found(&cid, options.kept);
            return Ok(data);
        }
        Walk::new(self, cid, Scope::Block, options).run().await?;
        self.store.get(&cid).await?.ok_or(FetchError::NotFound { cid, asked: Asked::default() })
    }

    /// All blocks of the DAG under `root` that are not here yet. All are stored and durable when it returns. Links are
    /// followed out of dag-pb, dag-cbor and dag-json; blocks of other codecs are leaves.
    ///
    /// Unless [`FetchConfig::whole_dags`] says no, holders, connected devices of agents and providers are first asked for the
    /// whole, in one request ([`dag`](crate::dag)), or each for its share of it; what does not come that way, or not in half of
    /// the time, is asked for block by block.
    ///
    /// Unless [`FetchOptions::kept`] says otherwise, what comes is [cached](crate::cache) until it is pinned.
    ///
    /// Memory: about [`FetchConfig::max_open_bytes`], whatever the size of the DAG.
    ///
    /// Cancel-safety: dropping the future ends all its wants; what was stored stays, and another fetch goes on from
    /// there.
    pub async fn dag(&self, root: Cid, options: &FetchOptions) -> Result<FetchProgress, FetchError> {
        Walk::new(self, root, Scope::Dag, options).run().await
    }

    /// A source of blocks for [`unixfs`](crate::unixfs) that fetches and stores what is not here.
    pub fn source(&self, options: FetchOptions) -> NetworkSource {
        NetworkSource::new(self.clone(), options)
    }
}
