//! One request, from its writing to the last block in the store.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use cid::Cid;
use diai_core::{BoxFuture, Instant, Misbehaviour, Offload, PeerId, World, offload, timeout_at};
use futures::{AsyncWriteExt, FutureExt, StreamExt, stream};
use tokio::sync::oneshot;

use super::{
    EndReason, Frame, PROTOCOL, Request, Scope,
    expected::{Expected, Unexpected},
    incoming::{Fault, Frames},
};
use crate::{
    Block, BlockStore, FetchError,
    block::verify,
    config::FetchConfig,
    ipld,
    store::Key,
    unixfs::{self, ReadError},
};

/// Batches that are checked at a time.
const CHECKS: usize = 3;
/// A peer that cannot be reached in this time is not waited for.
const OPEN: Duration = Duration::from_secs(2);
/// Blocks are stored together when there are so many.
const GROUP_BLOCKS: usize = 1024;
/// Groups in memory at most, while another is being stored.
const GROUPS_AHEAD: usize = 4;
/// Stored bytes after which a flush goes along, so that little is left for the end.
const FLUSH_EVERY_BYTES: u64 = 32 << 20;
/// When so many bytes are about to come that are here already, it pays to ask anew.
const WORTH_ASKING_BYTES: u64 = 256 << 10;

/// What came, from all senders together.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) blocks: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) unflushed: AtomicU64,
    pub(crate) max_bytes: u64,
}

/// What a receiver works with.
pub(crate) struct Receiving<'a> {
    pub(crate) world: &'a World,
    pub(crate) store: &'a BlockStore,
    pub(crate) config: &'a FetchConfig,
    pub(crate) tally: &'a Tally,
    /// What comes is for a pin, and not to be cached.
    pub(crate) kept: bool,
    pub(crate) deadline: Instant,
    /// End with [`Ended::Again`] when much is announced that is here already.
    pub(crate) asks_again: bool,
    /// Told of blocks that wait, whenever some have come.
    pub(crate) tell: &'a (dyn Fn(u64) + Send + Sync),
}

/// How an answer ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// All came, but for so many blocks that the sender has not got.
    Complete { missing: u64 },
    /// It is worth asking again, with what is here now.
    Again,
    /// The sender has too much to do, or its store failed, or it was told to stop.
    Stopped,
    /// The sender is not to be asked again.
    Left,
}

enum Item {
    Block { block: Block, links: Option<Result<Vec<Cid>, ReadError>> },
    Other(Frame),
    Wrong(Misbehaviour),
}

/// Why a request ended before its end.
enum Cut {
    Peer(Fault),
    Ours(FetchError),
}

impl From<Fault> for Cut {
    fn from(fault: Fault) -> Self {
        Self::Peer(fault)
    }
}

impl From<FetchError> for Cut {
    fn from(error: FetchError) -> Self {
        Self::Ours(error)
    }
}

async fn open(tools: &Receiving<'_>, peer: PeerId, request: &Request) -> Result<Frames, Fault> {
    let clock = tools.world.clock.clone();
    let deadline = tools.deadline.min(clock.now() + OPEN);
    let open = async {
        let mut stream = tools.world.network.open(peer, &[PROTOCOL]).await?.stream;
        stream.write_all(&request.encode()).await?;
        stream.flush().await?;
        Ok::<_, Fault>(stream)
    };
    let stream = timeout_at(&*clock, deadline, open).await.map_err(|_| Fault::Stalled)??;
    Ok(Frames::new(clock, stream, tools.config.stall, tools.deadline))
}

/// Whether `peer` has the block `root`, and serves it by this protocol.
pub(crate) async fn probe(tools: &Receiving<'_>, peer: PeerId, root: Cid) -> bool {
    let request = Request { root, scope: Scope::Block, skips: Vec::new(), max_bytes: 0 };
    let clock = &*tools.world.clock;
    let ask = async {
        let mut frames = open(tools, peer, &request).await?;
        frames.batch().await
    };
    let first = timeout_at(clock, tools.deadline.min(clock.now() + OPEN), ask).await;
    matches!(first, Ok(Ok(frames)) if matches!(&frames[..], [Frame::End(end), ..] if end.reason == EndReason::Limit))
}

