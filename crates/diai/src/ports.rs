//! What one protocol needs of another, wired up.

use std::{
    pin::pin,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use diai_blocks::{
    Block, Blocks, ContentError, DAG_PB, FetchError, FetchOptions, RAW,
    fetch::FetchProgressFn,
    sealed::{self, OpenError, SealOptions, Source},
    unixfs::{self, ImportOptions, ReadError, WalkOptions},
};
use diai_core::{AgentId, BoxFuture, Bytes, Cid, Instant, PeerId, World};
use diai_discovery::{Discovery, FindOptions, Found};
use diai_identity::{Certificate, Identity};
use diai_messaging::{Device, Locate};
use diai_tasks::{Access, ArtifactError, Artifacts, Candidates, Content, Flow};
use futures::StreamExt;

/// How long to look for an agent that is called and not connected.
const LOCATE_WITHIN: Duration = Duration::from_secs(5);
/// How long to look for workers.
const CANDIDATES_WITHIN: Duration = Duration::from_secs(1);
/// How long to look for the few blocks that say whether content is sealed, and for whom.
const GRANTS_WITHIN: Duration = Duration::from_secs(60);
const MAX_CANDIDATES: usize = 32;
/// Outputs up to this are one raw block.
const SHORT_BYTES: usize = 64 << 10;
/// Blocks looked for to say that content is here, which takes 20 MiB of memory.
const MAX_HELD_BLOCKS: usize = 1 << 18;
/// Enough workers to choose from: the lookup need not go on.
const ENOUGH_CANDIDATES: usize = 8;

/// Messaging asks discovery where an agent is.
pub(crate) struct ByDiscovery(pub(crate) Discovery);

impl Locate for ByDiscovery {
    fn locate(&self, agent: AgentId) -> BoxFuture<'static, Vec<Device>> {
        let discovery = self.0.clone();
        Box::pin(async move {
            let found = discovery.find_devices(agent, FindOptions::within(LOCATE_WITHIN).enough(1));
            let device = |found: Found| Device { peer: found.peer(), addrs: found.record.record().addrs.clone() };
            found.map(device).collect().await
        })
    }
}

impl Candidates for ByDiscovery {
    fn find(&self, capability: &str) -> BoxFuture<'static, Vec<AgentId>> {
        let (discovery, path) = (self.0.clone(), capability.parse());
        Box::pin(async move {
            let Ok(path) = path else { return Vec::new() };
            let options = FindOptions::within(CANDIDATES_WITHIN).limit(MAX_CANDIDATES).enough(ENOUGH_CANDIDATES);
            let mut agents: Vec<AgentId> = Vec::new();
            let mut found = discovery.find(&path, options);
            while let Some(found) = found.next().await {
                if !agents.contains(&found.agent()) {
                    agents.push(found.agent());
                }
            }
            agents
        })
    }
}

/// Tasks keep programs, inputs and outputs in the block store. Outputs are durable but not pinned: a collection takes
/// them when nobody wants them any more.
pub(crate) struct InBlocks {
    pub(crate) blocks: Blocks,
    pub(crate) world: World,
    pub(crate) identity: Identity,
}

impl InBlocks {
    fn devices(&self, agent: AgentId) -> Vec<PeerId> {
        let peers = self.world.network.peers().into_iter();
        peers.filter(|peer| peer.agent == Some(agent)).map(|peer| peer.peer).collect()
    }

    /// The certificate that `agent` showed on a connection that is there.
    fn certificate(&self, agent: AgentId) -> Option<Certificate> {
        let peers = self.world.network.peers().into_iter();
        let shown = peers.filter(|peer| peer.agent == Some(agent)).find_map(|peer| peer.certificate);
        shown.and_then(|bytes| Certificate::from_bytes(bytes).ok())
    }
}

