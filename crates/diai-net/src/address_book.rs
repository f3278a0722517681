use std::collections::BTreeMap;

use diai_core::{Multiaddr, PeerId};
use libp2p::multiaddr::Protocol;

/// The longest address that is remembered, in bytes.
pub(crate) const MAX_ADDR_BYTES: usize = 256;
/// What a file of addresses may hold.
pub(crate) const MAX_FILE_BYTES: u64 = 4 << 20;

/// Where peers can be dialled: so many peers, so many addresses each; the longest unheard of is forgotten first.
#[derive(Debug)]
pub(crate) struct AddressBook {
    peers: BTreeMap<PeerId, Entry>,
    /// By when it was last touched, so that the oldest is found without a search.
    by_age: BTreeMap<u64, PeerId>,
    touches: u64,
    max_peers: usize,
    max_addrs: usize,
    dirty: bool,
}

#[derive(Debug, Default)]
struct Entry {
    touched: u64,
    /// As the peer itself said in its last hello; kept over a restart.
    shown: Vec<Multiaddr>,
    /// As others said, the newest last.
    heard: Vec<Multiaddr>,
}

impl AddressBook {
    pub(crate) fn new(max_peers: usize, max_addrs: usize) -> Self {
        Self { peers: BTreeMap::new(), by_age: BTreeMap::new(), touches: 0, max_peers, max_addrs, dirty: false }
    }

    /// Remembers where `peer` is said to be; what cannot be dialled is left out.
    pub(crate) fn hear(&mut self, peer: PeerId, addrs: impl IntoIterator<Item = Multiaddr>) {
        let addrs = self.dialable(peer, addrs);
        if addrs.is_empty() {
            return;
        }
        let max_addrs = self.max_addrs;
        let entry = self.touch(peer);
        for addr in addrs {
            if !entry.shown.contains(&addr) && !entry.heard.contains(&addr) {
                entry.heard.push(addr);
            }
        }
        let surplus = entry.heard.len().saturating_sub(max_addrs);
        entry.heard.drain(..surplus);
    }

    /// Remembers where `peer` itself says to be, instead of what it said before.
    pub(crate) fn show(&mut self, peer: PeerId, addrs: impl IntoIterator<Item = Multiaddr>) {
        let addrs = self.dialable(peer, addrs);
        if addrs.is_empty() {
            return;
        }
        let entry = self.touch(peer);
        entry.heard.retain(|addr| !addrs.contains(addr));
        let changed = entry.shown != addrs;
        entry.shown = addrs;
        self.dirty |= changed;
    }

    /// However many there are, a cap's worth is looked at.
    fn dialable(&self, peer: PeerId, addrs: impl IntoIterator<Item = Multiaddr>) -> Vec<Multiaddr> {
        addrs.into_iter().take(self.max_addrs).filter_map(|addr| plain(addr, peer)).collect()
    }

    /// The entry of `peer`, now the youngest; makes room for it. Of those in the way the oldest that is only hearsay
    /// goes first.
    fn touch(&mut self, peer: PeerId) -> &mut Entry {
        if self.peers.len() >= self.max_peers && !self.peers.contains_key(&peer) {
            let is_hearsay = |peer: &PeerId| self.peers.get(peer).is_some_and(|entry| entry.shown.is_empty());
            let hearsay = self.by_age.iter().find(|(_, peer)| is_hearsay(peer)).map(|(age, _)| *age);
            if let Some(age) = hearsay.or_else(|| self.by_age.keys().next().copied())
                && let Some(oldest) = self.by_age.remove(&age)
            {
                self.peers.remove(&oldest);
            }
        }
        self.touches += 1;
        let entry = self.peers.entry(peer).or_default();
        self.by_age.remove(&entry.touched);
        entry.touched = self.touches;
        self.by_age.insert(entry.touched, peer);
        entry
    }

    /// The addresses of `peer`, the most trustworthy first.
    pub(crate) fn addrs(&self, peer: &PeerId) -> Vec<Multiaddr> {
        let Some(entry) = self.peers.get(peer) else { return Vec::new() };
        entry.shown.iter().chain(entry.heard.iter().rev()).cloned().collect()
    }

    /// The peers met last, the latest first.
    pub(crate) fn met(&self, limit: usize) -> Vec<PeerId> {
        let met = |peer: &&PeerId| self.peers.get(peer).is_some_and(|entry| !entry.shown.is_empty());
        self.by_age.values().rev().filter(met).take(limit).copied().collect()
    }

    /// The file of what peers themselves said, if that changed since it was last asked for: one address with its peer
    /// a line, the oldest peer first.
    pub(crate) fn take_changed(&mut self) -> Option<String> {
        if !std::mem::take(&mut self.dirty) {
            return None;
        }
        let mut text = String::new();
        for peer in self.by_age.values() {
            for addr in self.peers.get(peer).into_iter().flat_map(|entry| &entry.shown) {
                text.push_str(&format!("{addr}/p2p/{peer}\n"));
            }
        }
        Some(text)
    }

