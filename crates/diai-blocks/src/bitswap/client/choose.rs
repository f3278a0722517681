//! Whom to ask.

use cid::Cid;
use diai_core::{Instant, PeerId};

use super::{ClientMachine, ClientOutput, Open};
use crate::{
    bitswap::{
        message::{Want, WantKind},
        peer::Peer,
    },
    store::Multihash,
};

impl ClientMachine {
    /// Gives queued wants to whoever has room, session by session.
    pub(super) fn fill(&mut self, now: Instant) {
        let sessions: Vec<_> = self.sessions.keys().copied().collect();
        for id in sessions {
            while let Some(hash) = self.sessions.get(&id).and_then(|session| session.pending.front().copied()) {
                if !self.place(now, hash) {
                    break;
                }
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.pending.pop_front();
                }
                if let Some(open) = self.open.get_mut(&hash) {
                    open.queued = false;
                }
            }
        }
    }

    pub(super) fn has_room(&self, peer: &Peer) -> bool {
        let bytes = (peer.in_flight * peer.block_bytes) < self.config.max_bytes_per_peer;
        peer.in_flight < peer.window
            && (bytes || peer.in_flight < 2)
            && peer.unanswered() < self.config.max_wants_per_peer
    }

    /// Asks somebody for `hash`. `false` if all who might have it are busy.
    fn place(&mut self, now: Instant, hash: Multihash) -> bool {
        let Some(open) = self.open.get(&hash).filter(|open| open.asked.is_none()) else { return true };
        let sessions = open.sessions.iter().filter_map(|id| self.sessions.get(id));
        let of_sessions = sessions.flat_map(|session| session.holders.keys());
        let mut best: Option<(usize, PeerId)> = None;
        let mut busy = false;
        for id in open.holders.iter().chain(of_sessions) {
            let Some(peer) = self.peers.get(id).filter(|_| open.may_have(id)) else { continue };
            if !self.has_room(peer) {
                busy = true;
                continue;
            }
            // The share of its window that is taken: the fastest peer has the widest window and drains it soonest.
            let load = (peer.in_flight + 1) * 1024 / peer.window;
            if best.is_none_or(|(least, _)| load < least) {
                best = Some((load, *id));
            }
        }
        match best {
            Some((_, id)) => self.ask(now, hash, id),
            None if busy => return false,
            None => return self.discover(now, hash),
        }
        true
    }

    fn ask(&mut self, now: Instant, hash: Multihash, id: PeerId) {
        let deadline = now + self.config.want_timeout;
        let Some(open) = self.give(now, hash, id) else { return };
        open.asked = Some(id);
        self.set_deadline(hash, deadline);
    }

    /// Asks `id`, too.
    pub(super) fn ask_second(&mut self, now: Instant, hash: Multihash, id: PeerId) {
        if let Some(open) = self.give(now, hash, id) {
            open.second = Some(id);
        }
    }

    fn give(&mut self, now: Instant, hash: Multihash, id: PeerId) -> Option<&mut Open> {
        let (open, peer) = (self.open.get_mut(&hash)?, self.peers.get_mut(&id)?);
        if peer.in_flight == 0 {
            (peer.alive, peer.last_block) = (now, now);
        }
        peer.in_flight += 1;
        peer.tell(want(open.cid, open.priority, WantKind::Block));
        open.probing.remove(&id);
        open.standing.insert(id);
        Some(open)
    }

    fn set_deadline(&mut self, hash: Multihash, deadline: Instant) {
        let Some(open) = self.open.get_mut(&hash) else { return };
        if let Some(old) = open.deadline.replace(deadline) {
            self.deadlines.remove(&(old, hash));
        }
        self.deadlines.insert((deadline, hash));
    }

    /// Nobody is known to have it: the most promising peer gets a want-block, others a want-have. `false` if all whom
    /// it could be asked of are busy.
    fn discover(&mut self, now: Instant, hash: Multihash) -> bool {
        let Some(open) = self.open.get(&hash) else { return true };
        let untried = |id: &PeerId| open.may_have(id) && !open.standing.contains(id);
        let untried: Vec<_> = self.peers.iter().filter(|(id, _)| untried(id)).collect();
        let mut candidates = untried.clone();
        candidates.retain(|(_, peer)| peer.unanswered() < self.config.max_wants_per_peer);
        candidates.sort_by_key(|(_, peer)| (peer.stalled, std::cmp::Reverse(peer.delivered)));
        let first = candidates.iter().find(|(_, peer)| self.has_room(peer)).map(|(id, _)| **id);
        let others: Vec<_> =
            candidates.iter().map(|(id, _)| **id).filter(|id| Some(*id) != first).take(self.config.broadcast).collect();
        if first.is_none() && others.is_empty() && open.probing.is_empty() && !untried.is_empty() {
            return false;
        }
        let Some(open) = self.open.get_mut(&hash) else { return true };
        if first.is_none() && others.is_empty() {
            if !open.probing.is_empty() {
                // No new question, no new deadline: or others could put off for ever that a silent one counts as such.
                let until = now + self.config.probe_timeout;
                if open.deadline.is_none_or(|deadline| deadline > until) {
                    self.set_deadline(hash, until);
                }
            } else if !open.exhausted {
                open.exhausted = true;
                let (sessions, cid) = (open.sessions.clone(), open.cid);
                self.outputs.push_back(ClientOutput::Exhausted { sessions, cid });
            }
            return true;
        }
        for id in &others {
            let Some(peer) = self.peers.get_mut(id) else { continue };
            peer.tell(want(open.cid, open.priority, WantKind::Have));
            open.probing.insert(*id);
            open.standing.insert(*id);
        }
        match first {
            Some(id) => self.ask(now, hash, id),
            None => self.set_deadline(hash, now + self.config.probe_timeout),
        }
        true
    }
}

impl Open {
    /// Whether `id` has not said no, nor been silent about it.
    pub(super) fn may_have(&self, id: &PeerId) -> bool {
        !self.refused.contains(id) && !self.silent.contains(id)
    }
}

fn want(cid: Cid, priority: i32, kind: WantKind) -> Want {
    Want { cid, priority, cancel: false, kind, send_dont_have: true }
}
