use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use diai_core::{Multiaddr, PeerId, World};
use diai_identity::Identity;
use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use libp2p::{
    Swarm, connection_limits, identify, mdns, memory_connection_limits, ping,
    swarm::{ConnectionId, NetworkBehaviour, SwarmEvent, behaviour::toggle::Toggle},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use crate::{Behaviour, Config, Event, Limits, Parts, StartError, cause::innermost, transport};

const MAX_CONTACTS: usize = 64;
const IDENTIFY: &str = "/diai/1.0.0";
/// How often contacts are dialled again while there are too few peers.
const REDIAL: Duration = Duration::from_secs(10);
/// So many peers are enough not to dial contacts again.
const ENOUGH_PEERS: usize = 4;
/// Peers found by multicast DNS that are being dialled; more are only remembered.
const MAX_FOUND: usize = 32;
/// So many of the peers met before are dialled again at a time when too few are left.
const MET_AT_A_TIME: usize = 4;
/// A connection on which so many pings in turn failed is dead, whatever the operating system thinks.
const MAX_SILENT_PINGS: u32 = 2;
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
        task.spawn(run(swarm, Company::new(world.clone(), config.contacts, remembered), asked));
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
        // Whoever comes leaves room for whom we choose ourselves.
        .with_max_established_incoming(Some(limits.connections - limits.connections / 4))
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
        let id = swarm.listen_on(addr.clone()).map_err(|error| failed(addr, innermost(&error)))?;
        waiting.push((id, addr));
    }
    while !waiting.is_empty() {
        match swarm.select_next_some().await {
            SwarmEvent::NewListenAddr { listener_id, .. } => waiting.retain(|(id, _)| *id != listener_id),
            SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                if let Some((_, addr)) = waiting.iter().find(|(id, _)| *id == listener_id) {
                    let reason = reason.err().map_or_else(|| "it closed".into(), |error| innermost(&error));
                    return Err(failed(addr, reason));
                }
            }
            SwarmEvent::ListenerError { listener_id, error } => {
                if let Some((_, addr)) = waiting.iter().find(|(id, _)| *id == listener_id) {
                    return Err(failed(addr, innermost(&error)));
                }
            }
            SwarmEvent::Behaviour(NodeEvent::Diai(Event::Remembered { peers })) => remembered = peers,
            SwarmEvent::Behaviour(NodeEvent::Diai(Event::StorageFailed { reason })) => warn_of_storage(&reason),
            _ => {}
        }
    }
    Ok(remembered)
}

/// How a dial of a contact ended: which one, and who it is if anybody answered. Of others nobody wants to know.
type Dialled = Option<(usize, Option<PeerId>)>;

/// Whom this device meets, and meets again.
struct Company {
    world: World,
    /// Each with who was there last.
    contacts: Vec<(Multiaddr, Option<PeerId>)>,
    /// Where the next try of those who were met before starts.
    next_met: usize,
    dials: FuturesUnordered<diai_core::BoxFuture<'static, Dialled>>,
    /// Pings in turn that failed.
    silent: BTreeMap<ConnectionId, u32>,
}

async fn run(mut swarm: Swarm<Node>, mut company: Company, mut asked: mpsc::Receiver<oneshot::Sender<io::Result<()>>>) {
    let clock = Arc::clone(&company.world.clock);
    let mut redial = clock.sleep_until(clock.now());
    let done = loop {
        tokio::select! {
            biased;
            done = asked.recv() => break done,
            event = swarm.select_next_some() => company.on_event(&mut swarm, event),
            Some(dialled) = company.dials.next() => company.dialled(dialled),
            () = &mut redial => {
                redial = clock.sleep_until(clock.now() + REDIAL);
                company.seek(|| swarm.behaviour().diai.met());
            }
        }
    };
    let Company { world, dials, .. } = company;
    drop(dials);
    if let Some(done) = done {
        farewell(&mut swarm, &world).await;
        let flushed = swarm.behaviour_mut().diai.flush().await;
        drop(swarm);
        // Whoever asked may have gone.
        let _ = done.send(flushed);
    }
}

impl Company {
    fn new(world: World, contacts: Vec<Multiaddr>, remembered: Vec<PeerId>) -> Self {
        let contacts = contacts.into_iter().map(|addr| (addr, None)).collect();
        let dials = FuturesUnordered::new();
        let mut company = Self { world, contacts, next_met: 0, dials, silent: BTreeMap::new() };
        company.meet_again(remembered);
        company
    }

