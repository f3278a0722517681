//! The World of an agent, made of libp2p: streams to other devices, and a DHT.
//!
//! [`Net::start`] makes a whole node: TCP (TLS or Noise, Yamux) and QUIC, DNS, identify, ping, multicast DNS if wanted,
//! connection limits. [`Behaviour`] is diAI's part alone, for a libp2p swarm that is yours.
//!
//! # Promise
//! * No byte of a stream passes the swarm's task: `open` and `accept` hand out the negotiated stream itself.
//! * No stream of a `/diai/` protocol is handed out, and no agent named, before both sides showed a valid certificate for
//!   the device that the transport proved (`/diai/hello/1`). Devices without one, such as other IPFS nodes, can be
//!   spoken to by standard protocols only.
//! * Who is stalled or refused costs itself alone: each acceptor has a queue of its own, and a stream too many is reset.
//! * What a peer sends is bounded and verified; who misbehaves is cut off for a while. Connections leave nothing behind.
//! * The DHT holds only records that the validator of their namespace accepted; of two the newer; they survive a
//!   restart.
//!
//! # Limits
//! All are in [`Config`]; the defaults:
//!
//! | what | limit |
//! |---|---|
//! | connections | 400, of them incoming 300, of one host 64, of one peer 4 |
//! | streams opened to one peer | 256 |
//! | streams of one peer, per acceptor | `AcceptOptions::max_per_peer` |
//! | time to open a stream, to say hello | 10 s each |
//! | time to make a connection, handshake included | twice `Config::handshake_timeout` |
//! | buffers of a TCP connection | 64 KiB to read, 16 KiB to write |
//! | what a stream over TCP holds for a slow reader | 256 KiB, and 768 KiB more for all of a connection |
//! | addresses remembered | 8 of each of 1,024 peers |
//! | DHT packet | 64 KiB |
//! | records held | 16,384, 16 MiB, each 8 KiB |
//! | providers held | 1,000 for a key, 131,072 in all; an answer names 20, the next answer others |
//!
//! # Example
//! ```
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use diai_core::{Clock, os::{FsDisk, OsClock, OsEntropy, ThreadPool}};
//! use diai_identity::Identity;
//! use diai_net::{Config, Net, Parts};
//!
//! let clock = Arc::new(OsClock::new());
//! let parts = Parts {
//!     clock: clock.clone(),
//!     entropy: Arc::new(OsEntropy),
//!     disk: Arc::new(FsDisk::open("./alice")?),
//!     offload: Arc::new(ThreadPool::new(2)),
//! };
//! let identity = Identity::generate(&OsEntropy, clock.wall());
//! let net = Net::start(identity, parts, Config::lan()).await?;
//! println!("dial me at {:?}", net.world().network.local_addrs());
//! net.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Reading order
//! [`Net`], [`Behaviour`], [`Config`]; then `hello.rs`, `streams/` (`handler.rs` first) and `kad/` (`driver.rs` first).

mod address_book;
mod behaviour;
mod cause;
mod config;
mod error;
#[cfg(feature = "__fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod hello;
mod kad;
mod net;
mod penalties;
mod streams;
mod transport;

pub use behaviour::{Behaviour, Event, Parts};
pub use config::{Config, DhtConfig, Limits};
pub use error::{Crowded, CutOff, StartError};
pub use net::Net;
