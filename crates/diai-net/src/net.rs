use std::{io, sync::Arc, time::Duration};

use diai_core::{Multiaddr, PeerId, World};
use diai_identity::Identity;
use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use libp2p::{
    Swarm, connection_limits, identify, mdns, memory_connection_limits, ping,
    swarm::{NetworkBehaviour, SwarmEvent, behaviour::toggle::Toggle},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use crate::{Behaviour, Config, Event, Limits, Parts, StartError, transport};

const MAX_CONTACTS: usize = 64;
const IDENTIFY: &str = "/diai/1.0.0";
/// How often contacts are dialled again while there are too few peers.
const REDIAL: Duration = Duration::from_secs(10);
/// So many peers are enough not to dial contacts again.
const ENOUGH_PEERS: usize = 4;
/// Peers found by multicast DNS that are being dialled; more are only remembered.
const MAX_FOUND: usize = 32;
/// How long the farewell to all peers may take.
const FAREWELL: Duration = Duration::from_secs(2);

#[derive(NetworkBehaviour)]
struct Node {
    // First, so that they can refuse a connection before anything is made for it.
    limits: connection_limits::Behaviour,
    memory: Toggle<memory_connection_limits::Behaviour>,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    mdns: Toggle<mdns::tokio::Behaviour>,
    diai: Behaviour,
}

/// A device in the network: a swarm that runs in a task of its own until this is dropped or shut down. Needs a tokio
/// runtime with time and IO enabled.
#[derive(Debug)]
pub struct Net {
    world: World,
    shutdown: mpsc::Sender<oneshot::Sender<io::Result<()>>>,
    /// Ends the task when dropped.
    _task: JoinSet<()>,
}

impl Net {
    /// Listens, and dials the contacts of `config` and the peers remembered from earlier runs. Returns as soon as it
    /// listens at all addresses of [`Config::listen`]; connections come later, see
    /// [`Network::events`](diai_core::Network::events).
    ///
    /// Cancel-safety: dropping the future stops everything.
    pub async fn start(identity: Identity, parts: Parts, config: Config) -> Result<Self, StartError> {
        if config.contacts.len() > MAX_CONTACTS {
            return Err(StartError::Contacts { contacts: config.contacts.len(), limit: MAX_CONTACTS });
        }
        let keypair = identity.device_keypair();
        let (diai, world) = Behaviour::new(identity, parts, &config);
        let local = keypair.public().to_peer_id();
        let node = Node {
            limits: connection_limits::Behaviour::new(connection_limits(&config.limits)),
            memory: config.limits.process_bytes.map(memory_connection_limits::Behaviour::with_max_bytes).into(),
            identify: identify::Behaviour::new(identify::Config::new(IDENTIFY.into(), keypair.public())),
            ping: ping::Behaviour::default(),
            mdns: start_mdns(config.mdns, local)?.into(),
            diai,
        };
        let mut swarm = transport::swarm(keypair, node, &config)?;
        let remembered = listen(&mut swarm, &config.listen).await?;
        let (shutdown, asked) = mpsc::channel(1);
        let mut task = JoinSet::new();
        task.spawn(run(swarm, world.clone(), config.contacts, remembered, asked));
        Ok(Self { world, shutdown, _task: task })
    }

    /// The World that this makes.
    pub fn world(&self) -> World {
        self.world.clone()
    }

    /// Closes all connections (2 s at most), writes what is not written yet, and ends the network.
    ///
    /// Cancel-safety: dropping the future stops everything at once; what was not written yet may be lost.
    pub async fn shutdown(self) -> io::Result<()> {
        let (done, told) = oneshot::channel();
        let gone = || Err(io::Error::other("the network's task is gone"));
        if self.shutdown.send(done).await.is_err() {
            return gone();
        }
        told.await.unwrap_or_else(|_| gone())
    }
}

fn connection_limits(limits: &Limits) -> connection_limits::ConnectionLimits {
    connection_limits::ConnectionLimits::default()
        .with_max_pending_incoming(Some(limits.pending_connections))
        .with_max_pending_outgoing(Some(limits.pending_connections))
        .with_max_established(Some(limits.connections))
        .with_max_established_per_peer(Some(limits.connections_per_peer))
}

fn start_mdns(on: bool, local: PeerId) -> Result<Option<mdns::tokio::Behaviour>, StartError> {
    let start = || mdns::tokio::Behaviour::new(mdns::Config::default(), local);
    on.then(start).transpose().map_err(|error| StartError::Mdns { reason: error.to_string() })
}

/// Listens at all of `addrs`, and waits until each has an address. Returns the peers that were remembered meanwhile.
async fn listen(swarm: &mut Swarm<Node>, addrs: &[Multiaddr]) -> Result<Vec<PeerId>, StartError> {
    let failed = |addr: &Multiaddr, reason: String| StartError::Listen { addr: addr.clone(), reason };
    let (mut waiting, mut remembered) = (Vec::new(), Vec::new());
    for addr in addrs {
        let id = swarm.listen_on(addr.clone()).map_err(|error| failed(addr, error.to_string()))?;
        waiting.push((id, addr));
    }
    while !waiting.is_empty() {
        match swarm.select_next_some().await {
            SwarmEvent::NewListenAddr { listener_id, .. } => waiting.retain(|(id, _)| *id != listener_id),
            SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                if let Some((_, addr)) = waiting.iter().find(|(id, _)| *id == listener_id) {
                    let reason = reason.err().map_or_else(|| "it closed".into(), |error| error.to_string());
                    return Err(failed(addr, reason));
                }
            }
            SwarmEvent::ListenerError { listener_id, error } => {
                if let Some((_, addr)) = waiting.iter().find(|(id, _)| *id == listener_id) {
                    return Err(failed(addr, error.to_string()));
                }
            }
            SwarmEvent::Behaviour(NodeEvent::Diai(Event::Remembered { peers })) => remembered = peers,
            SwarmEvent::Behaviour(NodeEvent::Diai(Event::StorageFailed { reason })) => warn_of_storage(&reason),
            _ => {}
        }
    }
    Ok(remembered)
}

