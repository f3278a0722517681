//! The tasks on the streams: one reader for each that a peer opens, and per peer a writer of wants and one of answers.

use std::{
    collections::{BTreeSet, VecDeque},
    io,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use cid::Cid;
use diai_core::{BoxStream, Inbound, Misbehaviour, OpenError, PeerId, World, offload, timeout_at};
use futures::AsyncWriteExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{
    codec::{decode, encode},
    frames::{FramePermit, Frames, ReadError, acquire},
    message::{Message, Payload, Prefix, Presence, Version, Want},
};
use crate::{
    Block, BlockStore,
    serve::{Gate, ServeRule},
};

/// Blocks are put together in messages of about this length.
const MESSAGE_BYTES: usize = 1 << 20;
/// A peer that does not even take so much of a message in this time takes nothing.
const LEAST_PROGRESS: (usize, Duration) = (64 << 10, Duration::from_secs(10));
/// Messages that say nothing; more on one stream are held against the peer.
const MAX_EMPTY: usize = 32;

/// What the tasks tell the loop.
#[derive(Debug)]
pub(super) enum Report {
    /// A message, its blocks hashed.
    Message {
        peer: PeerId,
        message: Message,
        /// The places of its wants for what it may not have.
        denied: BTreeSet<usize>,
        blocks: Vec<Block>,
        permit: Option<Arc<OwnedSemaphorePermit>>,
        frame: Option<FramePermit>,
    },
    /// A part of a long message.
    Alive(PeerId),
    /// A batch of answers was written.
    Sent { peer: PeerId, blocks: usize, bytes: usize, took: Duration },
    /// The peer's stream took a message of wants.
    WantsSent { peer: PeerId, link: u64 },
    /// The peer takes no wants.
    WantsFailed { peer: PeerId, link: u64 },
    /// The peer takes no answers, or takes them too slowly.
    AnswersFailed { peer: PeerId, link: u64, too_slow: bool },
}

/// What a batch of answers holds.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) blocks: Vec<(Cid, bool)>,
    pub(super) presences: Vec<Presence>,
    /// Bytes to have in memory at a time.
    pub(super) bytes: usize,
}

/// What every task needs.
#[derive(Clone)]
pub(super) struct Tools {
    pub(super) world: World,
    pub(super) store: BlockStore,
    pub(super) rule: ServeRule,
    pub(super) reports: mpsc::Sender<Report>,
    /// Bytes of blocks that were read and not yet taken by whoever wants them.
    pub(super) received: Arc<Semaphore>,
    pub(super) received_bytes: usize,
    /// Bytes of messages that are being read, or wait for the loop.
    pub(super) reading: Arc<Semaphore>,
}

impl Tools {
    /// What `peer` may have, by the agent that it belongs to now.
    fn gate(&self, peer: PeerId) -> Gate {
        self.rule.gate(Some(peer), || self.world.network.peer(peer).and_then(|info| info.agent))
    }
}

fn denied(gate: &Gate, wants: &[Want]) -> BTreeSet<usize> {
    if gate.is_open() {
        return BTreeSet::new();
    }
    (0..).zip(wants).filter(|(_, want)| !want.cancel && !gate.allows(&want.cid)).map(|(place, _)| place).collect()
}

