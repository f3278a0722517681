//! [`Blocks`]: everything of this crate behind one handle.

mod car;
mod extent;
#[cfg(feature = "gateway")]
mod gateway;
mod heal;
mod keep;
mod provide;
mod read;
mod sealing;

use std::{fmt, sync::Arc};

use bytes::Bytes;
use cid::Cid;
use diai_core::{AcceptError, Calls, Disk, Instant, RegisterError, World, offload};
use diai_identity::{Certificate, Identity};

use self::{extent::Extent, heal::Healer, keep::announced, provide::Announcer};
use crate::{
    Block, BlockStore, FlushError, OpenCacheError, OpenStoreError, PinError, Pins, PutError, SegmentStore, Store,
    StoreStats,
    bitswap::{Bitswap, BitswapStatus},
    cache::{Cached, Sweeper},
    config::BlocksConfig,
    dag::{DagServer, DagStatus},
    fetch::{FetchError, FetchOptions, FetchProgress, Fetcher},
    ipfs_dht::{IpfsDht, IpfsDhtStatus},
    sealed::{self, Group, Keying, OpenError, SealError, Source},
    unixfs::{self, ExportError, ExportOptions, ImportError, ImportOptions, ReadError},
    workspace::{JoinError, Parts, StartWorkspacesError, Workspace, WorkspaceError, WorkspaceId, Workspaces},
};

pub use car::{AddCarError, CarAdded, ExportCarError};
pub use keep::{PinContentError, PinOptions};
pub use provide::ProvideEvent;
pub use sealing::MAX_GROUPS;

/// Why blocks could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The store on disk.
    #[error(transparent)]
    Store(#[from] OpenStoreError),
    /// The pins on disk.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// The list of cached blocks on disk.
    #[error(transparent)]
    Cache(#[from] OpenCacheError),
    /// Bitswap or whole DAGs are served by somebody else.
    #[error(transparent)]
    Accept(#[from] AcceptError),
    /// The service of workspaces is registered by somebody else.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// The workspaces on disk.
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    /// The gateways.
    #[cfg(feature = "gateway")]
    #[error(transparent)]
    Gateway(#[from] crate::gateway::ConfigError),
    /// The World is shutting down.
    #[error("the World is shutting down")]
    Closed,
}

impl From<StartWorkspacesError> for StartError {
    fn from(error: StartWorkspacesError) -> Self {
        match error {
            StartWorkspacesError::Workspace(error) => error.into(),
            StartWorkspacesError::Register(error) => error.into(),
        }
    }
}

/// Why nothing was added.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddError {
    /// It could not be imported.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// It could not be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The version before could not be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// It could not be pinned.
    #[error(transparent)]
    Pin(#[from] PinError),
}

/// Why content did not come.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContentError {
    /// A block could not be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It could not be written.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// It is sealed and could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// How to add.
#[derive(Debug, Clone, Default)]
pub struct AddOptions {
    /// How files and folders become blocks.
    pub import: ImportOptions,
    /// Seal for these agents, and for this one; empty for content that anybody may read.
    pub sealed_for: Vec<Certificate>,
    /// Seal for the members of these groups, and for this agent: of each in the newest epoch that is known here.
    pub sealed_for_groups: Vec<Group>,
    /// Seal for this agent alone, if nobody else is named.
    pub private: bool,
    /// Where the key of what is sealed comes from. Default random.
    pub keying: Keying,
    /// Sealed content of which this is a newer version, for the readers named here and no others: what has not changed is
    /// not sealed again, and who could read it still can ([`sealed::reseal`]). It is fetched if it is not here, and
    /// stays pinned.
    pub replaces: Option<Cid>,
    /// Do not announce the root as provided by this device, unless [everything](crate::config::ProvideStrategy::All) is.
    pub silent: bool,
}

impl AddOptions {
    /// Seals for `recipients` and for this agent.
    pub fn sealed_for(recipients: Vec<Certificate>) -> Self {
        Self { sealed_for: recipients, private: true, ..Self::default() }
    }

    fn seals(&self) -> bool {
        self.private || !self.sealed_for.is_empty() || !self.sealed_for_groups.is_empty() || self.replaces.is_some()
    }
}

/// What was added: pinned under its CID, and durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Added {
    /// The root.
    pub cid: Cid,
    /// Bytes of content.
    pub bytes: u64,
}

/// Figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct BlocksStatus {
    /// The store.
    pub store: StoreStats,
    /// The exchange.
    pub bitswap: BitswapStatus,
    /// Whole DAGs that others ask for.
    pub dag: DagStatus,
    /// Pins.
    pub pins: usize,
    /// Workspaces.
    pub workspaces: usize,
    /// The DHT of IPFS, if it is used.
    pub ipfs_dht: Option<IpfsDhtStatus>,
}

/// Blocks, content, sealed content and workspaces of an agent. Cheap to clone; all tasks end with the last clone.
#[derive(Clone)]
pub struct Blocks(Arc<Inner>);

struct Inner {
    world: World,
    identity: Identity,
    fetcher: Fetcher,
    dags: DagServer,
    pins: Pins,
    announcer: Announcer,
    healer: Healer,
    workspaces: Workspaces,
    sweeper: Sweeper,
    #[cfg(feature = "gateway")]
    gateway: Option<crate::gateway::GatewayServer>,
    groups: parking_lot::RwLock<Vec<Group>>,
}

impl fmt::Debug for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocks").field("store", &self.0.fetcher.store).finish_non_exhaustive()
    }
}

