//! Kubo, the IPFS node in Go.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    Outcome, peers_dir,
    process::{self, Process},
    root,
};

/// How a node takes part in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Routing {
    /// Bitswap with connected peers only.
    None,
    /// The DHT of loopback nodes, `/ipfs/lan/kad/1.0.0`.
    Dht,
}

/// A running node.
#[derive(Debug)]
pub(crate) struct Kubo {
    _process: Process,
    program: PathBuf,
    repository: PathBuf,
    pub(crate) addrs: Vec<String>,
    pub(crate) peer: String,
    /// Where it takes commands over HTTP.
    pub(crate) api: String,
    /// Of the daemon itself.
    pub(crate) pid: u32,
}

/// Builds Kubo, if it is not there yet.
pub(crate) fn install() -> Outcome<PathBuf> {
    let dir = peers_dir().join("kubo");
    process::run(Command::new("sh").arg(root().join("xtask/peers/install-kubo.sh")).arg(&dir))?;
    Ok(dir.join("bin/ipfs"))
}

/// `ipfs ARGS` on the repository at `home`, with or without a daemon.
pub(crate) fn command(program: &Path, home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    // No command of a check may wait for ever for what does not come.
    command.env("IPFS_PATH", home).arg("--timeout=120s").args(args);
    command
}

impl Kubo {
    /// A node with its repository in `home`, on ports from `port` on.
    pub(crate) fn start(program: &Path, home: &Path, port: u16, routing: Routing) -> Outcome<Self> {
        let mut command = Command::new("sh");
        command.arg(root().join("xtask/peers/kubo-node.sh")).arg(home);
        command.args([port, port + 1, port + 2].map(|port| port.to_string())).arg("both");
        command.env("IPFS", program).env("KUBO_PROFILE", "unixfs-v1-2025");
        command.env("KUBO_ROUTING", if routing == Routing::Dht { "dhtserver" } else { "none" });
        let process = Process::spawn("Kubo", &mut command)?;
        let (mut addrs, mut peer, mut api, mut pid) = (Vec::new(), String::new(), String::new(), 0);
        loop {
            let line = process.line()?;
            match line.split_once(' ') {
                Some(("addr", addr)) => addrs.push(addr.to_owned()),
                Some(("peer", id)) => peer = id.to_owned(),
                Some(("api", url)) => api = url.to_owned(),
                Some(("pid", id)) => pid = id.parse()?,
                None if line == "ready" => break,
                _ => {}
            }
        }
        Ok(Self { _process: process, program: program.into(), repository: home.into(), addrs, peer, api, pid })
    }

    fn command(&self, args: &[&str]) -> Command {
        command(&self.program, &self.repository, args)
    }

    /// What `ipfs ARGS` prints.
    pub(crate) fn ipfs(&self, args: &[&str]) -> Outcome<String> {
        Ok(String::from_utf8(process::run(&mut self.command(args))?)?.trim().to_owned())
    }

    /// The same as bytes.
    pub(crate) fn ipfs_bytes(&self, args: &[&str]) -> Outcome<Vec<u8>> {
        process::run(&mut self.command(args))
    }

    /// Begins a command and does not wait for it.
    pub(crate) fn begin(&self, args: &[&str]) -> Outcome<Process> {
        Process::spawn("ipfs", &mut self.command(args))
    }
}
