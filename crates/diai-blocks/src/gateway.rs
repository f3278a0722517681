//! HTTP trustless gateways.

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
