//! The asking side: which want goes to whom, and when to ask another.

mod answers;
mod choose;
mod denied;
mod hedge;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cid::Cid;
use diai_core::{Footprint, Instant, Misbehaviour, PeerId};

use self::{denied::Denials, hedge::Hedges};
use super::{
    message::{Presence, Want, WantKind},
    peer::{Peer, Recent},
};
use crate::{config::ClientConfig, store::Multihash};

/// A session keeps at most so many peers that proved to hold something.
const MAX_HOLDERS: usize = 64;
/// Wants that ended; a block that comes late for one is held against nobody, whoever was asked. 3 MiB.
const REMEMBERED: usize = 16_384;

/// What happened.
#[derive(Debug, Clone)]
pub enum ClientInput {
    /// A peer that may speak Bitswap is there, or connected just now.
    Connected(PeerId),
    /// It is gone, or speaks no Bitswap, or takes no more wants.
    Gone(PeerId),
    /// A session wants blocks. The caller keeps the open wants of a session to some thousand.
    Want {
        /// Whose wants they are; any number that the caller picks.
        session: u64,
        /// Which blocks, the most urgent first.
        cids: Vec<Cid>,
    },
    /// A session wants blocks no longer, as they came by another way, or not now. Who said no is not remembered for that,
    /// as it is at the [`End`](Self::End).
    Unwant {
        /// Whose wants they were.
        session: u64,
        /// Which blocks.
        cids: Vec<Cid>,
    },
    /// Peers that are likely to hold what a session wants. Those that said no before are asked again.
    Holders {
        /// Which session.
        session: u64,
        /// Who; [`ClientInput::Connected`] came before.
        peers: Vec<PeerId>,
    },
    /// A session is over, with all its wants.
    End(u64),
    /// A message came. The CIDs are what the blocks' data hash to.
    Received {
        /// From whom.
        peer: PeerId,
        /// CID and length of each block.
        blocks: Vec<(Cid, usize)>,
        /// HAVEs and DONT_HAVEs.
        presences: Vec<Presence>,
    },
    /// A part of a message came, or waits for room.
    Alive(PeerId),
    /// The peer's stream took the wants of the last [`ClientOutput::Send`].
    Sent(PeerId),
    /// The time that [`ClientMachine::poll_timeout`] named has come.
    Timeout,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientOutput {
    /// Send these wants, then say [`ClientInput::Sent`]: more for this peer wait until then.
    Send {
        /// To whom.
        peer: PeerId,
        /// What.
        wants: Vec<Want>,
    },
    /// A block just received was wanted; every other was not.
    Wanted {
        /// As it was asked for.
        cid: Cid,
        /// By whom.
        sessions: Vec<u64>,
        /// Who sent it.
        peer: PeerId,
    },
    /// Nobody who is connected has it. The want stays, for peers that come and for [`ClientInput::Holders`].
    Exhausted {
        /// Whose want it is.
        sessions: Vec<u64>,
        /// Which block.
        cid: Cid,
    },
    /// A peer did wrong.
    Penalise {
        /// Who.
        peer: PeerId,
        /// What.
        misbehaviour: Misbehaviour,
    },
}

/// One wanted block.
#[derive(Debug)]
struct Open {
    cid: Cid,
    priority: i32,
    sessions: Vec<u64>,
    /// Who has the want-block now; one at a time, so that nothing comes twice.
    asked: Option<PeerId>,
    /// Who has it besides, because that one is silent.
    second: Option<PeerId>,
    /// Who has not answered a want-have yet.
    probing: BTreeSet<PeerId>,
    /// Who said HAVE.
    holders: Vec<PeerId>,
    /// Who said DONT_HAVE.
    refused: BTreeSet<PeerId>,
    /// Who said nothing in time; asked again on a sign of life, or at [`Peer::ask_again`].
    silent: BTreeSet<PeerId>,
    /// Who knows of the want and must be told when it ends.
    standing: BTreeSet<PeerId>,
    deadline: Option<Instant>,
    exhausted: bool,
    /// It waits in a session to be placed; once is enough, however often peers change their word.
    queued: bool,
}

#[derive(Debug, Default)]
struct SessionState {
    /// Peers that proved to hold something, with their DONT_HAVEs in a row.
    holders: BTreeMap<PeerId, u32>,
    /// Wants that nobody has room for yet.
    pending: VecDeque<Multihash>,
}

/// Decides whom to ask for what. Sans-IO: no clock, no network, and the same inputs give the same outputs.
///
/// A want goes as want-block to one peer at a time: to whoever said HAVE, else to the least busy peer that has
/// delivered to the session before. If there is none, the peer that has delivered most gets the want-block and others
/// a want-have each. A DONT_HAVE, a silence, or a disconnection moves the want to the next. Who is silent for longer than it
/// mostly is has one want after the other asked of another holder too, within a budget of what may come twice.
#[derive(Debug)]
pub struct ClientMachine {
    config: ClientConfig,
    peers: BTreeMap<PeerId, Peer>,
    open: BTreeMap<Multihash, Open>,
    sessions: BTreeMap<u64, SessionState>,
    deadlines: BTreeSet<(Instant, Multihash)>,
    outputs: VecDeque<ClientOutput>,
    next_priority: i32,
    recent: Recent,
    duplicates: u64,
    hedges: Hedges,
    denials: Denials,
}

impl ClientMachine {
    /// A machine that knows nobody and wants nothing.
    pub fn new(config: ClientConfig) -> Self {
        Self {
            config,
            peers: BTreeMap::new(),
            open: BTreeMap::new(),
            sessions: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            outputs: VecDeque::new(),
            next_priority: i32::MAX,
            recent: Recent::new(REMEMBERED),
            duplicates: 0,
            hedges: Hedges::default(),
            denials: Denials::default(),
        }
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Instant, input: ClientInput) {
        match input {
            ClientInput::Connected(peer) => self.connected(now, peer),
            ClientInput::Gone(peer) => self.gone(peer),
            ClientInput::Want { session, cids } => self.want(now, session, cids),
            ClientInput::Unwant { session, cids } => {
                cids.iter().for_each(|cid| drop(self.unwant(session, cid.hash())));
            }
            ClientInput::Holders { session, peers } => self.holders(session, &peers),
            ClientInput::End(session) => self.end(now, session),
            ClientInput::Received { peer, blocks, presences } => self.received(now, peer, &blocks, &presences),
            ClientInput::Alive(peer) => self.alive(now, peer),
            ClientInput::Sent(peer) => self.sent(now, peer),
            ClientInput::Timeout => self.timeout(now),
        }
        self.fill(now);
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<ClientOutput> {
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        let mut idle = self.peers.iter_mut().filter(|(_, peer)| !peer.writing);
        let (&peer, state) = idle.find(|(_, peer)| !peer.outbox.is_empty())?;
        state.writing = true;
        Some(ClientOutput::Send { peer, wants: std::mem::take(&mut state.outbox).into_values().collect() })
    }

    /// When [`ClientInput::Timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let stall = self.peers.values().filter(|peer| peer.in_flight > 0).map(|peer| peer.alive + peer.stall);
        let again = self.peers.values().filter_map(|peer| peer.ask_again);
        let want = self.deadlines.first().map(|(deadline, _)| *deadline);
        let hedge = self.peers.values().filter_map(|peer| self.hedge_at(peer));
        stall.chain(again).chain(want).chain(hedge).chain(self.denials.next_lift()).min()
    }

