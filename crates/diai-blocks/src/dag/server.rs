//! Serving whole DAGs.

use std::{
    collections::BTreeMap,
    fmt, io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use cid::Cid;
use diai_core::{
    AcceptError, AcceptOptions, BoxStream, Inbound, Incoming, Misbehaviour, PeerId, World, frame,
    frame::ReadFrameError, offload, timeout_at,
};
use futures::{AsyncWriteExt, StreamExt, future::try_join};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};

use super::{
    End, EndReason, Frame, MAX_REQUEST_BYTES, PROTOCOL, Request,
    pace::Pace,
    walker::{Batch, WalkLimits, Walker},
};
use crate::{BlockStore, MAX_BLOCK_BYTES, config::DagConfig, serve::Gate};

/// A peer whose request does not come, or that takes nothing at all of its answer, for so long does nothing.
const SILENCE: Duration = Duration::from_secs(10);

/// Figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DagStatus {
    /// Requests that were answered or are being answered.
    pub requests: u64,
    /// Blocks sent.
    pub blocks_sent: u64,
    /// Bytes of those.
    pub bytes_sent: u64,
}

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    blocks: AtomicU64,
    bytes: AtomicU64,
}

/// Serves the DAGs of a store to devices of agents. Cheap to clone; its tasks end with the last clone.
#[derive(Clone)]
pub struct DagServer(Arc<Inner>);

struct Inner {
    counters: Arc<Counters>,
    tasks: Mutex<JoinSet<()>>,
}

impl fmt::Debug for DagServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DagServer").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl DagServer {
    /// Serves what `store` has.
    pub fn start(world: &World, store: BlockStore, config: DagConfig) -> Result<Self, AcceptError> {
        let options = AcceptOptions { max_per_peer: config.max_streams_per_peer, max_waiting: 64, uncertified: false };
        let incoming = world.network.accept(&[PROTOCOL], options)?;
        let counters = Arc::new(Counters::default());
        // Each answer has room for a batch of its own; what is left is for those that read ahead.
        let batch = config.batch_bytes + MAX_BLOCK_BYTES;
        let room = config.max_sending_bytes.clamp(batch, 1 << 30);
        let streams = config.max_streams.min(room / batch);
        let tools = Tools {
            world: world.clone(),
            store,
            streams: Streams::new(streams, config.max_streams_per_peer),
            ahead: Arc::new(Semaphore::new(room / batch - streams)),
            counters: counters.clone(),
            config,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(tools, incoming));
        Ok(Self(Arc::new(Inner { counters, tasks: Mutex::new(tasks) })))
    }

    /// Figures.
    pub fn status(&self) -> DagStatus {
        let Counters { requests, blocks, bytes } = &*self.0.counters;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DagStatus { requests: load(requests), blocks_sent: load(blocks), bytes_sent: load(bytes) }
    }

    /// Stops serving; all tasks have ended when it returns.
    pub async fn stop(&self) {
        let mut tasks = std::mem::take(&mut *self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
    }
}

#[derive(Clone)]
struct Tools {
    world: World,
    store: BlockStore,
    streams: Streams,
    /// Batches read while the one before is not taken yet. Nobody waits for those of others.
    ahead: Arc<Semaphore>,
    counters: Arc<Counters>,
    config: DagConfig,
}

async fn accept(tools: Tools, mut incoming: Incoming) {
    let mut serving = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = serving.join_next() => {}
            inbound = incoming.next() => match inbound {
                Some(inbound) => drop(serving.spawn(serve(tools.clone(), inbound))),
                None => return,
            },
        }
    }
}

async fn serve(tools: Tools, inbound: Inbound) {
    let Inbound { peer, agent, mut stream, .. } = inbound;
    let gate = tools.config.rule.gate(Some(peer), || agent);
    let clock = tools.world.clock.clone();
    let penalise = |misbehaviour| tools.world.network.penalise(peer, misbehaviour);
    let deadline = clock.now() + SILENCE;
    let request = match timeout_at(&*clock, deadline, frame::read(&mut stream, MAX_REQUEST_BYTES)).await {
        Err(_) => return penalise(Misbehaviour::Silent),
        Ok(Err(ReadFrameError::Frame(error))) => {
            tracing::debug!(%peer, %error, "request for a dag refused");
            return penalise(Misbehaviour::Malformed);
        }
        // Left before it had asked.
        Ok(Err(_) | Ok(None)) => return,
        Ok(Ok(Some(request))) => request,
    };
    let request = match Request::decode(request) {
        Ok(request) => request,
        Err(error) => {
            tracing::debug!(%peer, %error, "request for a dag refused");
            return penalise(Misbehaviour::Malformed);
        }
    };
    tools.counters.requests.fetch_add(1, Ordering::Relaxed);
    let mut out = Out { tools: &tools, stream, pace: Pace::default() };
    let answered = match request.only_asks() {
        true => out.whether(request.root, &gate).await,
        false => match tools.streams.take(peer) {
            Some(_permit) => out.answer(request, gate).await,
            None => out.end(EndReason::Busy).await,
        },
    };
    if let Err(error) = answered {
        tracing::debug!(%peer, %error, "dag not sent");
        if error.kind() == io::ErrorKind::TimedOut {
            penalise(Misbehaviour::Silent);
        }
    }
}

