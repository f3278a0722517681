//! The loop that owns both machines.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use diai_core::{Inbound, Incoming, Instant, Misbehaviour, PeerEvent, PeerEvents, PeerId};
use futures::StreamExt;
use tokio::{
    sync::{
        OwnedSemaphorePermit, Semaphore,
        mpsc::{self, error::TrySendError},
    },
    task::{AbortHandle, JoinSet},
};

use super::{
    client::{ClientInput, ClientMachine, ClientOutput},
    handle::{BitswapStatus, Command, Delivery},
    message::{Message, Want},
    server::{ServerInput, ServerMachine, ServerOutput},
    streams::{Batch, Report, Tools, read_messages, write_answers, write_wants},
};
use crate::{
    Block,
    config::{ClientConfig, ServerConfig},
    store::Multihash,
};

/// Readers and writers of all peers; what others open beyond is refused.
const MAX_TASKS: usize = 4096;
/// Reports of streams that are handled before everything else has its turn, however many more wait.
const REPORTS_IN_A_ROW: usize = 32;

/// A task that writes to a peer; it ends with its link, so that nothing old reaches a new connection.
#[derive(Debug)]
struct Link<T> {
    id: u64,
    queue: mpsc::Sender<T>,
    task: AbortHandle,
}

impl<T> Drop for Link<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug, Default)]
struct Links {
    wants: Option<Link<Vec<Want>>>,
    answers: Option<Link<Batch>>,
    /// For bytes of messages that it sends.
    room: Option<Arc<Semaphore>>,
}

pub(super) struct Loop {
    tools: Tools,
    client: ClientMachine,
    server: ServerMachine,
    peers: BTreeMap<PeerId, Links>,
    sessions: BTreeMap<u64, mpsc::Sender<Delivery>>,
    tasks: JoinSet<()>,
    /// Bytes of messages under way from one peer.
    room_bytes: usize,
    next_link: u64,
    status: BitswapStatus,
}

impl Loop {
    /// `room_bytes` is what messages under way from one peer may take.
    pub(super) fn new(tools: Tools, client: ClientConfig, server: ServerConfig, room_bytes: usize) -> Self {
        Self {
            tools,
            client: ClientMachine::new(client),
            server: ServerMachine::new(server),
            peers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            tasks: JoinSet::new(),
            room_bytes,
            next_link: 0,
            status: BitswapStatus::default(),
        }
    }

