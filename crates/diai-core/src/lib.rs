//! What every part of a diAI agent stands on: ids, framing, bounded decoding, and the [`World`].
//!
//! All that an agent can learn or do outside itself comes through the six traits of a [`World`]:
//! [`Network`], [`Dht`], [`Clock`], [`Entropy`], [`Disk`] and [`Offload`]. `diai-net` makes a World of libp2p;
//! [`memory`] (feature `memory`) makes one of a seed, so that a whole agent runs in a test under virtual time.
//!
//! Protocol crates never depend on each other. What one needs of another is a small port: [`Calls`] here, the
//! others in the crate that needs them.
//!
//! # Reading order
//! [`AgentId`] and [`PeerId`] (who), [`World`] and its traits (where), [`Calls`] (how agents talk),
//! [`frame`] and [`bounded`] (how bytes become messages), [`Footprint`] (what it costs to hold them).
//!
//! # Limits
//! | what | limit |
//! |---|---|
//! | frame length prefix | 5 bytes, and the `max_bytes` that the reader passes |
//! | nesting of a decoded message | [`bounded::MAX_DEPTH`] |
//! | unknown fields in a decoded message | [`bounded::MAX_UNKNOWN_FIELDS`] |
//!
//! # Example
//! ```
//! use diai_core::AgentId;
//!
//! let id: AgentId = "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp".parse()?;
//! assert_eq!(id.to_string(), "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp");
//! # Ok::<(), diai_core::ParseAgentIdError>(())
//! ```

mod agent_id;
mod footprint;
mod time;

pub mod bounded;
pub mod frame;

mod calls;
mod clock;
mod dht;
mod disk;
mod entropy;
mod network;
mod offload;
mod world;

#[cfg(feature = "redb")]
pub mod database;
#[cfg(feature = "memory")]
pub mod memory;
#[cfg(feature = "os")]
pub mod os;

pub use agent_id::{AgentId, ParseAgentIdError};
pub use bytes::Bytes;
pub use calls::{
    CallError, CallOptions, Calls, Priority, Refusal, RegisterError, Registration, Reply, ReplyStream, Request,
    Service, service_fn,
};
pub use cid::Cid;
pub use clock::{Clock, Elapsed, timeout_at};
pub use dht::{Dht, DhtError, InvalidRecord, ProviderStream, RecordKey, RecordMeta, RecordValidator};
pub use disk::{Disk, DiskFile, DiskLock, Entry, EntryKind, FileAttributes, FileTime, OpenMode, write_atomically};
pub use entropy::Entropy;
pub use footprint::Footprint;
pub use libp2p_identity::PeerId;
pub use multiaddr::Multiaddr;
pub use network::{
    AcceptError, AcceptOptions, BoxStream, ByteStream, Inbound, Incoming, Misbehaviour, Network, OpenError, Opened,
    PeerEvent, PeerEvents, PeerInfo, ProtocolId,
};
pub use offload::{Offload, OffloadError, offload};
pub use time::{Instant, WallTime};
pub use world::World;

/// A boxed future that can move between threads: what the object-safe traits of the World return.
pub type BoxFuture<'a, T> = futures::future::BoxFuture<'a, T>;