    fn on_event(&mut self, swarm: &mut Swarm<Node>, event: SwarmEvent<NodeEvent>) {
        match event {
            SwarmEvent::Behaviour(NodeEvent::Ping(ping::Event { peer, connection, result })) => match result {
                Ok(rtt) => {
                    self.silent.remove(&connection);
                    swarm.behaviour().diai.observe_rtt(peer, rtt);
                }
                Err(ping::Failure::Unsupported) => {}
                Err(failure) => {
                    let failures = self.silent.entry(connection).or_default();
                    *failures += 1;
                    if *failures >= MAX_SILENT_PINGS {
                        tracing::debug!(%peer, %failure, "a connection is dead");
                        swarm.close_connection(connection);
                    }
                }
            },
            SwarmEvent::ConnectionClosed { connection_id, .. } => {
                self.silent.remove(&connection_id);
            }
            SwarmEvent::Behaviour(NodeEvent::Identify(identify::Event::Received { peer_id, info, .. })) => {
                self.world.network.add_addrs(peer_id, info.listen_addrs);
            }
            SwarmEvent::Behaviour(NodeEvent::Mdns(mdns::Event::Discovered(found))) => {
                for (peer, addr) in found {
                    self.meet(peer, vec![addr]);
                }
            }
            SwarmEvent::Behaviour(NodeEvent::Diai(Event::Remembered { peers })) => self.meet_again(peers),
            SwarmEvent::Behaviour(NodeEvent::Diai(Event::StorageFailed { reason })) => {
                warn_of_storage(&reason);
            }
            SwarmEvent::ListenerClosed { addresses, reason: Err(error), .. } => {
                tracing::warn!(?addresses, %error, "a listener closed");
            }
            _ => {}
        }
    }

    fn meet_again(&mut self, remembered: Vec<PeerId>) {
        for peer in remembered {
            self.meet(peer, Vec::new());
        }
    }

    fn meet(&mut self, peer: PeerId, addrs: Vec<Multiaddr>) {
        let network = &self.world.network;
        if self.dials.len() < MAX_FOUND {
            self.dials.push(network.connect(peer, addrs).map(|_| None).boxed());
        } else {
            network.add_addrs(peer, addrs);
        }
    }

    /// Dials contacts, and some of those that were met before, while too few are here.
    fn seek(&mut self, met: impl FnOnce() -> Vec<PeerId>) {
        let network = &self.world.network;
        if network.peers().len() >= ENOUGH_PEERS || self.dials.len() >= MAX_CONTACTS {
            return;
        }
        for (index, (addr, known)) in self.contacts.iter().cloned().enumerate() {
            // Whoever is connected is not dialled again.
            let dial = match known {
                Some(peer) => network.connect(peer, vec![addr.clone()]),
                None => network.dial(addr.clone()),
            };
            self.dials.push(Box::pin(async move {
                let met = dial.await;
                match &met {
                    Ok(info) => tracing::debug!(%addr, peer = %info.peer, "met a contact"),
                    Err(error) => tracing::info!(%addr, %error, "a contact does not answer"),
                }
                Some((index, met.ok().map(|info| info.peer)))
            }));
        }
        let met = met();
        let start = if self.next_met < met.len() { self.next_met } else { 0 };
        self.next_met = start + MET_AT_A_TIME;
        for peer in met.into_iter().skip(start).take(MET_AT_A_TIME) {
            if self.world.network.peer(peer).is_none() {
                self.meet(peer, Vec::new());
            }
        }
    }

    fn dialled(&mut self, dialled: Dialled) {
        // Somebody else may live at a contact's address by now: who does not answer is forgotten.
        if let Some((index, peer)) = dialled
            && let Some((_, known)) = self.contacts.get_mut(index)
        {
            *known = peer;
        }
    }
}

fn warn_of_storage(reason: &str) {
    tracing::warn!(%reason, "the network has no memory");
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

#[cfg(test)]
mod tests {
    use diai_core::os::{FsDisk, OsClock, OsEntropy, ThreadPool};

    use super::*;

    async fn start(folder: &std::path::Path) -> Net {
        let clock = Arc::new(OsClock::new());
        let identity = Identity::generate(&OsEntropy, diai_core::Clock::wall(&*clock));
        let disk = Arc::new(FsDisk::open(folder).unwrap());
        let parts = Parts { clock, entropy: Arc::new(OsEntropy), disk, offload: Arc::new(ThreadPool::new(1)) };
        Net::start(identity, parts, Config::test()).await.unwrap()
    }

    async fn all_dialled(company: &mut Company) {
        while let Some(dialled) = company.dials.next().await {
            company.dialled(dialled);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_contact_is_known_once_it_answered_and_whoever_was_met_is_dialled_again_in_turn() {
        let folders = [0, 1].map(|_| std::env::temp_dir().join(format!("diai-net-contact-{}", PeerId::random())));
        let (alice, bob) = (start(&folders[0]).await, start(&folders[1]).await);
        let mut addr = bob.world().network.local_addrs()[0].clone();
        addr.pop();
        let mut company = Company::new(alice.world(), vec![addr, "/ip4/127.0.0.1/tcp/1".parse().unwrap()], Vec::new());
        company.seek(Vec::new);
        assert_eq!(company.dials.len(), 2);
        all_dialled(&mut company).await;
        let known: Vec<_> = company.contacts.iter().map(|(_, peer)| *peer).collect();
        let bob_peer = bob.world().network.local_peer();
        assert_eq!(
            known,
            [Some(bob_peer), None],
            "the next time it is asked for by its name, which dials nobody twice"
        );
        let strangers: Vec<_> = (0..10).map(|_| PeerId::random()).collect();
        let met = || [&[bob_peer], &strangers[..]].concat();
        let mut tried = Vec::new();
        company.next_met = 0;
        for _ in 0..3 {
            company.contacts.clear();
            company.dials.clear();
            company.seek(met);
            tried.push(company.dials.len());
        }
        assert_eq!(tried, [3, 4, 3], "all but whoever is here");
        for folder in folders {
            // Nodes may still write.
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}
