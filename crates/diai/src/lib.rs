//! An autonomous agent with a network of its own, and no server.
//!
//! An [`Agent`] **discovers** others by what they can do, **communicates** with them directly and end-to-end encrypted,
//! **stores** what they share as IPFS content that only the chosen can read, and **computes** with their help.
//!
//! This crate composes the protocols (`diai-discovery`, `diai-messaging`, `diai-blocks`, `diai-tasks`) over any
//! [`World`]; it is the only place where they meet. With the default feature `libp2p` the World is the real network;
//! without it you bring your own, such as the in-memory one of `diai-core` for tests ([`AgentBuilder::start_in`]).
//!
//! # Example
#![cfg_attr(feature = "libp2p", doc = "```no_run")]
#![cfg_attr(not(feature = "libp2p"), doc = "```ignore")]
//! use std::time::Duration;
//! use diai::{Agent, CallOptions, Calls, FindOptions, StreamExt, TaskSpec, blocks::AddOptions};
//!
//! # async fn run(program: diai::Cid) -> Result<(), Box<dyn std::error::Error>> {
//! let agent = Agent::builder()
//!     .data_dir("./alice")
//!     .contact("/ip4/192.0.2.7/tcp/4001".parse()?) // somebody who is in the network already; leave it out on a LAN
//!     .capability("modeling/3d/jewelry")
//!     .service("greet", |request| async move { Ok(request.body.into()) })
//!     .serve_tasks(true) // runs WASM programs of any agent that can reach this one; see Policy::Allow
//!     .start()
//!     .await?;
//!
//! let mut analysts = agent.discovery().find(&"market/analysis".parse()?, FindOptions::within(Duration::from_secs(2)));
//! while let Some(found) = analysts.next().await {
//!     println!("{} offers {:?}", found.agent(), found.record.record().capabilities);
//!     let options = CallOptions::within(Duration::from_secs(5));
//!     let reply = agent.messaging().call(found.agent(), "greet", "hello".into(), options).await?;
//!     println!("it says {reply:?}");
//!     // Encrypted for it and this agent; whoever else fetches it can read nothing.
//!     let options = AddOptions::sealed_for(vec![found.record.certificate().clone()]);
//!     println!("shared as {}", agent.blocks().add_bytes("an idea", options).await?.cid);
//! }
//! let result = agent.tasks().run(TaskSpec::wasm(program).arg("--fast")).result().await?;
//! agent.shutdown().await;
//! # Ok(()) }
//! ```
//!
//! A deadline of content is a moment of the agent's clock: `agent.world().clock.now() + Duration::from_secs(60)`.
//!
//! # Reading order
//! [`Agent`] and [`AgentBuilder`], then the protocol crates, re-exported whole as [`discovery`], [`messaging`],
//! [`blocks`], [`tasks`], [`identity`] and [`core`](mod@core).

mod agent;
mod builder;
mod error;
mod event;
mod ports;
#[cfg(feature = "libp2p")]
mod preset;

pub use agent::{Agent, Status};
pub use builder::AgentBuilder;
pub use error::StartError;
pub use event::{Event, Events};
#[cfg(feature = "libp2p")]
pub use preset::Preset;

pub use diai_blocks as blocks;
pub use diai_core as core;
pub use diai_discovery as discovery;
pub use diai_identity as identity;
pub use diai_messaging as messaging;
#[cfg(feature = "libp2p")]
pub use diai_net as net;
pub use diai_tasks as tasks;

pub use diai_blocks::Blocks;
pub use diai_core::{
    AgentId, Bytes, CallError, CallOptions, Calls, Cid, Multiaddr, PeerId, Refusal, Reply, Request, World,
};
pub use diai_discovery::{CapabilityPath, Discovery, FindOptions};
pub use diai_identity::Identity;
pub use diai_messaging::Messaging;
pub use diai_tasks::{TaskSpec, Tasks};
pub use futures::StreamExt;