    /// Blocks asked of a second peer since the first was silent for long, and those of them that it sent first.
    pub fn hedges(&self) -> (u64, u64) {
        (self.hedges.asked, self.hedges.won)
    }

    /// Wants that were not sent to a peer that had just said no to them.
    pub fn denied(&self) -> u64 {
        self.denials.spared
    }

    /// Blocks that came though they had come before.
    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Blocks wanted now.
    pub fn wants(&self) -> usize {
        self.open.len()
    }

    /// Whether `peer` is taken for one that speaks Bitswap.
    pub fn knows(&self, peer: &PeerId) -> bool {
        self.peers.contains_key(peer)
    }

    /// Who was asked for `cid` and has not delivered.
    pub fn asked(&self, cid: &Cid) -> Vec<PeerId> {
        self.open.get(cid.hash()).map_or_else(Vec::new, |open| {
            let mut asked: BTreeSet<_> = open.refused.union(&open.standing).copied().collect();
            asked.extend(open.silent.iter().chain(&open.asked));
            asked.into_iter().collect()
        })
    }

    fn connected(&mut self, now: Instant, peer: PeerId) {
        if self.peers.contains_key(&peer) {
            // It was dialled when it was named, or has come back.
            return self.revive(peer);
        }
        let ClientConfig { first_window, stall, max_wants_per_peer, .. } = self.config;
        self.peers.insert(peer, Peer::new(now, first_window, stall, max_wants_per_peer));
        self.retry(|open| {
            open.refused.remove(&peer);
            open.silent.remove(&peer);
            open.exhausted
        });
    }

