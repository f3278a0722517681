use std::{
    convert::Infallible,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use diai_core::{BoxFuture, PeerId};
use libp2p::{
    Stream, StreamProtocol,
    swarm::{
        ConnectionHandler, ConnectionHandlerEvent, ConnectionId, StreamUpgradeError, SubstreamProtocol,
        handler::{
            ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound, ProtocolsChange,
        },
    },
};
use tokio::sync::{mpsc, oneshot};

use super::{
    peer::Route,
    shared::Shared,
    upgrade::{Negotiated, Protocols},
};
use crate::hello::{self, Hello, HelloError};

/// Streams of one connection that are being negotiated at a time; more wait in the queue.
const MAX_NEGOTIATING: usize = 64;
/// Hellos that a peer may begin on one connection: the first, and one for each new certificate.
const MAX_HELLOS: u32 = 32;

/// Asks a connection for a stream.
#[derive(Debug)]
pub(crate) struct OpenRequest {
    pub(crate) protocols: Arc<[StreamProtocol]>,
    pub(crate) reply: oneshot::Sender<Result<Negotiated, OpenFailure>>,
}

/// Why a connection gave no stream.
#[derive(Debug)]
pub enum OpenFailure {
    Unsupported,
    Timeout,
    Broken(String),
}

/// What the behaviour tells a connection.
#[derive(Debug)]
pub enum Command {
    /// Show our certificate (again).
    Greet,
}

/// What an outbound stream is for.
#[derive(Debug)]
pub enum Purpose {
    Hello,
    Request(oneshot::Sender<Result<Negotiated, OpenFailure>>),
}

/// A hello that this side begins.
enum Greeting {
    Idle,
    Due,
    /// A stream for it is being opened.
    Opening,
    Running(Running),
}

/// A hello under way.
type Running = BoxFuture<'static, Result<Step, HelloError>>;

enum Step {
    /// We believe the peer, and it believes our certificate with this number.
    Done(Hello, u64),
    /// We believe the peer; tell it so on this stream.
    Believed(Hello, Stream),
}

/// One connection's part: opens streams when asked, hands over those that the peer opens, runs the hello. It lives in the
/// connection's own task, so that nothing of this passes the swarm's.
pub struct Handler {
    shared: Arc<Shared>,
    peer: PeerId,
    connection: ConnectionId,
    route: Route,
    /// Handed to the shared state at the first poll: from then on the connection is sure to be reported closed.
    opener: Option<mpsc::Sender<OpenRequest>>,
    requests: mpsc::Receiver<OpenRequest>,
    negotiating: usize,
    keep: Arc<AtomicBool>,
    greeting: Greeting,
    /// A hello that the peer began; both may begin one at the same time, to show a new certificate.
    greeted: Option<Running>,
    hellos_left: u32,
    /// Fires when the first hello takes too long; `None` once it is settled either way.
    patience: Option<BoxFuture<'static, ()>>,
    believed: Option<Hello>,
    /// The peer listed the hello among its protocols.
    speaks_hello: bool,
}

impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handler")
            .field("peer", &self.peer)
            .field("connection", &self.connection)
            .finish_non_exhaustive()
    }
}

impl Handler {
    pub(crate) fn new(shared: Arc<Shared>, peer: PeerId, connection: ConnectionId, route: Route) -> Self {
        let (opener, requests) = mpsc::channel(shared.limits.waiting_opens.max(1));
        let clock = &shared.parts.clock;
        let patience = clock.sleep_until(clock.now() + shared.limits.hello_timeout);
        Self {
            peer,
            connection,
            route,
            opener: Some(opener),
            requests,
            negotiating: 0,
            keep: Arc::default(),
            greeting: if route.dialled { Greeting::Due } else { Greeting::Idle },
            greeted: None,
            hellos_left: MAX_HELLOS,
            patience: Some(patience),
            believed: None,
            speaks_hello: false,
            shared,
        }
    }

    fn greet(&mut self, mut stream: Stream) {
        let (shared, peer) = (Arc::clone(&self.shared), self.peer);
        self.greeting = Greeting::Running(self.in_time(async move {
            let own = shared.own_hello();
            let shown = hello::greet(&mut stream, &own, peer, &*shared.parts.clock).await?;
            Ok(Step::Done(shown, own.certificate.seq()))
        }));
    }

    fn be_greeted(&mut self, mut stream: Stream) {
        if self.greeted.is_some() || self.hellos_left == 0 {
            return;
        }
        self.hellos_left -= 1;
        let (clock, peer) = (Arc::clone(&self.shared.parts.clock), self.peer);
        self.greeted = Some(self.in_time(async move {
            let shown = hello::read(&mut stream, peer, &*clock).await?;
            Ok(Step::Believed(shown, stream))
        }));
    }

    fn in_time(&self, step: impl Future<Output = Result<Step, HelloError>> + Send + 'static) -> Running {
        let clock = Arc::clone(&self.shared.parts.clock);
        let deadline = clock.now() + self.shared.limits.hello_timeout;
        Box::pin(
            async move { diai_core::timeout_at(&*clock, deadline, step).await.unwrap_or(Err(HelloError::Timeout)) },
        )
    }

    fn on_step(&mut self, step: Result<Step, HelloError>) {
        match step {
            Ok(Step::Done(shown, told)) => {
                self.patience = None;
                self.believed = Some(shown.clone());
                self.shared.certified(self.peer, self.connection, shown, told);
            }
            Ok(Step::Believed(shown, mut stream)) => {
                // The peer may open streams as soon as it has our answer, so it is believed before that leaves.
                self.believed = Some(shown.clone());
                let shared = Arc::clone(&self.shared);
                self.greeted = Some(self.in_time(async move {
                    let own = shared.own_hello();
                    hello::answer(&mut stream, &own).await?;
                    Ok(Step::Done(shown, own.certificate.seq()))
                }));
            }
            Err(error) => self.on_hello_failed(&error),
        }
    }