/// Asks `peer`, and stores what comes. It is penalised for what it does wrong. `stop` ends it, with what has come.
pub(crate) async fn receive(
    tools: &Receiving<'_>,
    peer: PeerId,
    request: &Request,
    stop: oneshot::Receiver<()>,
) -> Result<(Ended, u64), FetchError> {
    let expected = Expected::new(request, tools.config.max_nodes);
    let mut receiver = Receiver {
        tools,
        request,
        expected,
        group: Vec::new(),
        group_bytes: 0,
        keys: BTreeSet::new(),
        keys_before: BTreeSet::new(),
        storing: None,
        blocks: 0,
        bytes: 0,
        missing: 0,
        skipped: 0,
    };
    let ended = match open(tools, peer, request).await {
        Ok(frames) => receiver.run(frames, stop).await,
        Err(fault) => Err(fault.into()),
    };
    // What came is kept, also after an error, so that it need not come again.
    receiver.start_storing().await?;
    receiver.start_storing().await?;
    let ended = match ended {
        Ok(ended) => ended,
        Err(Cut::Ours(error)) => return Err(error),
        Err(Cut::Peer(fault)) => {
            tracing::debug!(%peer, %fault, "sender of a dag left");
            match &fault {
                Fault::Misbehaved(misbehaviour) => tools.world.network.penalise(peer, *misbehaviour),
                Fault::Stalled if tools.world.clock.now() < tools.deadline => {
                    tools.world.network.penalise(peer, Misbehaviour::Silent);
                }
                _ => {}
            }
            Ended::Left
        }
    };
    Ok((ended, receiver.bytes))
}

struct Receiver<'a> {
    tools: &'a Receiving<'a>,
    request: &'a Request,
    expected: Expected,
    group: Vec<Block>,
    group_bytes: usize,
    /// Of the group, and of the one being stored: not in the store yet.
    keys: BTreeSet<Key>,
    keys_before: BTreeSet<Key>,
    storing: Option<BoxFuture<'static, Result<(), FetchError>>>,
    blocks: u64,
    bytes: u64,
    missing: u64,
    skipped: u64,
}

impl Receiver<'_> {
    async fn run(&mut self, frames: Frames, mut stop: oneshot::Receiver<()>) -> Result<Ended, Cut> {
        let mut checked = checked(frames, self.tools.world.offload.clone(), self.request.scope);
        loop {
            // A flush takes longer than a group does to come.
            let full = self.storing.is_some() && self.group_bytes >= GROUPS_AHEAD * self.tools.config.group_bytes;
            let store = async {
                match &mut self.storing {
                    Some(storing) => storing.await,
                    None => futures::future::pending().await,
                }
            };
            let items = tokio::select! {
                biased;
                stored = store => {
                    self.storing = None;
                    stored?;
                    continue;
                }
                _ = &mut stop => return Ok(Ended::Stopped),
                items = checked.next(), if !full => items.ok_or(Fault::Stalled)??,
            };
            for item in items {
                if let Some(ended) = self.item(item).await? {
                    return Ok(ended);
                }
            }
            (self.tools.tell)(self.expected.waiting() as u64);
            if self.storing.is_none()
                && (self.group_bytes >= self.tools.config.group_bytes || self.group.len() >= GROUP_BLOCKS)
            {
                self.start_storing().await?;
            }
        }
    }

    async fn item(&mut self, item: Item) -> Result<Option<Ended>, Cut> {
        match item {
            Item::Wrong(misbehaviour) => Err(Fault::Misbehaved(misbehaviour).into()),
            Item::Block { block, links } => self.block(block, links),
            Item::Other(Frame::Missing(cid)) => {
                self.meet(&cid)?;
                self.missing += 1;
                Ok(None)
            }
            Item::Other(Frame::Skipped(cid)) => self.skipped(cid).await.map(|()| None),
            Item::Other(Frame::End(end)) => {
                let counts = (end.blocks, end.bytes, end.missing, end.skipped);
                let violation = Fault::Misbehaved(Misbehaviour::Violation);
                if end.reason != EndReason::Busy && counts != (self.blocks, self.bytes, self.missing, self.skipped) {
                    return Err(violation.into());
                }
                Ok(Some(match end.reason {
                    EndReason::Complete => {
                        let held = held(self.tools.store, &self.keys, &self.keys_before);
                        self.expected.ends(held).map_err(|_| violation)?;
                        Ended::Complete { missing: self.missing }
                    }
                    EndReason::Limit => Ended::Again,
                    EndReason::Busy | EndReason::Failed => Ended::Stopped,
                }))
            }
            Item::Other(Frame::Block { .. }) => Ok(None),
        }
    }

    fn meet(&mut self, cid: &Cid) -> Result<(), Cut> {
        let met = self.expected.meet(cid, held(self.tools.store, &self.keys, &self.keys_before));
        met.map_err(|unexpected| self.cut(unexpected))
    }

    fn cut(&self, unexpected: Unexpected) -> Cut {
        let over = |what, limit| FetchError::OverLimit { root: self.request.root, what, limit }.into();
        match unexpected {
            Unexpected::Frame => Fault::Misbehaved(Misbehaviour::Violation).into(),
            Unexpected::Nodes => over("nodes", self.tools.config.max_nodes as u64),
            Unexpected::Links => over("links waiting", 1 << 20),
        }
    }

    fn block(&mut self, block: Block, links: Option<Result<Vec<Cid>, ReadError>>) -> Result<Option<Ended>, Cut> {
        self.meet(&block.cid)?;
        let (tally, bytes) = (self.tools.tally, block.data.len() as u64);
        self.blocks += 1;
        self.bytes += bytes;
        tally.blocks.fetch_add(1, Ordering::Relaxed);
        let total = tally.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.group_bytes += block.data.len();
        self.keys.insert(Key::from(block.cid.hash()));
        self.group.push(block);
        if total > tally.max_bytes {
            let (root, limit) = (self.request.root, tally.max_bytes);
            return Err(FetchError::OverLimit { root, what: "bytes", limit }.into());
        }
        let links = links.transpose().map_err(FetchError::from)?.unwrap_or_default();
        if self.tools.asks_again && self.worth_asking(&links) {
            return Ok(Some(Ended::Again));
        }
        self.expected.follow(links).map_err(|unexpected| self.cut(unexpected))?;
        Ok(None)
    }

    /// Whether much of what is behind `links` is here, and was not named in the request.
    fn worth_asking(&self, links: &[Cid]) -> bool {
        let (mut bytes, mut counted) = (0, BTreeSet::new());
        links.iter().any(|cid| {
            if self.expected.is_node(cid) {
                return !self.expected.knows(cid) && self.tools.store.has(cid);
            }
            if counted.insert(cid.hash()) {
                bytes += self.tools.store.size(cid).unwrap_or(0);
            }
            bytes >= WORTH_ASKING_BYTES
        })
    }

    async fn skipped(&mut self, cid: Cid) -> Result<(), Cut> {
        self.meet(&cid)?;
        self.skipped += 1;
        let Some(skip) = self.expected.skip(&cid).cloned() else {
            return Err(Fault::Misbehaved(Misbehaviour::Violation).into());
        };
        if !skip.whole && self.expected.is_node(&cid) {
            // It was here when the request was made. If it is gone, somebody removed it by force: the rest is
            // for those who ask for single blocks.
            let data = self.tools.store.get_whole(&cid).await.map_err(FetchError::from)?.ok_or(Fault::Stalled)?;
            let links = unixfs::links(cid, &data).map_err(FetchError::from)?;
            let remaining = skip.remaining(links);
            self.expected.follow(remaining).map_err(|unexpected| self.cut(unexpected))?;
        }
        Ok(())
    }

    /// Begins to store the group, once the one before is stored.
    async fn start_storing(&mut self) -> Result<(), FetchError> {
        if let Some(storing) = self.storing.take() {
            storing.await?;
        }
        if self.group.is_empty() {
            return Ok(());
        }
        let group = std::mem::take(&mut self.group);
        self.keys_before = std::mem::take(&mut self.keys);
        let bytes = std::mem::take(&mut self.group_bytes) as u64;
        let unflushed = &self.tools.tally.unflushed;
        let flush = unflushed.fetch_add(bytes, Ordering::Relaxed) + bytes >= FLUSH_EVERY_BYTES;
        if flush {
            unflushed.store(0, Ordering::Relaxed);
        }
        let (store, kept) = (self.tools.store.clone(), self.tools.kept);
        let put = async move {
            match kept {
                true => store.put_many(group).await?,
                false => store.put_fetched(group).await?,
            }
            if flush {
                store.flush().await?;
            }
            Ok(())
        };
        self.storing = Some(put.boxed());
        Ok(())
    }
}

