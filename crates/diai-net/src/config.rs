use std::time::Duration;

use diai_core::Multiaddr;

/// How a device takes part in the network. Start from a preset and change what you need.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen. Default: TCP and QUIC on any port; [`Config::test`] only on loopback. Used by
    /// [`Net`](crate::Net) only.
    pub listen: Vec<Multiaddr>,
    /// Whom to dial first, each with or without `/p2p/<peer>`, at most 64. They, and peers met before,
    /// are dialled again whenever fewer than four peers are connected. Default none. Used by [`Net`](crate::Net) only.
    pub contacts: Vec<Multiaddr>,
    /// Find peers of the local network by multicast DNS. Default: only [`Config::lan`]. Used by [`Net`](crate::Net)
    /// only.
    pub mdns: bool,
    /// Serve the DHT at once. Otherwise only when an external address was confirmed. Default: test and lan.
    pub kad_server: bool,
    /// How long a connection that nobody uses stays. Default 60 s. Used by [`Net`](crate::Net) only; a swarm of your
    /// own has its own setting.
    pub idle_timeout: Duration,
    /// How long a dialled peer has to answer over QUIC, which cannot tell silence from absence: that long a lookup waits
    /// for a device that died. Twice that a connection may take to be made in either direction, over TCP and QUIC, name
    /// lookup and handshake included. Default 5 s; test and lan 3 s. Used by [`Net`](crate::Net) only.
    pub handshake_timeout: Duration,
    /// Caps on peers and streams.
    pub limits: Limits,
    /// Caps and times of the DHT.
    pub dht: DhtConfig,
}

/// Caps on peers and streams.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections that may be established, in all. Default 400, about 100 KiB each at rest. A quarter is for those that
    /// this device dials itself.
    pub connections: u32,
    /// Connections that may be established to one peer. Default 4: both sides may dial at once over TCP and QUIC.
    pub connections_per_peer: u32,
    /// Connections that may come from one host (of IPv6: from one /64 network); loopback is not counted. Default 64:
    /// whoever comes from one address takes no more than a part, but several devices may share it.
    pub connections_per_host: usize,
    /// Connections that may be pending in each direction. Default 64.
    pub pending_connections: u32,
    /// No connection is accepted or made while the process, tasks and all, holds more bytes than this. Default none: the
    /// right number is the machine's.
    pub process_bytes: Option<usize>,
    /// Certified peers whose connection is kept although nobody uses it, first those that this device dialled. Default
    /// 32.
    pub kept_connections: usize,
    /// Streams that this device may have open to one peer. Default 256, below what Yamux and QUIC allow.
    pub streams_per_peer: usize,
    /// Open requests that may wait on one connection. Default 128.
    pub waiting_opens: usize,
    /// Time to open a stream, dial and hello included. Default 10 s.
    pub open_timeout: Duration,
    /// Time for the hello on a new connection. Default 10 s.
    pub hello_timeout: Duration,
    /// How long a peer stays cut off. Default 10 min.
    pub cut_off: Duration,
    /// Peers whose addresses are remembered. Default 1,024, about 1 KiB each.
    pub remembered_peers: usize,
    /// Addresses remembered of one peer. Default 8.
    pub addrs_per_peer: usize,
}

/// Caps and times of the DHT.
#[derive(Debug, Clone)]
pub struct DhtConfig {
    /// Records held. Default 16,384.
    pub records: usize,
    /// Bytes of all records held. Default 16 MiB.
    pub record_bytes: usize,
    /// The longest record in bytes. Default 8 KiB; a DHT packet has 64 KiB.
    pub value_bytes: usize,
    /// Provider entries of all keys, those of this device not counted: who provides what. When they are taken, those who
    /// provide the most give way. Default 131,072, about 400 bytes each and 1.5 KiB at the very most.
    pub provider_entries: usize,
    /// Providers held for one key. Default 1,000.
    pub providers_per_key: usize,
    /// Keys that this device may provide. Default 65,536.
    pub provided_keys: usize,
    /// How long a provider is held. Default 4 h.
    pub provider_ttl: Duration,
    /// How often this device announces again what it provides. Default 1 h.
    pub provide_interval: Duration,
    /// How often records are handed on to the devices now closest to them. Default 1 h.
    pub replicate_interval: Duration,
    /// The longest that a lookup takes. Default 30 s; [`Config::test`] 10 s.
    pub query_timeout: Duration,
    /// Lookups under way at a time; more wait. Default 128.
    pub queries: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 400,
            connections_per_peer: 4,
            connections_per_host: 64,
            pending_connections: 64,
            process_bytes: None,
            kept_connections: 32,
            streams_per_peer: 256,
            waiting_opens: 128,
            open_timeout: Duration::from_secs(10),
            hello_timeout: Duration::from_secs(10),
            cut_off: Duration::from_secs(600),
            remembered_peers: 1024,
            addrs_per_peer: 8,
        }
    }
}

impl Default for DhtConfig {
    fn default() -> Self {
        Self {
            records: 16_384,
            record_bytes: 16 << 20,
            value_bytes: 8 << 10,
            provider_entries: 131_072,
            providers_per_key: 1000,
            provided_keys: 65_536,
            provider_ttl: Duration::from_secs(4 * 3600),
            provide_interval: Duration::from_secs(3600),
            replicate_interval: Duration::from_secs(3600),
            query_timeout: Duration::from_secs(30),
            queries: 128,
        }
    }
}

impl Config {
    /// Loopback only, any port, serving the DHT: for tests and for several agents on one machine.
    pub fn test() -> Self {
        Self {
            listen: addrs(&["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"]),
            mdns: false,
            kad_server: true,
            handshake_timeout: Duration::from_secs(3),
            dht: DhtConfig { query_timeout: Duration::from_secs(10), ..DhtConfig::default() },
            ..Self::internet()
        }
    }

    /// All interfaces, multicast DNS, serving the DHT: every device can reach every other.
    pub fn lan() -> Self {
        Self { mdns: true, kad_server: true, handshake_timeout: Duration::from_secs(3), ..Self::internet() }
    }

    /// All interfaces; serves the DHT once an external address was confirmed.
    pub fn internet() -> Self {
        Self {
            listen: addrs(&["/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1"]),
            contacts: Vec::new(),
            mdns: false,
            kad_server: false,
            idle_timeout: Duration::from_secs(60),
            handshake_timeout: Duration::from_secs(5),
            limits: Limits::default(),
            dht: DhtConfig::default(),
        }
    }
}

impl Default for Config {
    /// [`Config::internet`].
    fn default() -> Self {
        Self::internet()
    }
}

fn addrs(texts: &[&str]) -> Vec<Multiaddr> {
    texts.iter().map(|text| text.parse().expect("a constant address")).collect()
}
