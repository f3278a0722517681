//! One of the two networks: who serves it, and asking them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use diai_core::{Instant, Misbehaviour, Multiaddr, OpenError, PeerId, ProtocolId, World, frame, timeout_at};
use futures::{AsyncWriteExt, StreamExt, stream::FuturesUnordered};
use multiaddr::Protocol;
use tokio::sync::Semaphore;

use super::{
    lookup::{Lookup, REPLICATION},
    message::{Announcement, DhtMessage, DhtPeer, Key, Kind, MAX_MESSAGE_BYTES},
};
use crate::store::Multihash;

/// How long a server may take to answer, the dial included.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long one server may take for the announcements of a region.
const ANNOUNCE_WITHIN: Duration = Duration::from_secs(60);
/// The longest that a lookup takes.
const LOOKUP_WITHIN: Duration = Duration::from_secs(60);
/// Peers of which it is remembered that they do not serve this network.
const MAX_MUTE: usize = 1024;
/// Providers that one server may name for a key.
const MAX_NAMED: usize = 4;
/// Announcements are written in pieces of about this length.
const WRITE_BYTES: usize = 32 << 10;

/// Whose addresses a network is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    Public,
    Private,
}

/// Why a server said nothing.
enum Silence {
    /// It does not serve this network.
    Mute,
    Unreachable,
}

pub(super) struct Net {
    world: World,
    protocol: ProtocolId,
    reach: Reach,
    servers: Mutex<Servers>,
    lookups: Semaphore,
    max_servers: usize,
    pub(super) counters: Counters,
}

/// What was asked and told so far.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) lookups: AtomicU64,
    pub(super) questions: AtomicU64,
    pub(super) batches: AtomicU64,
    pub(super) records: AtomicU64,
}