type Checked = stream::BoxStream<'static, Result<Vec<Item>, Cut>>;

/// Batches as they come, several being checked beside each other while the next is read.
fn checked(frames: Frames, pool: Arc<dyn Offload>, scope: Scope) -> Checked {
    let batches = stream::unfold(frames, |mut frames| async move {
        let batch = frames.batch().await;
        Some((batch, frames))
    });
    let check = move |batch: Result<_, Fault>| {
        let pool = pool.clone();
        async move {
            let batch = batch?;
            offload(&*pool, move || check(batch, scope)).await.map_err(|_| Cut::Ours(FetchError::Closed))
        }
    };
    batches.map(check).buffered(CHECKS).boxed()
}

/// Which leaves came before.
fn held<'a>(store: &'a BlockStore, keys: &'a BTreeSet<Key>, before: &'a BTreeSet<Key>) -> impl Fn(&Cid) -> bool + 'a {
    move |cid| {
        let key = Key::from(cid.hash());
        keys.contains(&key) || before.contains(&key) || store.touch(cid)
    }
}

/// Hashes what came and reads its links, up to the first thing that is wrong. Burns a core.
fn check(frames: Vec<Frame>, scope: Scope) -> Vec<Item> {
    let mut items = Vec::with_capacity(frames.len());
    for frame in frames {
        items.push(match frame {
            Frame::Block { cid, data } => match verify(&cid, &data) {
                Ok(()) => {
                    let node = scope == Scope::Dag && ipld::has_links(cid.codec());
                    let links = node.then(|| unixfs::links(cid, &data));
                    Item::Block { block: Block { cid, data }, links }
                }
                Err(_) => {
                    items.push(Item::Wrong(Misbehaviour::WrongContent));
                    break;
                }
            },
            other => Item::Other(other),
        });
    }
    items
}
