//! The asking side: which want goes to whom, and when to ask another.

mod choose;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cid::Cid;
use diai_core::{Footprint, Instant, Misbehaviour, PeerId};

use super::{
    message::{Presence, Want, WantKind},
    peer::Peer,
};
use crate::{config::ClientConfig, store::Multihash};

/// A session keeps at most so many peers that proved to hold something.
const MAX_HOLDERS: usize = 64;
/// After so many DONT_HAVEs in a row a peer is no longer taken for a holder.
const PRUNE_AFTER: u32 = 16;
/// Unasked blocks that are merely ignored.
const MAX_UNASKED: u32 = 32;

/// What happened.
#[derive(Debug, Clone)]
pub enum ClientInput {
    /// A peer that may speak Bitswap is there.
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
    /// A session wants blocks no longer.
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
    /// A part of a message came.
    Alive(PeerId),
    /// The time that [`ClientMachine::poll_timeout`] named has come.
    Timeout,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientOutput {
    /// Send these wants.
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
    /// Who has not answered a want-have yet.
    probing: BTreeSet<PeerId>,
    /// Who said HAVE.
    holders: Vec<PeerId>,
    /// Who said DONT_HAVE, or nothing in time.
    refused: BTreeSet<PeerId>,
    /// Who knows of the want and must be told when it ends.
    standing: BTreeSet<PeerId>,
    deadline: Option<Instant>,
    exhausted: bool,
}

#[derive(Debug, Default)]
struct SessionState {
    holders: Vec<PeerId>,
    /// Wants that nobody has room for yet.
    pending: VecDeque<Multihash>,
}

/// Decides whom to ask for what. Sans-IO: no clock, no network, and the same inputs give the same outputs.
///
/// A want goes as want-block to one peer at a time: to whoever said HAVE, else to the least busy peer that has
/// delivered to the session before. If there is none, the peer that has delivered most gets the want-block and others
/// a want-have each. A DONT_HAVE, a silence, or a disconnection moves the want to the next.
#[derive(Debug)]
pub struct ClientMachine {
    config: ClientConfig,
    peers: BTreeMap<PeerId, Peer>,
    open: BTreeMap<Multihash, Open>,
    sessions: BTreeMap<u64, SessionState>,
    deadlines: BTreeSet<(Instant, Multihash)>,
    outputs: VecDeque<ClientOutput>,
    next_priority: i32,
    duplicates: u64,
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
            duplicates: 0,
        }
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Instant, input: ClientInput) {
        match input {
            ClientInput::Connected(peer) => self.connected(now, peer),
            ClientInput::Gone(peer) => self.gone(peer),
            ClientInput::Want { session, cids } => self.want(session, cids),
            ClientInput::Unwant { session, cids } => {
                cids.iter().for_each(|cid| self.unwant(session, cid.hash()));
            }
            ClientInput::Holders { session, peers } => self.holders(session, &peers),
            ClientInput::End(session) => self.end(session),
            ClientInput::Received { peer, blocks, presences } => self.received(now, peer, &blocks, &presences),
            ClientInput::Alive(peer) => {
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.alive = now;
                }
            }
            ClientInput::Timeout => self.timeout(now),
        }
        self.fill(now);
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<ClientOutput> {
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        let (&peer, state) = self.peers.iter_mut().find(|(_, peer)| !peer.outbox.is_empty())?;
        Some(ClientOutput::Send { peer, wants: std::mem::take(&mut state.outbox) })
    }

    /// When [`ClientInput::Timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let stall =
            self.peers.values().filter(|peer| peer.in_flight > 0).map(|peer| peer.alive + self.config.stall).min();
        let want = self.deadlines.first().map(|(deadline, _)| *deadline);
        stall.into_iter().chain(want).min()
    }

    /// Blocks that came though they had come before.
    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Blocks wanted now.
    pub fn wants(&self) -> usize {
        self.open.len()
    }

    /// Who was asked for `cid` and has not delivered.
    pub fn asked(&self, cid: &Cid) -> Vec<PeerId> {
        self.open.get(cid.hash()).map_or_else(Vec::new, |open| {
            let mut asked: BTreeSet<_> = open.refused.union(&open.standing).copied().collect();
            asked.extend(open.asked);
            asked.into_iter().collect()
        })
    }

    fn connected(&mut self, now: Instant, peer: PeerId) {
        if self.peers.contains_key(&peer) {
            return;
        }
        self.peers.insert(peer, Peer::new(now, self.config.first_window));
        for open in self.open.values_mut() {
            open.refused.remove(&peer);
        }
        self.retry(|open| open.exhausted);
    }

    /// Queues those open wants again that `which` names.
    fn retry(&mut self, which: impl Fn(&Open) -> bool) {
        for (hash, open) in &mut self.open {
            if open.asked.is_none() && which(open) {
                open.exhausted = false;
                if let Some(session) = open.sessions.first().and_then(|id| self.sessions.get_mut(id)) {
                    session.pending.push_back(*hash);
                }
            }
        }
    }

    fn gone(&mut self, peer: PeerId) {
        let Some(state) = self.peers.remove(&peer) else { return };
        for session in self.sessions.values_mut() {
            session.holders.retain(|holder| *holder != peer);
        }
        for hash in state.standing {
            let Some(open) = self.open.get_mut(&hash) else { continue };
            open.standing.remove(&peer);
            open.holders.retain(|holder| *holder != peer);
            open.refused.insert(peer);
            let probed = open.probing.remove(&peer);
            let asked = open.asked.take_if(|asked| *asked == peer).is_some();
            if asked || (probed && open.asked.is_none()) {
                self.queue_first(hash);
            }
        }
    }

    fn queue_first(&mut self, hash: Multihash) {
        let session = self.open.get(&hash).and_then(|open| open.sessions.first().copied());
        if let Some(session) = session.and_then(|id| self.sessions.get_mut(&id)) {
            session.pending.push_front(hash);
        }
    }

    fn want(&mut self, id: u64, cids: Vec<Cid>) {
        let session = self.sessions.entry(id).or_default();
        for cid in cids {
            let hash = *cid.hash();
            if let Some(open) = self.open.get_mut(&hash) {
                if !open.sessions.contains(&id) {
                    open.sessions.push(id);
                }
                continue;
            }
            let open = Open {
                cid,
                priority: self.next_priority,
                sessions: vec![id],
                asked: None,
                probing: BTreeSet::new(),
                holders: Vec::new(),
                refused: BTreeSet::new(),
                standing: BTreeSet::new(),
                deadline: None,
                exhausted: false,
            };
            self.next_priority = if self.next_priority <= 1 { i32::MAX } else { self.next_priority - 1 };
            self.open.insert(hash, open);
            session.pending.push_back(hash);
        }
    }

    fn unwant(&mut self, id: u64, hash: &Multihash) {
        let Some(open) = self.open.get_mut(hash) else { return };
        open.sessions.retain(|session| *session != id);
        if open.sessions.is_empty() {
            self.close(hash, None);
        } else if open.asked.is_none() {
            // It may have been queued in the session that left.
            self.queue_first(*hash);
        }
    }

    fn end(&mut self, id: u64) {
        let hashes: Vec<_> =
            self.open.iter().filter(|(_, open)| open.sessions.contains(&id)).map(|(hash, _)| *hash).collect();
        hashes.iter().for_each(|hash| self.unwant(id, hash));
        self.sessions.remove(&id);
    }

    /// Forgets a want and tells everybody who knows of it, except `deliverer`.
    fn close(&mut self, hash: &Multihash, deliverer: Option<PeerId>) -> Option<Open> {
        let open = self.open.remove(hash)?;
        if let Some(deadline) = open.deadline {
            self.deadlines.remove(&(deadline, *hash));
        }
        for id in &open.standing {
            let Some(peer) = self.peers.get_mut(id) else { continue };
            peer.standing.remove(hash);
            peer.remember(*hash);
            if deliverer != Some(*id) {
                peer.outbox.push(cancel(open.cid));
            }
        }
        if let Some(peer) = open.asked.and_then(|asked| self.peers.get_mut(&asked)) {
            peer.in_flight -= 1;
        }
        Some(open)
    }

    fn holders(&mut self, id: u64, peers: &[PeerId]) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let peers: Vec<_> = peers.iter().filter(|peer| self.peers.contains_key(peer)).copied().collect();
        for peer in &peers {
            note_holder(session, *peer);
        }
        for open in self.open.values_mut().filter(|open| open.asked.is_none() && open.sessions.contains(&id)) {
            let before = open.refused.len();
            open.refused.retain(|refused| !peers.contains(refused));
            open.exhausted |= open.refused.len() < before;
        }
        self.retry(|open| open.exhausted && open.sessions.contains(&id));
    }

    fn received(&mut self, now: Instant, id: PeerId, blocks: &[(Cid, usize)], presences: &[Presence]) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.alive = now;
        for (cid, bytes) in blocks {
            self.block(id, cid, *bytes);
        }
        for presence in presences {
            self.presence(id, presence);
        }
    }

    fn block(&mut self, id: PeerId, cid: &Cid, bytes: usize) {
        let hash = cid.hash();
        let known = self.peers.get(&id).is_some_and(|peer| peer.was_asked(hash));
        if !known {
            return self.unasked(id);
        }
        let Some(open) = self.close(hash, Some(id)) else {
            self.duplicates += 1;
            return;
        };
        for session in &open.sessions {
            if let Some(session) = self.sessions.get_mut(session) {
                note_holder(session, id);
            }
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.delivered += 1;
            peer.refusals = 0;
            peer.window = (peer.window + 1).min(self.config.max_wants_per_peer);
            peer.block_bytes = (peer.block_bytes * 7 + bytes) / 8;
        }
        self.outputs.push_back(ClientOutput::Wanted { cid: open.cid, sessions: open.sessions, peer: id });
    }

    /// A block that this peer was never asked for. If it owes us blocks, this is a wrong one in their place.
    fn unasked(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.unasked += 1;
        let misbehaviour = if peer.in_flight > 0 {
            Misbehaviour::WrongContent
        } else if peer.unasked > MAX_UNASKED {
            peer.unasked = 0;
            Misbehaviour::Violation
        } else {
            return;
        };
        self.outputs.push_back(ClientOutput::Penalise { peer: id, misbehaviour });
        if misbehaviour == Misbehaviour::WrongContent {
            self.take_back(id);
        }
    }

    /// Moves what was asked of a peer to others.
    fn take_back(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.window = (peer.window / 4).max(1);
        let hashes: Vec<_> = peer.standing.iter().copied().collect();
        for session in self.sessions.values_mut() {
            session.holders.retain(|holder| *holder != id);
        }
        for hash in hashes {
            if self.open.get(&hash).is_some_and(|open| open.asked == Some(id)) {
                self.refused(id, hash, true);
            }
        }
    }

    fn presence(&mut self, id: PeerId, presence: &Presence) {
        let hash = *presence.cid.hash();
        let Some(open) = self.open.get_mut(&hash).filter(|open| open.standing.contains(&id)) else { return };
        if !presence.have {
            return self.refused(id, hash, false);
        }
        let was_probed = open.probing.remove(&id);
        open.refused.remove(&id);
        if !open.holders.contains(&id) && open.holders.len() < MAX_HOLDERS {
            open.holders.push(id);
        }
        let unasked = open.asked.is_none();
        if was_probed && open.asked != Some(id) {
            // The peer forgets a want-have that it answered with HAVE.
            open.standing.remove(&id);
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.standing.remove(&hash);
                peer.remember(hash);
            }
        }
        for session in &open.sessions {
            if let Some(session) = self.sessions.get_mut(session) {
                note_holder(session, id);
            }
        }
        if unasked {
            self.queue_first(hash);
        }
    }

    /// `id` has not got it, or does not answer; then the want is cancelled there.
    fn refused(&mut self, id: PeerId, hash: Multihash, silent: bool) {
        let Some(open) = self.open.get_mut(&hash) else { return };
        open.refused.insert(id);
        open.holders.retain(|holder| *holder != id);
        open.probing.remove(&id);
        let was_asked = open.asked.take_if(|asked| *asked == id).is_some();
        let free = open.asked.is_none();
        let cid = open.cid;
        if silent {
            open.standing.remove(&id);
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.in_flight -= usize::from(was_asked);
            peer.refusals += u32::from(!silent);
            if silent && peer.standing.remove(&hash) {
                peer.remember(hash);
                peer.outbox.push(cancel(cid));
            }
            if peer.refusals >= PRUNE_AFTER {
                for session in self.sessions.values_mut() {
                    session.holders.retain(|holder| *holder != id);
                }
            }
        }
        if free {
            self.queue_first(hash);
        }
    }

    fn timeout(&mut self, now: Instant) {
        while let Some(&(deadline, hash)) = self.deadlines.first() {
            if deadline > now {
                break;
            }
            self.deadlines.pop_first();
            let Some(open) = self.open.get_mut(&hash) else { continue };
            open.deadline = None;
            let silent: Vec<_> = open.asked.into_iter().chain(std::mem::take(&mut open.probing)).collect();
            silent.into_iter().for_each(|peer| self.refused(peer, hash, true));
        }
        let stalled = |peer: &Peer| peer.in_flight > 0 && peer.alive + self.config.stall <= now;
        let stalled: Vec<_> = self.peers.iter().filter(|(_, peer)| stalled(peer)).map(|(id, _)| *id).collect();
        for id in stalled {
            self.outputs.push_back(ClientOutput::Penalise { peer: id, misbehaviour: Misbehaviour::Silent });
            self.take_back(id);
        }
    }
}

impl Footprint for ClientMachine {
    fn footprint_bytes(&self) -> usize {
        let open: usize = self
            .open
            .values()
            .map(|open| 300 + 40 * (open.standing.len() + open.refused.len() + open.probing.len()))
            .sum();
        let peers: usize = self.peers.values().map(|peer| 300 + 100 * (peer.standing.len() + peer.outbox.len())).sum();
        open + peers + self.deadlines.len() * 96
    }
}

fn note_holder(session: &mut SessionState, peer: PeerId) {
    if !session.holders.contains(&peer) && session.holders.len() < MAX_HOLDERS {
        session.holders.push(peer);
    }
}

fn cancel(cid: Cid) -> Want {
    Want { cid, priority: 0, cancel: true, kind: WantKind::Block, send_dont_have: false }
}
