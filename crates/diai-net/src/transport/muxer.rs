//! `/yamux/1.0.0` with big frames: libp2p-yamux hides the setting.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{self, Ready},
    iter,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use futures::io::{AsyncRead, AsyncWrite};
use libp2p::core::{
    muxing::{StreamMuxer, StreamMuxerEvent},
    upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo},
};
use yamux::{Connection, ConnectionError, DEFAULT_CREDIT, Mode, Stream};

/// Payload of a data frame, at most. Each frame costs a flush, hence a system call; Yamux alone would send 16 KiB. With its
/// header it just fits one message of Noise (64,511 bytes), four records of TLS, what rustls takes at a time, and
/// one read of the peer (`buffered.rs`), which 64 KiB would all pass by a few bytes.
const FRAME_BYTES: usize = 62 << 10;
/// What the windows of all streams of a connection may grow by, beyond the 256 KiB that Yamux promises each: a slow
/// reader can make us hold as much. No window may grow beyond 1 MiB: js-libp2p sends frames as long as the window, and
/// longer ones than that `yamux` takes for an attack and ends the connection. One stream fills 100 Mbit/s over 80 ms; for
/// more there is QUIC, whose windows are others.
const GROWTH_BYTES: usize = 768 << 10;
/// Streams that the peer opened and nobody took yet; more are reset. As many may wait for an acknowledgement.
const MAX_WAITING: usize = 256;

/// The upgrade, for both roles.
#[derive(Debug, Clone)]
pub(crate) struct Yamux(yamux::Config);

impl Yamux {
    /// With so many streams on a connection, ours and the peer's together.
    pub(crate) fn new(max_streams: u16) -> Self {
        let max_streams = usize::from(max_streams);
        let mut config = yamux::Config::default();
        config
            .set_max_connection_receive_window(None)
            .set_max_num_streams(max_streams)
            .set_max_connection_receive_window(Some(max_streams * DEFAULT_CREDIT as usize + GROWTH_BYTES))
            .set_split_send_size(FRAME_BYTES);
        Self(config)
    }
}

impl UpgradeInfo for Yamux {
    type Info = &'static str;
    type InfoIter = iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        iter::once("/yamux/1.0.0")
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> InboundConnectionUpgrade<C> for Yamux {
    type Output = Muxer<C>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, io: C, _: Self::Info) -> Self::Future {
        future::ready(Ok(Muxer::new(io, self.0, Mode::Server)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> OutboundConnectionUpgrade<C> for Yamux {
    type Output = Muxer<C>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, io: C, _: Self::Info) -> Self::Future {
        future::ready(Ok(Muxer::new(io, self.0, Mode::Client)))
    }
}

/// A connection ended.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) struct MuxerError(#[from] ConnectionError);

/// A Yamux connection.
#[derive(Debug)]
pub(crate) struct Muxer<C> {
    connection: Connection<C>,
    /// Yamux moves only while it is asked for new streams: those that came up meanwhile.
    waiting: VecDeque<Stream>,
    /// Who would like one.
    taker: Option<Waker>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Muxer<C> {
    fn new(io: C, config: yamux::Config, mode: Mode) -> Self {
        Self { connection: Connection::new(io, config, mode), waiting: VecDeque::new(), taker: None }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Stream, MuxerError>> {
        let next = ready!(self.connection.poll_next_inbound(cx));
        Poll::Ready(next.unwrap_or(Err(ConnectionError::Closed)).map_err(MuxerError))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Muxer<C> {
    type Substream = Stream;
    type Error = MuxerError;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Stream, MuxerError>> {
        if let Some(stream) = self.waiting.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        let next = self.poll_next(cx);
        if next.is_pending() {
            self.taker = Some(cx.waker().clone());
        }
        next
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Stream, MuxerError>> {
        self.connection.poll_new_outbound(cx).map_err(MuxerError)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), MuxerError>> {
        self.connection.poll_close(cx).map_err(MuxerError)
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, MuxerError>> {
        let this = self.get_mut();
        let stream = ready!(this.poll_next(cx))?;
        if this.waiting.len() < MAX_WAITING {
            this.waiting.push_back(stream);
            if let Some(taker) = this.taker.take() {
                taker.wake();
            }
        } else {
            tracing::debug!(%stream, "reset: too many wait");
        }
        // Yamux may have more; others on this task go first.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
