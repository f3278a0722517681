//! What peers answer, and what follows when they do not.

use std::time::Duration;

use cid::Cid;
use diai_core::{Instant, Misbehaviour, PeerId};

use super::{ClientMachine, ClientOutput, MAX_HOLDERS, cancel, note_holder};
use crate::{
    bitswap::{message::Presence, peer::Peer},
    store::Multihash,
};

/// After so many DONT_HAVEs in a row a peer is no longer taken for a holder of what a session wants.
const PRUNE_AFTER: u32 = 16;
/// Unasked blocks that are merely ignored.
const MAX_UNASKED: u32 = 32;
/// The longest silence that a peer is granted: it doubles with each stall.
const LONGEST_STALL: Duration = Duration::from_secs(60);

/// Why a want is taken back from a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// It has not got the block; should it come, the peer sends it.
    DontHave,
    /// It does not answer.
    Silent,
    /// It sends other blocks.
    Wrong,
}

impl ClientMachine {
    /// `id` does something: what it was silent about is asked again, if nobody else has it.
    pub(super) fn alive(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.alive = now;
        peer.hedged = 0;
        if peer.stalled {
            self.revive(id);
        }
    }

    /// `id` was told what we want. Its time to answer begins now.
    pub(super) fn sent(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.writing = false;
        peer.alive = now;
        if std::mem::take(&mut peer.untold) {
            self.revive(id);
        }
    }

    pub(super) fn revive(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.stalled = false;
        if peer.ask_again.take().is_some() {
            self.retry(|open| open.silent.remove(&id) && open.exhausted);
        }
    }

    pub(super) fn received(&mut self, now: Instant, id: PeerId, blocks: &[(Cid, usize)], presences: &[Presence]) {
        if !self.peers.contains_key(&id) {
            return;
        }
        self.silence(now, id, blocks);
        for (cid, bytes) in blocks {
            self.block(id, cid, *bytes);
        }
        for presence in presences {
            self.presence(id, presence);
        }
        self.alive(now, id);
    }

    /// Learns how long `id` lets us wait, if it owes one of `blocks`.
    fn silence(&mut self, now: Instant, id: PeerId, blocks: &[(Cid, usize)]) {
        let owed = |(cid, _): &(Cid, usize)| self.open.get(cid.hash()).is_some_and(|open| open.owes(&id));
        let owed = blocks.iter().any(owed);
        if let Some(peer) = self.peers.get_mut(&id).filter(|_| owed) {
            peer.silences.add(now.since(peer.last_block));
            peer.last_block = now;
        }
    }

    fn block(&mut self, id: PeerId, cid: &Cid, bytes: usize) {
        let hash = cid.hash();
        // Its bytes are what is wanted, whoever was asked: a peer that went and came back may owe it from before.
        let Some(open) = self.close(hash, Some(id)) else {
            if !self.recent.contains(hash) {
                return self.unasked(id);
            }
            self.duplicates += 1;
            self.hedges.duplicate(hash, bytes);
            return;
        };
        self.hedges.received(bytes, self.config.hedge_percent);
        self.hedges.won += u64::from(open.second == Some(id));
        for session in &open.sessions {
            if let Some(session) = self.sessions.get_mut(session) {
                note_holder(session, id);
            }
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.delivered += 1;
            peer.stall = self.config.stall;
            peer.window = (peer.window + 1).min(self.config.max_wants_per_peer);
            peer.block_bytes = (peer.block_bytes * 7 + bytes) / 8;
        }
        self.outputs.push_back(ClientOutput::Wanted { cid: open.cid, sessions: open.sessions, peer: id });
    }