    /// Queues those open wants again that `which` names.
    fn retry(&mut self, which: impl Fn(&mut Open) -> bool) {
        for (hash, open) in &mut self.open {
            if which(open) && open.asked.is_none() {
                open.exhausted = false;
                if open.queued {
                    continue;
                }
                if let Some(session) = open.sessions.first().and_then(|id| self.sessions.get_mut(id)) {
                    open.queued = true;
                    session.pending.push_back(*hash);
                }
            }
        }
    }

    fn gone(&mut self, peer: PeerId) {
        let Some(state) = self.peers.remove(&peer) else { return };
        self.denials.gone(&peer);
        for session in self.sessions.values_mut() {
            session.holders.remove(&peer);
        }
        for hash in state.standing {
            let Some(open) = self.open.get_mut(&hash) else { continue };
            open.standing.remove(&peer);
            open.holders.retain(|holder| *holder != peer);
            open.refused.insert(peer);
            let probed = open.probing.remove(&peer);
            let asked = open.released(&peer);
            if asked || (probed && open.asked.is_none()) {
                self.queue_first(hash);
            }
        }
    }

    fn queue_first(&mut self, hash: Multihash) {
        let Some(open) = self.open.get_mut(&hash).filter(|open| !open.queued) else { return };
        let session = open.sessions.first().copied();
        if let Some(session) = session.and_then(|id| self.sessions.get_mut(&id)) {
            open.queued = true;
            session.pending.push_front(hash);
        }
    }

    fn want(&mut self, now: Instant, id: u64, cids: Vec<Cid>) {
        let session = self.sessions.entry(id).or_default();
        for cid in cids {
            let hash = *cid.hash();
            if let Some(open) = self.open.get_mut(&hash) {
                if !open.sessions.contains(&id) {
                    open.sessions.push(id);
                    let Open { refused, standing, .. } = &mut *open;
                    refused.retain(|peer| standing.contains(peer) || !session.holders.contains_key(peer));
                    // This session is told too if nobody has it, or knows a holder.
                    if std::mem::take(&mut open.exhausted) && !open.queued {
                        open.queued = true;
                        session.pending.push_back(hash);
                    }
                }
                continue;
            }
            let mut refused = self.denials.open(now, &hash);
            // A holder may have it by now: whoever named it knows more than what is remembered.
            refused.retain(|peer| self.peers.contains_key(peer) && !session.holders.contains_key(peer));
            let open = Open {
                cid,
                priority: self.next_priority,
                sessions: vec![id],
                asked: None,
                second: None,
                probing: BTreeSet::new(),
                holders: Vec::new(),
                refused,
                silent: BTreeSet::new(),
                standing: BTreeSet::new(),
                deadline: None,
                exhausted: false,
                queued: true,
            };
            self.next_priority = if self.next_priority <= 1 { i32::MAX } else { self.next_priority - 1 };
            self.open.insert(hash, open);
            session.pending.push_back(hash);
        }
    }

