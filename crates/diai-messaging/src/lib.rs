//! How diAI agents talk: one session per pair of devices, many requests in flight on it, and negotiation on top.
//!
//! # Promise
//! [`Messaging`] implements [`diai_core::Calls`] over any [`diai_core::Network`]: requests with whole or streaming answers,
//! one-way messages that are acknowledged when their handler has returned, deadlines that travel, cancels, typed refusals,
//! priorities, and back-pressure by credit. A request runs at most once, unless its caller says that it is idempotent; when
//! a session breaks, the caller learns whether it was sent. A session is encrypted by the transport and bound to the
//! agents of both ends by their certificates.
//!
//! [`negotiation`] is a contract net over it that ends in an agreement signed by both sides; [`sealed`] is for payloads
//! that pass a third party.
//!
//! # Limits
//! | what | limit | where |
//! |---|---|---|
//! | request, answer, part | 16 MiB | [`Config::max_message_bytes`] |
//! | open requests of one peer | 256, further ones are refused as busy | [`Config::max_requests`] |
//! | open calls to one peer | 4,096, further ones fail at once | [`Config::max_calls`] |
//! | bodies over 64 KiB, unfinished | 32 MiB each way | [`Config::request_window_bytes`], [`Config::reply_window_bytes`] |
//! | parts not taken, per streaming answer | 256 KiB and one part | [`Config::stream_window_bytes`] |
//! | sessions | 1,024 | [`Config::max_sessions`] |
//!
//! Strict priorities: a higher one goes first as long as it has something to send. Handlers run in the session's task; one
//! that computes for long holds up its session and belongs on [`diai_core::Offload`].
//!
//! # Example
//! ```
//! use std::sync::Arc;
//!
//! use diai_core::{Bytes, CallOptions, Calls, Reply, World, memory::{AgentSpec, Sim}, service_fn};
//! use diai_identity::Identity;
//! use diai_messaging::{Config, Messaging, NoLocate};
//!
//! fn join(sim: &Sim) -> (World, Identity) {
//!     let identity = Identity::generate(&diai_core::os::OsEntropy, diai_core::WallTime::from_unix_ms(0));
//!     let (agent, peer) = (identity.agent(), identity.peer());
//!     (sim.join(AgentSpec { agent, peer, certificate: identity.certificate().to_bytes() }), identity)
//! }
//!
//! let sim = Sim::new(1);
//! let ((here, alice), (there, bob)) = (join(&sim), join(&sim));
//! let answer = sim.run(async move {
//!     let server = Messaging::start(&there, &bob, Arc::new(NoLocate), Config::default())?;
//!     let echo = service_fn(|request| async move { Ok(Reply::from(request.body)) });
//!     let _registration = server.register("echo", echo)?;
//!
//!     let client = Messaging::start(&here, &alice, Arc::new(NoLocate), Config::default())?;
//!     here.network.connect(bob.peer(), vec![]).await?;
//!     let answer = client.call(bob.agent(), "echo", Bytes::from("hello"), CallOptions::default()).await?;
//!     client.shutdown().await;
//!     Ok::<_, Box<dyn std::error::Error>>(answer)
//! })?;
//! assert_eq!(answer, "hello");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Reading order
//! [`message`] (what travels), [`codec`], [`machine::Session`] (one side of a session without IO), the private `shell` (its
//! task), `hub` (which session a call takes), [`Messaging`] (the handle).

pub mod codec;
mod config;
mod error;
mod handle;
mod hub;
mod inbox;
pub mod machine;
pub mod message;
mod metrics;
pub mod negotiation;
pub mod sealed;
mod shell;

pub use config::{AllCertified, Config, Policy};
pub use error::StartError;
pub use handle::Messaging;
pub use hub::{Device, Locate, NoLocate};
pub use metrics::Status;