    /// Goes on with the hellos; whether anything came of that.
    fn poll_hellos(&mut self, cx: &mut Context<'_>) -> bool {
        if let Greeting::Running(greeting) = &mut self.greeting
            && let Poll::Ready(step) = greeting.as_mut().poll(cx)
        {
            self.greeting = Greeting::Idle;
            self.on_step(step);
            return true;
        }
        if let Some(greeted) = &mut self.greeted
            && let Poll::Ready(step) = greeted.as_mut().poll(cx)
        {
            self.greeted = None;
            self.on_step(step);
            return true;
        }
        false
    }

    fn on_hello_failed(&mut self, error: &HelloError) {
        if error.misbehaviour().is_some() || self.patience.take().is_some() {
            self.believed = None;
            self.shared.uncertified(self.peer, self.connection, error);
        }
    }

    fn on_outbound_failed(&mut self, purpose: Purpose, error: StreamUpgradeError<Infallible>) {
        match purpose {
            Purpose::Hello => {
                self.greeting = Greeting::Idle;
                self.on_hello_failed(&match error {
                    StreamUpgradeError::Timeout => HelloError::Timeout,
                    StreamUpgradeError::NegotiationFailed => HelloError::Unspoken,
                    other => HelloError::Stream(std::io::Error::other(other.to_string())),
                });
            }
            Purpose::Request(reply) => {
                self.negotiating -= 1;
                // Nobody waits any more if the opener was dropped.
                let _ = reply.send(Err(match error {
                    StreamUpgradeError::NegotiationFailed => OpenFailure::Unsupported,
                    StreamUpgradeError::Timeout => OpenFailure::Timeout,
                    StreamUpgradeError::Io(error) => OpenFailure::Broken(error.to_string()),
                    StreamUpgradeError::Apply(never) => match never {},
                }));
            }
        }
    }

    /// A peer that lists its protocols without a hello will not begin one.
    fn on_remote_protocols(&mut self, mut added: impl Iterator<Item = StreamProtocol>) {
        self.speaks_hello |= added.any(|protocol| protocol.as_ref() == hello::PROTOCOL.as_str());
        if matches!(self.greeting, Greeting::Idle)
            && self.greeted.is_none()
            && self.believed.is_none()
            && !self.speaks_hello
            && self.patience.take().is_some()
        {
            self.shared.uncertified(self.peer, self.connection, &HelloError::Unspoken);
        }
    }

    fn request(
        &self,
        protocols: Arc<[StreamProtocol]>,
        purpose: Purpose,
    ) -> ConnectionHandlerEvent<Protocols, Purpose, Infallible> {
        let protocol = SubstreamProtocol::new(Protocols(protocols), purpose);
        ConnectionHandlerEvent::OutboundSubstreamRequest {
            protocol: protocol.with_timeout(self.shared.limits.open_timeout),
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Command;
    type ToBehaviour = Infallible;
    type InboundProtocol = Protocols;
    type OutboundProtocol = Protocols;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Purpose;

    fn listen_protocol(&self) -> SubstreamProtocol<Protocols> {
        SubstreamProtocol::new(Protocols(self.shared.accepted_protocols()), ())
    }

    fn connection_keep_alive(&self) -> bool {
        self.keep.load(Ordering::Relaxed) || self.negotiating > 0 || self.patience.is_some()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Protocols, Purpose, Infallible>> {
        if let Some(opener) = self.opener.take() {
            self.shared.connected(self.peer, self.connection, self.route, opener, Arc::clone(&self.keep));
        }
        loop {
            if matches!(self.greeting, Greeting::Due) {
                self.greeting = Greeting::Opening;
                let protocols = Arc::from([StreamProtocol::new(hello::PROTOCOL.as_str())]);
                return Poll::Ready(self.request(protocols, Purpose::Hello));
            }
            if self.poll_hellos(cx) {
                continue;
            }
            if let Some(patience) = &mut self.patience
                && patience.as_mut().poll(cx).is_ready()
            {
                self.on_hello_failed(&HelloError::Timeout);
            }
            if self.negotiating < MAX_NEGOTIATING
                && let Poll::Ready(Some(OpenRequest { protocols, reply })) = self.requests.poll_recv(cx)
            {
                if reply.is_closed() {
                    continue;
                }
                self.negotiating += 1;
                return Poll::Ready(self.request(protocols, Purpose::Request(reply)));
            }
            return Poll::Pending;
        }
    }

    fn on_behaviour_event(&mut self, Command::Greet: Command) {
        if matches!(self.greeting, Greeting::Idle) {
            self.greeting = Greeting::Due;
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Protocols, Protocols, (), Purpose>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, protocol), ..
            }) => {
                if protocol.as_ref() == hello::PROTOCOL.as_str() {
                    self.be_greeted(stream);
                } else {
                    let agent = self.believed.as_ref().map(|shown| shown.certificate.agent());
                    self.shared.deliver(self.peer, agent, protocol.as_ref(), stream);
                }
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info }) => match info {
                Purpose::Hello => self.greet(protocol.0),
                Purpose::Request(reply) => {
                    self.negotiating -= 1;
                    // If the opener was dropped, the stream is dropped with it.
                    let _ = reply.send(Ok(protocol));
                }
            },
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => self.on_outbound_failed(info, error),
            ConnectionEvent::RemoteProtocolsChange(ProtocolsChange::Added(added)) => {
                self.on_remote_protocols(added.cloned());
            }
            _ => {}
        }
    }
}
