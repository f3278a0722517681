//! Settings, with what each costs in memory at worst.

use std::time::Duration;

use crate::{StoreConfig, ipfs_dht::IpfsDhtConfig};

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
    /// Shared workspaces.
    pub workspace: WorkspaceConfig,
    /// The DHT of IPFS beside the agents' own: roots are announced there too, and content is looked for there. Default
    /// none.
    pub ipfs_dht: Option<IpfsDhtConfig>,
    /// HTTP gateways: those that are asked when no peer has something, and one of our own. Default none.
    #[cfg(feature = "gateway")]
    pub gateway: crate::gateway::GatewayConfig,
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
    /// Batches under way to all peers. Default 64.
    pub batches: usize,
    /// Bytes of the batches under way to all peers. Default 64 MiB.
    pub max_sending_bytes: usize,
    /// Bytes of messages over 16 KiB that are being read from all peers; readers wait beyond. A quarter of it is for one
    /// peer. Default 32 MiB, at least 16 MiB.
    pub max_reading_bytes: usize,
    /// Streams that one peer may have open to us, of 16 KiB each; all together have 4,096. Default 256: Kubo opens one for
    /// each answer.
    pub max_streams_per_peer: usize,
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
        }
    }
}

/// How whole DAGs are served, by [`dag`](crate::dag). Memory at worst: `max_sending_bytes`, and for each of `max_streams`
/// 100 bytes for each node and each waiting link, and 3 MiB; that is 0.5 GiB here, for the most hostile DAGs. An answer of
/// a DAG of files takes about two batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DagConfig {
    /// Requests of one peer that are answered at a time. Default 8.
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
    /// that way. Default no: on a fast link both are equally fast, and a sender that is slow on purpose holds such a fetch up
    /// until its deadline, while Bitswap goes on with others. To be switched on among agents that trust each other, where round
    /// trips are long.
    pub whole_dags: bool,
    /// Peers that send parts of a DAG at a time. Default 4. Memory: six times `group_bytes` each.
    pub max_senders: usize,
    /// A sender of a DAG that sends nothing for this long is left. Default 5 s.
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
            whole_dags: false,
            max_senders: 4,
            stall: Duration::from_secs(5),
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
