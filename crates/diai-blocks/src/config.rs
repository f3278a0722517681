//! Settings, with what each costs in memory at worst.

use std::time::Duration;

use crate::{
    StoreConfig,
    ipfs_dht::IpfsDhtConfig,
    serve::{ServePolicy, ServeRule},
};

/// All settings of [`Blocks`](crate::handle::Blocks).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlocksConfig {
    /// The store on disk.
    pub store: StoreConfig,
    /// Asking for blocks.
    pub client: ClientConfig,
    /// Serving blocks.
    pub server: ServerConfig,
    /// Serving whole DAGs.
    pub dag: DagConfig,
    /// Fetching whole DAGs.
    pub fetch: FetchConfig,
    /// What was fetched and nobody keeps.
    pub cache: CacheConfig,
    /// Shared workspaces.
    pub workspace: WorkspaceConfig,
    /// The DHT of IPFS beside the agents' own: roots are announced there too, and content is looked for there. Default
    /// none.
    pub ipfs_dht: Option<IpfsDhtConfig>,
    /// What is announced there. In the agents' own DHT it is always roots. Default roots.
    pub provide: ProvideStrategy,
    /// HTTP gateways: those that are asked when no peer has something, and one of our own. Default none.
    #[cfg(feature = "gateway")]
    pub gateway: crate::gateway::GatewayConfig,
}

/// What is announced in the DHT of IPFS. Whoever has no connection to this device finds by it only what is announced;
/// everything else of a DAG is asked for from who has its root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProvideStrategy {
    /// The roots of pins, and what is provided by name.
    #[default]
    Roots,
    /// Those, and every block below them.
    Pinned,
    /// Every block of the store: also what is not pinned, was added silently, or belongs to workspaces.
    All,
}

impl BlocksConfig {
    /// Has `policy` decide who may fetch what, by Bitswap, as whole DAGs, and from our gateway: see [`serve`](crate::serve).
    #[must_use]
    pub fn serving(mut self, policy: impl ServePolicy) -> Self {
        let rule = ServeRule::new(policy);
        self.server.rule = rule.clone();
        self.dag.rule = rule;
        self
    }
}

/// How blocks are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// Wants that a peer knows of at a time. Default 512; Kubo keeps 1,024. Memory: 400 bytes each.
    pub max_wants_per_peer: usize,
    /// Want-blocks that a new peer is given at once; grows by one with each block delivered. Default 16.
    pub first_window: usize,
    /// Bytes expected from one peer at a time, by the average length of its blocks. Default 32 MiB.
    pub max_bytes_per_peer: usize,
    /// Peers that are asked at a time whether they have a block, when none is known to. Default 32.
    pub broadcast: usize,
    /// A peer that owes blocks and sends not even a part of one for this long is passed over. Default 2 s.
    pub stall: Duration,
    /// A want-have not answered by then counts as DONT_HAVE. Default 5 s.
    pub probe_timeout: Duration,
    /// A want-block not answered by then is given to another peer. Default 60 s.
    pub want_timeout: Duration,
    /// Bytes received and not yet taken by those who want them; readers wait beyond. Default 32 MiB, at least 4 MiB.
    pub max_received_bytes: usize,
    /// A peer that owes blocks and is silent for longer than 95 of 100 of its silences were, and than this, is not waited
    /// for alone: one block is asked of another, too. Default 10 ms.
    pub hedge_after: Duration,
    /// Bytes that may come twice for that, of 100 received. Default 2; 0 hedges nothing.
    pub hedge_percent: u32,
    /// For how long peers are not asked again for what they all said they have not got: at first, and at most, as it
    /// doubles each time. Who connects, is named as a holder, or says HAVE, is asked at once. Default 1 s and 30 s.
    pub deny_wait: (Duration, Duration),
    /// CIDs of which that is remembered. Default 2,048. Memory: 200 bytes each, at most 3 KiB.
    pub max_denied: usize,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            max_wants_per_peer: 512,
            first_window: 16,
            max_bytes_per_peer: 32 << 20,
            broadcast: 32,
            stall: Duration::from_secs(2),
            probe_timeout: Duration::from_secs(5),
            want_timeout: Duration::from_secs(60),
            max_received_bytes: 32 << 20,
            hedge_after: Duration::from_millis(10),
            hedge_percent: 2,
            deny_wait: (Duration::from_secs(1), Duration::from_secs(30)),
            max_denied: 2048,
        }
    }
}

