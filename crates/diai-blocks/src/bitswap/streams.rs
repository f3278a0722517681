//! The tasks on the streams: one reader for each that a peer opens, and per peer a writer of wants and one of answers.

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use cid::Cid;
use diai_core::{BoxStream, Inbound, Misbehaviour, OpenError, PeerId, World, frame::FrameError, offload, timeout_at};
use futures::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{
    codec::{decode, encode},
    message::{MAX_MESSAGE_BYTES, Message, Payload, Prefix, Presence, Version, Want},
};
use crate::{Block, BlockStore};

/// Bytes that a reader asks for at a time while it has no long frame before it.
const READ_BYTES: usize = 16 << 10;
/// Blocks are put together in messages of about this length.
const MESSAGE_BYTES: usize = 1 << 20;
/// A message that a peer has not taken by then is given up, and the stream with it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(120);
/// A reader says that its peer is alive once per so many bytes of a frame.
const ALIVE_BYTES: usize = 256 << 10;

/// What the tasks tell the loop.
#[derive(Debug)]
pub(super) enum Report {
    /// A message, its blocks hashed.
    Message { peer: PeerId, message: Message, blocks: Vec<Block>, permit: Option<Arc<OwnedSemaphorePermit>> },
    /// A part of a long message.
    Alive(PeerId),
    /// A batch of answers was written.
    Sent { peer: PeerId, blocks: usize, bytes: usize },
    /// The peer takes no wants.
    WantsFailed { peer: PeerId, link: u64 },
    /// The peer takes no answers.
    AnswersFailed { peer: PeerId, link: u64 },
}

/// What a batch of answers holds.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) blocks: Vec<(Cid, bool)>,
    pub(super) presences: Vec<Presence>,
}

/// What every task needs.
#[derive(Clone)]
pub(super) struct Tools {
    pub(super) world: World,
    pub(super) store: BlockStore,
    pub(super) reports: mpsc::Sender<Report>,
    /// Bytes of blocks that were read and not yet taken by whoever wants them.
    pub(super) received: Arc<Semaphore>,
    pub(super) received_bytes: usize,
    pub(super) batch_bytes: usize,
}

/// Reads messages until the stream ends. What is no message ends it and is held against the peer.
pub(super) async fn read_messages(tools: Tools, inbound: Inbound) {
    let peer = inbound.peer;
    let mut frames = Frames { stream: inbound.stream, buffer: BytesMut::new() };
    loop {
        let frame = match frames.next(peer, &tools.reports).await {
            Ok(Some(frame)) => frame,
            Ok(None) => return,
            Err(ReadError::Io(error)) => return tracing::trace!(%peer, %error, "bitswap stream broke"),
            Err(ReadError::Frame(error)) => {
                tracing::debug!(%peer, %error, "bitswap stream refused");
                return tools.world.network.penalise(peer, Misbehaviour::Malformed);
            }
        };
        let mut message = match decode(&frame) {
            Ok(message) => message,
            Err(error) => {
                tracing::debug!(%peer, %error, "bitswap message refused");
                return tools.world.network.penalise(peer, Misbehaviour::Malformed);
            }
        };
        let payload = std::mem::take(&mut message.payload);
        let permit = match payload.is_empty() {
            true => None,
            false => {
                let bytes = frame.len().min(tools.received_bytes) as u32;
                match tools.received.clone().acquire_many_owned(bytes).await {
                    Ok(permit) => Some(Arc::new(permit)),
                    Err(_) => return,
                }
            }
        };
        // Hashed here, on the task that reads: measured faster on few cores than any other place.
        let hash = |Payload { prefix, data }: Payload| prefix.cid(&data).map(|cid| Block { cid, data });
        let blocks = payload.into_iter().filter_map(hash).collect();
        if tools.reports.send(Report::Message { peer, message, blocks, permit }).await.is_err() {
            return;
        }
    }
}

enum ReadError {
    Io(io::Error),
    Frame(FrameError),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

struct Frames {
    stream: BoxStream,
    buffer: BytesMut,
}

impl Frames {
    /// The next frame; `None` at the end of the stream. Short frames are slices of the read buffer; what is missing of
    /// a long one is read to where it stays.
    async fn next(&mut self, peer: PeerId, reports: &mpsc::Sender<Report>) -> Result<Option<Bytes>, ReadError> {
        loop {
            if let Some((bytes, prefix)) = length(&self.buffer).map_err(ReadError::Frame)? {
                self.buffer.advance(prefix);
                if self.buffer.len() >= bytes {
                    return Ok(Some(self.buffer.split_to(bytes).freeze()));
                }
                let mut have = self.buffer.len();
                let mut frame = BytesMut::zeroed(bytes);
                frame[..have].copy_from_slice(&self.buffer);
                self.buffer.clear();
                let mut told = have;
                while have < bytes {
                    let read = self.stream.read(&mut frame[have..]).await?;
                    if read == 0 {
                        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                    }
                    have += read;
                    if have - told >= ALIVE_BYTES {
                        told = have;
                        // Only a hint: when the loop is busy it may be left out.
                        let _ = reports.try_send(Report::Alive(peer));
                    }
                }
                return Ok(Some(frame.freeze()));
            }
            let have = self.buffer.len();
            self.buffer.resize(have + READ_BYTES, 0);
            let read = self.stream.read(&mut self.buffer[have..]).await?;
            self.buffer.truncate(have + read);
            if read == 0 {
                return if have == 0 { Ok(None) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()) };
            }
        }
    }
}

