//! The loop that owns both machines, and the handles to it.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use cid::Cid;
use diai_core::{AcceptError, AcceptOptions, Incoming, Instant, PeerEvent, PeerEvents, PeerId, World};
use futures::StreamExt;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::JoinSet,
};

use super::{
    client::{ClientInput, ClientMachine, ClientOutput},
    message::{Message, Version, Want},
    server::{ServerInput, ServerMachine, ServerOutput},
    streams::{Batch, Report, Tools, read_messages, write_answers, write_wants},
};
use crate::{
    Block, BlockStore,
    config::{ClientConfig, ServerConfig},
    store::Multihash,
};

/// Commands and reports that may wait for the loop.
const QUEUE: usize = 256;
/// Deliveries and notices that may wait for a session; it asks for less at a time.
const SESSION_QUEUE: usize = 4096;
/// Want messages that may wait for a peer that is slow to take them.
const WANT_QUEUE: usize = 64;

/// What a [`Session`] gets.
#[derive(Debug)]
#[non_exhaustive]
pub enum Delivery {
    /// A block that was asked for, verified.
    Block {
        /// The block.
        block: Block,
        /// Who sent it.
        peer: PeerId,
        /// Counts against [`ClientConfig::max_received_bytes`] until dropped.
        #[doc(hidden)]
        permit: Option<Arc<OwnedSemaphorePermit>>,
    },
    /// Nobody who is connected has this block. It stays wanted.
    Exhausted {
        /// Which block.
        cid: Cid,
        /// Who was asked.
        asked: Vec<PeerId>,
    },
}

#[derive(Debug)]
enum Command {
    Open { session: u64, deliveries: mpsc::Sender<Delivery> },
    Client(ClientInput),
    Added(Vec<Cid>),
    Asked { cid: Cid, reply: oneshot::Sender<Vec<PeerId>> },
    Status(oneshot::Sender<BitswapStatus>),
    Stop,
}

/// Figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct BitswapStatus {
    /// Blocks wanted now.
    pub wants: usize,
    /// Blocks that came though they had come before.
    pub duplicates: u64,
    /// Peers that want something of us.
    pub clients: usize,
    /// Blocks received that were wanted.
    pub blocks_received: u64,
    /// Bytes of those.
    pub bytes_received: u64,
    /// Blocks sent.
    pub blocks_sent: u64,
    /// Bytes of those.
    pub bytes_sent: u64,
}

/// The exchange of blocks with other peers. Cheap to clone; its tasks end with the last clone.
#[derive(Clone)]
pub struct Bitswap(Arc<Inner>);

struct Inner {
    commands: mpsc::Sender<Command>,
    next_session: AtomicU64,
    tasks: Mutex<JoinSet<()>>,
}

impl fmt::Debug for Bitswap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bitswap")
    }
}