impl Blocks {
    /// Opens the store in `blocks/` of the World's disk and the pins and workspaces beside it, serves blocks to
    /// everybody, and announces pinned roots again.
    pub async fn start(
        world: &World,
        identity: Identity,
        calls: Arc<dyn Calls>,
        config: BlocksConfig,
    ) -> Result<Self, StartError> {
        let (disk, pool, settings) = (world.disk.clone(), world.offload.clone(), config.store.clone());
        let (cache, entropy) = (config.cache.clone(), world.entropy.clone());
        let open = move || {
            let store = SegmentStore::open(disk.clone(), "blocks", settings)?;
            let cached = Cached::new(&cache, store.stats().quota_bytes, entropy);
            let cached = cached.open(&*disk, "blocks/cached.redb", &store)?;
            let store = BlockStore::new(Arc::new(store), pool).with_cached(cached);
            let pins = Pins::open(store.clone(), &*disk, "blocks/pins.redb")?;
            Ok::<_, StartError>((store, pins))
        };
        let (store, pins) = offload(&*world.offload, open).await.map_err(|_| StartError::Closed)??;
        #[cfg(feature = "gateway")]
        let rule = config.server.rule.clone();
        let bitswap = Bitswap::start(world, store.clone(), config.client, config.server)?;
        let dags = DagServer::start(world, store.clone(), config.dag)?;
        let ipfs_dht = config.ipfs_dht.as_ref().map(|config| IpfsDht::start(world, config));
        let sweeper = Sweeper::start(store.clone());
        let fetcher = Fetcher::new(world.clone(), store.clone(), bitswap, config.fetch)
            .with_ipfs_dht(ipfs_dht.clone())
            .with_cache(config.cache);
        #[cfg(feature = "gateway")]
        let (fetcher, gateway) = gateway::start(world, fetcher, config.gateway, rule).await?;
        let parts = Parts {
            world: world.clone(),
            identity: identity.clone(),
            calls,
            fetcher: fetcher.for_sealed(),
            pins: pins.clone(),
            config: config.workspace,
        };
        let workspaces = Workspaces::start(parts).await?;
        let roots = pins.pins().await?.into_iter().filter_map(|pin| announced(&pin)).collect();
        let (strategy, announced) = (config.provide, pins.clone());
        let extent = ipfs_dht.clone().map(|dht| Extent { world: world.clone(), dht, store, pins: announced, strategy });
        let announcer = Announcer::start(world.clone(), extent, roots);
        let healer = Healer::start(fetcher.for_sealed());
        Ok(Self(Arc::new(Inner {
            world: world.clone(),
            identity,
            fetcher,
            dags,
            pins,
            announcer,
            healer,
            workspaces,
            sweeper,
            groups: parking_lot::RwLock::default(),
            #[cfg(feature = "gateway")]
            gateway,
        })))
    }

    /// The store behind it.
    pub fn store(&self) -> &BlockStore {
        &self.0.fetcher.store
    }

    /// Fetches by other means than those here: with holders, progress, single blocks.
    pub fn fetcher(&self) -> &Fetcher {
        &self.0.fetcher
    }

    /// Adds the file or folder at `path` of `disk`: imported (or sealed), pinned, durable, and being announced in the
    /// background when it returns.
    ///
    /// Cancel-safety: dropping the future stops it; blocks put until then are garbage.
    pub async fn add_path(&self, disk: Arc<dyn Disk>, path: &str, options: AddOptions) -> Result<Added, AddError> {
        if options.seals() {
            return self.add_sealed(Source::Path { disk, path: path.to_owned() }, options).await;
        }
        let imported = unixfs::import_path(self.store(), disk, path, &options.import).await?;
        self.keep(imported.root(), imported.content_bytes(), &options).await
    }

