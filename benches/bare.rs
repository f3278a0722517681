//! The bare alternative: two stock libp2p swarms, with open streams and with request-response.

use std::{collections::BTreeMap, future::Future, io, time::Duration};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt};
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol, Swarm, SwarmBuilder, noise,
    request_response::{self, ProtocolSupport},
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, tls, yamux,
};
use libp2p_stream::Control;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use crate::{Failure, Result};

/// Sends back whatever it reads, all that is there at a time.
pub(crate) const ECHO: StreamProtocol = StreamProtocol::new("/bench/echo/1");
/// Sends as many bytes as it is told by the first eight.
pub(crate) const BULK: StreamProtocol = StreamProtocol::new("/bench/bulk/1");
const CALLS: StreamProtocol = StreamProtocol::new("/bench/calls/1");
/// Bytes of bulk that are written, and read, at a time.
pub(crate) const PIECE: usize = 1 << 20;
/// Bytes of a call's body.
pub(crate) const BODY: usize = 64;

/// Which cipher guards the connection.
#[derive(Clone, Copy)]
pub(crate) enum Security {
    /// TLS, as an agent prefers; Noise is offered too, as an agent does.
    Tls,
    Noise,
}

type Body = [u8; BODY];
type Ask = (Body, oneshot::Sender<Body>);

/// A codec that adds nothing to 64 bytes.
#[derive(Clone, Default)]
struct Plain;

async fn read_body(io: &mut (impl AsyncRead + Unpin + Send)) -> io::Result<Body> {
    let mut body = [0; BODY];
    io.read_exact(&mut body).await?;
    Ok(body)
}

impl request_response::Codec for Plain {
    type Protocol = StreamProtocol;
    type Request = Body;
    type Response = Body;

    async fn read_request<T: AsyncRead + Unpin + Send>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Body> {
        read_body(io).await
    }

    async fn read_response<T: AsyncRead + Unpin + Send>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Body> {
        read_body(io).await
    }

    async fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        body: Body,
    ) -> io::Result<()> {
        io.write_all(&body).await
    }

    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        body: Body,
    ) -> io::Result<()> {
        io.write_all(&body).await
    }
}

#[derive(NetworkBehaviour)]
struct Node {
    streams: libp2p_stream::Behaviour,
    calls: request_response::Behaviour<Plain>,
}

fn node() -> Node {
    let config = request_response::Config::default().with_max_concurrent_streams(4096);
    let calls = request_response::Behaviour::with_codec(Plain, [(CALLS, ProtocolSupport::Full)], config);
    Node { streams: libp2p_stream::Behaviour::new(), calls }
}

fn swarm(security: Security) -> Result<Swarm<Node>> {
    let builder = SwarmBuilder::with_new_identity().with_tokio();
    let (config, keep) = (tcp::Config::default(), Duration::from_secs(3600));
    let both = (tls::Config::new, noise::Config::new);
    Ok(match security {
        Security::Tls => builder
            .with_tcp(config, both, yamux::Config::default)?
            .with_behaviour(|_| node())?
            .with_swarm_config(|swarm| swarm.with_idle_connection_timeout(keep))
            .build(),
        Security::Noise => builder
            .with_tcp(config, noise::Config::new, yamux::Config::default)?
            .with_behaviour(|_| node())?
            .with_swarm_config(|swarm| swarm.with_idle_connection_timeout(keep))
            .build(),
    })
}

/// A swarm that listens and serves all protocols.
pub(crate) struct Server {
    pub(crate) peer: PeerId,
    pub(crate) addr: Multiaddr,
    _tasks: JoinSet<()>,
}

impl Server {
    pub(crate) async fn start(security: Security) -> Result<Self> {
        let mut swarm = swarm(security)?;
        let mut control = swarm.behaviour().streams.new_control();
        let mut tasks = JoinSet::new();
        let echo = control.accept(ECHO).map_err(|error| error.to_string())?;
        tasks.spawn(serve(echo, |stream| async move { drop(send_back(stream).await) }));
        let bulk = control.accept(BULK).map_err(|error| error.to_string())?;
        tasks.spawn(serve(bulk, |stream| async move { drop(send_bulk(stream).await) }));
        swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse()?)?;
        let addr = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                break address;
            }
        };
        let peer = *swarm.local_peer_id();
        tasks.spawn(async move {
            loop {
                let event = swarm.select_next_some().await;
                if let SwarmEvent::Behaviour(NodeEvent::Calls(request_response::Event::Message {
                    message: request_response::Message::Request { request, channel, .. },
                    ..
                })) = event
                {
                    // The peer may be gone by now.
                    let _ = swarm.behaviour_mut().calls.send_response(channel, request);
                }
            }
        });
        Ok(Self { peer, addr, _tasks: tasks })
    }
}