/// How blocks are served. Memory at worst: `max_sending_bytes`, and one block for each of `batches` (here 64 and 128 MiB,
/// while that many peers are slow to take what they asked for), `max_reading_bytes` twice over, 64 MiB for streams, if all
/// are open, and 300 bytes for each want of each connected peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// Wants kept for a peer; more are dropped and held against it. Default 1,024.
    pub max_wants_per_peer: usize,
    /// Bytes read from the store and handed to a peer at a time, if it takes them fast. Default 4 MiB.
    pub batch_bytes: usize,
    /// Batches under way to one peer. Default 2: one read while the other is written.
    pub batches_per_peer: usize,
    /// Batches under way to all peers. Default 64. When all are and somebody else waits, who has held one longest for
    /// what it is, and for five seconds at least, gives it up and is served again later.
    pub batches: usize,
    /// Bytes of the batches under way to all peers. Default 64 MiB.
    pub max_sending_bytes: usize,
    /// Bytes of messages over 16 KiB that are being read from all peers; readers wait beyond. A quarter of it is for one
    /// peer. Default 32 MiB, at least 16 MiB.
    pub max_reading_bytes: usize,
    /// Streams that one peer may have open to us, of 16 KiB each; all together have 4,096. Default 256: Kubo opens one for
    /// each answer.
    pub max_streams_per_peer: usize,
    /// Who may fetch what. Default everybody everything.
    pub rule: ServeRule,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            max_wants_per_peer: 1024,
            batch_bytes: 4 << 20,
            batches_per_peer: 2,
            batches: 64,
            max_sending_bytes: 64 << 20,
            max_reading_bytes: 32 << 20,
            max_streams_per_peer: 256,
            rule: ServeRule::default(),
        }
    }
}

/// How whole DAGs are served, by [`dag`](crate::dag). Each answer has room for one batch of `max_sending_bytes`, and for a
/// second one while there is more. Memory at worst: `max_sending_bytes`, and for each of `max_streams`
/// 100 bytes for each node and each waiting link, and 3 MiB; that is 0.5 GiB here, for the most hostile DAGs. An answer of
/// a DAG of files takes about two batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DagConfig {
    /// Requests of one peer that are answered at a time, at most a quarter of `max_streams`. Default 8.
    pub max_streams_per_peer: usize,
    /// Requests that are answered at a time; others are told that we are busy. Default 16.
    pub max_streams: usize,
    /// Bytes read from the store for an answer at a time; one batch is read while another is written. Default 1 MiB.
    pub batch_bytes: usize,
    /// Bytes of the batches under way to all peers. Default 64 MiB.
    pub max_sending_bytes: usize,
    /// Inner nodes of one answer; it ends there, and is to be asked for again. Default 131,072.
    pub max_nodes: usize,
    /// Links that may wait in one answer. Default 163,840; one node has at most 65,536.
    pub max_waiting_links: usize,
    /// Bytes of one answer. Default 1 TiB.
    pub max_bytes: u64,
    /// Who may fetch what. Default everybody everything.
    pub rule: ServeRule,
}

impl Default for DagConfig {
    fn default() -> Self {
        Self {
            max_streams_per_peer: 8,
            max_streams: 16,
            batch_bytes: 1 << 20,
            max_sending_bytes: 64 << 20,
            max_nodes: 131_072,
            max_waiting_links: 163_840,
            max_bytes: 1 << 40,
            rule: ServeRule::default(),
        }
    }
}

