//! HTTP trustless gateways: asked when no peer has a block, and one of our own, for browsers, Helia's verified-fetch and
//! whoever else speaks HTTP. With the feature `gateway`; both are off until they are configured.
//!
//! Both follow the [Trustless Gateway Specification](https://specs.ipfs.tech/http-gateways/trustless-gateway/): single blocks
//! (`format=raw`) and CAR files (`format=car`) with `dag-scope` and `entity-bytes`, by a path or without; nothing else, and
//! no names (`/ipns/`).
//!
//! **Asking** ([`GatewayClient`]). A gateway is believed nothing: a block is hashed, and must be linked to by one that came
//! before. What came before a fault is kept. Gateways are asked in their order; one that fails or is busy is left alone for a
//! time that doubles, or that it asks for (`Retry-After`, in seconds), and one that sends what is wrong for the longest
//! time. There are no cookies, nothing is sent but the request, nothing compressed is taken, and a redirect leads to the
//! gateway itself or to a name below its own.
//!
//! **Privacy.** A gateway learns the address of whoever asks, the CID, and the time. So gateways come last
//! ([`fetch`](crate::fetch)), and are not asked for what is known to be sealed, nor for workspaces, unless
//! [`ClientConfig::sealed`] says so. That content is sealed is known once its root is here, or when it is fetched to be
//! opened; a root that nobody has is asked for by its CID, whatever it may be.
//!
//! **Serving** ([`GatewayServer`]). Only what is stored here is served, to whoever reaches the address, which is of this
//! machine unless it is configured otherwise; a [`Policy`] says what may be asked for,
//! and [`ServerConfig::rule`] which blocks may be sent: what [`BlocksConfig::serving`](crate::BlocksConfig::serving) denies to
//! strangers is not here over HTTP either. It serves sealed content as it is, to be opened by those
//! who were granted it. A DAG of which a part is missing is sent up to there, and its connection is closed.
//!
//! # Limits
//! | what | limit |
//! |---|---|
//! | bytes of a path and query | [`MAX_TARGET_BYTES`] |
//! | bytes, and lines, of the beginning of a request; of an answer | 16 KiB, 64; 32 KiB, 64 |
//! | connections, answers under way, and the bytes held for them | [`ServerConfig`] |
//! | how slow whoever asks, or answers, may be | [`ServerConfig::stall`], [`ClientConfig::stall`] |
//! | bytes and blocks of a CAR file | [`ServerConfig`], [`ClientConfig`] |
//! | links of a CAR file that wait for their blocks | 1,048,576 |
//! | gateways that are asked | 16 |
//!
//! # Example
//! ```
//! use std::sync::Arc;
//! use diai_blocks::{Block, BlockStore, MemoryStore, RAW};
//! use diai_blocks::gateway::{ClientConfig, GatewayClient, GatewayServer, ServerConfig, Tcp};
//! use diai_core::os::{OsClock, ThreadPool};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let (clock, pool) = (Arc::new(OsClock::new()), Arc::new(ThreadPool::new(2)));
//! let store = BlockStore::new(Arc::new(MemoryStore::new(64 << 20)), pool.clone());
//! let block = Block::new(RAW, &b"a ring of light"[..])?;
//! store.put(block.clone()).await?;
//! let listener = Tcp.listen("127.0.0.1:0".parse()?).await?;
//! let server = GatewayServer::serve(clock.clone(), store, ServerConfig::default(), Box::new(listener));
//!
//! let config = ClientConfig { urls: vec![format!("http://{}", server.addr())], ..ClientConfig::default() };
//! let client = GatewayClient::new(config, Arc::new(Tcp), clock, pool)?;
//! assert_eq!(client.block(block.cid).await?, block);
//! # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
//! ```

mod client;
mod config;
mod error;
mod pace;
mod query;
mod server;
mod sockets;

pub use client::GatewayClient;
pub use config::{ClientConfig, GatewayConfig, Policy, ServerConfig, Verdict};
pub use error::{ConfigError, GatewayError, NoGateway, Reason};
pub use query::{CAR_TYPE, DagScope, EntityBytes, Format, MAX_TARGET_BYTES, Query, QueryError, RAW_TYPE};
pub use server::GatewayServer;
pub use sockets::{Connection, Dial, Listen, Tcp};