    /// Returns the want if nobody wants it any more.
    fn unwant(&mut self, id: u64, hash: &Multihash) -> Option<Open> {
        let open = self.open.get_mut(hash)?;
        open.sessions.retain(|session| *session != id);
        if open.sessions.is_empty() {
            return self.close(hash, None);
        }
        if open.asked.is_none() {
            // It may have been queued in the session that left.
            open.queued = false;
            self.queue_first(*hash);
        }
        None
    }

    fn end(&mut self, now: Instant, id: u64) {
        let hashes: Vec<_> =
            self.open.iter().filter(|(_, open)| open.sessions.contains(&id)).map(|(hash, _)| *hash).collect();
        for hash in &hashes {
            if let Some(open) = self.unwant(id, hash) {
                self.deny(now, hash, &open);
            }
        }
        self.sessions.remove(&id);
    }

    /// Forgets a want and tells everybody who knows of it, except `deliverer`.
    fn close(&mut self, hash: &Multihash, deliverer: Option<PeerId>) -> Option<Open> {
        let open = self.open.remove(hash)?;
        if let Some(deadline) = open.deadline {
            self.deadlines.remove(&(deadline, *hash));
        }
        self.recent.insert(*hash);
        self.denials.close(hash, deliverer.is_some());
        for id in &open.standing {
            if let Some(peer) = self.peers.get_mut(id) {
                peer.end(hash, (deliverer != Some(*id)).then(|| cancel(open.cid)));
            }
        }
        for id in open.asked.iter().chain(&open.second) {
            if let Some(peer) = self.peers.get_mut(id) {
                peer.in_flight -= 1;
            }
        }
        Some(open)
    }

    fn holders(&mut self, id: u64, peers: &[PeerId]) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let peers: Vec<_> = peers.iter().filter(|peer| self.peers.contains_key(peer)).copied().collect();
        for peer in &peers {
            note_holder(session, *peer);
        }
        self.retry(|open| {
            if !open.sessions.contains(&id) || open.asked.is_some() {
                return false;
            }
            let before = open.refused.len() + open.silent.len();
            open.refused.retain(|refused| !peers.contains(refused));
            open.silent.retain(|silent| !peers.contains(silent));
            open.exhausted || open.refused.len() + open.silent.len() < before
        });
    }
}

impl Footprint for ClientMachine {
    fn footprint_bytes(&self) -> usize {
        let open: usize = self
            .open
            .values()
            .map(|open| 300 + 40 * (open.standing.len() + open.refused.len() + open.silent.len() + open.probing.len()))
            .sum();
        let peers: usize = self
            .peers
            .values()
            .map(|peer| 300 + 100 * (peer.standing.len() + 2 * peer.waiting.len() + 2 * peer.outbox.len()))
            .sum();
        let pending: usize = self.sessions.values().map(|session| session.pending.len()).sum();
        open + peers
            + pending * 80
            + self.deadlines.len() * 96
            + self.recent.len() * 200
            + self.denials.footprint_bytes()
    }
}

impl Open {
    /// `peer` owes this block no more. Returns whether it was the only one that did.
    fn released(&mut self, peer: &PeerId) -> bool {
        if self.second.take_if(|second| second == peer).is_some() {
            return false;
        }
        if self.asked.take_if(|asked| asked == peer).is_none() {
            return false;
        }
        self.asked = self.second.take();
        self.asked.is_none()
    }

    fn owes(&self, peer: &PeerId) -> bool {
        self.asked.as_ref() == Some(peer) || self.second.as_ref() == Some(peer)
    }
}

fn note_holder(session: &mut SessionState, peer: PeerId) {
    if session.holders.contains_key(&peer) || session.holders.len() < MAX_HOLDERS {
        session.holders.insert(peer, 0);
    }
}

fn cancel(cid: Cid) -> Want {
    Want { cid, priority: 0, cancel: true, kind: WantKind::Block, send_dont_have: false }
}