impl Bitswap {
    /// Serves the blocks of `store` to everybody, and asks for blocks in the name of sessions.
    pub fn start(
        world: &World,
        store: BlockStore,
        client: ClientConfig,
        server: ServerConfig,
    ) -> Result<Self, AcceptError> {
        let options = AcceptOptions { max_per_peer: server.max_streams_per_peer, max_waiting: 256, uncertified: true };
        let incoming = world.network.accept(&Version::PROTOCOLS, options)?;
        let (commands, from_handles) = mpsc::channel(QUEUE);
        let (reports, from_tasks) = mpsc::channel(QUEUE);
        let received_bytes = client.max_received_bytes.clamp(super::MAX_MESSAGE_BYTES, 1 << 30);
        let tools = Tools {
            world: world.clone(),
            store,
            reports,
            received: Arc::new(Semaphore::new(received_bytes)),
            received_bytes,
            batch_bytes: server.batch_bytes,
        };
        let events = world.network.events();
        let mut shell = Loop {
            tools,
            client: ClientMachine::new(client),
            server: ServerMachine::new(server),
            peers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            tasks: JoinSet::new(),
            next_link: 0,
            status: BitswapStatus::default(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { shell.run(incoming, events, from_handles, from_tasks).await });
        let inner = Inner { commands, next_session: AtomicU64::new(1), tasks: Mutex::new(tasks) };
        Ok(Self(Arc::new(inner)))
    }

    /// A session: wants that belong together, so that who delivered one is asked for the next.
    ///
    /// Cancel-safe.
    pub async fn session(&self) -> Session {
        let session = self.0.next_session.fetch_add(1, Ordering::Relaxed);
        let (sender, deliveries) = mpsc::channel(SESSION_QUEUE);
        // After shutdown the sender is dropped with the command, and the session ends at once.
        let _ = self.0.commands.send(Command::Open { session, deliveries: sender }).await;
        Session { session, commands: self.0.commands.clone(), deliveries }
    }

    /// Says that blocks are in the store now, for peers that have been waiting for them. Cancel-safe.
    pub async fn added(&self, cids: Vec<Cid>) {
        // After shutdown nobody waits any more.
        let _ = self.0.commands.send(Command::Added(cids)).await;
    }

    /// Who was asked for `cid`, which is wanted now, and has not delivered. Cancel-safe.
    pub async fn asked(&self, cid: Cid) -> Vec<PeerId> {
        let (reply, asked) = oneshot::channel();
        let _ = self.0.commands.send(Command::Asked { cid, reply }).await;
        asked.await.unwrap_or_default()
    }

    /// Figures; zeros after shutdown. Cancel-safe.
    pub async fn status(&self) -> BitswapStatus {
        let (sender, status) = oneshot::channel();
        let _ = self.0.commands.send(Command::Status(sender)).await;
        status.await.unwrap_or_default()
    }

    /// Stops serving and asking; all tasks have ended when it returns.
    pub async fn stop(&self) {
        // If the queue is closed the loop has ended already.
        let _ = self.0.commands.send(Command::Stop).await;
        let mut tasks = std::mem::take(&mut *self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        while tasks.join_next().await.is_some() {}
    }
}

/// Wants that belong together. Dropping it ends them.
pub struct Session {
    session: u64,
    commands: mpsc::Sender<Command>,
    deliveries: mpsc::Receiver<Delivery>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("session", &self.session).finish_non_exhaustive()
    }
}

impl Session {
    /// Asks for blocks. Keep the open wants of a session to at most 1,024. Cancel-safe.
    pub async fn want(&self, cids: Vec<Cid>) {
        self.send(ClientInput::Want { session: self.session, cids }).await;
    }

    /// Names peers that are likely to hold what is wanted; they are dialled when asked. Cancel-safe.
    pub async fn holders(&self, peers: Vec<PeerId>) {
        self.send(ClientInput::Holders { session: self.session, peers }).await;
    }

    async fn send(&self, input: ClientInput) {
        // After shutdown `next` says so.
        let _ = self.commands.send(Command::Client(input)).await;
    }

    /// The next block, or notice that nobody has one; `None` after shutdown. Cancel-safe.
    pub async fn next(&mut self) -> Option<Delivery> {
        self.deliveries.recv().await
    }

    /// What has come already, without waiting.
    pub fn try_next(&mut self) -> Option<Delivery> {
        self.deliveries.try_recv().ok()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // If the queue is full the loop finds the closed channel.
        let _ = self.commands.try_send(Command::Client(ClientInput::End(self.session)));
    }
}

#[derive(Debug, Default)]
struct Links {
    wants: Option<(u64, mpsc::Sender<Vec<Want>>)>,
    answers: Option<(u64, mpsc::Sender<Batch>)>,
}

struct Loop {
    tools: Tools,
    client: ClientMachine,
    server: ServerMachine,
    peers: BTreeMap<PeerId, Links>,
    sessions: BTreeMap<u64, mpsc::Sender<Delivery>>,
    tasks: JoinSet<()>,
    next_link: u64,
    status: BitswapStatus,
}

impl Loop {
    async fn run(
        &mut self,
        mut incoming: Incoming,
        mut events: PeerEvents,
        mut commands: mpsc::Receiver<Command>,
        mut reports: mpsc::Receiver<Report>,
    ) {
        self.look_at_peers();
        loop {
            self.act(BTreeMap::new(), None);
            let timeout = self.client.poll_timeout();
            let clock = self.tools.world.clock.clone();
            tokio::select! {
                biased;
                event = events.next() => match event {
                    Some(event) => self.peer_event(event),
                    None => return,
                },
                command = commands.recv() => match command {
                    None | Some(Command::Stop) => return self.tasks.shutdown().await,
                    Some(command) => self.command(command),
                },
                Some(report) = reports.recv() => self.report(report),
                Some(inbound) = incoming.next() => {
                    self.tasks.spawn(read_messages(self.tools.clone(), inbound));
                }
                Some(_) = self.tasks.join_next() => {}
                () = clock.sleep_until(timeout.unwrap_or(Instant::NEVER)) => {
                    self.client(ClientInput::Timeout);
                    self.end_closed_sessions();
                }
            }
        }
    }