async fn serve<R: Future<Output = ()> + Send + 'static>(
    mut incoming: libp2p_stream::IncomingStreams,
    each: impl Fn(Stream) -> R + Send + 'static,
) {
    let mut streams = JoinSet::new();
    while let Some((_, stream)) = incoming.next().await {
        streams.spawn(each(stream));
    }
}

pub(crate) async fn send_back(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let bytes = stream.read(&mut buffer).await?;
        if bytes == 0 {
            return stream.close().await;
        }
        stream.write_all(&buffer[..bytes]).await?;
        stream.flush().await?;
    }
}

pub(crate) async fn send_bulk(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let piece: Vec<u8> = (0..PIECE).map(|at| (at % 251) as u8).collect();
    let mut length = [0; 8];
    while stream.read_exact(&mut length).await.is_ok() {
        let mut left = u64::from_le_bytes(length);
        while left > 0 {
            let bytes = left.min(PIECE as u64);
            stream.write_all(&piece[..bytes as usize]).await?;
            left -= bytes;
        }
        stream.flush().await?;
    }
    Ok(())
}

/// A swarm that is connected to a [`Server`].
pub(crate) struct Client {
    server: PeerId,
    control: Control,
    asks: mpsc::Sender<Ask>,
    _tasks: JoinSet<()>,
}

impl Client {
    /// Connects to the server at `addr`.
    pub(crate) async fn connect(security: Security, server: PeerId, addr: Multiaddr) -> Result<Self> {
        let mut swarm = swarm(security)?;
        swarm.dial(addr)?;
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::ConnectionEstablished { .. } => break,
                SwarmEvent::OutgoingConnectionError { error, .. } => return Err(Box::new(error)),
                _ => {}
            }
        }
        let control = swarm.behaviour().streams.new_control();
        let (asks, asked) = mpsc::channel(128);
        let mut tasks = JoinSet::new();
        tasks.spawn(drive(swarm, server, asked));
        Ok(Self { server, control, asks, _tasks: tasks })
    }

    /// Opens a stream.
    pub(crate) async fn open(&self, protocol: StreamProtocol) -> Result<Stream> {
        let opened = self.control.clone().open_stream(self.server, protocol).await;
        opened.map_err(|error| Failure::from(error.to_string()))
    }

    /// Where requests are handed in.
    pub(crate) fn caller(&self) -> Caller {
        Caller(self.asks.clone())
    }
}

/// Makes request-response calls of a [`Client`].
#[derive(Clone)]
pub(crate) struct Caller(mpsc::Sender<Ask>);

impl Caller {
    /// Calls and waits for the answer.
    pub(crate) async fn call(&self, body: Body) -> Body {
        let (answer, answered) = oneshot::channel();
        self.0.send((body, answer)).await.expect("the swarm runs");
        answered.await.expect("the server answers")
    }
}

async fn drive(mut swarm: Swarm<Node>, server: PeerId, mut asked: mpsc::Receiver<Ask>) {
    let mut waiting = BTreeMap::new();
    loop {
        tokio::select! {
            ask = asked.recv() => match ask {
                Some((body, answer)) => {
                    waiting.insert(swarm.behaviour_mut().calls.send_request(&server, body), answer);
                }
                None => return,
            },
            event = swarm.select_next_some() => {
                let SwarmEvent::Behaviour(NodeEvent::Calls(event)) = event else { continue };
                match event {
                    request_response::Event::Message {
                        message: request_response::Message::Response { request_id, response }, ..
                    } => {
                        if let Some(answer) = waiting.remove(&request_id) {
                            // The asker may have gone.
                            let _ = answer.send(response);
                        }
                    }
                    request_response::Event::OutboundFailure { error, .. } => panic!("a bare call failed: {error}"),
                    _ => {}
                }
            }
        }
    }
}

/// A server and a client of its own.
pub(crate) async fn pair(security: Security) -> Result<(Server, Client)> {
    let server = Server::start(security).await?;
    let client = Client::connect(security, server.peer, server.addr.clone()).await?;
    Ok((server, client))
}
