//! The answering side: whom to answer next, with how much.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cid::Cid;
use diai_core::{Footprint, Misbehaviour, PeerId};

use super::message::{Presence, Want, WantKind};
use crate::{config::ServerConfig, store::Multihash};

/// What happened.
#[derive(Debug, Clone)]
pub enum ServerInput {
    /// A peer said what it wants.
    Wants {
        /// Who.
        peer: PeerId,
        /// All its earlier wants are void.
        full: bool,
        /// Each want, and whether the block is here.
        wants: Vec<(Want, bool)>,
    },
    /// These blocks are here now.
    Added(Vec<Cid>),
    /// A batch was sent, or could not be.
    Sent {
        /// To whom.
        peer: PeerId,
        /// How many blocks it had.
        blocks: usize,
        /// How many bytes.
        bytes: usize,
    },
    /// The peer is gone.
    Gone(PeerId),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerOutput {
    /// Read these blocks and send them with these presences; then say [`ServerInput::Sent`].
    Send {
        /// To whom.
        peer: PeerId,
        /// Which blocks, and whether DONT_HAVE is to be said of one that turns out to be missing.
        blocks: Vec<(Cid, bool)>,
        /// HAVEs and DONT_HAVEs.
        presences: Vec<Presence>,
    },
    /// A peer did wrong.
    Penalise {
        /// Who.
        peer: PeerId,
        /// What.
        misbehaviour: Misbehaviour,
    },
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    cid: Cid,
    kind: WantKind,
}

#[derive(Debug)]
struct Client {
    /// Wants for blocks that are not here; answered when they come.
    waiting: BTreeMap<Multihash, Waiting>,
    /// Blocks to send: the highest priority first, then first come, first served.
    queue: BTreeMap<(std::cmp::Reverse<i32>, u64), (Cid, bool)>,
    queued: BTreeMap<Multihash, (std::cmp::Reverse<i32>, u64)>,
    presences: VecDeque<Presence>,
    batches: usize,
    block_bytes: usize,
    /// Bytes sent, halved now and then: who had least goes first.
    served: u64,
}

impl Client {
    fn wants(&self) -> usize {
        self.waiting.len() + self.queued.len()
    }

    fn remove(&mut self, hash: &Multihash) {
        self.waiting.remove(hash);
        if let Some(place) = self.queued.remove(hash) {
            self.queue.remove(&place);
        }
    }
}

/// Decides what to send to whom. Sans-IO.
///
/// Each peer has a queue of its own, of at most [`ServerConfig::max_wants_per_peer`] wants. Batches are handed out to
/// the peer that was served least of those that have something queued and fewer than
/// [`ServerConfig::batches_per_peer`] batches under way, so that one that asks for a lot delays only itself.
#[derive(Debug)]
pub struct ServerMachine {
    config: ServerConfig,
    clients: BTreeMap<PeerId, Client>,
    /// Who waits for a block that is not here.
    waiters: BTreeMap<Multihash, BTreeSet<PeerId>>,
    ready: BTreeSet<PeerId>,
    penalties: VecDeque<(PeerId, Misbehaviour)>,
    batches: usize,
    arrivals: u64,
}

impl ServerMachine {
    /// A machine that nobody has asked.
    pub fn new(config: ServerConfig) -> Self {
        Self {
            config,
            clients: BTreeMap::new(),
            waiters: BTreeMap::new(),
            ready: BTreeSet::new(),
            penalties: VecDeque::new(),
            batches: 0,
            arrivals: 0,
        }
    }