    /// A block that nobody was asked for. If the peer owes us blocks, this is a wrong one in their place.
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
            self.take_back(id, Why::Wrong);
        }
    }

    /// Moves what was asked of a peer to others.
    fn take_back(&mut self, id: PeerId, why: Why) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.window = (peer.window / 4).max(1);
        let hashes: Vec<_> = peer.standing.iter().copied().collect();
        for session in self.sessions.values_mut() {
            session.holders.remove(&id);
        }
        for hash in hashes {
            if self.open.get(&hash).is_some_and(|open| open.owes(&id)) {
                self.refused(id, hash, why);
            }
        }
    }

    fn presence(&mut self, id: PeerId, presence: &Presence) {
        let hash = *presence.cid.hash();
        let Some(open) = self.open.get_mut(&hash).filter(|open| open.standing.contains(&id)) else { return };
        if !presence.have {
            if open.refused.contains(&id) {
                return;
            }
            for session in &open.sessions {
                let Some(session) = self.sessions.get_mut(session) else { continue };
                let Some(refusals) = session.holders.get_mut(&id) else { continue };
                *refusals += 1;
                if *refusals >= PRUNE_AFTER {
                    session.holders.remove(&id);
                }
            }
            return self.refused(id, hash, Why::DontHave);
        }
        let was_probed = open.probing.remove(&id);
        open.refused.remove(&id);
        open.silent.remove(&id);
        if !open.holders.contains(&id) && open.holders.len() < MAX_HOLDERS {
            open.holders.push(id);
        }
        let unasked = open.asked.is_none();
        let peer = self.peers.get_mut(&id);
        if was_probed && !open.owes(&id) {
            // The peer forgets a want-have that it answered with HAVE.
            open.standing.remove(&id);
            if let Some(peer) = peer {
                peer.end(&hash, None);
            }
        } else if let Some(peer) = peer {
            peer.waiting.remove(&hash);
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

    /// `id` will not deliver `hash` for now. Unless it may still come by itself, the want is cancelled there.
    fn refused(&mut self, id: PeerId, hash: Multihash, why: Why) {
        let Some(open) = self.open.get_mut(&hash) else { return };
        match why {
            Why::Silent => open.silent.insert(id),
            Why::DontHave | Why::Wrong => open.refused.insert(id),
        };
        open.holders.retain(|holder| *holder != id);
        open.probing.remove(&id);
        let was_asked = open.owes(&id);
        open.released(&id);
        let free = open.asked.is_none();
        let cid = open.cid;
        let mut forgotten = None;
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.in_flight -= usize::from(was_asked);
            forgotten = match why {
                // So many that it knows of are enough: of more, it is told to forget the oldest.
                Why::DontHave => peer.waiting.insert(hash),
                Why::Silent | Why::Wrong => Some(hash),
            };
            if let Some(forgotten) = &forgotten {
                let cid = self.open.get(forgotten).map_or(cid, |open| open.cid);
                peer.end(forgotten, Some(cancel(cid)));
            }
        }
        if let Some(open) = forgotten.and_then(|hash| self.open.get_mut(&hash)) {
            open.standing.remove(&id);
        }
        if free {
            self.queue_first(hash);
        }
    }

    pub(super) fn timeout(&mut self, now: Instant) {
        while let Some(&(deadline, hash)) = self.deadlines.first() {
            if deadline > now {
                break;
            }
            self.deadlines.pop_first();
            let Some(open) = self.open.get_mut(&hash) else { continue };
            open.deadline = None;
            let owing = open.asked.into_iter().chain(open.second);
            let silent: Vec<_> = owing.chain(std::mem::take(&mut open.probing)).collect();
            for id in silent {
                self.refused(id, hash, Why::Silent);
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.ask_again.get_or_insert(now + self.config.want_timeout);
                }
            }
        }
        let stalled = |peer: &Peer| peer.in_flight > 0 && peer.alive + peer.stall <= now;
        let stalled: Vec<_> = self.peers.iter().filter(|(_, peer)| stalled(peer)).map(|(id, _)| *id).collect();
        for id in stalled {
            self.take_back(id, Why::Silent);
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            peer.stalled = true;
            peer.stall = (2 * peer.stall).min(LONGEST_STALL.max(self.config.stall));
            peer.ask_again = Some(now + peer.stall);
            // While it has not even been told, the way to it may be what is slow.
            peer.untold = peer.writing;
            if !peer.untold {
                self.outputs.push_back(ClientOutput::Penalise { peer: id, misbehaviour: Misbehaviour::Silent });
            }
        }
        let due = |peer: &Peer| peer.ask_again.is_some_and(|at| at <= now);
        let due: Vec<_> = self.peers.iter().filter(|(_, peer)| due(peer)).map(|(id, _)| *id).collect();
        due.into_iter().for_each(|id| self.revive(id));
        self.lift(now);
        self.hedge(now);
    }
}
