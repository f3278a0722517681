//! The answering side: whom to answer next, with how much.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use cid::Cid;
use diai_core::{Footprint, Instant, Misbehaviour, PeerId};

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
        /// From when the first was ready until the peer's stream had taken the last.
        took: Duration,
    },
    /// The peer is gone.
    Gone(PeerId),
    /// [`ServerMachine::poll_timeout`] is now.
    Timeout,
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
        /// Bytes to have in memory of them at a time.
        bytes: usize,
    },
    /// Give up all that is under way to this peer, and free its memory: it is so slow that others wait for it. What it
    /// wants is kept, for later.
    Displace {
        /// Who.
        peer: PeerId,
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

/// A batch under way.
#[derive(Debug)]
struct Sending {
    /// What it was meant to hold.
    bytes: usize,
    since: Instant,
    blocks: Vec<(Cid, bool)>,
}

#[derive(Debug)]
struct Client {
    /// Wants for blocks that are not here; answered when they come.
    waiting: BTreeMap<Multihash, Waiting>,
    /// Blocks to send: the highest priority first, then first come, first served.
    queue: BTreeMap<(std::cmp::Reverse<i32>, u64), (Cid, bool)>,
    queued: BTreeMap<Multihash, (std::cmp::Reverse<i32>, u64)>,
    presences: VecDeque<Presence>,
    batches: VecDeque<Sending>,
    /// Counts up from who became ready first.
    ready_at: u64,
    /// Bytes of a batch: many for who takes them fast, few for who is slow, so that slow peers do not hold the memory.
    batch_bytes: usize,
    block_bytes: usize,
    /// Bytes sent, halved now and then: who had least goes first.
    served: u64,
}

/// A peer's first batch, and the least that a slow one gets at a time.
const FIRST_BATCH_BYTES: usize = 256 << 10;
const LEAST_BATCH_BYTES: usize = 64 << 10;
/// Whose batch took less time gets more next time; whose took more, less.
const BATCH_TIME: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(4));
/// Whose batch is under way for longer makes room when others wait and there is none.
const HOLD: Duration = Duration::from_secs(5);
/// Peers remembered for having had to; they go after all others and displace nobody.
const MAX_DISPLACED: usize = 1024;
/// After so many bytes what each peer was served counts half.
const AGE_BYTES: u64 = 256 << 20;

impl Client {
    fn wants(&self) -> usize {
        self.waiting.len() + self.queued.len()
    }

    fn under_way(&self) -> usize {
        self.batches.iter().map(|batch| batch.bytes).sum()
    }

    fn push(&mut self, place: (std::cmp::Reverse<i32>, u64), block: (Cid, bool)) {
        let hash = *block.0.hash();
        self.remove(&hash);
        self.queued.insert(hash, place);
        self.queue.insert(place, block);
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
/// [`ServerConfig::batches_per_peer`] batches under way, so that one that asks for a lot delays only itself. How much a
/// batch holds depends on how fast the peer takes it, so that many slow ones together hold little. When they hold all there
/// is, the slowest makes room for whoever waits and holds nothing, so that nobody waits longer than some seconds for peers
/// that read as slowly as they may.
#[derive(Debug)]
pub struct ServerMachine {
    config: ServerConfig,
    clients: BTreeMap<PeerId, Client>,
    /// Who waits for a block that is not here.
    waiters: BTreeMap<Multihash, BTreeSet<PeerId>>,
    ready: BTreeSet<PeerId>,
    displaced: BTreeSet<PeerId>,
    now: Instant,
    penalties: VecDeque<(PeerId, Misbehaviour)>,
    batches: usize,
    /// Bytes of those, as they were meant to be.
    batches_bytes: usize,
    /// Bytes sent since what peers were served was halved.
    served: u64,
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
            displaced: BTreeSet::new(),
            now: Instant::default(),
            penalties: VecDeque::new(),
            batches: 0,
            batches_bytes: 0,
            served: 0,
            arrivals: 0,
        }
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Instant, input: ServerInput) {
        self.now = now;
        match input {
            ServerInput::Wants { peer, full, wants } => self.wants(peer, full, &wants),
            ServerInput::Added(cids) => cids.iter().for_each(|cid| self.added(cid)),
            ServerInput::Sent { peer, blocks, bytes, took } => self.sent(peer, blocks, bytes, took),
            ServerInput::Gone(peer) => self.gone(peer),
            ServerInput::Timeout => {}
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<ServerOutput> {
        if let Some((peer, misbehaviour)) = self.penalties.pop_front() {
            return Some(ServerOutput::Penalise { peer, misbehaviour });
        }
        if self.is_full() {
            return self.displace();
        }
        let turn = |peer: &PeerId| {
            let client = self.clients.get(peer);
            let had = client.map_or(0, |client| client.served + client.under_way() as u64);
            (self.displaced.contains(peer), had, client.map_or(0, |client| client.ready_at))
        };
        let peer = *self.ready.iter().min_by_key(|peer| turn(peer))?;
        let client = self.clients.get_mut(&peer)?;
        let bytes = client.batch_bytes;
        let count = (bytes / client.block_bytes.max(1)).clamp(1, 1024);
        let mut blocks = Vec::with_capacity(count.min(client.queue.len()));
        while blocks.len() < count
            && let Some((_, block)) = client.queue.pop_first()
        {
            client.queued.remove(block.0.hash());
            blocks.push(block);
        }
        let presences: Vec<_> = client.presences.drain(..).collect();
        client.batches.push_back(Sending { bytes, since: self.now, blocks: blocks.clone() });
        self.batches += 1;
        self.batches_bytes += bytes;
        self.update(peer);
        Some(ServerOutput::Send { peer, blocks, presences, bytes })
    }

    /// When to say [`ServerInput::Timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.is_full() || !self.somebody_waits() {
            return None;
        }
        let begun = self.clients.values().filter_map(|client| client.batches.front());
        begun.map(|batch| batch.since + HOLD).min()
    }

