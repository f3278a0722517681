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
    End, EndReason, Frame, PROTOCOL, Request, Scope,
    expected::{Expected, Unexpected},
    incoming::{Fault, Frames},
};
use crate::{
    Block, BlockStore, FetchError,
    block::verify,
    config::FetchConfig,
    fetch::{FetchAccount, Via},
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

/// What a block takes in memory beside its data, so that empty ones are bounded too.
const BLOCK_OVERHEAD: usize = 256;
/// A sender may send so much that is here already, and as much again as it sends of what is not.
const MAX_REPEATED_BYTES: u64 = 16 << 20;

/// What came that was not here, from all senders together.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) blocks: AtomicU64,
    pub(crate) bytes: AtomicU64,
    /// Of the blocks, those with links.
    pub(crate) nodes: AtomicU64,
    pub(crate) unflushed: AtomicU64,
    pub(crate) max_bytes: u64,
    pub(crate) account: FetchAccount,
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
    /// The sender sends no more at a time.
    Limit,
    /// It was told to stop.
    Stopped,
    /// The sender has too much to do, or its store failed.
    Busy,
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
    let stream = timeout_at(&*clock, deadline, open).await.map_err(|_| Fault::Unreached)??;
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
/// `came` counts bytes, while they come.
pub(crate) async fn receive(
    tools: &Receiving<'_>,
    peer: PeerId,
    request: &Request,
    mut stop: oneshot::Receiver<()>,
    came: Arc<AtomicU64>,
) -> Result<Ended, FetchError> {
    let opened = tokio::select! {
        biased;
        _ = &mut stop => return Ok(Ended::Stopped),
        opened = open(tools, peer, request) => opened,
    };
    let mut receiver = Receiver {
        tools,
        peer,
        request,
        expected: Expected::new(request, tools.config.max_nodes),
        group: Vec::new(),
        group_bytes: 0,
        keys: BTreeSet::new(),
        keys_before: BTreeSet::new(),
        storing: None,
        sent: End::empty(EndReason::Complete),
        fresh_bytes: 0,
        repeated_bytes: 0,
        came,
    };
    let ended = match opened {
        Ok(frames) => receiver.run(frames, stop).await,
        Err(fault) => Err(fault.into()),
    };
    // What came is kept, also after an error, so that it need not come again.
    receiver.start_storing().await?;
    receiver.start_storing().await?;
    match ended {
        Ok(ended) => Ok(ended),
        Err(Cut::Ours(error)) => Err(error),
        Err(Cut::Peer(fault)) => {
            tracing::debug!(%peer, %fault, "sender of a dag left");
            match &fault {
                Fault::Misbehaved(misbehaviour) => tools.world.network.penalise(peer, *misbehaviour),
                // Not for being slow, or far away: only who says nothing where it owes an answer.
                Fault::Silent => tools.world.network.penalise(peer, Misbehaviour::Silent),
                _ => {}
            }
            Ok(Ended::Left)
        }
    }
}

struct Receiver<'a> {
    tools: &'a Receiving<'a>,
    peer: PeerId,
    request: &'a Request,
    expected: Expected,
    group: Vec<Block>,
    group_bytes: usize,
    /// Of the group, and of the one being stored: not in the store yet.
    keys: BTreeSet<Key>,
    keys_before: BTreeSet<Key>,
    storing: Option<BoxFuture<'static, Result<(), FetchError>>>,
    /// What the end must say was sent.
    sent: End,
    fresh_bytes: u64,
    repeated_bytes: u64,
    came: Arc<AtomicU64>,
}

