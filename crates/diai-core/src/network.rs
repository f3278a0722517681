use std::{fmt, pin::Pin, task::Context, task::Poll, time::Duration};

use bytes::Bytes;
use futures::{
    Stream,
    io::{AsyncRead, AsyncWrite},
    stream::BoxStream as BoxedItems,
};

use crate::{AgentId, BoxFuture, Multiaddr, PeerId};

/// The name of a stream protocol, such as `/diai/hello/1`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProtocolId(&'static str);

impl ProtocolId {
    /// The protocol called `name`, which starts with `/`.
    pub const fn new(name: &'static str) -> Self {
        assert!(!name.is_empty() && name.as_bytes()[0] == b'/', "a protocol name starts with a slash");
        Self(name)
    }

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for ProtocolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Debug for ProtocolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// A stream of bytes in both directions.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// A boxed [`ByteStream`]: one box per stream, none per frame.
pub type BoxStream = Box<dyn ByteStream>;

/// Streams to other devices. A device is known by its [`PeerId`], proven by the transport; the agent it belongs to by
/// the certificate it showed in `/diai/hello/1`.
///
/// Implementations run the hello themselves: no stream of a `/diai/` protocol is handed out, and no [`PeerInfo`] carries
/// an agent, before the other side's certificate was verified for this very connection.
pub trait Network: Send + Sync + 'static {
    /// This device.
    fn local_peer(&self) -> PeerId;

    /// Where others can dial this device, each ending in `/p2p/<peer>`.
    fn local_addrs(&self) -> Vec<Multiaddr>;

    /// Opens a stream to `peer` for the first of `protocols` that it speaks. Dials first, with the addresses known, if
    /// there is no connection. Bounded in time (10 s), and cancel-safe: a dropped future leaves no stream behind.
    fn open(&self, peer: PeerId, protocols: &[ProtocolId]) -> BoxFuture<'static, Result<Opened, OpenError>>;

    /// Takes the streams that others open for `protocols`, until the [`Incoming`] is dropped.
    fn accept(&self, protocols: &[ProtocolId], options: AcceptOptions) -> Result<Incoming, AcceptError>;

    /// Connects to `peer` at any of `addrs` (and those known already) and waits for the hello. Returns at once if
    /// connected.
    fn connect(&self, peer: PeerId, addrs: Vec<Multiaddr>) -> BoxFuture<'static, Result<PeerInfo, OpenError>>;

    /// Connects to whoever answers at `addr`, with or without `/p2p/<peer>` at its end, and waits for the hello.
    fn dial(&self, addr: Multiaddr) -> BoxFuture<'static, Result<PeerInfo, OpenError>>;

    /// Remembers where `peer` can be dialled; capped per peer, the oldest forgotten first.
    fn add_addrs(&self, peer: PeerId, addrs: Vec<Multiaddr>);

    /// The connected devices, sorted.
    fn peers(&self) -> Vec<PeerInfo>;

    /// The connected device `peer`.
    fn peer(&self, peer: PeerId) -> Option<PeerInfo>;

    /// Peers as they come and go, from now on.
    fn events(&self) -> PeerEvents;

    /// Reports what a peer did wrong. Enough of it and the peer is cut off for a while.
    fn penalise(&self, peer: PeerId, misbehaviour: Misbehaviour);
}

/// A stream that was opened, and the protocol that both sides agreed on.
pub struct Opened {
    /// What the stream speaks.
    pub protocol: ProtocolId,
    /// The stream.
    pub stream: BoxStream,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("protocol", &self.protocol).finish_non_exhaustive()
    }
}

/// A stream that another device opened.
pub struct Inbound {
    /// Who opened it.
    pub peer: PeerId,
    /// The agent that the device belongs to; always there unless [`AcceptOptions::uncertified`].
    pub agent: Option<AgentId>,
    /// What the stream speaks.
    pub protocol: ProtocolId,
    /// The stream.
    pub stream: BoxStream,
}

impl fmt::Debug for Inbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbound")
            .field("peer", &self.peer)
            .field("agent", &self.agent)
            .field("protocol", &self.protocol)
            .finish_non_exhaustive()
    }
}

/// How to accept streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AcceptOptions {
    /// Streams that may wait to be taken, from all peers together; more are refused. Default 64.
    pub max_waiting: usize,
    /// Streams of one peer that may be open at a time; more are refused. Default 64.
    pub max_per_peer: usize,
    /// Take streams from devices that showed no certificate. Only for standard protocols such as Bitswap. Default no.
    pub uncertified: bool,
}