    fn client(&mut self, input: ClientInput) {
        let now = self.tools.world.clock.now();
        self.client.handle(now, input);
    }

    fn look_at_peers(&mut self) {
        let here: Vec<_> = self.tools.world.network.peers().into_iter().map(|info| info.peer).collect();
        let gone: Vec<_> = self.peers.keys().filter(|peer| !here.contains(peer)).copied().collect();
        gone.into_iter().for_each(|peer| self.gone(peer));
        here.into_iter().for_each(|peer| self.client(ClientInput::Connected(peer)));
    }

    fn peer_event(&mut self, event: PeerEvent) {
        match event {
            PeerEvent::Connected(info) => self.client(ClientInput::Connected(info.peer)),
            PeerEvent::Disconnected(peer) => self.gone(peer),
            _ => self.look_at_peers(),
        }
    }

    fn gone(&mut self, peer: PeerId) {
        self.peers.remove(&peer);
        self.client(ClientInput::Gone(peer));
        self.server.handle(ServerInput::Gone(peer));
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Open { session, deliveries } => {
                self.end_closed_sessions();
                self.sessions.insert(session, deliveries);
            }
            Command::Client(input) => {
                match &input {
                    ClientInput::End(session) => drop(self.sessions.remove(session)),
                    ClientInput::Holders { peers, .. } => {
                        let us = self.tools.world.network.local_peer();
                        for peer in peers.iter().filter(|peer| **peer != us) {
                            self.client(ClientInput::Connected(*peer));
                        }
                    }
                    _ => {}
                }
                self.client(input);
            }
            Command::Stop => {}
            Command::Added(cids) => self.server.handle(ServerInput::Added(cids)),
            Command::Asked { cid, reply } => {
                // Whoever asked may have gone.
                let _ = reply.send(self.client.asked(&cid));
            }
            Command::Status(reply) => {
                let (wants, duplicates, clients) =
                    (self.client.wants(), self.client.duplicates(), self.server.clients());
                // Whoever asked may have gone.
                let _ = reply.send(BitswapStatus { wants, duplicates, clients, ..self.status });
            }
        }
    }

    fn end_closed_sessions(&mut self) {
        let closed: Vec<_> =
            self.sessions.iter().filter(|(_, sender)| sender.is_closed()).map(|(session, _)| *session).collect();
        for session in closed {
            self.sessions.remove(&session);
            self.client(ClientInput::End(session));
        }
    }

    fn report(&mut self, report: Report) {
        match report {
            Report::Message { peer, message, blocks, permit } => self.message(peer, message, blocks, permit),
            Report::Alive(peer) => self.client(ClientInput::Alive(peer)),
            Report::Sent { peer, blocks, bytes } => {
                self.status.blocks_sent += blocks as u64;
                self.status.bytes_sent += bytes as u64;
                self.server.handle(ServerInput::Sent { peer, blocks, bytes });
            }
            Report::WantsFailed { peer, link } => {
                if let Some(links) = self.peers.get_mut(&peer)
                    && links.wants.take_if(|(id, _)| *id == link).is_some()
                {
                    self.client(ClientInput::Gone(peer));
                }
            }
            Report::AnswersFailed { peer, link } => {
                if let Some(links) = self.peers.get_mut(&peer)
                    && links.answers.take_if(|(id, _)| *id == link).is_some()
                {
                    self.server.handle(ServerInput::Gone(peer));
                }
            }
        }
    }