/// Answers under way, of which a quarter is for one peer.
#[derive(Debug, Clone)]
struct Streams {
    all: Arc<Semaphore>,
    most_per_peer: usize,
    per_peer: Arc<Mutex<BTreeMap<PeerId, usize>>>,
}

/// One of them.
struct StreamPermit {
    _all: OwnedSemaphorePermit,
    peer: PeerId,
    per_peer: Arc<Mutex<BTreeMap<PeerId, usize>>>,
}

impl Streams {
    fn new(all: usize, per_peer: usize) -> Self {
        let most_per_peer = per_peer.min(all / 4).max(1);
        Self { all: Arc::new(Semaphore::new(all)), most_per_peer, per_peer: Arc::default() }
    }

    fn take(&self, peer: PeerId) -> Option<StreamPermit> {
        let mut per_peer = self.per_peer.lock().unwrap_or_else(PoisonError::into_inner);
        if per_peer.get(&peer).is_some_and(|streams| *streams >= self.most_per_peer) {
            return None;
        }
        let all = self.all.clone().try_acquire_owned().ok()?;
        *per_peer.entry(peer).or_default() += 1;
        Some(StreamPermit { _all: all, peer, per_peer: self.per_peer.clone() })
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        let mut per_peer = self.per_peer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(streams) = per_peer.get_mut(&self.peer) {
            *streams -= 1;
            if *streams == 0 {
                per_peer.remove(&self.peer);
            }
        }
    }
}

struct Out<'a> {
    tools: &'a Tools,
    stream: BoxStream,
    pace: Pace,
}

impl Out<'_> {
    async fn end(&mut self, reason: EndReason) -> io::Result<()> {
        self.frames(&[Frame::End(End::empty(reason))]).await
    }

    async fn whether(&mut self, root: Cid, gate: &Gate) -> io::Result<()> {
        if gate.allows(&root) && self.tools.store.has(&root) {
            return self.end(EndReason::Limit).await;
        }
        let end = End { missing: 1, ..End::empty(EndReason::Complete) };
        self.frames(&[Frame::Missing(root), Frame::End(end)]).await
    }

    async fn frames(&mut self, frames: &[Frame]) -> io::Result<()> {
        let mut out = BytesMut::new();
        frames.iter().for_each(|frame| frame.put(&mut out));
        self.write(&[out.freeze()]).await?;
        self.stream.close().await
    }

    /// Writes one batch while the next is read, if there is room for both.
    async fn answer(&mut self, request: Request, gate: Gate) -> io::Result<()> {
        let tools = self.tools;
        let config = &tools.config;
        let limits =
            WalkLimits { batch_bytes: config.batch_bytes, nodes: config.max_nodes, links: config.max_waiting_links };
        let max_bytes = request.max_bytes.min(config.max_bytes);
        let walker = Walker::new(tools.store.store().clone(), gate, Request { max_bytes, ..request }, limits);
        let (mut walker, mut batch) = read(tools, walker).await?;
        let mut ahead = None;
        while !batch.ended {
            let sent = std::mem::take(&mut batch);
            ahead = ahead.or_else(|| tools.ahead.try_acquire().ok());
            if ahead.is_some() {
                ((), (walker, batch)) = try_join(self.send(sent), read(tools, walker)).await?;
            } else {
                self.send(sent).await?;
                (walker, batch) = read(tools, walker).await?;
            }
        }
        self.send(batch).await?;
        drop(ahead);
        self.stream.close().await
    }

    async fn send(&mut self, batch: Batch) -> io::Result<()> {
        self.write(&batch.chunks).await?;
        self.tools.sent(&batch);
        Ok(())
    }

    async fn write(&mut self, chunks: &[Bytes]) -> io::Result<()> {
        for chunk in chunks {
            let mut rest = &chunk[..];
            while !rest.is_empty() {
                let wrote = self.step(rest).await?;
                if wrote == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                rest = &rest[wrote..];
            }
        }
        self.step(&[]).await.map(drop)
    }

    /// Writes some of `bytes`, or flushes if there are none. Nobody is waited for who takes nothing, or too little.
    async fn step(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let clock = &*self.tools.world.clock;
        let begin = clock.now();
        let (silent, slow) = (begin + SILENCE, begin + self.pace.left());
        let over = |_| match slow < silent {
            true => io::Error::other("the peer is too slow"),
            false => io::ErrorKind::TimedOut.into(),
        };
        let step = async {
            match bytes {
                [] => self.stream.flush().await.map(|()| 0),
                bytes => self.stream.write(bytes).await,
            }
        };
        let wrote = timeout_at(clock, silent.min(slow), step).await.map_err(over)??;
        self.pace.note(clock.now().since(begin), wrote);
        Ok(wrote)
    }
}

impl Tools {
    fn sent(&self, batch: &Batch) {
        self.counters.blocks.fetch_add(batch.blocks, Ordering::Relaxed);
        self.counters.bytes.fetch_add(batch.bytes, Ordering::Relaxed);
    }
}

async fn read(tools: &Tools, mut walker: Walker) -> io::Result<(Walker, Batch)> {
    let work = move || {
        let batch = walker.batch();
        (walker, batch)
    };
    offload(&*tools.world.offload, work).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
}