impl Counters {
    pub(super) fn load(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

fn count(counter: &AtomicU64, more: usize) {
    counter.fetch_add(more as u64, Ordering::Relaxed);
}

#[derive(Default)]
struct Servers {
    /// Those that answered last time.
    alive: BTreeMap<Key, PeerId>,
    mute: BTreeSet<PeerId>,
}

impl Net {
    pub(super) fn new(world: World, protocol: ProtocolId, reach: Reach, max_servers: usize, lookups: usize) -> Self {
        let lookups = Semaphore::new(lookups);
        let (servers, counters) = (Mutex::default(), Counters::default());
        Self { world, protocol, reach, servers, lookups, max_servers, counters }
    }

    fn servers(&self) -> MutexGuard<'_, Servers> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn alive(&self) -> usize {
        self.servers().alive.len()
    }

    /// A peer may have learnt to serve since.
    pub(super) fn forget_mute(&self, peer: &PeerId) {
        self.servers().mute.remove(peer);
    }

    /// Servers to begin with: those known, and whoever is connected and may be one. Agents of ours are none.
    fn known(&self) -> Vec<PeerId> {
        let connected = self.world.network.peers().into_iter().filter(|peer| peer.agent.is_none());
        let servers = self.servers();
        let connected = connected.map(|peer| peer.peer).filter(|peer| !servers.mute.contains(peer));
        servers.alive.values().copied().chain(connected).collect()
    }

    /// Asks for `key` around `target`, until the `width` closest have answered. `named` hears which providers a server
    /// names; when it wants no more, the lookup ends.
    ///
    /// Cancel-safe: dropping the future stops it.
    pub(super) async fn lookup(
        &self,
        kind: Kind,
        key: Bytes,
        target: Key,
        width: usize,
        mut named: impl FnMut(PeerId, Vec<PeerId>) -> bool,
    ) -> Lookup {
        let clock = &*self.world.clock;
        let mut lookup = Lookup::new(target, self.world.network.local_peer(), width, self.known());
        let Ok(_turn) = self.lookups.acquire().await else { return lookup };
        count(&self.counters.lookups, 1);
        let until = clock.now() + LOOKUP_WITHIN;
        let question = DhtMessage::new(kind, key).to_bytes();
        let mut asking = FuturesUnordered::new();
        loop {
            while let Some(peer) = lookup.next_peer() {
                let question = &question;
                asking.push(async move { (peer, self.ask(peer, question).await) });
            }
            let Ok(Some((peer, answer))) = timeout_at(clock, until, asking.next()).await else { return lookup };
            match answer {
                Ok(mut answer) => {
                    self.answers(peer);
                    // A server knows no more of them than one answer holds; names without end would be dialled for nothing.
                    answer.closer.truncate(REPLICATION);
                    lookup.answered(&peer, self.believe(answer.closer, true));
                    let mut providers = self.believe(answer.providers, false);
                    // No single server fills what a fetch looks at.
                    providers.truncate(MAX_NAMED);
                    if !providers.is_empty() && !named(peer, providers) {
                        return lookup;
                    }
                }
                Err(silence) => {
                    lookup.failed(&peer);
                    self.is_silent(peer, &silence);
                }
            }
        }
    }

    async fn ask(&self, peer: PeerId, question: &[u8]) -> Result<DhtMessage, Silence> {
        let clock = &*self.world.clock;
        count(&self.counters.questions, 1);
        let ask = async {
            let mut stream = self.open(peer).await?;
            frame::write(&mut stream, question).await.map_err(|_| Silence::Unreachable)?;
            let read = frame::read(&mut stream, MAX_MESSAGE_BYTES).await;
            let answer = read.map_err(|_| Silence::Unreachable)?.ok_or(Silence::Unreachable)?;
            // It need not wait for another question.
            let _ = stream.close().await;
            DhtMessage::from_bytes(answer).map_err(|error| {
                tracing::debug!(%peer, %error, "a server of the IPFS DHT answers with something else");
                self.world.network.penalise(peer, Misbehaviour::Malformed);
                Silence::Mute
            })
        };
        timeout_at(clock, clock.now() + ANSWER_WITHIN, ask).await.unwrap_or(Err(Silence::Unreachable))
    }

    async fn open(&self, peer: PeerId) -> Result<diai_core::BoxStream, Silence> {
        let opened = self.world.network.open(peer, &[self.protocol]).await;
        opened.map(|opened| opened.stream).map_err(|error| match error {
            OpenError::Unsupported { .. } => Silence::Mute,
            _ => Silence::Unreachable,
        })
    }

    /// Takes in where peers are, as far as it can be true; who remains. Who is named as closer must be somewhere.
    fn believe(&self, named: Vec<DhtPeer>, somewhere: bool) -> Vec<PeerId> {
        let mut peers = Vec::with_capacity(named.len());
        for DhtPeer { peer, mut addrs } in named {
            addrs.retain(|addr| reach(addr) == Some(self.reach));
            let known = !addrs.is_empty() || self.world.network.peer(peer).is_some();
            if !addrs.is_empty() {
                self.world.network.add_addrs(peer, addrs);
            }
            if known || !somewhere {
                peers.push(peer);
            }
        }
        peers
    }

    fn answers(&self, peer: PeerId) {
        let mut servers = self.servers();
        servers.mute.remove(&peer);
        let place = Key::of_peer(&peer);
        if servers.alive.len() >= self.max_servers && !servers.alive.contains_key(&place) {
            // Any will do: they are spread over the key space as much as what is kept.
            let oldest = servers.alive.range(place..).next().or_else(|| servers.alive.iter().next());
            if let Some(place) = oldest.map(|(place, _)| *place) {
                servers.alive.remove(&place);
            }
        }
        servers.alive.insert(place, peer);
    }

    fn is_silent(&self, peer: PeerId, silence: &Silence) {
        let mut servers = self.servers();
        servers.alive.remove(&Key::of_peer(&peer));
        if matches!(silence, Silence::Mute) {
            if servers.mute.len() >= MAX_MUTE {
                servers.mute.clear();
            }
            servers.mute.insert(peer);
        }
    }

    /// Where this device is, as this network may know.
    pub(super) fn own_addrs(&self) -> Vec<Multiaddr> {
        let addrs = self.world.network.local_addrs().into_iter().map(|mut addr| {
            if matches!(addr.iter().last(), Some(Protocol::P2p(_))) {
                addr.pop();
            }
            addr
        });
        addrs.filter(|addr| reach(addr) == Some(self.reach)).collect()
    }

    /// Tells `peer` that this device, which is at `addrs`, provides `hashes`. True if it took them.
    pub(super) async fn tell(
        &self,
        peer: PeerId,
        hashes: impl Iterator<Item = &Multihash>,
        addrs: &[Multiaddr],
    ) -> bool {
        let clock = &*self.world.clock;
        let until: Instant = clock.now() + ANNOUNCE_WITHIN;
        let me = DhtPeer { peer: self.world.network.local_peer(), addrs: addrs.to_vec() };
        let announcement = Announcement::new(me);
        let tell = async {
            let mut stream = self.open(peer).await.ok()?;
            count(&self.counters.batches, 1);
            let mut buffer = BytesMut::new();
            for hash in hashes {
                count(&self.counters.records, 1);
                frame::put(&announcement.of(&hash.to_bytes()), &mut buffer);
                if buffer.len() >= WRITE_BYTES {
                    stream.write_all(&buffer.split()).await.ok()?;
                }
            }
            stream.write_all(&buffer).await.ok()?;
            stream.close().await.ok()
        };
        matches!(timeout_at(clock, until, tell).await, Ok(Some(())))
    }
}

/// Of which network an address is, if of any.
pub(super) fn reach(addr: &Multiaddr) -> Option<Reach> {
    let private = match addr.iter().next()? {
        Protocol::Ip4(ip) => is_private(ip)?,
        Protocol::Ip6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => is_private(ip)?,
            None => is_private_v6(ip)?,
        },
        Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_) => false,
        _ => return None,
    };
    Some(if private { Reach::Private } else { Reach::Public })
}