type Dials = FuturesUnordered<diai_core::BoxFuture<'static, ()>>;

async fn run(
    mut swarm: Swarm<Node>,
    world: World,
    contacts: Vec<Multiaddr>,
    remembered: Vec<PeerId>,
    mut asked: mpsc::Receiver<oneshot::Sender<io::Result<()>>>,
) {
    let mut dials = Dials::new();
    for peer in remembered {
        meet(&world, &mut dials, peer, Vec::new());
    }
    let mut redial = world.clock.sleep_until(world.clock.now());
    let done = loop {
        tokio::select! {
            biased;
            done = asked.recv() => break done,
            event = swarm.select_next_some() => on_event(&mut swarm, &world, &mut dials, event),
            Some(()) = dials.next() => {}
            () = &mut redial => {
                redial = world.clock.sleep_until(world.clock.now() + REDIAL);
                dial_contacts(&world, &contacts, &mut dials);
            }
        }
    };
    drop(dials);
    if let Some(done) = done {
        farewell(&mut swarm, &world).await;
        let flushed = swarm.behaviour_mut().diai.flush().await;
        drop(swarm);
        // Whoever asked may have gone.
        let _ = done.send(flushed);
    }
}

fn on_event(swarm: &mut Swarm<Node>, world: &World, dials: &mut Dials, event: SwarmEvent<NodeEvent>) {
    match event {
        SwarmEvent::Behaviour(NodeEvent::Ping(ping::Event { peer, result: Ok(rtt), .. })) => {
            swarm.behaviour().diai.observe_rtt(peer, rtt);
        }
        SwarmEvent::Behaviour(NodeEvent::Identify(identify::Event::Received { peer_id, info, .. })) => {
            world.network.add_addrs(peer_id, info.listen_addrs);
        }
        SwarmEvent::Behaviour(NodeEvent::Mdns(mdns::Event::Discovered(found))) => {
            for (peer, addr) in found {
                meet(world, dials, peer, vec![addr]);
            }
        }
        SwarmEvent::Behaviour(NodeEvent::Diai(Event::Remembered { peers })) => {
            for peer in peers {
                meet(world, dials, peer, Vec::new());
            }
        }
        SwarmEvent::Behaviour(NodeEvent::Diai(Event::StorageFailed { reason })) => {
            warn_of_storage(&reason);
        }
        SwarmEvent::ListenerClosed { addresses, reason: Err(error), .. } => {
            tracing::warn!(?addresses, %error, "a listener closed");
        }
        _ => {}
    }
}

fn warn_of_storage(reason: &str) {
    tracing::warn!(%reason, "the network has no memory");
}

fn meet(world: &World, dials: &mut Dials, peer: PeerId, addrs: Vec<Multiaddr>) {
    if dials.len() < MAX_FOUND {
        dials.push(world.network.connect(peer, addrs).map(drop).boxed());
    } else {
        world.network.add_addrs(peer, addrs);
    }
}

fn dial_contacts(world: &World, contacts: &[Multiaddr], dials: &mut Dials) {
    if world.network.peers().len() >= ENOUGH_PEERS || dials.len() >= MAX_CONTACTS {
        return;
    }
    for addr in contacts {
        let network = Arc::clone(&world.network);
        let addr = addr.clone();
        dials.push(Box::pin(async move {
            match network.dial(addr.clone()).await {
                Ok(info) => tracing::debug!(%addr, peer = %info.peer, "met a contact"),
                Err(error) => tracing::info!(%addr, %error, "a contact does not answer"),
            }
        }));
    }
}

/// Closes all connections in order, so that what was written last still arrives.
async fn farewell(swarm: &mut Swarm<Node>, world: &World) {
    let peers: Vec<_> = swarm.connected_peers().copied().collect();
    for peer in peers {
        // Gone by itself meanwhile: as good.
        let _ = swarm.disconnect_peer_id(peer);
    }
    let until = world.clock.now() + FAREWELL;
    let closed = async {
        while swarm.network_info().num_peers() > 0 {
            swarm.select_next_some().await;
        }
    };
    // Peers that do not answer in time are left to their time-outs.
    let _ = diai_core::timeout_at(&*world.clock, until, closed).await;
}