/// Reads messages until the stream ends. What is no message ends it and is held against the peer. `room` is for the
/// bytes of this peer's frames.
pub(super) async fn read_messages(tools: Tools, inbound: Inbound, room: Arc<Semaphore>) {
    let peer = inbound.peer;
    let penalise = |misbehaviour| tools.world.network.penalise(peer, misbehaviour);
    let mut frames = Frames::new(tools.clone(), peer, room, inbound.stream);
    let mut empty = 0;
    loop {
        let (bytes, frame) = match frames.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return,
            Err(ReadError::Io(error)) => {
                if error.kind() == io::ErrorKind::TimedOut {
                    penalise(Misbehaviour::Silent);
                }
                return tracing::trace!(%peer, %error, "bitswap stream broke");
            }
            Err(ReadError::Frame(error)) => {
                tracing::debug!(%peer, %error, "bitswap stream refused");
                return penalise(Misbehaviour::Malformed);
            }
        };
        let mut message = match decode(&bytes) {
            Ok(message) => message,
            Err(error) => {
                tracing::debug!(%peer, %error, "bitswap message refused");
                return penalise(Misbehaviour::Malformed);
            }
        };
        if message.is_empty() {
            empty += 1;
            if empty > MAX_EMPTY {
                return penalise(Misbehaviour::Violation);
            }
            continue;
        }
        let denied = denied(&tools.gate(peer), &message.wants);
        let payload = std::mem::take(&mut message.payload);
        let permit = match payload.is_empty() {
            true => None,
            false => match acquire(&tools, peer, &tools.received, bytes.len().min(tools.received_bytes)).await {
                Ok(permit) => Some(Arc::new(permit)),
                Err(_) => return,
            },
        };
        // Hashed here, on the task that reads: measured faster on few cores than any other place.
        let hash = |Payload { prefix, data }: Payload| prefix.cid(&data).map(|cid| Block { cid, data });
        let blocks = payload.into_iter().filter_map(hash).collect();
        if tools.reports.send(Report::Message { peer, message, denied, blocks, permit, frame }).await.is_err() {
            return;
        }
    }
}

/// A stream to a peer that is opened when needed and once more when it breaks.
struct Outbound {
    tools: Tools,
    peer: PeerId,
    stream: Option<(Version, BoxStream)>,
}

impl Outbound {
    async fn write(&mut self, message: &Message) -> io::Result<()> {
        let had_stream = self.stream.is_some();
        match self.try_write(message).await {
            // One that takes nothing will not do so on another stream.
            Err(error) if had_stream && error.kind() != io::ErrorKind::TimedOut => self.try_write(message).await,
            result => result,
        }
    }