impl Artifacts for InBlocks {
    fn get(
        &self,
        cid: Cid,
        max_bytes: u64,
        access: Access,
        holder: Option<AgentId>,
        flow: Flow,
    ) -> BoxFuture<'static, Result<Content, ArtifactError>> {
        let (blocks, deadline) = (self.blocks.clone(), self.world.clock.now() + GRANTS_WITHIN);
        let holders = holder.map(|agent| self.devices(agent)).unwrap_or_default();
        Box::pin(async move {
            let failed = |error| match error {
                ContentError::Read(ReadError::OverLimit { .. })
                | ContentError::Open(OpenError::TooLarge { .. })
                | ContentError::Fetch(FetchError::OverLimit { .. }) => ArtifactError::TooLarge { cid, max_bytes },
                ContentError::Fetch(error @ FetchError::NotFound { .. }) => {
                    ArtifactError::NotFound { cid, asked: error.to_string() }
                }
                other => ArtifactError::Store { reason: other.to_string() },
            };
            // Its end is the task's affair.
            let seen = AtomicU64::new(0);
            let progress = FetchProgressFn::new(move |progress| {
                let before = seen.swap(progress.bytes, Ordering::Relaxed);
                flow.add(progress.bytes.saturating_sub(before));
            });
            let options = FetchOptions { holders, ..FetchOptions::default() };
            // What comes is cached only, and read afterwards.
            let _guard = blocks.store().guard_root(cid);
            let sealed = is_sealed(&blocks, cid, &options).await.map_err(failed)?;
            // With room for the nodes above the leaves, and for what encryption adds.
            let with_nodes = max_bytes.saturating_add(max_bytes / 4).saturating_add(1 << 20);
            let options = FetchOptions { max_bytes: with_nodes, progress: Some(progress), ..options };
            if !sealed {
                blocks.fetch(cid, &options).await.map_err(|error| failed(error.into()))?;
                let bytes = blocks.get_bytes(cid, max_bytes, deadline).await.map_err(failed)?;
                return Ok(Content { bytes: bytes.into(), sealed });
            }
            if let Access::Task { context, proof } = access {
                let expected = blocks.access_proof(cid, &context, deadline).await.map_err(failed)?;
                // What this agent cannot open itself fails below, and says so.
                if expected.is_some() && proof != expected {
                    return Err(ArtifactError::NotAllowed { cid });
                }
            }
            blocks.fetch(cid, &options).await.map_err(|error| failed(error.into()))?;
            let bytes = open(&blocks, cid, max_bytes, deadline).await.map_err(failed)?;
            Ok(Content { bytes, sealed })
        })
    }

    fn prove(&self, cid: Cid, context: [u8; 32]) -> BoxFuture<'static, Option<[u8; 32]>> {
        let (blocks, deadline) = (self.blocks.clone(), self.world.clock.now() + GRANTS_WITHIN);
        Box::pin(async move {
            // What comes is cached only, and read afterwards.
            let _guard = blocks.store().guard_root(cid);
            let sealed = is_sealed(&blocks, cid, &FetchOptions::until(deadline)).await.ok()?;
            if sealed { blocks.access_proof(cid, &context, deadline).await.ok()? } else { None }
        })
    }

    fn put(&self, bytes: Bytes, reader: Option<AgentId>) -> BoxFuture<'static, Result<Cid, ArtifactError>> {
        let (blocks, world, identity) = (self.blocks.clone(), self.world.clone(), self.identity.clone());
        let me = reader == Some(identity.agent());
        let certificate = reader.filter(|_| !me).map(|agent| (agent, self.certificate(agent)));
        Box::pin(async move {
            if reader.is_some() {
                let recipients = match certificate {
                    Some((_, Some(certificate))) => vec![certificate],
                    Some((agent, None)) => {
                        let reason = format!("{agent} has left, and with it the key to encrypt its outputs for");
                        return Err(ArtifactError::Store { reason });
                    }
                    None => Vec::new(),
                };
                let source = Source::Files(vec![(String::new(), bytes)]);
                let options = SealOptions::readers(recipients);
                let sealed = sealed::seal(&world, blocks.store(), &identity, source, &options).await;
                return sealed
                    .map(|sealed| sealed.root)
                    .map_err(|error| ArtifactError::Store { reason: error.to_string() });
            }
            let failed = |error: &dyn std::error::Error| ArtifactError::Store { reason: error.to_string() };
            if bytes.len() <= SHORT_BYTES {
                // As an import would, but hashed here: to change the thread takes longer.
                let block = Block::new(RAW, bytes).map_err(|error| failed(&error))?;
                let cid = block.cid;
                blocks.store().put(block).await.map_err(|error| failed(&error))?;
                return Ok(cid);
            }
            let imported = unixfs::import_reader(blocks.store(), &bytes[..], &ImportOptions::default()).await;
            Ok(imported.map_err(|error| failed(&error))?.root())
        })
    }

    fn flush(&self) -> BoxFuture<'static, Result<(), ArtifactError>> {
        let blocks = self.blocks.clone();
        Box::pin(
            async move { blocks.flush().await.map_err(|error| ArtifactError::Store { reason: error.to_string() }) },
        )
    }

    fn held(&self, cid: Cid) -> BoxFuture<'static, Option<u64>> {
        let blocks = self.blocks.clone();
        Box::pin(async move {
            if !is_whole(&blocks, cid).await {
                return None;
            }
            let content = if blocks.is_sealed(cid).await.ok()? {
                unixfs::resolve(blocks.store(), cid, "content").await.ok()?
            } else {
                cid
            };
            unixfs::stat(blocks.store(), content).await.ok().map(|stat| stat.bytes)
        })
    }
}

/// Whether all of the DAG under `cid` is here: what is only cached may lack any of its blocks. One of more than
/// [`MAX_HELD_BLOCKS`] counts as one that is not.
async fn is_whole(blocks: &Blocks, cid: Cid) -> bool {
    if !blocks.has(&cid) {
        return false;
    }
    let options = WalkOptions { max_blocks: MAX_HELD_BLOCKS, ..WalkOptions::default() };
    let mut walk = pin!(unixfs::walk(blocks.store(), cid, &options));
    while let Some(visited) = walk.next().await {
        if !visited.is_ok_and(|visited| blocks.has(&visited.cid)) {
            return false;
        }
    }
    true
}

/// Whether `cid` is sealed; only its root is fetched, and only if it can be a folder.
async fn is_sealed(blocks: &Blocks, cid: Cid, options: &FetchOptions) -> Result<bool, ContentError> {
    if cid.codec() != DAG_PB {
        return Ok(false);
    }
    blocks.fetcher().block(cid, options).await?;
    blocks.is_sealed(cid).await
}

/// The one file of the sealed `cid`, which this agent was granted: so a worker can be sent to data that few may read.
async fn open(blocks: &Blocks, cid: Cid, max_bytes: u64, deadline: Instant) -> Result<Bytes, ContentError> {
    let mut files = blocks.open_sealed(cid, max_bytes, deadline).await?;
    match files.pop() {
        Some((_, file)) if files.is_empty() => Ok(file),
        _ => Err(ReadError::NotAFile { cid }.into()),
    }
}
