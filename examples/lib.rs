//! What the examples share: logs, scratch folders, and agents on loopback.

pub mod collaborative_prototyping;
pub mod guests;

use std::{io::IsTerminal, path::Path};

use diai::{Agent, AgentBuilder, Preset};
use tracing_subscriber::{EnvFilter, fmt};

/// Sends logs to standard error: warnings, or what `RUST_LOG` says.
pub fn log_to_stderr() {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,libp2p_kad=error,yamux=error"));
    // A second call finds the first one's logger, which is as good.
    let _ = fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .try_init();
}

/// The settings of an agent on loopback, with its data in `folder/name`.
pub fn local_agent(folder: &Path, name: &str) -> AgentBuilder {
    Agent::builder().data_dir(folder.join(name)).preset(Preset::Test)
}

/// The settings of one who knows `contact` and nobody else.
pub fn local_agent_knowing(folder: &Path, name: &str, contact: &Agent) -> AgentBuilder {
    contact.status().addrs.into_iter().fold(local_agent(folder, name), AgentBuilder::contact)
}