    async fn try_write(&mut self, message: &Message) -> io::Result<()> {
        let (version, mut stream) = match self.stream.take() {
            Some(open) => open,
            None => {
                let opened = self.tools.world.network.open(self.peer, &Version::PROTOCOLS).await;
                let opened = opened.map_err(|error: OpenError| io::Error::other(error))?;
                (Version::of(opened.protocol), opened.stream)
            }
        };
        let clock = &*self.tools.world.clock;
        let too_slow = |_| io::Error::from(io::ErrorKind::TimedOut);
        let (mut taken, mut deadline) = (0, clock.now() + LEAST_PROGRESS.1);
        for slice in encode(message, version) {
            let mut rest = &slice[..];
            while !rest.is_empty() {
                let wrote = timeout_at(clock, deadline, stream.write(rest)).await.map_err(too_slow)??;
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
        timeout_at(clock, clock.now() + LEAST_PROGRESS.1, stream.flush()).await.map_err(too_slow)??;
        self.stream = Some((version, stream));
        Ok(())
    }
}

/// Writes wants as they come. The first message says that what the peer knew of earlier is void.
pub(super) async fn write_wants(tools: Tools, peer: PeerId, link: u64, mut queue: mpsc::Receiver<Vec<Want>>) {
    let mut outbound = Outbound { tools: tools.clone(), peer, stream: None };
    let mut full = true;
    while let Some(wants) = queue.recv().await {
        let written = outbound.write(&Message { full, wants, ..Message::default() }).await;
        full = false;
        let report = match &written {
            Ok(()) => Report::WantsSent { peer, link },
            Err(_) => Report::WantsFailed { peer, link },
        };
        // The loop is gone when this fails, and nobody needs to know.
        let _ = tools.reports.send(report).await;
        if let Err(error) = written {
            return tracing::debug!(%peer, %error, "wants not sent");
        }
    }
}

/// A piece of a batch, read from the store.
struct Piece {
    messages: Vec<Message>,
    blocks: usize,
    bytes: usize,
    ends_batch: bool,
}

/// Reads one piece while it writes the one before.
pub(super) async fn write_answers(tools: Tools, peer: PeerId, link: u64, mut queue: mpsc::Receiver<Batch>) {
    let mut outbound = Outbound { tools: tools.clone(), peer, stream: None };
    let mut rest = Rest::default();
    let (mut blocks, mut bytes, mut begun) = (0, 0, None);
    let mut piece = read_piece(&tools, peer, &mut rest, &mut queue).await;
    while let Some(current) = piece {
        blocks += current.blocks;
        bytes += current.bytes;
        let now = tools.world.clock.now();
        let since = *begun.get_or_insert(now);
        let write = async {
            for message in &current.messages {
                outbound.write(message).await?;
            }
            if current.ends_batch {
                let took = tools.world.clock.now().since(since);
                let report = Report::Sent { peer, blocks, bytes, took };
                (blocks, bytes, begun) = (0, 0, None);
                tools.reports.send(report).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
            }
            Ok::<_, io::Error>(())
        };
        // When writing fails nothing more is to be read, so that future must not be waited for.
        let read = read_piece(&tools, peer, &mut rest, &mut queue);
        let (written, next) = match futures::future::select(std::pin::pin!(write), std::pin::pin!(read)).await {
            futures::future::Either::Left((Ok(()), read)) => (Ok(()), read.await),
            futures::future::Either::Left((Err(error), _)) => (Err(error), None),
            futures::future::Either::Right((next, write)) => (write.await, next),
        };
        if let Err(error) = written {
            tracing::debug!(%peer, %error, "answers not sent");
            let too_slow = error.kind() == io::ErrorKind::TimedOut;
            let _ = tools.reports.send(Report::AnswersFailed { peer, link, too_slow }).await;
            return;
        }
        piece = next;
    }
}

/// What is still to be read of a batch.
#[derive(Default)]
struct Rest {
    blocks: VecDeque<(Cid, bool)>,
    piece_bytes: usize,
}

async fn read_piece(tools: &Tools, peer: PeerId, rest: &mut Rest, queue: &mut mpsc::Receiver<Batch>) -> Option<Piece> {
    let mut first = Message::default();
    let mut gate = tools.gate(peer);
    if rest.blocks.is_empty() {
        let batch = queue.recv().await?;
        gate = tools.gate(peer);
        *rest = Rest { blocks: batch.blocks.into(), piece_bytes: batch.bytes };
        first.presences = batch.presences;
        // What came only now is not told of either to who may not have it.
        first.presences.retain(|presence| !presence.have || gate.allows(&presence.cid));
    }
    let mut piece = Piece { messages: Vec::new(), blocks: 0, bytes: 0, ends_batch: true };
    if !rest.blocks.is_empty() {
        let (store, limit, cids) = (tools.store.store().clone(), rest.piece_bytes, std::mem::take(&mut rest.blocks));
        let read = move || {
            let (mut got, mut bytes, mut cids) = (Vec::new(), 0, cids);
            while bytes < limit
                && let Some((cid, say_no)) = cids.pop_front()
            {
                let data = if gate.allows(&cid) { store.get(&cid).ok().flatten() } else { None };
                bytes += data.as_ref().map_or(0, Bytes::len);
                got.push((cid, say_no, data));
            }
            (got, cids)
        };
        let (got, left) = offload(&*tools.world.offload, read).await.ok()?;
        rest.blocks = left;
        for (cid, say_no, data) in got {
            let Some(data) = data else {
                if say_no {
                    first.presences.push(Presence { cid, have: false });
                }
                continue;
            };
            piece.blocks += 1;
            piece.bytes += data.len();
            let payload = Payload { prefix: Prefix::of(&cid), data };
            let fits = |message: &&mut Message| {
                message.payload.iter().map(|block| block.data.len() + 64).sum::<usize>() + payload.data.len()
                    <= MESSAGE_BYTES
                    && message.payload.len() < 512
            };
            match piece.messages.last_mut().filter(fits) {
                Some(message) => message.payload.push(payload),
                None => piece.messages.push(Message { payload: vec![payload], ..Message::default() }),
            }
        }
    }
    if !first.is_empty() {
        piece.messages.insert(0, first);
    }
    piece.ends_batch = rest.blocks.is_empty();
    Some(piece)
}
