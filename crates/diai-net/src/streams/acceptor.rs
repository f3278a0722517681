use std::{
    collections::BTreeMap,
    io::{self, IoSlice, IoSliceMut},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use diai_core::{AcceptOptions, AgentId, Inbound, PeerId, ProtocolId};
use futures::{AsyncRead, AsyncWrite};
use libp2p::Stream;
use tokio::sync::mpsc;

/// Where the streams of one `accept` go.
#[derive(Debug)]
pub(crate) struct Acceptor {
    queue: mpsc::Sender<Inbound>,
    options: AcceptOptions,
    open: Arc<Mutex<BTreeMap<PeerId, usize>>>,
}

impl Acceptor {
    pub(crate) fn new(options: AcceptOptions) -> (Self, mpsc::Receiver<Inbound>) {
        let (queue, streams) = mpsc::channel(options.max_waiting.max(1));
        (Self { queue, options, open: Arc::default() }, streams)
    }

    /// Queues a stream for whoever accepts; refuses it (by dropping it) if the peer showed no certificate where one is
    /// needed, has too many open, or nobody takes them.
    pub(crate) fn offer(&self, peer: PeerId, agent: Option<AgentId>, protocol: ProtocolId, stream: Stream) {
        if agent.is_none() && (!self.options.uncertified || is_own(protocol.as_str())) {
            tracing::debug!(%peer, %protocol, "refused a stream: no certificate was shown");
            return;
        }
        let Some(place) = self.place(peer) else {
            tracing::debug!(%peer, %protocol, "refused a stream: too many of this peer are open");
            return;
        };
        let stream = Box::new(Counted { stream, _permit: place });
        if self.queue.try_send(Inbound { peer, agent, protocol, stream }).is_err() {
            tracing::debug!(%peer, %protocol, "refused a stream: too many wait to be accepted");
        }
    }

    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.open.lock().unwrap().is_empty()
    }

    fn place(&self, peer: PeerId) -> Option<Place> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.get(&peer).copied().unwrap_or(0);
        if count >= self.options.max_per_peer {
            return None;
        }
        open.insert(peer, count + 1);
        Some(Place { open: Arc::clone(&self.open), peer })
    }
}

/// Whether a protocol is one of ours, spoken only with those who showed a certificate.
pub(crate) fn is_own(protocol: &str) -> bool {
    protocol.starts_with("/diai/")
}

/// A peer's place among the open streams of an acceptor, free again when dropped.
#[derive(Debug)]
struct Place {
    open: Arc<Mutex<BTreeMap<PeerId, usize>>>,
    peer: PeerId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.peer);
            }
        }
    }
}

/// A stream, and the permit that is given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Counted<P> {
    pub(crate) stream: Stream,
    pub(crate) _permit: P,
}

impl<P: Unpin> AsyncRead for Counted<P> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_read_vectored(cx, buffers)
    }
}

impl<P: Unpin> AsyncWrite for Counted<P> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}