    /// The file could not be written: it is to be asked for again.
    pub(crate) fn still_changed(&mut self) {
        self.dirty = true;
    }

    /// Takes in what an earlier run wrote; what this run learnt already counts more. Lines that are no address are
    /// skipped.
    pub(crate) fn load(&mut self, text: &str) {
        let mut earlier: Vec<(PeerId, Vec<Multiaddr>)> = Vec::new();
        for line in text.lines().take(self.max_peers * self.max_addrs) {
            let Ok(addr) = line.parse::<Multiaddr>() else { continue };
            let Some(Protocol::P2p(peer)) = addr.iter().last() else { continue };
            match earlier.last_mut() {
                Some((last, addrs)) if *last == peer => addrs.push(addr),
                _ => earlier.push((peer, vec![addr])),
            }
        }
        let now = std::mem::replace(self, Self::new(self.max_peers, self.max_addrs));
        for (peer, addrs) in earlier {
            self.show(peer, addrs);
        }
        self.dirty = now.dirty;
        for peer in now.by_age.into_values() {
            if let Some(entry) = now.peers.get(&peer) {
                self.show(peer, entry.shown.iter().cloned());
                self.hear(peer, entry.heard.iter().cloned());
            }
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        assert_eq!(self.peers.len(), self.by_age.len());
        self.peers.len()
    }
}

/// `addr` without the peer at its end; `None` if it is too long, of another peer, or leads nowhere.
pub(crate) fn plain(mut addr: Multiaddr, peer: PeerId) -> Option<Multiaddr> {
    if addr.len() > MAX_ADDR_BYTES {
        return None;
    }
    if let Some(Protocol::P2p(named)) = addr.iter().last() {
        if named != peer {
            return None;
        }
        addr.pop();
    }
    is_dialable(&addr).then_some(addr)
}

/// Whether somebody else can dial it: it names a host.
pub(crate) fn is_dialable(addr: &Multiaddr) -> bool {
    match addr.iter().next() {
        Some(Protocol::Ip4(ip)) => !ip.is_unspecified(),
        Some(Protocol::Ip6(ip)) => !ip.is_unspecified(),
        Some(_) => true,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(port: u16) -> Multiaddr {
        format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()
    }

    #[test]
    fn the_oldest_hearsay_is_forgotten_first() {
        let mut book = AddressBook::new(2, 2);
        let peers: Vec<_> = (0..3).map(|_| PeerId::random()).collect();
        book.show(peers[0], [addr(9)]);
        for port in 1..=3 {
            book.hear(peers[0], [addr(port)]);
        }
        assert_eq!(book.addrs(&peers[0]), [addr(9), addr(3), addr(2)]);
        book.hear(peers[1], [addr(1)]);
        book.hear(peers[2], [addr(1)]);
        assert_eq!(book.len(), 2);
        assert!(book.addrs(&peers[1]).is_empty(), "met before hearsay");
        book.show(peers[2], [addr(1)]);
        book.show(peers[1], [addr(1)]);
        assert_eq!(book.met(9), [peers[1], peers[2]]);
    }

    #[test]
    fn what_a_peer_shows_takes_the_place_of_what_it_showed_before() {
        let mut book = AddressBook::new(2, 8);
        let peer = PeerId::random();
        book.hear(peer, [addr(2)]);
        book.show(peer, [addr(1)]);
        book.show(peer, [addr(2)]);
        assert_eq!(book.addrs(&peer), [addr(2)]);
    }

    #[test]
    fn addresses_of_others_and_of_nowhere_are_not_taken() {
        let mut book = AddressBook::new(2, 4);
        let (peer, other) = (PeerId::random(), PeerId::random());
        let foreign = addr(1).with(Protocol::P2p(other));
        book.show(peer, [foreign, "/ip4/0.0.0.0/tcp/1".parse().unwrap(), Multiaddr::empty()]);
        assert_eq!(book.len(), 0);
        book.hear(peer, [addr(1).with(Protocol::P2p(peer))]);
        assert_eq!(book.addrs(&peer), [addr(1)]);
    }

    #[test]
    fn only_what_peers_showed_is_written_and_garbage_in_the_file_is_skipped() {
        let mut book = AddressBook::new(8, 4);
        let (met, rumoured) = (PeerId::random(), PeerId::random());
        book.show(met, [addr(1), addr(2)]);
        book.hear(rumoured, [addr(2)]);
        let text = book.take_changed().unwrap();
        assert!(book.take_changed().is_none());
        book.still_changed();
        assert_eq!(book.take_changed().as_ref(), Some(&text));
        let mut again = AddressBook::new(8, 4);
        again.show(rumoured, [addr(9)]);
        again.load(&format!("nonsense\n/ip4/1.2.3.4/tcp/1\n{text}\u{0}"));
        assert_eq!(again.addrs(&met), [addr(1), addr(2)]);
        assert_eq!(again.met(8), [rumoured, met]);
        assert!(again.take_changed().is_some(), "what was learnt before the file was read is still to be written");
    }
}