    fn message(
        &mut self,
        peer: PeerId,
        message: Message,
        blocks: Vec<Block>,
        permit: Option<Arc<OwnedSemaphorePermit>>,
    ) {
        if self.tools.world.network.peer(peer).is_none() {
            // What was read before it was cut off, or left.
            return;
        }
        self.client(ClientInput::Connected(peer));
        if !blocks.is_empty() || !message.presences.is_empty() {
            let sizes = blocks.iter().map(|block| (block.cid, block.data.len())).collect();
            self.client(ClientInput::Received { peer, blocks: sizes, presences: message.presences });
            let blocks = blocks.into_iter().map(|block| (*block.cid.hash(), block)).collect();
            self.act(blocks, permit);
        }
        if message.full || !message.wants.is_empty() {
            let here = |want: Want| (want, !want.cancel && self.tools.store.has(&want.cid));
            let wants = message.wants.into_iter().map(here).collect();
            self.server.handle(ServerInput::Wants { peer, full: message.full, wants });
        }
    }

    /// Does what the machines say. `blocks` are those of the message just handled.
    fn act(&mut self, mut blocks: BTreeMap<Multihash, Block>, permit: Option<Arc<OwnedSemaphorePermit>>) {
        while let Some(output) = self.client.poll_output() {
            match output {
                ClientOutput::Send { peer, wants } => self.send_wants(peer, wants),
                ClientOutput::Wanted { cid, sessions, peer } => {
                    let Some(Block { data, .. }) = blocks.remove(cid.hash()) else { continue };
                    self.status.blocks_received += 1;
                    self.status.bytes_received += data.len() as u64;
                    let block = Block { cid, data };
                    for session in sessions {
                        let (block, permit) = (block.clone(), permit.clone());
                        self.deliver(session, Delivery::Block { block, peer, permit });
                    }
                }
                ClientOutput::Exhausted { sessions, cid } => {
                    let asked = self.client.asked(&cid);
                    for session in sessions {
                        self.deliver(session, Delivery::Exhausted { cid, asked: asked.clone() });
                    }
                }
                ClientOutput::Penalise { peer, misbehaviour } => {
                    tracing::debug!(%peer, ?misbehaviour, "bitswap peer penalised");
                    self.tools.world.network.penalise(peer, misbehaviour);
                }
            }
        }
        while let Some(output) = self.server.poll_output() {
            match output {
                ServerOutput::Send { peer, blocks, presences } => self.send_answers(peer, Batch { blocks, presences }),
                ServerOutput::Penalise { peer, misbehaviour } => {
                    self.tools.world.network.penalise(peer, misbehaviour);
                }
            }
        }
    }

    fn deliver(&mut self, session: u64, delivery: Delivery) {
        let Some(sender) = self.sessions.get(&session) else { return };
        if sender.try_send(delivery).is_err() {
            self.sessions.remove(&session);
            self.client(ClientInput::End(session));
        }
    }

    fn send_wants(&mut self, peer: PeerId, wants: Vec<Want>) {
        let links = self.peers.entry(peer).or_default();
        let (_, sender) = links.wants.get_or_insert_with(|| {
            self.next_link += 1;
            let (sender, queue) = mpsc::channel(WANT_QUEUE);
            self.tasks.spawn(write_wants(self.tools.clone(), peer, self.next_link, queue));
            (self.next_link, sender)
        });
        if sender.try_send(wants).is_err() {
            // It has not taken what it was sent long ago.
            links.wants = None;
            self.client(ClientInput::Gone(peer));
        }
    }

    fn send_answers(&mut self, peer: PeerId, batch: Batch) {
        let links = self.peers.entry(peer).or_default();
        let (_, sender) = links.answers.get_or_insert_with(|| {
            self.next_link += 1;
            let (sender, queue) = mpsc::channel(8);
            self.tasks.spawn(write_answers(self.tools.clone(), peer, self.next_link, queue));
            (self.next_link, sender)
        });
        if sender.try_send(batch).is_err() {
            links.answers = None;
            self.server.handle(ServerInput::Gone(peer));
        }
    }
}
