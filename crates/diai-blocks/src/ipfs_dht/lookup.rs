use std::collections::BTreeMap;

use diai_core::PeerId;

use super::message::Key;

/// Peers that hold a key: the closest so many.
pub const REPLICATION: usize = 20;
/// Peers that a lookup keeps in sight; the farthest of more are forgotten.
pub const MAX_CANDIDATES: usize = 400;
/// Peers asked at a time.
const PARALLEL: usize = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Heard,
    Asked,
    Answered,
    Failed,
}

/// One lookup, without IO: whom to ask next, and whether all that matter have answered.
#[derive(Debug)]
pub struct Lookup {
    target: Key,
    local: PeerId,
    width: usize,
    candidates: BTreeMap<[u8; 32], (PeerId, State)>,
    asked: usize,
}

impl Lookup {
    /// Begins with the peers known, and goes on until the `width` closest have answered: [`REPLICATION`] to find a key.
    pub fn new(target: Key, local: PeerId, width: usize, known: impl IntoIterator<Item = PeerId>) -> Self {
        let mut lookup = Self { target, local, width, candidates: BTreeMap::new(), asked: 0 };
        lookup.hear(known);
        lookup
    }

    fn hear(&mut self, peers: impl IntoIterator<Item = PeerId>) {
        for peer in peers.into_iter().filter(|peer| *peer != self.local) {
            let distance = Key::of_peer(&peer).distance(&self.target);
            self.candidates.entry(distance).or_insert((peer, State::Heard));
        }
        while self.candidates.len() > MAX_CANDIDATES {
            // Those that are being asked stay, so that their answers are counted.
            let farthest = self.candidates.iter().rev().find(|(_, (_, state))| *state != State::Asked);
            let Some(distance) = farthest.map(|(distance, _)| *distance) else { break };
            self.candidates.remove(&distance);
        }
    }

    /// The next to be asked: `None` while enough are, or when the closest have all answered.
    pub fn next_peer(&mut self) -> Option<PeerId> {
        if self.asked >= PARALLEL {
            return None;
        }
        let alive = self.candidates.values_mut().filter(|(_, state)| *state != State::Failed);
        let (peer, state) = alive.take(self.width).find(|(_, state)| *state == State::Heard)?;
        *state = State::Asked;
        self.asked += 1;
        Some(*peer)
    }

    /// `peer` has answered, and named others.
    pub fn answered(&mut self, peer: &PeerId, closer: impl IntoIterator<Item = PeerId>) {
        self.set(peer, State::Answered);
        self.hear(closer);
    }

    /// `peer` did not answer.
    pub fn failed(&mut self, peer: &PeerId) {
        self.set(peer, State::Failed);
    }

    fn set(&mut self, peer: &PeerId, now: State) {
        let distance = Key::of_peer(peer).distance(&self.target);
        if let Some((_, state)) = self.candidates.get_mut(&distance).filter(|(_, state)| *state == State::Asked) {
            *state = now;
            self.asked -= 1;
        }
    }

    /// Whether the closest have all answered and nobody is being asked.
    pub fn is_done(&self) -> bool {
        let mut alive = self.candidates.values().filter(|(_, state)| *state != State::Failed).take(self.width);
        self.asked == 0 && alive.all(|(_, state)| *state == State::Answered)
    }

    /// Those that answered, the closest first.
    pub fn closest(&self) -> impl Iterator<Item = PeerId> {
        self.candidates.values().filter(|(_, state)| *state == State::Answered).map(|(peer, _)| *peer)
    }

    /// Those that did not answer.
    pub fn silent(&self) -> impl Iterator<Item = PeerId> {
        self.candidates.values().filter(|(_, state)| *state == State::Failed).map(|(peer, _)| *peer)
    }
}
