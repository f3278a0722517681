use std::{net::SocketAddr, path::PathBuf};

use clap::{Parser, ValueEnum};
use diai::{CapabilityPath, Multiaddr, blocks::config::ProvideStrategy};

/// A diAI agent, driven by commands on standard input (`help` lists them).
#[derive(Debug, Parser)]
#[command(
    name = "agent",
    version,
    after_help = "The key file's passphrase comes from DIAI_PASSPHRASE, or from a prompt on a terminal."
)]
pub(crate) struct Args {
    /// The folder of the agent's keys, blocks and records
    #[arg(long, value_name = "DIR", default_value = "./diai-agent")]
    pub(crate) data_dir: PathBuf,
    /// An address to listen on, such as /ip4/0.0.0.0/tcp/4001 (repeatable; default: any port, TCP and QUIC)
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Vec<Multiaddr>,
    /// An agent that is in the network already (repeatable)
    #[arg(long, value_name = "ADDR")]
    pub(crate) peer: Vec<Multiaddr>,
    /// Something this agent can do, such as modeling/3d/jewelry (repeatable)
    #[arg(long, value_name = "PATH")]
    pub(crate) capability: Vec<CapabilityPath>,
    /// Whether to run WASM programs of any agent that can reach this one, sandboxed and within limits
    #[arg(long, value_enum, default_value = "on")]
    pub(crate) serve_tasks: Switch,
    /// Whether to find peers of the local network by multicast DNS
    #[arg(long, value_enum, default_value = "on")]
    pub(crate) mdns: Switch,
    /// Whether to announce and look for content in the DHT of IPFS too, where Kubo does; reached through any IPFS node
    /// named by --peer
    #[arg(long, value_enum, default_value = "off")]
    pub(crate) ipfs_dht: Switch,
    /// Whether to ask agents for whole DAGs in one request, and for single blocks only what does not come that way
    #[arg(long, value_enum, default_value = "on")]
    pub(crate) whole_dags: Switch,
    /// What is announced there: the roots of pins, every block below them, or every block
    #[arg(long, value_enum, default_value = "roots")]
    pub(crate) provide: Provide,
    /// An HTTP trustless gateway that is asked for what no peer has, such as https://trustless-gateway.link; it learns what
    /// is asked for (repeatable)
    #[arg(long, value_name = "URL")]
    pub(crate) gateway: Vec<String>,
    /// Serve all that is stored here over HTTP, as a trustless gateway, to whoever reaches this address, such as 127.0.0.1:8080
    #[arg(long, value_name = "ADDR")]
    pub(crate) serve_gateway: Option<SocketAddr>,
    /// Print JSON, one object per line: answers to commands in order, and events
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    On,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Provide {
    Roots,
    Pinned,
    All,
}

impl From<Provide> for ProvideStrategy {
    fn from(provide: Provide) -> Self {
        match provide {
            Provide::Roots => Self::Roots,
            Provide::Pinned => Self::Pinned,
            Provide::All => Self::All,
        }
    }
}
