//! Reading messages off a stream, with bounds on what that takes.

use std::{io, pin::pin, sync::Arc, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use diai_core::{BoxStream, PeerId, frame::FrameError, timeout_at};
use futures::AsyncReadExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    message::MAX_MESSAGE_BYTES,
    streams::{Report, Tools},
};

/// Bytes that a reader asks for at a time while it has no long frame before it; longer ones need a permit.
const READ_BYTES: usize = 16 << 10;
/// A reader says so often that its peer is alive: while a frame comes, and while it waits for us to make room.
const ALIVE_EVERY: Duration = Duration::from_millis(500);
/// A frame of which not even so much comes in this time is given up, and the stream with it.
const LEAST_PROGRESS: (usize, Duration) = (64 << 10, Duration::from_secs(10));

pub(super) enum ReadError {
    Io(io::Error),
    Frame(FrameError),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Room for a frame: of what one peer may take, and of what all may.
pub(super) type FramePermit = (OwnedSemaphorePermit, OwnedSemaphorePermit);

pub(super) struct Frames {
    tools: Tools,
    peer: PeerId,
    /// Bytes of frames that this peer may have under way.
    room: Arc<Semaphore>,
    stream: BoxStream,
    buffer: BytesMut,
}

impl Frames {
    pub(super) fn new(tools: Tools, peer: PeerId, room: Arc<Semaphore>, stream: BoxStream) -> Self {
        Self { tools, peer, room, stream, buffer: BytesMut::new() }
    }

    /// The next frame; `None` at the end of the stream. Short frames are slices of the read buffer; what is missing of
    /// a long one is read to where it stays.
    pub(super) async fn next(&mut self) -> Result<Option<(Bytes, Option<FramePermit>)>, ReadError> {
        loop {
            if let Some((bytes, prefix)) = length(&self.buffer).map_err(ReadError::Frame)? {
                self.buffer.advance(prefix);
                if self.buffer.len() >= bytes {
                    return Ok(Some((self.buffer.split_to(bytes).freeze(), None)));
                }
                let permit = match bytes > READ_BYTES {
                    true => {
                        let own = acquire(&self.tools, self.peer, &self.room, bytes).await?;
                        Some((own, acquire(&self.tools, self.peer, &self.tools.reading, bytes).await?))
                    }
                    false => None,
                };
                return Ok(Some((self.rest(bytes).await?, permit)));
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

    /// The frame of `bytes` bytes that the buffer begins with.
    async fn rest(&mut self, bytes: usize) -> Result<Bytes, ReadError> {
        let clock = self.tools.world.clock.clone();
        let mut have = self.buffer.len();
        let mut frame = BytesMut::zeroed(bytes);
        frame[..have].copy_from_slice(&self.buffer);
        self.buffer.clear();
        let mut now = clock.now();
        let (mut mark, mut deadline, mut tell) = (have, now + LEAST_PROGRESS.1, now + ALIVE_EVERY);
        while have < bytes {
            let read = timeout_at(&*clock, deadline, self.stream.read(&mut frame[have..])).await;
            let read = read.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            if read == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            have += read;
            now = clock.now();
            if have - mark >= LEAST_PROGRESS.0 {
                (mark, deadline) = (have, now + LEAST_PROGRESS.1);
            }
            if now >= tell {
                tell = now + ALIVE_EVERY;
                alive(&self.tools, self.peer);
            }
        }
        Ok(frame.freeze())
    }
}

/// Only a hint: when the loop is busy it may be left out.
fn alive(tools: &Tools, peer: PeerId) {
    let _ = tools.reports.try_send(Report::Alive(peer));
}

/// Waits for room. That is our doing, so the peer counts as alive meanwhile.
pub(super) async fn acquire(
    tools: &Tools,
    peer: PeerId,
    room: &Arc<Semaphore>,
    bytes: usize,
) -> io::Result<OwnedSemaphorePermit> {
    let clock = &*tools.world.clock;
    let mut acquired = pin!(room.clone().acquire_many_owned(bytes as u32));
    loop {
        match timeout_at(clock, clock.now() + ALIVE_EVERY, acquired.as_mut()).await {
            Ok(permit) => return permit.map_err(|_| io::ErrorKind::BrokenPipe.into()),
            Err(_) => alive(tools, peer),
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