    /// Adds bytes as one file. As [`add_path`](Self::add_path).
    pub async fn add_bytes(&self, bytes: impl Into<Bytes>, options: AddOptions) -> Result<Added, AddError> {
        let bytes = bytes.into();
        if options.seals() {
            return self.add_sealed(Source::Files(vec![(String::new(), bytes)]), options).await;
        }
        let imported = unixfs::import_reader(self.store(), &bytes[..], &options.import).await?;
        self.keep(imported.root(), imported.content_bytes(), &options).await
    }

    /// Adds files in memory as one flat folder. As [`add_path`](Self::add_path).
    pub async fn add_files(&self, files: Vec<(String, Bytes)>, options: AddOptions) -> Result<Added, AddError> {
        if options.seals() {
            return self.add_sealed(Source::Files(files), options).await;
        }
        let (mut links, mut imports, mut total) = (Vec::new(), Vec::new(), 0);
        for (name, bytes) in files {
            let imported = unixfs::import_reader(self.store(), &bytes[..], &options.import).await?;
            links.push(crate::dag_pb::Link { cid: imported.root(), name, tsize: imported.tsize() });
            total += imported.content_bytes();
            imports.push(imported);
        }
        let guard = self.store().guard();
        let folder = unixfs::build_folder(links, &options.import.profile)?;
        self.store().put_many(folder.blocks).await.map_err(ImportError::from)?;
        let added = self.keep(folder.root, total, &options).await;
        drop(guard);
        added
    }

    async fn keep(&self, cid: Cid, bytes: u64, options: &AddOptions) -> Result<Added, AddError> {
        self.0.pins.pin(&keep::added_name(&cid, options.silent), cid).await?;
        if !options.silent {
            self.0.announcer.announce(cid);
        }
        Ok(Added { cid, bytes })
    }

    /// The file `cid`, at most `max_bytes`, from here or from others. Cancel-safe.
    pub async fn get_bytes(&self, cid: Cid, max_bytes: u64, deadline: Instant) -> Result<Vec<u8>, ContentError> {
        let options = FetchOptions { max_bytes: with_nodes(max_bytes), ..FetchOptions::until(deadline) };
        let _guard = self.store().guard_root(cid);
        self.fetch(cid, &options).await?;
        Ok(unixfs::read_all(self.store(), cid, max_bytes).await?)
    }

    /// Fetches the file or folder `cid` and writes it to `path` of `disk`, never outside it; nothing that exists is
    /// replaced. Returns the bytes of content.
    ///
    /// Cancel-safety: dropping the future stops it; what was written until then stays.
    pub async fn export(
        &self,
        cid: Cid,
        disk: Arc<dyn Disk>,
        path: &str,
        deadline: Instant,
    ) -> Result<u64, ContentError> {
        let _guard = self.store().guard_root(cid);
        self.fetch(cid, &FetchOptions::until(deadline)).await?;
        let options = ExportOptions::default();
        let exported = unixfs::export(self.store(), cid, disk, path, self.store().offload(), &options).await?;
        Ok(exported.bytes)
    }

    /// Fetches all of the DAG under `cid` that is not here. Durable when it returns, but [cached](crate::cache) only, and
    /// collected one day, unless it is pinned: who reads it afterwards holds a [guard](BlockStore::guard_root) from before.
    /// Cancel-safety as [`Fetcher::dag`].
    pub async fn fetch(&self, cid: Cid, options: &FetchOptions) -> Result<FetchProgress, FetchError> {
        self.0.fetcher.dag(cid, options).await
    }

    /// Fetches sealed content and returns its files, at most `max_bytes` in all. Cancel-safe.
    pub async fn open_sealed(
        &self,
        cid: Cid,
        max_bytes: u64,
        deadline: Instant,
    ) -> Result<Vec<(String, Bytes)>, ContentError> {
        let options = FetchOptions { max_bytes: with_nodes(max_bytes), ..FetchOptions::until(deadline) };
        let _guard = self.store().guard_root(cid);
        self.0.fetcher.for_sealed().dag(cid, &options).await?;
        Ok(sealed::open(self.store(), self.keys(), cid).await?.read_all(max_bytes).await?)
    }