/// `None` for addresses at which no device can be.
fn is_private(ip: Ipv4Addr) -> Option<bool> {
    if ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || ip.is_documentation() || ip.octets()[0] == 0 {
        return None;
    }
    let shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
    Some(ip.is_private() || ip.is_loopback() || ip.is_link_local() || shared)
}

fn is_private_v6(ip: Ipv6Addr) -> Option<bool> {
    if ip.is_unspecified() || ip.is_multicast() || ip.segments()[..2] == [0x2001, 0xdb8] {
        return None;
    }
    Some(ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_of_one_network_or_of_none() {
        let of = |addr: &str| reach(&addr.parse().unwrap());
        for addr in ["/ip4/8.8.8.8/tcp/1", "/ip6/2606:4700::1/udp/1/quic-v1", "/dns4/example.org/tcp/1"] {
            assert_eq!(of(addr), Some(Reach::Public), "{addr}");
        }
        for addr in ["/ip4/127.0.0.1/tcp/1", "/ip4/10.1.2.3/tcp/1", "/ip4/100.64.0.1/tcp/1", "/ip6/::1/tcp/1"] {
            assert_eq!(of(addr), Some(Reach::Private), "{addr}");
        }
        for addr in ["/ip6/fe80::1/tcp/1", "/ip6/fd00::1/tcp/1", "/ip6/::ffff:192.168.0.1/tcp/1"] {
            assert_eq!(of(addr), Some(Reach::Private), "{addr}");
        }
        for addr in ["/ip4/0.0.0.0/tcp/1", "/ip4/224.0.0.1/udp/1", "/ip6/2001:db8::1/tcp/1", "/memory/7"] {
            assert_eq!(of(addr), None, "{addr}");
        }
    }
}