    /// Takes in what happened.
    pub fn handle(&mut self, input: ServerInput) {
        match input {
            ServerInput::Wants { peer, full, wants } => self.wants(peer, full, &wants),
            ServerInput::Added(cids) => cids.iter().for_each(|cid| self.added(cid)),
            ServerInput::Sent { peer, blocks, bytes } => self.sent(peer, blocks, bytes),
            ServerInput::Gone(peer) => self.gone(peer),
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<ServerOutput> {
        if let Some((peer, misbehaviour)) = self.penalties.pop_front() {
            return Some(ServerOutput::Penalise { peer, misbehaviour });
        }
        if self.batches >= self.config.batches {
            return None;
        }
        let peer = *self.ready.iter().min_by_key(|peer| self.clients.get(peer).map_or(0, |client| client.served))?;
        let client = self.clients.get_mut(&peer)?;
        let count = (self.config.batch_bytes / client.block_bytes.max(1)).clamp(1, 1024);
        let mut blocks = Vec::with_capacity(count.min(client.queue.len()));
        while blocks.len() < count
            && let Some((_, block)) = client.queue.pop_first()
        {
            client.queued.remove(block.0.hash());
            blocks.push(block);
        }
        let presences: Vec<_> = client.presences.drain(..).collect();
        client.batches += 1;
        self.batches += 1;
        self.update(peer);
        Some(ServerOutput::Send { peer, blocks, presences })
    }

    /// Peers that want something which is not here, or is not sent yet.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// Whether `peer` has room for a batch and something to put in it.
    fn update(&mut self, peer: PeerId) {
        let Some(client) = self.clients.get(&peer) else {
            self.ready.remove(&peer);
            return;
        };
        let something = !client.queue.is_empty() || !client.presences.is_empty();
        if something && client.batches < self.config.batches_per_peer {
            self.ready.insert(peer);
        } else {
            self.ready.remove(&peer);
        }
    }

    fn wants(&mut self, peer: PeerId, full: bool, wants: &[(Want, bool)]) {
        if full {
            self.forget(peer);
        }
        let least = self.clients.values().map(|client| client.served).min().unwrap_or(0);
        let client = self.clients.entry(peer).or_insert_with(|| Client {
            waiting: BTreeMap::new(),
            queue: BTreeMap::new(),
            queued: BTreeMap::new(),
            presences: VecDeque::new(),
            batches: 0,
            block_bytes: 256 << 10,
            served: least,
        });
        let mut over = 0usize;
        for (want, here) in wants {
            let hash = *want.cid.hash();
            if want.cancel {
                client.remove(&hash);
                drop_waiter(&mut self.waiters, &hash, peer);
                continue;
            }
            if client.wants() >= self.config.max_wants_per_peer || client.presences.len() >= super::message::MAX_ENTRIES
            {
                over += 1;
                continue;
            }
            match (want.kind, here) {
                (WantKind::Block, true) => {
                    self.arrivals += 1;
                    let place = (std::cmp::Reverse(want.priority), self.arrivals);
                    client.remove(&hash);
                    client.queued.insert(hash, place);
                    client.queue.insert(place, (want.cid, want.send_dont_have));
                }
                (WantKind::Have, true) => client.presences.push_back(Presence { cid: want.cid, have: true }),
                (kind, false) => {
                    if want.send_dont_have {
                        client.presences.push_back(Presence { cid: want.cid, have: false });
                    }
                    client.waiting.insert(hash, Waiting { cid: want.cid, kind });
                    self.waiters.entry(hash).or_default().insert(peer);
                }
            }
        }
        if over > 0 {
            self.penalties.push_back((peer, Misbehaviour::Flooding));
        }
        self.tidy(peer);
        self.update(peer);
    }

    /// A block came for which peers have waited, even if they were told DONT_HAVE.
    fn added(&mut self, cid: &Cid) {
        let Some(peers) = self.waiters.remove(cid.hash()) else { return };
        for peer in peers {
            let Some(client) = self.clients.get_mut(&peer) else { continue };
            let Some(waiting) = client.waiting.remove(cid.hash()) else { continue };
            match waiting.kind {
                WantKind::Have => client.presences.push_back(Presence { cid: waiting.cid, have: true }),
                WantKind::Block => {
                    self.arrivals += 1;
                    let place = (std::cmp::Reverse(i32::MAX), self.arrivals);
                    client.queued.insert(*cid.hash(), place);
                    client.queue.insert(place, (waiting.cid, false));
                }
            }
            self.update(peer);
        }
    }

    fn sent(&mut self, peer: PeerId, blocks: usize, bytes: usize) {
        // A peer that went and came back may owe reports of batches that were written off when it went.
        if let Some(client) = self.clients.get_mut(&peer).filter(|client| client.batches > 0) {
            self.batches = self.batches.saturating_sub(1);
            client.batches -= 1;
            client.served += bytes as u64;
            if let Some(average) = bytes.checked_div(blocks) {
                client.block_bytes = average.max(64);
            }
        }
        self.tidy(peer);
        self.update(peer);
    }

    fn gone(&mut self, peer: PeerId) {
        self.forget(peer);
        if let Some(client) = self.clients.remove(&peer) {
            self.batches = self.batches.saturating_sub(client.batches);
        }
        self.update(peer);
    }

    /// Drops the wants of `peer`.
    fn forget(&mut self, peer: PeerId) {
        let Some(client) = self.clients.get_mut(&peer) else { return };
        client.queue.clear();
        client.queued.clear();
        client.presences.clear();
        for hash in std::mem::take(&mut client.waiting).into_keys() {
            drop_waiter(&mut self.waiters, &hash, peer);
        }
    }

    /// Forgets a peer that has nothing open.
    fn tidy(&mut self, peer: PeerId) {
        let idle = |client: &Client| client.wants() == 0 && client.presences.is_empty() && client.batches == 0;
        if self.clients.get(&peer).is_some_and(idle) {
            self.clients.remove(&peer);
        }
    }
}

impl Footprint for ServerMachine {
    fn footprint_bytes(&self) -> usize {
        let client = |client: &Client| 200 + 300 * client.wants() + 120 * client.presences.len();
        self.clients.values().map(client).sum::<usize>() + 150 * self.waiters.len()
    }
}

fn drop_waiter(waiters: &mut BTreeMap<Multihash, BTreeSet<PeerId>>, hash: &Multihash, peer: PeerId) {
    if let Some(peers) = waiters.get_mut(hash) {
        peers.remove(&peer);
        if peers.is_empty() {
            waiters.remove(hash);
        }
    }
}