    /// Proof, bound to `context`, that this agent can open the sealed content `cid`, for another agent that can open it
    /// too: see [`sealed::access_proof`]. `None` if it was not granted to this agent. Fetches the grants if they are not
    /// here, and nothing else. Cancel-safe.
    pub async fn access_proof(
        &self,
        cid: Cid,
        context: &[u8; 32],
        deadline: Instant,
    ) -> Result<Option<[u8; 32]>, ContentError> {
        let _guard = self.store().guard_root(cid);
        let source = self.0.fetcher.for_sealed().source(FetchOptions::until(deadline));
        match sealed::access_proof(&source, self.keys(), cid, context).await {
            Ok(proof) => Ok(Some(proof)),
            Err(OpenError::NotForYou { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the content under `cid`, whose root must be here, has the form of sealed content. Cancel-safe.
    pub async fn is_sealed(&self, cid: Cid) -> Result<bool, ContentError> {
        Ok(sealed::is_sealed(self.store(), cid).await?)
    }

    /// Fetches sealed content and writes it below `path` of `disk`, in constant memory. Returns the bytes written.
    ///
    /// Cancel-safety: dropping the future stops it; what was written until then stays.
    pub async fn export_sealed(
        &self,
        cid: Cid,
        disk: Arc<dyn Disk>,
        path: &str,
        deadline: Instant,
    ) -> Result<u64, ContentError> {
        let _guard = self.store().guard_root(cid);
        self.0.fetcher.for_sealed().dag(cid, &FetchOptions::until(deadline)).await?;
        let reader = sealed::open(self.store(), self.keys(), cid).await?;
        Ok(reader.export(disk, path, &self.0.world.offload).await?)
    }

    /// Whether the block `cid` is here. Answered from memory.
    pub fn has(&self, cid: &Cid) -> bool {
        self.store().has(cid)
    }

    /// Stores one block, and sends it to peers that wait for it. Not durable before a pin or [`flush`](Self::flush).
    pub async fn put_block(&self, block: Block) -> Result<(), PutError> {
        self.store().put(block).await
    }

    /// The block `cid`, from here or from others. Cancel-safe.
    pub async fn get_block(&self, cid: Cid, deadline: Instant) -> Result<Bytes, FetchError> {
        self.0.fetcher.block(cid, &FetchOptions::until(deadline)).await
    }

    /// Announces this device as a provider of `cid`, in the background, until [`withdraw`](Self::withdraw); not again
    /// after a restart, unless it is pinned.
    pub fn provide(&self, cid: Cid) {
        self.0.announcer.announce(cid);
    }

    /// Stops announcing `cid`.
    pub fn withdraw(&self, cid: Cid) {
        self.0.announcer.withdraw(cid);
    }

    /// What becomes of announcements, from now on.
    pub fn provide_events(&self) -> impl futures::Stream<Item = ProvideEvent> + Send + Unpin + 'static {
        self.0.announcer.events()
    }

    /// Makes everything put before durable.
    pub async fn flush(&self) -> Result<(), FlushError> {
        self.store().flush().await
    }

    /// Creates a workspace of this agent and `members`. Durable when it returns.
    pub async fn create_workspace(&self, name: &str, members: Vec<Certificate>) -> Result<Workspace, WorkspaceError> {
        self.0.workspaces.create(name, members).await
    }

    /// Joins the workspace that an [invitation](Workspace::invitation) is for. Durable when it returns.
    pub async fn join_workspace(&self, invitation: impl Into<Bytes>) -> Result<Workspace, JoinError> {
        self.0.workspaces.join(invitation.into()).await
    }

    /// The workspaces that this agent is in.
    pub fn workspaces(&self) -> Vec<Workspace> {
        self.0.workspaces.list()
    }

    /// One of them.
    pub fn workspace(&self, id: WorkspaceId) -> Option<Workspace> {
        self.0.workspaces.get(id)
    }

    /// Figures.
    pub async fn status(&self) -> Result<BlocksStatus, PinError> {
        Ok(BlocksStatus {
            store: self.store().stats(),
            bitswap: self.0.fetcher.bitswap.status().await,
            dag: self.0.dags.status(),
            pins: self.0.pins.pins().await?.len(),
            workspaces: self.0.workspaces.list().len(),
            ipfs_dht: self.0.fetcher.ipfs_dht.as_ref().map(IpfsDht::status),
        })
    }

    /// Stops serving, asking and synchronising, and makes everything durable. Whatever else is called afterwards
    /// works on what is here.
    pub async fn shutdown(&self) -> Result<(), FlushError> {
        #[cfg(feature = "gateway")]
        if let Some(gateway) = &self.0.gateway {
            gateway.stop().await;
        }
        self.0.workspaces.stop().await;
        self.0.announcer.stop().await;
        self.0.healer.stop().await;
        self.0.dags.stop().await;
        self.0.fetcher.bitswap.stop().await;
        self.0.sweeper.stop(self.store()).await;
        self.flush().await
    }
}

/// Room for the nodes above the content.
fn with_nodes(max_bytes: u64) -> u64 {
    max_bytes.saturating_add(max_bytes / 8).saturating_add(4 << 20)
}
