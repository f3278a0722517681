//! IPFS blocks for diAI agents: store, UnixFS, Bitswap, sealed content, workspaces.
//!
//! What this crate promises:
//! - **Same CIDs as everybody else.** Files and folders imported with the profiles `unixfs-v1-2025` and
//!   `unixfs-v0-2015`, or with settings between, get the CIDs that other IPFS implementations give them.
//! - **Nothing flushed is lost.** `put` returns when blocks are readable, `flush` when they are durable; a process
//!   killed at any moment reopens with everything that was flushed.
//! - **Nothing false is served.** Blocks are hashed again when read; a damaged one is set aside, told of, and fetched again
//!   from a peer that has it.
//! - **Nothing kept is collected.** What is pinned, being pinned, imported or fetched stays; a collection runs beside
//!   readers and writers.
//! - **Nothing escapes.** A tree that a stranger made, once exported, never leaves its target folder.
//! - **Any IPFS node is a peer.** Blocks are exchanged by Bitswap 1.2.0; who is likely to have a block is asked alone, so
//!   that nearly nothing comes twice, and who sends anything else than was asked for is cut off.
//! - **A DAG in one request.** Between agents whole DAGs come in one request, or from several senders in one each ([`dag`],
//!   [`config::FetchConfig::whole_dags`]), each block checked as it comes; what is here is not sent, what is cut off goes on
//!   where it was, and what does not come, or too slowly, is fetched by Bitswap.
//! - **What is denied is not there.** A policy may say who fetches what ([`serve`]); whoever may not is answered as if the
//!   block were not here.
//! - **Others' content in its place.** What was fetched and nobody keeps is cached within a budget ([`cache`]): what is asked for often
//!   stays, scans pass through, and it gives way before an import fails. Parts of files are read with the blocks they lie in.
//! - **No gateway is trusted.** With the feature `gateway`, what no peer has is asked for, and checked, at HTTP gateways, if any
//!   are configured; and what is here can be served to browsers.
//! - **Sealed means sealed.** Sealed content and workspaces can be held and carried by anybody and read by those alone
//!   who were granted the key; a CID and one's own key suffice.
//!
//! # Limits
//! | what | limit |
//! |---|---|
//! | bytes of a block | [`MAX_BLOCK_BYTES`] |
//! | bytes of an identity CID's content | [`MAX_IDENTITY_BYTES`] |
//! | links of a block, of dag-pb, dag-cbor or dag-json | [`ipld::MAX_LINKS`] |
//! | bytes of a file's chunk | [`unixfs::MAX_CHUNK_BYTES`] |
//! | depth of a DAG that is read, walked or imported | [`unixfs::MAX_DEPTH`] |
//! | bytes of a store on disk, dead ones and the index log included | [`StoreConfig::quota_bytes`] |
//! | bytes of a pin's name | 256 |
//! | CIDs in a report of a check or repair | 10,000 of each sort |
//! | bytes of a Bitswap message | [`bitswap::MAX_MESSAGE_BYTES`] |
//! | DAGs sent at a time, and what that takes | [`config::DagConfig`] |
//! | wants kept for a peer | [`config::ServerConfig::max_wants_per_peer`] |
//! | batches under way to slow peers while others wait | each 5 s |
//! | keys announced in the DHT of IPFS | [`IpfsDhtConfig::max_keys`] |
//! | bytes received and not yet stored | [`config::ClientConfig::max_received_bytes`], and a fetch's groups |
//! | gateways, their answers, and those of our own | `gateway` |
//! | recipients of sealed content | [`sealed::MAX_GRANTS`] |
//! | blocks that were fetched and nobody keeps | [`config::CacheConfig`], and what guards hold |
//! | blocks fetched ahead of a reader | [`unixfs::PREFETCH`] |
//! | bytes that second requests may have come twice | [`config::ClientConfig::hedge_percent`] of what came |
//! | CIDs that peers were asked for in vain | [`config::ClientConfig::max_denied`], 64 peers each |
//! | members, entries and bytes of a workspace | [`config::WorkspaceConfig`] |
//!
//! # Example
//! ```
//! use std::sync::Arc;
//! use diai_blocks::{BlockStore, MemoryStore, unixfs};
//! use diai_core::os::ThreadPool;
//!
//! # futures::executor::block_on(async {
//! let blocks = BlockStore::new(Arc::new(MemoryStore::new(64 << 20)), Arc::new(ThreadPool::new(2)));
//! let options = unixfs::ImportOptions::default();
//! let imported = unixfs::import_reader(&blocks, b"a ring of light".as_slice(), &options).await?;
//! let back = unixfs::read_all(&blocks, imported.root(), 1 << 20).await?;
//! assert_eq!(back, b"a ring of light");
//! # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
//! ```
//!
//! # Reading order
//! [`Block`], [`Store`] and its [`SegmentStore`], [`BlockStore`] (the async door to a store), [`dag_pb`], [`ipld`],
//! [`unixfs`], [`car`], [`Pins`]; then [`bitswap`], [`dag`], [`fetch`], [`cache`], [`sealed`], [`workspace`], and [`Blocks`], which is all of it behind one handle.

#![allow(clippy::result_large_err, reason = "errors name their CIDs, which have 96 bytes each")]

mod block;
mod block_store;
mod error;
mod pins;
mod progress;
mod source;
mod store;

pub mod bitswap;
pub mod cache;
pub mod car;
pub mod config;
pub mod dag;
pub mod dag_pb;
pub mod fetch;
#[cfg(feature = "gateway")]
pub mod gateway;
pub mod handle;
pub mod ipfs_dht;
pub mod ipld;
pub mod sealed;
pub mod serve;
pub mod unixfs;
pub mod workspace;

pub use block::{Block, DAG_CBOR, DAG_JSON, DAG_PB, MAX_BLOCK_BYTES, MAX_IDENTITY_BYTES, RAW, identity_content};
pub use block_store::{BlockStore, Guard, StoreEvent};
pub use cache::CacheStats;
pub use cid::{Cid, Version as CidVersion};
pub use config::BlocksConfig;
pub use error::{
    BlockError, FlushError, GcError, GetError, OpenCacheError, OpenStoreError, PinError, PutError, RemoveError,
    RepairError, VerifyError,
};
pub use fetch::{FetchError, FetchOptions};
pub use handle::{
    AddCarError, AddError, AddOptions, Added, Blocks, BlocksStatus, CarAdded, ContentError, ExportCarError,
    PinContentError, PinOptions, ProvideEvent, StartError,
};
pub use ipfs_dht::{IpfsDht, IpfsDhtConfig};
pub use pins::{
    Collected, GcProgress, MissingBlock, Pin, PinKind, PinProgress, PinState, Pins, RepairProgress, Repaired, Verified,
    VerifyProgress,
};
pub use progress::ProgressFn;
pub use source::{BlockSource, SourceError};
pub use store::{Checked, DamageFn, MemoryStore, Multihash, SegmentStore, Store, StoreConfig, StoreStats, StoredBlock};
pub use workspace::{Workspace, WorkspaceEvent};