impl Receiver<'_> {
    async fn run(&mut self, frames: Frames, stop: oneshot::Receiver<()>) -> Result<Ended, Cut> {
        let mut checked = checked(frames.batches(stop), self.tools.world.offload.clone(), self.request.scope);
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
                items = checked.next(), if !full => match items {
                    Some(items) => items?,
                    None => return Ok(Ended::Stopped),
                },
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
                self.sent.missing += 1;
                Ok(None)
            }
            Item::Other(Frame::Skipped(cid)) => self.skipped(cid).await.map(|()| None),
            Item::Other(Frame::End(end)) => {
                let violation = Fault::Misbehaved(Misbehaviour::Violation);
                if end.reason != EndReason::Busy && (End { reason: self.sent.reason, ..end }) != self.sent {
                    return Err(violation.into());
                }
                Ok(Some(match end.reason {
                    EndReason::Complete => {
                        let held = held(self.tools.store, &self.keys, &self.keys_before);
                        self.expected.ends(held).map_err(|_| violation)?;
                        Ended::Complete { missing: self.sent.missing }
                    }
                    EndReason::Limit => Ended::Limit,
                    EndReason::Busy | EndReason::Failed => Ended::Busy,
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
        let limit = self.tools.config.max_nodes as u64;
        match unexpected {
            Unexpected::Frame => Fault::Misbehaved(Misbehaviour::Violation).into(),
            Unexpected::Nodes => FetchError::OverLimit { root: self.request.root, what: "nodes", limit }.into(),
            Unexpected::Links => Fault::Wide.into(),
        }
    }

    fn block(&mut self, block: Block, links: Option<Result<Vec<Cid>, ReadError>>) -> Result<Option<Ended>, Cut> {
        self.meet(&block.cid)?;
        let bytes = block.data.len() as u64;
        self.sent.blocks += 1;
        self.sent.bytes += bytes;
        if held(self.tools.store, &self.keys, &self.keys_before)(&block.cid) {
            self.repeated_bytes += bytes + BLOCK_OVERHEAD as u64;
            if self.repeated_bytes > MAX_REPEATED_BYTES + self.fresh_bytes {
                return Err(Fault::Repeats.into());
            }
        } else {
            self.fresh(block)?;
        }
        let links = links.transpose().map_err(FetchError::from)?.unwrap_or_default();
        if self.tools.asks_again && self.worth_asking(&links) {
            return Ok(Some(Ended::Again));
        }
        self.expected.follow(links).map_err(|unexpected| self.cut(unexpected))?;
        Ok(None)
    }

    fn fresh(&mut self, block: Block) -> Result<(), Cut> {
        let (tally, bytes) = (self.tools.tally, block.data.len() as u64);
        tally.account.note(self.peer, Via::WholeDag, bytes);
        tally.blocks.fetch_add(1, Ordering::Relaxed);
        let total = tally.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let node = u64::from(self.expected.is_node(&block.cid));
        if tally.nodes.fetch_add(node, Ordering::Relaxed) + node > self.tools.config.max_nodes as u64 {
            return Err(self.cut(Unexpected::Nodes));
        }
        self.came.fetch_add(bytes.max(1), Ordering::Relaxed);
        self.fresh_bytes += bytes + BLOCK_OVERHEAD as u64;
        self.group_bytes += block.data.len() + BLOCK_OVERHEAD;
        self.keys.insert(Key::from(block.cid.hash()));
        self.group.push(block);
        if total > tally.max_bytes {
            let (root, limit) = (self.request.root, tally.max_bytes);
            return Err(FetchError::OverLimit { root, what: "bytes", limit }.into());
        }
        Ok(())
    }

    /// Whether much of what is behind `links` is here, and was not named in the request.
    fn worth_asking(&self, links: &[Cid]) -> bool {
        let (mut bytes, mut counted) = (0, BTreeSet::new());
        links.iter().any(|cid| {
            if self.expected.is_node(cid) {
                let said = self.expected.knows(cid) || self.expected.skip(cid).is_some();
                return !said && self.tools.store.has(cid);
            }
            if counted.insert(cid.hash()) {
                bytes += self.tools.store.size(cid).unwrap_or(0);
            }
            bytes >= WORTH_ASKING_BYTES
        })
    }

    async fn skipped(&mut self, cid: Cid) -> Result<(), Cut> {
        self.meet(&cid)?;
        self.sent.skipped += 1;
        let Some(skip) = self.expected.skip(&cid).cloned() else {
            return Err(Fault::Misbehaved(Misbehaviour::Violation).into());
        };
        if !skip.whole && self.expected.is_node(&cid) {
            // It was here when the request was made. If it is gone, somebody removed it by force: the rest is
            // for those who ask for single blocks.
            let data = self.tools.store.get_whole(&cid).await.map_err(FetchError::from)?.ok_or(Fault::Gone)?;
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
fn checked(
    batches: stream::BoxStream<'static, Result<Vec<Frame>, Fault>>,
    pool: Arc<dyn Offload>,
    scope: Scope,
) -> Checked {
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