    pub(super) async fn run(
        &mut self,
        mut incoming: Incoming,
        mut events: PeerEvents,
        mut commands: mpsc::Receiver<Command>,
        mut reports: mpsc::Receiver<Report>,
    ) {
        self.look_at_peers();
        let mut in_a_row = 0;
        loop {
            self.act(BTreeMap::new(), None);
            let timeouts = self.client.poll_timeout().into_iter().chain(self.server.poll_timeout());
            let timeout = timeouts.min();
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
                Some(report) = reports.recv(), if in_a_row < REPORTS_IN_A_ROW => {
                    in_a_row += 1;
                    self.report(report);
                    continue;
                }
                Some(inbound) = incoming.next() => self.inbound(inbound),
                Some(_) = self.tasks.join_next() => {}
                () = clock.sleep_until(timeout.unwrap_or(Instant::NEVER)) => {
                    self.client(ClientInput::Timeout);
                    self.serve(ServerInput::Timeout);
                    self.end_closed_sessions();
                }
                () = std::future::ready(()), if in_a_row == REPORTS_IN_A_ROW => {}
            }
            in_a_row = 0;
        }
    }

    fn inbound(&mut self, inbound: Inbound) {
        if self.tasks.len() >= MAX_TASKS {
            return tracing::debug!(peer = %inbound.peer, "refused a stream: too many are open");
        }
        let mut room = Arc::new(Semaphore::new(self.room_bytes));
        // Of one that has left already nothing is kept.
        if self.tools.world.network.peer(inbound.peer).is_some() {
            room = self.peers.entry(inbound.peer).or_default().room.get_or_insert(room).clone();
        }
        self.tasks.spawn(read_messages(self.tools.clone(), inbound, room));
    }

    fn client(&mut self, input: ClientInput) {
        let now = self.tools.world.clock.now();
        self.client.handle(now, input);
    }

    fn serve(&mut self, input: ServerInput) {
        let now = self.tools.world.clock.now();
        self.server.handle(now, input);
    }

    /// A peer that speaks Bitswap, or is to be dialled when there is something to ask.
    fn meet(&mut self, peer: PeerId) {
        if !self.client.knows(&peer) {
            self.client(ClientInput::Connected(peer));
        }
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
        self.serve(ServerInput::Gone(peer));
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
                            self.meet(*peer);
                        }
                    }
                    _ => {}
                }
                self.client(input);
            }
            Command::Stop => {}
            Command::Added(cids) => self.serve(ServerInput::Added(cids)),
            Command::Asked { cid, reply } => {
                // Whoever asked may have gone.
                let _ = reply.send(self.client.asked(&cid));
            }
            Command::Status(reply) => {
                let (wants, duplicates, clients) =
                    (self.client.wants(), self.client.duplicates(), self.server.clients());
                // Whoever asked may have gone.
                let ((hedges, hedges_won), wants_spared) = (self.client.hedges(), self.client.denied());
                let figures = BitswapStatus { hedges, hedges_won, wants_spared, ..self.status };
                let _ = reply.send(BitswapStatus { wants, duplicates, clients, ..figures });
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
            Report::Message { peer, message, denied, blocks, permit, frame } => {
                self.message(peer, message, &denied, blocks, permit);
                drop(frame);
            }
            Report::Alive(peer) => self.client(ClientInput::Alive(peer)),
            Report::Sent { peer, blocks, bytes, took } => {
                self.status.blocks_sent += blocks as u64;
                self.status.bytes_sent += bytes as u64;
                self.serve(ServerInput::Sent { peer, blocks, bytes, took });
            }
            Report::WantsSent { peer, link } => {
                if self.peers.get(&peer).is_some_and(|links| links.wants.as_ref().is_some_and(|wants| wants.id == link))
                {
                    self.client(ClientInput::Sent(peer));
                }
            }
            Report::WantsFailed { peer, link } => {
                if let Some(links) = self.peers.get_mut(&peer)
                    && links.wants.take_if(|wants| wants.id == link).is_some()
                {
                    self.client(ClientInput::Gone(peer));
                }
            }
            Report::AnswersFailed { peer, link, too_slow } => {
                if too_slow {
                    self.tools.world.network.penalise(peer, Misbehaviour::Silent);
                }
                if let Some(links) = self.peers.get_mut(&peer)
                    && links.answers.take_if(|answers| answers.id == link).is_some()
                {
                    self.serve(ServerInput::Gone(peer));
                }
            }
        }
    }

    fn message(
        &mut self,
        peer: PeerId,
        message: Message,
        denied: &BTreeSet<usize>,
        blocks: Vec<Block>,
        permit: Option<Arc<OwnedSemaphorePermit>>,
    ) {
        if self.tools.world.network.peer(peer).is_none() {
            // What was read before it was cut off, or left.
            return;
        }
        self.meet(peer);
        if !blocks.is_empty() || !message.presences.is_empty() {
            let sizes = blocks.iter().map(|block| (block.cid, block.data.len())).collect();
            self.client(ClientInput::Received { peer, blocks: sizes, presences: message.presences });
            let blocks = blocks.into_iter().map(|block| (*block.cid.hash(), block)).collect();
            self.act(blocks, permit);
        }
        if message.full || !message.wants.is_empty() {
            let here = |(place, want): (usize, Want)| {
                (want, !want.cancel && !denied.contains(&place) && self.tools.store.has(&want.cid))
            };
            let wants = (0..).zip(message.wants).map(here).collect();
            self.serve(ServerInput::Wants { peer, full: message.full, wants });
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
                ServerOutput::Send { peer, blocks, presences, bytes } => {
                    self.send_answers(peer, Batch { blocks, presences, bytes });
                }
                // Whatever it holds of blocks goes with its writer.
                ServerOutput::Displace { peer } => {
                    tracing::debug!(%peer, "a slow bitswap peer makes room for others");
                    if let Some(links) = self.peers.get_mut(&peer) {
                        links.answers = None;
                    }
                }
                ServerOutput::Penalise { peer, misbehaviour } => {
                    self.tools.world.network.penalise(peer, misbehaviour);
                }
            }
        }
    }

    fn deliver(&mut self, session: u64, delivery: Delivery) {
        let Some(sender) = self.sessions.get(&session) else { return };
        let Err(error) = sender.try_send(delivery) else { return };
        // Of what nobody has, it has heard enough for now.
        if !matches!(error, TrySendError::Full(Delivery::Exhausted { .. })) {
            self.sessions.remove(&session);
            self.client(ClientInput::End(session));
        }
    }

    fn send_wants(&mut self, peer: PeerId, wants: Vec<Want>) {
        let links = self.peers.entry(peer).or_default();
        let link = links.wants.get_or_insert_with(|| {
            self.next_link += 1;
            let (id, (sender, queue)) = (self.next_link, mpsc::channel(1));
            let task = self.tasks.spawn(write_wants(self.tools.clone(), peer, id, queue));
            Link { id, queue: sender, task }
        });
        // There is room, as the machine waits for each message to be written; or the task has failed and says so.
        let _ = link.queue.try_send(wants);
    }

    fn send_answers(&mut self, peer: PeerId, batch: Batch) {
        let links = self.peers.entry(peer).or_default();
        let link = links.answers.get_or_insert_with(|| {
            self.next_link += 1;
            let (id, (sender, queue)) = (self.next_link, mpsc::channel(8));
            let task = self.tasks.spawn(write_answers(self.tools.clone(), peer, id, queue));
            Link { id, queue: sender, task }
        });
        if link.queue.try_send(batch).is_err() {
            links.answers = None;
            self.serve(ServerInput::Gone(peer));
        }
    }
}