/// Length of the frame at the start of `buffer` and of its prefix.
fn length(buffer: &[u8]) -> Result<Option<(usize, usize)>, FrameError> {
    let mut value = 0usize;
    for (index, &byte) in buffer.iter().enumerate().take(4) {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            if value > MAX_MESSAGE_BYTES {
                return Err(FrameError::TooLong { bytes: value, max_bytes: MAX_MESSAGE_BYTES });
            }
            return Ok(Some((value, index + 1)));
        }
    }
    // Four bytes hold lengths up to 256 MiB, far over the limit.
    if buffer.len() < 4 { Ok(None) } else { Err(FrameError::Prefix) }
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
            Err(_) if had_stream => self.try_write(message).await,
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
        let slices = encode(message, version);
        let clock = &*self.tools.world.clock;
        let write = async {
            for slice in &slices {
                stream.write_all(slice).await?;
            }
            stream.flush().await
        };
        timeout_at(clock, clock.now() + WRITE_TIMEOUT, write).await.map_err(|_| io::ErrorKind::TimedOut)??;
        self.stream = Some((version, stream));
        Ok(())
    }
}

/// Writes wants as they come, all that wait in one message.
pub(super) async fn write_wants(tools: Tools, peer: PeerId, link: u64, mut queue: mpsc::Receiver<Vec<Want>>) {
    let mut outbound = Outbound { tools: tools.clone(), peer, stream: None };
    while let Some(mut wants) = queue.recv().await {
        while let Ok(mut more) = queue.try_recv() {
            wants.append(&mut more);
        }
        if let Err(error) = outbound.write(&Message { wants, ..Message::default() }).await {
            tracing::debug!(%peer, %error, "wants not sent");
            // The loop is gone when this fails, and nobody needs to know.
            let _ = tools.reports.send(Report::WantsFailed { peer, link }).await;
            return;
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
    let mut rest = VecDeque::new();
    let (mut blocks, mut bytes) = (0, 0);
    let mut piece = read_piece(&tools, &mut rest, &mut queue).await;
    while let Some(current) = piece {
        blocks += current.blocks;
        bytes += current.bytes;
        let write = async {
            for message in &current.messages {
                outbound.write(message).await?;
            }
            if current.ends_batch {
                let report = Report::Sent { peer, blocks, bytes };
                (blocks, bytes) = (0, 0);
                tools.reports.send(report).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
            }
            Ok::<_, io::Error>(())
        };
        // When writing fails nothing more is to be read, so that future must not be waited for.
        let read = read_piece(&tools, &mut rest, &mut queue);
        let (written, next) = match futures::future::select(std::pin::pin!(write), std::pin::pin!(read)).await {
            futures::future::Either::Left((Ok(()), read)) => (Ok(()), read.await),
            futures::future::Either::Left((Err(error), _)) => (Err(error), None),
            futures::future::Either::Right((next, write)) => (write.await, next),
        };
        if let Err(error) = written {
            tracing::debug!(%peer, %error, "answers not sent");
            let _ = tools.reports.send(Report::AnswersFailed { peer, link }).await;
            return;
        }
        piece = next;
    }
}

async fn read_piece(
    tools: &Tools,
    rest: &mut VecDeque<(Cid, bool)>,
    queue: &mut mpsc::Receiver<Batch>,
) -> Option<Piece> {
    let mut first = Message::default();
    if rest.is_empty() {
        let batch = queue.recv().await?;
        rest.extend(batch.blocks);
        first.presences = batch.presences;
    }
    let mut piece = Piece { messages: Vec::new(), blocks: 0, bytes: 0, ends_batch: true };
    if !rest.is_empty() {
        let (store, limit, cids) = (tools.store.store().clone(), tools.batch_bytes, std::mem::take(rest));
        let read = move || {
            let (mut got, mut bytes, mut cids) = (Vec::new(), 0, cids);
            while bytes < limit
                && let Some((cid, say_no)) = cids.pop_front()
            {
                let data = store.get(&cid).ok().flatten();
                bytes += data.as_ref().map_or(0, Bytes::len);
                got.push((cid, say_no, data));
            }
            (got, cids)
        };
        let (got, left) = offload(&*tools.world.offload, read).await.ok()?;
        *rest = left;
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
    piece.ends_batch = rest.is_empty();
    Some(piece)
}
