//! One direction of a stream: bytes under way, in order.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::{Buf, Bytes};
use futures::io::{AsyncRead, AsyncWrite};

use super::state::{Event, Shared, mix};
use crate::{Instant, PeerId, ProtocolId};

/// Bytes under way on one wire; more make the writer wait.
const WINDOW_BYTES: usize = 256 * 1024;

pub(super) struct Wire {
    pub(super) from: PeerId,
    pub(super) to: PeerId,
    chunks: VecDeque<(Instant, Bytes)>,
    under_way_bytes: usize,
    /// The end of the stream arrives then.
    end: Option<Instant>,
    last_arrival: Instant,
    pub(super) broken: bool,
    reader_gone: bool,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
}

impl Wire {
    pub(super) fn new(from: PeerId, to: PeerId) -> Self {
        Self {
            from,
            to,
            chunks: VecDeque::new(),
            under_way_bytes: 0,
            end: None,
            last_arrival: Instant::default(),
            broken: false,
            reader_gone: false,
            reader: None,
            writer: None,
        }
    }
}

/// One end of a stream. Dropping it closes the way out and resets the way in.
pub(super) struct End {
    pub(super) shared: Arc<Shared>,
    pub(super) inward: u64,
    pub(super) outward: u64,
    /// The acceptor whose count falls when this end is dropped.
    pub(super) counted: Option<(PeerId, ProtocolId, PeerId)>,
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

impl AsyncRead for End {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut state = self.shared.lock();
        let now = state.now;
        let Some(wire) = state.wires.get_mut(&self.inward) else { return Poll::Ready(Err(reset())) };
        if wire.broken {
            return Poll::Ready(Err(reset()));
        }
        let mut read = 0;
        while let Some((at, chunk)) = wire.chunks.front_mut() {
            if *at > now || read == buffer.len() {
                break;
            }
            let length = chunk.len().min(buffer.len() - read);
            chunk.copy_to_slice(&mut buffer[read..read + length]);
            read += length;
            if chunk.is_empty() {
                wire.chunks.pop_front();
            }
        }
        wire.under_way_bytes -= read;
        if read > 0 || buffer.is_empty() {
            let writer = wire.writer.take();
            drop(state);
            if let Some(writer) = writer {
                writer.wake();
            }
            return Poll::Ready(Ok(read));
        }
        if wire.chunks.is_empty() && wire.end.is_some_and(|end| end <= now) {
            return Poll::Ready(Ok(0));
        }
        wire.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.shared.lock();
        let latency = state.latency();
        let now = state.now;
        let Some(wire) = state.wires.get_mut(&self.outward) else { return Poll::Ready(Err(reset())) };
        if wire.broken || wire.reader_gone {
            return Poll::Ready(Err(reset()));
        }
        if wire.end.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let length = data.len().min(WINDOW_BYTES - wire.under_way_bytes);
        if length == 0 && !data.is_empty() {
            wire.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let at = (now + latency).max(wire.last_arrival);
        wire.last_arrival = at;
        wire.under_way_bytes += length;
        wire.chunks.push_back((at, Bytes::copy_from_slice(&data[..length])));
        let content = data[..length]
            .iter()
            .fold(0u64, |hash, &byte| (hash.rotate_left(7) ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        state.record_trace(&[now.as_nanos(), self.outward, length as u64, mix(content)]);
        state.schedule(at, Event::Arrive(self.outward));
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end_outward();
        Poll::Ready(Ok(()))
    }
}

impl End {
    fn end_outward(&self) {
        let mut state = self.shared.lock();
        let latency = state.latency();
        let now = state.now;
        let Some(wire) = state.wires.get_mut(&self.outward) else { return };
        if wire.end.is_some() {
            return;
        }
        let at = (now + latency).max(wire.last_arrival);
        wire.end = Some(at);
        state.schedule(at, Event::Arrive(self.outward));
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.end_outward();
        let mut wakers = Vec::new();
        {
            let mut state = self.shared.lock();
            if let Some(wire) = state.wires.get_mut(&self.inward) {
                wire.reader_gone = true;
                wire.chunks.clear();
                wakers.extend(wire.writer.take());
            }
            // A wire lives until both its ends are gone.
            let gone = |state: &super::state::State, wire: u64| {
                state.wires.get(&wire).is_some_and(|wire| wire.reader_gone && wire.end.is_some())
            };
            for wire in [self.inward, self.outward] {
                if gone(&state, wire) {
                    state.wires.remove(&wire);
                }
            }
            if let Some((device, protocol, from)) = self.counted.take()
                && let Some(acceptor) =
                    state.devices.get_mut(&device).and_then(|device| device.acceptors.get_mut(&protocol))
                && let Some(open) = acceptor.open.get_mut(&from)
            {
                *open = open.saturating_sub(1);
                if *open == 0 {
                    acceptor.open.remove(&from);
                }
            }
        }
        wakers.into_iter().for_each(Waker::wake);
    }
}