/// How whole DAGs are fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchConfig {
    /// Wants that one fetch has open at a time. Default 512.
    pub max_wants: usize,
    /// Bytes that one fetch has open at a time, by the average length of its blocks so far. Default 48 MiB.
    pub max_open_bytes: usize,
    /// Blocks are stored in groups of about this many bytes. Default 4 MiB.
    pub group_bytes: usize,
    /// Inner nodes of one DAG; a larger one is refused. 80 bytes of memory each. Default 1,000,000, enough for 1 PiB.
    pub max_nodes: usize,
    /// Bytes of one DAG; a larger one is refused. Default 1 TiB.
    pub max_bytes: u64,
    /// Providers that are asked. Default 20.
    pub max_providers: usize,
    /// How long the DHT is left alone before it is asked again for providers of what is still missing. Default 10 s.
    pub provider_interval: Duration,
    /// How long a fetch without a deadline of its own waits for the next block. Default 60 s.
    pub patience: Duration,
    /// Ask peers for whole DAGs first, where they speak [`dag`](crate::dag), and for single blocks only what does not come
    /// that way. Default yes.
    pub whole_dags: bool,
    /// Peers that send parts of a DAG at a time; others that have it step in when one leaves. Default 4. Memory: twelve times
    /// `group_bytes` each.
    pub max_senders: usize,
    /// A sender of a DAG that sends nothing for this long is left, as is one that sends less than 1 MiB in 10 s. Default 3 s.
    pub stall: Duration,
}

impl Default for FetchConfig {
    fn default() -> Self {
        Self {
            max_wants: 512,
            max_open_bytes: 48 << 20,
            group_bytes: 4 << 20,
            max_nodes: 1_000_000,
            max_bytes: 1 << 40,
            max_providers: 20,
            provider_interval: Duration::from_secs(10),
            patience: Duration::from_secs(60),
            whole_dags: true,
            max_senders: 4,
            stall: Duration::from_secs(3),
        }
    }
}

/// What is cached of others' content, as [`cache`](crate::cache) says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheConfig {
    /// Bytes of blocks that were fetched and that nobody keeps; what is worth least is dropped beyond. Never more than half
    /// of the store's quota. Default 8 GiB.
    pub max_bytes: u64,
    /// Such blocks: smaller ones than the quotient of both count as that. Default 524,288. Memory: 200 bytes each.
    pub max_blocks: usize,
    /// Roots whose providers are remembered, and CIDs that the DHT knows nobody for. Default 1,024 of each. Memory: 500 bytes
    /// each, at most 4 KiB.
    pub max_roots: usize,
    /// How long providers are remembered. Default 10 min.
    pub provider_ttl: Duration,
    /// For how long the DHT is not asked again, by any fetch, for what it knew nobody for, unless a peer connects: at first,
    /// and at most, as it doubles each time. Default 5 s and 30 s.
    pub unknown_wait: (Duration, Duration),
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            max_bytes: 8 << 30,
            max_blocks: 512 << 10,
            max_roots: 1024,
            provider_ttl: Duration::from_secs(600),
            unknown_wait: (Duration::from_secs(5), Duration::from_secs(30)),
        }
    }
}

/// How workspaces work. Memory at worst per workspace: `max_members` heads of `max_head_bytes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkspaceConfig {
    /// Members of a workspace. Default 64, at most 255.
    pub max_members: usize,
    /// Entries that one member may have. Default 10,000.
    pub max_entries: usize,
    /// Bytes of one member's signed head. Default 1 MiB.
    pub max_head_bytes: usize,
    /// Workspaces that this agent is in. Default 64.
    pub max_workspaces: usize,
    /// First and longest wait before a member that could not be reached is tried again. Default 1 s and 60 s.
    pub retry: (Duration, Duration),
    /// How long after news from one member the others are asked whether they have it too. Default 2 s.
    pub gossip_delay: Duration,
}

impl Default for WorkspaceConfig {
    fn default() -> Self {
        Self {
            max_members: 64,
            max_entries: 10_000,
            max_head_bytes: 1 << 20,
            max_workspaces: 64,
            retry: (Duration::from_secs(1), Duration::from_secs(60)),
            gossip_delay: Duration::from_secs(2),
        }
    }
}
