//! Serving whole DAGs.

use std::{
    fmt, io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use diai_core::{
    AcceptError, AcceptOptions, BoxStream, Inbound, Incoming, Misbehaviour, World, frame, frame::ReadFrameError,
    offload, timeout_at,
};
use futures::{AsyncWriteExt, StreamExt, future::try_join};
use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    End, EndReason, Frame, MAX_REQUEST_BYTES, PROTOCOL, Request,
    walker::{Batch, WalkLimits, Walker},
};
use crate::{BlockStore, MAX_BLOCK_BYTES, config::DagConfig, serve::Gate};

/// A peer that does not even take, or send, so much in this time does nothing.
const LEAST_PROGRESS: (usize, Duration) = (64 << 10, Duration::from_secs(10));

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
        let least = config.batch_bytes + MAX_BLOCK_BYTES;
        let tools = Tools {
            world: world.clone(),
            store,
            streams: Arc::new(Semaphore::new(config.max_streams)),
            sending: Arc::new(Semaphore::new(config.max_sending_bytes.clamp(least, 1 << 30))),
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
    streams: Arc<Semaphore>,
    /// Bytes read and not yet taken by a peer.
    sending: Arc<Semaphore>,
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
    let gate = tools.config.rule.gate(peer, || agent);
    let clock = tools.world.clock.clone();
    let penalise = |misbehaviour| tools.world.network.penalise(peer, misbehaviour);
    let deadline = clock.now() + LEAST_PROGRESS.1;
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
    let mut out = Out { tools: &tools, stream };
    let answered = match tools.streams.clone().try_acquire_owned() {
        Ok(_permit) => out.answer(request, gate).await,
        Err(_) => out.end(EndReason::Busy).await,
    };
    if let Err(error) = answered {
        tracing::debug!(%peer, %error, "dag not sent");
        if error.kind() == io::ErrorKind::TimedOut {
            penalise(Misbehaviour::Silent);
        }
    }
}

struct Out<'a> {
    tools: &'a Tools,
    stream: BoxStream,
}

impl Out<'_> {
    async fn end(&mut self, reason: EndReason) -> io::Result<()> {
        let mut frame = BytesMut::new();
        Frame::End(End::empty(reason)).put(&mut frame);
        self.write(&[frame.freeze()]).await?;
        self.stream.close().await
    }

    /// Writes one batch while the next is read.
    async fn answer(&mut self, request: Request, gate: Gate) -> io::Result<()> {
        let tools = self.tools;
        let config = &tools.config;
        let limits =
            WalkLimits { batch_bytes: config.batch_bytes, nodes: config.max_nodes, links: config.max_waiting_links };
        let max_bytes = request.max_bytes.min(config.max_bytes);
        let walker = Walker::new(tools.store.store().clone(), gate, Request { max_bytes, ..request }, limits);
        let (mut walker, mut batch, mut permit) = read(tools, walker).await?;
        while !batch.ended {
            let sent = std::mem::take(&mut batch);
            let write = async {
                self.write(&sent.chunks).await?;
                tools.sent(&sent);
                drop((sent, permit));
                Ok(())
            };
            ((), (walker, batch, permit)) = try_join(write, read(tools, walker)).await?;
        }
        self.write(&batch.chunks).await?;
        tools.sent(&batch);
        self.stream.close().await
    }

    async fn write(&mut self, chunks: &[Bytes]) -> io::Result<()> {
        let clock = &*self.tools.world.clock;
        let too_slow = |_| io::Error::from(io::ErrorKind::TimedOut);
        let (mut taken, mut deadline) = (0, clock.now() + LEAST_PROGRESS.1);
        for chunk in chunks {
            let mut rest = &chunk[..];
            while !rest.is_empty() {
                let wrote = timeout_at(clock, deadline, self.stream.write(rest)).await.map_err(too_slow)??;
                rest = &rest[wrote..];
                taken += wrote;
                if wrote == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                if taken >= LEAST_PROGRESS.0 {
                    (taken, deadline) = (0, clock.now() + LEAST_PROGRESS.1);
                }
            }
        }
        timeout_at(clock, clock.now() + LEAST_PROGRESS.1, self.stream.flush()).await.map_err(too_slow)?
    }
}

impl Tools {
    fn sent(&self, batch: &Batch) {
        self.counters.blocks.fetch_add(batch.blocks, Ordering::Relaxed);
        self.counters.bytes.fetch_add(batch.bytes, Ordering::Relaxed);
    }
}

type Permit = tokio::sync::OwnedSemaphorePermit;

async fn read(tools: &Tools, mut walker: Walker) -> io::Result<(Walker, Batch, Permit)> {
    let bytes = (tools.config.batch_bytes + MAX_BLOCK_BYTES) as u32;
    let permit = tools.sending.clone().acquire_many_owned(bytes).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
    let work = move || {
        let batch = walker.batch();
        (walker, batch)
    };
    let (walker, batch) = offload(&*tools.world.offload, work).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
    Ok((walker, batch, permit))
}
