use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use cid::Cid;

use crate::serve::ServeRule;

/// What of gateways there is. Default nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GatewayConfig {
    /// Gateways that are asked when no peer has something.
    pub client: ClientConfig,
    /// A gateway of our own.
    pub server: Option<ServerConfig>,
}

/// Which gateways are asked, and how. Memory at worst, for each of `max_requests`: 8 MiB, and 70 bytes for each block of a
/// CAR file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// Their addresses, such as `https://trustless-gateway.link`; the first is asked first. A gateway learns what one reads.
    /// Default none, at most 16.
    pub urls: Vec<String>,
    /// How long a fetch goes without a block of a peer before they are asked. They are asked at once when nobody has it,
    /// and no DHT names a provider. Default 5 s.
    pub patience: Duration,
    /// Ask them for content that is known to be sealed, and for workspaces, too. Default no.
    pub sealed: bool,
    /// Requests under way to one of them. Default 8.
    pub max_requests: usize,
    /// A gateway that sends less than 16 KiB in this time, or nothing, is left. Default 20 s.
    pub stall: Duration,
    /// A single block must have come by then. Default 60 s.
    pub block_timeout: Duration,
    /// Bytes of a CAR file. Default 1 TiB.
    pub max_car_bytes: u64,
    /// Blocks of a CAR file. Default 1,000,000.
    pub max_car_blocks: usize,
    /// Redirects that are followed, all to the gateway itself or to a name below its own. Default 3.
    pub max_redirects: usize,
    /// How long a gateway is left alone after its first fault, and at most, also if it says `Retry-After`. One that sends
    /// what is wrong is left alone for the longest at once. Default 1 s and 10 min.
    pub back_off: (Duration, Duration),
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            patience: Duration::from_secs(5),
            sealed: false,
            max_requests: 8,
            stall: Duration::from_secs(20),
            block_timeout: Duration::from_secs(60),
            max_car_bytes: 1 << 40,
            max_car_blocks: 1_000_000,
            max_redirects: 3,
            back_off: (Duration::from_secs(1), Duration::from_secs(600)),
        }
    }
}

/// Where and how blocks are served over HTTP. Memory at worst: `max_sending_bytes`, 64 KiB for each connection, and for each
/// CAR file that is being sent 40 MiB of links that wait, and 70 bytes for each of its blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// Where. Whoever reaches it can read what is served. Default 127.0.0.1:8080; what terminates TLS, and limits addresses,
    /// goes before it.
    pub addr: SocketAddr,
    /// What requests may name. Default all that is stored here.
    pub policy: Policy,
    /// Which blocks may be sent to somebody without a device and an agent: asked for each of them. Default all; within
    /// [`Blocks`](crate::Blocks) what [`BlocksConfig::serving`](crate::BlocksConfig::serving) says.
    pub rule: ServeRule,
    /// Connections; more wait to be accepted. Default 1,024: browsers and Helia open one for each block of a file.
    pub max_connections: usize,
    /// Answers under way; more wait. Default 64.
    pub max_requests: usize,
    /// Bytes held for the answers under way: 12 MiB are reckoned for a CAR file, and a block for itself; more wait.
    /// Default 192 MiB, at least 12 MiB.
    pub max_sending_bytes: usize,
    /// A request that waits longer for its turn gets status 429. Default 10 s.
    pub max_wait: Duration,
    /// A request must have come as a whole, and a connection is closed that has none, after this time. Default 10 s.
    pub header_timeout: Duration,
    /// Who reads less than 64 KiB of an answer in this time is cut. Default 20 s.
    pub stall: Duration,
    /// Bytes of a CAR file. Default 1 TiB.
    pub max_car_bytes: u64,
    /// Blocks of a CAR file. Default 4 Mi.
    pub max_car_blocks: usize,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            addr: SocketAddr::from(([127, 0, 0, 1], 8080)),
            policy: Policy::default(),
            rule: ServeRule::default(),
            max_connections: 1024,
            max_requests: 64,
            max_sending_bytes: 192 << 20,
            max_wait: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            stall: Duration::from_secs(20),
            max_car_bytes: 1 << 40,
            max_car_blocks: 4 << 20,
        }
    }
}

/// Whether something may be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Verdict {
    /// It may, if it is here.
    #[default]
    Serve,
    /// It may not, and whether it is here is nobody's business: status 404.
    Hide,
    /// It may not, and that may be known: status 410.
    Gone,
}

/// What may be served: asked of the CID that a request names, and of what its path leads to. Not of what is below: that is
/// for [`ServerConfig::rule`].
#[derive(Clone, Default)]
pub struct Policy(Option<Arc<Judge>>);

type Judge = dyn Fn(&Cid) -> Verdict + Send + Sync;

impl Policy {
    /// Asks `judge`, which must not block.
    pub fn new(judge: impl Fn(&Cid) -> Verdict + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(judge)))
    }

    pub(super) fn judge(&self, cid: &Cid) -> Verdict {
        self.0.as_ref().map_or(Verdict::Serve, |judge| judge(cid))
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Policy(..)" } else { "Policy(all)" })
    }
}

impl PartialEq for Policy {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(another)) => Arc::ptr_eq(one, another),
            (one, another) => one.is_none() && another.is_none(),
        }
    }
}

impl Eq for Policy {}