    fn is_full(&self) -> bool {
        self.batches >= self.config.batches || self.batches_bytes >= self.config.max_sending_bytes
    }

    /// Whether somebody has nothing under way, through no fault of its own.
    fn somebody_waits(&self) -> bool {
        let holds = |peer: &PeerId| self.clients.get(peer).is_some_and(|client| !client.batches.is_empty());
        self.ready.iter().any(|peer| !self.displaced.contains(peer) && !holds(peer))
    }

    /// Takes what is under way from who seems slowest.
    fn displace(&mut self) -> Option<ServerOutput> {
        if !self.somebody_waits() {
            return None;
        }
        let held = |client: &Client| client.batches.front().map(|batch| self.now.since(batch.since));
        let slowness = |(peer, client): (&PeerId, &Client)| {
            let held = held(client).filter(|held| *held >= HOLD)?;
            Some((held.as_millis() * 1024 / client.under_way().max(1) as u128, *peer))
        };
        let (_, peer) = self.clients.iter().filter_map(slowness).max()?;
        let client = self.clients.get_mut(&peer)?;
        self.batches -= client.batches.len();
        self.batches_bytes -= client.under_way();
        for block in std::mem::take(&mut client.batches).into_iter().flat_map(|batch| batch.blocks) {
            self.arrivals += 1;
            client.push((std::cmp::Reverse(i32::MAX), self.arrivals), block);
        }
        client.batch_bytes = LEAST_BATCH_BYTES;
        if self.displaced.len() >= MAX_DISPLACED {
            self.displaced.pop_first();
        }
        self.displaced.insert(peer);
        self.update(peer);
        Some(ServerOutput::Displace { peer })
    }

    /// Peers that want something which is not here, or is not sent yet.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// Whether `peer` has room for a batch and something to put in it.
    fn update(&mut self, peer: PeerId) {
        let Some(client) = self.clients.get_mut(&peer) else {
            self.ready.remove(&peer);
            return;
        };
        let something = !client.queue.is_empty() || !client.presences.is_empty();
        // Who is slow has one batch at a time.
        let at_once = if client.batch_bytes > LEAST_BATCH_BYTES { self.config.batches_per_peer } else { 1 };
        if something && client.batches.len() < at_once {
            if self.ready.insert(peer) {
                self.arrivals += 1;
                client.ready_at = self.arrivals;
            }
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
            batches: VecDeque::new(),
            ready_at: 0,
            batch_bytes: FIRST_BATCH_BYTES.min(self.config.batch_bytes),
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
                    client.push(place, (want.cid, want.send_dont_have));
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
                    client.push(place, (waiting.cid, false));
                }
            }
            self.update(peer);
        }
    }

    fn sent(&mut self, peer: PeerId, blocks: usize, bytes: usize, took: Duration) {
        // A peer that went and came back may owe reports of batches that were written off when it went.
        if let Some(client) = self.clients.get_mut(&peer)
            && let Some(Sending { bytes: meant, .. }) = client.batches.pop_front()
        {
            self.batches -= 1;
            self.batches_bytes -= meant;
            if took < BATCH_TIME.1 {
                self.displaced.remove(&peer);
            }
            client.served += bytes as u64;
            self.served += bytes as u64;
            if let Some(average) = bytes.checked_div(blocks) {
                client.block_bytes = average.max(64);
                let next = match took {
                    took if took > BATCH_TIME.1 => client.batch_bytes / 2,
                    took if took < BATCH_TIME.0 => client.batch_bytes * 2,
                    _ => client.batch_bytes,
                };
                let most = self.config.batch_bytes.max(LEAST_BATCH_BYTES);
                client.batch_bytes = next.clamp(LEAST_BATCH_BYTES, most);
            }
        }
        if self.served > AGE_BYTES {
            self.served = 0;
            self.clients.values_mut().for_each(|client| client.served /= 2);
        }
        self.tidy(peer);
        self.update(peer);
    }

    fn gone(&mut self, peer: PeerId) {
        self.forget(peer);
        if let Some(client) = self.clients.remove(&peer) {
            self.batches -= client.batches.len();
            self.batches_bytes -= client.under_way();
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
        let idle = |client: &Client| client.wants() == 0 && client.presences.is_empty() && client.batches.is_empty();
        if self.clients.get(&peer).is_some_and(idle) {
            self.clients.remove(&peer);
        }
    }
}

impl Footprint for ServerMachine {
    fn footprint_bytes(&self) -> usize {
        let client = |client: &Client| {
            let under_way: usize = client.batches.iter().map(|batch| batch.blocks.len()).sum();
            200 + 300 * client.wants() + 120 * (client.presences.len() + under_way)
        };
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