impl Default for AcceptOptions {
    fn default() -> Self {
        Self { max_waiting: 64, max_per_peer: 64, uncertified: false }
    }
}

/// The streams that others open. Dropping it stops accepting.
pub struct Incoming(BoxedItems<'static, Inbound>);

impl Incoming {
    /// Wraps whatever yields the streams.
    pub fn new(streams: impl Stream<Item = Inbound> + Send + 'static) -> Self {
        Self(Box::pin(streams))
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Incoming")
    }
}

impl Stream for Incoming {
    type Item = Inbound;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Inbound>> {
        self.0.as_mut().poll_next(cx)
    }
}

/// A connected device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerInfo {
    /// The device.
    pub peer: PeerId,
    /// The agent it belongs to; `None` before the hello, and for devices that speak no diAI.
    pub agent: Option<AgentId>,
    /// The certificate that it showed, as `diai-identity` encodes it; verified.
    pub certificate: Option<Bytes>,
    /// Where it can be dialled, as far as known.
    pub addrs: Vec<Multiaddr>,
    /// The latest round-trip time, if measured.
    pub rtt: Option<Duration>,
}

/// A peer came or went.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerEvent {
    /// Connected, and the hello done. Comes again when a new certificate was shown.
    Connected(PeerInfo),
    /// The last connection closed.
    Disconnected(PeerId),
    /// This subscriber was too slow and missed events: look at [`Network::peers`] again.
    Missed,
}

/// A subscription to [`PeerEvent`]s. Ends when the World shuts down.
pub struct PeerEvents(BoxedItems<'static, PeerEvent>);

impl PeerEvents {
    /// Wraps whatever yields the events.
    pub fn new(events: impl Stream<Item = PeerEvent> + Send + 'static) -> Self {
        Self(Box::pin(events))
    }
}

impl fmt::Debug for PeerEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerEvents")
    }
}

impl Stream for PeerEvents {
    type Item = PeerEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<PeerEvent>> {
        self.0.as_mut().poll_next(cx)
    }
}

/// What a peer did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Misbehaviour {
    /// Bytes that are no message of the protocol.
    Malformed,
    /// A signature, certificate or record that does not verify.
    Forged,
    /// Content that does not hash to what was asked for.
    WrongContent,
    /// A message that the protocol does not allow here.
    Violation,
    /// More requests or bytes than agreed.
    Flooding,
    /// Nothing, where the protocol demands an answer.
    Silent,
}

impl Misbehaviour {
    /// Penalty points. At 100 a peer is cut off; points halve every minute.
    pub const fn points(self) -> u32 {
        match self {
            Self::Malformed | Self::Forged | Self::WrongContent => 100,
            Self::Violation => 50,
            Self::Flooding => 20,
            Self::Silent => 5,
        }
    }
}

/// Why no stream could be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No address is known, or none answered.
    #[error("cannot reach {peer}: {reason}")]
    Unreachable {
        /// Who was dialled.
        peer: String,
        /// What was tried.
        reason: String,
    },
    /// The peer speaks none of the protocols.
    #[error("{peer} does not speak {protocol}")]
    Unsupported {
        /// Who was asked.
        peer: PeerId,
        /// The first protocol that was asked for.
        protocol: ProtocolId,
    },
    /// The peer did not answer in time.
    #[error("{peer} did not answer in time")]
    Timeout {
        /// Who was asked.
        peer: PeerId,
    },
    /// The peer's certificate was refused, or it showed none.
    #[error("{peer} showed no valid certificate: {reason}")]
    Uncertified {
        /// Who was asked.
        peer: PeerId,
        /// What was wrong.
        reason: String,
    },
    /// The peer is cut off for misbehaviour.
    #[error("{peer} is cut off for misbehaviour")]
    CutOff {
        /// Who it is.
        peer: PeerId,
    },
    /// Too many streams are open or being opened to the peer.
    #[error("{limit} streams to {peer} are open already; close some or raise the limit")]
    TooMany {
        /// Who was asked.
        peer: PeerId,
        /// The cap.
        limit: usize,
    },
    /// The World has shut down.
    #[error("the network has shut down")]
    Closed,
}

/// Why streams cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// Somebody else accepts this protocol already.
    #[error("{0} is accepted already; drop the other Incoming first")]
    Taken(ProtocolId),
    /// The World has shut down.
    #[error("the network has shut down")]
    Closed,
}
