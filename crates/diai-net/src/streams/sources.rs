use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

use libp2p::{Multiaddr, multiaddr::Protocol, swarm::ConnectionId};

/// How many connections came from each host, so that none takes all places. Loopback is not counted, nor are addresses
/// that name no host.
#[derive(Debug)]
pub(crate) struct Sources {
    limit: usize,
    hosts: BTreeMap<ConnectionId, IpAddr>,
    counts: BTreeMap<IpAddr, usize>,
}

impl Sources {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, hosts: BTreeMap::new(), counts: BTreeMap::new() }
    }

    /// Whether a connection from `addr` may come; counts it until [`Sources::gone`].
    pub(crate) fn admit(&mut self, id: ConnectionId, addr: &Multiaddr) -> bool {
        let Some(host) = host(addr) else { return true };
        let count = self.counts.entry(host).or_default();
        if *count >= self.limit {
            return false;
        }
        *count += 1;
        self.hosts.insert(id, host);
        true
    }

    /// A connection closed, or came to nothing.
    pub(crate) fn gone(&mut self, id: ConnectionId) {
        let Some(host) = self.hosts.remove(&id) else { return };
        if let Some(count) = self.counts.get_mut(&host) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&host);
            }
        }
    }
}

fn host(addr: &Multiaddr) -> Option<IpAddr> {
    let host = match addr.iter().next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        // Who has one IPv6 address has the 2^64 of its network.
        Protocol::Ip6(ip) => ip.to_ipv4_mapped().map_or_else(|| IpAddr::V6(network(ip)), IpAddr::V4),
        _ => return None,
    };
    // The network of ::1 is ::.
    (!host.is_loopback() && !host.is_unspecified()).then_some(host)
}

fn network(ip: Ipv6Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_host_has_a_few_connections_and_loopback_as_many_as_it_likes() {
        let mut sources = Sources::new(2);
        let mut next = 0;
        let mut admit = |sources: &mut Sources, addr: &str| {
            next += 1;
            sources.admit(ConnectionId::new_unchecked(next), &addr.parse().unwrap())
        };
        assert!(admit(&mut sources, "/ip4/1.2.3.4/tcp/1"));
        assert!(admit(&mut sources, "/ip6/::ffff:1.2.3.4/udp/1/quic-v1"));
        assert!(!admit(&mut sources, "/ip4/1.2.3.4/tcp/2"));
        assert!(admit(&mut sources, "/ip4/1.2.3.5/tcp/2"));
        assert!(admit(&mut sources, "/ip6/2001:db8::1/tcp/1") && admit(&mut sources, "/ip6/2001:db8::2/tcp/1"));
        assert!(!admit(&mut sources, "/ip6/2001:db8::ffff/tcp/1"));
        for _ in 0..10 {
            assert!(admit(&mut sources, "/ip4/127.0.0.1/tcp/1") && admit(&mut sources, "/ip6/::1/tcp/1"));
        }
        sources.gone(ConnectionId::new_unchecked(1));
        sources.gone(ConnectionId::new_unchecked(1));
        assert!(admit(&mut sources, "/ip4/1.2.3.4/tcp/2"));
        assert!(!admit(&mut sources, "/ip4/1.2.3.4/tcp/2"));
        for id in 0..100 {
            sources.gone(ConnectionId::new_unchecked(id));
        }
        assert!(sources.hosts.is_empty() && sources.counts.is_empty());
    }
}
